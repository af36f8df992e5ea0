package agents

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"loopmq/loadtest"
)

const (
	// dialMax is how long it may take to reach an agent.
	dialMax = 10 * time.Second
	// reportMax is how long agents may take, after they were told to stop, beyond the scenario's Drain.
	reportMax = time.Minute
	// outMax is more than the messages that an agent gets in a run.
	outMax = 4
)

// Options say who runs a scenario, and what for.
type Options struct {
	// Addresses are those of agents, host:port. Token is what they know as well.
	Addresses []string
	Token     string
	// Processes is how many processes of this host take part, loadtest.ProcessesMax at most.
	Processes int
	// Command is the program, with its arguments, that calls ServePipe: for Processes.
	Command []string

	// Progress is called once a second for all agents together, from one goroutine.
	Progress func(loadtest.Second)
	// Broker looks at what the broker has used; nil means that nobody looks.
	Broker func(context.Context) (loadtest.BrokerSample, error)
	// Logger gets what happens to the agents; nil means slog.Default().
	Logger *slog.Logger
}

// Run has all agents run the scenario together, and returns their merged result. It runs the scenario's commands (Kill) itself. Agents that
// are lost or fail are errors of the result; who can't be reached at the beginning is an error of Run, and then nothing has run. When
// ctx ends, the agents are told to stop, and the result is what was measured until then.
func Run(ctx context.Context, s *loadtest.Scenario, o Options) (*loadtest.Result, error) {
	s = s.Clone()
	if err := s.Check(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if s.Webhook != "" || slices.ContainsFunc(s.Parts, func(p *loadtest.Scenario) bool { return p.Webhook != "" }) {
		return nil, fmt.Errorf("%w: webhook is for one process: the broker knows one address", loadtest.ErrScenario)
	}
	for i, address := range o.Addresses {
		if slices.Contains(o.Addresses[:i], address) {
			return nil, fmt.Errorf("%w: agent %s is named twice, and takes one run at a time", loadtest.ErrScenario, address)
		}
	}
	if most := loadtest.ProcessesMax(s); o.Processes < 0 || o.Processes > most {
		return nil, fmt.Errorf("%w: processes is %d: allowed: 0 to %d for this scenario on this machine", loadtest.ErrScenario, o.Processes, most)
	}
	crew, err := gather(ctx, o)
	if err != nil {
		return nil, err
	}
	result, err := conduct(ctx, s, crew, o)
	for _, a := range crew {
		if a.ended != nil {
			<-a.ended
		}
	}
	return result, err
}

// gather reaches all agents, or none.
func gather(ctx context.Context, o Options) ([]*agent, error) {
	crew := make([]*agent, len(o.Addresses)+o.Processes)
	if len(crew) == 0 {
		return nil, errors.New("no agents, and no processes")
	}
	failures := make([]error, len(crew))
	var all sync.WaitGroup
	for i, address := range o.Addresses {
		all.Go(func() {
			crew[i] = &agent{name: address}
			if crew[i].link, failures[i] = dial(ctx, address, o.Token); failures[i] != nil {
				failures[i] = fmt.Errorf("agent %s: %w", address, failures[i])
			}
		})
	}
	for i := range o.Processes {
		at := len(o.Addresses) + i
		crew[at] = &agent{name: fmt.Sprintf("process %d", i+1)}
		crew[at].link, crew[at].ended, failures[at] = startProcess(o.Command)
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		for _, a := range crew {
			if a.link != nil {
				_ = a.link.close()
			}
		}
		return nil, err
	}
	return crew, nil
}

// dial reaches an agent by TCP.
func dial(ctx context.Context, address, token string) (*link, error) {
	dialer := net.Dialer{Timeout: dialMax}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	l, err := introduce(conn, token)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// An agent is one as the coordinator sees it. The conductor's goroutine owns it.
type agent struct {
	name    string
	link    *link
	ended   <-chan struct{} // of a process
	out     chan message    // for the goroutine that writes
	ready   bool
	over    bool // it has reported, failed, or was lost
	heard   time.Time
	seconds []loadtest.Second // since the last progress
	open    int               // connections, as last heard
	result  *loadtest.Result
}

// news is what an agent has said, or that it is gone.
type news struct {
	agent *agent
	message
	err error
}

// A conductor has agents run a scenario.
type conductor struct {
	Options
	scenario *loadtest.Scenario
	crew     []*agent
	news     chan news
	started  time.Time
	begun    bool
	failures []loadtest.ErrorGroup
	watch    *watch
}

// conduct runs the scenario with agents that were reached, and closes their links.
func conduct(ctx context.Context, s *loadtest.Scenario, crew []*agent, o Options) (*loadtest.Result, error) {
	c := &conductor{Options: o, scenario: s, crew: crew, news: make(chan news), started: time.Now()}
	all, end := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer end()
	if o.Broker != nil {
		c.watch = new(watch)
		helpers.Go(func() { c.watch.run(all, o.Broker) })
	}
	shares := s.Split(len(crew), hex.EncodeToString(nonce()[:4]))
	for i, a := range crew {
		a.heard, a.out = c.started, make(chan message, outMax)
		helpers.Go(func() { c.listen(all, a) })
		helpers.Go(func() { speak(all, a.link, a.out) })
		// The commands are run here, once. That they imply Reconnect has been settled by Check.
		shares[i].Kill = nil
		a.out <- message{Scenario: shares[i]}
		defer func() { _ = a.link.close() }()
	}
	ctxKills, endKills := context.WithCancel(ctx)
	defer endKills()
	killed := make(chan loadtest.ErrorGroup)
	runKills := func() {
		loadtest.RunKills(ctxKills, c.kills(), func(k loadtest.Kill, err error) {
			select {
			case killed <- loadtest.ErrorGroup{What: "kill command", Count: 1, Example: k.Command + ": " + err.Error()}:
			case <-all.Done():
			}
		})
	}

	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	stop, stopped := ctx.Done(), (<-chan time.Time)(nil)
	for !c.over() {
		select {
		case n := <-c.news:
			c.take(n)
		case f := <-killed:
			c.fail(f)
		case now := <-ticker.C:
			c.tick(now)
		case <-stop:
			stop, stopped = nil, time.After(s.Drain+reportMax)
			c.tell(message{Stop: true})
		case <-stopped:
			for _, a := range crew {
				c.lose(a, "agent lost", errors.New("no report after it was told to stop"))
			}
		}
		if !c.begun && c.ready() {
			c.begun = true
			c.tell(message{Begin: true})
			helpers.Go(runKills)
		}
	}
	endKills()
	end()
	helpers.Wait()
	return c.report()
}

// kills are the scenario's commands, with times from the moment in which the agents begin to publish.
func (c *conductor) kills() []loadtest.Kill {
	kills := slices.Clone(c.scenario.Kill)
	for i := range kills {
		kills[i].After += c.scenario.RampUp + c.scenario.WarmUp
	}
	return kills
}

// listen hands on what the agent says, until its end.
func (c *conductor) listen(ctx context.Context, a *agent) {
	for {
		n := news{agent: a}
		n.err = a.link.receive(&n.message, messageBytesMax)
		select {
		case c.news <- n:
		case <-ctx.Done():
			return
		}
		if n.err != nil {
			return
		}
	}
}

// speak sends what is put into out, and something each second. An agent that takes nothing is found out by its silence.
func speak(ctx context.Context, l *link, out <-chan message) {
	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	for {
		var m message
		select {
		case m = <-out:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if l.send(m) != nil {
			return // and listen learns why
		}
	}
}

// tell sends to all agents. It doesn't wait: there is room for the few messages of a run.
func (c *conductor) tell(m message) {
	for _, a := range c.crew {
		if !a.over {
			a.out <- m
		}
	}
}

// take is what news mean.
func (c *conductor) take(n news) {
	a := n.agent
	if a.over {
		return
	}
	a.heard = time.Now()
	switch {
	case n.err != nil:
		c.lose(a, "agent lost", n.err)
	case n.Error != "":
		c.lose(a, "agent failed", errors.New(n.Error))
	case n.Result != nil:
		r, err := loadtest.ReadResult(bytes.NewReader(n.Result))
		if err != nil {
			c.lose(a, "agent failed", err)
			return
		}
		a.result, a.over = r, true
		_ = a.link.close()
	case n.Ready:
		a.ready = true
	case n.Second != nil:
		a.seconds = append(a.seconds, *n.Second)
		a.open = n.Second.Connections
	}
}

// lose goes on without an agent.
func (c *conductor) lose(a *agent, what string, err error) {
	if a.over {
		return
	}
	a.over = true
	_ = a.link.close()
	c.Logger.Warn("lose_agent", "agent", a.name, "error", err)
	c.fail(loadtest.ErrorGroup{What: what, Count: 1, Example: a.name + ": " + err.Error()})
}

// fail counts an error, with the first of its kind as the example.
func (c *conductor) fail(f loadtest.ErrorGroup) {
	i := slices.IndexFunc(c.failures, func(g loadtest.ErrorGroup) bool { return g.What == f.What })
	if i < 0 {
		c.failures = append(c.failures, f)
		return
	}
	c.failures[i].Count += f.Count
}

// over says whether there is nobody to wait for.
func (c *conductor) over() bool {
	return !slices.ContainsFunc(c.crew, func(a *agent) bool { return !a.over })
}

// ready says whether all that are left are ready.
func (c *conductor) ready() bool {
	return !slices.ContainsFunc(c.crew, func(a *agent) bool { return !a.over && !a.ready })
}

// tick looks who was silent, and says how it goes.
func (c *conductor) tick(now time.Time) {
	var seconds [][]loadtest.Second
	silent := 0
	for _, a := range c.crew {
		if now.Sub(a.heard) > silenceMax {
			c.lose(a, "agent lost", fmt.Errorf("nothing heard for %v", silenceMax))
		}
		if len(a.seconds) > 0 {
			seconds = append(seconds, a.seconds)
			a.seconds = nil
		} else if !a.over {
			silent += a.open // its second is late
		}
	}
	if c.Progress == nil || len(seconds) == 0 {
		return
	}
	second := together(seconds)
	second.Connections += silent
	second.At = now.Sub(c.started).Seconds()
	if c.watch != nil {
		second.BrokerCPU, second.BrokerMemory = c.watch.now()
	}
	c.Progress(second)
}

// report merges what the agents have found out.
func (c *conductor) report() (*loadtest.Result, error) {
	var results []*loadtest.Result
	for _, a := range c.crew {
		if a.result != nil {
			results = append(results, a.result)
		}
	}
	if len(results) == 0 {
		var errs []error
		for _, f := range c.failures {
			errs = append(errs, fmt.Errorf("%s (%d): %s", f.What, f.Count, f.Example))
		}
		return nil, cmp.Or(errors.Join(errs...), errors.New("no agent has reported"))
	}
	merged, err := loadtest.Merge(results...)
	if err != nil {
		return nil, err
	}
	merged.Scenario = c.scenario
	merged.Errors = append(merged.Errors, c.failures...)
	merged.AgentsLost = len(c.crew) - len(results)
	if c.watch != nil {
		c.watch.fill(merged)
	}
	return merged, nil
}
