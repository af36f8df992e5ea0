package redisstore

import (
	"fmt"
	"testing"
	"time"

	"loopmq/internal/redistest"
	"loopmq/store"
)

// What was acknowledged with a replica is there after a failover, and the new master
// gives no number twice.
func TestSentinelFailover(t *testing.T) {
	sentinel := redistest.StartSentinel(t)
	s, err := NewStore(t.Context(), sentinel.URL()+"?ack=store+replicas:1&timeout=2s", Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, s)
	var claimed store.Claimed
	await(t, "the replica", func() bool {
		claimed, err = f.Sessions().Claim(t.Context(), store.Claim{ClientID: "c", Owner: "n", Durable: true})
		return err == nil
	})
	q := store.QueueOf(claimed.Session.ID)
	seen := map[store.Number]bool{}
	var want []string
	publishOne := func() {
		payload := fmt.Sprint(len(want))
		want = append(want, payload)
		batch := &store.Batch{Ops: []store.Op{publish(payload, claimed.Session)}}
		await(t, "a commit", func() bool { err = f.w.Commit(t.Context(), batch); return err == nil })
		n := batch.Ops[0].Targets[0].Number
		if seen[n] {
			t.Errorf("number %v names a second message", n)
		}
		seen[n] = true
	}
	for range 5 {
		publishOne()
	}
	began := time.Now()
	sentinel.Failover()
	for range 5 {
		publishOne()
	}
	t.Logf("%v until commits went on", time.Since(began))
	entries := f.entries(q)
	if len(entries) != len(want) {
		t.Fatalf("%d entries, want %d", len(entries), len(want))
	}
	for i, e := range entries {
		if string(e.Message.Payload) != want[i] {
			t.Errorf("entry %d is %q", i, e.Message.Payload)
		}
	}
	if first, last := entries[0].Number, entries[len(entries)-1].Number; first.Generation >= last.Generation {
		t.Errorf("generation %d after %d", last.Generation, first.Generation)
	}
}
