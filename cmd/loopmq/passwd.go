package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"loopmq/auth"
)

const passwdUsage = `Set or delete the password of a user in a password file.

Usage:
  loopmq passwd [flags] FILE USER

Flags:
  --password-stdin  read the password from standard input, up to the end of its first
                    line, instead of asking for it
  --hash SCHEME     how to keep the password: argon2id, bcrypt, pbkdf2 (which mosquitto
                    reads, too) or scram-sha-256 (for clients that prove that they know the
                    password instead of sending it; others can use it as well) (default
                    argon2id)
  --create          make FILE if it isn't there
  -D, --delete      delete USER

Asks for the password twice. Other lines of FILE, and comments, stay as they are; FILE is
replaced at once, and only its owner can read it. A broker reads it again on SIGHUP.
`

// passwordMax is what a CONNECT can hold.
const passwordMax = 65535

// passwdCommand is what passwd was asked to do.
type passwdCommand struct {
	file, user            string
	scheme                auth.Scheme
	stdin, create, delete bool
}

// runPasswd is the command passwd.
func runPasswd(ctx context.Context, args []string, stdin *os.File, stdout, stderr io.Writer) int {
	c, err := parsePasswd(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, passwdUsage)
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "loopmq: passwd: %s\n", err)
		return exitUsage
	}
	switch err := c.run(ctx, stdin, stderr); {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(stderr, "loopmq: passwd: %s\n", oneLine(err))
		return exitFailed
	}
	return exitOK
}

// parsePasswd reads a command line, in which flags may stand anywhere.
func parsePasswd(args []string) (c passwdCommand, err error) {
	flags := flag.NewFlagSet("passwd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	scheme := flags.String("hash", string(auth.Schemes[0]), "")
	flags.BoolVar(&c.stdin, "password-stdin", false, "")
	flags.BoolVar(&c.create, "create", false, "")
	flags.BoolVar(&c.delete, "delete", false, "")
	flags.BoolVar(&c.delete, "D", false, "")
	var words []string
	for rest := args; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			return c, err
		}
		if rest = flags.Args(); len(rest) > 0 {
			words, rest = append(words, rest[0]), rest[1:]
		}
	}
	c.scheme = auth.Scheme(*scheme)
	switch {
	case len(words) < 2:
		return c, errors.New("allowed: loopmq passwd [flags] FILE USER, see loopmq passwd --help")
	case len(words) > 2: // perhaps a password, so it isn't repeated
		return c, errors.New("a third argument: allowed: FILE and USER; the password is asked for, or read with --password-stdin")
	case !slices.Contains(auth.Schemes, c.scheme):
		return c, fmt.Errorf("--hash %q: allowed: argon2id, bcrypt, pbkdf2, scram-sha-256", *scheme)
	case c.delete && (c.create || c.stdin):
		return c, errors.New("--delete: allowed: neither --create nor --password-stdin with it")
	}
	c.file, c.user = words[0], words[1]
	return c, nil
}

// run does it.
func (c *passwdCommand) run(ctx context.Context, stdin *os.File, stderr io.Writer) error {
	if c.delete {
		return auth.DeletePassword(c.file, c.user)
	}
	if _, err := os.Stat(c.file); !c.create && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: --create makes it", err) // before somebody thinks of a password
	}
	password, err := c.password(ctx, stdin, stderr)
	if err != nil {
		return err
	}
	hash, err := auth.HashPassword(c.scheme, password)
	if err != nil {
		return err
	}
	return auth.SetPassword(c.file, c.user, hash, c.create)
}

// password reads the password.
func (c *passwdCommand) password(ctx context.Context, stdin *os.File, stderr io.Writer) (string, error) {
	if c.stdin {
		line, err := bufio.NewReader(io.LimitReader(stdin, passwordMax+2)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	if !term.IsTerminal(int(stdin.Fd())) {
		return "", errors.New("standard input is not a terminal: allowed: --password-stdin, to read the password from it")
	}
	password, err := ask(ctx, stdin, stderr, "Password: ")
	if err != nil {
		return "", err
	}
	again, err := ask(ctx, stdin, stderr, "Again: ")
	if err == nil && again != password {
		err = errors.New("the passwords are not the same")
	}
	return password, err
}

// ask reads a line from a terminal that doesn't show it, and shows what is typed
// again, also if ctx ends.
func ask(ctx context.Context, terminal *os.File, stderr io.Writer, prompt string) (string, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(stderr, prompt)
	defer fmt.Fprintln(stderr)
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() { // ends with the process, if nothing is typed
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return string(l.text), l.err
	case <-ctx.Done():
		_ = term.Restore(fd, before)
		return "", ctx.Err()
	}
}
