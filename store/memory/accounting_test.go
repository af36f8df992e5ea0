package memory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq/store"
)

// commit commits ops in one batch.
func commit(t testing.TB, s *Store, ops ...store.Op) []store.Op {
	t.Helper()
	b := &store.Batch{Ops: ops}
	if err := s.NewWriter("test").Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return b.Ops
}

func claim(t testing.TB, s *Store, c store.Claim) store.Session {
	t.Helper()
	claimed, err := s.Sessions().Claim(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return claimed.Session
}

func publish(payload string, sessions ...store.Session) store.Op {
	op := store.Op{Kind: store.OpPublish, Message: &store.Message{TopicName: []byte("t"), Payload: []byte(payload)}}
	for _, se := range sessions {
		op.Targets = append(op.Targets, store.Target{Queue: store.QueueOf(se.ID), QoS: 1})
	}
	return op
}

// Whatever is done with messages, those that are held and no others count.
func TestUsedCountsEachMessageOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := New(Options{})
	clientIDs := []string{"a", "b", "c"}
	for step := range 3000 {
		c := store.Claim{ClientID: clientIDs[rng.IntN(3)], Durable: rng.IntN(8) != 0, CleanStart: rng.IntN(8) == 0}
		if rng.IntN(4) == 0 {
			c.Limits = store.Limits{Bytes: 200, Policy: store.DropOldest, Protected: rng.IntN(3)}
		}
		if rng.IntN(2) == 0 {
			c.Will = &store.Will{Message: store.Message{Payload: make([]byte, rng.IntN(100))}, DelayInterval: rng.Uint32N(2)}
		}
		se := claim(t, s, c)
		var all []store.Session
		for _, other := range s.sessions {
			all = append(all, other.Session)
		}
		op := publish(strings.Repeat("x", rng.IntN(100)), all[:rng.IntN(len(all)+1)]...)
		op.Retain = rng.IntN(2) == 0
		group := store.GroupQueue("g", "t")
		own := store.QueueOf(se.ID)
		move := store.Op{Kind: store.OpMove, From: own, Limit: rng.IntN(3), Targets: []store.Target{{Queue: group}}}
		if rng.IntN(2) == 0 {
			move.From, move.Targets[0].Queue = group, own
		}
		ops := []store.Op{op, move}
		if q, _ := s.queue(own); q != nil {
			ops = append(ops, store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: q.first(rng.IntN(3))})
		}
		switch rng.IntN(4) {
		case 0:
			ops = append(ops, store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, WillRemoved: rng.IntN(2) == 0})
		case 1:
			ops = append(ops, store.Op{Kind: store.OpEndSession, Session: se.ID})
		}
		for id := range s.wills {
			w := publish("will", all...)
			w.WillOf = &store.Will{ClientID: id.clientID, Epoch: id.epoch}
			ops = append(ops, w)
			break
		}
		commit(t, s, ops...)
		if got, want := s.used, heldBytes(s); got != want {
			t.Fatalf("step %d: %d bytes used, but %d held", step, got, want)
		}
	}
}

// heldBytes looks at all that the store holds.
func heldBytes(s *Store) int {
	held := map[*store.Message]bool{}
	queues := func(q *queue) {
		for _, sl := range q.slots[q.head:] {
			if sl.message != nil {
				held[sl.message.Message] = true
			}
		}
	}
	for _, q := range s.groups {
		queues(q)
	}
	for _, se := range s.sessions {
		if se.state != nil {
			queues(&se.state.queue)
		}
	}
	for _, r := range s.retained {
		held[r.message.Message] = true
	}
	for _, w := range s.wills {
		held[&w.Message] = true
	}
	bytes := 0
	for m := range held {
		bytes += m.Size()
	}
	return bytes
}

