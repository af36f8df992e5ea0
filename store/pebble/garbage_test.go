package pebble_test

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"loopmq/store"
	"loopmq/store/pebble"
)

// fillAndRemove appends n messages to a queue and removes the first of them, and returns
// the numbers of the others.
func fillAndRemove(t *testing.T, s store.Store, q store.QueueID, n, removed int) (numbers []store.Number) {
	t.Helper()
	for i := range n {
		numbers = append(numbers, mustCommit(t, s, publish(fmt.Sprint(i), q)).Targets[0].Number)
	}
	for _, number := range numbers[:removed] {
		op := store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: []store.Number{number}}
		if q.IsGroup() {
			op = store.Op{Kind: store.OpMove, From: q, Numbers: []store.Number{number}}
		}
		mustCommit(t, s, op)
	}
	return numbers
}

func mustHaveEntries(t *testing.T, s *pebble.Store, want int) {
	t.Helper()
	if n, err := s.Entries(); err != nil || n != want {
		t.Errorf("%d entries in the database, want %d; error %v", n, want, err)
	}
}

// What was removed in order is gone for everybody at once, and from the database
// later: when it is much, when the session goes offline or ends, and when the store
// is closed.
func TestGarbage(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 40, 600} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := mustOpen(t, inMemory())
			se := mustClaim(t, s, "client")
			q := store.QueueOf(se.ID)
			numbers := fillAndRemove(t, s, q, n+2, n)
			if left := mustRead(t, s, q); len(left) != 2 || left[0].Number != numbers[n] {
				t.Fatalf("left: %v", left)
			}
			if stored, _ := s.Entries(); stored < 3 || stored > 2+256 {
				t.Errorf("%d entries in the database", stored)
			}
			target := store.Target{Queue: store.GroupQueue("share", "topic"), QoS: 1}
			moved := mustCommit(t, s, store.Op{Kind: store.OpMove, From: q, Numbers: numbers[:n], Targets: []store.Target{target}})
			if m := moved.Targets[0].Moved; len(m) != 0 {
				t.Errorf("moved what had been removed: %v", m)
			}
			mustCommit(t, s, store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, SessionExpiryInterval: 100})
			mustHaveEntries(t, s, 2)
			mustCommit(t, s, store.Op{Kind: store.OpEndSession, Session: se.ID})
			mustHaveEntries(t, s, 0)
		})
	}
}

func TestGarbageOfGroup(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, inMemory())
	q := store.GroupQueue("share", "topic")
	numbers := fillAndRemove(t, s, q, 5, 4)
	mustHaveEntries(t, s, 5)
	mustCommit(t, s, store.Op{Kind: store.OpMove, From: q, Numbers: numbers[4:]})
	mustHaveEntries(t, s, 0)
}

func TestGarbageAndClose(t *testing.T) {
	t.Parallel()
	o := inMemory()
	s := mustOpen(t, o)
	q := store.QueueOf(mustClaim(t, s, "client").ID)
	fillAndRemove(t, s, q, 5, 4)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o)
	mustHaveEntries(t, s, 1)
	if left := mustRead(t, s, q); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// After a crash what was removed is gone as well, and its garbage goes with the
// session.
func TestGarbageAndCrash(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	o := inMemory()
	o.FS = disk
	s := mustOpen(t, o)
	se := mustClaim(t, s, "client")
	q := store.QueueOf(se.ID)
	numbers := fillAndRemove(t, s, q, 6, 4)
	o.FS = disk.CrashClone(vfs.CrashCloneCfg{})
	s = mustOpen(t, o)
	if left := mustRead(t, s, q); len(left) != 2 || left[0].Number != numbers[4] {
		t.Errorf("left: %v", left)
	}
	mustHaveEntries(t, s, 6)
	mustCommit(t, s, store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: numbers[:5]})
	if left := mustRead(t, s, q); len(left) != 1 || left[0].Number != numbers[5] {
		t.Errorf("left: %v", left)
	}
	mustCommit(t, s, store.Op{Kind: store.OpEndSession, Session: se.ID})
	mustHaveEntries(t, s, 0)
}
