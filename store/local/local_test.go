package local_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"loopmq/store"
	"loopmq/store/local"
)

func id(n int) store.EventID { return store.EventID{Generation: 1, Seq: uint64(n)} }

// What a Book knows is what a plain list knows.
func TestBook(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var (
		b         local.Book
		consumers = local.Consumers{}
		names     = []string{"a", "b", "c"}
		holders   = map[store.EventID]string{}
		now       = time.Unix(1000, 0)
		next      = 1
	)
	for range 3000 {
		now = now.Add(time.Duration(rng.IntN(3)) * time.Second)
		name := names[rng.IntN(len(names))]
		switch rng.IntN(4) {
		case 0:
			consumers.Renew(name, now, time.Duration(rng.IntN(6)-1)*time.Second)
		case 1:
			b.Take(id(next), name)
			holders[id(next)] = name
			next++
		case 2:
			n := id(1 + rng.IntN(next))
			b.Finish(n)
			delete(holders, n)
		case 3:
			for _, n := range b.Orphans(consumers, name, now, 2) {
				b.Take(n, name)
				holders[n] = name
			}
		}
		var orphans, held []store.EventID
		for n, holder := range holders {
			if holder != name && consumers.Dead(holder, now) {
				orphans = append(orphans, n)
			}
			if holder == name && id(next/2).Less(n) {
				held = append(held, n)
			}
		}
		slices.SortFunc(orphans, local.CompareIDs)
		slices.SortFunc(held, local.CompareIDs)
		limit := rng.IntN(5)
		if got, want := b.Orphans(consumers, name, now, limit), orphans[:min(limit, len(orphans))]; !slices.Equal(got, want) {
			t.Fatalf("orphans: got %v, want %v", got, want)
		}
		if got, want := b.Held(name, id(next/2), limit), held[:min(limit, len(held))]; !slices.Equal(got, want) {
			t.Fatalf("held: got %v, want %v", got, want)
		}
		if b.Len() != len(holders) {
			t.Fatalf("got %d taken, want %d", b.Len(), len(holders))
		}
		if want := id(next - 1); next > 1 && b.Last() != want {
			t.Fatalf("last: got %v, want %v", b.Last(), want)
		}
	}
}

func TestConsumers(t *testing.T) {
	c, now := local.Consumers{}, time.Unix(1000, 0)
	if !c.Dead("a", now) {
		t.Error("who has never renewed lives")
	}
	c.Renew("a", now, time.Second)
	if c.Dead("a", now.Add(time.Second-1)) || !c.Dead("a", now.Add(time.Second)) {
		t.Error("lives for another time than was said")
	}
	c.Renew("b", now.Add(time.Second), time.Second)
	if len(c) != 1 {
		t.Errorf("%d consumers are remembered, of which one lives", len(c))
	}
	c.Renew("b", now, 0)
	if len(c) != 0 {
		t.Error("who has ended is remembered")
	}
}

func TestBell(t *testing.T) {
	var b local.Bell
	b.Ring("nobody waits for this")
	one, other := b.Channel("one"), b.Channel("other")
	if one != b.Channel("one") || one == other {
		t.Error("an endpoint has one channel, and one of its own")
	}
	rung := func(what string, want ...bool) {
		t.Helper()
		for i, c := range []<-chan struct{}{one, other} {
			got := false
			select {
			case <-c:
				got = true
			default:
			}
			if got != want[i] {
				t.Errorf("%s: channel %d has a value: %t", what, i, got)
			}
		}
	}
	rung("to begin with", true, true)
	rung("after that", false, false)
	b.Ring("one")
	b.Ring("one")
	rung("after a ring", true, false)
	rung("after that", false, false)
	b.RingAll()
	rung("after all rang", true, true)
}

func TestLeases(t *testing.T) {
	now := time.Unix(1000, 0)
	l := local.NewLeases(func() time.Time { return now }, 7)
	acquire := func(name, holder string) uint64 {
		t.Helper()
		fence, ok, err := l.Acquire(t.Context(), name, holder, time.Minute)
		if err != nil || ok != (fence != 0) {
			t.Errorf("got fence %d, %t, error %v", fence, ok, err)
		}
		return fence
	}
	first := acquire("n", "a")
	if first <= 7 {
		t.Errorf("fence %d, want one behind 7", first)
	}
	now = now.Add(time.Minute - 1)
	if acquire("n", "b") != 0 {
		t.Error("two have a lease")
	}
	if again := acquire("n", "a"); again != first {
		t.Errorf("renewed: fence %d, was %d", again, first)
	}
	now = now.Add(time.Minute)
	second := acquire("n", "b")
	now = now.Add(-time.Hour) // the clock was set back
	if err := l.Release(t.Context(), "n", "b"); err != nil {
		t.Error(err)
	}
	if third := acquire("n", "a"); first >= second || second >= third {
		t.Errorf("fences %d, %d, %d", first, second, third)
	}
}
