package pebble_test

import (
	"strings"
	"testing"

	"loopmq/store"
	"loopmq/store/pebble"
)

// What comes and goes leaves nothing behind, neither on the disk nor in the way
// of reads, whether it goes at once or only after it was sorted into files.
func TestChurn(t *testing.T) {
	t.Parallel()
	o := inMemory()
	o.MemTableBytes, o.Sync = 256<<10, pebble.SyncOff
	s := mustOpen(t, o)
	slow, fast := mustClaim(t, s, "slow"), mustClaim(t, s, "fast")
	payload := strings.Repeat("x", 1000)
	w := s.NewWriter("w")
	var before []store.Number
	for range 300 {
		b := &store.Batch{}
		for range 100 {
			b.Add(publish(payload, store.QueueOf(slow.ID), store.QueueOf(fast.ID)))
		}
		if err := w.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		var numbers, finish []store.Number
		for _, op := range b.Ops {
			numbers = append(numbers, op.Targets[0].Number)
			finish = append(finish, op.Targets[1].Number)
		}
		b = &store.Batch{}
		b.Add(store.Op{Kind: store.OpFinish, Session: fast.ID, Numbers: finish})
		b.Add(store.Op{Kind: store.OpFinish, Session: slow.ID, Numbers: before}) // by then flushed
		if err := w.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		before = numbers
	}
	if n := len(mustRead(t, s, store.QueueOf(slow.ID))); n != 100 {
		t.Errorf("%d entries are left, want 100", n)
	}
	if used := s.Used(); used != 100*(len("topic")+len(payload)) {
		t.Errorf("the store counts %d bytes", used)
	}
	// 30 MB went through it, and 100 KB are there.
	if usage := s.DiskUsage(); usage > 8<<20 {
		t.Errorf("the files take %d bytes", usage)
	}
}
