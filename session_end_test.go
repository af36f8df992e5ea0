package loopmq_test

import (
	"fmt"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// What waits for a session when it ends counts as dropped, however it ends; what was sent, acknowledged or not, was delivered.
func TestQueueOfSessionThatEndsCounts(t *testing.T) {
	t.Parallel()
	window := brokertest.With(codec.PropReceiveMaximum, 2, codec.PropSessionExpiryInterval, 10)
	for name, end := range map[string]func(s *brokertest.Server, c *brokertest.Client, clock *clock){
		"DISCONNECT": func(_ *brokertest.Server, c *brokertest.Client, _ *clock) {
			c.Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 0)})
		},
		"takeover with Clean Start": func(s *brokertest.Server, _ *brokertest.Client, _ *clock) {
			brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("c"))
		},
		"Clean Start later": func(s *brokertest.Server, c *brokertest.Client, _ *clock) {
			c.Close()
			expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
			brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("c"))
		},
		"expiry": func(s *brokertest.Server, c *brokertest.Client, clock *clock) {
			c.Close()
			expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
			clock.advance(20 * time.Second)
			brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("wake")).Close()
		},
		"resumed by a client whose session ends with it": func(s *brokertest.Server, c *brokertest.Client, _ *clock) {
			brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("c"), brokertest.Resume,
				brokertest.With(codec.PropReceiveMaximum, 1)).Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clock := startWithClock(t, func(o *loopmq.Options) {
				o.Limits.QueueMessages, o.Limits.QueuePolicy, o.Limits.Inflight = 6, store.DropOldest, 2
			})
			c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("c"), brokertest.Resume, window)
			c.Subscribe("t", 2)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			for i := range 10 { // at QoS 1 and 2 by turns: two are sent, the four last wait
				pub.Publish("t", fmt.Sprint(i), byte(1+i%2))
			}
			c.ExpectPublish("t", "0")
			c.ExpectPublish("t", "1")
			expectCountersAddUp(t, s.Broker, [3]float64{1: 2, 2: 2})
			end(s, c, clock)
			expectCountersAddUp(t, s.Broker, [3]float64{})
			for qos := byte(1); qos <= 2; qos++ {
				n := countersOf(t, s.Broker, qos)
				if n.queueDropped["queue_full"] != 2 || n.queueDropped["session_gone"] != 2 {
					t.Errorf("QoS %d: %v", qos, n)
				}
			}
		})
	}
}

// What the store held when the broker started is among what is queued.
func TestQueuedMessagesAfterRestart(t *testing.T) {
	t.Parallel()
	st := newMemory(t)
	first, err := brokertest.Run(func(o *loopmq.Options) { o.Store = st })
	if err != nil {
		t.Fatal(err)
	}
	c := brokertest.Connect(t, first.Addr, codec.V5, brokertest.Durable("c"))
	c.Subscribe("t", 1)
	c.Subscribe("$share/g/s", 1)
	c.Disconnect()
	expectMetric(t, first.Broker, "loopmq_clients_connected", 0)
	publishTo(t, first, "t", 3)
	publishTo(t, first, "s", 2)
	expectMetric(t, first.Broker, "loopmq_queued_messages", 5)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = st })
	expectMetric(t, s.Broker, "loopmq_queued_messages", 5)
	publishTo(t, s, "t", 1)
	expectMetric(t, s.Broker, "loopmq_queued_messages", 6)
	c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	for range 6 {
		c.Acknowledge(brokertest.Expect[*codec.Publish](c))
	}
	expectMetric(t, s.Broker, "loopmq_queued_messages", 0)
}

// A QoS 2 message whose commit went unanswered, and which the client then sends again, reaches every durable session once.
func TestUnansweredQoS2(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t)
	live, kept := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("kept"))
	live.Subscribe("t", 2)
	kept.Subscribe("t", 2)
	pub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("pub"))
	f.loseAnswers(func(b *store.Batch) bool { return b.Ops[0].PacketID != 0 })
	pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("m"), QoS: 2, PacketID: 1})
	pub.ExpectDisconnect(codec.ServerBusy) // a PUBREC would free the Packet Identifier, for a message that the store then took for this one
	f.loseAnswers(nil)
	pub = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("pub"))
	pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("m"), QoS: 2, PacketID: 1, Dup: true})
	pub.ExpectAck(codec.TypePubrec, 1, codec.Success)
	pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("next"), QoS: 2, PacketID: 2})
	pub.ExpectAck(codec.TypePubrec, 2, codec.Success)
	live.Acknowledge(live.ExpectPublish("t", "next"))
	kept.Acknowledge(kept.ExpectPublish("t", "m"))
	kept.Acknowledge(kept.ExpectPublish("t", "next"))
}
