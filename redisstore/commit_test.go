package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"loopmq/internal/redistest"
	"loopmq/store"
)

// fixture is a Store with a writer. Its methods end the test at an error.
type fixture struct {
	*Store
	t    testing.TB
	w    store.Writer
	node *node // once it has joined
}

func newFixture(t testing.TB, s *Store) *fixture {
	t.Cleanup(func() { _ = s.Close() })
	return &fixture{Store: s, t: t, w: s.NewWriter("w")}
}

// enlist makes the Store an instance without a Member, so that nothing but its
// commits applies the feed.
func (f *fixture) enlist() string {
	f.t.Helper()
	ctx := context.Background()
	f.node = newNode()
	instance := newName("instance")
	f.redis.ZAdd(ctx, f.keys.leases(), redis.Z{Score: 1e15, Member: instance})
	for _, key := range []string{f.keys.ctl(instance), f.keys.inbox(instance)} {
		if err := f.redis.Do(ctx, "XADD", key, "MAXLEN", 0, "0-1", "x", "x").Err(); err != nil {
			f.t.Fatal(err)
		}
	}
	feed := newFeed(slog.New(slog.DiscardHandler), f.node, feedState{})
	feed.missed = func(reason string) { f.t.Errorf("missed a record: %s", reason) }
	feed.dead = func(string) {}
	feed.start(nil)
	f.joined.Store(&membership{instance: instance, feed: feed, committed: new(committed), died: func() { f.node.say("died") }})
	return instance
}

func (f *fixture) commit(ops ...store.Op) []store.Op {
	f.t.Helper()
	if err := f.w.Commit(context.Background(), &store.Batch{Ops: ops}); err != nil {
		f.t.Fatal(err)
	}
	return ops
}

func (f *fixture) claim(c store.Claim) store.Claimed {
	f.t.Helper()
	if m := f.joined.Load(); m != nil && c.Owner == "" {
		c.Owner = m.instance
	}
	claimed, err := f.Sessions().Claim(context.Background(), c)
	if err != nil {
		f.t.Fatal(err)
	}
	return claimed
}

func (f *fixture) session(clientID string) store.Session {
	f.t.Helper()
	return f.claim(store.Claim{ClientID: clientID, Durable: true, SessionExpiryInterval: 60}).Session
}

// entries returns what is in a queue.
func (f *fixture) entries(q store.QueueID) []store.Entry {
	f.t.Helper()
	entries, err := f.Messages().Read(context.Background(), q, store.Number{}, 1<<20, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return entries
}

func (f *fixture) payloads(q store.QueueID) string {
	f.t.Helper()
	var all []string
	for _, e := range f.entries(q) {
		all = append(all, string(e.Message.Payload))
	}
	return strings.Join(all, " ")
}

// feedRecords returns the whole feed.
func (f *fixture) feedRecords() []store.Change {
	f.t.Helper()
	reply, err := f.redis.Do(context.Background(), "XRANGE", f.keys.feed(), "-", "+").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	records, err := parseEntries(reply)
	if err != nil {
		f.t.Fatal(err)
	}
	var changes []store.Change
	for i := range records {
		c, err := changeOf(&records[i])
		if err != nil {
			f.t.Fatal(err)
		}
		changes = append(changes, c)
	}
	return changes
}

// inboxOf returns and removes what is in an instance's inbox.
func (f *fixture) inboxOf(instance string) (news []store.News, overflow int) {
	f.t.Helper()
	ctx := context.Background()
	reply, err := f.redis.Do(ctx, "XRANGE", f.keys.inbox(instance), "-", "+").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	entries, err := parseEntries(reply)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		n, o, err := decodeNews(e.fields[1])
		if err != nil {
			f.t.Fatal(err)
		}
		news = append(news, n...)
		if o {
			overflow++
		}
	}
	f.redis.XTrimMaxLen(ctx, f.keys.inbox(instance), 0)
	return news, overflow
}

func message(payload string) *store.Message {
	return &store.Message{TopicName: []byte("topic"), Payload: []byte(payload), QoS: 1}
}

func publish(payload string, sessions ...store.Session) store.Op {
	op := store.Op{Kind: store.OpPublish, Message: message(payload)}
	for _, se := range sessions {
		op.Targets = append(op.Targets, store.Target{Queue: store.QueueOf(se.ID), QoS: 1})
	}
	return op
}

// lossy is a way to Redis that can lose the answer to a script.
type lossy struct {
	addr  string
	armed atomic.Bool
}

func newLossy(t testing.TB, to string) *lossy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &lossy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { x.serve(client, to) })
		}
	})
	return x
}

