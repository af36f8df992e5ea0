package loopmq

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"loopmq/codec"
	"loopmq/eventloop"
	"loopmq/metrics"
	"loopmq/store"
)

// committer is the one writer of a loop. It has one batch in flight; what comes
// meanwhile collects in the next one, and that is the group commit: the slower
// the store, the larger the batches. Operations are committed in the order in
// which they were added, and their done functions run on the loop in that order.
type committer struct {
	l          *loop
	writer     store.Writer
	collecting *commit
	sealed     []*commit // to be committed before collecting, see publications
	inFlight   *commit   // nil: none
	spare      *commit
	// front is for what has to be committed before all that collects already: the
	// rest of an operation that has just returned.
	front commit
	// held are events whose commit failed, and go before what collects; events and
	// eventBytes count those, and the others that collect or are in flight for no message.
	held       []store.Event
	events     int
	eventBytes int

	// last is when the last batch began, by the loop's clock; looseDue fires when events
	// of no message have waited for company long enough, see waitsForCompany.
	last     int64
	looseDue eventloop.Timer

	requests  chan *commit // to the goroutine; nil until the first one
	scheduled bool
	stopped   bool
}

// commit is a batch with what is to be done when it has returned. What belongs to
// its operations lies in a few slices that are used again and again, in the order in
// which all of it is gone through: in a loop under load many thousands of messages
// wait for the store, and what they cost is the memory that is touched for each.
type commit struct {
	batch        store.Batch
	additions    uint64           // of all publications that have an Additions
	bytes        int              // of the messages in it
	loose        int              // how many of the operations are events of no message
	done         []doneFunc       // one per operation; nil for publications
	publications []commitUnderWay // of its OpPublish, in their order
	targets      []store.Target   // of the publications
	deliveries   []delivery       // of the publications: those of targets, and then those that have none
	numbers      []store.Number   // of its OpFinish
	events       []store.Event    // of its OpEnqueue
	after        []func()
	err          error
}

// doneFunc learns the outcome of an operation. On an error nothing is known of
// op's result.
type doneFunc func(op *store.Op, err error)

const (
	// commitTimeout bounds one try of a commit.
	commitTimeout = 10 * time.Second
	// commitTries bounds how often a batch is tried before its publishers are
	// told that the store is unavailable.
	commitTries = 4
	// commitPause is how long to wait after the first try, and twice as long each
	// time after, up to commitPauseMax.
	commitPause    = 20 * time.Millisecond
	commitPauseMax = 320 * time.Millisecond
	// collectMax and collectBytes are how many operations, and bytes of their
	// messages, may collect before their publishers are not read any more until the
	// batch is away.
	collectMax   = 8192
	collectBytes = 16 << 20
	// eventsMax and eventBytesMax bound the events of an event loop that wait for the
	// store other than with their message.
	eventsMax     = 16384
	eventBytesMax = 16 << 20
	// loosePause, looseMax and looseBytes: see waitsForCompany.
	loosePause = 20 * time.Millisecond
	looseMax   = 1024
	looseBytes = 1 << 20
)

func newCommitter(l *loop) *committer {
	k := &committer{l: l, writer: l.b.store.NewWriter("loop-" + strconv.Itoa(l.index)), collecting: &commit{}}
	k.looseDue.Init(eventloop.TimerFunc(func(*eventloop.Timer) { k.start() }))
	return k
}

// add collects an operation. The commit starts at the end of this turn, or when
// the batch in flight returns.
func (k *committer) add(op store.Op, done doneFunc) {
	k.collecting.add(&op, done)
	k.schedule()
}

// add copies op.
func (c *commit) add(op *store.Op, done doneFunc) (added *store.Op) {
	added = c.batch.Next()
	*added = *op
	if op.Message != nil {
		c.bytes += op.Message.Size()
	}
	c.done = append(c.done, done)
	return added
}

