package loopmq_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// name is the instance that a node is.
func (n *nodes) name(i int) string { return n.servers[i].Broker.Health().Node }

// clientsOf returns the ClientIDs that a filter finds, as one node lists them by pages.
func (n *nodes) clientsOf(node int, f loopmq.ClientFilter, limit int) (ids []string) {
	n.Helper()
	for after := ""; ; {
		page, err := n.servers[node].Broker.Clients(n.Context(), f, after, limit)
		if err != nil {
			n.Fatal(err)
		}
		for _, c := range page.Clients {
			ids = append(ids, c.ClientID)
		}
		if after = page.Next; after == "" {
			return ids
		}
	}
}

func TestClusterClientsAreListedFromAnyNode(t *testing.T) {
	onNodes(t, 3, func(n *nodes) {
		brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("a1"), brokertest.KeepAlive(30))
		brokertest.Connect(n.T, n.addr(1), codec.V311, brokertest.ClientID("a2"), brokertest.Credentials("ann", "x"))
		brokertest.Connect(n.T, n.addr(2), codec.V31, brokertest.ClientID("b1"), brokertest.Credentials("bob", "x"))
		off := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("b2"), brokertest.Credentials("bob", "x"))
		off.Subscribe("t", 1)
		off.Close()
		eventually(n.T, "b2 is offline", func() bool {
			return slices.Equal(n.clientsOf(0, loopmq.ClientFilter{Offline: true}, 10), []string{"b2"})
		})
		brokertest.Connect(n.T, n.addr(2), codec.V5).Publish("t", "waits", 1)
		for node := range n.servers {
			for _, tt := range []struct {
				filter loopmq.ClientFilter
				want   string
			}{
				{loopmq.ClientFilter{ClientIDPrefix: "a"}, "a1 a2"},
				{loopmq.ClientFilter{ClientIDPrefix: "b", ClientIDContains: "2"}, "b2"},
				{loopmq.ClientFilter{Username: "bob"}, "b1 b2"},
				{loopmq.ClientFilter{Username: "bob", Connected: true}, "b1"},
				{loopmq.ClientFilter{Username: "bob", Offline: true}, "b2"},
				{loopmq.ClientFilter{Durable: true}, "a1 b2"},
				{loopmq.ClientFilter{Node: n.name(1)}, "a2"},
				{loopmq.ClientFilter{ClientIDPrefix: "a", Address: netip.MustParsePrefix("127.0.0.0/8")}, "a1 a2"},
				{loopmq.ClientFilter{ClientIDPrefix: "a", Address: netip.MustParsePrefix("192.0.2.0/24")}, ""},
				{loopmq.ClientFilter{Connected: true, Offline: true}, ""},
			} {
				for _, limit := range []int{1, 100} {
					if got := strings.Join(n.clientsOf(node, tt.filter, limit), " "); got != tt.want {
						n.Errorf("node %d, %+v by %d: got %q, want %q", node, tt.filter, limit, got, tt.want)
					}
				}
			}
			if got := n.clientsOf(node, loopmq.ClientFilter{}, 2); len(got) != 5 || !slices.IsSorted(got) {
				n.Errorf("node %d lists %q", node, got)
			}
			c, err := n.servers[node].Broker.Client(n.Context(), "a1")
			if err != nil || !c.Connected || c.Node != n.name(0) || c.Protocol != "5.0" || c.KeepAlive != 30 || c.ConnectedAt.IsZero() ||
				!strings.HasPrefix(c.Address, "127.0.0.1:") || c.LastError != "" || c.Queue == nil {
				n.Errorf("node %d shows %+v, %v", node, c, err)
			}
			c, err = n.servers[node].Broker.Client(n.Context(), "b2")
			if err != nil || c.Connected || c.Node != "" || c.LastError == "" || c.DisconnectedAt.IsZero() || c.Username != "bob" ||
				c.ExpiresAt.IsZero() || c.Queue == nil || c.Queue.Messages != 1 || c.Queue.Bytes != len("t")+len("waits") {
				n.Errorf("node %d shows %+v, %v", node, c, err)
			}
			if _, err = n.servers[node].Broker.Client(n.Context(), "nobody"); !errors.Is(err, loopmq.ErrNoSession) {
				n.Errorf("a client that isn't there: %v", err)
			}
		}
	})
}

