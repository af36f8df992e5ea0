package loopmq_test

import (
	"log/slog"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/redisstore"
)

// awayNodes are two brokers on a Redis that the test can take away.
func awayNodes(t *testing.T, change func(*loopmq.Options)) (*redistest.Server, []*brokertest.Server) {
	server := redistest.Start(t)
	var servers []*brokertest.Server
	for range 2 {
		st, err := redisstore.NewStore(t.Context(), server.URL()+"?lease=3s&timeout=1s", redisstore.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = st.Close() })
		servers = append(servers, brokertest.Start(t, func(o *loopmq.Options) {
			o.Store = st
			change(o)
		}))
	}
	return server, servers
}

func TestStoreAwayFailsClosed(t *testing.T) {
	t.Parallel()
	server, servers := awayNodes(t, func(*loopmq.Options) {})
	sub := brokertest.Connect(t, servers[0].Addr, codec.V5)
	sub.Subscribe("t", 1)
	pub := brokertest.Connect(t, servers[0].Addr, codec.V5)
	pub.Publish("t", "before", 1)
	sub.Acknowledge(sub.ExpectPublish("t", "before"))
	server.Kill()
	pub.Publish("t", "QoS 0", 0) // goes on
	sub.ExpectPublish("t", "QoS 0")
	pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("refused"), QoS: 1, PacketID: 99})
	sub.Acknowledge(sub.ExpectPublish("t", "refused")) // who is here has it: at least once
	pub.ExpectAck(codec.TypePuback, 99, codec.QuotaExceeded)
	refused := brokertest.Dial(t, servers[0].Addr, codec.V5)
	refused.SendConnect()
	refused.ExpectConnack(codec.ServerUnavailable)
	if h := servers[0].Broker.Health(); h.Status != "degraded" || h.Reason == "" {
		t.Errorf("health: got %+v, want degraded with a reason", h)
	}
	server.Restart()
	eventually(t, "the store is back", func() bool {
		pub.Send(&codec.Publish{TopicName: []byte("other"), QoS: 1, PacketID: 100})
		return brokertest.Expect[*codec.Ack](pub).ReasonCode < 0x80
	})
	brokertest.Connect(t, servers[0].Addr, codec.V5, brokertest.Durable("c"))
}

func TestStoreAwayServesWithoutIt(t *testing.T) {
	t.Parallel()
	server, servers := awayNodes(t, func(o *loopmq.Options) { o.ServeWithoutStore = true })
	sub := brokertest.Connect(t, servers[0].Addr, codec.V5)
	sub.Subscribe("t", 1)
	far := brokertest.Connect(t, servers[1].Addr, codec.V5)
	far.Subscribe("t", 1)
	pub := brokertest.Connect(t, servers[0].Addr, codec.V5)
	pub.Publish("t", "before", 1)
	for _, c := range []*brokertest.Client{sub, far} {
		c.Acknowledge(c.ExpectPublish("t", "before"))
	}
	server.Kill()
	eventually(t, "the node has noticed", func() bool {
		pub.Send(&codec.Publish{TopicName: []byte("notice"), QoS: 1, PacketID: 99})
		return brokertest.Expect[*codec.Ack](pub).ReasonCode < 0x80 && servers[0].Broker.Health().Status == "degraded"
	})
	pub.Publish("t", "meanwhile", 1)
	sub.Acknowledge(sub.ExpectPublish("t", "meanwhile"))
	unclaimed := brokertest.Connect(t, servers[0].Addr, codec.V5)
	unclaimed.Subscribe("t", 2)
	pub.Publish("t", "to a new one", 2)
	for _, c := range []*brokertest.Client{sub, unclaimed} {
		c.Acknowledge(c.ExpectPublish("t", "to a new one"))
	}
	refused := brokertest.Dial(t, servers[0].Addr, codec.V5)
	refused.SendConnect(brokertest.Durable("durable"))
	refused.ExpectConnack(codec.ServerUnavailable)

	server.Restart()
	unclaimed.SetTimeout(2 * brokertest.Timeout)
	unclaimed.ExpectDisconnect(codec.ServerBusy)
	eventually(t, "messages go from node to node again", func() bool {
		return servers[0].Broker.Health().Status == "ok" && servers[1].Broker.Health().Status == "ok"
	})
	pub.Publish("t", "after", 1)
	for _, c := range []*brokertest.Client{sub, far} {
		c.Acknowledge(c.ExpectPublish("t", "after"))
	}
}

// With AcknowledgeEarly a PUBACK doesn't wait for the store.
func TestAcknowledgeEarly(t *testing.T) {
	t.Parallel()
	server, servers := awayNodes(t, func(o *loopmq.Options) { o.AcknowledgeEarly = true })
	sub := brokertest.Connect(t, servers[0].Addr, codec.V5, brokertest.Durable("sub"))
	sub.Subscribe("t", 2)
	pub := brokertest.Connect(t, servers[0].Addr, codec.V5, brokertest.Durable("pub"))
	server.Stop()
	for i, qos := range []byte{1, 2} {
		id := uint16(i + 1)
		pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte{'0' + qos}, QoS: qos, PacketID: id})
		ack := codec.TypePuback
		if qos == 2 {
			ack = codec.TypePubrec
		}
		pub.ExpectAck(ack, id, codec.Success)
	}
	server.Cont()
	for _, payload := range []string{"1", "2"} {
		sub.Acknowledge(sub.ExpectPublish("t", payload))
	}
}
