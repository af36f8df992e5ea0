//go:build linux

package loadtest

import (
	"math"
	"testing"
	"time"
)

// TestOpenLoop: latencies count from when a message was due. A loop that stood still for five seconds sends what became due meanwhile, and
// neither it nor the broker hides that time.
func TestOpenLoop(t *testing.T) {
	h := newSharing(t, 1, false)
	s, p, l := h.flow.sections[0], h.flow.publishers[0], h.flow.sections[0].loop
	p.client.state, p.window = up, 100
	s.begin(0) // one message a second
	l.now = int64(5 * time.Second)
	s.turn()

	sent := p.client.out
	for i := range 6 {
		first, body, n, _, err := nextPacket(sent)
		if err != nil || n == 0 {
			t.Fatalf("message %d: %v", i, err)
		}
		sent = sent[n:]
		_, payload, err := splitPublish(s.Version, first, body)
		if err != nil {
			t.Fatal(err)
		}
		if due := readStamp(payload).due; due != int64(i)*int64(time.Second) {
			t.Errorf("message %d was due at %v, want %d s", i, time.Duration(due), i)
		}
		l.now = int64(6 * time.Second)
		if err := l.delivery(h.member(0), first, body); err != nil {
			t.Fatal(err)
		}
		if err := s.acknowledged(p, typePuback, p.flights.id(0), 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(sent) > 0 {
		t.Errorf("%d bytes more were sent", len(sent))
	}
	for name, test := range map[string]struct {
		lowest, highest int64
		least, most     float64 // seconds
	}{
		"sent after it was due":      {l.counts.delay.Min(), l.counts.delay.Max(), 0, 5},
		"publish to deliver":         {l.counts.deliver.Min(), l.counts.deliver.Max(), 1, 6},
		"publish to acknowledgement": {l.counts.publishAck.Min(), l.counts.publishAck.Max(), 1, 6},
	} {
		if lowest, highest := seconds(test.lowest), seconds(test.highest); math.Abs(lowest-test.least) > 0.01 || math.Abs(highest-test.most) > 0.01 {
			t.Errorf("%s: %v s to %v s, want %v s to %v s", name, lowest, highest, test.least, test.most)
		}
	}
}

// TestLateLatencies: what was due in the measured time and comes after it counts in the latencies, and in nothing else.
func TestLateLatencies(t *testing.T) {
	r := &run{result: &Result{}, measured: newCounts(), total: newCounts(), interval: newCounts()}
	for _, test := range []struct {
		measuring, late  bool
		delivered, count int64
	}{{true, false, 1, 1}, {false, true, 1, 2}, {false, false, 1, 2}} {
		r.measuring, r.late = test.measuring, test.late
		r.interval.delivered = 1
		record(r.interval.deliver, int64(time.Millisecond))
		r.second("")
		if got := r.measured.deliver.TotalCount(); int64(r.measured.delivered) != test.delivered || got != test.count {
			t.Errorf("%+v: %d messages, %d latencies", test, r.measured.delivered, got)
		}
		r.lastTick -= int64(time.Second)
	}
}