// subscriptionsOf lists by pages, as clientsOf does.
func (n *nodes) subscriptionsOf(node int, f loopmq.SubscriptionFilter, limit int) (found []string) {
	n.Helper()
	for after := ""; ; {
		page, err := n.servers[node].Broker.Subscriptions(n.Context(), f, after, limit)
		if err != nil {
			n.Fatal(err)
		}
		if len(page.Subscriptions) > limit {
			n.Fatalf("a page of %d has %d", limit, len(page.Subscriptions))
		}
		for _, s := range page.Subscriptions {
			found = append(found, fmt.Sprint(s.ClientID, " ", s.TopicFilter, " ", s.QoS))
		}
		if after = page.Next; after == "" {
			return found
		}
	}
}

func TestClusterSubscriptionsAreListedFromAnyNode(t *testing.T) {
	onNodes(t, 3, func(n *nodes) {
		var want []string
		for i, id := range []string{"a", "b", "c", "d", "e", "f"} {
			options := []brokertest.ConnectOption{brokertest.ClientID(id)}
			if i%2 == 0 {
				options = []brokertest.ConnectOption{brokertest.Durable(id)}
			}
			c := brokertest.Connect(n.T, n.addr(i%3), codec.V5, options...)
			for k := range 3 {
				filter := fmt.Sprintf("x/%d/%s", k, []string{"+", "y", "#"}[k])
				c.Subscribe(filter, byte(k))
				want = append(want, fmt.Sprint(id, " ", filter, " ", k))
			}
			c.Subscribe("$share/g/s/+", 1)
			want = append(want, id+" $share/g/s/+ 1")
		}
		slices.Sort(want)
		for node := range n.servers {
			for _, limit := range []int{1, 5, 24, 100} {
				eventually(n.T, "the feed has told", func() bool {
					return slices.Equal(n.subscriptionsOf(node, loopmq.SubscriptionFilter{}, limit), want)
				})
			}
			for _, tt := range []struct {
				filter loopmq.SubscriptionFilter
				want   string
			}{
				{loopmq.SubscriptionFilter{ClientID: "b"}, "b $share/g/s/+ 1,b x/0/+ 0,b x/1/y 1,b x/2/# 2"},
				{loopmq.SubscriptionFilter{ClientIDPrefix: "e", TopicFilter: "x/1/y"}, "e x/1/y 1"},
				{loopmq.SubscriptionFilter{ClientID: "d", TopicName: "x/2"}, "d x/2/# 2"},
				{loopmq.SubscriptionFilter{ClientID: "d", TopicName: "s/t"}, "d $share/g/s/+ 1"},
				{loopmq.SubscriptionFilter{TopicName: "nothing"}, ""},
			} {
				for _, limit := range []int{1, 100} {
					if got := strings.Join(n.subscriptionsOf(node, tt.filter, limit), ","); got != tt.want {
						n.Errorf("node %d, %+v by %d: got %q, want %q", node, tt.filter, limit, got, tt.want)
					}
				}
			}
		}
		if _, err := n.servers[0].Broker.Subscriptions(n.Context(), loopmq.SubscriptionFilter{ClientID: "nobody"}, "", 1); !errors.Is(err, loopmq.ErrNoSession) {
			n.Errorf("of nobody: %v", err)
		}
		for _, bad := range []string{"x", "-1:a", "9:a", ":"} {
			if _, err := n.servers[0].Broker.Subscriptions(n.Context(), loopmq.SubscriptionFilter{}, bad, 1); !errors.Is(err, loopmq.ErrCursor) {
				n.Errorf("behind %q: %v", bad, err)
			}
		}
	})
}

