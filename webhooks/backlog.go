package webhooks

import (
	"container/heap"
	"slices"
	"time"

	"loopmq/store"
)

// event is one that this node has taken.
type event struct {
	id     store.EventID
	record []byte
	key    string    // of its line, if the endpoint keeps an order
	queued time.Time // when it came into the outbox
	came   time.Time // when it was taken from there
	until  time.Time // when it is given up

	attempts int
	err      error // of the last attempt
	status   int
}

// backlog is what an endpoint has taken and not settled: events that wait for a request, units of them that wait for
// another attempt, and those under way. It knows what may be sent next, and nothing of sending. It belongs to one
// goroutine.
//
// What is kept in order is a line: the events of one key. A line is in one unit at a time, so events of a key never
// overtake each other, however often they are tried. Without an order each event is a line by itself.
type backlog struct {
	batch   Batch
	ordered bool

	held  map[store.EventID]int // their bytes
	bytes int

	lines map[string]*line // those that are kept in order, by key
	// returning are the lines that were set aside and may go on.
	returning []*line
	// ready are the lines that have events and are in no unit, in the order of their coming.
	ready       []*line
	readyEvents int
	readyBytes  int
	retries     retries
}

// line is events that go one after another.
type line struct {
	key    string
	events []*event // without those in a unit
	busy   bool     // in a unit
	// last is the last event that came into a unit. aside: those behind it are in the outbox
	// only, since the unit is tried again and they took the room of others.
	last  store.EventID
	aside bool
}

// part is what a unit has of a line.
type part struct {
	line   *line
	events []*event
}

// unit is what one request is made of. It stays the same over all attempts, so that a receiver can tell that a request
// comes again, until it is split.
type unit struct {
	parts    []part
	rest     *unit     // comes behind it, in the same line
	attempts int       // since it is what it is
	due      time.Time // of the next attempt
}

// events returns what is in the unit, without its rest.
func (u *unit) events() (all []*event) {
	for _, p := range u.parts {
		all = append(all, p.events...)
	}
	return all
}

func (u *unit) len() (n int) {
	for _, p := range u.parts {
		n += len(p.events)
	}
	return n
}

// expire removes what is too old, and returns it.
func (u *unit) expire(now time.Time) (old []*event) {
	for i := range u.parts {
		var gone []*event
		u.parts[i].events, gone = tooOld(u.parts[i].events, now)
		old = append(old, gone...)
	}
	return old
}

func newBacklog(b Batch, ordered bool) *backlog {
	return &backlog{batch: b, ordered: ordered, held: make(map[store.EventID]int), lines: make(map[string]*line)}
}

// add takes an event in. Events of one key have to come in their order; one that is here already is passed over.
func (b *backlog) add(e *event) {
	l := b.lines[e.key]
	if _, ok := b.held[e.id]; ok || l != nil && l.aside {
		return
	}
	b.held[e.id] = len(e.record)
	b.bytes += len(e.record)
	if l == nil {
		l = &line{key: e.key}
		if b.ordered {
			b.lines[e.key] = l
		}
	}
	l.events = append(l.events, e)
	if l.busy {
		return
	}
	if len(l.events) == 1 {
		b.ready = append(b.ready, l)
	}
	b.readyEvents++
	b.readyBytes += len(e.record)
}

// forget drops an event that the outbox has no more.
func (b *backlog) forget(id store.EventID) {
	b.bytes -= b.held[id]
	delete(b.held, id)
}

// complete returns since when there is a request's worth of fresh events, or when there will be if no more come; ok:
// there are some at all. With full, no more can come.
func (b *backlog) complete(full bool) (when time.Time, ok bool) {
	switch {
	case b.readyEvents == 0:
		return time.Time{}, false
	case full || b.batch.Wait == 0 || b.readyEvents >= b.batch.Count || b.readyBytes >= b.batch.Bytes:
		return time.Time{}, true
	}
	return b.ready[0].events[0].came.Add(b.batch.Wait), true
}

// fresh makes a unit of what is ready. REQUIRES: there is something.
func (b *backlog) fresh() *unit {
	u := &unit{}
	count, size := 0, 0
	for len(b.ready) > 0 && count < b.batch.Count {
		l, n := b.ready[0], 0
		for n < len(l.events) && count < b.batch.Count {
			s := len(l.events[n].record)
			if count > 0 && size+s > b.batch.Bytes {
				break
			}
			n, count, size = n+1, count+1, size+s
		}
		if n == 0 {
			break
		}
		b.ready[0] = nil
		b.ready = b.ready[1:]
		for _, e := range l.events {
			b.readyEvents--
			b.readyBytes -= len(e.record)
		}
		u.parts = append(u.parts, part{l, l.events[:n:n]})
		l.last = l.events[n-1].id
		l.events, l.busy = l.events[n:], true
	}
	return u
}

