package loadtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// testLatency is a distribution of some durations.
func testLatency(t *testing.T, durations ...time.Duration) *Latency {
	t.Helper()
	h := newHistogram()
	for _, d := range durations {
		record(h, int64(d))
	}
	l, err := NewLatency(h)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func near(a, b float64) bool { return math.Abs(a-b) <= 0.002*math.Abs(b)+1 }

func TestLatency(t *testing.T) {
	var all []time.Duration
	for i := range 1000 {
		all = append(all, time.Duration(i+1)*time.Millisecond)
	}
	l := testLatency(t, append(all, -time.Second, 2*time.Hour)...)
	if l.Count != 1002 || !near(l.P50, 500e3) || !near(l.P90, 901e3) || !near(l.P99, 991e3) || l.Min != 0 || !near(l.Max, 3600e6) {
		t.Errorf("got %+v", l)
	}
	h, err := l.Histogram()
	if err != nil || h.TotalCount() != 1002 {
		t.Errorf("got %v, %v", h, err)
	}
	for _, text := range []string{"", "no base64!", "AAAA", l.HDR[:len(l.HDR)/2]} {
		if _, err := (&Latency{HDR: text}).Histogram(); !errors.Is(err, ErrResult) {
			t.Errorf("%.20q: got %v, want ErrResult", text, err)
		}
	}
}

func testResult(t *testing.T) *Result {
	r := &Result{
		Version: ResultVersion, Started: time.Unix(1000, 0).UTC(), Seconds: 2, Processes: 1,
		Scenario:  &Scenario{Name: "x", Shape: FanIn, Password: "secret", Parts: []*Scenario{{Password: "secret"}}, Share: Share{Index: 1, Of: 2}},
		Machine:   Machine{Host: "a"},
		Totals:    Totals{Sent: 10, Delivered: 20},
		Rates:     Rates{Sent: 5, Delivered: 10},
		Cost:      Cost{CPUSeconds: 1, Calls: 40, BrokerCPUSeconds: 2},
		Latencies: map[string]*Latency{Deliver: testLatency(t, time.Millisecond)},
		Timeline: []Second{
			{At: 1, Seconds: 1, Phase: "measure", Sent: 10, Connections: 3, DeliverP99: 5, GeneratorCPU: 1},
			{At: 1.5, Seconds: 0.5, Phase: "measure", Sent: 4, Connections: 4},
			{At: 2, Seconds: 0.5, Phase: "drain", Sent: 2, Connections: 5},
		},
		Errors: []ErrorGroup{{"e", 2, "x"}},
		Broker: &BrokerUse{CPUSeconds: 2},
	}
	r.Audit.QoS[1].Promised = Tally{Expected: 5, Lost: 0, Duplicated: 1}
	return r
}

func TestResultJSON(t *testing.T) {
	r := testResult(t)
	var text bytes.Buffer
	if err := r.WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), "secret") {
		t.Error("the password is written")
	}
	if r.Scenario.Password != "secret" {
		t.Error("writing has changed the result")
	}
	got, err := ReadResult(&text)
	if err != nil {
		t.Fatal(err)
	}
	r.Scenario.Password, r.Scenario.Parts[0].Password = "", ""
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, want %+v", got, r)
	}
	for _, bad := range []string{"", "{}", `{"version":2}`, `{"version":1,"latencies":{"x":null}}`, `{"version":1,"latencies":{"x":{"hdr":"y"}}}`} {
		if _, err := ReadResult(strings.NewReader(bad)); !errors.Is(err, ErrResult) {
			t.Errorf("%s: got %v, want ErrResult", bad, err)
		}
	}
}

func TestBroken(t *testing.T) {
	for _, broken := range []Tally{{Lost: 1}, {Duplicated: 1}, {Reordered: 1}, {Corrupted: 1}} {
		var r Result
		if r.Audit.QoS[2].MayDrop = broken; r.Broken() || r.Audit.MayDrop() != broken {
			t.Errorf("%+v that may be dropped is a broken promise", broken)
		}
		if r.Audit.QoS[2].Promised = broken; !r.Broken() || r.Audit.Promised() != broken {
			t.Errorf("%+v is no broken promise", broken)
		}
	}
}