// Of a client of another node with more, and longer, filters than one answer has.
func TestClusterManySubscriptionsElsewhere(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		var want []string
		for _, id := range []string{"a", "b"} {
			c := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.ClientID(id))
			for k := range 450 {
				filter := fmt.Sprintf("%03d", k)
				if k%100 == 0 {
					filter += strings.Repeat("x", 40_000)
				}
				c.Subscribe(filter, 0)
				want = append(want, fmt.Sprint(id, " ", filter, " ", 0))
			}
		}
		if got := n.subscriptionsOf(0, loopmq.SubscriptionFilter{}, 1000); !slices.Equal(got, want) {
			n.Errorf("got %d, want %d", len(got), len(want))
		}
	})
}

func TestClusterRetainedAreListedFromAnyNode(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		p := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.ClientID("p"))
		for _, topic := range []string{"sport", "sport/tennis", "sport/golf", "sports", "spor", "other/a", "/x"} {
			p.Publish(topic, "of "+topic, 1, brokertest.Retained)
		}
		for node := range n.servers {
			b := n.servers[node].Broker
			for filter, want := range map[string]string{
				"": "/x other/a spor sport sport/golf sport/tennis sports", "#": "/x other/a spor sport sport/golf sport/tennis sports",
				"sport/#": "sport sport/golf sport/tennis", "sport/+": "sport/golf sport/tennis", "+/a": "other/a", "sport": "sport", "none/#": "",
			} {
				for _, limit := range []int{1, 2, 100} {
					var got []string
					for after := ""; ; {
						page, err := b.RetainedMessages(n.Context(), filter, after, limit)
						if err != nil {
							n.Fatal(err)
						}
						for _, m := range page.Messages {
							got = append(got, m.TopicName)
							if m.Bytes != len("of ")+len(m.TopicName) || m.Publisher != "p" || m.QoS != 1 || m.Payload != nil {
								n.Errorf("got %+v", m)
							}
						}
						if after = page.Next; after == "" {
							break
						}
					}
					if strings.Join(got, " ") != want {
						n.Errorf("node %d, %q by %d: got %q, want %q", node, filter, limit, got, want)
					}
				}
			}
			if m, err := b.RetainedMessage(n.Context(), "spor"); err != nil || string(m.Payload) != "of spor" {
				n.Errorf("node %d shows %+v, %v", node, m, err)
			}
			for _, bad := range []string{"a/#/b", "$share/g/a"} {
				if _, err := b.RetainedMessages(n.Context(), bad, "", 1); !errors.Is(err, loopmq.ErrTopicFilter) {
					n.Errorf("of %q: %v", bad, err)
				}
			}
		}
		s := brokertest.Connect(n.T, n.addr(0), codec.V5)
		s.Subscribe("other/a", 1)
		s.Acknowledge(s.ExpectPublish("other/a", "of other/a"))
		if err := n.servers[1].Broker.DeleteRetained(n.Context(), "other/a"); err != nil {
			n.Fatal(err)
		}
		s.ExpectPublish("other/a", "")
		for node := range n.servers {
			if _, err := n.servers[node].Broker.RetainedMessage(n.Context(), "other/a"); !errors.Is(err, loopmq.ErrNotRetained) {
				n.Errorf("node %d: a deleted one: %v", node, err)
			}
			if err := n.servers[node].Broker.DeleteRetained(n.Context(), "other/a"); !errors.Is(err, loopmq.ErrNotRetained) {
				n.Errorf("node %d: deleted again: %v", node, err)
			}
		}
	})
}