// retry has a unit tried again when it is due.
func (b *backlog) retry(u *unit, due time.Time) {
	u.due = due
	heap.Push(&b.retries, u)
}

// due returns when the next unit is to be tried again.
func (b *backlog) due() (when time.Time, ok bool) {
	if len(b.retries) == 0 {
		return time.Time{}, false
	}
	return b.retries[0].due, true
}

// again returns the unit that is due next. REQUIRES: there is one.
func (b *backlog) again() *unit { return heap.Pop(&b.retries).(*unit) }

// finish lets what comes behind a unit's events go on.
func (b *backlog) finish(u *unit, now time.Time) {
	if u.rest != nil {
		b.retry(u.rest, now)
		return
	}
	for _, p := range u.parts {
		l := p.line
		l.busy = false
		if l.aside {
			b.returning = append(b.returning, l)
			continue
		}
		if len(l.events) == 0 {
			delete(b.lines, l.key)
			continue
		}
		b.ready = append(b.ready, l)
		for _, e := range l.events {
			b.readyEvents++
			b.readyBytes += len(e.record)
		}
	}
}

// setAside lets go of what waits behind units that are tried again, so that other lines have room: it comes back from
// the outbox when its line goes on. It reports whether there was something.
func (b *backlog) setAside() (some bool) {
	for _, u := range b.retries {
		for _, p := range u.parts {
			l := p.line
			if len(l.events) == 0 {
				continue
			}
			for _, e := range l.events {
				b.forget(e.id)
			}
			l.events, l.aside, some = nil, true, true
		}
	}
	return some
}

// comeBack returns the event behind which the outbox is to be read again, so that what was set aside goes on; ok: there
// is something. Nothing may be added in between.
func (b *backlog) comeBack() (after store.EventID, ok bool) {
	for i, l := range b.returning {
		if i == 0 || l.last.Less(after) {
			after = l.last
		}
		delete(b.lines, l.key)
	}
	ok = len(b.returning) > 0
	b.returning = nil
	return after, ok
}

// split makes two of a unit with several events, so that in the end the one that is the trouble is by itself. Those of
// several lines go on beside each other, those of one line one after another.
func (b *backlog) split(u *unit, due time.Time) {
	first, second := &unit{}, &unit{}
	if n := len(u.parts); n > 1 {
		first.parts, second.parts = u.parts[:n/2], u.parts[n/2:]
		b.retry(second, due)
	} else {
		p := u.parts[0]
		n := len(p.events) / 2
		first.parts = []part{{p.line, p.events[:n]}}
		second.parts = []part{{p.line, p.events[n:]}}
		first.rest, second.rest = second, u.rest
	}
	b.retry(first, due)
}

// expire removes what is too old from all that isn't under way, and returns it.
func (b *backlog) expire(now time.Time) (old []*event) {
	b.ready = slices.DeleteFunc(b.ready, func(l *line) bool {
		var gone []*event
		l.events, gone = tooOld(l.events, now)
		for _, e := range gone {
			b.readyEvents--
			b.readyBytes -= len(e.record)
		}
		old = append(old, gone...)
		if len(l.events) > 0 {
			return false
		}
		delete(b.lines, l.key)
		return true
	})
	waiting := b.retries
	b.retries = nil
	for _, u := range waiting {
		old = append(old, u.expire(now)...)
		if u.len() == 0 {
			b.finish(u, now)
		} else {
			b.retry(u, u.due)
		}
	}
	return old
}

// tooOld tells events that are too old from the others.
func tooOld(events []*event, now time.Time) (rest, old []*event) {
	for _, e := range events {
		if now.Before(e.until) {
			rest = append(rest, e)
		} else {
			old = append(old, e)
		}
	}
	return rest, old
}

// retries is a heap of units by their due time.
type retries []*unit

func (r retries) Len() int           { return len(r) }
func (r retries) Less(i, j int) bool { return r[i].due.Before(r[j].due) }
func (r retries) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *retries) Push(u any)        { *r = append(*r, u.(*unit)) }
func (r *retries) Pop() any {
	old := *r
	u := old[len(old)-1]
	old[len(old)-1] = nil
	*r = old[:len(old)-1]
	return u
}
