// Command loopmq is an MQTT 3.1, 3.1.1 and 5.0 broker.
//
//	loopmq serve     run the broker, see loopmq serve --help
//	loopmq config    check, print, explain or import a configuration
//	loopmq health    ask a running broker whether it takes connections
//	loopmq ctl       look at and change what running brokers have
//	loopmq webhooks  the same of endpoints of webhooks
//	loopmq passwd    set or delete a password in a password file
//	loopmq version   print the version
//	loopmq help      print an overview
//
// It exits with 0 after SIGTERM or SIGINT when everything was shut down within
// the grace time, 1 if something failed, 2 if the command line or the configuration is wrong, and
// 130 at once on a second signal.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	opcuaserver "loopmq/bridges/opcua/server"
	_ "loopmq/cmd/loopmq/internal/quietlog"
	"loopmq/internal/signals"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

const usage = `loopmq is an MQTT 3.1, 3.1.1 and 5.0 broker.

Usage:
  loopmq serve [flags]   run the broker; loopmq serve --help lists the flags
  loopmq config COMMAND  check, print, explain or import a configuration
  loopmq health [flags]  ask a running broker whether it takes connections
  loopmq ctl [flags] COMMAND
                         look at and change what running brokers have: clients, sessions, …
  loopmq webhooks [flags] COMMAND
                         the same of endpoints of webhooks and their dead letters
  loopmq passwd [flags] FILE USER
                         set or delete a password in a password file
  loopmq version         print the version
  loopmq help            print this
`

func main() {
	// Whoever reads the log may go away; the broker stays.
	signal.Ignore(syscall.SIGPIPE)
	if len(os.Args) == 2 && os.Args[1] == opcuaserver.Command { // not for people
		os.Exit(beOPCUAServer(os.Stderr))
	}
	ctx := signals.Context(exitInterrupted)
	tuneGC(ctx)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code. The end of ctx is
// the request to shut down.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	command, args := args[0], args[1:]
	var text string
	switch command {
	case "serve":
		return runServe(ctx, args, stdout, stderr)
	case "config":
		return runConfig(args, stdout, stderr)
	case "health":
		return runHealth(ctx, args, stdout, stderr)
	case "ctl", "webhooks":
		return runCtl(ctx, command, args, os.Stdin, stdout, stderr)
	case "passwd":
		return runPasswd(ctx, args, os.Stdin, stdout, stderr)
	case "version", "--version", "-version":
		text = fmt.Sprintf("loopmq %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	case "help", "--help", "-help", "-h":
		text = usage
		if len(args) == 1 {
			switch args[0] {
			case "serve":
				text, args = serveUsage, nil
			case "config":
				text, args = configUsage, nil
			case "health":
				text, args = healthUsage, nil
			case "ctl":
				text, args = ctlUsage, nil
			case "webhooks":
				text, args = webhooksUsage, nil
			case "passwd":
				text, args = passwdUsage, nil
			}
		}
	default:
		fmt.Fprintf(stderr, "loopmq: command %q: allowed: serve, config, health, ctl, webhooks, passwd, version, help\n", command)
		return exitUsage
	}
	if len(args) > 0 {
		fmt.Fprintf(stderr, "loopmq: %s: argument %q: allowed: none\n", command, strings.Join(args, " "))
		return exitUsage
	}
	fmt.Fprint(stdout, text)
	return exitOK
}

func runServe(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	i, problems, help := parseServe("serve", args)
	if help {
		fmt.Fprint(stdout, serveUsage)
		return exitOK
	}
	c, more := i.load()
	if problems = append(problems, more...); len(problems) > 0 {
		return complain(stderr, problems)
	}
	if err := serve(ctx, i, c, stderr); err != nil {
		fmt.Fprintf(stderr, "loopmq: %s\n", oneLine(err))
		return exitFailed
	}
	return exitOK
}

// complain says what is wrong with a command line or configuration.
func complain(stderr io.Writer, problems []string) int {
	for _, problem := range problems {
		fmt.Fprintf(stderr, "loopmq: %s\n", problem)
	}
	return exitUsage
}

// oneLine is the text of an error, which errors.Join spreads over several lines.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
