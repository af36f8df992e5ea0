package redisstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"loopmq/internal/redistest"
	"loopmq/store"
)

// A large message for many is stored once, and goes when the last of them is done
// with it, however that came.
func TestMessageForManyIsStoredOnce(t *testing.T) {
	const sessions, size = 40, 8000
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	ctx := t.Context()
	var all []store.Session
	for i := range sessions {
		all = append(all, f.session(fmt.Sprint("c", i)))
	}
	payload := strings.Repeat("x", size)
	op := publish(payload, append(all, store.Session{ID: store.SessionID{ClientID: "none"}})...)
	op.Targets[1].SubscriptionIdentifiers = []uint32{7}
	op.Retain = true
	op = f.commit(op)[0]
	if got := op.Targets[sessions].Result; got != store.Gone {
		t.Errorf("target that is gone: got %v", got)
	}
	f.commit(publish(payload, store.Session{ID: store.SessionID{ClientID: "none"}})) // for nobody
	f.commit(publish("small", all...))

	shared := func() int64 { return f.redis.ZCard(ctx, f.keys.prefix+"shared").Val() }
	keys := func() int { return len(r.Client().Keys(ctx, f.config.prefix+"m:*").Val()) }
	if shared() != 1 || keys() != 1 {
		t.Fatalf("%d messages are shared, in %d keys", shared(), keys())
	}
	if n := f.redis.XInfoStreamFull(ctx, f.keys.queue(store.QueueOf(all[0].ID)), 1).Val(); len(fmt.Sprint(n.Entries)) > 200 {
		t.Errorf("an entry holds the message: %v", n.Entries)
	}
	for i, se := range all {
		entries := f.entries(store.QueueOf(se.ID))
		if len(entries) != 2 || string(entries[0].Message.Payload) != payload || entries[0].Number != op.Targets[i].Number ||
			len(entries[0].SubscriptionIdentifiers) != len(op.Targets[i].SubscriptionIdentifiers) {
			t.Fatalf("session %d has %d entries", i, len(entries))
		}
	}
	if _, bytes, _, err := f.Messages().Len(ctx, store.QueueOf(all[0].ID)); err != nil || bytes != op.Message.Size()+message("small").Size() {
		t.Errorf("Len: %d bytes (%v)", bytes, err)
	}
	// Moved, it is there by itself.
	moved := f.commit(store.Op{Kind: store.OpMove, From: store.QueueOf(all[0].ID), Limit: 1, Targets: []store.Target{{Queue: store.QueueOf(all[1].ID), QoS: 1}}})[0].Targets[0]
	if len(moved.Moved) != 1 || string(moved.Moved[0].Message.Payload) != payload {
		t.Errorf("moved: got %d entries", len(moved.Moved))
	}

	later := f.Now()
	sweep := func() {
		later = later.Add(2 * time.Hour)
		if err := f.sweep(ctx, later); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if shared() != 1 {
		t.Fatal("a message that is needed is gone")
	}
	for i, se := range all[1:] {
		if i == 0 {
			continue
		}
		if i%2 == 0 {
			f.commit(store.Op{Kind: store.OpEndSession, Session: se.ID})
		} else {
			f.commit(store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: []store.Number{op.Targets[i+1].Number}})
		}
	}
	sweep()
	if shared() != 1 {
		t.Fatal("a message that one session needs is gone")
	}
	if got := len(f.entries(store.QueueOf(all[1].ID))[0].Message.Payload); got != size {
		t.Errorf("%d bytes", got)
	}
	f.commit(store.Op{Kind: store.OpFinish, Session: all[1].ID, Numbers: []store.Number{op.Targets[1].Number}})
	sweep()
	if shared() != 0 || keys() != 0 {
		t.Errorf("%d messages are shared, in %d keys", shared(), keys())
	}
	entries := f.entries(store.QueueOf(all[1].ID))
	if len(entries) != 2 || string(entries[1].Message.Payload) != payload {
		t.Errorf("what was moved is gone")
	}
}

// Many entries are looked at in parts: the one that is still there may be in none of
// the first.
func TestSweepingGoesOn(t *testing.T) {
	const sessions, messages, size = 500, 5, 5000
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	var all []store.Session
	for i := range sessions {
		all = append(all, f.session(fmt.Sprint("c", i)))
	}
	var ops []store.Op
	for range messages {
		ops = append(ops, publish(strings.Repeat("x", size), all...))
	}
	ops = f.commit(ops...)
	finish := func(i int) store.Op {
		op := store.Op{Kind: store.OpFinish, Session: all[i].ID}
		for _, published := range ops {
			op.Numbers = append(op.Numbers, published.Targets[i].Number)
		}
		return op
	}
	var finished []store.Op
	for i := range all[1:] {
		finished = append(finished, finish(i+1))
	}
	f.commit(finished...)
	for number := range messages { // until all but the one that is left were seen
		await(t, "the sweep", func() bool { return f.redis.HLen(t.Context(), f.keys.shared(fmt.Sprint(number+1))).Val() <= 3 })
	}
	if got := len(f.entries(store.QueueOf(all[0].ID))); got != messages {
		t.Errorf("%d messages are left, want %d", got, messages)
	}
	f.commit(finish(0))
	await(t, "the messages to be deleted", func() bool { return f.redis.Exists(t.Context(), f.keys.prefix+"shared").Val() == 0 })
}
