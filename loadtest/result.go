package loadtest

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// ResultVersion is the version of a Result's JSON that this package writes. It reads no other.
const ResultVersion = 1

// resultBytesMax bounds a result that is read.
const resultBytesMax = 256 << 20

// Result is what a run found out. Figures are of the measured time, but for Audit and Errors, which are of the whole run.
type Result struct {
	Version  int       `json:"version"` // ResultVersion
	Scenario *Scenario `json:"scenario"`
	Machine  Machine   `json:"machine"` // of the generator
	Started  time.Time `json:"started"`
	// Seconds is how long was measured.
	Seconds float64 `json:"seconds"`
	// Interrupted says that the run was ended before its time. What was measured until then counts.
	Interrupted bool `json:"interrupted,omitempty"`
	// Processes is how many took part, Hosts their machines if it is more than one.
	Processes int `json:"processes"`
	// AgentsLost is how many more should have: they were lost, or have failed.
	AgentsLost int       `json:"agents_lost,omitempty"`
	Hosts      []Machine `json:"hosts,omitempty"`

	Phases []Phase `json:"phases"`
	Totals Totals  `json:"totals"`
	Rates  Rates   `json:"rates"`
	Cost   Cost    `json:"cost"`

	// Latencies are by name: publish_ack, deliver, connect, retained (from SUBSCRIBE to the last retained message), and send_delay,
	// which is how long after its time a message of an open loop was written: what the generator, or a full window, adds.
	Latencies map[string]*Latency `json:"latencies"`
	Timeline  []Second            `json:"timeline"`
	Audit     Audit               `json:"audit"`
	Errors    []ErrorGroup        `json:"errors,omitempty"`
	Broker    *BrokerUse          `json:"broker,omitempty"` // nil if nobody looked

	// Ledger is there while processes that ran a scenario together have yet to be merged.
	Ledger *Ledger `json:"ledger,omitempty"`
}

// The names of Latencies.
const (
	PublishAck    = "publish_ack"
	Deliver       = "deliver"
	Connect       = "connect"
	RetainedReply = "retained"
	SendDelay     = "send_delay"
)

// Machine is what figures depend on besides the broker.
type Machine struct {
	Host   string `json:"host"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory uint64 `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Load   string `json:"load_average"` // at the start
	Files  uint64 `json:"open_files_limit"`
}

// Phase is a part of a run: connect, ramp_up, warm_up, measure, drain, close; of an offline scenario leave and return too.
type Phase struct {
	Name    string  `json:"name"`
	At      float64 `json:"at_seconds"` // since Started
	Seconds float64 `json:"seconds"`
}

// Totals are counts of the measured time.
type Totals struct {
	Sent         uint64 `json:"sent"`         // PUBLISH packets, first sends only
	Acknowledged uint64 `json:"acknowledged"` // by PUBACK, or by PUBCOMP
	Expected     uint64 `json:"expected"`     // deliveries that Sent causes
	Delivered    uint64 `json:"delivered"`    // deliveries that came
	Unsent       uint64 `json:"unsent"`       // messages that were due and never sent, of the whole run
	Connects     uint64 `json:"connects"`     // connections established, until CONNACK
	Reconnects   uint64 `json:"reconnects"`   // of these again, after a connection had ended that should not have
	Disconnects  uint64 `json:"disconnects"`  // connections that ended, of those that were established
	Gone         uint64 `json:"gone"`         // clients that failed and stayed away, of the whole run
	Retained     uint64 `json:"retained"`     // subscriptions whose retained messages all came
	BytesOut     uint64 `json:"bytes_out"`    // of the sockets
	BytesIn      uint64 `json:"bytes_in"`
}

// Rates are per second of the measured time.
type Rates struct {
	Sent         float64 `json:"sent"`
	Acknowledged float64 `json:"acknowledged"`
	Delivered    float64 `json:"delivered"`
	Connects     float64 `json:"connects"`
}

