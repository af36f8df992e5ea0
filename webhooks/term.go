package webhooks

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"loopmq/store"
)

const (
	// heldBytes bounds the records that a node has in memory for an endpoint, heldMax and heldMin their number.
	heldBytes = 16 << 20
	heldMax   = 8192
	heldMin   = 128
	// page is how many are asked for at a time.
	page = 512
	// splitAfter is after how many attempts a batch is split that the receiver answers, but doesn't take: it may be for
	// one of its events.
	splitAfter = 3
)

// term is delivering from beginning to end under the name of a consumer, by one goroutine, which never waits: requests,
// and calls of the store, are made by others, of which there is a bounded number.
type term struct {
	*deliverer
	consumer string
	backlog  *backlog
	limit    int // of events held

	workers sync.WaitGroup
	flying  int // requests
	results chan result

	taking     bool
	stopTaking context.CancelFunc
	taken      chan []store.Taken
	last       store.EventID // that was taken in order; of the goroutine that takes, if there is one
	behind     bool          // the consumer may have taken events behind last; likewise
	// settledMeanwhile are events that the outbox may have handed out again, as what was set aside is read again, before
	// it was told of them.
	settledMeanwhile map[store.EventID]struct{}

	settling bool
	done     []store.EventID // delivered, and the outbox isn't told yet
	dead     []store.Dead    // given up, likewise
	silent   [][]byte        // given up without an answer, for which a client may wait
	settled  chan settlement
}

// settlement is what the outbox is told at a time.
type settlement struct {
	done   []store.EventID
	dead   []store.Dead
	silent [][]byte
	ok     bool // it was told
}

// result is a request that has ended.
type result struct {
	unit *unit
	attempt
}

func newTerm(d *deliverer, consumer string) *term {
	e := d.endpoint
	limit := min(max(4*e.Concurrency*e.Batch.Count, heldMin), heldMax)
	if e.Order != OrderNone {
		limit = heldMax // What waits behind an event that is tried again is not to keep others back.
	}
	return &term{
		deliverer: d, consumer: consumer, backlog: newBacklog(e.Batch, e.Order != OrderNone),
		limit:   limit,
		results: make(chan result, e.Concurrency), // Nobody waits to hand over what there is a place for.
		taken:   make(chan []store.Taken, 1), settled: make(chan settlement, 1),
		behind: true,
	}
}

// run delivers until the deliverer halts and what is under way has ended, or until ctx ends.
func (t *term) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for halted := false; !halted && ctx.Err() == nil; {
		t.take(ctx)
		wake := t.begin(ctx, time.Now())
		t.settle(ctx)
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
		select {
		case taken := <-t.taken:
			t.taking = false
			t.stopTaking()
			t.add(taken)
		case r := <-t.results:
			t.flying--
			t.finish(ctx, r, time.Now())
		case s := <-t.settled:
			t.settling = false
			for _, id := range s.done {
				t.forget(id)
			}
			for _, d := range s.dead {
				t.forget(d.ID)
			}
		case <-t.poked:
		case <-timer.C:
		case <-t.halt:
			halted = true
		case <-ctx.Done():
		}
	}
	t.part(ctx)
}

// part ends a term: what was delivered is not to be delivered again.
func (t *term) part(ctx context.Context) {
	t.workers.Wait()
	for len(t.results) > 0 {
		t.finish(ctx, <-t.results, time.Now())
	}
	t.workers.Wait()
	last, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if len(t.settled) > 0 {
		if s := <-t.settled; !s.ok {
			_ = t.tell(last, s.done, s.dead)
		}
	}
	_ = t.tell(last, t.done, t.dead)
}

// take asks the outbox for events if there is room for some.
func (t *term) take(ctx context.Context) {
	b := t.backlog
	if len(b.returning) > 0 && t.taking {
		t.stopTaking() // it may wait for long
	}
	if t.taking || t.disabled.Load() {
		return
	}
	if after, ok := b.comeBack(); ok {
		t.behind = true
		if after.Less(t.last) {
			t.last = after
		}
	}
	room, bytes := t.room()
	if (room <= 0 || bytes <= 0) && b.ordered && b.setAside() {
		room, bytes = t.room()
	}
	if room <= 0 || bytes <= 0 {
		return
	}
	t.taking, t.settledMeanwhile = true, nil
	ctx, t.stopTaking = context.WithCancel(ctx)
	t.workers.Go(func() { t.taken <- t.fetch(ctx, min(room, page), bytes) })
}

// forget drops an event that is settled.
func (t *term) forget(id store.EventID) {
	t.backlog.forget(id)
	if !t.taking || !t.backlog.ordered {
		return
	}
	if t.settledMeanwhile == nil {
		t.settledMeanwhile = make(map[store.EventID]struct{})
	}
	t.settledMeanwhile[id] = struct{}{}
}