func TestRetainedOfTheBroker(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.SysInterval = time.Hour })
	eventually(t, "$SYS is there", func() bool {
		page, err := s.Broker.RetainedMessages(t.Context(), "$SYS/broker/uptime", "", 0)
		return err == nil && len(page.Messages) == 1
	})
	page, err := s.Broker.RetainedMessages(t.Context(), "$SYS/#", "", 3)
	if err != nil || len(page.Messages) != 3 || page.Next != page.Messages[2].TopicName {
		t.Errorf("got %+v, %v", page, err)
	}
	if page, err = s.Broker.RetainedMessages(t.Context(), "", "", 0); err != nil || len(page.Messages) != 0 {
		t.Errorf("of all: got %+v, %v", page, err)
	}
	if err := s.Broker.DeleteRetained(t.Context(), "$SYS/broker/uptime"); !errors.Is(err, loopmq.ErrTopicName) {
		t.Errorf("deleted: %v", err)
	}
}

func TestClusterDeleteSession(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		gone := func(id string) {
			n.Helper()
			for node := range n.servers {
				b := n.servers[node].Broker
				eventually(n.T, id+" is gone", func() bool {
					_, err := b.Client(n.Context(), id)
					return errors.Is(err, loopmq.ErrNoSession)
				})
				eventually(n.T, "its subscriptions too", func() bool { return len(n.subscriptionsOf(node, loopmq.SubscriptionFilter{}, 10)) == 0 })
				if err := b.DeleteSession(n.Context(), id); !errors.Is(err, loopmq.ErrNoSession) {
					n.Errorf("deleted again: %v", err)
				}
			}
		}
		for owner := range n.servers {
			for from := range n.servers {
				what := fmt.Sprintf("at %d, deleted from %d", owner, from)
				c := brokertest.Connect(n.T, n.addr(owner), codec.V5, brokertest.Durable("c"))
				c.Subscribe("t", 1)
				if err := n.servers[from].Broker.DeleteSession(n.Context(), "c"); err != nil {
					n.Fatalf("%s: %v", what, err)
				}
				if d := brokertest.Expect[*codec.Disconnect](c); d.ReasonCode != codec.AdministrativeAction {
					n.Errorf("%s: the client is told %v", what, d.ReasonCode)
				}
				gone("c")

				c = brokertest.Connect(n.T, n.addr(owner), codec.V5, brokertest.Durable("c"))
				c.Subscribe("t", 1)
				c.Disconnect()
				eventually(n.T, "c is offline", func() bool {
					c, err := n.servers[from].Broker.Client(n.Context(), "c")
					return err == nil && !c.Connected
				})
				if err := n.servers[from].Broker.DeleteSession(n.Context(), "c"); err != nil {
					n.Fatalf("%s, offline: %v", what, err)
				}
				gone("c")
				if c := brokertest.Dial(n.T, n.addr(owner), codec.V5); c.Connect(brokertest.Durable("c"), brokertest.Resume).SessionPresent {
					n.Errorf("%s: the session is there", what)
				} else {
					c.Disconnect()
					eventually(n.T, "c is offline", func() bool {
						c, err := n.servers[from].Broker.Client(n.Context(), "c")
						return err == nil && !c.Connected
					})
					_ = n.servers[from].Broker.DeleteSession(n.Context(), "c")
				}
			}
		}
		plain := brokertest.Connect(n.T, n.addr(1), codec.V311, brokertest.ClientID("plain"))
		if err := n.servers[0].Broker.DeleteSession(n.Context(), "plain"); err != nil {
			n.Fatal(err)
		}
		if p := plain.ReceiveOrClosed(); p != nil {
			n.Errorf("got %v, want the end", p)
		}
		gone("plain")
	})
}

// The Will of a client whose session is deleted is published, once.
func TestClusterDeleteSessionPublishesTheWill(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		w := brokertest.Connect(n.T, n.addr(1), codec.V5)
		w.Subscribe("will", 1)
		c := brokertest.Dial(n.T, n.addr(1), codec.V5)
		c.Connect(brokertest.Durable("c"), brokertest.Will("will", "of c", 1, false, codec.PropWillDelayInterval, 1000))
		if err := n.servers[0].Broker.DeleteSession(n.Context(), "c"); err != nil {
			n.Fatal(err)
		}
		w.Acknowledge(w.ExpectPublish("will", "of c"))
		w.Ping()
	})
}

