package redisstore

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"loopmq/store"
)

// feed is how far an instance has applied the feed of Changes. The member's reader
// and the writers, whose commits bring what is new, both move it on.
//
// Records of one generation are numbered without gaps, and the stream counts what
// was ever added to it: if either shows that a record was missed, because it was
// trimmed too early or Redis has lost its tail, the instance can't go on.
type feed struct {
	log  *slog.Logger
	node store.Node
	// missed is called when a record was missed, dead for an instance that is dead.
	missed func(reason string)
	dead   func(instance string)

	added   atomic.Uint64          // what additions returns
	at      atomic.Pointer[string] // what position returns
	stopped atomic.Bool

	mu struct {
		sync.Mutex
		started bool
		last    store.Number // the record that was applied last
		passed  uint64       // how many records the stream had got with that one
		check   feedState    // what is compared when it is reached
		changes []store.Change
	}
}

// feedState is a place in the feed: the id of the record that was added last, and
// how many had been added with it.
type feedState struct {
	last  store.Number
	added uint64
	// generation is that of the Redis process that has said so, if it is known.
	generation uint64
}

// newFeed returns a feed that begins behind from. Nothing is applied before start.
func newFeed(log *slog.Logger, n store.Node, from feedState) *feed {
	f := &feed{log: log, node: n}
	f.mu.last, f.mu.passed = from.last, from.added
	f.added.Store(1)
	f.setPosition(from.last)
	return f
}

// position is the id of the record that was applied last.
func (f *feed) position() string { return *f.at.Load() }

// additions is how many of the Changes applied so far were additions, plus 1.
func (f *feed) additions() uint64 { return f.added.Load() }

// start lets Changes be applied: those given at first, which are no records.
func (f *feed) start(changes []store.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.started = true
	if len(changes) > 0 {
		f.node.Apply(changes)
		f.count(changes)
	}
}

// stop ends it: nothing is applied any more. It doesn't wait for what is being
// applied.
func (f *feed) stop() { f.stopped.Store(true) }

// advance applies those of the records that weren't applied yet. When it returns,
// all of them have been, by whomever, and additions counts them. It is safe for
// concurrent use.
func (f *feed) advance(records []streamEntry) {
	if len(records) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.mu.started || f.stopped.Load() {
		return
	}
	changes := f.mu.changes[:0]
	last, passed := f.mu.last, f.mu.passed
	for i := range records {
		r := &records[i]
		if !last.Less(r.id) {
			continue
		}
		if r.id != next(last, r.id.Generation) {
			f.miss("trimmed")
			return
		}
		last, passed = r.id, passed+1
		if last == f.mu.check.last && passed != f.mu.check.added {
			f.miss("counted")
			return
		}
		change, err := changeOf(r)
		if err != nil {
			f.log.Error("read_feed", "position", streamID(r.id), "error", err)
			f.miss("malformed")
			return
		}
		changes = append(changes, change)
	}
	if len(changes) > 0 {
		f.node.Apply(changes)
		f.mu.last, f.mu.passed = last, passed
		f.count(changes) // first: who sees the position has to see what is before it
		f.setPosition(last)
		for i := range changes {
			if changes[i].Kind == store.ChangeDead {
				f.dead(changes[i].Instance)
			}
		}
	}
	clear(changes)
	f.mu.changes = changes[:0]
}

// next is the id of the record that follows one in a stream.
func next(n store.Number, generation uint64) store.Number {
	if generation != n.Generation {
		return store.Number{Generation: generation}
	}
	n.Seq++
	return n
}

// verify compares what was applied with the feed as it was once. If that place hasn't
// been reached yet it will be compared then; if it has been passed, the next call
// does.
func (f *feed) verify(s feedState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.check = feedState{}
	switch {
	case f.mu.last.Less(s.last):
		f.mu.check = s
	case f.mu.last == s.last && f.mu.passed != s.added:
		f.miss("counted")
	case s.last.Less(f.mu.last) && f.mu.last.Generation < s.generation:
		f.miss("lost") // a record of a former process that this one has never had
	}
}

// miss ends the feed: a record that was not seen may be of any session.
//
// REQUIRES: f.mu
func (f *feed) miss(reason string) {
	if !f.stopped.Swap(true) {
		f.missed("feed " + reason)
	}
}

// count makes additions count these.
//
// REQUIRES: f.mu
func (f *feed) count(changes []store.Change) {
	var n uint64
	for i := range changes {
		if changes[i].Kind.Adds() {
			n++
		}
	}
	f.added.Add(n)
}

func (f *feed) setPosition(n store.Number) {
	id := streamID(n)
	f.at.Store(&id)
}

// changeOf returns the Change of a record.
func changeOf(r *streamEntry) (store.Change, error) {
	i := slices.Index(r.fields, changeField)
	if i < 0 || i+1 >= len(r.fields) {
		return store.Change{}, errChange
	}
	return decodeChange(r.fields[i+1])
}
