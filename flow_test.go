package loopmq_test

import (
	"fmt"
	"strings"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// A 5.0 client may have as many messages at QoS 1 and 2 unacknowledged as the broker said, however long the store takes; one more ends the
// connection [MQTT-3.3.4-9]. A 3.x client isn't read beyond that, and loses nothing.
func TestReceiveMaximumOfTheBroker(t *testing.T) {
	t.Parallel()
	const maximum = 10
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			t.Parallel()
			s, f := startWithFaults(t, func(o *loopmq.Options) { o.Limits.ReceiveMaximum = maximum })
			sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
			sub.Subscribe("t", qos)
			ack := map[byte]codec.PacketType{1: codec.TypePuback, 2: codec.TypePubrec}[qos]
			send := func(c *brokertest.Client, n int) {
				for i := range n {
					c.Send(&codec.Publish{TopicName: []byte("t"), QoS: qos, PacketID: uint16(i + 1)})
				}
			}
			pub := brokertest.Dial(t, s.Addr, codec.V5)
			if p := pub.Connect(); p.Properties.ReceiveMaximum != maximum { // [MQTT-3.2.2-?]
				t.Errorf("CONNACK says Receive Maximum %d", p.Properties.ReceiveMaximum)
			}
			greedy, old := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V311)
			release := f.hold()
			defer release()
			send(pub, maximum)
			send(greedy, maximum+1)
			send(old, 2*maximum)
			greedy.ExpectDisconnect(codec.ReceiveMaximumExceeded)
			release()
			for i := range maximum {
				pub.ExpectAck(ack, uint16(i+1), 0)
			}
			for i := range 2 * maximum {
				old.ExpectAck(ack, uint16(i+1), 0)
			}
			old.Ping()
			if qos == 2 { // they count until PUBREL
				pub.Send(&codec.Publish{TopicName: []byte("t"), QoS: qos, PacketID: 99})
				pub.ExpectDisconnect(codec.ReceiveMaximumExceeded)
			}
		})
	}
}

// The broker keeps to the Receive Maximum of a client [MQTT-3.3.4-9], durable or not, and sends on with each acknowledgement. QoS 0 isn't
// held up [MQTT-3.3.4-9].
func TestReceiveMaximumOfTheClient(t *testing.T) {
	t.Parallel()
	for name, option := range members {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			c := brokertest.Connect(t, s.Addr, codec.V5, option, brokertest.With(codec.PropReceiveMaximum, 3))
			c.Subscribe("t", 2)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			const n = 30
			for i := range n {
				pub.Publish("t", fmt.Sprint(i), byte(1+i%2))
			}
			pub.Publish("t", "QoS 0", 0)
			var inFlight []*codec.Publish
			for i := range 3 {
				inFlight = append(inFlight, c.ExpectPublish("t", fmt.Sprint(i)))
			}
			c.ExpectPublish("t", "QoS 0")
			c.ExpectNothing()
			for i := 3; i < n; i++ {
				c.Acknowledge(inFlight[0])
				inFlight = append(inFlight[1:], c.ExpectPublish("t", fmt.Sprint(i)))
				if i%10 == 0 {
					c.ExpectNothing()
				}
			}
			expectMetric(t, s.Broker, "loopmq_inflight_messages", 3)
			for _, p := range inFlight {
				c.Acknowledge(p)
			}
			c.ExpectNothing()
			expectMetric(t, s.Broker, "loopmq_inflight_messages", 0)
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
}

// What exceeds a client's Maximum Packet Size is not sent to it, counts as delivered for its queue, and holds up nothing [MQTT-3.1.2-25].
func TestMaximumPacketSizeOfTheClient(t *testing.T) {
	t.Parallel()
	for name, option := range members {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			c := brokertest.Connect(t, s.Addr, codec.V5, option, brokertest.With(codec.PropMaximumPacketSize, 100, codec.PropReceiveMaximum, 1))
			c.Subscribe("t", 2)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			large := strings.Repeat("x", 100)
			for qos := range byte(3) {
				pub.Publish("t", large, qos)
				pub.Publish("t", "small", qos)
			}
			for range 3 {
				c.Acknowledge(c.ExpectPublish("t", "small"))
			}
			c.ExpectNothing()
			expectCountersAddUp(t, s.Broker, [3]float64{})
			for qos := range byte(3) {
				if n := countersOf(t, s.Broker, qos); n.dropped["packet_too_large"]+n.queueDropped["packet_too_large"] != 1 {
					t.Errorf("QoS %d: %v, want one packet_too_large", qos, n)
				}
			}
		})
	}
}