// finish collects the removal of an entry from a session's queue, in which all before
// unfinished have been finished too: one operation for as many as come in a row.
func (k *committer) finish(s *Session, n, unfinished store.Number) {
	c := k.collecting
	c.numbers = append(c.numbers, n)
	if last := len(c.batch.Ops) - 1; last >= 0 && c.batch.Ops[last].Kind == store.OpFinish && c.batch.Ops[last].Session == s.id {
		op := &c.batch.Ops[last]
		op.Numbers, op.Unfinished = c.numbers[len(c.numbers)-1-len(op.Numbers):], unfinished
		return
	}
	op := c.batch.Next()
	op.Kind, op.Session, op.Numbers, op.Unfinished = store.OpFinish, s.id, c.numbers[len(c.numbers)-1:], unfinished
	c.done = append(c.done, nil)
	k.schedule()
}

// enqueue collects what goes into outboxes, apart from any message. What is too much is
// dropped: nobody waits for it.
func (k *committer) enqueue(events []store.Event) {
	for i := range events {
		if k.events >= eventsMax || k.eventBytes >= eventBytesMax {
			k.l.m.EventsDropped[metrics.EventBacklogFull].Inc()
			continue
		}
		k.events++
		k.eventBytes += len(events[i].Data)
		k.collecting.enqueue(events[i:i+1], k.l.eventDone, false)
		k.schedule()
	}
}

// enqueue adds what goes into outboxes, and returns it as it is kept.
func (c *commit) enqueue(events []store.Event, done doneFunc, ifPublished bool) (added []store.Event) {
	first := len(c.events)
	c.events = append(c.events, events...)
	added = c.events[first:len(c.events):len(c.events)]
	for i := range added {
		op := c.batch.Next()
		op.Kind, op.Event, op.IfPublished = store.OpEnqueue, &added[i], ifPublished
		if ifPublished {
			c.bytes += len(added[i].Data)
		} else {
			c.loose++
		}
		c.done = append(c.done, done)
	}
	return added
}

// eventCommitted learns what became of an event. One whose commit failed is held, unless
// it was to be stored with a message, whose publisher is told.
func (l *loop) eventCommitted(op *store.Op, err error) {
	k := l.commits
	switch {
	case err == nil && op.Result == store.Refused:
		l.m.EventsDropped[metrics.EventOutboxFull].Inc()
	case err == nil && op.Result == store.Full:
		l.m.EventsDropped[metrics.EventStoreFull].Inc()
	case err == nil:
	case op.IfPublished:
		l.m.EventsDropped[metrics.EventStoreUnavailable].Inc()
	default:
		if len(k.held) == 0 {
			l.repeat(k.retryHeld)
		}
		k.held = append(k.held, *op.Event)
		return
	}
	if !op.IfPublished {
		k.events--
		k.eventBytes -= len(op.Event.Data)
	}
}

// retryHeld commits the events that are held, also if nothing else is to be.
func (k *committer) retryHeld() {
	switch {
	case k.stopped || len(k.held) == 0:
	case k.inFlight != nil:
		k.l.repeat(k.retryHeld)
	default:
		k.putHeldFirst()
		k.schedule()
	}
}

// putHeldFirst moves the events that are held before what collects, so that those of
// one endpoint keep their order.
func (k *committer) putHeldFirst() {
	k.front.enqueue(k.held, k.l.eventDone, false)
	clear(k.held)
	k.held = k.held[:0]
	k.putFirst(nil)
}

// publications returns the commit that publications matched at a position in the
// feed are added to. They have to be the last ones, and in one commit with none of
// another position: there, one that was matched later would be done while an
// earlier one turns out to be Stale, or has still to go to a subscription that the
// later one was matched with, and so would overtake it.
func (k *committer) publications(additions uint64) *commit {
	if c := k.collecting; c.additions != 0 && c.additions != additions {
		k.sealed = append(k.sealed, c)
		k.collect()
	}
	k.collecting.additions = additions
	return k.collecting
}

// collect begins a new commit.
func (k *committer) collect() {
	k.collecting, k.spare = k.spare, nil
	if k.collecting == nil {
		k.collecting = &commit{}
	}
}

