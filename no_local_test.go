package loopmq_test

import (
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

func noLocal(p *codec.Subscribe) {
	for i := range p.Subscriptions {
		p.Subscriptions[i].Options.NoLocal = true
	}
}

// A bridge gets nothing back, but for what it gets as a member of a group; others get what it publishes.
func TestBridgeGetsNothingBack(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	bridge := brokertest.Connect(t, s.Addr, codec.V311, func(p *codec.Connect) { p.Bridge = true })
	other := brokertest.Connect(t, s.Addr, codec.V5)
	bridge.Subscribe("t/#", 1)
	other.Subscribe("t/#", 1)
	for qos := range byte(3) {
		bridge.Publish("t/1", "out", qos, brokertest.Retained)
		other.Acknowledge(other.ExpectPublish("t/1", "out"))
	}
	bridge.Subscribe("t/1", 1) // not as a retained message either
	other.Publish("t/1", "in", 1, brokertest.Retained)
	if p := bridge.ExpectPublish("t/1", "in"); !p.Retain {
		t.Error("a bridge didn't get RETAIN as it was published")
	} else {
		bridge.Acknowledge(p)
	}
	other.Acknowledge(other.ExpectPublish("t/1", "in"))
	bridge.ExpectNothingFrom(other, 1)
	bridge.Subscribe("$share/g/s", 0)
	bridge.Publish("s", "shared", 0)
	bridge.ExpectPublish("s", "shared")
}

// No Local holds for whatever counts as published under the ClientID: a Will, and what the program publishes for a client [MQTT-3.8.3-3].
func TestNoLocalWithoutPacket(t *testing.T) {
	t.Parallel()
	s, clock := startWithClock(t)
	other := brokertest.Connect(t, s.Addr, codec.V5)
	other.Subscribe("#", 1, noLocal)
	will := brokertest.Will("will", "w", 1, false, codec.PropWillDelayInterval, 5)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), will)
	c.Subscribe("#", 1, noLocal)
	for _, publisher := range []string{"c", "nobody", ""} {
		m := loopmq.Message{TopicName: "t", Payload: []byte("from " + publisher), QoS: 1, PublisherID: publisher}
		if _, err := s.Broker.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		other.Acknowledge(other.ExpectPublish("t", "from "+publisher))
		if publisher != "c" {
			c.Acknowledge(c.ExpectPublish("t", "from "+publisher))
		}
	}
	c.Close() // without DISCONNECT
	expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
	clock.advance(20e9)
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("wake")).Disconnect() // the scheduler looks at the clock
	other.Acknowledge(other.ExpectPublish("will", "w"))
	c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.ExpectNothingFrom(other, 1)
}

// Retained messages of its own are not sent to a subscription with No Local, those of others are.
func TestNoLocalOfRetained(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c, other := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
	c.Publish("t/own", "1", 1, brokertest.Retained)
	other.Publish("t/other", "2", 1, brokertest.Retained)
	c.Subscribe("t/+", 0, noLocal)
	c.ExpectPublish("t/other", "2")
	c.ExpectNothing()
	c.Subscribe("t/own", 0)
	c.ExpectPublish("t/own", "1")
}