// The largest packet that the broker takes is the one that it said [MQTT-3.2.2-15].
func TestMaximumPacketSizeOfTheBroker(t *testing.T) {
	t.Parallel()
	const size = 1000
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.PacketSize = size })
	c := brokertest.Dial(t, s.Addr, codec.V5)
	if p := c.Connect(); p.Properties.MaximumPacketSize != size {
		t.Errorf("CONNACK says Maximum Packet Size %d", p.Properties.MaximumPacketSize)
	}
	c.Subscribe("t", 0)
	p := codec.Publish{TopicName: []byte("t")}
	p.Payload = make([]byte, size-p.Size(codec.V5)-1) // the Remaining Length takes a byte more
	if n := p.Size(codec.V5); n != size {
		t.Fatalf("the packet has %d bytes", n)
	}
	c.Send(&p)
	c.ExpectPublish("t", string(p.Payload))
	p.Payload = append(p.Payload, 0)
	c.Send(&p)
	c.ExpectDisconnect(codec.PacketTooLarge)
}

// Topic Aliases of a client stand for the topic that they were set to last, up to the maximum that it was told; they belong to the
// connection [MQTT-3.3.2-7 to -12].
func TestTopicAliasOfTheClient(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.TopicAliasMaximum = 2 })
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("#", 2)
	aliased := func(topic string, alias int, qos byte) *codec.Publish {
		return &codec.Publish{TopicName: []byte(topic), QoS: qos, PacketID: uint16(qos), Properties: brokertest.Properties(codec.PropTopicAlias, alias)}
	}
	c := brokertest.Dial(t, s.Addr, codec.V5)
	if p := c.Connect(brokertest.Durable("c")); p.Properties.TopicAliasMaximum != 2 {
		t.Errorf("CONNACK says Topic Alias Maximum %d", p.Properties.TopicAliasMaximum)
	}
	c.Send(aliased("a", 1, 0), aliased("b", 2, 0), aliased("", 1, 0), aliased("", 2, 0), aliased("c", 1, 0), aliased("", 1, 0), aliased("", 2, 0))
	for _, topic := range []string{"a", "b", "a", "b", "c", "c", "b"} {
		if p := sub.ExpectPublish(topic, ""); p.Properties.Has(codec.PropTopicAlias) { // the sub allows none
			t.Errorf("got Topic Alias %d", p.Properties.TopicAlias)
		}
	}
	c.Send(aliased("x", 3, 0))
	c.ExpectDisconnect(codec.TopicAliasInvalid)
	c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.Send(aliased("", 1, 0))
	c.ExpectDisconnect(codec.ProtocolError)
}

// The broker uses Topic Aliases towards a client up to the maximum that the client allows [MQTT-3.1.2-26], and sets each with the topic.
func TestTopicAliasOfTheBroker(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.With(codec.PropTopicAliasMaximum, 2))
	c.Subscribe("#", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	aliases := make(map[uint16]string)
	saved := 0
	for i := range 30 {
		want := fmt.Sprintf("some/topic/%d", i%3)
		pub.Publish(want, "", byte(i%2))
		p := brokertest.Expect[*codec.Publish](c)
		c.Acknowledge(p)
		topic := string(p.TopicName)
		if p.Properties.Has(codec.PropTopicAlias) {
			alias := p.Properties.TopicAlias
			if alias == 0 || alias > 2 {
				t.Fatalf("Topic Alias %d", alias)
			}
			if topic == "" {
				topic = aliases[alias]
				saved++
			}
			aliases[alias] = topic
		}
		if topic != want {
			t.Fatalf("got %s, want topic %s", brokertest.Describe(p), want)
		}
	}
	if saved != 18 {
		t.Errorf("%d of 30 topics were left out, want 18", saved)
	}
}
