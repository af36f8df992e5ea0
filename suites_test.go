package loopmq_test

import (
	"strings"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// What external suites found, as tests of our own.

// A client that subscribes to what it publishes at QoS 2 gets the PUBREC before the message, whatever has to be stored first.
func TestPubrecGoesBeforeTheMessage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options []brokertest.ConnectOption
		retain  bool
	}{
		"in memory":    {},
		"retained":     {retain: true},
		"durable":      {options: []brokertest.ConnectOption{brokertest.Durable("c")}},
		"durable, too": {options: []brokertest.ConnectOption{brokertest.Durable("c")}, retain: true},
	} {
		for qos := range byte(3) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := brokertest.Start(t)
				for _, version := range []codec.Version{codec.V31, codec.V311, codec.V5} {
					c := brokertest.Connect(t, s.Addr, version, test.options...)
					c.Subscribe("t/"+version.String(), qos)
					for id := uint16(1); id <= 20; id++ {
						c.Send(&codec.Publish{TopicName: []byte("t/" + version.String()), Payload: []byte("m"), QoS: 2, PacketID: id, Retain: test.retain})
						first := c.Receive()
						if a, ok := first.(*codec.Ack); !ok || a.Type != codec.TypePubrec || a.PacketID != id {
							t.Fatalf("%s QoS %d: got %s first, want PUBREC", version, qos, brokertest.Describe(first))
						}
						c.Acknowledge(c.ExpectPublish("t/"+version.String(), "m"))
						c.Send(&codec.Ack{Type: codec.TypePubrel, PacketID: id})
						c.ExpectAck(codec.TypePubcomp, id, codec.Success)
					}
					c.Disconnect()
				}
			})
		}
	}
}

// PUBACK says when nobody subscribes, PUBREC never; a subscription with No Local is one.
func TestNoMatchingSubscribers(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Subscribe("local", 1, func(p *codec.Subscribe) { p.Subscriptions[0].Options.NoLocal = true })
	for i, test := range []struct {
		topic string
		qos   byte
		want  codec.ReasonCode
	}{
		{"nobody", 1, codec.NoMatchingSubscribers},
		{"nobody", 2, codec.Success},
		{"local", 1, codec.Success},
		{"local", 2, codec.Success},
	} {
		id, ackType := uint16(i+1), codec.TypePuback
		if test.qos == 2 {
			ackType = codec.TypePubrec
		}
		c.Send(&codec.Publish{TopicName: []byte(test.topic), QoS: test.qos, PacketID: id})
		c.ExpectAck(ackType, id, test.want)
	}
	c.ExpectNothing()
}

// Clients may not publish what the broker says about itself, nor what nobody can subscribe to, nor have it as a Will. The state of a bridge is
// the bridge's to say.
func TestReservedTopics(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	for topic, want := range map[string]codec.ReasonCode{
		"$SYS/broker/uptime":              codec.NotAuthorized,
		"$SYS/broker/connection/b":        codec.NotAuthorized,
		"$SYS/broker/connection/b/status": codec.NotAuthorized,
		"$SYS/broker/connection/b/state":  codec.Success,
		"$share/group/topic":              codec.NotAuthorized,
		"$other/topic":                    codec.Success,
	} {
		c := brokertest.Connect(t, s.Addr, codec.V5)
		c.Send(&codec.Publish{TopicName: []byte(topic), QoS: 2, PacketID: 1})
		c.ExpectAck(codec.TypePubrec, 1, want)
		old := brokertest.Connect(t, s.Addr, codec.V311)
		old.Send(&codec.Publish{TopicName: []byte(topic), QoS: 1, PacketID: 1}) // 3.1.1 can't refuse it
		old.ExpectAck(codec.TypePuback, 1, codec.Success)
		will := brokertest.Dial(t, s.Addr, codec.V5)
		will.SendConnect(brokertest.Will(topic, "payload", 0, false))
		will.ExpectConnack(want)
	}
}

// A Topic Name or Topic Filter with too many levels ends the connection.
func TestTopicLevels(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	most, tooMany := strings.Repeat("/", 200), strings.Repeat("/", 201)
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Subscribe(most, 0)
	c.Publish(most, "payload", 0)
	c.ExpectPublish(most, "payload")
	c.Send(&codec.Publish{TopicName: []byte(tooMany), QoS: 1, PacketID: 1})
	c.ExpectDisconnect(codec.MalformedPacket)
	c = brokertest.Connect(t, s.Addr, codec.V5)
	c.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription(tooMany, 0)}})
	c.ExpectDisconnect(codec.MalformedPacket)
	c = brokertest.Connect(t, s.Addr, codec.V311)
	c.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription(tooMany, 0)}})
	c.ExpectClosed()
}

// A client that leaves with a DISCONNECT and comes back at once, before the broker has read that, keeps its Will back.
func TestTakeoverReadsDisconnectFirst(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops = 2 })
	watch := brokertest.Connect(t, s.Addr, codec.V5)
	watch.Subscribe("will", 1)
	id := brokertest.Name()
	for range 300 {
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(id), brokertest.Will("will", "gone", 1, false))
		next := brokertest.Dial(t, s.Addr, codec.V5)
		c.Send(&codec.Disconnect{})
		next.SendConnect(brokertest.ClientID(id))
		next.ExpectConnack(codec.Success)
		next.Disconnect()
		c.ExpectClosed()
	}
	watch.ExpectNothingFrom(brokertest.Connect(t, s.Addr, codec.V5), 1)
}

