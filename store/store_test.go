package store_test

import (
	"slices"
	"testing"
	"time"

	"loopmq/store"
)

func TestMessageSize(t *testing.T) {
	m := store.Message{TopicName: []byte("topic"), Payload: []byte("payload"), Properties: []byte{1, 1}, PublisherID: "not counted"}
	if got, want := m.Size(), 5+7+2; got != want {
		t.Errorf("Size: got %d, want %d", got, want)
	}
	if got := (&store.Message{}).Size(); got != 0 {
		t.Errorf("Size of an empty message: got %d, want 0", got)
	}
}

func TestMessageExpired(t *testing.T) {
	expiry := time.Unix(1000, 0)
	for _, tt := range []struct {
		name   string
		expiry time.Time
		now    time.Time
		want   bool
	}{
		{"never", time.Time{}, expiry, false},
		{"before", expiry, expiry.Add(-1), false},
		{"at the time", expiry, expiry, true},
		{"after", expiry, expiry.Add(1), true},
	} {
		if got := (&store.Message{Expiry: tt.expiry}).Expired(tt.now); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestNumberLess(t *testing.T) {
	inOrder := []store.Number{{}, {Generation: 1, Seq: 1}, {Generation: 1, Seq: 2}, {Generation: 2, Seq: 1}, {Generation: 3}}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got := a.Less(b); got != (i < j) {
				t.Errorf("%v before %v: got %t", a, b, got)
			}
		}
		if got := a.IsZero(); got != (i == 0) {
			t.Errorf("IsZero of %v: got %t", a, got)
		}
	}
}

func TestQueueID(t *testing.T) {
	id := store.SessionID{ClientID: "c", Incarnation: 7}
	if q := store.QueueOf(id); q.Session != id || q.IsGroup() {
		t.Errorf("queue of a session: got %+v", q)
	}
	if q := store.GroupQueue("share", "a/#"); q != (store.QueueID{ShareName: "share", TopicFilter: "a/#"}) || !q.IsGroup() {
		t.Errorf("queue of a group: got %+v", q)
	}
}

func TestBatch(t *testing.T) {
	var b store.Batch
	for want := range 3 {
		if got := b.Add(store.Op{Kind: store.OpFinish, PacketID: uint16(want)}); got != want {
			t.Errorf("Add: got index %d, want %d", got, want)
		}
	}
	b.Seq = 5
	ops := b.Ops
	b.Reset()
	if b.Seq != 0 || len(b.Ops) != 0 {
		t.Errorf("after Reset: got Seq %d and %d operations", b.Seq, len(b.Ops))
	}
	// What the operations pointed to is not kept, their memory is.
	if slices.ContainsFunc(ops, func(op store.Op) bool { return op.Kind != 0 }) {
		t.Errorf("after Reset an operation is left: %+v", ops)
	}
	if allocs := testing.AllocsPerRun(100, func() { b.Add(store.Op{}); b.Reset() }); allocs != 0 {
		t.Errorf("a batch that is used again allocates %v times", allocs)
	}
}