// Cost is what the measured time took. A message is a delivery, and where none is expected a connect.
type Cost struct {
	CPUSeconds       float64 `json:"generator_cpu_seconds"`
	MicrosPerMessage float64 `json:"generator_micros_per_message"`
	Calls            uint64  `json:"generator_calls"` // reads, writes and waits
	CallsPerMessage  float64 `json:"generator_calls_per_message"`

	// Of the broker, if somebody looked.
	BrokerCPUSeconds       float64 `json:"broker_cpu_seconds,omitempty"`
	BrokerMicrosPerMessage float64 `json:"broker_micros_per_message,omitempty"`
}

// per computes the cost of a message.
func (c *Cost) per(t Totals) {
	n := t.Delivered
	if n == 0 {
		n = t.Connects
	}
	c.MicrosPerMessage, c.CallsPerMessage, c.BrokerMicrosPerMessage = 0, 0, 0
	if n > 0 {
		c.MicrosPerMessage, c.CallsPerMessage = c.CPUSeconds*1e6/float64(n), float64(c.Calls)/float64(n)
		c.BrokerMicrosPerMessage = c.BrokerCPUSeconds * 1e6 / float64(n)
	}
}

// Second is one second of the timeline.
type Second struct {
	At           float64 `json:"at_seconds"` // its end, since Started
	Seconds      float64 `json:"seconds"`    // how long it really was
	Phase        string  `json:"phase"`
	Sent         float64 `json:"sent"` // this and the next four per second
	Acknowledged float64 `json:"acknowledged"`
	Delivered    float64 `json:"delivered"`
	Connects     float64 `json:"connects"`
	Errors       float64 `json:"errors"`
	Connections  int     `json:"connections"` // open at its end
	// Percentiles in microseconds; 0 if there was nothing.
	PublishAckP50 float64 `json:"publish_ack_p50_micros"`
	PublishAckP99 float64 `json:"publish_ack_p99_micros"`
	DeliverP50    float64 `json:"deliver_p50_micros"`
	DeliverP99    float64 `json:"deliver_p99_micros"`
	ConnectP99    float64 `json:"connect_p99_micros"`
	// GeneratorCPU is in cores. The broker's are 0 if nobody looked.
	GeneratorCPU float64 `json:"generator_cpu"`
	BrokerCPU    float64 `json:"broker_cpu,omitempty"`
	BrokerMemory uint64  `json:"broker_memory_bytes,omitempty"`
}

// BrokerSample is what a broker has used at a moment.
type BrokerSample struct {
	At            time.Time `json:"at"`
	CPUSeconds    float64   `json:"cpu_seconds"` // since it started
	ResidentBytes uint64    `json:"resident_bytes"`
}

// BrokerUse is what the broker has used in the measured time, and its memory in all of the run.
type BrokerUse struct {
	CPUSeconds          float64 `json:"cpu_seconds"`
	ResidentBytesBefore uint64  `json:"resident_bytes_before"` // any client connected
	ResidentBytesMax    uint64  `json:"resident_bytes_max"`
	ResidentBytesEnd    uint64  `json:"resident_bytes_end"` // of the measured time
	// BytesPerConnection is by how much memory grew until the end of the measured time, for each connection.
	BytesPerConnection float64 `json:"bytes_per_connection"`
}

// ErrorGroup is errors of one kind.
type ErrorGroup struct {
	What    string `json:"what"`
	Count   uint64 `json:"count"`
	Example string `json:"example"`
}

// Audit is what became of all messages.
type Audit struct {
	QoS [3]AuditQoS `json:"qos"`
}

// AuditQoS is the audit of the messages of one QoS.
//
// Promised are those that the broker had to deliver: at QoS 1 and 2, acknowledged by it, to subscribers that were connected all
// the time or have a durable session. A promise is broken too by a message of any QoS that comes changed; by one that overtakes
// another of its publisher for the same subscriber, but for shared subscriptions, which have no order; and by one that comes
// twice where no reconnect allows it.
//
// MayDrop are all others, and what may happen to them: QoS 0; what was published while a subscriber without a durable session was away;
// what was never acknowledged; and duplicates at QoS 1 after a reconnect.
type AuditQoS struct {
	Promised Tally `json:"promised"`
	MayDrop  Tally `json:"may_drop"`
}

