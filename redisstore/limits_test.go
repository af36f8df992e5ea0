package redisstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"loopmq/internal/redistest"
	"loopmq/store"
)

// The bytes of a queue are estimated, but not by so much that large messages after
// small ones would go unnoticed, or make it drop what has room.
func TestLimitInBytesFollowsTheSizes(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	for _, policy := range []store.Policy{store.DropNewest, store.DropOldest} {
		t.Run(fmt.Sprint("policy=", policy), func(t *testing.T) {
			const limit = 1 << 20
			se := f.claim(store.Claim{
				ClientID: "c", Durable: true, CleanStart: true, Limits: store.Limits{Bytes: limit, Policy: policy, Protected: 2},
			}).Session
			q := store.QueueOf(se.ID)
			used := func() int {
				_, bytes, _, err := f.Messages().Len(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				return bytes
			}
			for range 100 { // 10,000 small ones, which have room
				var small []store.Op
				for range 100 {
					small = append(small, publish("small", se))
				}
				for _, op := range f.commit(small...) {
					if target := op.Targets[0]; target.Result != store.Done || target.Dropped != [3]int{} {
						t.Fatalf("small: got %+v", target)
					}
				}
			}
			dropped, done := 0, 0
			for range 60 { // 3 MB in large ones
				target := f.commit(publish(strings.Repeat("x", 50_000), se))[0].Targets[0]
				if target.Result == store.Done {
					done++
				}
				dropped += target.Dropped[1]
				if used() > limit+limit/4 {
					t.Fatalf("%d bytes, %d are allowed", used(), limit)
				}
			}
			if n := used(); n < limit/2 {
				t.Errorf("%d bytes are left, %d would have room", n, limit)
			}
			if got := len(f.entries(q)); got != 10_000+done-dropped {
				t.Errorf("%d entries, but %d were dropped of %d", got, dropped, 10_000+done)
			}
			if policy == store.DropNewest && (dropped > 0 || done == 60) || policy == store.DropOldest && done < 60 {
				t.Errorf("%d done, %d dropped", done, dropped)
			}
		})
	}
}

// The size of a queue is read only where it may matter: it has many entries for its
// limit, or has had a large one.
func TestQueueIsMeasuredIfItMatters(t *testing.T) {
	f := newFixture(t, open(t, redistest.Start(t, "appendfsync no"), ""))
	small, large := strings.Repeat("x", 100), strings.Repeat("x", 10_000)
	group := func(payload string) {
		op := publish(payload)
		op.Targets = []store.Target{{Queue: store.GroupQueue("s", "t"), QoS: 1}}
		f.commit(op)
	}
	for name, c := range map[string]struct {
		limit int
		fill  func(se store.Session)
		want  int64
	}{
		"small":  {1 << 20, func(se store.Session) { f.commit(slices.Repeat([]store.Op{publish(small, se)}, 64)...) }, 0},
		"large":  {1 << 20, func(se store.Session) { f.commit(publish(large, se)) }, 1},
		"little": {1 << 16, func(se store.Session) { f.commit(slices.Repeat([]store.Op{publish(small, se)}, 64)...) }, 1},
		"moved": {1 << 20, func(se store.Session) {
			group(large)
			f.commit(store.Op{Kind: store.OpMove, From: store.GroupQueue("s", "t"), Limit: 1, Targets: []store.Target{{Queue: store.QueueOf(se.ID)}}})
		}, 1},
		"moved small": {1 << 20, func(se store.Session) {
			group(small)
			f.commit(store.Op{Kind: store.OpMove, From: store.GroupQueue("s", "t"), Limit: 1, Targets: []store.Target{{Queue: store.QueueOf(se.ID)}}})
		}, 0},
	} {
		se := f.claim(store.Claim{ClientID: name, Durable: true, Limits: store.Limits{Bytes: c.limit}}).Session
		c.fill(se)
		if got := f.redis.Exists(t.Context(), f.config.prefix+"b:"+queueTag(se.ID)).Val(); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

// A queue that has room again is not looked at any more.
func TestFullQueueIsForgotten(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	full := func() string { return f.redis.HGet(t.Context(), f.keys.meta(), "full").Val() }
	fill := func(se store.Session, n int) {
		for range n {
			f.commit(publish("x", se))
		}
	}
	for name, after := range map[string]func(se store.Session){
		"finished": func(se store.Session) {
			var numbers []store.Number
			for _, e := range f.entries(store.QueueOf(se.ID)) {
				numbers = append(numbers, e.Number)
			}
			f.commit(store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: numbers[:len(numbers)-5]})
			for range 64 {
				op := f.commit(publish("x", se))[0]
				f.commit(store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: []store.Number{op.Targets[0].Number}})
			}
		},
		"ended":      func(se store.Session) { f.commit(store.Op{Kind: store.OpEndSession, Session: se.ID}) },
		"other":      func(store.Session) { f.claim(store.Claim{ClientID: "c", Durable: true}) },
		"clean":      func(store.Session) { f.claim(store.Claim{ClientID: "c", Durable: true, CleanStart: true}) },
		"same again": func(store.Session) {},
	} {
		limits := store.Limits{Messages: 50}
		se := f.claim(store.Claim{ClientID: "c", Durable: true, CleanStart: true, Limits: limits}).Session
		if name == "same again" {
			fill(se, 64)
			f.claim(store.Claim{ClientID: "c", Durable: true, Limits: limits})
			if got := f.commit(publish("x", se))[0].Targets[0].Result; got != store.Refused {
				t.Errorf("after another claim with the same limits: got %v", got)
			}
			f.commit(store.Op{Kind: store.OpEndSession, Session: se.ID})
			continue
		}
		fill(se, 64)
		if got := full(); got != "1" {
			t.Errorf("%s: %s queues are full, want 1", name, got)
		}
		after(se)
		if got := full(); got != "0" {
			t.Errorf("%s: %s queues are full, want none", name, got)
		}
	}
}

// Of a very long queue the first entries are counted, and the others taken to be
// like them: the sum is right.
func TestLongQueueIsCountedByItsFirstEntries(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	se := f.session("c")
	const n = 12_000
	var sent store.Number
	for range n / 1000 {
		var ops []store.Op
		for i := range 1000 {
			op := publish("x", se)
			op.Targets[0].QoS = byte(1 + i%4/3)
			ops = append(ops, op)
		}
		ops = f.commit(ops...)
		if sent.IsZero() {
			sent = ops[599].Targets[0].Number
		}
	}
	end := store.Op{Kind: store.OpEndSession, Session: se.ID, Sent: sent}
	if got, want := f.commit(end)[0].Dropped, [3]int{0, (n - 600) * 3 / 4, (n - 600) / 4}; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
