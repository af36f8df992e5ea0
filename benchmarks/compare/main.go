//go:build linux

// Command compare measures this broker beside others on one machine: it starts each broker in turn on a free port of 127.0.0.1,
// drives it with the same clients and the same settings, and prints the medians of several rounds and the ratios between brokers.
//
//	compare [flags] [NAME=COMMAND …]
//
// Brokers are interleaved (A, B, C, A, B, C …) and started afresh for every round, so that drift of the machine meets all of them and
// none inherits the memory of an earlier scenario. The generator runs on the same cores.
//
// The figure to compare is the broker's CPU time per delivered message, from the kernel's clock of the broker's process: it stays
// comparable on a noisy machine, where a rate doesn't. Beside it stand the rate, and what the generator itself spends per message
// in CPU time and in system calls (its own reads, writes and waits), which shows how much of a rate is the generator's.
//
// The clients are those of package loadtest. Every message is numbered. A delivery that is lost, doubled or, where MQTT fixes the order, out
// of order fails the round; its figures don't count, the row is marked FAILED, and the exit status is 1. It is 2 for a wrong command line and 130 after a Ctrl-C.
//
// A COMMAND is run by sh, with {port} replaced by the port to listen on and {dir} by an empty directory. It must stay in the
// foreground and be one process: one with more than a simple command must 'exec' the broker.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"loopmq/benchmarks/process"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	os.Exit(run(ctx, os.Args[1:], scenarios, os.Stdout, os.Stderr))
}

// settings are the command line.
type settings struct {
	timing
	brokers  []broker
	only     *regexp.Regexp
	rounds   int
	window   int
	beside   process.Process
	version  byte
	markdown string
	json     string
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, all []scenario, stdout, stderr io.Writer) int {
	set, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "compare:", err)
		return 2
	}
	r := &report{Machine: thisMachine(), Arguments: args, Commands: map[string]string{}}
	for _, b := range set.brokers {
		r.Commands[b.name] = strings.TrimSpace(b.command + "\n" + b.conf)
	}
	ran := false
	for _, s := range all {
		if !set.only.MatchString(s.name) {
			continue
		}
		ran = true
		if set.window > 0 && s.load.Window > 0 {
			s.load.Window = set.window
		}
		for round := range set.rounds {
			for _, b := range set.brokers {
				result, err := measure(ctx, b, s, set)
				row := r.row(s, b.name)
				switch {
				case ctx.Err() != nil:
					return 130
				case err != nil:
					row.Failures = append(row.Failures, err.Error())
					fmt.Fprintf(stderr, "%s %d/%d %s: FAILED: %v\n", s.name, round+1, set.rounds, b.name, err)
				default:
					row.Rounds = append(row.Rounds, result)
					fmt.Fprintf(stderr, "%s %d/%d %s: %s %s\n", s.name, round+1, set.rounds, b.name, short(result.Value), s.figure)
				}
			}
		}
	}
	if !ran {
		fmt.Fprintf(stderr, "compare: no scenario matches %q\n", set.only)
		return 2
	}
	r.summarize()
	r.table(stdout)
	if err := r.write(set); err != nil {
		fmt.Fprintln(stderr, "compare:", err)
		return 1
	}
	if r.failed() {
		return 1
	}
	return 0
}

// parse reads the command line.
func parse(args []string, stderr io.Writer) (settings, error) {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: compare [flags] [NAME=COMMAND …]   ({port} and {dir} in COMMAND are replaced)")
		flags.PrintDefaults()
		fmt.Fprint(stderr, "scenarios:")
		for _, s := range scenarios {
			fmt.Fprint(stderr, " ", s.name)
		}
		fmt.Fprintln(stderr)
	}
	names := flags.String("brokers", "loopmq,mosquitto", "built-in brokers to compare, the one to divide by the others first")
	loopmq := flags.String("loopmq", "bin/loopmq", "path of the loopmq binary")
	only := flags.String("only", "", "run the scenarios whose name matches this regular expression")
	rounds := flags.Int("rounds", 5, "rounds per scenario")
	seconds := flags.Float64("seconds", 2, "seconds that a round is measured ('sustained': 5 times as long)")
	window := flags.Int("window", 0, "messages under way per publisher of a closed loop, 0 for each scenario's own")
	beside := flags.Int("beside", 0, "process id of what works for the brokers, such as a database: its CPU time counts as theirs")
	version := flags.Int("version", 4, "MQTT protocol version: 4 (3.1.1) or 5")
	markdown := flags.String("markdown", "", "also write the table to this file, as Markdown")
	jsonFile := flags.String("json", "", "also write every round to this file, as JSON")
	if err := flags.Parse(args); err != nil {
		return settings{}, err
	}
	set := settings{rounds: *rounds, window: *window, beside: process.Process(*beside), version: byte(*version), markdown: *markdown, json: *jsonFile}
	set.timing = timing{warmUp: time.Second / 2, length: time.Duration(*seconds * float64(time.Second)), settled: 5 * time.Second}
	set.warmUp = min(set.warmUp, set.length)
	switch {
	case *rounds < 1 || set.length <= 0:
		return set, errors.New("--rounds and --seconds must be above 0")
	case *window < 0 || *window > 65535:
		return set, errors.New("--window must be 0 to 65535") // a Packet Identifier each
	case *beside < 0:
		return set, fmt.Errorf("--beside %d isn't a process id", *beside)
	case *version != 4 && *version != 5:
		return set, fmt.Errorf("--version %d: known are 4 and 5", *version)
	}
	var err error
	if set.beside != 0 {
		if _, err = set.beside.CPU(); err != nil {
			return set, fmt.Errorf("--beside: %w", err)
		}
	}
	if set.only, err = regexp.Compile(*only); err != nil {
		return set, fmt.Errorf("--only: %w", err)
	}
	for _, name := range strings.FieldsFunc(*names, func(r rune) bool { return r == ',' }) {
		b, err := brokerNamed(name, *loopmq)
		if err != nil {
			return set, err
		}
		set.brokers = append(set.brokers, b)
	}
	for _, arg := range flags.Args() {
		b, err := parseBroker(arg)
		if err != nil {
			return set, err
		}
		set.brokers = append(set.brokers, b)
	}
	if len(set.brokers) == 0 {
		return set, errors.New("no broker given")
	}
	return set, nil
}

// measure does one round of s with a fresh broker.
func measure(ctx context.Context, b broker, s scenario, set settings) (sample, error) {
	r, err := b.start(ctx)
	if err != nil {
		return sample{}, err
	}
	defer r.stop()
	processes := []process.Process{r.Process}
	if set.beside != 0 {
		processes = append(processes, set.beside)
	}
	result, err := s.run(ctx, r.address(), set.version, set.timing, processes...)
	if err != nil {
		err = fmt.Errorf("%w%s", err, r.tail())
	}
	return result, err
}

// write writes the files that the settings ask for.
func (r *report) write(set settings) error {
	for _, out := range []struct {
		path  string
		print func(io.Writer) error
	}{
		{set.markdown, func(w io.Writer) error { r.markdown(w); return nil }},
		{set.json, r.json},
	} {
		if out.path == "" {
			continue
		}
		f, err := os.Create(out.path)
		if err != nil {
			return err
		}
		if err := errors.Join(out.print(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
