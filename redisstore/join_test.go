package redisstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/redistest"
	"loopmq/store"
)

// joined is a Store that has joined, with its node.
type joined struct {
	*Store
	store.Member
	node *node
}

func joinStore(t *testing.T, server *redistest.Server, parameters string) *joined {
	t.Helper()
	return joinAt(t, server.URL()+"?lease=10s"+parameters)
}

func joinAt(t *testing.T, url string) *joined {
	t.Helper()
	s, err := NewStore(context.Background(), url, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	j := &joined{Store: s, node: newNode()}
	t.Cleanup(func() {
		_ = j.Leave(context.Background())
		_ = s.Close()
	})
	if j.Member, err = s.Join(context.Background(), j.node); err != nil {
		t.Fatal(err)
	}
	if err := j.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return j
}

func (j *joined) claim(t *testing.T, clientID string) store.Claimed {
	t.Helper()
	c, err := j.Sessions().Claim(context.Background(), store.Claim{
		ClientID: clientID, Owner: j.Instance(), Durable: true, SessionExpiryInterval: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// commit commits one operation and returns it with its results.
func commit(t *testing.T, w store.Writer, op store.Op) store.Op {
	t.Helper()
	b := &store.Batch{Ops: []store.Op{op}}
	if err := w.Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return b.Ops[0]
}

func TestStoresShareWhatTheyCommit(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	a, b := joinStore(t, server, ""), joinStore(t, server, "")
	wa, wb := a.NewWriter("w"), b.NewWriter("w")
	session := a.claim(t, "c").Session

	// A commit at b brings what a has added, before it returns and without b's reader.
	commit(t, wa, store.Op{
		Kind: store.OpSubscribe, Session: session.ID, Epoch: session.Epoch,
		Subscriptions: []store.Subscription{{TopicFilter: "t", Options: codec.SubscriptionOptions{QoS: 1}}},
	})
	commit(t, wb, store.Op{Kind: store.OpRoute, TopicFilters: []string{"r"}})
	if got := b.Additions(); got < 2 {
		t.Errorf("additions %d after a commit behind a's subscription, want at least 2", got)
	}
	subscribed := func(n *node) bool { // REQUIRES: n.mu
		for _, c := range n.changes {
			if c.Kind == store.ChangeSubscribed && c.Session == session.ID && c.Instance == a.Instance() {
				return true
			}
		}
		return false
	}
	b.node.mu.Lock()
	applied := subscribed(b.node)
	b.node.mu.Unlock()
	if !applied {
		t.Error("the subscription wasn't applied by then")
	}
	a.node.await(t, "its own subscription and b's route", func() bool {
		for _, c := range a.node.changes {
			if c.Kind == store.ChangeRouted && c.Instance == b.Instance() {
				return subscribed(a.node)
			}
		}
		return false
	})

	// A message for a's session, published at b, is in the queue and in a's inbox.
	m := &store.Message{TopicName: []byte("t"), Payload: []byte("hello"), QoS: 1}
	published := commit(t, wb, store.Op{
		Kind: store.OpPublish, Message: m, Additions: b.Additions(),
		Targets: []store.Target{{Queue: store.QueueOf(session.ID), QoS: 1}, {Instance: a.Instance()}},
	})
	if got := published.Targets[0]; got.Owner != a.Instance() || got.Result != store.Done {
		t.Errorf("target %+v, want done, and a its owner", got)
	}
	a.node.await(t, "the message", func() bool { return len(a.node.news) > 0 })
	got := a.node.news[0]
	if string(got.Message.Payload) != "hello" || !got.Routed || len(got.Queued) != 1 ||
		got.Queued[0].Session != session.ID || got.Queued[0].Number != published.Targets[0].Number {
		t.Errorf("news %+v, want one message with a hint and routed", got)
	}

	// The session moves to b.
	moved := b.claim(t, "c")
	if moved.OldOwner != a.Instance() || !moved.Present {
		t.Errorf("claim: %+v", moved)
	}
	a.node.awaitSaid(t, "yield c*")
	a.Released("c", moved.Session.Epoch, b.Instance())
	b.node.awaitSaid(t, "released c*")
	clients, err := a.Sessions().List(context.Background(), store.SessionQuery{Limit: 10})
	if err != nil || len(clients.Sessions) != 1 || clients.Sessions[0].Owner != b.Instance() {
		t.Errorf("clients: %+v, %v", clients, err)
	}

	// A Store that joins again gives its former instance up.
	former := a.Instance()
	batch := &store.Batch{Ops: []store.Op{{Kind: store.OpRoute, TopicFilters: []string{"late"}}}}
	next := newNode()
	if a.Member, err = a.Join(context.Background(), next); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.node.awaitSaid(t, "dead "+former)
	if err := wa.Commit(context.Background(), batch); err != nil {
		t.Errorf("a commit of the new instance: %v", err)
	}
	if !b.Alive(a.Instance()) || b.Alive(former) {
		t.Error("b doesn't know who is alive")
	}

	// A commit of an instance that is dead is refused, and expels it.
	server.Client().ZRem(context.Background(), "lmq:leases", a.Instance())
	if err := wa.Commit(context.Background(), &store.Batch{Ops: batch.Ops}); !errors.Is(err, store.ErrDead) {
		t.Errorf("commit of a dead instance: %v, want ErrDead", err)
	}
	next.awaitSaid(t, "expelled")
}

func TestAloneUntilAnotherJoins(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a := c.start(longLease)
	if !a.Alone() {
		t.Fatal("the only instance isn't alone")
	}
	// Who joins is not through Start before a knows: a's reader of the ctl stream is held.
	hold, held := make(chan struct{}), make(chan struct{})
	c.claim(a.Instance(), "c", true, 10, nil)
	a.node.kick = func() {
		close(held)
		<-hold
	}
	if err := a.Kick(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	<-held
	b := c.join(c.config(c.server.Addr, longLease))
	started := make(chan error, 1)
	go func() { started <- b.Start(ctx) }()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	select {
	case err := <-started:
		t.Fatalf("Start returned %v while the other hadn't been told", err)
	case <-short.Done():
	}
	close(hold)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if a.Alone() || b.Alone() {
		t.Errorf("alone: %v, %v; want neither", a.Alone(), b.Alone())
	}
	if err := b.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	a.node.awaitSaid(t, "dead "+b.Instance())
	if !a.Alone() {
		t.Error("not alone though the other has left")
	}

	// Who can't renew doesn't know whether it is alone.
	lapsed := time.Now().Add(-time.Second)
	a.peers.validUntil.Store(&lapsed)
	if a.Alone() {
		t.Error("alone with a lease that may have lapsed")
	}

	// A Start that waits for an instance that doesn't answer can be given up.
	d := c.join(c.config(c.server.Addr, longLease)) // never starts, and so doesn't answer
	e := c.join(c.config(c.server.Addr, longLease))
	short, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := e.Start(short); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Start: %v, want ErrUnavailable", err)
	}
	d.giveUp(ctx)
	if err := e.peers.await(ctx, e.ctx); err != nil {
		t.Errorf("await after the death of who didn't answer: %v", err)
	}
}

func TestMembersOutliveFailover(t *testing.T) {
	sentinel := redistest.StartSentinel(t, "appendfsync no")
	var members []*joined
	for range 2 {
		members = append(members, joinAt(t, sentinel.URL()+"?lease=10s"))
	}
	a, b := members[0], members[1]
	wa, wb := a.NewWriter("w"), b.NewWriter("w")
	commit(t, wa, store.Op{Kind: store.OpRoute, TopicFilters: []string{"before"}})
	commit(t, wb, store.Op{Kind: store.OpRoute, TopicFilters: []string{"before"}})
	sentinel.Master().Replicated()
	sentinel.Failover()
	for _, j := range members {
		j.node.awaitSaid(t, "reread")
	}
	// The connection to the former master may be the first that is tried.
	batch := &store.Batch{Ops: []store.Op{{Kind: store.OpRoute, TopicFilters: []string{"after"}}}}
	timeout := time.After(time.Minute)
	for err := wa.Commit(context.Background(), batch); err != nil; err = wa.Commit(context.Background(), batch) {
		select {
		case <-timeout:
			t.Fatal(err)
		default:
		}
	}
	b.node.await(t, "a's route", func() bool {
		for _, c := range b.node.changes {
			if c.Instance == a.Instance() && c.TopicFilters[0] == "after" {
				return true
			}
		}
		return false
	})
	if a.node.count("expelled")+b.node.count("expelled") != 0 {
		t.Error("expelled though nothing was lost")
	}
}
