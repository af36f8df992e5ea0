package webhooks

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"loopmq/store"
)

// Whatever happens to units, each event is settled once, no line is in two units, and a line's events are settled in
// their order.
func TestBacklogAtRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		ordered := rng.IntN(2) == 0
		batch := Batch{Count: 1 + rng.IntN(6), Bytes: 1 + rng.IntN(40)}
		b := newBacklog(batch, ordered)
		now := time.Unix(1000, 0)
		var (
			next    uint64
			flying  []*unit
			settled = map[uint64]bool{}
			last    = map[string]uint64{}
			outbox  []*event // all that were added, by their numbers
		)
		read := func(e *event) {
			copied := *e // as it is when it is read from the outbox
			b.add(&copied)
		}
		settle := func(events []*event) {
			for _, e := range events {
				if settled[e.id.Seq] {
					t.Fatalf("%d is settled twice", e.id.Seq)
				}
				settled[e.id.Seq] = true
				b.forget(e.id)
				if ordered {
					if last[e.key] > e.id.Seq {
						t.Fatalf("%d of %s after %d", e.id.Seq, e.key, last[e.key])
					}
					last[e.key] = e.id.Seq
				}
			}
		}
		const total = 200
		for step := 0; len(settled) < total; step++ {
			if step > 100_000 {
				t.Fatalf("stuck with %d of %d settled, %d ready, %d under way", len(settled), total, b.readyEvents, len(flying))
			}
			switch r := rng.IntN(10); {
			case r < 4 && next < total:
				next++
				e := &event{id: store.EventID{Seq: next}, record: make([]byte, 1+rng.IntN(10)), came: now, until: now.Add(time.Hour)}
				if ordered {
					e.key = fmt.Sprint("k", rng.IntN(4))
				}
				if rng.IntN(40) == 0 {
					e.until = now // too old already
				}
				outbox = append(outbox, e)
				read(e)
				read(e) // which changes nothing
			case r == 8 && ordered && rng.IntN(3) == 0:
				b.setAside()
			case r < 7:
				var u *unit
				if due, ok := b.due(); ok && !due.After(now) && rng.IntN(2) == 0 {
					u = b.again()
				} else if _, ok := b.complete(false); ok {
					u = b.fresh()
					checkUnit(t, u, batch)
				}
				if u != nil {
					checkLines(t, u, flying)
					flying = append(flying, u)
				}
			case r == 7 && rng.IntN(10) == 0 && !ordered:
				settle(b.expire(now)) // In order, only what is under way may be settled in between.
			case len(flying) > 0:
				i := rng.IntN(len(flying))
				u := flying[i]
				flying = append(flying[:i], flying[i+1:]...)
				switch f := rng.IntN(3); {
				case f == 0 && u.len() > 1:
					b.split(u, now)
				case f == 1:
					b.retry(u, now.Add(time.Duration(rng.IntN(2))*time.Second))
				default:
					settle(u.events())
					b.finish(u, now)
				}
			}
			if rng.IntN(3) == 0 {
				if after, ok := b.comeBack(); ok {
					for _, e := range outbox[after.Seq:] {
						if !settled[e.id.Seq] {
							read(e)
						}
					}
				}
			}
			now = now.Add(100 * time.Millisecond)
		}
		if len(b.held) != 0 || b.bytes != 0 || len(b.lines) != 0 || b.readyEvents != 0 || b.readyBytes != 0 {
			t.Fatalf("left: %d held, %d bytes, %d lines, %d ready, %d bytes", len(b.held), b.bytes, len(b.lines), b.readyEvents, b.readyBytes)
		}
	}
}

// checkUnit looks whether a unit is within the bounds of a batch.
func checkUnit(t *testing.T, u *unit, batch Batch) {
	t.Helper()
	size := 0
	for _, e := range u.events() {
		size += len(e.record)
	}
	if n := u.len(); n == 0 || n > batch.Count || n > 1 && size > batch.Bytes {
		t.Fatalf("a unit of %d events, %d bytes; bounds %+v", n, size, batch)
	}
}

// checkLines looks whether a line is in two units.
func checkLines(t *testing.T, u *unit, flying []*unit) {
	t.Helper()
	for _, other := range flying {
		for _, p := range other.parts {
			for _, q := range u.parts {
				if p.line == q.line {
					t.Fatalf("%s is in two units", p.line.key)
				}
			}
		}
	}
}

func TestBatchIsComplete(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	add := func(b *backlog, n, size int) {
		for range n {
			b.add(&event{id: store.EventID{Seq: uint64(len(b.held) + 1)}, record: make([]byte, size), came: now})
		}
	}
	for name, c := range map[string]struct {
		n, size int
		full    bool
		want    time.Time
		ok      bool
	}{
		"nothing": {0, 0, true, time.Time{}, false},
		"waits":   {2, 10, false, now.Add(time.Minute), true},
		"count":   {3, 10, false, time.Time{}, true},
		"bytes":   {2, 50, false, time.Time{}, true},
		"full":    {1, 1, true, time.Time{}, true},
	} {
		b := newBacklog(Batch{Count: 3, Bytes: 100, Wait: time.Minute}, false)
		add(b, c.n, c.size)
		if got, ok := b.complete(c.full); ok != c.ok || !got.Equal(c.want) {
			t.Errorf("%s: %v, %v, want %v, %v", name, got, ok, c.want, c.ok)
		}
	}
}

// What is too old leaves, and what comes behind it goes on.
func TestBacklogExpires(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	b := newBacklog(Batch{Count: 2, Bytes: 100}, true)
	for i, until := range []int{5, 50, 5, 5, 50} {
		b.add(&event{id: store.EventID{Seq: uint64(i + 1)}, record: []byte("x"), key: []string{"a", "b"}[i/3], until: now.Add(time.Duration(until) * time.Second)})
	}
	u := b.fresh() // 1 and 2
	b.retry(u, now)
	ids := func(events []*event) (all []uint64) {
		for _, e := range events {
			all = append(all, e.id.Seq)
		}
		return all
	}
	if got := fmt.Sprint(ids(b.expire(now))); got != "[]" {
		t.Errorf("%s are too old at once", got)
	}
	if got := fmt.Sprint(ids(b.expire(now.Add(10 * time.Second)))); got != "[4 1]" {
		t.Errorf("%s are too old, want 4 and 1; 3 has its turn later", got)
	}
	if got := fmt.Sprint(ids(b.expire(now.Add(100 * time.Second)))); got != "[5 2]" {
		t.Errorf("%s are too old, want 5 and 2", got)
	}
	if got := fmt.Sprint(ids(b.expire(now.Add(100 * time.Second)))); got != "[3]" {
		t.Errorf("%s are too old, want 3, whose line is free", got)
	}
	if _, ok := b.complete(true); ok || len(b.lines) != 0 || len(b.retries) != 0 {
		t.Errorf("left: %d lines, %d retries", len(b.lines), len(b.retries))
	}
}