// Limits are exact here, where the compliance suite lets a store be soft.
func TestLimitsAreExact(t *testing.T) {
	size := publish("0").Message.Size()
	for _, tt := range []struct {
		name             string
		limits           store.Limits
		want             string // of ten messages
		refused, dropped int
	}{
		{"newest by number", store.Limits{Messages: 3}, "012", 7, 0},
		{"newest by bytes", store.Limits{Bytes: 4*size - 1}, "012", 7, 0},
		{"oldest by number", store.Limits{Policy: store.DropOldest, Messages: 3}, "789", 0, 7},
		{"oldest by bytes", store.Limits{Policy: store.DropOldest, Bytes: 3 * size}, "789", 0, 7},
		{"oldest but protected", store.Limits{Policy: store.DropOldest, Messages: 4, Protected: 2}, "0189", 0, 6},
		{"all protected", store.Limits{Policy: store.DropOldest, Messages: 4, Protected: 4}, "0123", 6, 0},
		{"protected bytes", store.Limits{Policy: store.DropOldest, Bytes: 4 * size, Protected: 4}, "0123", 6, 0},
		{"larger than all", store.Limits{Policy: store.DropOldest, Bytes: size - 1}, "", 10, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(Options{})
			se := claim(t, s, store.Claim{ClientID: "c", Durable: true, Limits: tt.limits})
			var refused, dropped int
			for i := range 10 {
				target := commit(t, s, publish(fmt.Sprint(i), se))[0].Targets[0]
				dropped += target.Dropped[1]
				if target.Result == store.Refused {
					refused++
				}
			}
			entries, err := s.Messages().Read(context.Background(), store.QueueOf(se.ID), store.Number{}, 100, 0)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, e := range entries {
				got += string(e.Message.Payload)
			}
			if got != tt.want || refused != tt.refused || dropped != tt.dropped {
				t.Errorf("got %q, %d refused, %d dropped, want %q, %d, %d", got, refused, dropped, tt.want, tt.refused, tt.dropped)
			}
		})
	}
}

func TestNowIsTheClockOfTheStore(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(Options{Now: func() time.Time { return now }})
	if !s.Now().Equal(now) {
		t.Errorf("Now: got %v, want %v", s.Now(), now)
	}
	se := claim(t, s, store.Claim{ClientID: "c", Durable: true})
	commit(t, s, store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, Due: now.Add(time.Second)})
	now = now.Add(time.Second)
	claimed, err := s.Sessions().Claim(context.Background(), store.Claim{ClientID: "c", Durable: true})
	if err != nil || claimed.Present {
		t.Errorf("a session goes on at the moment when it expires: %v", err)
	}
}

