package loopmq_test

import (
	"slices"
	"strings"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// clusterLines has events stored in the outbox of endpoint, but for those of the clients of the test itself.
func clusterLines() *loopmq.Recorder {
	r := loopmq.OnEvent(func(*loopmq.Event) {})
	r.Record = func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) {
		l := e.Kind.String()
		switch {
		case e.Message != nil:
			l += " " + string(e.Message.TopicName)
		case e.Client != nil:
			l += " " + e.Client.ClientID
		default:
			l += " " + e.Node
		}
		return append(to, store.Event{Endpoint: endpoint, Data: []byte(l)}), true
	}
	return r
}

// Whatever happens between nodes is told once: by the one that it happens to, or that ends it, or that finds first that another has died.
func TestClusterEvents(t *testing.T) {
	onNodes(t, 3, testClusterEvents, func(o *loopmq.Options) { o.Recorder = clusterLines() })
}

func testClusterEvents(n *nodes) {
	var want []string
	expect := func(client string, kinds ...string) {
		for _, k := range kinds {
			want = append(want, k+" "+client)
		}
	}
	node := func(i int) string { return n.servers[i].Broker.Health().Node }
	for i := range n.servers {
		expect(node(i), "node.up")
	}
	// A durable session moves, and ends by a clean start elsewhere.
	c := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("c"))
	expect("c", "session.created", "client.connected")
	c.Subscribe("t/#", 2)
	expect("c", "session.subscribed")
	c = brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("c"), brokertest.Resume)
	expect("c", "client.disconnected", "session.taken_over", "client.connected")
	pub := brokertest.Connect(n.T, n.addr(2), codec.V5, brokertest.Durable("pub"))
	expect("pub", "session.created", "client.connected")
	for _, topic := range []string{"t/1", "t/2"} {
		pub.Publish(topic, "x", topic[2]-'0')
		c.Acknowledge(c.ExpectPublish(topic, "x"))
		expect(topic, "message.published", "message.delivered", "message.acked")
	}
	brokertest.Connect(n.T, n.addr(2), codec.V5, brokertest.ClientID("c"))
	expect("c", "client.disconnected", "session.taken_over", "session.terminated", "session.created", "client.connected")
	// So does one that isn't durable.
	brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.ClientID("plain"))
	expect("plain", "session.created", "client.connected")
	brokertest.Connect(n.T, n.addr(2), codec.V5, brokertest.ClientID("plain"))
	expect("plain", "client.disconnected", "session.taken_over", "session.terminated", "session.created", "client.connected")
	// Each node sees that a session has expired.
	x := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.ClientID("x"), brokertest.Resume, brokertest.With(codec.PropSessionExpiryInterval, 1))
	expect("x", "session.created", "client.connected")
	x.Disconnect()
	expect("x", "client.disconnected", "session.terminated")
	eventually(n.T, "the session expires", func() bool {
		_, err := n.stores[1].Sessions().Lookup(n.Context(), "x")
		return err != nil
	})
	// Each node sees that another has died, and that a Will is due.
	brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("dying"), brokertest.Will("will", "w", 1, false))
	expect("dying", "session.created", "client.connected", "client.disconnected")
	expect("will", "will.published", "message.published")
	dead := node(0)
	expect(dead, "node.down")
	n.expel(dead)
	eventually(n.T, "the node is ready again", func() bool {
		return n.servers[0].Broker.Ready() == nil && node(0) != dead
	})
	for i := range n.servers {
		if i == 0 {
			expect(node(i), "node.up")
		}
		expect(node(i), "node.down")
	}
	for i := range n.servers {
		mustClose(n.T, n.servers[i])
	}
	for _, id := range []string{"c", "plain"} {
		expect(id, "client.disconnected", "session.terminated")
	}
	expect("pub", "client.disconnected")
	taken, err := n.stores[0].Outbox().Take(n.Context(), endpoint, "test", 1000, 0)
	if err != nil {
		n.Fatal(err)
	}
	var got []string
	for _, e := range taken {
		got = append(got, string(e.Data))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		n.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