// next returns what is committed next.
func (k *committer) next() *commit {
	if len(k.sealed) > 0 {
		return k.sealed[0]
	}
	return k.collecting
}

// putFirst moves what came into front before what collects. Whoever waits for the
// batch that caused it waits for that too.
func (k *committer) putFirst(after []func()) (moved bool) {
	f, c := &k.front, k.next()
	if len(f.done) == 0 {
		return false
	}
	for i := range c.publications {
		c.publications[i].index += len(f.batch.Ops)
	}
	f.batch.Ops, f.done = append(f.batch.Ops, c.batch.Ops...), append(f.done, c.done...)
	f.publications, f.numbers, f.events = append(f.publications, c.publications...), c.numbers, c.events
	f.additions, f.bytes, f.loose = cmp.Or(c.additions, f.additions), f.bytes+c.bytes, f.loose+c.loose
	f.after = append(append(f.after, after...), c.after...)
	*c = *f
	k.front = commit{}
	return true
}

// full reports whether publishers must wait. They don't for events, see enqueue.
func (k *committer) full() bool {
	ops, bytes := len(k.collecting.batch.Ops)-k.collecting.loose, k.collecting.bytes
	for _, c := range k.sealed {
		ops, bytes = ops+len(c.batch.Ops)-c.loose, bytes+c.bytes
	}
	return ops >= collectMax || bytes >= collectBytes
}

// busy reports whether something is not committed yet.
func (k *committer) busy() bool {
	return k.inFlight != nil || k.pending()
}

// pending reports whether there is something to commit next.
func (k *committer) pending() bool {
	return len(k.sealed) > 0 || len(k.collecting.batch.Ops) > 0 || len(k.collecting.after) > 0
}

// after calls f once all that was added so far has been committed; at once if
// nothing is pending.
func (k *committer) after(f func()) {
	if !k.busy() {
		f()
		return
	}
	k.collecting.after = append(k.collecting.after, f)
	k.schedule()
}

// afterCommits calls f on l once all that the loops have added so far, and add in
// this turn, has been committed, and what was to be done then has been.
func (l *loop) afterCommits(f func()) {
	waiting := len(l.b.loops)
	for _, other := range l.b.loops {
		other.el.Post(func() {
			other.commits.after(func() {
				l.el.Post(func() {
					if waiting--; waiting == 0 {
						f()
					}
				})
			})
		})
	}
}

func (k *committer) schedule() {
	if !k.scheduled && k.inFlight == nil {
		k.scheduled = true
		k.l.el.AtTurnEnd(k.start)
	}
}

// start sends what has collected, unless a batch is in flight.
func (k *committer) start() {
	k.scheduled = false
	if k.stopped || k.inFlight != nil || !k.pending() || k.waitsForCompany() {
		return
	}
	k.looseDue.Stop()
	k.last = k.l.el.Nanotime()
	if len(k.held) > 0 {
		k.putHeldFirst()
	}
	k.inFlight = k.next()
	if len(k.sealed) > 0 {
		k.sealed = slices.Delete(k.sealed, 0, 1)
	} else {
		k.collect()
	}
	if len(k.inFlight.batch.Ops) == 0 {
		k.returned()
		return
	}
	if k.requests == nil {
		k.requests = make(chan *commit, 1)
		k.l.b.commitGroup.Go(k.run)
	}
	k.requests <- k.inFlight // never blocks: one in flight
}

// waitsForCompany reports whether what collects can wait a little. A batch costs the
// loop as much as a hundred messages, in wakes and in caches that the writer has used, so
// events that nobody waits for are committed by themselves no more often than each
// loosePause, unless they are many; the first after a quiet time at once.
func (k *committer) waitsForCompany() bool {
	c := k.collecting
	if len(k.sealed)+len(c.after)+len(k.held) > 0 || c.loose < len(c.batch.Ops) || c.loose >= looseMax || k.eventBytes >= looseBytes {
		return false
	}
	left := k.last + int64(loosePause) - k.l.el.Nanotime()
	if k.last == 0 || left <= 0 {
		return false
	}
	if !k.looseDue.Armed() {
		k.l.el.Schedule(&k.looseDue, time.Duration(left))
	}
	return true
}

