//go:build linux

package loadtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"loopmq/loadtest/gateway"
)

const (
	// tick is how often a phase looks whether it is over.
	tick = 10 * time.Millisecond
	// closeMax is how long the broker may take to close connections at the end.
	closeMax = 10 * time.Second
	// hasty is how long to wait without progress for what is under way after an interrupt.
	hasty = 2 * time.Second
	// sampleMax is how long a look at the broker may take.
	sampleMax = 2 * time.Second
)

// run is a scenario that is being run. Its methods are called by one goroutine; loops have their own.
type run struct {
	scenario  *Scenario
	options   Options
	ctx       context.Context // of the run's goroutines; ends with it, and not with an interrupt
	loops     []*loop
	flows     []*flow
	endpoints [][]endpoint // by loop
	gateways  []*gateway.Gateway
	stop      <-chan struct{}

	handshakes sync.WaitGroup // of TLS
	working    sync.WaitGroup // loops

	result    *Result
	started   time.Time
	start     int64
	measuring bool
	late      bool    // latencies count, nothing else does
	measured  *counts // of the measured time
	total     *counts // of all
	interval  *counts // of the last second
	faults    faults  // when the loops have ended
	lastCPU   time.Duration
	lastTick  int64

	asking             sync.Mutex // held while Options.Broker is called
	looking            sync.Mutex // guards what follows
	sample, lastSample BrokerSample
	sampled            bool // sample is new
	looks              bool // a look is under way
	memory             uint64
}