// room is how many events, and bytes of them, may be taken.
func (t *term) room() (events, bytes int) {
	return t.limit - len(t.backlog.held), heldBytes - t.backlog.bytes
}

// fetch returns events when there are some, or none once the deliverer halts or ctx ends.
func (t *term) fetch(ctx context.Context, limit, bytes int) []store.Taken {
	news := t.outbox.Notify(t.endpoint.Name)
	for {
		taken, err := t.more(ctx, limit, bytes)
		if len(taken) > 0 {
			return taken
		}
		if !t.stored(err) {
			if !t.sleep(ctx, storePause) {
				return nil
			}
			continue
		}
		look := time.NewTimer(t.ttl / 2) // A dead node may have left something.
		select {
		case <-news:
		case <-look.C:
		case <-t.halt:
			ctx = nil
		case <-ctx.Done():
			ctx = nil
		}
		look.Stop()
		if ctx == nil {
			return nil
		}
	}
}

// more takes events, or returns none if there are none.
//
// In order, what counts is what the consumer has, in whatever process it was taken: one that had the lease before, and
// was held up between looking at its clock and taking, may do so now. So all that is taken is read behind the last event
// read, and a Take only makes it more. Since the oldest are always taken first, nothing is missing in between.
func (t *term) more(ctx context.Context, limit, bytes int) (taken []store.Taken, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	name := t.endpoint.Name
	if t.endpoint.Order == OrderNone {
		return t.outbox.Take(ctx, name, t.consumer, limit, bytes)
	}
	for {
		if t.behind {
			taken, err = t.outbox.Resume(ctx, name, t.consumer, t.last, limit, bytes)
			if err != nil {
				return nil, err
			}
			if len(taken) > 0 {
				t.last = taken[len(taken)-1].ID
				return taken, nil
			}
		}
		taken, err = t.outbox.Take(ctx, name, t.consumer, limit, bytes)
		t.behind = err != nil || len(taken) > 0
		if !t.behind || err != nil {
			return nil, err
		}
		// What other consumers have left, from when the endpoint had no order, is not behind the last one.
		taken = slices.DeleteFunc(taken, func(e store.Taken) bool { return t.last.Less(e.ID) })
		if len(taken) > 0 {
			return taken, nil
		}
	}
}

// add takes events into the backlog.
func (t *term) add(taken []store.Taken) {
	now := time.Now()
	for _, e := range taken {
		if _, over := t.settledMeanwhile[e.ID]; over {
			continue
		}
		ev := &event{id: e.ID, record: e.Data, queued: e.Enqueued, came: now, until: t.endpoint.Until(e.Data)}
		if !ev.until.After(e.Enqueued) { // It came back when it had been given up.
			ev.until = e.Enqueued.Add(t.endpoint.MaxAge)
		}
		if t.backlog.ordered {
			ev.key = t.endpoint.Key(e.Data)
		}
		t.backlog.add(ev)
	}
}

// begin makes requests while it may, and returns when it has to look again if nothing happens before; zero: never.
func (t *term) begin(ctx context.Context, now time.Time) (wake time.Time) {
	b := t.backlog
	for t.flying < t.endpoint.Concurrency {
		events, bytes := t.room()
		fresh, hasFresh := b.complete(events <= 0 || bytes <= 0)
		again, hasAgain := b.due()
		if !hasFresh && !hasAgain {
			return time.Time{}
		}
		if when := earlier(fresh, hasFresh, again, hasAgain); when.After(now) {
			return when
		}
		until, report := t.mayBegin(now)
		if report == nil {
			// What is too old goes, so that others may come.
			t.bury(b.expire(now), now)
			if until.IsZero() || until.After(now.Add(time.Second)) {
				until = now.Add(time.Second)
			}
			return until
		}
		// Where one request shows whether the receiver is well again, it had better not be one that has failed before.
		freshFirst := hasFresh && !fresh.After(now) && (t.breaker.State() == gobreaker.StateHalfOpen || !hasAgain || again.After(now))
		var u *unit
		if freshFirst {
			u = b.fresh()
		} else {
			u = b.again()
		}
		t.fly(ctx, u, now, report)
	}
	return time.Time{}
}

func earlier(a time.Time, hasA bool, b time.Time, hasB bool) time.Time {
	if !hasA || hasB && b.Before(a) {
		return b
	}
	return a
}

// mayBegin returns how to report what came of a request if one may begin, else nil and when to ask again; zero: when
// something has happened.
func (t *term) mayBegin(now time.Time) (again time.Time, report func(error)) {
	t.mu.Lock()
	paused := t.mu.pausedUntil
	t.mu.Unlock()
	switch {
	case t.disabled.Load():
		return time.Time{}, nil
	case paused.After(now):
		return paused, nil
	}
	report, err := t.breaker.Allow()
	if errors.Is(err, gobreaker.ErrOpenState) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.mu.openUntil, nil
	}
	return time.Time{}, report
}

