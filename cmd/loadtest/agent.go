package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"loopmq/loadtest"
	"loopmq/loadtest/agents"
)

// tokenVariable names the environment variable with the token of agents.
const tokenVariable = "LOADTEST_TOKEN"

const agentUsage = `usage: loadtest agent [--listen HOST:PORT] [--token-file FILE]

Waits for runs with --agents, one at a time, and plays a share of their clients. Whoever runs a scenario here has to know the token: that of
the file, or of the variable LOADTEST_TOKEN, or one that is made up and printed. It isn't sent; but scenarios are, with the passwords of their
clients, and aren't encrypted: addresses beyond this machine are for networks that you trust.

  --listen HOST:PORT  where to listen (default 127.0.0.1:9000)
  --token-file FILE   what has the token
`

// runAgent is loadtest agent.
func runAgent(ctx context.Context, args []string, _, stderr io.Writer) error {
	flags := newFlags("loadtest agent")
	address := flags.String("listen", "127.0.0.1:9000", "")
	tokenFile := flags.String("token-file", "", "")
	pipe := flags.Bool("pipe", false, "") // a process of loadtest run --processes
	rest, err := parse(flags, args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return wrong("argument %q: an agent has none", rest[0])
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	if *pipe {
		return agents.ServePipe(ctx, os.Stdin, os.Stdout, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	}
	token, err := agentToken(*tokenFile)
	if err != nil {
		return err
	}
	made := token == ""
	if made {
		token = rand.Text()
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	if made {
		fmt.Fprintf(stderr, "The token is %s: set %s to it where you run scenarios.\n", token, tokenVariable)
	}
	logger.Info("listening", "address", listener.Addr().String())
	return agents.Serve(ctx, listener, token, logger)
}

// agentToken is what agents and their coordinator know: of a file, or of the environment; "" if there is none.
func agentToken(file string) (string, error) {
	if file == "" {
		return os.Getenv(tokenVariable), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("%s: no token", file)
	}
	return token, nil
}

// together is who else runs a scenario.
type together struct {
	agents    []string
	processes int
	tokenFile string
}

// flags adds the flags for it.
func (t *together) flags(flags *flag.FlagSet) {
	flags.Func("agents", "`addresses` of agents that run the scenario together, separated by commas", func(text string) error {
		t.agents = strings.Split(text, ",")
		return nil
	})
	flags.StringVar(&t.tokenFile, "token-file", "", "`file` with the token of the agents (default: the variable "+tokenVariable+")")
	flags.IntVar(&t.processes, "processes", 0, "run the scenario in so many processes of this machine: each has its own limit of open files")
}

// any says whether there is somebody.
func (t *together) any() bool { return len(t.agents) > 0 || t.processes != 0 }

// run has them run the scenario.
func (t *together) run(ctx context.Context, s *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
	token, err := agentToken(t.tokenFile)
	if err == nil && token == "" && len(t.agents) > 0 {
		err = errors.New("agents need a token: --token-file or the variable " + tokenVariable)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", loadtest.ErrScenario, err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return agents.Run(ctx, s, agents.Options{
		Addresses: t.agents, Token: token, Processes: t.processes, Command: []string{self, "agent", "--pipe"},
		Progress: o.Progress, Broker: o.Broker,
	})
}

// parseKill reads --kill: a time and a command.
func parseKill(text string) (loadtest.Kill, error) {
	after, command, _ := strings.Cut(text, ":")
	d, err := time.ParseDuration(after)
	k := loadtest.Kill{After: d, Command: strings.TrimSpace(command)}
	if err != nil || d < 0 || k.Command == "" {
		return k, fmt.Errorf("%q: allowed: a time and a command, such as '5s: systemctl restart loopmq'", cmp.Or(text, "nothing"))
	}
	return k, nil
}
