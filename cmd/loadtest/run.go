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

	"golang.org/x/term"

	"loopmq/loadtest"
	"loopmq/loadtest/report"
	"loopmq/loadtest/scrape"
)

// scaleMax is more than any scenario can be scaled by.
const scaleMax = 1e7

// runRun is loadtest run.
func runRun(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseRun("run", args, stderr, nil)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "loadtest: run:", err)
		return exitUsage
	}
	defer o.close()
	if err := writable(o.json, o.html); err != nil {
		fmt.Fprintln(stderr, "loadtest: run:", err)
		return exitFailed
	}
	live := report.NewLive(stderr, terminalWidth(stderr), o.scenario.Duration)
	result, err := o.measure(ctx, o.scenario, live.Second)
	live.End()
	if err == nil {
		err = o.write(stdout, result)
	}
	switch {
	case errors.Is(err, loadtest.ErrScenario):
		fmt.Fprintln(stderr, "loadtest: run:", err)
		return exitUsage
	case err != nil:
		fmt.Fprintln(stderr, "loadtest: run:", err)
		return exitFailed
	case result.Broken() || len(result.Failures()) > 0:
		return exitFailed
	}
	return exitOK
}

// runOptions are the command line of loadtest run, and of what else runs scenarios.
type runOptions struct {
	command   string
	scenario  *loadtest.Scenario
	scale     float64
	json      string
	html      string
	brokerPID int
	metrics   []string
	tokenFile string
	together  together
	more      func(*flag.FlagSet) // flags of the command's own

	scraper *scrape.Scraper // of metrics, nil without
}

// measure runs a scenario.
func (o *runOptions) measure(ctx context.Context, s *loadtest.Scenario, progress func(loadtest.Second)) (*loadtest.Result, error) {
	options := loadtest.Options{Progress: progress}
	switch {
	case o.scraper != nil:
		options.Broker = o.scraper.Sample
	case o.brokerPID > 0:
		options.Broker = loadtest.ProcessSampler(o.brokerPID)
	}
	if o.together.any() {
		return o.together.run(ctx, s, options)
	}
	return loadtest.Run(ctx, s, options)
}

// write shows a result in all ways that were asked for.
func (o *runOptions) write(stdout io.Writer, result *loadtest.Result) error {
	errs := []error{report.Text(stdout, result)}
	if o.json != "" {
		errs = append(errs, writeFile(o.json, stdout, result.WriteJSON))
	}
	if o.html != "" {
		errs = append(errs, writeFile(o.html, stdout, func(w io.Writer) error { return report.HTML(w, result) }))
	}
	return errors.Join(errs...)
}

// close ends what parseRun began.
func (o *runOptions) close() {
	if o.scraper != nil {
		o.scraper.Close()
	}
}

// terminalWidth returns a function that says how many columns the terminal has, and nil if w is none.
func terminalWidth(w io.Writer) func() int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func() int {
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 80
		}
		return width
	}
}

// parseRun reads the command line: a preset or a file, and flags, which win over what it says.
// more adds flags of the command's own; it may be called more than once.
func parseRun(command string, args []string, stderr io.Writer, more func(*flag.FlagSet)) (*runOptions, error) {
	o := &runOptions{command: command, scenario: new(loadtest.Scenario), more: more}
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
	if !(o.scale > 0 && o.scale <= scaleMax) {
		return nil, fmt.Errorf("--scale %v: allowed: above 0, up to %.0f", o.scale, float64(scaleMax))
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
	if err := o.look(); err != nil {
		return nil, err
	}
	return o, s.Check()
}

// look prepares looking at the broker.
func (o *runOptions) look() error {
	if len(o.metrics) == 0 {
		return nil
	}
	if o.brokerPID > 0 {
		return errors.New("--metrics and --broker-pid: allowed: one of them")
	}
	token := ""
	if o.tokenFile != "" {
		text, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return err
		}
		token = strings.TrimSpace(string(text))
	}
	var err error
	o.scraper, err = scrape.New(o.metrics, token)
	return err
}

// flags returns the flags of the command, which change o.
func (o *runOptions) flags(stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("loadtest "+o.command, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: loadtest %s PRESET|FILE [flags]\n", o.command)
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
	flags.StringVar(&s.PublishURL, "publish-url", s.PublishURL, "publish by HTTP to this `URL`, such as http://127.0.0.1:8080/publish")
	flags.StringVar(&s.Webhook, "webhook", s.Webhook, "take the broker's webhooks at this `address`, in the place of subscriptions")
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
	kills := 0
	flags.Func("kill", "`TIME: COMMAND` that sh runs so long after the measured time begins, such as '5s: systemctl restart loopmq'; may be repeated", func(text string) error {
		k, err := parseKill(text)
		s.Kill = append(s.Kill[:kills], k) // the flags win over the scenario, and may be read twice
		kills++
		return err
	})
	list(&s.Sources, "sources", "`addresses` of this machine to connect from, separated by commas")
	flags.Float64Var(&o.scale, "scale", 1, "multiply numbers of clients and rates of the scenario by this")
	flags.IntVar(&o.brokerPID, "broker-pid", 0, "process `id` of a broker on this machine whose CPU and memory are looked at")
	list(&o.metrics, "metrics", "`URLs` of the metrics of all nodes of the broker, separated by commas, such as http://127.0.0.1:8081/metrics: for its CPU and memory")
	flags.StringVar(&o.tokenFile, "metrics-token-file", "", "`file` with the bearer token that the metrics need")
	o.together.flags(flags)
	flags.StringVar(&o.json, "json", "", "also write the result to this `file`, - for the standard output")
	flags.StringVar(&o.html, "html", "", "also write a page with charts to this `file`")
	if o.more != nil {
		o.more(flags)
	}
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