// Clients connect in loops at two nodes while their session is deleted again and again:
// each deletion that succeeds has ended the session that was there.
func TestClusterDeleteSessionWhileItReconnects(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		ctx, stop := context.WithTimeout(n.Context(), patience)
		defer stop()
		var clients sync.WaitGroup
		for i := range 4 {
			clients.Go(func() {
				for round := 0; ctx.Err() == nil; round++ {
					c := brokertest.Dial(n.T, n.addr(i%2), codec.V5)
					c.SendConnect(brokertest.Durable("c"), brokertest.Resume)
					for c.ReceiveOrClosed() != nil && round%3 != 0 { // until somebody ends it; a third leave at once
					}
					c.Close()
				}
			})
		}
		incarnation := func() uint64 {
			se, err := n.stores[0].Sessions().Lookup(n.Context(), "c")
			if err != nil && !errors.Is(err, store.ErrGone) {
				n.Fatal(err)
			}
			return se.ID.Incarnation
		}
		const deletions = 10
		deleted := 0
		for round := 0; deleted < deletions && ctx.Err() == nil; round++ {
			before := incarnation()
			switch err := n.servers[round%2].Broker.DeleteSession(ctx, "c"); {
			case errors.Is(err, loopmq.ErrNoSession):
				continue
			case err != nil:
				n.Fatalf("deletion %d: %v", round, err)
			}
			if after := incarnation(); before != 0 && after == before {
				n.Fatalf("deletion %d: session %d is there still", round, before)
			}
			deleted++
		}
		if deleted < deletions {
			n.Errorf("%d deletions", deleted)
		}
		stop()
		left := make(chan struct{})
		go func() {
			clients.Wait()
			close(left)
		}()
		eventually(n.T, "what is left can be deleted", func() bool {
			gone := errors.Is(n.servers[0].Broker.DeleteSession(n.Context(), "c"), loopmq.ErrNoSession)
			select {
			case <-left:
				return gone
			default:
				return false
			}
		})
		for node := range n.servers {
			if got := n.clientsOf(node, loopmq.ClientFilter{}, 10); len(got) != 0 {
				n.Errorf("node %d lists %q", node, got)
			}
		}
		for node := range n.servers {
			if c := brokertest.Dial(n.T, n.addr(node), codec.V5); c.Connect(brokertest.Durable("c"), brokertest.Resume).SessionPresent != (node > 0) {
				n.Errorf("node %d: the wrong session is present", node)
			} else {
				c.Close()
			}
		}
	})
}

func TestClusterNodesAndCounters(t *testing.T) {
	onNodes(t, 3, func(n *nodes) {
		for i := range n.servers {
			c := brokertest.Connect(n.T, n.addr(i), codec.V5, brokertest.ClientID(fmt.Sprint("c", i)))
			for range i + 1 {
				c.Publish("t", "m", 1)
			}
		}
		for node := range n.servers {
			b := n.servers[node].Broker
			eventually(n.T, "all nodes have said what they have", func() bool {
				nodes, err := b.Nodes(n.Context())
				if err != nil || len(nodes) != 3 {
					n.Fatalf("%+v, %v", nodes, err)
				}
				for _, s := range nodes {
					if s.State != loopmq.NodeServing || s.Connections != 1 || s.Since.IsZero() || s.LeaseLapses.IsZero() || s.Self != (s.Node == n.name(node)) {
						return false
					}
				}
				return true
			})
			eventually(n.T, "counters add up", func() bool {
				all, err := b.Counters(n.Context())
				if err != nil || len(all.Nodes) != 3 {
					n.Fatalf("%+v, %v", all, err)
				}
				return all.Sum["loopmq_connections_opened_total"] == 3 && all.Sum["loopmq_messages_received_total"] == 6
			})
		}
		dead := n.name(2)
		n.expel(dead)
		eventually(n.T, "the former instance is listed no more", func() bool {
			nodes, err := n.servers[0].Broker.Nodes(n.Context())
			if err != nil {
				n.Fatal(err)
			}
			return !slices.ContainsFunc(nodes, func(s loopmq.NodeStatus) bool { return s.Node == dead }) && len(nodes) == 3
		})
	})
}