func TestUnknownOperationPanics(t *testing.T) {
	s := New(Options{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_ = s.NewWriter("w").Commit(context.Background(), &store.Batch{Ops: []store.Op{{}}})
	}()
	commit(t, s) // the store is not locked
}

// A queue gives its memory back, even if an old entry stays for ever.
func TestQueueMemoryFollowsItsEntries(t *testing.T) {
	m := &message{Message: &store.Message{}}
	q := queue{generation: 1}
	const n = 100_000
	for range n {
		q.append(slot{message: m})
	}
	for seq := uint64(2); seq <= n; seq++ {
		i := q.find(q.number(seq))
		if i < 0 {
			t.Fatalf("entry %d is gone", seq)
		}
		q.remove(i)
	}
	if got := cap(q.slots); got > keptSlots {
		t.Errorf("one entry takes %d slots", got)
	}
	// A queue that is used for a long time does not grow either.
	for range n {
		q.remove(q.find(q.append(slot{message: m})))
	}
	if got := cap(q.slots); got > 2*keptSlots {
		t.Errorf("one entry takes %d slots", got)
	}
	q.remove(q.find(q.number(1)))
	if got := cap(q.slots); got > keptSlots {
		t.Errorf("an empty queue takes %d slots", got)
	}
	if q.live != 0 || q.bytes != 0 || q.last != 2*n {
		t.Errorf("got %d entries, %d bytes, last number %d", q.live, q.bytes, q.last)
	}
}

// A queue that is used for long doesn't allocate, and one that is nearly full
// grows: looking for the few free slots at each append would cost its length.
func TestQueueReusesSlots(t *testing.T) {
	m := &message{Message: &store.Message{}}
	q := queue{generation: 1}
	for range 100 {
		q.append(slot{message: m})
	}
	if allocs := testing.AllocsPerRun(1, func() {
		for range 10_000 {
			n := q.append(slot{message: m})
			n.Seq -= 100
			q.remove(q.find(n))
		}
	}); allocs != 0 {
		t.Errorf("append and remove allocate %v times", allocs)
	}
	q = queue{generation: 1}
	for q.live < 100 || len(q.slots) < cap(q.slots) {
		q.append(slot{message: m})
	}
	before := cap(q.slots)
	q.remove(q.head + 1)
	q.append(slot{message: m})
	if cap(q.slots) <= before {
		t.Errorf("a queue of %d entries has %d slots still", q.live, before)
	}
}

func TestHandshakeMemoryGoes(t *testing.T) {
	s := New(Options{})
	se := claim(t, s, store.Claim{ClientID: "c", Durable: true})
	hold := store.Op{Kind: store.OpPublish, Session: se.ID, Epoch: se.Epoch, PacketID: 1, Message: &store.Message{}}
	unhold := hold
	unhold.Kind = store.OpUnhold
	commit(t, s, hold, unhold)
	if held := s.sessions["c"].state.held; held != nil {
		t.Errorf("%d slots for Packet Identifiers are left", cap(held))
	}
}

// A removed entry must not keep its message from the garbage collector.
func TestQueueClearsRemovedSlots(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	q := queue{generation: 1}
	var live []uint64
	for range 20_000 {
		if rng.IntN(2) == 0 || len(live) == 0 {
			live = append(live, q.append(slot{message: &message{Message: &store.Message{}}}).Seq)
		} else {
			i := rng.IntN(len(live))
			q.remove(q.find(q.number(live[i])))
			live = slices.Delete(live, i, i+1)
		}
		held := 0
		for _, sl := range q.slots[:cap(q.slots)] {
			if sl.message != nil {
				held++
			}
		}
		if held != len(live) || q.live != len(live) {
			t.Fatalf("%d messages are held and %d counted, want %d", held, q.live, len(live))
		}
	}
	for _, seq := range live {
		if i := q.find(q.number(seq)); i < 0 || q.slots[i].seq != seq {
			t.Fatalf("entry %d is gone", seq)
		}
	}
}

// A session that is not durable costs its record, and one that is gone nothing.
func TestSessionMemory(t *testing.T) {
	const n = 20_000
	s := New(Options{})
	clientIDs := make([]string, n)
	for i := range clientIDs {
		clientIDs[i] = fmt.Sprint("client", i)
	}
	before := heapBytes()
	sessions := make([]store.Session, n)
	for i, clientID := range clientIDs {
		sessions[i] = claim(t, s, store.Claim{ClientID: clientID, Owner: "node"})
	}
	perSession := (heapBytes() - before) / n
	t.Logf("%d bytes per session that is not durable", perSession)
	if perSession > 640 {
		t.Errorf("got %d bytes per session, want at most 640", perSession)
	}
	for _, se := range sessions {
		commit(t, s, store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch})
	}
	if len(s.sessions) != 0 || len(s.wills) != 0 || len(s.sessionExpiry) != 0 {
		t.Errorf("something is left: %d sessions, %d Wills, %d deadlines", len(s.sessions), len(s.wills), len(s.sessionExpiry))
	}
	runtime.KeepAlive(clientIDs)
}

func heapBytes() int {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

func TestScheduleKeepsOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var (
		s         schedule[int]
		deadlines [50]deadline[int]
		epoch     = time.Unix(0, 0)
	)
	for i := range deadlines {
		deadlines[i].value = i
	}
	for range 3000 {
		d := &deadlines[rng.IntN(len(deadlines))]
		at := epoch.Add(time.Duration(1+rng.IntN(100)) * time.Second)
		if rng.IntN(3) == 0 {
			at = time.Time{}
		}
		s.set(d, at)
		now, limit := epoch.Add(time.Duration(rng.IntN(110))*time.Second), rng.IntN(20)
		var want []time.Time
		for _, d := range deadlines {
			if !d.at.IsZero() && !d.at.After(now) {
				want = append(want, d.at)
			}
		}
		slices.SortFunc(want, time.Time.Compare)
		due := s.due(now, limit)
		if len(due) != min(limit, len(want)) {
			t.Fatalf("got %d due, want %d", len(due), min(limit, len(want)))
		}
		for i, v := range due {
			if !deadlines[v].at.Equal(want[i]) {
				t.Fatalf("%d is due at %v, want %v", i, deadlines[v].at, want[i])
			}
		}
	}
}
