package chaos

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Kind is what is promised to those who receive.
type Kind byte

// Kinds of accounts.
const (
	// Durable gets each message, in order.
	Durable Kind = iota
	// Group is of all members of a shared subscription together: each message, in any
	// order.
	Group
	// Volatile is of one connection without a session that outlives it: it may miss
	// messages. Of those that were sent once it gets what comes in order.
	Volatile
	// Unordered gets each message, in any order.
	Unordered
)

func (k Kind) String() string { return [...]string{"durable", "group", "volatile", "unordered"}[k] }

// Ledger is the account of all messages: of each publisher numbered from 1 in
// the order in which it sent them. The zero value is empty. Its methods are safe for
// concurrent use.
type Ledger struct {
	mu         sync.Mutex
	publishers map[string]*sent
	accounts   map[string]*account
}

type sent struct {
	qos     byte
	sent    int          // the last one sent
	acked   map[int]bool // PUBACK or PUBREC came
	again   map[int]bool // sent more than once
	refused map[int]bool
}

type account struct {
	expected bool
	kind     Kind
	qos      byte
	from     map[string]int // by publisher: the last message that was sent before
	received map[string]*received
}

type received struct {
	times map[int]int
	late  []pair
	// The largest one received, of all and of those sent once.
	last, lastOnce int
}

// pair is a message that came after one that was sent later.
type pair struct{ seq, after int }

// Sent notes that a publisher sent message seq, at whatever QoS it has.
func (l *Ledger) Sent(publisher string, seq int, qos byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.publishers == nil {
		l.publishers = make(map[string]*sent)
	}
	p := l.publishers[publisher]
	if p == nil {
		p = &sent{qos: qos, acked: make(map[int]bool), again: make(map[int]bool), refused: make(map[int]bool)}
		l.publishers[publisher] = p
	}
	p.sent = max(p.sent, seq)
}

// Again notes that a publisher sent a message once more.
func (l *Ledger) Again(publisher string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publishers[publisher].again[seq] = true
}

// Refused notes that the broker refused a message: it may come nevertheless.
func (l *Ledger) Refused(publisher string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publishers[publisher].refused[seq] = true
}

// Acked notes that the broker acknowledged message seq.
func (l *Ledger) Acked(publisher string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publishers[publisher].acked[seq] = true
}

// Expect notes that an account, subscribed at a QoS, gets what is sent from now on.
func (l *Ledger) Expect(name string, kind Kind, qos byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(name)
	if a.expected {
		return
	}
	a.expected, a.kind, a.qos = true, kind, qos
	for publisher, p := range l.publishers {
		a.from[publisher] = p.sent
	}
}

func (l *Ledger) account(name string) *account {
	if l.accounts == nil {
		l.accounts = make(map[string]*account)
	}
	a := l.accounts[name]
	if a == nil {
		a = &account{from: make(map[string]int), received: make(map[string]*received)}
		l.accounts[name] = a
	}
	return a
}

// Received notes that an account got message seq. At QoS 2 that is when it is handed
// on, once for a Packet Identifier that is held.
func (l *Ledger) Received(name, publisher string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, p := l.account(name), l.publishers[publisher]
	r := a.received[publisher]
	if r == nil {
		r = &received{times: make(map[int]int)}
		a.received[publisher] = r
	}
	if r.times[seq]++; r.times[seq] > 1 || p == nil || p.refused[seq] {
		return
	}
	last := &r.last
	if a.kind == Volatile {
		if p.again[seq] {
			return
		}
		last = &r.lastOnce
	}
	if seq < *last {
		r.late = append(r.late, pair{seq, *last})
	}
	*last = max(*last, seq)
}

// Report is what became of all messages.
type Report struct {
	Sent, Acked, Again, Refused [3]int // by QoS
	Pending                     int    // sent, and never acknowledged
	Received                    map[Kind]int
	Doubled                     map[Kind]int // deliveries of QoS 1 beyond the first, which MQTT allows
	Accounts                    map[Kind]int
	Lost, Twice, Late, Unsent   []string
}

