package loadtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Ledger is what the audit of messages between processes is computed from. A process that runs a part of a scenario knows only
// what its own clients have sent and got; Merge puts that together.
type Ledger struct {
	Senders []Sender `json:"senders"`
	Heard   []Heard  `json:"heard"`
	// Resent says that publishers sent messages again after a reconnect, which at QoS 1 explains duplicates.
	Resent bool `json:"resent,omitempty"`
}

// Sender is what a publisher has sent.
type Sender struct {
	Part      int    `json:"part"` // of a mixed scenario
	Publisher int    `json:"publisher"`
	QoS       byte   `json:"qos"`
	Sent      uint64 `json:"sent"` // messages, numbered from 0
	// Unpromised are the numbers that were never acknowledged, as ranges [from, to).
	Unpromised spans `json:"unpromised,omitempty"`
	// Resumed is the first number that was sent when the loss of no member of a shared subscription explained anything any more; nil
	// if that isn't known.
	Resumed *uint64 `json:"resumed,omitempty"`
}

// Heard is what a subscriber, or a shared subscription, has had of one publisher.
type Heard struct {
	Part      int    `json:"part"`
	QoS       byte   `json:"qos"`
	Publisher int    `json:"publisher"`
	Next      uint64 `json:"next"`              // one above the highest number that came
	Away      bool   `json:"away,omitempty"`    // the subscriber is away: it needn't get what follows
	Missing   spans  `json:"missing,omitempty"` // numbers below Next that didn't come, as ranges [from, to)
	Excused   spans  `json:"excused,omitempty"` // numbers that needn't come
	Lost      uint64 `json:"lost,omitempty"`    // numbers that are missing, beyond what Missing remembers
	Shared    bool   `json:"shared,omitempty"`  // a shared subscription
}

// excusedTo is up to which number messages may be excused, because the subscriber is away or was.
func (h *Heard) excusedTo(sent *Sender) uint64 {
	if h.Shared && sent.Resumed != nil {
		return *sent.Resumed
	}
	return max(sent.Sent, h.Next)
}

// Merge puts together the results of processes that ran a scenario together, or load of their own at the same time. Counts and rates
// add up, histograms are merged, and the audit of messages between processes is made from their Ledgers. In the timeline, percentiles
// are the worst of any process. The results aren't changed.
func Merge(results ...*Result) (*Result, error) {
	if len(results) == 0 {
		return nil, fmt.Errorf("%w: nothing to merge", ErrResult)
	}
	first := results[0]
	m := &Result{Version: ResultVersion, Machine: first.Machine, Started: first.Started, Phases: first.Phases, Broker: first.Broker}
	if first.Scenario != nil {
		m.Scenario = first.Scenario.Clone()
		m.Scenario.Share = Share{}
	}
	errs := faults{}
	for _, r := range results {
		if r.Version != ResultVersion {
			return nil, fmt.Errorf("%w: version %d, and not %d", ErrResult, r.Version, ResultVersion)
		}
		if r.Started.Before(m.Started) {
			m.Started = r.Started
		}
		m.Seconds = max(m.Seconds, r.Seconds)
		m.Interrupted = m.Interrupted || r.Interrupted
		m.Processes += max(r.Processes, 1)
		m.addHosts(r)
		m.Totals.add(r.Totals)
		m.Rates.add(r.Rates)
		m.Cost.CPUSeconds += r.Cost.CPUSeconds
		m.Cost.Calls += r.Cost.Calls
		m.Cost.BrokerCPUSeconds = max(m.Cost.BrokerCPUSeconds, r.Cost.BrokerCPUSeconds)
		if m.Broker == nil {
			m.Broker = r.Broker
		}
		for i := range m.Audit.QoS {
			m.Audit.QoS[i].add(r.Audit.QoS[i])
		}
		for _, g := range r.Errors {
			errs.add(g.What, g.Example, g.Count)
		}
	}
	if len(m.Hosts) == 1 {
		m.Hosts = nil
	}
	m.Cost.per(m.Totals)
	m.Errors = errs.groups()
	m.Timeline = mergeTimelines(m.Started, results)
	m.settle(results)
	var err error
	m.Latencies, err = mergeLatencies(results)
	return m, err
}

// addHosts adds the machines of a result that aren't known yet.
func (r *Result) addHosts(o *Result) {
	for _, h := range append([]Machine{o.Machine}, o.Hosts...) {
		if !slices.ContainsFunc(r.Hosts, func(known Machine) bool { return known.Host == h.Host }) {
			r.Hosts = append(r.Hosts, h)
		}
	}
}

