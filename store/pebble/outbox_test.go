package pebble_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"loopmq/store"
	"loopmq/store/pebble"
)

func enqueue(endpoint, data string) store.Op {
	return store.Op{Kind: store.OpEnqueue, Event: &store.Event{Endpoint: endpoint, Data: []byte(data)}}
}

func mustTake(t testing.TB, s store.Store, consumer string, limit int) []store.Taken {
	t.Helper()
	taken, err := s.Outbox().Take(t.Context(), "e", consumer, limit, 0)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

func mustState(t testing.TB, s store.Store) store.OutboxState {
	t.Helper()
	st, err := s.Outbox().State(t.Context(), "e")
	if err != nil {
		t.Fatal(err)
	}
	if st.Matched != st.Delivered+st.Queued+st.Taken+st.Dead+st.Dropped {
		t.Fatalf("the outbox doesn't add up: %+v", st)
	}
	return st
}

// After a crash each publication is there with its event and its key, or all of it is
// not; what was answered is there, and so is all that wasn't finished.
func TestCrashKeepsEventsWithMessages(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := vfs.NewCrashableMem()
	open := func() *pebble.Store {
		return mustOpen(t, pebble.Options{Dir: "data", FS: fs, MemTableBytes: 64 << 10})
	}
	s := open()
	q := store.QueueOf(mustClaim(t, s, "c").ID)
	published := 0 // those up to here are in the queue
	finished := map[string]bool{}
	for range 25 {
		var (
			answered atomic.Int64
			wg       sync.WaitGroup
			mu       sync.Mutex // guards finished
		)
		answered.Store(int64(published))
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			w := s.NewWriter("w")
			for n := published + 1; ctx.Err() == nil; n++ {
				op := publish(strconv.Itoa(n), q)
				op.Once = &store.Once{Key: strconv.Itoa(n), Answer: []byte("answer"), Expires: time.Now().Add(time.Hour)}
				event := enqueue("e", strconv.Itoa(n))
				event.IfPublished = true
				b := &store.Batch{Ops: []store.Op{op, event, op, event}} // the second time nothing happens
				if err := w.Commit(t.Context(), b); err != nil {
					t.Error(err)
					return
				}
				if b.Ops[1].Result != store.Done || b.Ops[3].Result != store.Duplicate {
					t.Errorf("events: results %v and %v", b.Ops[1].Result, b.Ops[3].Result)
				}
				answered.Store(int64(n))
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				taken := mustTake(t, s, "a", 3)
				for i, e := range taken {
					mu.Lock()
					finished[string(e.Data)] = true
					mu.Unlock()
					var err error
					if i == 0 {
						_, err = s.Outbox().Bury(t.Context(), "e", []store.Dead{{ID: e.ID}}, 5)
					} else {
						err = s.Outbox().Done(t.Context(), "e", []store.EventID{e.ID})
					}
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
		for until := int64(published + rng.IntN(60)); answered.Load() < until && !t.Failed(); {
			runtime.Gosched()
		}
		least := int(answered.Load())
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(rng.Uint64(), 0))})
		cancel()
		wg.Wait()
		if t.Failed() {
			return
		}
		_ = s.Close()
		fs = crashed
		s = open()

		entries := mustRead(t, s, q)
		if published = len(entries); published < least {
			t.Fatalf("%d messages are there, %d were acknowledged", published, least)
		}
		st := mustState(t, s)
		if st.Matched != uint64(published) || st.Taken != 0 {
			t.Fatalf("%d messages are there, and of the events %+v", published, st)
		}
		left := map[string]bool{}
		for _, e := range mustTake(t, s, "b", 1<<30) {
			if !e.Again {
				t.Errorf("event %s may not have been taken before", e.Data)
			}
			left[string(e.Data)] = true
		}
		if len(left) != int(st.Queued) {
			t.Fatalf("%d events are there, %d counted", len(left), st.Queued)
		}
		used := 0
		for _, e := range entries {
			payload := string(e.Message.Payload)
			if !left[payload] && !finished[payload] {
				t.Fatalf("the event of message %s is gone", payload)
			}
			delete(left, payload)
			used += e.Message.Size() + len(payload) + len("answer")
		}
		if len(left) != 0 {
			t.Fatalf("events without messages: %v", left)
		}
		if used += int(st.Bytes + st.DeadBytes); s.Used() != used {
			t.Fatalf("the store counts %d bytes, want %d", s.Used(), used)
		}
		if published > 0 {
			again := publish("again", q)
			again.Once = &store.Once{Key: strconv.Itoa(published), Expires: time.Now().Add(time.Hour)}
			if op := mustCommit(t, s, again); op.Result != store.Duplicate || string(op.Once.Answer) != "answer" {
				t.Fatalf("the last key: result %v, answer %q", op.Result, op.Once.Answer)
			}
		}
		if err := s.Outbox().Renew(t.Context(), "b", 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d messages, %+v", published, mustState(t, s))
}

// Below the reserve no event is taken, but what is there is delivered; that events were
// dropped is counted even if it can't be written at the moment.
func TestOutboxOnAFullDisk(t *testing.T) {
	t.Parallel()
	d := &disk{FS: vfs.NewMem()}
	d.free.Store(1000)
	o := pebble.Options{Dir: "data", FS: d, ReserveBytes: 800, Logger: quiet()}
	s := mustOpen(t, o)
	for i := range 5 {
		mustCommit(t, s, enqueue("e", fmt.Sprint(i)))
	}
	taken := mustTake(t, s, "a", 5)
	bury := func(e store.Taken) error {
		_, err := s.Outbox().Bury(t.Context(), "e", []store.Dead{{ID: e.ID}}, 10)
		return err
	}
	done := func(e store.Taken) error { return s.Outbox().Done(t.Context(), "e", []store.EventID{e.ID}) }

	d.free.Store(799)
	if op := mustCommit(t, s, enqueue("e", "6")); op.Result != store.Full {
		t.Errorf("event below the reserve: result %v", op.Result)
	}
	once := publish("to nobody")
	once.Once = &store.Once{Key: "k", Expires: time.Now().Add(time.Hour)}
	if op := mustCommit(t, s, once); op.Result != store.Full {
		t.Errorf("key below the reserve: result %v", op.Result)
	}
	if err := errors.Join(bury(taken[0]), done(taken[1])); err != nil {
		t.Error(err)
	}

	d.free.Store(99) // less than an eighth
	if op := mustCommit(t, s, enqueue("e", "7")); op.Result != store.Full {
		t.Errorf("event without space: result %v", op.Result)
	}
	if op := mustCommit(t, s, enqueue("new", "8")); op.Result != store.Full {
		t.Errorf("event of another outbox without space: result %v", op.Result)
	}
	if err := bury(taken[2]); !errors.Is(err, pebble.ErrDiskFull) {
		t.Errorf("dead letter without space: %v", err)
	}
	if err := done(taken[2]); err != nil {
		t.Errorf("done without space: %v", err)
	}

	d.free.Store(11) // less than a sixty-fourth
	if op := mustCommit(t, s, enqueue("e", "9")); op.Result != store.Full {
		t.Errorf("event with no space at all: result %v", op.Result)
	}
	if err := done(taken[3]); !errors.Is(err, pebble.ErrDiskFull) {
		t.Errorf("done with no space at all: %v", err)
	}

	d.free.Store(800)
	want := store.OutboxState{Matched: 8, Delivered: 2, Taken: 2, Dead: 1, Dropped: 3}
	for _, reopened := range []bool{false, true} {
		if reopened {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, o)
			want.Queued, want.Taken = want.Taken, 0
		}
		got := mustState(t, s)
		got.Bytes, got.DeadBytes, got.Oldest = 0, 0, time.Time{}
		if got != want {
			t.Errorf("reopened %t: got %+v, want %+v", reopened, got, want)
		}
		if endpoints, err := s.Outbox().Endpoints(t.Context()); err != nil || !slices.Equal(endpoints, []string{"e", "new"}) {
			t.Errorf("reopened %t: endpoints %v, error %v", reopened, endpoints, err)
		}
	}
	if op := mustCommit(t, s, enqueue("e", "10")); op.Result != store.Done {
		t.Errorf("event with space again: result %v", op.Result)
	}
}

// Keys that have expired go a few at a time when others come, and leave nothing behind.
func TestKeysThatHaveExpiredGo(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	o := inMemory()
	o.Now = func() time.Time { return now }
	s := mustOpen(t, o)
	note := func(key string, window time.Duration) {
		op := publish("")
		op.Once = &store.Once{Key: key, Answer: []byte("answer"), Expires: now.Add(window)}
		if got := mustCommit(t, s, op).Result; got != store.Done {
			t.Fatalf("key %s: %v", key, got)
		}
	}
	for i := range 100 {
		note(fmt.Sprint(i), time.Minute)
	}
	now = now.Add(time.Minute)
	for i := range 20 {
		note("other", time.Second)
		note(fmt.Sprint(i), 2*time.Second) // one that is noted still, but has expired
		now = now.Add(2 * time.Second)
	}
	note("last", time.Second)
	if n, err := s.Keys('i', 'I'); err != nil || n > 2*3 {
		t.Errorf("%d keys in the database, error %v", n, err)
	}
	// A window is bounded, however far away its end is.
	note("far", 1000*24*time.Hour)
	now = now.Add(store.MaxOnceWindow)
	note("far", time.Second)
}

// A removed outbox leaves nothing behind, however much it held.
func TestRemovedOutboxIsGone(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, inMemory())
	for _, n := range []int{3, 1500} {
		b := &store.Batch{}
		for i := range n {
			b.Add(enqueue("e", fmt.Sprint(i)))
		}
		if err := s.NewWriter("w").Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		taken := mustTake(t, s, "a", 2)
		if _, err := s.Outbox().Bury(t.Context(), "e", []store.Dead{{ID: taken[0].ID}, {ID: taken[1].ID}}, 10); err != nil {
			t.Fatal(err)
		}
		if err := s.Outbox().Remove(t.Context(), "e"); err != nil {
			t.Fatal(err)
		}
		if left, err := s.Keys('v', 'l', 'x'); err != nil || left != 0 || s.Used() != 0 {
			t.Errorf("%d keys and %d bytes are left, error %v", left, s.Used(), err)
		}
	}
}

