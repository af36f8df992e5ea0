package memory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq/store"
)

func enqueue(endpoint, data string) store.Op {
	return store.Op{Kind: store.OpEnqueue, Event: &store.Event{Endpoint: endpoint, Data: []byte(data)}}
}

// Events, dead letters and noted keys count as long as they are held, and no longer.
func TestUsedCountsEventsAndKeys(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	now := time.Unix(1000, 0)
	s := New(Options{Now: func() time.Time { return now }, MaxBytes: 20_000})
	ctx, out := t.Context(), s.Outbox()
	var ids []store.EventID
	for step := range 5000 {
		now = now.Add(time.Second)
		if rng.IntN(50) == 0 { // more keys expire than go at once
			now = now.Add(time.Hour)
		}
		endpoint := fmt.Sprint(rng.IntN(3))
		some := func() (some []store.EventID) {
			for range min(5, len(ids)) {
				some = append(some, ids[rng.IntN(len(ids))])
			}
			return some
		}
		var err error
		switch rng.IntN(8) {
		case 0, 1, 2:
			op := publish("")
			op.Once = &store.Once{Key: fmt.Sprint(rng.IntN(500)), Answer: make([]byte, rng.IntN(50)), Expires: now.Add(time.Duration(rng.IntN(300)) * time.Second)}
			commit(t, s, enqueue(endpoint, strings.Repeat("x", rng.IntN(200))), op)
		case 3:
			var taken []store.Taken
			taken, err = out.Take(ctx, endpoint, "a", rng.IntN(9), 0)
			for _, e := range taken {
				ids = append(ids, e.ID)
			}
		case 4:
			err = out.Done(ctx, endpoint, some())
		case 5:
			var dead []store.Dead
			for _, id := range some() {
				dead = append(dead, store.Dead{ID: id, Data: []byte("not this")})
			}
			_, err = out.Bury(ctx, endpoint, dead, rng.IntN(20))
		case 6:
			_, err = out.Replay(ctx, endpoint, some())
		case 7:
			if rng.IntN(10) == 0 {
				err = out.Remove(ctx, endpoint)
			} else {
				_, err = out.Drop(ctx, endpoint, some())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, o := range s.outboxes {
			for _, e := range o.events {
				want += len(e.data)
			}
			for _, d := range o.dead {
				want += len(d.Data)
			}
		}
		for key, o := range s.onces {
			want += len(key) + len(o.answer)
		}
		if s.used != want {
			t.Fatalf("step %d: %d bytes used, but %d held", step, s.used, want)
		}
	}
	// All keys expire some day, and go a few at a time.
	now = now.Add(time.Hour)
	for range 100 {
		op := publish("")
		op.Once = &store.Once{Key: "k", Expires: now.Add(time.Second)}
		commit(t, s, op)
		now = now.Add(2 * time.Second)
	}
	if len(s.onces) > 1 || len(s.onceExpiry) != len(s.onces) {
		t.Errorf("%d keys and %d deadlines are left", len(s.onces), len(s.onceExpiry))
	}
}

func TestFullStoreTakesNoEventsAndNoKeys(t *testing.T) {
	s := New(Options{MaxBytes: 100})
	op := publish("")
	op.Once = &store.Once{Key: "k", Answer: make([]byte, 100), Expires: time.Now().Add(time.Hour)}
	ops := commit(t, s, enqueue("e", strings.Repeat("x", 60)), enqueue("e", strings.Repeat("x", 41)), op)
	got := []store.Result{ops[0].Result, ops[1].Result, ops[2].Result}
	if want := []store.Result{store.Done, store.Full, store.Full}; !slices.Equal(got, want) {
		t.Errorf("got results %v, want %v", got, want)
	}
	st, err := s.Outbox().State(t.Context(), "e")
	if err != nil || st.Matched != 2 || st.Queued != 1 || st.Dropped != 1 {
		t.Errorf("got %+v, error %v", st, err)
	}
}

// A window is bounded, however far away its end is.
func TestOnceExpiresInTheEnd(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(Options{Now: func() time.Time { return now }})
	op := publish("")
	op.Once = &store.Once{Key: "k", Expires: now.Add(1000 * time.Hour * 24)}
	if got := commit(t, s, op)[0].Result; got != store.Done {
		t.Fatalf("first: %v", got)
	}
	now = now.Add(store.MaxOnceWindow - 1)
	if got := commit(t, s, op)[0].Result; got != store.Duplicate {
		t.Errorf("within the window: %v", got)
	}
	now = now.Add(1)
	if got := commit(t, s, op)[0].Result; got != store.Done {
		t.Errorf("after it: %v", got)
	}
}

// An outbox gives its memory back.
func TestOutboxMemoryFollowsItsEvents(t *testing.T) {
	s := New(Options{})
	ctx := t.Context()
	const n = 10_000
	for range n {
		commit(t, s, enqueue("e", "x"))
	}
	taken, err := s.Outbox().Take(ctx, "e", "a", n, 0)
	if err != nil || len(taken) != n {
		t.Fatal(len(taken), err)
	}
	for _, e := range taken[1:] {
		if err := s.Outbox().Done(ctx, "e", []store.EventID{e.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if o := s.outboxes["e"]; cap(o.events) > 2*keptEvents || o.live != 1 || o.find(taken[0].ID) == nil {
		t.Errorf("%d events take %d places", o.live, cap(o.events))
	}
}

// Of several brokers that share a Hub each is told of events; an OpEnqueue that goes with a
// publication, and one that happens once, are as in other shared stores.
func TestHubOutbox(t *testing.T) {
	h := NewHub(Options{})
	a, b := h.Open(), h.Open()
	ctx := context.Background()
	m, err := a.Join(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	news := []<-chan struct{}{a.Outbox().Notify("e"), b.Outbox().Notify("e")}
	for _, c := range news {
		<-c
	}
	once := publish("m")
	once.Once = &store.Once{Key: "k", Answer: []byte("first"), Expires: time.Now().Add(time.Hour)}
	once.Additions = m.Additions()
	with := enqueue("e", "x")
	with.IfPublished = true
	try := func(want ...store.Result) {
		t.Helper()
		batch := &store.Batch{Ops: []store.Op{once, with, enqueue("f", "y")}}
		if err := a.NewWriter("w").Commit(ctx, batch); err != nil {
			t.Fatal(err)
		}
		for i, op := range batch.Ops {
			if op.Result != want[i] {
				t.Errorf("operation %d: got %v, want %v", i, op.Result, want[i])
			}
		}
	}
	h.mu.Lock()
	h.append(store.Change{Kind: store.ChangeRouted, Instance: "other", TopicFilters: []string{"#"}})
	h.mu.Unlock()
	try(store.Stale, store.Stale, store.Done)
	once.Additions = 0
	try(store.Done, store.Done, store.Done)
	try(store.Duplicate, store.Duplicate, store.Done)
	for _, c := range news {
		<-c // both
	}
	if taken, err := b.Outbox().Take(ctx, "e", "b", 10, 0); err != nil || len(taken) != 1 {
		t.Errorf("got %v, error %v", taken, err)
	}
}