func (x *lossy) serve(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var script atomic.Bool // the last request was a script
	go func() {
		defer server.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := client.Read(b)
			if err != nil {
				return
			}
			if bytes.Contains(bytes.ToLower(b[:n]), []byte("evalsha")) {
				script.Store(true)
			}
			if _, err := server.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := server.Read(b)
		if err != nil || script.Swap(false) && x.armed.Swap(false) {
			return
		}
		if _, err := client.Write(b[:n]); err != nil {
			return
		}
	}
}

func TestBatchWhoseAnswerWasLostIsKnownAgain(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	x := newLossy(t, r.Addr)
	s, err := NewStore(t.Context(), "redis://"+x.addr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, s)
	a, b, ended := f.session("a"), f.session("b"), f.session("ended")
	qa, group := store.QueueOf(a.ID), store.GroupQueue("share", "t")
	held := publish("held", a)
	held.Session, held.Epoch, held.PacketID = b.ID, b.Epoch, 7
	toGroup := publish("")
	toGroup.Targets = []store.Target{{Queue: group, QoS: 1}}
	f.commit(held, toGroup, toGroup, publish("left", ended), publish("left", ended))
	limited := f.claim(store.Claim{ClientID: "limited", Owner: "n", Durable: true, Limits: store.Limits{Messages: 10}}).Session
	for range 7 {
		f.commit(slices.Repeat([]store.Op{publish("x", limited)}, 10)...)
	}

	fenced := store.Op{Kind: store.OpUnhold, Session: b.ID, Epoch: b.Epoch - 1, PacketID: 7}
	batch := &store.Batch{Ops: []store.Op{
		publish("once", a, store.Session{ID: store.SessionID{ClientID: "none"}}, limited),
		held,
		fenced,
		{Kind: store.OpMove, From: group, Limit: 10, Targets: []store.Target{{Queue: qa}}},
		{Kind: store.OpEndSession, Session: ended.ID},
	}}
	x.armed.Store(true)
	if err := f.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("without an answer: got %v, want ErrUnavailable", err)
	}
	for try := range 2 {
		if err := f.w.Commit(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if got, want := f.payloads(qa), "held once  "; got != want {
			t.Errorf("queue: got %q, want %q", got, want)
		}
		var results []store.Result
		for _, op := range batch.Ops {
			results = append(results, op.Result)
		}
		if want := []store.Result{store.Done, store.Duplicate, store.Fenced, store.Done, store.Done}; !slices.Equal(results, want) {
			t.Errorf("results: got %v, want %v", results, want)
		}
		targets := batch.Ops[0].Targets
		if targets[0].Result != store.Done || targets[1].Result != store.Gone || targets[2].Result != store.Refused {
			t.Errorf("targets: got %+v", targets)
		}
		entries := f.entries(qa)
		if n := targets[0].Number; n != entries[1].Number {
			t.Errorf("try %d: number %v, want %v", try, n, entries[1].Number)
		}
		if moved := batch.Ops[3].Targets[0]; !reflect.DeepEqual(moved.Moved, entries[2:]) || moved.Number != entries[3].Number {
			t.Errorf("try %d: moved %+v, want %+v", try, moved, entries[2:])
		}
		if got := batch.Ops[4].Dropped; got != [3]int{0, 2, 0} {
			t.Errorf("try %d: dropped %v", try, got)
		}
	}
}