// Tally counts deliveries.
type Tally struct {
	Expected   uint64 `json:"expected"`
	Lost       uint64 `json:"lost"`
	Duplicated uint64 `json:"duplicated"`
	Reordered  uint64 `json:"reordered"`
	Corrupted  uint64 `json:"corrupted"`
}

func (t *Tally) add(o Tally) {
	t.Expected += o.Expected
	t.Lost += o.Lost
	t.Duplicated += o.Duplicated
	t.Reordered += o.Reordered
	t.Corrupted += o.Corrupted
}

// Clean says whether nothing is lost, duplicated, reordered or corrupted.
func (t Tally) Clean() bool { return t.Lost+t.Duplicated+t.Reordered+t.Corrupted == 0 }

func (a *AuditQoS) add(o AuditQoS) {
	a.Promised.add(o.Promised)
	a.MayDrop.add(o.MayDrop)
}

// Broken says whether the broker has broken a promise.
func (r *Result) Broken() bool {
	for _, q := range r.Audit.QoS {
		if !q.Promised.Clean() {
			return true
		}
	}
	return false
}

// Failures says why the run wasn't the one that was asked for, though no promise may be broken: clients or agents that were lost for
// good, or a broker that did nothing at all. There is none for what Reconnect allows.
func (r *Result) Failures() []string {
	var all []string
	add := func(when bool, text string) {
		if when {
			all = append(all, text)
		}
	}
	add(r.AgentsLost > 0, fmt.Sprintf("%d agents were lost", r.AgentsLost))
	add(r.Totals.Gone > 0, fmt.Sprintf("%d clients were lost for good", r.Totals.Gone))
	if r.Interrupted { // it may have been too early for anything
		return all
	}
	t := r.Audit.Promised()
	t.add(r.Audit.MayDrop())
	add(t.Expected > 0 && t.Lost == t.Expected, "no message was delivered")
	if s := r.Scenario; s != nil {
		add(s.QoS > 0 && r.Totals.Sent > 0 && r.Latencies[PublishAck] == nil, "no message was acknowledged")
		add(s.revolving() && r.Totals.Connects == 0, "no client connected in the measured time")
	}
	return all
}

// Promised returns the promised deliveries of all QoS together, MayDrop all others.
func (a *Audit) Promised() Tally {
	var t Tally
	for _, q := range a.QoS {
		t.add(q.Promised)
	}
	return t
}

// MayDrop returns the deliveries of all QoS that weren't promised.
func (a *Audit) MayDrop() Tally {
	var t Tally
	for _, q := range a.QoS {
		t.add(q.MayDrop)
	}
	return t
}

// WriteJSON writes the result, indented, without the password of its scenario.
func (r *Result) WriteJSON(w io.Writer) error {
	c := *r
	if c.Scenario != nil {
		c.Scenario = c.Scenario.Clone()
		for _, s := range append([]*Scenario{c.Scenario}, c.Scenario.Parts...) {
			s.Password = ""
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(&c)
}

// ReadResult reads what WriteJSON wrote.
func ReadResult(r io.Reader) (*Result, error) {
	text, err := io.ReadAll(io.LimitReader(r, resultBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	if len(text) > resultBytesMax {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrResult, resultBytesMax)
	}
	result := new(Result)
	if err := json.Unmarshal(text, result); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrResult, err)
	}
	if result.Version != ResultVersion {
		return nil, fmt.Errorf("%w: version %d, and not %d", ErrResult, result.Version, ResultVersion)
	}
	for name, l := range result.Latencies {
		if l == nil {
			return nil, fmt.Errorf("%w: latency %q is empty", ErrResult, name)
		}
		if _, err := l.Histogram(); err != nil {
			return nil, fmt.Errorf("%w: latency %q: %w", ErrResult, name, err)
		}
	}
	return result, nil
}
