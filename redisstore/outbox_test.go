package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/internal/redistest"
	"loopmq/store"
)

func enqueue(endpoint, data string) store.Op {
	return store.Op{Kind: store.OpEnqueue, Event: &store.Event{Endpoint: endpoint, Data: []byte(data)}}
}

func takeAll(t testing.TB, s store.Store, consumer string) []store.Taken {
	t.Helper()
	taken, err := s.Outbox().Take(t.Context(), "e", consumer, 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

func dataOf(taken []store.Taken) string {
	var all []string
	for _, e := range taken {
		d := string(e.Data)
		if e.Again {
			d += "!"
		}
		all = append(all, d)
	}
	return strings.Join(all, " ")
}

func stateOf(t testing.TB, s store.Store) store.OutboxState {
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

// rung reports whether a channel gets a value.
func rung(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-time.After(20 * time.Second):
		return false
	}
}

// A node that waits is told of events that another one has enqueued, and takes over what
// that one held when it is dead.
func TestEventsOfOtherNodes(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	a, b := joinStore(t, server, ""), joinStore(t, server, "")
	ctx, wa := t.Context(), a.NewWriter("w")
	newsA, newsB := a.Outbox().Notify("e"), b.Outbox().Notify("e")
	<-newsA
	<-newsB
	bells := func() int64 { return server.Client().XLen(ctx, "lmq:bells").Val() }

	commit(t, wa, enqueue("e", "1"))
	if !rung(newsB) || !rung(newsA) {
		t.Fatal("who waits isn't told of an event")
	}
	// There is one that nobody has taken: who waits for more knows.
	before := bells()
	commit(t, wa, enqueue("e", "2"))
	if n := bells() - before; n != 0 {
		t.Errorf("told %d times of what is known", n)
	}
	for _, consumer := range []string{"a", "b"} {
		if err := a.Outbox().Renew(ctx, consumer, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if got := dataOf(takeAll(t, a, "a")); got != "1 2" {
		t.Fatalf("a takes %q", got)
	}
	commit(t, wa, enqueue("e", "3"))
	if !rung(newsB) {
		t.Fatal("who waits isn't told of the next event")
	}
	taken := takeAll(t, b, "b")
	if got := dataOf(taken); got != "3" {
		t.Fatalf("b takes %q", got)
	}
	if _, err := b.Outbox().Bury(ctx, "e", []store.Dead{{ID: taken[0].ID}}, 1); err != nil {
		t.Fatal(err)
	}
	<-newsA // of its own
	if n, err := b.Outbox().Replay(ctx, "e", []store.EventID{taken[0].ID}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if !rung(newsA) || !rung(newsB) {
		t.Error("who waits isn't told of a replay")
	}

	if err := a.Outbox().Renew(ctx, "a", 0); err != nil {
		t.Fatal(err)
	}
	if got := dataOf(takeAll(t, b, "b")); got != "1! 2! 3" {
		t.Errorf("b takes %q", got)
	}
	// A dead consumer that holds nothing is forgotten.
	takeAll(t, b, "b")
	consumers, err := server.Client().XInfoConsumers(ctx, "lmq:out:e", "d").Result()
	if err != nil || len(consumers) != 1 || consumers[0].Name != "b" {
		t.Errorf("consumers %+v, error %v", consumers, err)
	}

	// What is published once is published once at all nodes.
	op := store.Op{Kind: store.OpPublish, Message: message("m"), Once: &store.Once{Key: "k", Answer: []byte("a's"), Expires: a.Now().Add(time.Hour)}}
	if got := commit(t, wa, op).Result; got != store.Done {
		t.Errorf("at a: %v", got)
	}
	op.Once = &store.Once{Key: "k", Answer: []byte("b's"), Expires: b.Now().Add(time.Hour)}
	if op = commit(t, b.NewWriter("w"), op); op.Result != store.Duplicate || string(op.Once.Answer) != "a's" {
		t.Errorf("at b: %v, answer %q", op.Result, op.Once.Answer)
	}

	// One that is alone tells nobody but itself.
	if err := b.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	for rung := true; rung; {
		select {
		case <-newsA:
		default:
			rung = false
		}
	}
	before = bells()
	commit(t, wa, enqueue("e", "4"))
	if bells() != before || !rung(newsA) {
		t.Error("a node that is alone tells others, or not itself")
	}
}

// Who was away for longer than the stream of bells reaches back looks at all outboxes.
func TestManyBells(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	for range 2 * bellsMax {
		if err := server.Client().Do(t.Context(), "XADD", "lmq:bells", "*", "e", "other", "i", "somebody").Err(); err != nil {
			t.Fatal(err)
		}
	}
	a := joinStore(t, server, "")
	news := a.Outbox().Notify("e")
	<-news
	other, err := NewStore(t.Context(), server.URL(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	commit(t, other.NewWriter("w"), enqueue("e", "1")) // a Store that hasn't joined tells others as well
	if !rung(news) {
		t.Error("who waits isn't told")
	}
}

// An event that is given to a publication of which a subscriber was missed isn't enqueued,
// and what is published once isn't noted.
func TestStaleWithEvents(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	again, err := NewStore(t.Context(), r.URL()+"?prefix="+a.config.prefix, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := newFixture(t, again)
	a.enlist()
	b.enlist()
	a.commit()
	before := a.joined.Load().feed.additions()
	b.commit(store.Op{Kind: store.OpRoute, TopicFilters: []string{"r"}})

	once := publish("once")
	once.Once = &store.Once{Key: "k", Expires: a.Now().Add(time.Hour)}
	once.Additions = before
	event := enqueue("e", "1")
	event.IfPublished = true
	for i, want := range [][2]store.Result{{store.Stale, store.Stale}, {store.Stale, store.Stale}, {store.Done, store.Done}, {store.Duplicate, store.Duplicate}} {
		if i == 2 {
			once.Additions = before + 1
		}
		ops := a.commit(once, event)
		if got := [2]store.Result{ops[0].Result, ops[1].Result}; got != want {
			t.Errorf("round %d: got %v, want %v", i, got, want)
		}
	}
	// Publications in a row are one operation of the script; what follows goes with them too.
	se := a.session("c")
	ops := a.commit(once, publish("1", se), publish("2", se), event, publish("3", se), event)[1:]
	for i := range ops {
		if ops[i].Result != store.Done {
			t.Errorf("operation %d: %v", i, ops[i].Result)
		}
	}
	if st := stateOf(t, a); st.Matched != 3 {
		t.Errorf("got %+v", st)
	}
}

// What Redis has lost from the end it has lost of everything: the outbox adds up, no id
// names two events, and what was finished since is delivered again.
func TestOutboxAfterALoss(t *testing.T) {
	r := redistest.Start(t, "appendonly no")
	f := newFixture(t, open(t, r, ""))
	ctx := t.Context()
	seen := map[store.EventID]string{}
	note := func(taken []store.Taken) {
		t.Helper()
		for _, e := range taken {
			if data, known := seen[e.ID]; known && data != string(e.Data) {
				t.Errorf("id %v names %q and %q", e.ID, data, e.Data)
			}
			seen[e.ID] = string(e.Data)
		}
	}
	f.commit(enqueue("e", "1"), enqueue("e", "2"), enqueue("e", "3"), enqueue("gone", "x"))
	first, err := f.Outbox().Take(ctx, "e", "a", 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	note(first)
	if err := f.Outbox().Remove(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	fence, _, err := f.Leases().Acquire(ctx, "n", "a", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Leases().Release(ctx, "n", "a"); err != nil {
		t.Fatal(err)
	}
	if err := r.Client().Save(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	var lost []store.EventID
	for round := range 3 {
		f.commit(enqueue("e", fmt.Sprint("lost ", round)))
		taken := takeAll(t, f, "a")
		if got, want := dataOf(taken), fmt.Sprint("2 3 lost ", round); got != want {
			t.Errorf("round %d: takes %q, want %q", round, got, want)
		}
		note(taken)
		for _, e := range taken {
			if strings.HasPrefix(string(e.Data), "lost") {
				lost = append(lost, e.ID)
			}
		}
		if err := f.Outbox().Done(ctx, "e", []store.EventID{taken[0].ID}); err != nil {
			t.Fatal(err)
		}
		next, ok, err := f.Leases().Acquire(ctx, "n", "a", time.Hour)
		if err != nil || !ok || next <= fence {
			t.Errorf("round %d: fence %d after %d, %t, error %v", round, next, fence, ok, err)
		}
		fence = next
		r.Kill()
		r.Restart() // as it was saved
		if st := stateOf(t, f); st.Matched != 3 || st.Taken != 1 || st.Queued != 2 || st.Delivered != 0 {
			t.Fatalf("round %d: after the loss: %+v", round, st)
		}
		if err := f.Outbox().Done(ctx, "e", lost); err != nil { // whoever had them doesn't know
			t.Fatal(err)
		}
	}
	f.commit(enqueue("e", "4"))
	if err := f.Outbox().Done(ctx, "e", lost); err != nil {
		t.Fatal(err)
	}
	taken := takeAll(t, f, "a")
	note(taken)
	if got := dataOf(taken); got != "2 3 4" {
		t.Errorf("takes %q", got)
	}
	had, err := f.Outbox().Resume(ctx, "e", "a", store.EventID{}, 10, 0)
	if err != nil || dataOf(had) != "1! 2! 3! 4!" {
		t.Errorf("has %q, error %v", dataOf(had), err)
	}
}

// Events and keys are memory: where messages are refused they are too, and counted.
func TestEventsAreRefusedInTime(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	ctx := t.Context()
	f.commit(enqueue("e", "1"))
	taken := takeAll(t, f, "a")
	small := newFixture(t, func() *Store {
		s, err := NewStore(ctx, r.URL()+"?max_bytes=1&prefix="+f.config.prefix, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}())
	once := publish("nobody")
	once.Once = &store.Once{Key: "k", Expires: f.Now().Add(time.Hour)}
	ops := small.commit(enqueue("e", "2"), enqueue("new", "3"), once)
	for i := range ops {
		if ops[i].Result != store.Full {
			t.Errorf("operation %d: got %v, want Full", i, ops[i].Result)
		}
	}
	if err := small.Outbox().Done(ctx, "e", []store.EventID{taken[0].ID}); err != nil {
		t.Error(err)
	}
	if st := stateOf(t, small); st.Matched != 2 || st.Delivered != 1 || st.Dropped != 1 {
		t.Errorf("got %+v", st)
	}
	if endpoints, err := small.Outbox().Endpoints(ctx); err != nil || !slices.Equal(endpoints, []string{"e", "new"}) {
		t.Errorf("endpoints %v, error %v", endpoints, err)
	}
	if got := f.commit(once)[0].Result; got != store.Done {
		t.Errorf("the key was noted: %v", got)
	}
}

// A window is bounded, and a key goes by itself.
func TestKeysExpire(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	for key, window := range map[string]time.Duration{"far": 1000 * 24 * time.Hour, "near": time.Hour} {
		op := publish("")
		op.Once = &store.Once{Key: key, Expires: f.Now().Add(window)}
		f.commit(op)
		left, err := r.Client().PTTL(t.Context(), f.keys.once(key)).Result()
		want := min(window, store.MaxOnceWindow)
		if err != nil || left > want || left < want-time.Minute {
			t.Errorf("%s: goes in %v, want %v; error %v", key, left, want, err)
		}
	}
}

// In a batch that is repeated the answer is read again; once it has expired the result
// is still that of the first time.
func TestAnswerOfARepeatedBatch(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	op := publish("")
	op.Once = &store.Once{Key: "k", Answer: []byte("first"), Expires: f.Now().Add(time.Hour)}
	f.commit(op)
	op.Once = &store.Once{Key: "k", Answer: []byte("second"), Expires: f.Now().Add(time.Hour)}
	b := &store.Batch{Ops: []store.Op{op}}
	for i, want := range []string{"first", "first", "third"} {
		if i == 2 {
			b.Ops[0].Once.Answer = []byte("third")
			r.Client().Del(t.Context(), f.keys.once("k"))
		}
		if err := f.w.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if b.Ops[0].Result != store.Duplicate || string(b.Ops[0].Once.Answer) != want {
			t.Errorf("round %d: %v, answer %q, want %q", i, b.Ops[0].Result, b.Ops[0].Once.Answer, want)
		}
	}
}

// While Redis is away all fail at once, and go on when it is back.
func TestOutboxWithoutRedis(t *testing.T) {
	r := redistest.Start(t)
	f := newFixture(t, open(t, r, "&timeout=10s"))
	ctx, out := t.Context(), f.Outbox()
	f.commit(enqueue("e", "1"))
	r.Kill()
	_, _, lease := f.Leases().Acquire(ctx, "n", "a", time.Second)
	for what, err := range map[string]error{
		"Take":      second(out.Take(ctx, "e", "a", 1, 0)),
		"Resume":    second(out.Resume(ctx, "e", "a", store.EventID{}, 1, 0)),
		"Renew":     out.Renew(ctx, "a", time.Second),
		"Done":      out.Done(ctx, "e", make([]store.EventID, 1)),
		"Bury":      second(out.Bury(ctx, "e", make([]store.Dead, 1), 1)),
		"Dead":      second(out.Dead(ctx, "e", store.EventID{}, 1)),
		"Replay":    second(out.Replay(ctx, "e", make([]store.EventID, 1))),
		"Drop":      second(out.Drop(ctx, "e", make([]store.EventID, 1))),
		"Disable":   out.Disable(ctx, "e", "why"),
		"State":     second(out.State(ctx, "e")),
		"Endpoints": second(out.Endpoints(ctx)),
		"Remove":    out.Remove(ctx, "e"),
		"Acquire":   lease,
		"Release":   f.Leases().Release(ctx, "n", "a"),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	r.Restart()
	if got := dataOf(takeAll(t, f, "a")); got != "1" {
		t.Errorf("takes %q", got)
	}
}

// What isn't as it was written is an error.
func TestBadOutboxes(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	ctx := context.Background()
	f.commit(enqueue("e", "1"))
	r.Client().ZAdd(ctx, f.keys.letters("e"), redis.Z{Member: letterKey(store.EventID{Generation: 1, Seq: 1}) + "x"})
	if _, err := f.Outbox().Dead(ctx, "e", store.EventID{}, 1); !errors.Is(err, errFormat) {
		t.Errorf("Dead: got %v", err)
	}
	for _, letter := range []string{"", strings.Repeat("0", 40), strings.Repeat("0", 40) + "5:1 2", strings.Repeat("0", 40) + "3:1 2data", strings.Repeat("0", 40) + "-1:"} {
		if _, err := decodeLetter(letter); !errors.Is(err, errFormat) {
			t.Errorf("letter %q: got %v", letter, err)
		}
	}
	for _, reply := range [][]any{{}, {"x"}, {int64(1), "x"}, {int64(0), []any{"x", "data", "1"}}, {int64(0), []any{"1-1", "data"}}} {
		if _, err := decodeTaken(reply); err == nil {
			t.Errorf("reply %v passed", reply)
		}
	}
}

// BenchmarkEnqueue is what an event costs in batches of publications of which each has
// one, and the same batches without.
func BenchmarkEnqueue(b *testing.B) {
	r := redistest.Start(b, "appendfsync everysec")
	for _, events := range []bool{false, true} {
		for _, ops := range []int{1, 100} {
			b.Run("events="+strconv.FormatBool(events)+"/ops="+strconv.Itoa(ops), func(b *testing.B) {
				f := newFixture(b, open(b, r, ""))
				f.enlist()
				se := f.session("c")
				data := make([]byte, 300)
				payload := strings.Repeat("x", 64)
				var batch store.Batch
				cpu := redisCPU(b, r)
				b.ReportAllocs()
				for b.Loop() {
					batch.Reset()
					for range ops {
						op := publish(payload, se)
						op.Additions = 1
						batch.Add(op)
						if events {
							batch.Add(store.Op{Kind: store.OpEnqueue, IfPublished: true, Event: &store.Event{Endpoint: "e", Data: data, MaxEntries: 1 << 30}})
						}
					}
					if err := f.w.Commit(b.Context(), &batch); err != nil {
						b.Fatal(err)
					}
				}
				messages := float64(b.N * ops)
				b.ReportMetric(float64(b.Elapsed().Microseconds())/messages, "us/message")
				b.ReportMetric((redisCPU(b, r)-cpu)*1e6/messages, "redis-us/message")
			})
		}
	}
}