// A client whose Maximum Packet Size is below that of any CONNACK gets none [MQTT-3.1.2-24].
func TestMaximumPacketSizeBelowConnack(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropMaximumPacketSize, 4))
	c.ExpectClosed()
	c = brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropMaximumPacketSize, 5))
	if p := c.ExpectConnack(codec.Success); p.Size(codec.V5) != 5 {
		t.Errorf("got %s", brokertest.Describe(p))
	}
}

// A message that is too large for a client has had its Packet Identifier, so that what a client acknowledges is never mistaken for it.
func TestDroppedMessageKeepsItsPacketID(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	pub := brokertest.Connect(t, s.Addr, codec.V311)
	for qos := byte(1); qos <= 2; qos++ {
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.With(codec.PropMaximumPacketSize, 17))
		c.Subscribe("t", qos)
		for id, payload := range []string{"fits", "is too large", "is too large, too", "also fits"} {
			pub.Publish("t", payload, 2)
			if len(payload) > 9 {
				continue
			}
			p := c.ExpectPublish("t", payload)
			if p.PacketID != uint16(id+1) {
				t.Errorf("got %s, want id %d", brokertest.Describe(p), id+1)
			}
			c.Acknowledge(p)
		}
		c.Disconnect()
	}
}

// A SUBACK or UNSUBACK that the client doesn't take ends the connection, since without it the client would wait for ever [MQTT-3.1.2-24].
func TestAnswerAboveMaximumPacketSize(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	connect := func() *brokertest.Client {
		return brokertest.Connect(t, s.Addr, codec.V5, brokertest.With(codec.PropMaximumPacketSize, 8))
	}
	subscribe := &codec.Subscribe{PacketID: 1}
	unsubscribe := &codec.Unsubscribe{PacketID: 1}
	for range 3 {
		subscribe.Subscriptions = append(subscribe.Subscriptions, brokertest.Subscription("t", 0))
		unsubscribe.TopicFilters = append(unsubscribe.TopicFilters, []byte("t"))
	}
	c := connect()
	c.Send(subscribe)
	c.ExpectSuback(1, 0, 0, 0)
	c.Send(unsubscribe)
	c.ExpectUnsuback(1, codec.Success, codec.NoSubscriptionExisted, codec.NoSubscriptionExisted)
	subscribe.Subscriptions = append(subscribe.Subscriptions, brokertest.Subscription("t", 0))
	unsubscribe.TopicFilters = append(unsubscribe.TopicFilters, []byte("t"))
	c.Send(subscribe)
	c.ExpectDisconnect(codec.PacketTooLarge)
	c = connect()
	c.Send(unsubscribe)
	c.ExpectDisconnect(codec.PacketTooLarge)
}

// The Payload Format Indicator counts wherever it stands, and the properties of a message are passed on in the order they came in.
func TestPropertiesInTheirOrder(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.CheckPayloadFormat = true })
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Subscribe("t", 1)
	publish := func(id byte, payload string) []byte {
		properties := "\x26\x00\x01k\x00\x01v" + "\x02\x00\x00\x00\x3C" + "\x08\x00\x01r" + "\x01\x01" + "\x03\x00\x01c"
		b := append([]byte{0x32, byte(3 + 2 + 1 + len(properties) + len(payload)), 0, 1, 't', 0, id, byte(len(properties))}, properties...)
		return append(b, payload...)
	}
	c.SendRaw(publish(1, "\xff"))
	c.ExpectAck(codec.TypePuback, 1, codec.PayloadFormatInvalid)
	c.SendRaw(publish(2, "payload"))
	got := string(c.ReceiveRaw())
	at := -1
	for _, property := range []string{"\x26\x00\x01k\x00\x01v", "\x08\x00\x01r", "\x01\x01\x03\x00\x01c"} {
		i := strings.Index(got, property)
		if i <= at {
			t.Errorf("got % X, want % X in it after byte %d", got, property, at)
		}
		at = i
	}
	c.ExpectAck(codec.TypePuback, 2, codec.Success)
}

// A message at QoS 2 that is sent again without DUP is forgiven once, with DUP or under the Packet Identifier of another message always.
func TestMessageSentAgainWithoutDup(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	for _, version := range []codec.Version{codec.V31, codec.V311, codec.V5} {
		c := brokertest.Connect(t, s.Addr, version)
		publish := func(payload string, dup bool) {
			c.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte(payload), QoS: 2, PacketID: 7, Dup: dup})
		}
		for range 2 { // PUBREL frees the Packet Identifier
			for i, payload := range []string{"a", "a", "b", "a", "b", "b"} {
				publish(payload, i == 5)
				c.ExpectAck(codec.TypePubrec, 7, codec.Success)
			}
			c.Send(&codec.Ack{Type: codec.TypePubrel, PacketID: 7})
			c.ExpectAck(codec.TypePubcomp, 7, codec.Success)
		}
		for range 2 {
			publish("b", false)
			c.ExpectAck(codec.TypePubrec, 7, codec.Success)
		}
		publish("b", false)
		if version == codec.V5 {
			c.ExpectDisconnect(codec.ProtocolError)
		}
		c.ExpectClosed()
	}
}