// What was given up is not done any more once the next batch is, however late it comes.
func TestBatchThatWasGivenUp(t *testing.T) {
	s, err := NewStore(t.Context(), redistest.Start(t, "appendfsync no").URL(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, s)
	a := f.session("a")
	late := &store.Batch{Seq: 1, Ops: []store.Op{publish("late", a)}}
	for _, payload := range []string{"1", "2"} {
		f.commit(publish(payload, a))
	}
	if err := f.w.Commit(t.Context(), late); err == nil {
		t.Error("a batch was taken that comes after a later one")
	}
	if got := f.payloads(store.QueueOf(a.ID)); got != "1 2" {
		t.Errorf("queue: got %q, want 1 2", got)
	}
}

// Publications in a row to one queue have one result in the script, or one each if they
// differ.
func TestPublicationsInARow(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	x := newLossy(t, r.Addr)
	s, err := NewStore(t.Context(), "redis://"+x.addr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, s)
	a, none := f.session("a"), store.Session{ID: store.SessionID{ClientID: "none"}}
	limited := func(clientID string, policy store.Policy, n int) store.Session {
		se := f.claim(store.Claim{
			ClientID: clientID, Owner: "n", Durable: true, Limits: store.Limits{Messages: 10, Policy: policy},
		}).Session
		f.commit(slices.Repeat([]store.Op{publish("before", se)}, n)...)
		return se
	}
	newest, oldest, late := limited("newest", store.DropNewest, 64), limited("oldest", store.DropOldest, 60), limited("late", store.DropNewest, 60)

	batch := &store.Batch{}
	add := func(se store.Session, n int) {
		for range n {
			batch.Add(publish(fmt.Sprint(len(batch.Ops)), se))
		}
	}
	add(a, 3)
	add(none, 2)
	batch.Add(store.Op{Kind: store.OpFinish, Session: a.ID}) // between two runs
	add(a, 2)
	add(newest, 2)
	add(oldest, 10)
	add(late, 5)
	add(a, 1)
	retained := publish("retained", a)
	retained.Targets[0].Retain = true
	batch.Add(retained) // another delivery, so another run
	x.armed.Store(true)
	if err := f.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("without an answer: got %v, want ErrUnavailable", err)
	}
	for try := range 2 {
		if err := f.w.Commit(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		var results []store.Result
		numbers := map[string]store.Number{} // by payload
		dropped := 0
		for i, op := range batch.Ops {
			if op.Result != store.Done {
				t.Errorf("try %d: operation %d: got %v", try, i, op.Result)
			}
			if op.Kind != store.OpPublish {
				continue
			}
			target := op.Targets[0]
			results = append(results, target.Result)
			switch target.Result {
			case store.Done:
				numbers[string(op.Message.Payload)] = target.Number
				if want := map[store.SessionID]string{a.ID: "", oldest.ID: "n", late.ID: "n"}[target.Queue.Session]; target.Owner != want {
					t.Errorf("try %d: operation %d: got owner %q, want %q", try, i, target.Owner, want)
				}
			default:
				if !target.Number.IsZero() {
					t.Errorf("try %d: operation %d: got number %v for what isn't there", try, i, target.Number)
				}
			}
			for _, n := range target.Dropped {
				dropped += n
			}
		}
		want := slices.Concat(
			slices.Repeat([]store.Result{store.Done}, 3), slices.Repeat([]store.Result{store.Gone}, 2), slices.Repeat([]store.Result{store.Done}, 2),
			slices.Repeat([]store.Result{store.Refused}, 2), slices.Repeat([]store.Result{store.Done}, 10),
			slices.Repeat([]store.Result{store.Done}, 4), slices.Repeat([]store.Result{store.Refused}, 1), // at number 64 it is looked at
			slices.Repeat([]store.Result{store.Done}, 2))
		if !slices.Equal(results, want) {
			t.Errorf("try %d: results:\n got %v\nwant %v", try, results, want)
		}
		left := 0
		for _, se := range []store.Session{a, newest, oldest, late} {
			for _, e := range f.entries(store.QueueOf(se.ID)) {
				payload := string(e.Message.Payload)
				if se.ID == oldest.ID {
					left++
				}
				if payload != "before" && numbers[payload] != e.Number {
					t.Errorf("try %d: %s: got number %v, want %v", try, payload, numbers[payload], e.Number)
				}
				delete(numbers, payload)
				if e.Retain != (payload == "retained") {
					t.Errorf("try %d: %s: got Retain %v", try, payload, e.Retain)
				}
			}
		}
		if dropped+left != 70 {
			t.Errorf("try %d: %d of 70 were dropped, %d are left", try, dropped, left)
		}
		if got, want := f.payloads(store.QueueOf(a.ID)), "0 1 2 6 7 25 retained"; got != want {
			t.Errorf("try %d: queue: got %q, want %q", try, got, want)
		}
		for payload := range numbers {
			if i, err := strconv.Atoi(payload); err != nil || batch.Ops[i].Targets[0].Queue.Session != oldest.ID {
				t.Errorf("try %d: %s is gone", try, payload)
			}
		}
	}
	s.room.used.Store(1)
	s.room.limit.Store(1) // as the last look found it
	for i, op := range f.commit(publish("x", a), publish("x", a), publish("x", none)) {
		if op.Result != store.Full || op.Targets[0].Result != store.Full {
			t.Errorf("without room: operation %d: got %v, %+v", i, op.Result, op.Targets[0])
		}
	}
}

// What lies before Unfinished goes by one XTRIM, whatever Numbers says, and what lies
// behind one by one.
func TestFinishRemovesTheBeginningOfAQueue(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	se := f.session("c")
	q := store.QueueOf(se.ID)
	var ops []store.Op
	for i := range 8 {
		ops = append(ops, publish(fmt.Sprint(i), se))
	}
	var n []store.Number
	for _, op := range f.commit(ops...) {
		n = append(n, op.Targets[0].Number)
	}
	for _, step := range []struct {
		numbers    []store.Number
		unfinished store.Number
		want       string
	}{
		{n[1:2], n[0], "0 2 3 4 5 6 7"},
		{[]store.Number{n[2], n[0]}, n[3], "3 4 5 6 7"},
		{[]store.Number{n[3], n[6]}, n[4], "4 5 7"},
		{[]store.Number{n[4]}, n[7], "7"}, // 5 was finished in a batch that failed
		{n[7:], store.Number{Generation: n[7].Generation, Seq: n[7].Seq + 1}, ""},
	} {
		op := f.commit(store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: step.numbers, Unfinished: step.unfinished})[0]
		if got := f.payloads(q); op.Result != store.Done || got != step.want {
			t.Errorf("before %v: got %v, %q, want %q", step.unfinished, op.Result, got, step.want)
		}
	}
	if got := f.commit(publish("next", se))[0].Targets[0].Number.Seq; got != 9 {
		t.Errorf("the next number: got %d, want 9", got)
	}
	other := store.SessionID{ClientID: "c", Incarnation: se.ID.Incarnation + 1}
	op := f.commit(store.Op{Kind: store.OpFinish, Session: other, Numbers: n, Unfinished: n[7]})[0]
	if got := f.payloads(q); op.Result != store.Gone || got != "next" {
		t.Errorf("another incarnation: got %v, %q", op.Result, got)
	}
}

