package pebble_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"loopmq/store"
	"loopmq/store/pebble"
)

// crashWorker commits batch after batch to queues of its own. What batch k does
// follows from the seed, k, and what is there, so its state after batch k is known,
// and what a crash left has to be the state after one of the batches.
type crashWorker struct {
	name     string
	seed     uint64
	sessions [3]store.Session
	state    crashState
	issued   int          // batches begun
	answered atomic.Int64 // batches that returned
	after    []crashState // by batch, from the first one since the last crash on
	first    int          // the batch of after[0]

	named map[string]string // queue and number -> message, for ever
	wills bool              // its connections have Wills
}

// crashState is what a worker expects to be there.
type crashState struct {
	queues   [4][]crashEntry // the last one is a group's
	released map[store.Number]bool
	held     map[uint16]bool
	filters  map[string]bool
	retained string
}

type crashEntry struct {
	payload string
	number  store.Number
}

func (c *crashState) clone() crashState {
	d := *c
	for i := range d.queues {
		d.queues[i] = slices.Clone(d.queues[i])
	}
	d.released, d.held, d.filters = maps.Clone(c.released), maps.Clone(c.held), maps.Clone(c.filters)
	return d
}

func (w *crashWorker) queue(i int) store.QueueID {
	if i == 3 {
		return store.GroupQueue("share", w.name)
	}
	return store.QueueOf(w.sessions[i].ID)
}

// claim begins a connection for each session; that of the third one sometimes
// begins anew.
func (w *crashWorker) claim(t *testing.T, s store.Store, rng *rand.Rand) {
	for i := range w.sessions {
		c := store.Claim{Owner: "node", CleanStart: i == 2 && rng.IntN(3) == 0}
		if w.wills {
			c.Will = &store.Will{Message: store.Message{TopicName: []byte("will"), Payload: []byte(w.name)}, ExpirySeconds: -1}
		}
		known := w.sessions[i].Epoch != 0
		claimed := w.claimOne(t, s, i, c, known && i > 0) // there has claimed the first one
		if known && claimed.Present == c.CleanStart {
			t.Fatalf("session present: %v, with CleanStart %v", claimed.Present, c.CleanStart)
		}
		if c.CleanStart {
			w.state.queues[i] = nil
		}
	}
}

// claimOne claims a session, and publishes the Will of the connection that a
// crash ended.
func (w *crashWorker) claimOne(t *testing.T, s store.Store, i int, c store.Claim, willExpected bool) store.Claimed {
	c.ClientID, c.Durable, c.SessionExpiryInterval = fmt.Sprint(w.name, i), true, 0xFFFFFFFF
	claimed, err := s.Sessions().Claim(t.Context(), c)
	switch {
	case err != nil:
		t.Fatal(err)
	case claimed.Session.Epoch <= w.sessions[i].Epoch:
		t.Fatalf("epoch %d after %d", claimed.Session.Epoch, w.sessions[i].Epoch)
	case claimed.OldOwner != "":
		t.Fatalf("a session is connected after a crash: %+v", claimed)
	case w.wills && willExpected && claimed.OldWill == nil:
		t.Fatal("the Will of the connection before the crash is gone")
	}
	w.sessions[i] = claimed.Session
	if old := claimed.OldWill; old != nil {
		b := &store.Batch{Ops: []store.Op{{Kind: store.OpPublish, Message: &old.Message, WillOf: old}}}
		if err := s.NewWriter("wills").Commit(t.Context(), b); err != nil || b.Ops[0].Result != store.Done {
			t.Fatal(err, b.Ops[0].Result)
		}
	}
	return claimed
}