// Check returns the account: to each one that is expected, each message that was
// acknowledged has to have come, at QoS 2 once, and first deliveries of one publisher
// in the order of their numbers [MQTT-4.6.0-6].
func (l *Ledger) Check() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Received: map[Kind]int{}, Doubled: map[Kind]int{}, Accounts: map[Kind]int{}}
	for _, p := range l.publishers {
		r.Sent[p.qos] += p.sent
		r.Acked[p.qos] += len(p.acked)
		r.Again[p.qos] += len(p.again)
		r.Refused[p.qos] += len(p.refused)
		r.Pending += p.sent - len(p.acked) - len(p.refused)
	}
	for _, name := range slices.Sorted(maps.Keys(l.accounts)) {
		a := l.accounts[name]
		r.Accounts[a.kind]++
		for publisher, p := range l.publishers {
			l.compare(&r, a, publisher, p, publisher+" to "+name)
		}
		for publisher := range a.received {
			if l.publishers[publisher] == nil {
				r.Unsent = append(r.Unsent, publisher+" to "+name)
			}
		}
	}
	return r
}

// compare adds what an account got of a publisher.
func (l *Ledger) compare(r *Report, a *account, publisher string, p *sent, what string) {
	got := a.received[publisher]
	if got == nil {
		got = &received{}
	}
	from := a.from[publisher]
	if a.expected && a.kind != Volatile {
		for seq := range p.acked {
			if seq > from && got.times[seq] == 0 {
				r.Lost = append(r.Lost, fmt.Sprintf("%s: %d", what, seq))
			}
		}
	}
	for seq, n := range got.times {
		r.Received[a.kind] += n
		switch {
		case seq > p.sent:
			r.Unsent = append(r.Unsent, fmt.Sprintf("%s: %d", what, seq))
		case n > 1 && min(p.qos, a.qos) == 2:
			r.Twice = append(r.Twice, fmt.Sprintf("%s: %d, %d times", what, seq, n))
		case n > 1:
			r.Doubled[a.kind] += n - 1
		}
	}
	if a.kind == Durable || a.kind == Volatile {
		for _, late := range got.late {
			if late.seq > from && !p.refused[late.after] && !(a.kind == Volatile && p.again[late.after]) {
				r.Late = append(r.Late, fmt.Sprintf("%s: %d after %d", what, late.seq, late.after))
			}
		}
	}
}

// Err returns what is wrong, or nil.
func (r *Report) Err() error {
	var errs []error
	for _, bad := range []struct {
		what string
		list []string
	}{{"lost", r.Lost}, {"QoS 2 more than once", r.Twice}, {"out of order", r.Late}, {"never sent", r.Unsent}} {
		if n := len(bad.list); n > 0 {
			errs = append(errs, fmt.Errorf("%s: %d messages (%s)", bad.what, n, strings.Join(bad.list[:min(n, 10)], "; ")))
		}
	}
	return errors.Join(errs...)
}

// String is the account in some lines.
func (r *Report) String() string {
	var b strings.Builder
	for qos := 1; qos <= 2; qos++ {
		if r.Sent[qos] > 0 {
			fmt.Fprintf(&b, "QoS %d: %d sent, %d of them more than once, %d acknowledged, %d refused\n",
				qos, r.Sent[qos], r.Again[qos], r.Acked[qos], r.Refused[qos])
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Accounts)) {
		fmt.Fprintf(&b, "%d %v: %d received, %d of them again at QoS 1\n", r.Accounts[kind], kind, r.Received[kind], r.Doubled[kind])
	}
	fmt.Fprintf(&b, "%d without acknowledgement, %d lost, %d twice at QoS 2, %d out of order, %d never sent",
		r.Pending, len(r.Lost), len(r.Twice), len(r.Late), len(r.Unsent))
	return b.String()
}