// run commits batch after batch. It is the only goroutine that uses the writer.
func (k *committer) run() {
	for c := range k.requests {
		began := time.Now()
		for try := 1; ; try++ {
			ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
			c.err = k.writer.Commit(ctx, &c.batch)
			cancel()
			if c.err == nil || errors.Is(c.err, store.ErrClosed) || errors.Is(c.err, store.ErrDead) {
				break
			}
			k.l.b.storeAnswered(c.err)
			if try >= commitTries && time.Since(began) >= k.l.b.patience() {
				break
			}
			time.Sleep(min(commitPause<<(try-1), commitPauseMax))
		}
		k.l.el.Post(k.returned)
	}
}

// stop ends the goroutine, after the batch in flight if there is one. What was
// added later is not committed.
func (k *committer) stop() {
	k.stopped = true
	k.l.m.EventsDropped[metrics.EventStoreUnavailable].Add(uint64(len(k.held)))
	if k.requests != nil {
		close(k.requests)
	}
}

// returned handles the batch that was in flight. The next one begins only then: to
// let it begin before was tried, and smaller batches cost more than they saved.
// If it was given up, so is what was added behind it: a client sends again what it
// has no acknowledgement for, and a later message of its must not be there before.
func (k *committer) returned() {
	c := k.inFlight
	if len(c.done) > 0 {
		k.l.b.storeAnswered(c.err)
	}
	if c.err != nil {
		behind := append(k.sealed, k.collecting)
		k.sealed = nil
		k.collect()
		k.ended(c)
		for _, b := range behind {
			b.err = c.err
			k.ended(b)
		}
	} else {
		k.ended(c)
	}
	if c.reset() {
		k.spare = c
	}
	k.inFlight = nil
	k.start() // before more collects
	k.l.unblock(waitCommit)
	k.l.checkDrained()
}

// ended tells those who wait for a commit.
func (k *committer) ended(c *commit) {
	publications := c.publications
	for i, done := range c.done {
		switch {
		case done != nil:
			done(&c.batch.Ops[i], c.err)
		case len(publications) > 0 && publications[0].index == i:
			k.l.publicationCommitted(&publications[0], &c.batch.Ops[i], c.err)
			publications = publications[1:]
		}
	}
	if !k.putFirst(c.after) {
		for _, f := range c.after {
			f()
		}
	}
}

// reset empties c, and reports whether it is to be used again.
func (c *commit) reset() bool {
	// Acknowledgements of deliveries come on top, and what a fan-out has.
	if max(cap(c.done), cap(c.targets), cap(c.deliveries), cap(c.events), cap(c.numbers)/2) > 2*collectMax {
		return false
	}
	c.batch.Reset()
	c.done, c.publications, c.after = emptied(c.done), emptied(c.publications), emptied(c.after)
	c.targets, c.deliveries, c.numbers, c.events = emptied(c.targets), emptied(c.deliveries), c.numbers[:0], emptied(c.events)
	c.err, c.bytes, c.loose, c.additions = nil, 0, 0, 0
	return true
}

// emptied returns s empty, with nothing left in its memory.
func emptied[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// storeAnswered keeps what Health says of the store.
func (b *Broker) storeAnswered(err error) {
	if err == nil {
		if b.degraded.Load() != nil {
			b.degraded.Store(nil)
			b.log.Info("store_recovered")
			b.endUnclaimed()
		}
		return
	}
	if b.degraded.Swap(&err) == nil {
		b.log.Error("store_unavailable", "error", err)
	}
}

// reasonFor maps the result of an operation to the reason code of the
// acknowledgement that waited for it.
func reasonFor(op *store.Op, err error) codec.ReasonCode {
	switch {
	case err != nil:
		return codec.QuotaExceeded
	case op.Result == store.Full:
		return codec.QuotaExceeded
	}
	return codec.Success
}
