package webhooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"loopmq/metrics"
	"loopmq/store"
)

// A batch that is refused is split until what is the trouble is by itself, and nothing else is lost or tried twice.
func TestOneBadEventOfABatch(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusInternalServerError} {
		for _, order := range []Order{OrderNone, OrderTopic} {
			t.Run(fmt.Sprint(status, order), func(t *testing.T) {
				t.Parallel()
				rc := mustReceive(t, func(_ http.ResponseWriter, _ *http.Request, events []got) int {
					if slices.ContainsFunc(events, func(e got) bool { return e.Data == 13 }) {
						return status
					}
					return http.StatusOK
				})
				e := endpointAt("a", rc.URL)
				e.Order, e.Batch = order, Batch{Count: 16}
				e.MaxAge = time.Hour
				b := mustDeliver(t, e)
				now := time.Now()
				// The thirteenth comes in a batch, and ends soon.
				b.add(e, slices.Concat(b.records(now, "t", 12), b.records(now.Add(3*time.Second-e.MaxAge), "t", 1), b.records(now, "t", 11))...)
				b.publish(e, "u", 24)
				b.settled(e, 47, 1)
				if n, again := rc.count(); n != 47 || again != 0 {
					t.Errorf("%d events came, %d of them again", n, again)
				}
				for topic, numbers := range rc.topics {
					if order == OrderTopic && !slices.IsSorted(numbers) {
						t.Errorf("%s: %v", topic, numbers)
					}
				}
				letters, err := b.hooks.Letters(t.Context(), "a", "", 0)
				if err != nil || len(letters) != 1 || letters[0].Status != status || letters[0].Attempts < 2 {
					t.Errorf("%+v, %v", letters, err)
				}
			})
		}
	}
}