// TestFailures: a run isn't ok only because nobody could break a promise.
func TestFailures(t *testing.T) {
	lost := Audit{QoS: [3]AuditQoS{1: {MayDrop: Tally{Expected: 5, Lost: 5}}}}
	acked := map[string]*Latency{PublishAck: testLatency(t, time.Second)}
	for want, r := range map[string]Result{
		"":                             {Scenario: &Scenario{Shape: P2P, QoS: 1}, Totals: Totals{Sent: 5}, Latencies: acked},
		"2 agents were lost":           {AgentsLost: 2},
		"3 clients were lost for good": {Totals: Totals{Gone: 3}},
		"no message was delivered":     {Audit: lost},
		"no message was acknowledged":  {Scenario: &Scenario{Shape: P2P, QoS: 1}, Totals: Totals{Sent: 5}},
		"no client connected in the measured time": {Scenario: &Scenario{Shape: Connects}},
	} {
		if got := strings.Join(r.Failures(), ", "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	early := Result{Interrupted: true, Audit: lost, Scenario: &Scenario{Shape: P2P, QoS: 1}, Totals: Totals{Sent: 5}}
	if got := early.Failures(); len(got) > 0 {
		t.Errorf("interrupted: got %q", got)
	}
}

// TestMerge puts together two processes of which one publishes what the other gets.
func TestMerge(t *testing.T) {
	a, b := testResult(t), testResult(t)
	b.Started, b.Machine.Host, b.Seconds, b.Interrupted, b.Broker = a.Started.Add(time.Second), "b", 3, true, nil
	b.Latencies[Connect] = testLatency(t, time.Second)
	b.Errors = append(b.Errors, ErrorGroup{"f", 1, "y"})
	a.Ledger = &Ledger{Senders: []Sender{{Publisher: 0, QoS: 1, Sent: 100, Unpromised: spans{{99, 100}}}}}
	b.Ledger = &Ledger{
		Senders: []Sender{{Publisher: 1, QoS: 1, Sent: 10}},
		Heard: []Heard{
			{Publisher: 0, QoS: 1, Next: 98, Missing: spans{{5, 6}}},
			{Publisher: 1, QoS: 1, Next: 10},
			{Publisher: 2, QoS: 1, Next: 7, Missing: spans{{1, 2}}}, // of a process that was lost
		},
	}
	m, err := Merge(a, b)
	if err != nil {
		t.Fatal(err)
	}
	if want := (AuditQoS{
		Promised: Tally{Expected: 5 + 5 + 99 + 10, Lost: 2, Duplicated: 2},
		MayDrop:  Tally{Expected: 1 + 7, Lost: 1 + 1},
	}); m.Audit.QoS[1] != want {
		t.Errorf("audit: got %+v, want %+v", m.Audit.QoS[1], want)
	}
	if m.Totals.Sent != 20 || m.Rates.Delivered != 20 || m.Cost.CPUSeconds != 2 || m.Cost.BrokerCPUSeconds != 2 || m.Cost.MicrosPerMessage != 2e6/40 ||
		m.Seconds != 3 || m.Processes != 2 || len(m.Hosts) != 2 || !m.Interrupted || m.Broker == nil || m.Scenario.Share != (Share{}) {
		t.Errorf("got %+v", m)
	}
	if m.Latencies[Deliver].Count != 2 || m.Latencies[Connect].Count != 1 {
		t.Errorf("latencies: got %+v", m.Latencies)
	}
	if want := []ErrorGroup{{"e", 4, "x"}, {"f", 1, "y"}}; !reflect.DeepEqual(m.Errors, want) {
		t.Errorf("errors: got %v, want %v", m.Errors, want)
	}
	// The second one began a second later; its entries of a second count as their mean.
	for i, want := range []Second{
		{At: 1, Sent: 10, Connections: 3, DeliverP99: 5, GeneratorCPU: 1},
		{At: 2, Sent: 3 + 10, Connections: 5 + 3, DeliverP99: 5, GeneratorCPU: 1},
		{At: 3, Sent: 3, Connections: 5},
	} {
		want.Seconds, want.Phase = 1, m.Timeline[i].Phase
		if m.Timeline[i] != want {
			t.Errorf("second %d: got %+v, want %+v", i, m.Timeline[i], want)
		}
	}

	// Duplicates at QoS 1 are explained if somebody sent messages again.
	b.Ledger.Resent = true
	if m, err = Merge(a, b); err != nil || m.Audit.QoS[1].Promised.Duplicated != 0 || m.Audit.QoS[1].MayDrop.Duplicated != 2 {
		t.Errorf("got %+v, %v", m.Audit.QoS[1], err)
	}
	if a.Totals.Sent != 10 || a.Audit.QoS[1].Promised.Duplicated != 1 {
		t.Error("merging has changed a result")
	}

	if _, err := Merge(); !errors.Is(err, ErrResult) {
		t.Errorf("nothing: got %v", err)
	}
	if b.Version = 7; true {
		if _, err := Merge(a, b); !errors.Is(err, ErrResult) {
			t.Errorf("version 7: got %v", err)
		}
	}
	b.Version = ResultVersion
	b.Latencies[Deliver] = &Latency{HDR: "x"}
	if _, err := Merge(a, b); !errors.Is(err, ErrResult) {
		t.Errorf("bad histogram: got %v", err)
	}
}

func FuzzReadResult(f *testing.F) {
	text, err := json.Marshal(&Result{Version: ResultVersion, Latencies: map[string]*Latency{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	h := newHistogram()
	record(h, 1e6)
	l, err := NewLatency(h)
	if err != nil {
		f.Fatal(err)
	}
	if text, err = json.Marshal(&Result{Version: ResultVersion, Latencies: map[string]*Latency{Deliver: l}, Ledger: &Ledger{Heard: []Heard{{Missing: spans{{1, 2}}}}}}); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ReadResult(bytes.NewReader(text))
		if err != nil {
			return
		}
		_, _ = Merge(r, r)
	})
}
