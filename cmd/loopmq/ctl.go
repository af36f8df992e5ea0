package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	httpbridge "loopmq/bridges/http"
)

const ctlUsage = `Look at and change what brokers have, by the API of their admin listener. It shows all nodes
that share a store, whichever of them is asked.

Usage:
  loopmq ctl [flags] COMMAND

Commands:
  clients                  connected clients
  client CLIENT_ID         one of them, or a session that is offline
  kick CLIENT_ID...        end connections
  subscriptions [CLIENT_ID]
                           subscriptions, of all clients or of one
  sessions                 sessions that outlive their connections
  sessions show CLIENT_ID  one of them
  sessions delete CLIENT_ID...
                           end sessions, and the connections that have them
  retained [TOPIC_FILTER]  retained messages
  retained show TOPIC      one of them, with its payload
  retained delete TOPIC...
                           delete them
  bans                     who is kept out
  bans add KIND VALUE      keep out a client_id, a username, or an address or network (address)
  bans remove KIND VALUE   no longer
  nodes                    nodes
  drain NODE               have a node send its clients elsewhere and take no others
  undrain NODE             have it take clients again
  counters                 counters of all nodes together
  webhooks                 endpoints of webhooks; loopmq ctl webhooks --help has its commands
  token NAME               make a token for the API, and print it with the line for admin.token_file

Flags:
  --url URL          the broker's admin listener: http://HOST:PORT, https://HOST:PORT or
                     unix:PATH (default http://127.0.0.1:8081)
  --token-file FILE  a file with a token, or - for standard input
  --token TOKEN      the token; others on this machine can see it in the list of processes
  --ca FILE          authorities of the broker's certificate, PEM (default: those of the system)
  --cert FILE        a client certificate, PEM
  --key FILE         its key
  --json             print JSON, an element a line, instead of tables

  --prefix TEXT      clients, sessions, subscriptions: ClientIDs that begin so
  --contains TEXT    clients, sessions: ClientIDs that contain this
  --username NAME    clients, sessions: of a user
  --address NETWORK  clients, sessions: from an address or network
  --node NODE        clients, sessions, counters: of a node
  --connected BOOL   sessions: whose client is connected, or is not
  --filter FILTER    subscriptions: with this Topic Filter
  --topic TOPIC      subscriptions: that match a topic
  --for DURATION     bans add: until then, such as 24h
  --reason TEXT      bans add, webhooks disable: why
  --wait DURATION    drain: how long to go on while /readyz fails already
  --rate N           drain: clients to disconnect per second; 0 means all at once
  --server-reference REF
                     drain: where 5.0 clients are told to go. Without any of these three the
                     node's own configuration says how
  --all              webhooks replay, drop: all dead letters
  --role ROLE        token: read or write (default read)

Variables LOOPMQ_CTL_URL, LOOPMQ_CTL_TOKEN, LOOPMQ_CTL_TOKEN_FILE, LOOPMQ_CTL_CA, LOOPMQ_CTL_CERT and
LOOPMQ_CTL_KEY stand for the flags of these names.

Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 3 what it is about isn't there;
4 not allowed with this token or certificate.
`

const webhooksUsage = `Look at endpoints of webhooks and their dead letters, and change them.

Usage:
  loopmq webhooks [flags] COMMAND

Commands:
  list                  how all endpoints fare
  show NAME             how one does
  show NAME ID          a dead letter, with its event
  dead NAME             its dead letters
  replay NAME ID...     put dead letters into the outbox again; --all: all of them
  drop NAME ID...       delete dead letters; --all: all of them
  enable NAME           send to it again, after it answered 410 or was disabled
  disable NAME          send nothing to it for now; --reason TEXT says why
  forget NAME           delete the outbox of an endpoint that no node has any more

loopmq ctl webhooks is the same. Flags, variables and exit codes are those of loopmq ctl.
`

// The exit codes of ctl beside the usual ones.
const (
	exitNotFound   = 3
	exitNotAllowed = 4
)

// ctl is one call of the command ctl.
type ctl struct {
	api    *apiClient
	words  []string // the command and its arguments
	json   bool
	given  map[string]string // flags that are about the command
	used   map[string]bool   // of given
	stdout io.Writer
	stderr io.Writer
}

// errUsage is why a command line is wrong.
type errUsage struct{ text string }

func (e errUsage) Error() string { return e.text }

func usagef(format string, a ...any) error { return errUsage{fmt.Sprintf(format, a...)} }

// ctlFlags are the flags that are about a command, and whether they have a value.
var ctlFlags = map[string]bool{
	"prefix": true, "contains": true, "username": true, "address": true, "node": true, "connected": true, "filter": true, "topic": true,
	"for": true, "reason": true, "wait": true, "rate": true, "server-reference": true, "all": false, "role": true,
}

