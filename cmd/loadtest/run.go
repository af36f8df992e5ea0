package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"loopmq/loadtest"
	"loopmq/loadtest/report"
)

// runRun is loadtest run.
func runRun(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseRun(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "loadtest: run:", err)
		return exitUsage
	}
	live := report.NewLive(stderr, nil, o.scenario.Duration)
	options := loadtest.Options{Progress: live.Second}
	if o.brokerPID > 0 {
		options.Broker = loadtest.ProcessSampler(o.brokerPID)
	}
	result, err := loadtest.Run(ctx, o.scenario, options)
	live.End()
	switch {
	case errors.Is(err, loadtest.ErrScenario):
		fmt.Fprintln(stderr, "loadtest: run:", err)
		return exitUsage
	case err != nil:
		fmt.Fprintln(stderr, "loadtest: run:", err)
		return exitFailed
	}
	if err := report.Text(stdout, result); err != nil {
		return exitFailed
	}
	if o.json != "" {
		if err := writeJSON(o.json, result); err != nil {
			fmt.Fprintln(stderr, "loadtest: run:", err)
			return exitFailed
		}
	}
	if result.Broken() {
		return exitFailed
	}
	return exitOK
}

// runOptions are the command line of loadtest run.
type runOptions struct {
	scenario  *loadtest.Scenario
	scale     float64
	json      string
	brokerPID int
}

// parseRun reads the command line: a preset or a file, and flags, which win over what it says.
func parseRun(args []string, stderr io.Writer) (*runOptions, error) {
	o := &runOptions{scenario: new(loadtest.Scenario)}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		if err := o.flags(stderr).Parse(args); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("what to run comes first: a preset (%s) or a file", strings.Join(loadtest.PresetNames(), ", "))
	}
	s, err := scenarioNamed(args[0])
	if err != nil {
		return nil, err
	}
	// The flags are read twice: what is to be scaled is the scenario, and not what a flag says in its place.
	o.scenario = s.Clone()
	if err := o.flags(stderr).Parse(args[1:]); err != nil {
		return nil, err
	}
	s.Scale(o.scale)
	o.scenario = s
	flags := o.flags(stderr)
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("argument %q: one scenario can be run", flags.Arg(0))
	}
	if len(s.Targets) == 0 {
		s.Targets = []string{"tcp://127.0.0.1:1883"}
	}
	return o, s.Check()
}

