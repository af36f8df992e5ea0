package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"loopmq/config"
	"loopmq/metrics"
)

const configUsage = `Check, print, explain or import a configuration.

Usage:
  loopmq config check [FILE] [flags]   say all that is wrong with it; exit code 2 if anything is
  loopmq config print [FILE] [flags]   print what holds, each value with where it comes from;
                                       secrets are not shown
  loopmq config reference              print the list of all keys, in Markdown
  loopmq config import FILE            print a mosquitto.conf as a configuration of loopmq. What
                                       has no counterpart is named on standard error; exit code 1
                                       if leaving it out would make the broker less safe

Flags are those of loopmq serve. The variables LOOPMQ_… of the environment count, too.
`

// runConfig is the command config.
func runConfig(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, configUsage)
		return exitUsage
	}
	switch command, rest := args[0], args[1:]; command {
	case "check", "print":
		return runConfigLoad(command, rest, stdout, stderr)
	case "reference":
		if len(rest) > 0 {
			return complain(stderr, []string{fmt.Sprintf("config reference: argument %q: allowed: none", rest[0])})
		}
		return written(config.WriteReference(stdout), stderr)
	case "import":
		return runConfigImport(rest, stdout, stderr)
	case "--help", "-help", "-h":
		fmt.Fprint(stdout, configUsage)
		return exitOK
	default:
		return complain(stderr, []string{fmt.Sprintf("config: command %q: allowed: check, print, reference, import", command)})
	}
}

// runConfigLoad checks or prints what a broker with these arguments would run with.
func runConfigLoad(command string, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		args = append([]string{"--config=" + args[0]}, args[1:]...)
	}
	i, problems, help := parseServe("config "+command, args)
	if help {
		fmt.Fprint(stdout, configUsage)
		return exitOK
	}
	c, more := i.load()
	if problems = append(problems, more...); len(problems) == 0 && command == "check" {
		problems = fileProblems(c)
	}
	if len(problems) > 0 {
		return complain(stderr, problems)
	}
	if command == "print" {
		return written(c.WriteYAML(stdout), stderr)
	}
	fmt.Fprintln(stdout, "ok")
	return exitOK
}

// fileProblems are what is wrong with the files that a configuration names, and with
// values that only those who use them can judge: why a broker with it wouldn't start.
func fileProblems(c *config.Config) (problems []string) {
	log := slog.New(slog.DiscardHandler)
	who, err := newIdentity(c, metrics.New(1), log)
	if err != nil {
		return []string{oneLine(err)} // Listeners need what there isn't then.
	}
	defer who.close()
	_, err = listenersOf(c, who)
	_, admin := newFront().admin(c, who, metrics.New(1), log)
	_, web := httpOf(c, who)
	_, datagrams := coapOf(c, who)
	_, hooks := newHooks(c, who)
	_, variables := opcuaServerOf(c, who)
	if err = errors.Join(err, admin, web, datagrams, hooks, variables); err == nil {
		return nil
	}
	for problem := range strings.Lines(err.Error()) {
		// Several listeners have the same methods and rules.
		if problem = strings.TrimSuffix(problem, "\n"); !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	return problems
}

// runConfigImport translates a mosquitto.conf.
func runConfigImport(args []string, stdout, stderr io.Writer) int {
	if len(args) != 1 {
		return complain(stderr, []string{fmt.Sprintf("config import: %d arguments: allowed: the name of a mosquitto.conf", len(args))})
	}
	yaml, notes, err := config.ImportMosquitto(args[0])
	if err != nil {
		return written(err, stderr)
	}
	code := written(writeString(stdout, yaml), stderr)
	for _, n := range notes {
		hint := ""
		if n.Unsafe {
			code, hint = exitFailed, " (see to it before you use the result)"
		}
		fmt.Fprintf(stderr, "loopmq: %s: %s%s\n", n.Source, n.Text, hint)
	}
	return code
}

func writeString(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

func written(err error, stderr io.Writer) int {
	if err != nil {
		fmt.Fprintf(stderr, "loopmq: %s\n", err)
		return exitFailed
	}
	return exitOK
}
