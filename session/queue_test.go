package session

import (
	"math/rand/v2"
	"testing"

	"loopmq/store"
)

func entry(size int) *store.Entry {
	return &store.Entry{Message: &store.Message{Payload: make([]byte, size)}}
}

func refuseDrop(t *testing.T) func(*store.Entry) {
	return func(*store.Entry) {
		t.Helper()
		t.Error("an entry was dropped")
	}
}

// The queue does what a slice does, under both policies and all kinds of limits.
func TestQueueModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		limits := store.Limits{Messages: r.IntN(20), Bytes: r.IntN(3) * r.IntN(200), Policy: store.Policy(r.IntN(2))}
		var (
			q     Queue
			model []*store.Entry
			bytes int
		)
		full := func(size int) bool {
			return len(model) > 0 && (limits.Messages > 0 && len(model) >= limits.Messages || limits.Bytes > 0 && bytes+size > limits.Bytes)
		}
		for range 300 {
			if r.IntN(3) > 0 {
				e := entry(r.IntN(50))
				var wantDropped, dropped []*store.Entry
				fits := !full(e.Message.Size()) || limits.Policy == store.DropOldest
				for fits && full(e.Message.Size()) {
					wantDropped = append(wantDropped, model[0])
					bytes -= model[0].Message.Size()
					model = model[1:]
				}
				if fits {
					model = append(model, e)
					bytes += e.Message.Size()
				}
				if got := q.Push(e, limits, func(e *store.Entry) { dropped = append(dropped, e) }); got != fits {
					t.Fatalf("Push under %+v: got %v, want %v", limits, got, fits)
				}
				if !same(dropped, wantDropped) {
					t.Fatalf("Push under %+v dropped %d entries, want %d", limits, len(dropped), len(wantDropped))
				}
			} else {
				var want *store.Entry
				if len(model) > 0 {
					want = model[0]
					bytes -= want.Message.Size()
					model = model[1:]
				}
				if got := q.Peek(); got != want {
					t.Fatalf("Peek: got %p, want %p", got, want)
				}
				if got := q.Pop(); got != want {
					t.Fatalf("Pop: got %p, want %p", got, want)
				}
			}
			if q.Len() != len(model) || q.Bytes() != bytes {
				t.Fatalf("got %d entries of %d bytes, want %d of %d", q.Len(), q.Bytes(), len(model), bytes)
			}
		}
	}
}

func same(a, b []*store.Entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// One message is let in however large it is: else a message above the limit could never be delivered.
func TestQueueLetsOneIn(t *testing.T) {
	var q Queue
	limits := store.Limits{Messages: 1, Bytes: 10}
	if !q.Push(entry(1000), limits, refuseDrop(t)) {
		t.Error("an empty queue refused a message")
	}
	if q.Push(entry(1), limits, refuseDrop(t)) {
		t.Error("a full queue took one more")
	}
}

func TestQueueGivesMemoryBack(t *testing.T) {
	var q Queue
	for range 1000 {
		q.Push(entry(1), store.Limits{}, refuseDrop(t))
	}
	for range 1000 {
		q.Pop()
	}
	if q.ring != nil || q.Bytes() != 0 {
		t.Errorf("an empty queue keeps room for %d entries", len(q.ring))
	}
}
