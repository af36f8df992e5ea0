package eventloop

import (
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"loopmq/metrics"
	"loopmq/rate"
)

// Admission says how many connections are accepted, and how fast. The zero value is no limit.
type Admission struct {
	// Connections bounds those that are open at the same time. One more is accepted and closed at once, and counted: its
	// client knows, and may try elsewhere.
	Connections int

	// Rate bounds how many are accepted in a time. What comes faster waits in the kernel's queue, and where that is full,
	// at the client.
	Rate rate.Limit
}

// gate holds a listener, or a whole Engine, to an Admission.
type gate struct {
	admission atomic.Pointer[Admission]
	accepted  rate.Bucket
	open      atomic.Int64 // connections, from accept to close
	full      atomic.Bool  // the limit was reached and logged, and the number hasn't gone down by a sixteenth since
}

func newGate(a Admission) *gate {
	g := &gate{}
	g.admission.Store(&a)
	return g
}

// wait returns how long nothing may be accepted.
func (g *gate) wait(now int64) time.Duration { return g.accepted.Wait(g.admission.Load().Rate, now) }

// admit reports whether one more connection may be open, and counts it then. first says that it is the first one
// refused for a while.
func (g *gate) admit(now int64) (ok, first bool) {
	a := g.admission.Load()
	g.accepted.Take(a.Rate, 1, now)
	if open, limit := g.open.Load(), int64(a.Connections); limit > 0 {
		if open >= limit {
			return false, g.full.CompareAndSwap(false, true)
		}
		if open < limit-limit/16 && g.full.Load() {
			g.full.Store(false)
		}
	}
	g.open.Add(1)
	return true, false
}

// SetAdmission changes what Config says of connections: the limit, 0 meaning its default, and the rate at which they are
// accepted. Connections that are open stay. It is safe for any goroutine.
func (e *Engine) SetAdmission(a Admission) {
	a.Connections = int(connectionLimit(a.Connections))
	e.gate.admission.Store(&a)
}

// SetListenerAdmission is SetAdmission for the listeners: f is called for each, and not for those that come later.
func (e *Engine) SetListenerAdmission(f func(*Listener) Admission) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ln := range e.mu.listeners {
		a := f(&ln.spec)
		ln.gate.admission.Store(&a)
	}
}

// throttled reports whether nothing may be accepted for a while, and has the timer go on then.
func (ln *listener) throttled() bool {
	wait := max(ln.gate.wait(ln.loop.now), ln.engine.gate.wait(ln.loop.now))
	if wait == 0 {
		return false
	}
	ln.engine.accepts.delays.Add(1)
	ln.loop.Schedule(&ln.timer, wait)
	return true
}

// admit decides on a connection that was accepted, and closes it if it is one too many.
func (ln *listener) admit(fd int) bool {
	e := ln.engine
	ok, first := ln.gate.admit(ln.loop.now)
	if !ok {
		e.accepts.refused[metrics.RefuseListener].Add(1)
		_ = unix.Close(fd)
		if first {
			e.logger.Warn("connection_limit", "limit", ln.gate.admission.Load().Connections, "addr", ln.addr.String())
		}
		return false
	}
	if ok, first = e.gate.admit(ln.loop.now); ok && fd < maxFiles {
		return true
	}
	if ok {
		e.gate.open.Add(-1)
	}
	ln.gate.open.Add(-1)
	e.accepts.refused[metrics.RefuseLimit].Add(1)
	_ = unix.Close(fd)
	if first {
		e.logger.Warn("connection_limit", "limit", e.MaxConnections())
	}
	return false
}

// refusesAddress reports whether nothing is accepted from an address. A peer on a unix socket has none.
func (e *Engine) refusesAddress(a netip.Addr) bool {
	return e.refuses != nil && a.IsValid() && e.refuses(a.WithZone(""))
}

// left takes back what admit counted.
func (e *Engine) left(ln *listener) {
	e.gate.open.Add(-1)
	ln.gate.open.Add(-1)
}