func TestClusterDrainFromAnyNode(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		b := n.servers[0].Broker
		state := func(want loopmq.NodeState) {
			n.Helper()
			for node := range n.servers {
				eventually(n.T, "node 1 is "+string(want), func() bool {
					nodes, err := n.servers[node].Broker.Nodes(n.Context())
					if err != nil {
						n.Fatal(err)
					}
					i := slices.IndexFunc(nodes, func(s loopmq.NodeStatus) bool { return s.Node == n.name(1) })
					return i >= 0 && nodes[i].State == want
				})
			}
		}
		c := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("c"))
		if err := b.DrainNode(n.Context(), n.name(1), &loopmq.DrainOptions{ServerReference: "other:1883"}); err != nil {
			n.Fatal(err)
		}
		if d := brokertest.Expect[*codec.Disconnect](c); d.ReasonCode != codec.UseAnotherServer || string(d.Properties.ServerReference) != "other:1883" {
			n.Errorf("the client is told %v, %q", d.ReasonCode, d.Properties.ServerReference)
		}
		state(loopmq.NodeDrained)
		if err := n.servers[1].Broker.Ready(); err == nil {
			n.Error("a drained node is ready")
		}
		if err := n.servers[0].Broker.Ready(); err != nil {
			n.Error(err)
		}
		refused := brokertest.Dial(n.T, n.addr(1), codec.V5)
		refused.SendConnect(brokertest.Durable("c"))
		refused.ExpectConnack(codec.UseAnotherServer)
		if err := b.DrainNode(n.Context(), n.name(1), nil); err == nil {
			n.Error("drained twice")
		}
		// It still serves whoever asks it about the cluster.
		if got := n.clientsOf(1, loopmq.ClientFilter{}, 10); !slices.Equal(got, []string{"c"}) {
			n.Errorf("it lists %q", got)
		}
		for range 2 {
			if err := b.UndrainNode(n.Context(), n.name(1)); err != nil {
				n.Fatal(err)
			}
		}
		state(loopmq.NodeServing)
		again := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("c"), brokertest.Resume)

		// While it waits all goes on.
		if err := n.servers[1].Broker.DrainNode(n.Context(), n.name(1), &loopmq.DrainOptions{Wait: time.Hour}); err != nil {
			n.Fatal(err)
		}
		state(loopmq.NodeDraining)
		again.Ping()
		brokertest.Connect(n.T, n.addr(1), codec.V5)
		if err := b.UndrainNode(n.Context(), n.name(1)); err != nil {
			n.Fatal(err)
		}
		for _, call := range []func() error{
			func() error { return b.DrainNode(n.Context(), "nobody", nil) },
			func() error { return b.UndrainNode(n.Context(), "nobody") },
		} {
			if err := call(); !errors.Is(err, loopmq.ErrNoNode) {
				n.Errorf("of nobody: %v", err)
			}
		}
		if err := b.DrainNode(n.Context(), n.name(1), &loopmq.DrainOptions{Rate: -1}); err == nil {
			n.Error("a rate of -1 is taken")
		}
		// A drained node can be shut down as any.
		if err := b.DrainNode(n.Context(), n.name(1), nil); err != nil {
			n.Fatal(err)
		}
		if err := n.servers[1].Broker.Drain(n.Context(), loopmq.DrainOptions{}); err != nil {
			n.Fatal(err)
		}
		if err := b.UndrainNode(n.Context(), n.name(1)); err == nil {
			n.Error("undrained while it ends")
		}
	})
}