// batch makes up batch k, and changes w.state as it will.
func (w *crashWorker) batch(k int) *store.Batch {
	var (
		rng = rand.New(rand.NewPCG(w.seed, uint64(k)))
		st  = &w.state
		b   = &store.Batch{}
	)
	if rng.IntN(2) == 0 { // acknowledgements
		i := rng.IntN(3)
		q := st.queues[i]
		if n := rng.IntN(len(q) + 1); n > 0 {
			at := rng.IntN(len(q) - n + 1)
			op := store.Op{Kind: store.OpFinish, Session: w.sessions[i].ID, Epoch: w.sessions[i].Epoch}
			for _, e := range q[at : at+n] {
				op.Numbers = append(op.Numbers, e.number)
			}
			if i == 0 {
				op.Kind = store.OpRelease
				for _, n := range op.Numbers {
					st.released[n] = true
				}
			}
			st.queues[i] = slices.Delete(slices.Clone(q), at, at+n)
			b.Add(op)
		}
	}
	if rng.IntN(4) == 0 && len(st.released) > 0 {
		op := store.Op{Kind: store.OpComplete, Session: w.sessions[0].ID, Epoch: w.sessions[0].Epoch}
		op.Numbers = slices.SortedFunc(maps.Keys(st.released), func(a, b store.Number) int {
			if a.Less(b) {
				return -1
			}
			return 1
		})[:1]
		delete(st.released, op.Numbers[0])
		b.Add(op)
	}
	if rng.IntN(4) == 0 { // a group's entries go to a member
		if n := rng.IntN(len(st.queues[3]) + 1); n > 0 {
			b.Add(store.Op{Kind: store.OpMove, From: w.queue(3), Limit: n, Targets: []store.Target{{Queue: w.queue(1)}}})
			for _, e := range st.queues[3][:n] {
				st.queues[1] = append(st.queues[1], crashEntry{payload: e.payload})
			}
			st.queues[3] = slices.Clone(st.queues[3][n:])
		}
	}
	filter := fmt.Sprint("f/", rng.IntN(5))
	op := store.Op{Kind: store.OpSubscribe, Session: w.sessions[0].ID, Epoch: w.sessions[0].Epoch, Subscriptions: []store.Subscription{{TopicFilter: filter}}}
	if st.filters[filter] = rng.IntN(2) == 0; !st.filters[filter] {
		op.Kind = store.OpUnsubscribe
		delete(st.filters, filter)
	}
	b.Add(op)

	payload := fmt.Sprint(w.name, " ", k, " ")
	for size := []int{0, pebble.SharedMin, 3000}[rng.IntN(3)]; len(payload) < size; {
		payload += "0123456789abcdef"
	}
	publish := store.Op{Kind: store.OpPublish, Message: &store.Message{TopicName: []byte(w.name), Payload: []byte(payload), QoS: 2}}
	for i := range st.queues {
		if rng.IntN(2) == 0 {
			publish.Targets = append(publish.Targets, store.Target{Queue: w.queue(i), QoS: 1})
			st.queues[i] = append(st.queues[i], crashEntry{payload: payload})
		}
	}
	if publish.Retain = rng.IntN(3) == 0; publish.Retain {
		st.retained = payload
	}
	if packetID := uint16(1 + k%20); !st.held[packetID] {
		publish.Session, publish.Epoch, publish.PacketID = w.sessions[0].ID, w.sessions[0].Epoch, packetID
		st.held[packetID] = true
	} else {
		b.Add(store.Op{Kind: store.OpUnhold, Session: w.sessions[0].ID, Epoch: w.sessions[0].Epoch, PacketID: packetID})
		delete(st.held, packetID)
	}
	b.Add(publish)
	return b
}

// run commits until it is told to stop.
func (w *crashWorker) run(ctx context.Context, t *testing.T, s store.Store) {
	writer := s.NewWriter(w.name)
	w.after, w.first = []crashState{w.state.clone()}, w.issued
	for ctx.Err() == nil {
		b := w.batch(w.issued + 1)
		w.after = append(w.after, w.state.clone())
		w.issued++
		if err := writer.Commit(context.Background(), b); err != nil {
			t.Errorf("commit: %v", err)
			return
		}
		w.answered.Store(int64(w.issued))
		for _, op := range b.Ops {
			if op.Result != store.Done {
				t.Errorf("%s: operation %d has result %d", w.name, op.Kind, op.Result)
			}
		}
		w.read(t, s)
	}
}

// read takes the numbers of what is queued, and holds them to what they named
// before.
func (w *crashWorker) read(t *testing.T, s store.Store) {
	for i := range w.state.queues {
		entries, err := s.Messages().Read(context.Background(), w.queue(i), store.Number{}, 1<<30, 0)
		if err != nil && !errors.Is(err, store.ErrGone) {
			t.Errorf("read: %v", err)
		}
		q := w.state.queues[i]
		if len(entries) != len(q) {
			t.Errorf("%s: queue %d has %d entries, want %d", w.name, i, len(entries), len(q))
			return
		}
		for j, e := range entries {
			payload := string(e.Message.Payload)
			if payload != q[j].payload {
				t.Errorf("%s: queue %d: entry %d is %.20q, want %.20q", w.name, i, j, payload, q[j].payload)
			}
			q[j].number = e.Number
			key := fmt.Sprint(w.queue(i), e.Number)
			if before, known := w.named[key]; known && before != payload {
				t.Errorf("%s: number %v named %.20q, and now %.20q", w.name, e.Number, before, payload)
			}
			w.named[key] = payload
		}
	}
}