func (t *Totals) add(o Totals) {
	t.Sent += o.Sent
	t.Acknowledged += o.Acknowledged
	t.Expected += o.Expected
	t.Delivered += o.Delivered
	t.Unsent += o.Unsent
	t.Connects += o.Connects
	t.Reconnects += o.Reconnects
	t.Disconnects += o.Disconnects
	t.Gone += o.Gone
	t.Retained += o.Retained
	t.BytesOut += o.BytesOut
	t.BytesIn += o.BytesIn
}

func (r *Rates) add(o Rates) {
	r.Sent += o.Sent
	r.Acknowledged += o.Acknowledged
	r.Delivered += o.Delivered
	r.Connects += o.Connects
}

func mergeLatencies(results []*Result) (map[string]*Latency, error) {
	merged := map[string]*hdrhistogram.Histogram{}
	for _, r := range results {
		for name, l := range r.Latencies {
			h, err := l.Histogram()
			if err != nil {
				return nil, err
			}
			if merged[name] == nil {
				merged[name] = newHistogram()
			}
			merged[name].Merge(h)
		}
	}
	latencies := map[string]*Latency{}
	for name, h := range merged {
		var err error
		if latencies[name], err = NewLatency(h); err != nil {
			return nil, err
		}
	}
	return latencies, nil
}

// mergeTimelines adds up what the processes did in each second since started.
func mergeTimelines(started time.Time, results []*Result) []Second {
	var merged []Second
	for _, r := range results {
		shift := r.Started.Sub(started).Seconds()
		// A process may have several entries in a second, one for each phase: together they count as their weighted mean.
		for from := 0; from < len(r.Timeline); {
			at := binOf(shift, r.Timeline[from])
			to := from
			for to < len(r.Timeline) && binOf(shift, r.Timeline[to]) == at {
				to++
			}
			if at >= binsMax {
				break
			}
			for len(merged) <= at {
				merged = append(merged, Second{At: float64(len(merged) + 1), Seconds: 1})
			}
			merged[at].addEntries(r.Timeline[from:to])
			from = to
		}
	}
	return merged
}

// binsMax bounds a timeline to two weeks, so that a result with a wrong clock doesn't take all memory.
const binsMax = 14 * 24 * 3600

// binOf is the second since started in which an entry was for the most part.
func binOf(shift float64, s Second) int { return int(max(0, min(shift+s.At-s.Seconds/2, binsMax))) }

// addEntries adds the entries that one process has for this second.
func (s *Second) addEntries(entries []Second) {
	last := entries[len(entries)-1]
	if s.Phase == "" {
		s.Phase = last.Phase
	}
	s.Connections += last.Connections
	covered := 0.0
	for _, e := range entries {
		covered += e.Seconds
	}
	var cpu, brokerCPU float64
	for _, e := range entries {
		share := e.Seconds / max(covered, 1e-9)
		s.Sent += e.Sent * share
		s.Acknowledged += e.Acknowledged * share
		s.Delivered += e.Delivered * share
		s.Connects += e.Connects * share
		s.Errors += e.Errors * share
		cpu += e.GeneratorCPU * share
		brokerCPU += e.BrokerCPU * share
		s.PublishAckP50, s.PublishAckP99 = max(s.PublishAckP50, e.PublishAckP50), max(s.PublishAckP99, e.PublishAckP99)
		s.DeliverP50, s.DeliverP99 = max(s.DeliverP50, e.DeliverP50), max(s.DeliverP99, e.DeliverP99)
		s.ConnectP99 = max(s.ConnectP99, e.ConnectP99)
		s.BrokerMemory = max(s.BrokerMemory, e.BrokerMemory)
	}
	s.GeneratorCPU += cpu
	s.BrokerCPU = max(s.BrokerCPU, brokerCPU)
}

// settle makes the audit of messages between processes.
func (r *Result) settle(results []*Result) {
	type key struct{ part, publisher int }
	senders := map[key]*Sender{}
	resent := false
	for _, o := range results {
		if o.Ledger == nil {
			continue
		}
		resent = resent || o.Ledger.Resent
		for i := range o.Ledger.Senders {
			s := &o.Ledger.Senders[i]
			senders[key{s.Part, s.Publisher}] = s
		}
	}
	for _, o := range results {
		if o.Ledger == nil {
			continue
		}
		for i := range o.Ledger.Heard {
			h := &o.Ledger.Heard[i]
			// Of a process that is lost nobody knows what it had a promise for, nor what it sent.
			sender := senders[key{h.Part, h.Publisher}]
			if sender == nil {
				sender = &Sender{QoS: h.QoS, Sent: h.Next, Unpromised: spans{{0, h.Next}}}
			}
			if sender.QoS < uint8(len(r.Audit.QoS)) {
				r.Audit.QoS[sender.QoS].add(settle(sender.QoS, sender, h))
			}
		}
	}
	if q := &r.Audit.QoS[1]; resent {
		q.MayDrop.Duplicated += q.Promised.Duplicated
		q.Promised.Duplicated = 0
	}
}
