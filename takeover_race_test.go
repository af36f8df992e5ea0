package loopmq_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// hooks look at the feed, claims, and the end of a CONNECT of one node, and hold them up.
type hooks struct {
	feed  func(changes []store.Change)      // a node is about to apply changes
	claim atomic.Pointer[func()]            // a claim was made, and the broker hasn't heard of it
	ended chan store.SessionID              // sessions whose end a node has applied
	login atomic.Pointer[func(name string)] // a client's CONNECT was accepted, and its session hasn't got it
}

// hookedStore is a view of a Hub with hooks.
type hookedStore struct {
	*memory.HubStore
	*hooks
}

func (s hookedStore) Join(ctx context.Context, n store.Node) (store.Member, error) {
	return s.HubStore.Join(ctx, hookedNode{n, s.hooks})
}

func (s hookedStore) Sessions() store.Sessions { return hookedSessions{s.HubStore.Sessions(), s.hooks} }

type hookedSessions struct {
	store.Sessions
	*hooks
}

func (s hookedSessions) Claim(ctx context.Context, c store.Claim) (store.Claimed, error) {
	claimed, err := s.Sessions.Claim(ctx, c)
	if f := s.claim.Load(); f != nil {
		(*f)()
	}
	return claimed, err
}

type hookedNode struct {
	store.Node
	*hooks
}

func (n hookedNode) Apply(changes []store.Change) {
	if n.feed != nil {
		n.feed(changes)
	}
	n.Node.Apply(changes)
	for _, ch := range changes {
		if ch.Kind == store.ChangeEnded {
			n.ended <- ch.Session
		}
	}
}

// hookedLog calls hooks.login.
type hookedLog struct {
	slog.Handler
	*hooks
}

func (hookedLog) Enabled(context.Context, slog.Level) bool { return true }

func (h hookedLog) Handle(_ context.Context, r slog.Record) error {
	if f := h.login.Load(); f != nil && r.Message == "v5_connect" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "client_id" {
				(*f)(a.Value.String())
			}
			return true
		})
	}
	return nil
}

// onHookedNodes starts two brokers on one store, the first with hooks.
func onHookedNodes(t *testing.T, h *hooks) *nodes {
	t.Parallel()
	hub := memory.NewHub(memory.Options{})
	h.ended = make(chan store.SessionID, 100)
	n := &nodes{T: t, expel: hub.Expel, stores: []store.Shared{hookedStore{hub.Open(), h}, hub.Open()}}
	for i, s := range n.stores {
		n.servers = append(n.servers, brokertest.Start(t, func(o *loopmq.Options) {
			o.Store = s
			if i == 0 {
				o.Logger = slog.New(hookedLog{slog.DiscardHandler, h})
			}
		}))
	}
	return n
}

// deletedElsewhere has the other node delete a session while the first one gives it a
// connection: it returns when the first node knows that the session is gone, and done
// gets the answer.
func (n *nodes) deletedElsewhere(h *hooks) (done chan error) {
	done = make(chan error, 1)
	go func() { done <- n.servers[1].Broker.DeleteSession(n.Context(), "c") }()
	<-h.ended
	return done
}

// A session that ends at another node in the moment at which it gets its connection
// leaves nothing behind: the feed tells of its end before the owner of the connection
// is asked for it.
func TestClusterASessionEndsElsewhereWhileItIsAttached(t *testing.T) {
	for _, present := range []bool{false, true} {
		name := "new"
		if present {
			name = "resumed"
		}
		t.Run(name, func(t *testing.T) {
			h := &hooks{}
			n := onHookedNodes(t, h)
			if present {
				before := brokertest.Connect(t, n.addr(0), codec.V5, brokertest.Durable("c"))
				before.Subscribe("t", 1)
				before.Disconnect()
				n.offline("c")
			}
			deleted := make(chan chan error, 1)
			var once sync.Once
			login := func(string) { once.Do(func() { deleted <- n.deletedElsewhere(h) }) }
			h.login.Store(&login)
			c := brokertest.Dial(t, n.addr(0), codec.V5)
			if ack := c.Connect(brokertest.Durable("c")); ack.SessionPresent != present {
				t.Errorf("Session Present %v", ack.SessionPresent)
			}
			if d := brokertest.Expect[*codec.Disconnect](c); d.ReasonCode != codec.SessionTakenOver {
				t.Errorf("the client is told %v", d.ReasonCode)
			}
			if err := receive(t, "the end of the deletion", receive(t, "a deletion", deleted)); err != nil {
				t.Error(err)
			}
			n.knowsNothing(0)
		})
	}
}

// offline waits until a client's session has no connection any more.
func (n *nodes) offline(clientID string) {
	n.Helper()
	eventually(n.T, clientID+" is offline", func() bool {
		c, err := n.servers[1].Broker.Client(n.Context(), clientID)
		return err == nil && !c.Connected
	})
}

// knowsNothing waits until a node has no session.
func (n *nodes) knowsNothing(node int) {
	n.Helper()
	eventually(n.T, "the node knows of no session", func() bool {
		h := n.servers[node].Broker.Health()
		return h.Connections == 0 && h.Sessions == 0 && h.Subscriptions == 0
	})
}

// The same, but the node hears of the end before it hears that it had the session.
func TestClusterASessionEndsElsewhereBeforeItsClaimReturns(t *testing.T) {
	h := &hooks{}
	n := onHookedNodes(t, h)
	deleted := make(chan chan error, 1)
	var once sync.Once
	claim := func() { once.Do(func() { deleted <- n.deletedElsewhere(h) }) }
	h.claim.Store(&claim)
	c := brokertest.Dial(t, n.addr(0), codec.V5)
	c.SendConnect(brokertest.Durable("c"))
	c.ExpectConnack(codec.ServerBusy)
	if err := receive(t, "the end of the deletion", receive(t, "a deletion", deleted)); err != nil {
		t.Error(err)
	}
	n.knowsNothing(0)
}

// What the feed tells of a session that a claim has ended doesn't touch the one that
// followed.
func TestClusterTheFeedIsBehindAClaim(t *testing.T) {
	goOn := make(chan struct{})
	h := &hooks{feed: func(changes []store.Change) {
		if slices.ContainsFunc(changes, func(ch store.Change) bool { return ch.Kind == store.ChangeSubscribed }) {
			<-goOn
		}
	}}
	n := onHookedNodes(t, h)
	before := brokertest.Connect(t, n.addr(1), codec.V5, brokertest.Durable("c"))
	before.Subscribe("t", 1)
	before.Disconnect()
	n.offline("c")
	var once sync.Once
	login := func(string) {
		once.Do(func() {
			close(goOn)
			<-h.ended
		})
	}
	h.login.Store(&login)
	c := brokertest.Connect(t, n.addr(0), codec.V5, brokertest.Durable("c"), func(p *codec.Connect) { p.CleanStart = true })
	again := brokertest.Connect(t, n.addr(0), codec.V5, brokertest.Durable("c"))
	if d := brokertest.Expect[*codec.Disconnect](c); d.ReasonCode != codec.SessionTakenOver {
		t.Errorf("the client is told %v", d.ReasonCode)
	}
	again.Subscribe("t", 1)
	again.Publish("t", "x", 1)
	again.Acknowledge(again.ExpectPublish("t", "x"))
	if got := n.servers[0].Broker.Health().Sessions; got != 1 {
		t.Errorf("%d sessions", got)
	}
}