// A topic whose first event is tried again and again keeps no other back, though more events wait behind it than are held in
// memory. When it goes on, those come, once each and in their order.
func TestOneBadTopic(t *testing.T) {
	t.Parallel()
	var well atomic.Bool
	rc := mustReceive(t, func(_ http.ResponseWriter, _ *http.Request, events []got) int {
		if events[0].Subject == "bad" && !well.Load() {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	})
	e := endpointAt("a", rc.URL)
	e.Order, e.Concurrency, e.Batch = OrderTopic, 2, Batch{Count: 100, Bytes: 1 << 20}
	b := mustDeliver(t, e)
	const bad = heldMax + 3000
	b.publish(e, "bad", bad)
	b.publish(e, "good", 300)
	b.until("the good ones came", func() bool { return b.state(e).Delivered == 300 })
	b.publish(e, "bad", 100)
	b.publish(e, "better", 100)
	b.until("others came", func() bool { return b.state(e).Delivered == 400 })
	if s := b.state(e); s.Dead != 0 || s.Taken+s.Queued != bad+100 {
		t.Errorf("%+v", s)
	}
	well.Store(true)
	b.settled(e, bad+500, 0)
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if got := rc.topics["bad"]; len(got) != bad+100 || !slices.IsSorted(got) || rc.together > 0 {
		t.Errorf("%d of the bad topic came, want %d; sorted: %t; %d requests of a topic at one time", len(got), bad+100, slices.IsSorted(got), rc.together)
	}
}

// An event that was settled while the outbox was read again is not delivered again.
func TestSettledMeanwhile(t *testing.T) {
	t.Parallel()
	e := endpointAt("a", "http://127.0.0.1/")
	e.Order = OrderTopic
	b := mustDeliver(t, e)
	b.publish(e, "t", 1)
	taken, err := b.store.Outbox().Take(t.Context(), e.Name, "ordered/a", 1, 1<<20)
	for err == nil && len(taken) == 0 { // another has it already
		taken, err = b.store.Outbox().Resume(t.Context(), e.Name, "ordered/a", store.EventID{}, 1, 1<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, taking := range []bool{true, false} {
		tm := newTerm(&deliverer{endpoint: b.hooks.all()[0].endpoint}, "c")
		tm.add(taken)
		tm.taking = taking
		tm.forget(taken[0].ID)
		tm.add(taken)
		if got := len(tm.backlog.held); got == 1 == taking {
			t.Errorf("taking %t: %d held", taking, got)
		}
	}
}

// An answer of 2xx counts when it has begun, whatever becomes of its body.
func TestAnswerThatDrips(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, func(w http.ResponseWriter, r *http.Request, _ []got) int {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte("."))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(10 * time.Millisecond): // as slow as it is to be
			case <-r.Context().Done():
			}
		}
		return 0
	})
	e := endpointAt("a", rc.URL)
	e.Timeout = time.Second
	b := mustDeliver(t, e)
	b.publish(e, "t", 1)
	b.settled(e, 1, 0)
	if n := rc.requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// 4xx makes dead letters at once, which are listed, shown, replayed and dropped.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	var takes atomic.Bool
	rc := mustReceive(t, func(w http.ResponseWriter, _ *http.Request, _ []got) int {
		if takes.Load() {
			return http.StatusOK
		}
		http.Error(w, "no such \x00 thing", http.StatusNotFound)
		return 0
	})
	e := endpointAt("a", rc.URL)
	b, ctx := mustDeliver(t, e), t.Context()
	b.publish(e, "t", 5)
	b.settled(e, 0, 5)
	if n := rc.requests.Load(); n != 5 {
		t.Errorf("%d requests", n)
	}
	letters, err := b.hooks.Letters(ctx, "a", "", 3)
	if err != nil || len(letters) != 3 {
		t.Fatalf("%+v, %v", letters, err)
	}
	more, err := b.hooks.Letters(ctx, "a", letters[2].ID, 5000)
	if err != nil || len(more) != 2 {
		t.Fatalf("%+v, %v", more, err)
	}
	l, err := b.hooks.Letter(ctx, "a", more[0].ID)
	if err != nil || l.ID != more[0].ID || l.Status != 404 || l.Attempts != 1 || l.Reason != `the receiver answered 404: "no such \x00 thing\n"` || time.Since(l.At) > time.Minute {
		t.Errorf("%+v, %v", l, err)
	}
	if len(l.Event) == 0 || l.Event[0] != '{' {
		t.Errorf("%s", l.Event)
	}
	if n, err := b.hooks.Drop(ctx, "a", more[0].ID, more[0].ID); n != 1 || err != nil {
		t.Errorf("dropped %d, %v", n, err)
	}
	if _, err := b.hooks.Letter(ctx, "a", more[0].ID); !errors.Is(err, ErrNoLetter) {
		t.Error(err)
	}
	takes.Store(true)
	if n, err := b.hooks.Replay(ctx, "a", letters[0].ID); n != 1 || err != nil {
		t.Errorf("replayed %d, %v", n, err)
	}
	b.settled(e, 1, 3)
	if n, err := b.hooks.Replay(ctx, "a"); n != 3 || err != nil {
		t.Errorf("replayed %d, %v", n, err)
	}
	b.settled(e, 4, 0)
	takes.Store(false)
	b.publish(e, "t", 2)
	b.settled(e, 4, 2)
	if n, err := b.hooks.Drop(ctx, "a"); n != 2 || err != nil {
		t.Errorf("dropped %d, %v", n, err)
	}
	if s := b.state(e); s.Dropped != 3 || s.Dead != 0 {
		t.Errorf("%+v", s)
	}

	for name, f := range map[string]func() error{
		"letters": func() error { _, err := b.hooks.Letters(ctx, "b", "", 1); return err },
		"letter":  func() error { _, err := b.hooks.Letter(ctx, "b", "1-1"); return err },
		"replay":  func() error { _, err := b.hooks.Replay(ctx, "b", "1-1"); return err },
		"drop":    func() error { _, err := b.hooks.Drop(ctx, "b"); return err },
		"enable":  func() error { return b.hooks.Enable(ctx, "b") },
		"disable": func() error { return b.hooks.Disable(ctx, "b", "") },
		"forget":  func() error { return b.hooks.Forget(ctx, "b") },
		"status":  func() error { _, err := b.hooks.StatusOf(ctx, "b"); return err },
	} {
		if err := f(); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{"1", "x-1", "-1-1", "1-1 "} {
		_, err1 := b.hooks.Letter(ctx, "a", id)
		_, err2 := b.hooks.Letters(ctx, "a", id, 1)
		_, err3 := b.hooks.Drop(ctx, "a", id)
		if !errors.Is(err1, ErrLetterID) || !errors.Is(err2, ErrLetterID) || !errors.Is(err3, ErrLetterID) {
			t.Errorf("%q: %v, %v, %v", id, err1, err2, err3)
		}
	}
	for _, id := range []string{"0-0", "7-0"} {
		if _, err := b.hooks.Letter(ctx, "a", id); !errors.Is(err, ErrNoLetter) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// An event that can't be read is given up, and others of its batch are not.
func TestRecordThatCantBeRead(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, nil)
	e := endpointAt("a", rc.URL)
	e.Batch.Count = 10
	b := mustDeliver(t)
	b.publish(e, "t", 3)
	b.add(e, []byte("what is this?"))
	b.publish(e, "t", 3)
	if err := b.hooks.Reload(t.Context(), []*Endpoint{e}); err != nil {
		t.Fatal(err)
	}
	b.settled(e, 6, 1)
	letters, err := b.hooks.Letters(t.Context(), "a", "", 10)
	if err != nil || len(letters) != 1 || letters[0].Event != nil {
		t.Errorf("%+v, %v", letters, err)
	}
	if n := b.hooks.metrics["a"].Requests[metrics.WebhookUnsent].Get(); n == 0 {
		t.Error("it isn't counted")
	}
}

// An event is tried until it is too old. What came back by Replay is new.
func TestTooOld(t *testing.T) {
	t.Parallel()
	var failures atomic.Int64
	failures.Store(1 << 30)
	rc := mustReceive(t, func(http.ResponseWriter, *http.Request, []got) int {
		if failures.Add(-1) < 0 {
			return http.StatusOK
		}
		return http.StatusBadGateway
	})
	e := endpointAt("a", rc.URL)
	e.MaxAge = time.Hour
	b := mustDeliver(t, e)
	soon := time.Now().Add(-time.Hour + 2*time.Second)
	b.enqueue(e, soon, "t", 2)
	b.enqueue(e, time.Now(), "t", 1)
	b.until("two are given up", func() bool { return b.state(e).Dead == 2 })
	letters, err := b.hooks.Letters(t.Context(), "a", "", 10)
	if err != nil || len(letters) != 2 {
		t.Fatalf("%+v, %v", letters, err)
	}
	if l := letters[1]; l.Status != http.StatusBadGateway || l.Attempts < 2 {
		t.Errorf("%+v", l)
	}
	failures.Store(0)
	b.settled(e, 1, 2)
	failures.Store(10)
	if _, err := b.hooks.Replay(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	b.settled(e, 3, 0)
}

// What gets too old while its breaker is open leaves the outbox, so that others have room; so does what came later and is
// older.
func TestTooOldWhileOpen(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, func(http.ResponseWriter, *http.Request, []got) int { return http.StatusBadGateway })
	e := endpointAt("a", rc.URL)
	e.BreakerFailures, e.BreakerDelay, e.MaxAge = 1, time.Hour, time.Hour
	b := mustDeliver(t, e)
	b.publish(e, "t", 1)
	b.until("it opened", func() bool { return b.hooks.metrics["a"].Open.Load() })
	b.enqueue(e, time.Now().Add(-e.MaxAge+2*time.Second), "t", 2*heldMin)
	b.until("they have left", func() bool { return b.state(e).Dead == 2*heldMin })
	if n := rc.requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// While its breaker is open an endpoint gets nothing, and what is too old leaves the outbox all the same. Then one
// request shows whether it is well: one that hasn't failed before, or else one bad event would keep all others back.
func TestBreaker(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	looked := make(chan struct{})
	var rc *receiver
	rc = mustReceive(t, func(_ http.ResponseWriter, r *http.Request, events []got) int {
		if rc.requests.Load() > 3 { // the first probe waits until the test has seen the breaker open
			select {
			case <-looked:
			case <-r.Context().Done():
			}
		}
		if broken.Load() || events[0].Data == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	})
	e := endpointAt("a", rc.URL)
	e.BreakerFailures, e.BreakerDelay, e.Concurrency, e.MaxAge = 3, 200*time.Millisecond, 1, time.Hour
	b := mustDeliver(t, e)
	b.publish(e, "t", 1)
	m := b.hooks.metrics["a"]
	b.until("it opened", func() bool { return m.BreakersOpened.Get() == 1 })
	s, err := b.hooks.StatusOf(t.Context(), "a")
	if err != nil || s.State != Open && s.State != Probing || s.LastError != "the receiver answered 500" || s.LastErrorAt.IsZero() || !m.Open.Load() {
		t.Errorf("%+v, %v", s, err)
	}
	if n := rc.requests.Load(); n != 3 && n != 4 {
		t.Errorf("%d requests until it opened, and for the first probe", n)
	}
	close(looked)
	b.until("there was a probe", func() bool { return rc.requests.Load() > 3 })
	b.enqueue(e, time.Now().Add(-e.MaxAge+2*time.Second), "t", 1)
	b.until("what is too old has left", func() bool { return b.state(e).Dead == 1 })
	broken.Store(false)
	b.publish(e, "t", 2)
	b.until("the others came", func() bool { return b.state(e).Delivered == 2 })
	b.until("it is closed", func() bool { return !m.Open.Load() })
}

// 410 ends requests, at all nodes, until somebody says otherwise.
func TestGone(t *testing.T) {
	t.Parallel()
	var left atomic.Bool
	left.Store(true)
	rc := mustReceive(t, func(http.ResponseWriter, *http.Request, []got) int {
		if left.Load() {
			return http.StatusGone
		}
		return http.StatusOK
	})
	e := endpointAt("a", rc.URL)
	e.Concurrency = 1
	s := newMemory()
	b, other := mustDeliverAs(t, s, time.Second, e), mustDeliverAs(t, s, time.Second, endpointAt("a", rc.URL))
	disabled := func(yes bool) func() bool {
		return func() bool {
			for _, b := range []*bench{b, other} {
				if s, err := b.hooks.StatusOf(t.Context(), "a"); err != nil || (s.State == Disabled) != yes || b.hooks.all()[0].disabled.Load() != yes {
					return false
				}
			}
			return true
		}
	}
	b.publish(e, "t", 5)
	b.until("it is disabled at both nodes", disabled(true))
	n := rc.requests.Load()
	b.publish(e, "t", 5)
	if err := b.hooks.Disable(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	if s, _ := b.hooks.StatusOf(t.Context(), "a"); s.DisabledReason != "by an operator" || s.Outbox.Dead != 0 {
		t.Errorf("%+v", s)
	}
	left.Store(false)
	if m := rc.requests.Load(); m != n {
		t.Errorf("%d requests to an endpoint that is disabled", m-n)
	}
	if err := b.hooks.Enable(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	b.settled(e, 10, 0)
	b.until("it is enabled at both nodes", disabled(false))

	left.Store(true)
	b.publish(e, "t", 5)
	b.until("it is disabled again", disabled(true))
	left.Store(false)
	if err := b.hooks.Reload(t.Context(), []*Endpoint{e}); err != nil {
		t.Fatal(err)
	}
	b.settled(e, 15, 0)
}

// Retry-After is obeyed, by all requests of the endpoint, and bounded.
func TestRetryAfterIsObeyed(t *testing.T) {
	t.Parallel()
	var first atomic.Bool
	rc := mustReceive(t, func(w http.ResponseWriter, _ *http.Request, _ []got) int {
		if first.CompareAndSwap(false, true) {
			w.Header().Set("Retry-After", "3")
			return http.StatusTooManyRequests
		}
		return http.StatusOK
	})
	e := endpointAt("a", rc.URL)
	e.Concurrency, e.BreakerFailures = 1, 1
	b := mustDeliver(t, e)
	began := time.Now()
	b.publish(e, "t", 10)
	b.until("it is paused", func() bool { s, err := b.hooks.StatusOf(t.Context(), "a"); return err == nil && s.State == Paused })
	b.settled(e, 10, 0)
	if d := time.Since(began); d < 3*time.Second || rc.requests.Load() != 11 {
		t.Errorf("%d requests in %v", rc.requests.Load(), d)
	}
	if n := b.hooks.metrics["a"].BreakersOpened.Get(); n != 0 {
		t.Error("429 opens the breaker")
	}
}

// Batches are bounded in number, bytes and time.
func TestBatches(t *testing.T) {
	t.Parallel()
	sizes := make(chan int, 1000)
	rc := mustReceive(t, func(_ http.ResponseWriter, _ *http.Request, events []got) int {
		sizes <- len(events)
		return http.StatusOK
	})
	e := endpointAt("a", rc.URL)
	e.Batch, e.Concurrency = Batch{Count: 10, Wait: 300 * time.Millisecond}, 1
	b := mustDeliver(t, e)
	began := time.Now()
	b.publish(e, "t", 25)
	b.settled(e, 25, 0)
	if d := time.Since(began); d < 300*time.Millisecond {
		t.Errorf("the last batch was sent after %v", d)
	}
	for _, want := range []int{10, 10, 5} {
		if n := <-sizes; n != want {
			t.Errorf("a batch of %d, want %d", n, want)
		}
	}
	e2 := *e
	e2.Batch = Batch{Count: 100, Bytes: 150}
	if err := b.hooks.Reload(t.Context(), []*Endpoint{&e2}); err != nil {
		t.Fatal(err)
	}
	b.publish(e, "t", 20)
	b.settled(e, 45, 0)
	for range 10 {
		if n := <-sizes; n != 2 {
			t.Errorf("a batch of %d, want 2", n)
		}
	}
	if len(sizes) > 0 {
		t.Errorf("%d batches more", len(sizes))
	}
}

// Close waits for what is under way, and what was delivered is not delivered again by who comes next.
func TestCloseWaits(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 100), make(chan struct{})
	rc := mustReceive(t, func(http.ResponseWriter, *http.Request, []got) int {
		entered <- struct{}{}
		<-release
		return http.StatusOK
	})
	for _, order := range []Order{OrderNone, OrderClient} {
		e := endpointAt("a", rc.URL)
		e.Order, e.Concurrency = order, 2
		b := mustDeliver(t, e)
		b.publish(e, "t", 20)
		<-entered
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		closed := make(chan struct{})
		go func() { b.hooks.Close(ctx); close(closed) }()
		b.until("it begins nothing new", func() bool { return isClosed(b.hooks.all()) })
		close(release)
		<-closed
		s := b.state(e)
		if s.Delivered == 0 || s.Delivered > 2 {
			t.Errorf("%+v", s)
		}
		again := endpointAt("a", rc.URL)
		again.Order = order
		next := mustDeliverFrom(t, b.store, again)
		next.settled(e, 20, 0)
		release = make(chan struct{})
		if _, again := rc.count(); again != 0 {
			t.Errorf("%d events came again", again)
		}
		for len(entered) > 0 {
			<-entered
		}
		rc.mu.Lock()
		clear(rc.topics)
		rc.mu.Unlock()
	}
}

func isClosed(all []*deliverer) bool {
	for _, d := range all {
		select {
		case <-d.halt:
		default:
			return false
		}
	}
	return true
}