// An added subscription is seen by whoever commits next, and nothing is done for a
// message that has to reach it in the same step.
func TestCommitSeesSubscriptionsAddedMeanwhile(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	again, err := NewStore(t.Context(), r.URL()+"?prefix="+a.config.prefix, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := newFixture(t, again)
	ia, ib := a.enlist(), b.enlist()
	publisher, subscriber := a.session("publisher"), b.session("subscriber")
	a.commit() // applies what the claims wrote
	before := a.joined.Load().feed.additions()

	subscriptions := []store.Subscription{{TopicFilter: "t/#", SubscriptionIdentifier: 5}}
	subscribe := store.Op{Kind: store.OpSubscribe, Session: subscriber.ID, Epoch: subscriber.Epoch, Subscriptions: subscriptions}
	b.commit(subscribe)
	b.commit(subscribe) // changes nothing

	qos2 := publish("qos2", publisher)
	qos2.Message.QoS = 2
	qos2.Message.QoS = 2
	qos2.Session, qos2.Epoch, qos2.PacketID, qos2.Additions = publisher.ID, publisher.Epoch, 1, before
	qos1 := publish("qos1", publisher)
	qos1.Additions = before
	ops := a.commit(qos2, qos1)
	if ops[0].Result != store.Stale || ops[0].Targets[0].Result != store.Stale || ops[1].Result != store.Done {
		t.Errorf("got %v and %v, want Stale and Done", ops[0].Result, ops[1].Result)
	}
	if got := a.payloads(store.QueueOf(publisher.ID)); got != "qos1" {
		t.Errorf("queue: got %q", got)
	}
	if got := a.joined.Load().feed.additions(); got != before+1 {
		t.Errorf("%d additions, want %d", got, before+1)
	}
	want := store.Change{Kind: store.ChangeSubscribed, Session: subscriber.ID, Instance: ib, Subscriptions: subscriptions}
	if got := a.node.changes[len(a.node.changes)-1]; !reflect.DeepEqual(got, want) {
		t.Errorf("applied %+v, want %+v", got, want)
	}
	// It was applied already: nothing new is in the feed, and it is too late all the same.
	if got := a.commit(qos2)[0].Result; got != store.Stale {
		t.Errorf("matched before: got %v, want Stale", got)
	}
	qos2.Additions = before + 1
	if got := a.commit(qos2)[0].Result; got != store.Done {
		t.Errorf("matched again: got %v, want Done", got)
	}

	// Routes are added too; those that are there already tell nothing.
	route := store.Op{Kind: store.OpRoute, TopicFilters: []string{"r/1", "r/2"}}
	b.commit(route, route)
	qos2.PacketID, qos2.Additions = 2, before+1
	if got := a.commit(qos2)[0].Result; got != store.Stale {
		t.Errorf("after a route: got %v, want Stale", got)
	}
	b.commit(store.Op{Kind: store.OpUnroute, TopicFilters: []string{"r/1", "none"}}, store.Op{Kind: store.OpUnroute, TopicFilters: []string{"none"}},
		store.Op{Kind: store.OpUnsubscribe, Session: subscriber.ID, Epoch: subscriber.Epoch, Subscriptions: []store.Subscription{{TopicFilter: "t/#"}, {TopicFilter: "none"}}},
		store.Op{Kind: store.OpUnsubscribe, Session: subscriber.ID, Epoch: subscriber.Epoch, Subscriptions: []store.Subscription{{TopicFilter: "none"}}})
	b.commit(store.Op{Kind: store.OpOffline, Session: subscriber.ID, Epoch: subscriber.Epoch})
	a.session("subscriber")
	a.session("subscriber") // nobody else has it now
	a.claim(store.Claim{ClientID: "subscriber", CleanStart: true})
	retain := store.Op{Kind: store.OpRetain, Message: message("x")}
	clear := store.Op{Kind: store.OpRetain, Message: message("")}
	a.commit(retain, retain, clear, clear)

	var got []string
	for _, c := range a.feedRecords() {
		got = append(got, fmt.Sprint(c.Kind, " ", c.Session.ClientID, " ", c.Instance, " ", c.TopicFilters))
	}
	want2 := []string{
		"1 subscriber " + ib + " []",
		"5  " + ib + " [r/1 r/2]",
		"6  " + ib + " [r/1 none]",
		"2 subscriber  [t/# none]",
		"3 subscriber  []",
		"3 subscriber " + ia + " []",
		"4 subscriber  []",
		"8   [topic]",
		"9   [topic]",
	}
	if !slices.Equal(got, want2) {
		t.Errorf("feed:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want2, "\n"))
	}
	if got := a.redis.SMembers(t.Context(), a.keys.routes(ib)).Val(); !slices.Equal(got, []string{"r/2"}) {
		t.Errorf("routes: got %v", got)
	}
}

// A long delta doesn't come with the commit, but before it returns.
func TestCommitReadsALongFeedToItsEnd(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	a.enlist()
	var routes []store.Op
	for i := range newsPage + 10 {
		routes = append(routes, store.Op{Kind: store.OpRoute, TopicFilters: []string{fmt.Sprint(i)}})
	}
	a.commit(routes...)
	a.commit()
	if got := len(a.node.changes); got != newsPage+10 {
		t.Errorf("applied %d changes, want %d", got, newsPage+10)
	}
}

func TestOtherInstancesAreTold(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	again, err := NewStore(t.Context(), r.URL()+"?prefix="+a.config.prefix, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := newFixture(t, again)
	ia, ib := a.enlist(), b.enlist()
	mine, theirs, offline := a.session("mine"), b.session("the{irs}%"), b.session("offline")
	b.commit(store.Op{Kind: store.OpOffline, Session: offline.ID, Epoch: offline.Epoch})

	first := publish("first", mine, theirs, offline)
	first.Targets[1] = store.Target{
		Queue: store.QueueOf(theirs.ID), QoS: 2, Retain: true, SubscriptionIdentifiers: []uint32{1, 1 << 20}, ShareName: "s", TopicFilter: "t",
	}
	first.Targets = append(first.Targets, store.Target{Instance: ib}, store.Target{Instance: ib, ShareName: "s", TopicFilter: "f/#"},
		store.Target{Instance: "gone"})
	ops := a.commit(first, publish("second", theirs), publish("first", theirs))
	targets := ops[0].Targets
	for i, want := range []struct {
		owner  string
		result store.Result
	}{{ia, store.Done}, {ib, store.Done}, {"", store.Done}, {"", store.Done}, {"", store.Done}, {"", store.Gone}} {
		if targets[i].Owner != want.owner || targets[i].Result != want.result {
			t.Errorf("target %d: got %q, %v", i, targets[i].Owner, targets[i].Result)
		}
	}
	news, overflow := a.inboxOf(ib)
	hint := func(op store.Op, i int) store.Hint {
		x := op.Targets[i]
		return store.Hint{
			Session: theirs.ID, Number: x.Number, QoS: x.QoS, Retain: x.Retain, SubscriptionIdentifiers: x.SubscriptionIdentifiers,
			ShareName: x.ShareName, TopicFilter: x.TopicFilter,
		}
	}
	if len(news) != 3 || overflow != 0 {
		t.Fatalf("got %d news, want 3: %+v", len(news), news)
	}
	if n := news[0]; string(n.Message.Payload) != "first" || !n.Routed || !reflect.DeepEqual(n.Queued, []store.Hint{hint(ops[0], 1)}) ||
		!slices.Equal(n.Groups, []store.GroupID{{ShareName: "s", TopicFilter: "f/#"}}) {
		t.Errorf("first: got %+v", n)
	}
	for i := 1; i < 3; i++ {
		if n := news[i]; n.Routed || !reflect.DeepEqual(n.Queued, []store.Hint{hint(ops[i], 0)}) {
			t.Errorf("news %d: got %+v", i, n)
		}
	}
	if got := a.redis.XLen(t.Context(), a.keys.inbox(ia)).Val(); got != 0 {
		t.Errorf("an instance has told itself %d times", got)
	}

	// What is moved is to be read.
	group := publish("")
	group.Targets = []store.Target{{Queue: store.GroupQueue("s", "t"), QoS: 1}}
	a.commit(group)
	moved := a.commit(store.Op{Kind: store.OpMove, From: store.GroupQueue("s", "t"), Limit: 1, Targets: []store.Target{{Queue: store.QueueOf(theirs.ID)}}})[0].Targets[0]
	news, _ = a.inboxOf(ib)
	if len(news) != 1 || news[0].Message != nil || len(news[0].Queued) != 1 || news[0].Queued[0].Number != moved.Number || moved.Owner != ib {
		t.Errorf("moved %+v: got news %+v", moved, news)
	}
}

// A message of a shared subscription that came behind what its member had handed back is told from one that a member had, whenever the
// answer comes.
func TestEntriesForMembersThatHaveLeft(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	again, err := NewStore(t.Context(), r.URL()+"?prefix="+a.config.prefix, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := newFixture(t, again)
	a.enlist()
	ib := b.enlist()
	leave := func(se store.Session) {
		t.Helper()
		if op := b.commit(store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch})[0]; op.Result != store.Done {
			t.Fatalf("offline: %v", op.Result)
		}
	}
	left, here := b.session("{le}ft"), b.session("here")
	leave(left)
	forGroup := func(se store.Session, payload string) store.Op {
		op := publish(payload, se)
		op.Targets[0].ShareName, op.Targets[0].TopicFilter, op.Targets[0].SubscriptionIdentifiers = "s", "0:0:", []uint32{7}
		return op
	}
	group := publish("moved")
	group.Targets = []store.Target{{Queue: store.GroupQueue("s", "t"), QoS: 1, ShareName: "s", TopicFilter: "t"}}
	batch := &store.Batch{Ops: []store.Op{
		group,
		{Kind: store.OpMove, From: store.GroupQueue("s", "t"), Limit: 1, Targets: []store.Target{{Queue: store.QueueOf(left.ID)}}},
		forGroup(left, "1"), forGroup(left, "2"), publish("not of a group", left), forGroup(here, "3"), forGroup(here, "4"),
	}}
	check := func(when, owner string) {
		t.Helper()
		if err := a.w.Commit(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		for i, epoch := range []uint64{0, left.Epoch, left.Epoch, left.Epoch, 0, 0, 0} {
			got := batch.Ops[i].Targets[0]
			if got.Result != store.Done || got.Left != epoch {
				t.Errorf("%s, operation %d: %v, left %d; want %d", when, i, got.Result, got.Left, epoch)
			}
			if i >= 5 && got.Owner != owner {
				t.Errorf("%s, operation %d: owner %q, want %q", when, i, got.Owner, owner)
			}
		}
	}
	check("at first", ib)
	// The answer was lost, and meanwhile who had left has come and gone, and so has the other.
	leave(b.session("{le}ft"))
	leave(here)
	check("again", "")

	// What the member had by then can't be moved any more.
	moved := a.commit(store.Op{
		Kind: store.OpMove, Session: left.ID, Epoch: batch.Ops[2].Targets[0].Left, From: store.QueueOf(left.ID),
		Numbers: []store.Number{batch.Ops[2].Targets[0].Number}, Targets: []store.Target{{Queue: store.GroupQueue("s", "0:0:")}},
	})[0]
	if moved.Result != store.Fenced {
		t.Errorf("moved: %v, want Fenced", moved.Result)
	}
}

func TestFullInboxOverflows(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	ib := newFixture(t, a.Store).enlist() // its inbox is all that is needed
	theirs := a.claim(store.Claim{ClientID: "c", Owner: ib, Durable: true}).Session
	a.enlist()
	const limit = 10_000 // INBOX
	generation := a.redis.HGet(t.Context(), a.keys.meta(), "generation").Val()
	fill := func(n int) {
		pipe := a.redis.Pipeline()
		for range n {
			pipe.Do(t.Context(), "XADD", a.keys.inbox(ib), generation+"-*", "n", "m0:")
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	op := publish("m", theirs)
	op.Targets = append(op.Targets, store.Target{Instance: ib})
	fill(limit - 1)
	if got := a.commit(op)[0].Targets; got[0].Result != store.Done || got[1].Result != store.Done {
		t.Errorf("with room: got %+v", got)
	}
	if got := a.commit(op)[0].Targets; got[0].Result != store.Done || got[1].Result != store.Refused {
		t.Errorf("without room: got %+v", got)
	}
	if got := a.redis.XLen(t.Context(), a.keys.inbox(ib)).Val(); got != limit+1 {
		t.Errorf("%d entries", got)
	}
	fill(limit - 1)
	a.commit(op)
	if got := a.redis.XLen(t.Context(), a.keys.inbox(ib)).Val(); got != 2*limit {
		t.Errorf("%d entries: markers pile up", got)
	}
	if _, overflow := a.inboxOf(ib); overflow != 1 {
		t.Errorf("%d markers, want 1", overflow)
	}
	if got := len(a.entries(store.QueueOf(theirs.ID))); got != 3 {
		t.Errorf("%d messages in the queue, want 3", got)
	}
}

func TestDeadInstanceCommitsNothing(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	instance := a.enlist()
	se := a.session("c")
	batch := &store.Batch{Ops: []store.Op{publish("m", se)}}
	a.redis.ZRem(t.Context(), a.keys.leases(), instance)
	if err := a.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrDead) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Commit: got %v", err)
	}
	if _, err := a.Sessions().Claim(t.Context(), store.Claim{ClientID: "c", Owner: instance}); !errors.Is(err, store.ErrDead) {
		t.Errorf("Claim: got %v", err)
	}
	if got := a.node.count("died"); got != 2 {
		t.Errorf("told %d times, want 2", got)
	}
	a.enlist()
	if err := a.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrDead) {
		t.Errorf("Commit as another instance: got %v", err)
	}
	if got := a.payloads(store.QueueOf(se.ID)); got != "" {
		t.Errorf("queue: got %q", got)
	}
}

func TestClaimAsksTheInstanceBefore(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	other := newFixture(t, a.Store).enlist()
	for _, durable := range []bool{true, false} {
		first := a.claim(store.Claim{ClientID: "c", Owner: other, Durable: durable})
		a.enlist()
		second := a.claim(store.Claim{ClientID: "c", Durable: durable, CleanStart: !durable})
		if second.OldOwner != other || second.OldEpoch != first.Session.Epoch {
			t.Errorf("got old owner %q, epoch %d", second.OldOwner, second.OldEpoch)
		}
		messages := a.redis.XRange(t.Context(), a.keys.ctl(other), "-", "+").Val()
		want := map[string]any{
			"yield": "c", "epoch": fmt.Sprint(second.Session.Epoch), "clean": flag(!durable), "to": second.Session.Owner,
		}
		if len(messages) != 1 || !reflect.DeepEqual(messages[0].Values, want) {
			t.Errorf("asked %+v, want %+v", messages, want)
		}
		a.redis.XTrimMaxLen(t.Context(), a.keys.ctl(other), 0)
	}
	// An instance that is gone has no connection any more.
	a.redis.Del(t.Context(), a.keys.ctl(other))
	a.claim(store.Claim{ClientID: "d", Owner: other})
	if got := a.claim(store.Claim{ClientID: "d"}).OldOwner; got != "" {
		t.Errorf("got old owner %q, want none", got)
	}
}

// A claim whose answer was lost takes, when it is made again, the place of its first try.
func TestClaimWhoseAnswerWasLost(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	x := newLossy(t, r.Addr)
	s, err := NewStore(t.Context(), "redis://"+x.addr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, s)
	other := newFixture(t, s).enlist()
	f.enlist()
	will := &store.Will{Message: store.Message{TopicName: []byte("w"), Payload: []byte("will")}}
	twice := func(c store.Claim) store.Claimed {
		t.Helper()
		x.armed.Store(true)
		c.Owner = f.joined.Load().instance
		if _, err := f.Sessions().Claim(t.Context(), c); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("without an answer: got %v, want ErrUnavailable", err)
		}
		return f.claim(c)
	}
	wills := func(clientID string) int {
		return int(f.redis.HLen(t.Context(), f.keys.will(clientID)).Val())
	}

	fresh := twice(store.Claim{ClientID: "c", Connect: "1", Durable: true, SessionExpiryInterval: 60, Will: will})
	if fresh.Present || fresh.OldOwner != "" || wills("c") != 1 {
		t.Errorf("new session: got %+v, and %d Wills; want it new, and one", fresh, wills("c"))
	}
	if due, ok, err := f.Wills().NextDue(t.Context()); ok || err != nil {
		t.Errorf("a Will is due at %v, %v, though its client is connected", due, err)
	}

	old := f.claim(store.Claim{ClientID: "d", Connect: "2", Owner: other, Durable: true, SessionExpiryInterval: 60, Will: will})
	f.commit(publish("kept", old.Session))
	// A session goes on for a connection with which it will end.
	goes := twice(store.Claim{ClientID: "d", Connect: "3", Will: will})
	if !goes.Present || goes.OldOwner != other || goes.Session.ID != old.Session.ID || f.payloads(store.QueueOf(old.Session.ID)) != "kept" {
		t.Errorf("session that goes on: got %+v", goes)
	}
	yields := f.redis.XRange(t.Context(), f.keys.ctl(other), "-", "+").Val()
	if last := yields[len(yields)-1].Values["epoch"]; last != fmt.Sprint(goes.Session.Epoch) {
		t.Errorf("the instance before was asked for epoch %v, want %d", last, goes.Session.Epoch)
	}
	if n := wills("d"); n != 2 { // that of the connection before is due
		t.Errorf("%d Wills, want those of two connections", n)
	}

	// Another CONNECT is another claim.
	if next := f.claim(store.Claim{ClientID: "d", Connect: "4", Durable: true}); next.OldOwner != f.joined.Load().instance {
		t.Errorf("next CONNECT: got %+v", next)
	}
}

// What a session that a clean start ends had of shared subscriptions goes to the groups, but for what may have been sent at QoS 2.
func TestCleanStartGivesBack(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	f.enlist()
	se := f.claim(store.Claim{ClientID: "{m}", Durable: true, SessionExpiryInterval: 60, Limits: store.Limits{Protected: 1}}).Session
	f.commit(store.Op{Kind: store.OpSubscribe, Session: se.ID, Epoch: se.Epoch, Subscriptions: []store.Subscription{{TopicFilter: "$share/s/a/+"}}})
	for i, qos := range []byte{1, 2, 0, 2, 1} {
		op := publish(fmt.Sprint(i), se)
		op.Message.QoS = 2
		op.Targets[0].QoS = max(qos, 1)
		if qos > 0 {
			op.Targets[0].ShareName, op.Targets[0].TopicFilter = "s", "a/+"
		}
		f.commit(op)
	}
	claimed := f.claim(store.Claim{ClientID: "{m}", CleanStart: true, Durable: true})
	if want := []store.GroupID{{ShareName: "s", TopicFilter: "a/+"}}; !slices.Equal(claimed.GivenBack, want) || claimed.Present {
		t.Errorf("got %+v, want %v given back", claimed, want)
	}
	group := store.GroupQueue("s", "a/+")
	if got, want := f.payloads(group), "0 3 4"; got != want {
		t.Errorf("the group has %q, want %q", got, want)
	}
	for _, e := range f.entries(group) {
		if e.QoS != 2 || e.ShareName != "s" || e.TopicFilter != "a/+" {
			t.Errorf("entry %+v, want the QoS of its message, and its group", e)
		}
	}
	if claimed.Dropped != [3]int{0, 1, 1} {
		t.Errorf("dropped %v, want the two that went with the session", claimed.Dropped)
	}
}

func TestWhatIsKnownOfWhoIsConnected(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	ctx := t.Context()
	a.claim(store.Claim{ClientID: "c", Owner: "n1", Durable: true})
	se := a.claim(store.Claim{ClientID: "c", Owner: "n2", Durable: true}).Session
	if got := a.redis.HGetAll(ctx, a.keys.owners()).Val(); !reflect.DeepEqual(got, map[string]string{"c": "n2"}) {
		t.Errorf("owners: got %v", got)
	}
	if got := a.redis.Exists(ctx, a.keys.own("n1")).Val(); got != 0 {
		t.Error("the former instance still has the session")
	}
	if got := a.redis.ZRange(ctx, a.keys.clients(), 0, -1).Val(); !slices.Equal(got, []string{"c"}) {
		t.Errorf("clients: got %v", got)
	}
	a.commit(store.Op{Kind: store.OpEndSession, Session: se.ID})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got := r.Client().Keys(ctx, a.config.prefix+"*").Val(); !slices.Equal(got, []string{a.config.prefix + "meta"}) {
		t.Errorf("left behind: %v", got)
	}
}

// A replay of what was retained doesn't come behind what is retained now.
func TestCommitIfRetained(t *testing.T) {
	f := newFixture(t, open(t, redistest.Start(t, "appendfsync no"), ""))
	se := f.session("c")
	retain := func(payload string) {
		op := publish(payload)
		op.Retain, op.Message.Retain = true, true
		op.Message.Properties, op.Message.PublisherID = []byte{1, 1}, "publisher"
		f.commit(op)
	}
	retain("old")
	read, err := f.Retained().Read(t.Context(), []string{"topic"})
	if err != nil || read[0] == nil {
		t.Fatal(read, err)
	}
	op := store.Op{Kind: store.OpPublish, Message: read[0], IfRetained: true, Targets: []store.Target{{Queue: store.QueueOf(se.ID), QoS: 1}}}
	if got := f.commit(op)[0].Result; got != store.Done {
		t.Errorf("as it was read: got %v, want Done", got)
	}
	retain("new")
	if got := f.commit(op)[0].Result; got != store.Gone {
		t.Errorf("after another: got %v, want Gone", got)
	}
	if got := f.payloads(store.QueueOf(se.ID)); got != "old" {
		t.Errorf("queue: got %q", got)
	}
}