// fly has a unit sent.
func (t *term) fly(ctx context.Context, u *unit, now time.Time, report func(error)) {
	// What had to wait for others gets its chance, unless a client has waited for it and does no more.
	if u.attempts > 0 || t.replier != nil {
		t.bury(u.expire(now), now)
	}
	events := u.events()
	if len(events) == 0 {
		report(errNoVerdict)
		t.backlog.finish(u, now)
		return
	}
	records := make([][]byte, len(events))
	for i, e := range events {
		records[i] = e.record
	}
	if u.attempts > 0 {
		t.metrics.Retries.Inc()
	}
	t.flying++
	t.workers.Go(func() { t.results <- result{u, t.request(ctx, records, report)} })
}

// finish draws the conclusions from a request.
func (t *term) finish(ctx context.Context, r result, now time.Time) {
	u, b := r.unit, t.backlog
	if r.verdict == givenUp {
		b.retry(u, now)
		return
	}
	u.attempts++
	events := u.events()
	for _, e := range events {
		e.attempts++
		e.err, e.status = r.err, r.response.Status
	}
	if r.err != nil {
		t.note(func(p *progress) { p.failed(r.err, now) })
	}
	switch r.verdict {
	case delivered:
		for _, e := range events {
			t.done = append(t.done, e.id)
		}
		t.metrics.Lag.Store(int64(now.Sub(events[0].queued)))
		t.note(func(p *progress) { p.lastDelivered = now })
		b.finish(u, now)
	case refused:
		t.letters(events, now)
		b.finish(u, now)
	case tooMuch:
		b.split(u, now)
	case gone:
		t.disable(ctx, r.err)
		b.retry(u, now)
	default: // tryAgain
		if s := r.response.Status; s == http.StatusTooManyRequests || s == http.StatusServiceUnavailable {
			t.note(func(p *progress) { p.pausedUntil = now.Add(r.retryAfter) })
		}
		t.bury(u.expire(now), now)
		due := now.Add(max(r.retryAfter, t.backoff(u.attempts)))
		if r.response.Status != 0 && u.attempts%splitAfter == 0 && u.len() > 1 {
			b.split(u, due)
		} else {
			b.retry(u, due)
		}
	}
}

// backoff is how long to wait after a number of attempts: exponential with full jitter.
func (t *term) backoff(attempts int) time.Duration {
	longest := t.endpoint.RetryMax
	if shift := attempts - 1; shift < 32 && t.endpoint.RetryMin < longest>>shift {
		longest = t.endpoint.RetryMin << shift
	}
	return rand.N(longest) + 1
}

// disable says to all nodes that the endpoint wants no more events.
func (t *term) disable(ctx context.Context, why error) {
	t.disabled.Store(true)
	t.logger.Error("webhook_disabled", "error", why)
	t.workers.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		t.stored(t.outbox.Disable(ctx, t.endpoint.Name, why.Error()))
	})
}

// letters makes dead letters of events.
func (t *term) letters(events []*event, now time.Time) {
	for _, e := range events {
		why := errExpired
		if e.err != nil {
			why = e.err
		}
		t.dead = append(t.dead, store.Dead{ID: e.id, Reason: why.Error(), Status: e.status, Attempts: e.attempts, At: now})
	}
}

// bury gives events up that are too old.
func (t *term) bury(events []*event, now time.Time) {
	t.letters(events, now)
	if t.replier != nil {
		for _, e := range events {
			t.silent = append(t.silent, e.record)
		}
	}
}

// settle tells the outbox what has become of events, unless it is being told: the longer that takes, the more go
// together.
func (t *term) settle(ctx context.Context) {
	if t.settling || len(t.done)+len(t.dead) == 0 {
		return
	}
	s := settlement{done: t.done, dead: t.dead, silent: t.silent}
	t.settling, t.done, t.dead, t.silent = true, nil, nil, nil
	t.workers.Go(func() {
		for _, record := range s.silent {
			t.reply(ctx, record, &Response{})
		}
		for s.ok = false; !s.ok; {
			if s.ok = t.stored(t.tell(ctx, s.done, s.dead)); !s.ok && !wait(ctx, storePause) {
				break
			}
		}
		t.settled <- s
	})
}

// tell tells the outbox.
func (t *term) tell(ctx context.Context, done []store.EventID, dead []store.Dead) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if len(done) > 0 {
		if err := t.outbox.Done(ctx, t.endpoint.Name, done); err != nil {
			return err
		}
	}
	if len(dead) == 0 {
		return nil
	}
	_, err := t.outbox.Bury(ctx, t.endpoint.Name, dead, t.endpoint.MaxDead)
	return err
}