// BenchmarkEnqueue is what an event costs in batches of publications of which each has
// one, and the same batches without.
func BenchmarkEnqueue(b *testing.B) {
	for _, events := range []bool{false, true} {
		for _, ops := range []int{1, 100} {
			b.Run(fmt.Sprintf("events=%t/ops=%d", events, ops), func(b *testing.B) {
				s := mustOpen(b, pebble.Options{Dir: b.TempDir(), Sync: pebble.SyncOff})
				q := store.QueueOf(mustClaim(b, s, "c").ID)
				w := s.NewWriter("w")
				data := make([]byte, 300)
				var batch store.Batch
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += ops {
					batch.Reset()
					for range ops {
						batch.Add(publish("0123456789012345678901234567890123456789012345678901234567890123", q))
						if events {
							batch.Add(store.Op{Kind: store.OpEnqueue, IfPublished: true, Event: &store.Event{Endpoint: "e", Data: data, MaxEntries: 1 << 30}})
						}
					}
					if err := w.Commit(b.Context(), &batch); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// slowDisk is a file system whose syncs wait while gate is held.
type slowDisk struct {
	vfs.FS
	gate sync.RWMutex
}

func (d *slowDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return &slowFile{f, d}, err
}

func (d *slowDisk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(from, to, c)
	return &slowFile{f, d}, err
}

type slowFile struct {
	vfs.File
	d *slowDisk
}

func (f *slowFile) wait() {
	f.d.gate.RLock()
	defer f.d.gate.RUnlock()
}

func (f *slowFile) Sync() error     { f.wait(); return f.File.Sync() }
func (f *slowFile) SyncData() error { f.wait(); return f.File.SyncData() }

// What isn't on the disk yet is given to nobody: a crash would take it back.
func TestTakeWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	d := &slowDisk{FS: vfs.NewMem()}
	s := mustOpen(t, pebble.Options{Dir: "data", FS: d})
	news := s.Outbox().Notify("e")
	<-news
	d.gate.Lock()
	committed := make(chan error, 1)
	go func() {
		committed <- s.NewWriter("w").Commit(context.Background(), &store.Batch{Ops: []store.Op{enqueue("e", "1")}})
	}()
	<-news
	taken := make(chan []store.Taken, 1)
	go func() {
		events, err := s.Outbox().Take(context.Background(), "e", "a", 10, 0)
		if err != nil {
			t.Error(err)
		}
		taken <- events
	}()
	select {
	case events := <-taken:
		t.Errorf("%d events were taken before they were durable", len(events))
		taken <- events
	case <-time.After(50 * time.Millisecond):
	}
	d.gate.Unlock()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if events := <-taken; len(events) != 1 {
		t.Errorf("%d events were taken", len(events))
	}
}

func TestFencesGrowWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	now := time.Now()
	o := inMemory()
	o.Now = func() time.Time { return now }
	var last uint64
	for range 3 {
		s := mustOpen(t, o)
		for _, holder := range []string{"a", "b"} {
			fence, ok, err := s.Leases().Acquire(t.Context(), "name", holder, time.Second)
			if err != nil || !ok || fence <= last {
				t.Errorf("fence %d after %d, %t, error %v", fence, last, ok, err)
			}
			last = fence
			now = now.Add(time.Second)
		}
		now = now.Add(-time.Hour)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