// there returns what is in the store.
func (w *crashWorker) there(t *testing.T, s *pebble.Store) crashState {
	c := crashState{released: map[store.Number]bool{}, held: map[uint16]bool{}, filters: map[string]bool{}}
	for i := range c.queues {
		entries, err := s.Messages().Read(t.Context(), w.queue(i), store.Number{}, 1<<30, 0)
		if err != nil && !errors.Is(err, store.ErrGone) {
			t.Fatal(err)
		}
		for _, e := range entries {
			c.queues[i] = append(c.queues[i], crashEntry{string(e.Message.Payload), e.Number})
		}
		n, _, _, err := s.Messages().Len(t.Context(), w.queue(i))
		if err == nil && n != len(entries) {
			t.Errorf("Len is %d, with %d entries", n, len(entries))
		}
	}
	subscriptions, err := s.Subscriptions().Of(t.Context(), w.sessions[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range subscriptions {
		c.filters[sub.TopicFilter] = true
	}
	retained, err := s.Retained().Read(t.Context(), []string{w.name})
	if err != nil {
		t.Fatal(err)
	}
	if retained[0] != nil {
		c.retained = string(retained[0].Payload)
	}
	// A claim says the rest. It changes what the next one says of the owner only.
	claimed := w.claimOne(t, s, 0, store.Claim{}, true)
	for _, n := range claimed.Released {
		c.released[n] = true
	}
	for _, packetID := range claimed.Held {
		c.held[packetID] = true
	}
	return c
}

// same compares two states but for numbers.
func (c *crashState) same(d *crashState) bool {
	for i := range c.queues {
		if !slices.EqualFunc(c.queues[i], d.queues[i], func(a, b crashEntry) bool { return a.payload == b.payload }) {
			return false
		}
	}
	return reflect.DeepEqual(c.released, d.released) && reflect.DeepEqual(c.held, d.held) &&
		reflect.DeepEqual(c.filters, d.filters) && c.retained == d.retained
}

// used is what the messages of the worker count.
func (c *crashState) used(topicName string) (bytes int) {
	places := map[string]int{c.retained: 1}
	for _, q := range c.queues {
		for _, e := range q {
			places[e.payload]++
		}
	}
	for payload, n := range places {
		switch size := len(topicName) + len(payload); {
		case payload == "":
		case size >= pebble.SharedMin:
			bytes += size
		default:
			bytes += n * size
		}
	}
	return bytes
}

// Power fails again and again, at random moments of a random load, and of what
// was not synced any part may be there or not. Afterwards each worker's state is
// the one after some batch: no half batch; with sync=always one not older than
// what was answered; and no number ever names a second message.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for mode, rounds := range map[pebble.Sync]int{pebble.SyncAlways: 200, pebble.SyncInterval: 50, pebble.SyncOff: 50} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			if testing.Short() {
				rounds /= 10
			}
			powerLoss(t, mode, rounds)
		})
	}
}

func powerLoss(t *testing.T, mode pebble.Sync, rounds int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	workers := []*crashWorker{{name: "a"}, {name: "b"}}
	for i, w := range workers {
		w.seed = seed + uint64(i) + 1
		w.named, w.wills = map[string]string{}, mode == pebble.SyncAlways
		w.state = crashState{released: map[store.Number]bool{}, held: map[uint16]bool{}, filters: map[string]bool{}}
	}
	fs := vfs.NewCrashableMem()
	open := func() *pebble.Store {
		return mustOpen(t, pebble.Options{Dir: "data", FS: fs, Sync: mode, SyncInterval: 1e6, MemTableBytes: 64 << 10})
	}
	s := open()
	batches, lost := 0, 0
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		for _, w := range workers {
			w.claim(t, s, rng)
			w.read(t, s)
		}
		if mode != pebble.SyncAlways { // claims are lost too, unless something makes them durable
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
			for _, w := range workers {
				for i := range w.sessions {
					w.claimOne(t, s, i, store.Claim{Owner: "node"}, false)
				}
			}
		}
		var wg sync.WaitGroup
		begin := workers[0].issued + workers[1].issued
		for _, w := range workers {
			w.answered.Store(int64(w.issued))
			wg.Go(func() { w.run(ctx, t, s) })
		}
		for until := int64(begin + rng.IntN(40)); workers[0].answered.Load()+workers[1].answered.Load() < until && !t.Failed(); {
			runtime.Gosched()
		}
		answered := []int{int(workers[0].answered.Load()), int(workers[1].answered.Load())}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(rng.Uint64(), 0))})
		cancel()
		wg.Wait()
		_ = s.Close()
		if t.Failed() {
			return
		}
		fs = crashed
		s = open()
		used := 0
		for i, w := range workers {
			there := w.there(t, s)
			oldest := answered[i]
			if mode != pebble.SyncAlways {
				oldest = w.first
			}
			k := w.issued
			for k >= oldest && !there.same(&w.after[k-w.first]) {
				k--
			}
			if k < oldest {
				t.Fatalf("round %d: %s is in no state that it was in after batch %d to %d:\n%.2000v\nwant\n%.2000v", round, w.name, oldest, w.issued, there, w.after[oldest-w.first])
			}
			batches += w.issued - w.first
			lost += w.issued - k
			w.state, w.issued = there, k
			used += there.used(w.name)
		}
		if got := s.Used(); got != used+wills(t, s) {
			t.Fatalf("round %d: the store counts %d bytes, want %d", round, got, used+wills(t, s))
		}
	}
	t.Logf("%d batches, %d of them lost", batches, lost)
}

// wills returns the bytes of the Wills that are due.
func wills(t *testing.T, s *pebble.Store) (bytes int) {
	due, err := s.Wills().Due(t.Context(), s.Now(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range due {
		bytes += w.Message.Size()
	}
	return bytes
}
