package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"loopmq"
	"loopmq/auth"
)

// passwd runs the command with text on standard input.
func passwd(t *testing.T, stdin *os.File, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	code = runPasswd(t.Context(), args, stdin, &o, &e)
	return code, o.String(), e.String()
}

// piped is a standard input with some text.
func piped(t *testing.T, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return r
}

// terminal is a terminal, and what is at its other end.
func terminal(t *testing.T) (tty, keyboard *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty, keyboard
}

// knows reports whether a file lets a user in.
func knows(t *testing.T, path, user, password string) bool {
	t.Helper()
	f, err := auth.OpenPasswordFile(path, auth.PasswordOptions{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := f.Authenticate(t.Context(), &loopmq.ConnectRequest{HasUsername: true, Username: user, Password: []byte(password)})
	return err == nil && res.Decision == auth.Accept
}

func TestPasswd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "passwd")
	if code, _, stderr := passwd(t, piped(t, "x"), "--password-stdin", path, "a"); code != exitFailed || !strings.Contains(stderr, "--create makes it") {
		t.Errorf("without the file: %d %s", code, stderr)
	}
	for i, scheme := range []string{"argon2id", "bcrypt", "pbkdf2", "scram-sha-256"} {
		user := fmt.Sprint("user", i)
		code, stdout, stderr := passwd(t, piped(t, "pass word\r\nnot this"), "--password-stdin", path, "--hash", scheme, user, "--create")
		if code != exitOK || stdout+stderr != "" {
			t.Fatalf("%s: %d %s%s", scheme, code, stdout, stderr)
		}
		if !knows(t, path, user, "pass word") || knows(t, path, user, "pass word\r") {
			t.Errorf("%s: the password is another", scheme)
		}
	}
	if code, _, stderr := passwd(t, nil, "-D", path, "user1"); code != exitOK || knows(t, path, "user1", "pass word") || !knows(t, path, "user2", "pass word") {
		t.Errorf("-D: %d %s", code, stderr)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "allowed: loopmq passwd [flags] FILE USER"},
		{[]string{path}, exitUsage, "allowed: loopmq passwd [flags] FILE USER"},
		{[]string{path, "a", "topsecret"}, exitUsage, "--password-stdin"},
		{[]string{path, "a", "--hash", "md5"}, exitUsage, `--hash "md5": allowed: argon2id, bcrypt, pbkdf2, scram-sha-256`},
		{[]string{path, "a", "--nonsense"}, exitUsage, "nonsense"},
		{[]string{"--delete", "--create", path, "a"}, exitUsage, "allowed: neither"},
		{[]string{path, "--delete", "nobody"}, exitFailed, `user "nobody": no such user`},
		{[]string{"--password-stdin", path, "a"}, exitFailed, "the password is empty"},
		{[]string{"--password-stdin", path, "a:b"}, exitFailed, "the password is empty"},
		{[]string{path, "a"}, exitFailed, "not a terminal: allowed: --password-stdin"},
	} {
		code, _, stderr := passwd(t, piped(t, ""), test.args...)
		if code != test.code || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "topsecret") {
			t.Errorf("%q: %d %s", test.args, code, stderr)
		}
	}
	for _, args := range [][]string{{"--help"}, {path, "-h"}} {
		if code, stdout, _ := passwd(t, nil, args...); code != exitOK || stdout != passwdUsage {
			t.Errorf("%q: %d %s", args, code, stdout)
		}
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"help", "passwd"}, &out, io.Discard); code != exitOK || out.String() != passwdUsage {
		t.Errorf("loopmq help passwd: %d %s", code, out.String())
	}
}

// At a terminal it asks twice, and shows nothing of what is typed.
func TestPasswdAsks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		second string
		code   int
	}{{"typed", exitOK}, {"mistyped", exitFailed}} {
		path := filepath.Join(t.TempDir(), "passwd")
		tty, keyboard := terminal(t)
		prompts, w := io.Pipe()
		done := make(chan int, 1)
		go func() {
			done <- runPasswd(t.Context(), []string{"--create", path, "a"}, tty, io.Discard, w)
			_ = w.Close()
		}()
		buf := make([]byte, 256)
		for _, text := range []string{"typed", test.second} {
			if _, err := prompts.Read(buf); err != nil {
				t.Fatal(err)
			}
			for !hidden(t, tty) { // What is typed before would be shown.
				continue
			}
			if _, err := keyboard.WriteString(text + "\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := prompts.Read(buf); err != nil { // the newline
				t.Fatal(err)
			}
		}
		rest, _ := io.ReadAll(prompts)
		if code := <-done; code != test.code {
			t.Errorf("%d: %s", code, rest)
		}
		if test.code == exitOK && !knows(t, path, "a", "typed") {
			t.Error("the password is another")
		}
		if test.code != exitOK && !strings.Contains(string(rest), "not the same") {
			t.Errorf("%s", rest)
		}
		shown := make([]byte, 256)
		fd := int(keyboard.Fd()) // once: it would block again
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		if n, _ := unix.Read(fd, shown); n > 0 && strings.Contains(string(shown[:n]), "typed") {
			t.Errorf("the terminal shows %q", shown[:n])
		}
	}
}

// hidden reports whether a terminal shows nothing of what is typed.
func hidden(t *testing.T, tty *os.File) bool {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s.Lflag&unix.ECHO == 0
}

// Ctrl-C leaves a terminal that shows again what is typed.
func TestPasswdInterrupted(t *testing.T) {
	t.Parallel()
	tty, _ := terminal(t)
	prompts, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- runPasswd(ctx, []string{"--create", filepath.Join(t.TempDir(), "passwd"), "a"}, tty, io.Discard, w)
		_ = w.Close()
	}()
	if _, err := prompts.Read(make([]byte, 256)); err != nil {
		t.Fatal(err)
	}
	for !hidden(t, tty) {
		continue
	}
	cancel()
	_, _ = io.ReadAll(prompts)
	if code := <-done; code != exitInterrupted || hidden(t, tty) {
		t.Errorf("exit code %d, hidden %v", code, hidden(t, tty))
	}
}