// flags returns the flags of loadtest run, which change o.
func (o *runOptions) flags(stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("loadtest run", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: loadtest run PRESET|FILE [flags]")
		fmt.Fprintln(stderr, "presets:", strings.Join(loadtest.PresetNames(), ", "))
		flags.PrintDefaults()
	}
	s := o.scenario
	list := func(to *[]string, name, usage string) {
		flags.Func(name, usage, func(text string) error {
			*to = strings.Split(text, ",")
			return nil
		})
	}
	small := func(to *byte, name, usage string) {
		flags.Func(name, usage, func(text string) error {
			n, err := strconv.ParseUint(text, 10, 8)
			*to = byte(n)
			return err
		})
	}
	list(&s.Targets, "target", "`URLs` of the brokers, separated by commas: tcp://, tls://, ws:// or wss:// (default tcp://127.0.0.1:1883)")
	flags.IntVar(&s.Pairs, "pairs", s.Pairs, "publishers, and as many subscribers")
	flags.IntVar(&s.Publishers, "publishers", s.Publishers, "publishers")
	flags.IntVar(&s.Subscribers, "subscribers", s.Subscribers, "subscribers")
	flags.IntVar(&s.Connections, "connections", s.Connections, "clients that neither publish nor subscribe")
	flags.IntVar(&s.Groups, "groups", s.Groups, "shared subscriptions")
	flags.IntVar(&s.Topics, "topics", s.Topics, "retained messages")
	flags.IntVar(&s.Filters, "filters", s.Filters, "more Topic Filters for each subscriber")
	small(&s.QoS, "qos", "`QoS` of messages and subscriptions")
	flags.IntVar(&s.Payload, "payload", s.Payload, "`bytes` of a payload, 16 at least (default 64)")
	flags.Float64Var(&s.Rate, "rate", s.Rate, "messages a second of all publishers; 0: as fast as windows allow")
	flags.IntVar(&s.Window, "window", s.Window, "messages that a publisher may have under way (default 32, with a rate as many as the broker allows)")
	flags.Float64Var(&s.ConnectRate, "connect-rate", s.ConnectRate, "connects a second; 0: as fast as 100 at a time can")
	flags.DurationVar(&s.RampUp, "ramp-up", s.RampUp, "time in which the rate grows")
	flags.DurationVar(&s.WarmUp, "warm-up", s.WarmUp, "time before figures count")
	flags.DurationVar(&s.Duration, "duration", s.Duration, "time that is measured (default 10s)")
	flags.DurationVar(&s.Drain, "drain", s.Drain, "how long to wait at the end, without any progress (default 5s)")
	flags.DurationVar(&s.KeepAlive, "keep-alive", s.KeepAlive, "Keep Alive (default 5m)")
	small(&s.Version, "mqtt", "`version` of MQTT: 3 (3.1), 4 (3.1.1) or 5 (default 4)")
	flags.BoolVar(&s.Durable, "durable", s.Durable, "sessions of subscribers outlive their connections")
	flags.BoolVar(&s.DurablePublishers, "durable-publishers", s.DurablePublishers, "and those of publishers")
	flags.StringVar(&s.User, "user", s.User, "user name; {i} is the client's number")
	flags.StringVar(&s.Password, "password", s.Password, "password; {i} is the client's number")
	flags.StringVar(&s.ClientID, "client-id", s.ClientID, "ClientID; {run}, {role}, {i} and {n} are replaced")
	flags.StringVar(&s.Topic, "topic", s.Topic, "what topics begin with")
	flags.StringVar(&s.TLS.CAFile, "ca", s.TLS.CAFile, "`file` with the authorities of the broker's certificate")
	flags.StringVar(&s.TLS.CertFile, "cert", s.TLS.CertFile, "`file` with the clients' certificate")
	flags.StringVar(&s.TLS.KeyFile, "key", s.TLS.KeyFile, "`file` with its key")
	flags.BoolVar(&s.TLS.Insecure, "insecure", s.TLS.Insecure, "take any certificate of the broker")
	flags.BoolVar(&s.Reconnect, "reconnect", s.Reconnect, "clients whose connection ends connect again")
	flags.DurationVar(&s.ReconnectJitter, "reconnect-jitter", s.ReconnectJitter, "after a random time up to this (default 1s)")
	list(&s.Sources, "sources", "`addresses` of this machine to connect from, separated by commas")
	flags.Float64Var(&o.scale, "scale", 1, "multiply numbers of clients and rates of the scenario by this")
	flags.IntVar(&o.brokerPID, "broker-pid", 0, "process `id` of a broker on this machine whose CPU and memory are looked at")
	flags.StringVar(&o.json, "json", "", "also write the result to this `file`")
	return flags
}

// scenarioNamed returns a preset, or what is in a file.
func scenarioNamed(name string) (*loadtest.Scenario, error) {
	s, err := loadtest.Preset(name)
	if err == nil {
		return s, nil
	}
	f, fileErr := os.Open(name)
	if errors.Is(fileErr, os.ErrNotExist) {
		return nil, err
	}
	if fileErr != nil {
		return nil, fileErr
	}
	defer f.Close()
	if s, err = loadtest.LoadScenario(f); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// writeJSON writes the result to a file.
func writeJSON(path string, result *loadtest.Result) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := result.WriteJSON(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// runPresets is loadtest presets.
func runPresets(_ context.Context, _ []string, stdout, stderr io.Writer) int {
	for _, name := range loadtest.PresetNames() {
		s, err := loadtest.Preset(name)
		if err != nil {
			fmt.Fprintln(stderr, "loadtest: presets:", err)
			return exitFailed
		}
		fmt.Fprintf(stdout, "%-28s %s\n", name, report.Scenario(s))
	}
	return exitOK
}