// Run plays a scenario and returns what came of it. When ctx ends, the run comes to its end in good order, and the Result is of what
// was measured until then. There is an error, which wraps ErrScenario or ErrConnect where one of them fits, if the scenario can't be
// run. Several runs may go on at a time. It needs Linux.
func Run(ctx context.Context, s *Scenario, o Options) (*Result, error) {
	s = s.Clone()
	if err := s.Check(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	r := &run{
		scenario: s, options: o, ctx: inner, stop: ctx.Done(),
		measured: newCounts(), total: newCounts(), interval: newCounts(), faults: faults{},
	}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	defer r.handshakes.Wait()
	defer cancel()
	for _, l := range r.loops {
		r.working.Go(l.work)
	}
	err := r.play(ctx)
	r.closeGateways()
	r.each(func(l *loop) { l.stopped = true })
	r.working.Wait()
	if err != nil {
		return nil, err
	}
	r.settle()
	return r.finish()
}

// open makes loops and clients.
func (r *run) open(ctx context.Context) error {
	s, n := r.scenario, r.options.Loops
	if err := checkFiles(s.clients() + s.gatewayFiles()); err != nil {
		return err
	}
	if n <= 0 {
		n = max(1, runtime.GOMAXPROCS(0)/2)
	}
	name := s.Share.Run
	if name == "" {
		var random [3]byte
		_, _ = rand.Read(random[:])
		name = hex.EncodeToString(random[:])
	}
	for i := range n {
		l, err := newLoop(r, i)
		if err != nil {
			for _, l := range r.loops {
				l.close()
			}
			return err
		}
		r.loops = append(r.loops, l)
	}
	parts := s.Parts
	if s.Shape != Mixed {
		parts = []*Scenario{s}
	}
	first := 0
	for i, part := range parts {
		f := newFlow(part, name, i, first, s.Shape == Mixed, r.loops)
		r.flows = append(r.flows, f)
		first += f.clients
	}
	var err error
	if r.endpoints, err = resolve(ctx, s, s.clients(), n); err == nil {
		err = r.openGateways(ctx)
	}
	if err != nil {
		r.closeGateways()
		for _, l := range r.loops {
			l.close()
		}
	}
	return err
}

// checkFiles raises the limit of open files as far as it goes, and says if that isn't enough.
func checkFiles(clients int) error {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return nil
	}
	need := uint64(clients + filesReserve)
	if limit.Cur < limit.Max && limit.Cur < need {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
	if limit.Cur < need {
		return fmt.Errorf("%w: %d clients need %d open files, and the limit is %d: raise it (ulimit -n), or use several processes", ErrScenario, clients, need, limit.Cur)
	}
	return nil
}

// play goes through the phases.
func (r *run) play(ctx context.Context) error {
	r.started, r.start = time.Now(), now()
	r.result = &Result{Version: ResultVersion, Scenario: r.scenario, Machine: ThisMachine(), Started: r.started, Processes: 1}
	r.lastTick, r.lastCPU = r.start, processCPU()
	if sample, ok := r.look(); ok {
		r.result.Broker = &BrokerUse{ResidentBytesBefore: sample.ResidentBytes}
		r.lastSample, r.sample = sample, sample
	}
	var m *meter
	if r.scenario.Shape == Idle { // there connecting is what is measured
		m = r.count("connect")
	}
	if err := r.connect(); err != nil {
		return err
	}
	start := now()
	if r.options.Started != nil && !r.interrupted() {
		at, err := r.options.Started(ctx)
		if err != nil {
			return err
		}
		r.phase("wait", time.Until(at), true, nil)
		start = now()
	}
	if m == nil && r.scenario.RampUp+r.scenario.WarmUp == 0 {
		m = r.count("connect")
	}
	if !r.interrupted() { // else not all who should hear it may be there
		r.sections(func(s *section) { s.begin(start) })
	}
	r.phase("ramp_up", r.scenario.RampUp, true, nil)
	r.phase("warm_up", r.scenario.WarmUp, true, nil)
	if m == nil {
		m = r.count("warm_up")
	}
	r.measure(m)
	if r.scenario.Shape == Offline {
		r.comeBack()
	}
	r.close()
	return nil
}

func (r *run) interrupted() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// each has every loop call f, one after the other, and returns when all have.
func (r *run) each(f func(*loop)) {
	var done sync.WaitGroup
	var lock sync.Mutex
	for _, l := range r.loops {
		done.Add(1)
		l.post(func() {
			lock.Lock()
			f(l)
			lock.Unlock()
			done.Done()
		})
	}
	done.Wait()
}

// sections has every section's loop call f.
func (r *run) sections(f func(*section)) {
	r.each(func(l *loop) {
		for _, s := range l.sections {
			f(s)
		}
	})
}

// sum adds up what f says of each section.
func (r *run) sum(f func(*section) int) int {
	n := 0
	r.sections(func(s *section) { n += f(s) })
	return n
}

// connections is how many are open.
func (r *run) connections() int {
	n := 0
	r.each(func(l *loop) { n += l.open })
	return n
}

// phase lasts for a time, or until done says that it is over, or if it heeds an interrupt until there is one. Meanwhile it takes the
// seconds of the timeline.
func (r *run) phase(name string, d time.Duration, heeds bool, done func() bool) {
	if d <= 0 {
		return
	}
	start := now()
	timer := time.NewTimer(tick)
	defer timer.Stop()
	stop := r.stop
	if !heeds {
		stop = nil
	}
	for (done == nil || !done()) && now()-start < int64(d) {
		wait := int64(tick)
		if done == nil { // nothing to look at before the second or the phase ends
			wait = max(1, min(start+int64(d), r.lastTick+int64(time.Second))-now())
		}
		timer.Reset(time.Duration(wait))
		over := false
		select {
		case <-timer.C:
		case <-stop:
			over = true
		}
		if over {
			break
		}
		if now()-r.lastTick >= int64(time.Second) {
			r.second(name)
		}
	}
	r.second(name)
	r.result.Phases = append(r.result.Phases, Phase{Name: name, At: seconds(start - r.start), Seconds: seconds(now() - start)})
}

func seconds(nanos int64) float64 { return float64(nanos) / 1e9 }

// dial has the clients of which a function says so connect.
func (r *run) dial(which func(*client) bool) {
	r.sections(func(s *section) {
		var list []*client
		for _, c := range s.clients {
			if !c.gone && which(c) {
				list = append(list, c)
			}
		}
		s.dials.begin(list, now())
	})
}

// connect has the clients connect that are there from the beginning.
func (r *run) connect() error {
	if r.scenario.Shape != Offline {
		r.dial(func(c *client) bool { return c.role != visitor && !c.spare })
		if err := r.await(); err != nil {
			return err
		}
		return r.publishRetained()
	}
	r.dial(func(c *client) bool { return c.role == subscribing })
	if err := r.await(); err != nil {
		return err
	}
	r.each(func(l *loop) {
		for _, c := range l.clients {
			l.leave(c, false)
		}
	})
	r.phase("leave", closeMax, true, func() bool { return r.connections() == 0 })
	r.dial(func(c *client) bool { return c.role == publishing })
	return r.await()
}

// publishRetained has the publishers of Retained publish.
func (r *run) publishRetained() error {
	topics := 0
	r.sections(func(s *section) {
		if s.Shape == Retained {
			topics += s.Topics
			for _, p := range s.publishers {
				s.wake(p)
			}
		}
	})
	if topics == 0 {
		return nil
	}
	r.quiet("publish", func() (int, bool) {
		return r.sum(func(s *section) int { return b2i(s.Shape == Retained && !s.published()) }), true
	})
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// await returns when no client is on its way any more, or none arrives. It fails if there are clients and none has come.
func (r *run) await() error {
	last, at := uint64(0), now()
	// A client that takes too long fails by itself before all of them are given up.
	const longest = int64(setupMax + 2*sweepTime)
	r.phase("connect", never, true, func() bool {
		n, progress := 0, uint64(0)
		r.each(func(l *loop) {
			n += len(l.timers)
			progress += l.progress
			for _, s := range l.sections {
				n += len(s.dials.queue) + len(s.dials.again) + s.dials.busy
			}
		})
		if progress != last {
			last, at = progress, now()
		}
		return n == 0 || now()-at > longest
	})
	ready := 0
	r.each(func(l *loop) {
		for _, c := range l.clients {
			ready += b2i(c.state == up)
		}
	})
	if r.interrupted() || ready > 0 {
		return nil
	}
	r.each(func(l *loop) {
		for what, g := range l.faults {
			r.faults.add(what, g.Example, g.Count)
		}
	})
	if groups := r.faults.groups(); len(groups) > 0 {
		return fmt.Errorf("%w: %s (%s)", ErrConnect, groups[0].What, groups[0].Example)
	}
	return nil
}

// A meter is what was used until a moment.
type meter struct {
	at     int64
	cpu    time.Duration
	broker BrokerSample
}

func (r *run) meter() *meter {
	m := &meter{at: now(), cpu: processCPU()}
	if r.result.Broker != nil { // else no look has succeeded, and another may take long
		m.broker, _ = r.look()
	}
	return m
}

// charge adds to the result what was used since m.
func (r *run) charge(m *meter) {
	after := r.meter()
	r.result.Seconds += seconds(after.at - m.at)
	r.result.Cost.CPUSeconds += (after.cpu - m.cpu).Seconds()
	if b := r.result.Broker; b != nil {
		b.CPUSeconds += after.broker.CPUSeconds - m.broker.CPUSeconds
		b.ResidentBytesEnd = after.broker.ResidentBytes
		if n := r.connections(); n > 0 {
			b.BytesPerConnection = (float64(b.ResidentBytesEnd) - float64(b.ResidentBytesBefore)) / float64(n)
		}
		r.result.Cost.BrokerCPUSeconds = b.CPUSeconds
	}
}

// count has figures count from now on; before is the phase that is over.
func (r *run) count(before string) *meter {
	m := r.meter()
	r.second(before)
	m.at, m.cpu = now(), processCPU() // a look may have taken its time
	r.measuring = true
	return m
}

// measure keeps the load up while figures count, since m, and then waits for what is under way.
func (r *run) measure(m *meter) {
	ctx, cancel := context.WithCancel(r.ctx)
	kills := make(chan struct{})
	go func() {
		defer close(kills)
		RunKills(ctx, r.scenario.Kill, func(k Kill, err error) { r.fault("a kill command failed", fmt.Sprintf("%s: %v", k.Command, err)) })
	}()
	r.phase("measure", r.scenario.Duration, true, nil)
	r.charge(m)
	r.measuring = r.scenario.Shape == Offline // there all that is published counts, since all of it is delivered later
	r.result.Totals = r.measured.totals()
	r.result.Cost.Calls = r.measured.calls

	r.sections(func(s *section) { s.stop() })
	// What was due in the measured time and comes later has its latency still counted.
	r.late = true
	r.quiet("drain", func() (int, bool) { return 0, r.scenario.Shape == Offline })
	r.late = false
	cancel()
	<-kills
	r.sections(func(s *section) {
		for _, p := range s.publishers {
			r.result.Totals.Unsent += p.owed
		}
	})
}

// quiet waits until nothing is under way, or nothing has happened for a time. more says what else is left, and whether deliveries
// aren't waited for. In several processes nobody knows what is to come: there it waits until nothing does.
func (r *run) quiet(name string, more func() (int, bool)) {
	patience := r.scenario.Drain
	if r.interrupted() {
		patience = min(patience, hasty)
	}
	last, at := uint64(0), now()
	r.phase(name, never, false, func() bool {
		n, apart := more()
		var owed, got, progress uint64
		r.each(func(l *loop) {
			n += l.underWay
			owed, got, progress = owed+l.owed, got+l.got, progress+l.progress
		})
		if !apart {
			for _, f := range r.flows {
				n += b2i(!f.feedback)
			}
			n += b2i(got < owed)
		}
		if progress != last {
			last, at = progress, now()
		}
		return n == 0 || now()-at > int64(patience)
	})
}

// comeBack has the subscribers of an offline scenario come for their messages: that counts too.
func (r *run) comeBack() {
	r.measuring = true
	m := r.meter()
	before := r.measured.delivered
	r.dial(func(c *client) bool { return c.role == subscribing })
	r.quiet("return", func() (int, bool) {
		return r.sum(func(s *section) int { return len(s.dials.queue) + s.dials.busy }), false
	})
	r.second("return")
	published := r.result.Seconds
	r.charge(m)
	r.measuring = false
	unsent := r.result.Totals.Unsent
	r.result.Totals = r.measured.totals()
	r.result.Totals.Unsent = unsent
	r.result.Cost.Calls = r.measured.calls
	r.result.Rates.Sent = float64(r.result.Totals.Sent) / max(published, 1e-9)
	r.result.Rates.Acknowledged = float64(r.result.Totals.Acknowledged) / max(published, 1e-9)
	r.result.Rates.Delivered = float64(r.measured.delivered-before) / max(r.result.Seconds-published, 1e-9)
}

// fault counts an error of the run itself. It is safe for any goroutine.
func (r *run) fault(what, example string) {
	r.loops[0].post(func() { r.loops[0].fault(what, example) })
}

// close ends sessions and connections.
func (r *run) close() {
	erase := make([][]*client, len(r.loops))
	r.each(func(l *loop) {
		l.timers = nil
		for _, s := range l.sections {
			s.closing = true
			s.dials.queue, s.dials.again = nil, nil
			if s.Shape == Retained {
				s.clearRetained()
			}
		}
		for _, c := range l.clients {
			durable := c.known && c.section.durable(c)
			if durable && (c.section.Version < 5 || c.state != up) {
				erase[l.index] = append(erase[l.index], c)
			}
			l.leave(c, durable)
		}
	})
	r.phase("close", closeMax, false, func() bool { return r.connections() == 0 })
	if len(slices.Concat(erase...)) == 0 {
		return
	}
	r.each(func(l *loop) {
		for _, c := range erase[l.index] {
			if c.fd < 0 {
				c.erasing, c.gone = true, false
				c.section.dials.again = append(c.section.dials.again, c)
			}
		}
	})
	r.phase("erase", closeMax, false, func() bool {
		return r.connections()+r.sum(func(s *section) int { return len(s.dials.again) + s.dials.busy }) == 0
	})
}

// settle makes the audit, when the loops have ended: of messages that stay in this process at once, and of others by a Ledger.
func (r *run) settle() {
	ledger := new(Ledger)
	for _, f := range r.flows {
		q := &r.result.Audit.QoS[f.QoS]
		for _, s := range f.sections {
			q.add(s.audit)
		}
		for _, g := range f.groups {
			switch {
			case g == nil:
			case g.lost.Load():
				q.MayDrop.Duplicated += g.twice.Load()
			default:
				q.Promised.Duplicated += g.twice.Load()
			}
		}
		for i := range f.publishers {
			if p := f.publishers[i]; p != nil {
				s := p.section
				s.abandonAll(p)
			}
		}
		f.hear(func(h Heard) {
			if f.feedback {
				q.add(settle(f.QoS, f.sender(h.Publisher), &h))
			} else {
				ledger.Heard = append(ledger.Heard, h)
			}
		})
		if f.feedback {
			continue
		}
		ledger.Resent = ledger.Resent || f.resent.Load()
		for i, p := range f.publishers {
			if p != nil {
				ledger.Senders = append(ledger.Senders, *f.sender(i))
			}
		}
		r.result.Ledger = ledger
	}
}

// sender is a publisher's part of the Ledger.
func (f *flow) sender(i int) *Sender {
	p := f.publishers[i]
	sender := &Sender{Part: f.part, Publisher: i, QoS: f.QoS, Sent: p.number, Unpromised: p.unpromised}
	if f.feedback && p.until == f.membership.until.Load() { // else who knows of other processes' groups
		sender.Resumed = &p.resumed
	}
	return sender
}

// hear calls take for each stream.
func (f *flow) hear(take func(Heard)) {
	for _, s := range f.sections {
		for _, c := range s.clients {
			if c.subscriber == nil {
				continue
			}
			for i := range c.subscriber.streams {
				take(c.subscriber.streams[i].heard(f.part, f.QoS, c.subscriber.first+i))
			}
		}
	}
	for _, g := range f.groups {
		if g == nil {
			continue
		}
		for i := range g.streams {
			h := g.streams[i].heard(f.part, f.QoS, i)
			h.Shared = true
			take(h)
		}
	}
}

// finish completes the result.
func (r *run) finish() (*Result, error) {
	result := r.result
	for _, l := range r.loops {
		for what, g := range l.faults {
			r.faults.add(what, g.Example, g.Count)
		}
	}
	result.Errors = r.faults.groups()
	result.Interrupted = r.interrupted()
	result.Totals.Connects, result.Totals.Reconnects = r.total.connects, r.total.reconnects
	for _, l := range r.loops {
		result.Totals.Gone += uint64(l.gone)
	}
	connecting := result.Seconds
	if !r.scenario.revolving() {
		connecting = 0
		for _, p := range result.Phases {
			if p.Name == "connect" {
				connecting += p.Seconds
			}
		}
	} else {
		result.Totals.Connects = r.measured.connects
	}
	if r.scenario.Shape != Offline {
		result.Rates = Rates{
			Sent:         float64(result.Totals.Sent) / max(result.Seconds, 1e-9),
			Acknowledged: float64(result.Totals.Acknowledged) / max(result.Seconds, 1e-9),
			Delivered:    float64(result.Totals.Delivered) / max(result.Seconds, 1e-9),
		}
	}
	result.Rates.Connects = float64(result.Totals.Connects) / max(connecting, 1e-9)
	result.Cost.per(result.Totals)
	if b := result.Broker; b != nil {
		r.looking.Lock()
		b.ResidentBytesMax = r.memory
		r.looking.Unlock()
	}
	result.Latencies = map[string]*Latency{}
	for i, h := range r.measured.histograms() {
		if latencyNames[i] == Connect && !r.scenario.revolving() {
			h = r.total.connect
		}
		if h.TotalCount() == 0 {
			continue
		}
		latency, err := NewLatency(h)
		if err != nil {
			return nil, err
		}
		result.Latencies[latencyNames[i]] = latency
	}
	return result, nil
}
