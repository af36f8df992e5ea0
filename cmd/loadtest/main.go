// Command loadtest drives an MQTT broker with many clients, audits every message, and reports what the broker can do.
//
//	loadtest run PRESET|FILE       run a scenario, see loadtest run --help
//	loadtest capacity PRESET|FILE  find the highest rate that meets an objective
//	loadtest agent                 run a share of scenarios for others
//	loadtest plan                  say how many nodes a load needs
//	loadtest compare FILE FILE…    show results beside each other
//	loadtest report FILE           show a result again, as text or as a page
//	loadtest presets               list the built-in scenarios
//	loadtest version               print the version
//	loadtest help                  print an overview
//
// It exits with 0 when the broker kept what MQTT promises, 1 if it didn't or if something failed, 2 if the command line or the
// scenario is wrong, and 130 at once on a second Ctrl-C; the first ends a run with a report of what was measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"loopmq/internal/signals"
	"loopmq/loadtest"
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

const usage = `loadtest drives an MQTT broker with many clients, audits every message, and reports what the broker can do.

Usage:
  loadtest run PRESET|FILE [flags]  run a scenario; loadtest run --help lists presets and flags
  loadtest capacity PRESET|FILE --slo OBJECTIVES [flags]
                                    find the highest rate of messages that meets objectives
  loadtest agent [flags]            run a share of the clients, for run --agents
  loadtest plan --devices N --rate N [flags]
                                    say how many nodes a load needs
  loadtest compare FILE FILE…       show results beside each other
  loadtest report [--html PAGE] FILE
                                    show a result again, as text or as a page
  loadtest presets [NAME]           list the built-in scenarios, or print one
  loadtest version                  print the version
  loadtest help                     print this
`

// A command is what the first word of a command line says. It returns the exit code.
type command func(ctx context.Context, args []string, stdout, stderr io.Writer) int

// commands are all of them.
var commands = map[string]command{
	"run":      runRun,
	"capacity": usual("capacity", "", runCapacity),
	"agent":    usual("agent", agentUsage, runAgent),
	"plan":     usual("plan", planUsage, runPlan),
	"compare":  usual("compare", compareUsage, runCompare),
	"report":   usual("report", reportUsage, runReport),
	"presets":  usual("presets", presetsUsage, runPresets),
	"version":  runVersion,
	"help":     runHelp,
}

// usual makes a command of a function that returns what went wrong.
func usual(name, usage string, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) command {
	return func(ctx context.Context, args []string, stdout, stderr io.Writer) int {
		err := run(ctx, args, stdout, stderr)
		var wrong *usageError
		switch {
		case err == nil:
			return exitOK
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(stdout, usage)
			return exitOK
		case errors.As(err, &wrong) || errors.Is(err, loadtest.ErrScenario):
			fmt.Fprintf(stderr, "loadtest: %s: %s\n", name, oneLine(err))
			return exitUsage
		case errors.Is(err, errBroken): // as the report says
			return exitFailed
		}
		fmt.Fprintf(stderr, "loadtest: %s: %s\n", name, oneLine(err))
		return exitFailed
	}
}

// errBroken is the end of a run whose broker broke a promise.
var errBroken = errors.New("the broker broke a promise")

// oneLine is the text of an error, which errors.Join spreads over several lines.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func main() {
	os.Exit(run(signals.Context(exitInterrupted), os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code. The end of ctx is the request to come to an end.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "--help", "-help", "-h":
		name = "help"
	case "--version", "-version":
		name = "version"
	}
	c, ok := commands[name]
	if !ok {
		fmt.Fprintf(stderr, "loadtest: there is no command %q\n%s", name, usage)
		return exitUsage
	}
	return c(ctx, args[1:], stdout, stderr)
}

func runVersion(_ context.Context, _ []string, stdout, _ io.Writer) int {
	fmt.Fprintf(stdout, "loadtest %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitOK
}

func runHelp(_ context.Context, _ []string, stdout, _ io.Writer) int {
	fmt.Fprint(stdout, usage)
	return exitOK
}
