package chaos

import (
	"errors"
	"fmt"
	"strings"
	"sync"
)

// Ledger is the account of all messages: of each publisher numbered from 1 in
// the order in which it sent them. The zero value is empty. Its methods are safe for
// concurrent use.
type Ledger struct {
	mu          sync.Mutex
	publishers  map[string]*sent
	subscribers map[string]map[string]*received // by subscriber and publisher
}

type sent struct {
	qos   byte
	sent  int          // the last one sent
	acked map[int]bool // PUBACK or PUBREC came
}

type received struct {
	times map[int]int
	last  int // the largest one received
	late  []int
}

// Sent notes that a publisher sent message seq, at whatever QoS it has.
func (l *Ledger) Sent(publisher string, seq int, qos byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.publishers == nil {
		l.publishers = make(map[string]*sent)
	}
	p := l.publishers[publisher]
	if p == nil {
		p = &sent{qos: qos, acked: make(map[int]bool)}
		l.publishers[publisher] = p
	}
	p.sent = max(p.sent, seq)
}

// Acked notes that the broker acknowledged message seq.
func (l *Ledger) Acked(publisher string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publishers[publisher].acked[seq] = true
}

// Expect notes that a subscriber is to get all messages, from now on.
func (l *Ledger) Expect(subscriber string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.subscribers == nil {
		l.subscribers = make(map[string]map[string]*received)
	}
	if l.subscribers[subscriber] == nil {
		l.subscribers[subscriber] = make(map[string]*received)
	}
}

// Received notes that a subscriber got message seq. At QoS 2 that is when it
// hands it on, which it does once for a Packet Identifier that it holds.
func (l *Ledger) Received(subscriber, publisher string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.subscribers[subscriber][publisher]
	if r == nil {
		r = &received{times: make(map[int]int)}
		l.subscribers[subscriber][publisher] = r
	}
	if r.times[seq]++; r.times[seq] == 1 {
		if seq < r.last {
			r.late = append(r.late, seq)
		}
		r.last = max(r.last, seq)
	}
}

// Report is what became of all messages.
type Report struct {
	Sent, Acked       int
	Received          int // deliveries
	Doubled           int // deliveries of QoS 1 beyond the first, which MQTT allows
	Pending           int // sent, and never acknowledged
	Lost, Twice, Late []string
}

// Check returns the account: for each subscriber that is expected, each message
// that was acknowledged has to have come; at QoS 2 once; and first deliveries of
// one publisher in the order of their numbers [MQTT-4.6.0-6].
func (l *Ledger) Check() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	var r Report
	for name, p := range l.publishers {
		r.Sent += p.sent
		r.Acked += len(p.acked)
		r.Pending += p.sent - len(p.acked)
		for subscriber, from := range l.subscribers {
			got := from[name]
			if got == nil {
				got = &received{}
			}
			for seq := range p.acked {
				if got.times[seq] == 0 {
					r.Lost = append(r.Lost, fmt.Sprintf("%s to %s: %d", name, subscriber, seq))
				}
			}
			for seq, n := range got.times {
				r.Received += n
				switch {
				case n > 1 && p.qos == 2:
					r.Twice = append(r.Twice, fmt.Sprintf("%s to %s: %d, %d times", name, subscriber, seq, n))
				case n > 1:
					r.Doubled += n - 1
				}
			}
			for _, seq := range got.late {
				r.Late = append(r.Late, fmt.Sprintf("%s to %s: %d", name, subscriber, seq))
			}
		}
	}
	return r
}

// Err returns what is wrong, or nil.
func (r *Report) Err() error {
	var errs []error
	for _, bad := range []struct {
		what string
		list []string
	}{{"lost", r.Lost}, {"QoS 2 more than once", r.Twice}, {"out of order", r.Late}} {
		if n := len(bad.list); n > 0 {
			errs = append(errs, fmt.Errorf("%s: %d messages (%s)", bad.what, n, strings.Join(bad.list[:min(n, 10)], "; ")))
		}
	}
	return errors.Join(errs...)
}

// String is the account in one line.
func (r *Report) String() string {
	return fmt.Sprintf("%d sent, %d acknowledged, %d without acknowledgement, %d received, %d of them again at QoS 1, %d lost, %d twice at QoS 2, %d out of order",
		r.Sent, r.Acked, r.Pending, r.Received, r.Doubled, len(r.Lost), len(r.Twice), len(r.Late))
}