// runCtl is the command ctl; with webhooks it is the command of that name.
func runCtl(ctx context.Context, name string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	usage := ctlUsage
	if name == "webhooks" {
		usage, args = webhooksUsage, append([]string{"webhooks"}, args...)
	}
	c := &ctl{given: map[string]string{}, used: map[string]bool{}, stdout: stdout, stderr: stderr}
	target, err := c.parse(args)
	if errors.Is(err, flag.ErrHelp) {
		if len(c.words) > 0 && c.words[0] == "webhooks" {
			usage = webhooksUsage
		}
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	if err == nil && len(c.words) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	if err == nil {
		err = c.run(ctx, target, stdin)
	}
	var wrong errUsage
	var status *statusError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "loopmq: %s: %s\n", name, wrong.text)
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "loopmq: %s: %s\n", name, printable(oneLine(err)))
	if errors.As(err, &status) {
		switch status.code {
		case http.StatusNotFound:
			return exitNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			return exitNotAllowed
		}
	}
	return exitFailed
}

// parse reads a command line, in which flags may stand anywhere.
func (c *ctl) parse(args []string) (t target, err error) {
	t = target{
		url: os.Getenv("LOOPMQ_CTL_URL"), token: os.Getenv("LOOPMQ_CTL_TOKEN"), tokenFile: os.Getenv("LOOPMQ_CTL_TOKEN_FILE"),
		ca: os.Getenv("LOOPMQ_CTL_CA"), cert: os.Getenv("LOOPMQ_CTL_CERT"), key: os.Getenv("LOOPMQ_CTL_KEY"),
	}
	flags := flag.NewFlagSet("ctl", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&t.url, "url", t.url, "")
	flags.Func("token", "", func(s string) error { t.token, t.tokenFile = s, ""; return nil })
	flags.Func("token-file", "", func(s string) error { t.token, t.tokenFile = "", s; return nil })
	flags.StringVar(&t.ca, "ca", t.ca, "")
	flags.StringVar(&t.cert, "cert", t.cert, "")
	flags.StringVar(&t.key, "key", t.key, "")
	flags.BoolVar(&c.json, "json", false, "")
	for name, hasValue := range ctlFlags {
		set := func(value string) error { c.given[name] = value; return nil }
		if hasValue {
			flags.Func(name, "", set)
		} else {
			flags.BoolFunc(name, "", set)
		}
	}
	for rest := args; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return t, err
			}
			return t, usagef("%v, see loopmq ctl --help", err)
		}
		before := len(rest)
		if rest = flags.Args(); len(rest) > 0 {
			if before > len(rest) && args[len(args)-len(rest)-1] == "--" { // What follows may begin with a dash.
				c.words = append(c.words, rest...)
				break
			}
			c.words, rest = append(c.words, rest[0]), rest[1:]
		}
	}
	return t, nil
}

// flag returns what a flag was given, and notes that the command knows it.
func (c *ctl) flag(name string) string {
	c.used[name] = true
	return c.given[name]
}

// query returns parameters for flags that were given, as pairs of flag and parameter.
func (c *ctl) query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if v := c.flag(pairs[i]); v != "" {
			q.Set(pairs[i+1], v)
		}
	}
	return q
}

// run executes the command.
func (c *ctl) run(ctx context.Context, t target, stdin io.Reader) error {
	if c.words[0] == "token" {
		return c.makeToken(c.words[1:])
	}
	do, err := c.command(c.words)
	if err != nil {
		return err
	}
	for name := range c.given {
		if !c.used[name] {
			return usagef("--%s: %s has no such flag, see loopmq ctl --help", name, c.words[0])
		}
	}
	if c.api, err = t.connect(stdin); err != nil {
		return err
	}
	defer c.api.close()
	return do(ctx)
}

// each returns what does something to each of some names, of which there has to be one.
func each(what string, names []string, do func(ctx context.Context, name string) error) (func(context.Context) error, error) {
	if len(names) == 0 || slices.Contains(names, "") {
		return nil, usagef("allowed: %s", what)
	}
	return func(ctx context.Context) error {
		var failed []error
		for _, name := range names {
			failed = append(failed, do(ctx, name))
		}
		return errors.Join(failed...)
	}, nil
}

// makeToken prints a new token, and what the broker has to know of it.
func (c *ctl) makeToken(words []string) error {
	role := httpbridge.RoleRead
	switch c.flag("role") {
	case "", "read":
	case "write":
		role = httpbridge.RoleWrite
	default:
		return usagef("--role %q: allowed: read, write", c.flag("role"))
	}
	if len(words) != 1 {
		return usagef("allowed: token NAME")
	}
	secret, token := httpbridge.NewToken(words[0], role)
	if _, err := httpbridge.ParseToken(token.String()); err != nil {
		return usagef("token %q: allowed: a name without blanks", words[0])
	}
	if c.json {
		return c.print(map[string]string{"token": secret, "name": token.Name, "role": role.String(), "sha256": fmt.Sprintf("%x", token.SHA256)})
	}
	fmt.Fprintf(c.stderr, "The token, which nobody can show again, and the line for the file of admin.token_file:\n")
	_, err := fmt.Fprintf(c.stdout, "%s\n%s\n", secret, token)
	return err
}

// table writes rows under titles, and aligns what it has at each flush.
func (c *ctl) table(titles ...string) *tabwriter.Writer {
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(titles, "\t")))
	return w
}
