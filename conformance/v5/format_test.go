package v5

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Sections 1.5 and 2: data representation and the structure of packets.

// [MQTT-1.5.4-1] A string that isn't UTF-8 makes a packet malformed.
func TestMQTT_1_5_4_1_IllFormedUTF8IsMalformed(t *testing.T) {
	t.Parallel()
	for name, s := range badStrings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t)
			c.Send(publish(s, "payload", 0, 0))
			disconnected(t, c, codec.MalformedPacket)
		})
	}
}

// [MQTT-1.5.4-2] U+0000 in a string makes a packet malformed.
func TestMQTT_1_5_4_2_NullCharacterIsMalformed(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.Send(publish("a\x00b", "payload", 0, 0))
	disconnected(t, c, codec.MalformedPacket)
}

// [MQTT-1.5.4-3] U+FEFF stays where it is, and a Topic Name with it isn't the one without it.
func TestMQTT_1_5_4_3_ByteOrderMarkIsKept(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	marked := "\uFEFF" + topic + "\uFEFF"
	c.Subscribe(topic, 0)
	c.Subscribe(marked, 0)
	c.Publish(marked, "marked", 0, properties(codec.PropUserProperty, [2]string{"\uFEFFk", "v\uFEFF"}))
	p := c.ExpectPublish(marked, "marked")
	if u := p.Properties.UserProperties; len(u) != 1 || string(u[0].Key) != "\uFEFFk" || string(u[0].Value) != "v\uFEFF" {
		t.Errorf("got user properties %q", u)
	}
	c.ExpectNothing()
}

// [MQTT-1.5.5-1] A Variable Byte Integer with more bytes than it needs is malformed, and the broker sends none.
func TestMQTT_1_5_5_1_VariableByteIntegerIsShortest(t *testing.T) {
	t.Parallel()
	remaining := connect(t)
	remaining.SendRaw([]byte{0xC0, 0x80, 0x00})
	disconnected(t, remaining, codec.MalformedPacket)

	property := connect(t)
	property.SendRaw(packet(0x30, str("a"), []byte{0x80, 0x00}))
	disconnected(t, property, codec.MalformedPacket)

	identifier := connect(t)
	identifier.SendRaw(packet(0x82, []byte{0, 1, 3, 0x0B, 0x81, 0x00}, str("a"), []byte{0}))
	disconnected(t, identifier, codec.MalformedPacket)

	// The client's decoder refuses what is longer than needed: here are lengths on both sides of each border.
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 0)
	header := 2 + len(topic) + 1
	for _, n := range []int{127, 128, 16383, 16384, 2097151, 2097152} {
		payload := strings.Repeat("x", n-header)
		c.Publish(topic, payload, 0)
		c.ExpectPublish(topic, payload)
	}
}

// [MQTT-1.5.7-1] Key and value of a User Property are strings with the rules for strings.
func TestMQTT_1_5_7_1_StringPairsAreUTF8(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"k\xFF", "v"}, {"k", "v\xFF"}, {"k\x00", "v"}, {"k", "v\x00"}} {
		c := connect(t)
		c.Send(publish("a", "payload", 0, 0, codec.PropUserProperty, pair))
		disconnected(t, c, codec.MalformedPacket)
	}
}

// [MQTT-2.1.3-1] Reserved flags that aren't as listed make a packet malformed.
func TestMQTT_2_1_3_1_ReservedFlagsAreChecked(t *testing.T) {
	t.Parallel()
	packets := map[string]brokertest.Packet{
		"PUBACK":      ack(codec.TypePuback, 1, 0),
		"PUBREC":      ack(codec.TypePubrec, 1, 0),
		"PUBREL":      ack(codec.TypePubrel, 1, 0),
		"PUBCOMP":     ack(codec.TypePubcomp, 1, 0),
		"SUBSCRIBE":   subscribe(1, brokertest.Subscription("a", 0)),
		"UNSUBSCRIBE": &codec.Unsubscribe{PacketID: 1, TopicFilters: [][]byte{[]byte("a")}},
		"PINGREQ":     brokertest.Pingreq{},
		"DISCONNECT":  &codec.Disconnect{},
	}
	for name, p := range packets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			valid := p.Append(nil, codec.V5)
			for flags := range byte(16) {
				if flags == valid[0]&0x0F {
					continue
				}
				c := connect(t)
				raw := slices.Clone(valid)
				raw[0] = raw[0]&0xF0 | flags
				c.SendRaw(raw)
				disconnected(t, c, codec.MalformedPacket, codec.ProtocolError)
			}
		})
	}
}

// [MQTT-2.2.1-2] A PUBLISH with QoS 0 has no Packet Identifier: what follows the Topic Name are its properties.
func TestMQTT_2_2_1_2_QoS0HasNoPacketIdentifier(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 1)
	c.SendRaw(packet(0x30, str(topic), []byte{0}, []byte("payload")))
	got := c.ReceiveRaw()
	if want := packet(0x30, str(topic), []byte{0}, []byte("payload")); !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
}

// [MQTT-2.2.1-3] Packet Identifier 0 in SUBSCRIBE, UNSUBSCRIBE or a PUBLISH with QoS > 0 is an error.
func TestMQTT_2_2_1_3_PacketIdentifierZeroIsRefused(t *testing.T) {
	t.Parallel()
	for _, p := range []brokertest.Packet{
		publish("a", "payload", 1, 0),
		publish("a", "payload", 2, 0),
		subscribe(0, brokertest.Subscription("a", 0)),
		&codec.Unsubscribe{TopicFilters: [][]byte{[]byte("a")}},
	} {
		c := connect(t)
		c.Send(p)
		disconnected(t, c, codec.ProtocolError, codec.MalformedPacket)
	}
}

// [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1] The Packet Identifiers of unacknowledged messages are not 0 and differ; one that is free
// may come again.
func TestMQTT_2_2_1_4_PacketIdentifiersOfTheServerAreUnused(t *testing.T) {
	t.Parallel()
	for _, qos := range []byte{1, 2} {
		pub, sub, topic := connect(t), connect(t), brokertest.Name()
		sub.Subscribe(topic, 2)
		used := map[uint16]bool{}
		for i := range 300 {
			pub.Publish(topic, "payload", qos)
			p := sub.ExpectPublish(topic, "payload")
			if p.PacketID == 0 || used[p.PacketID] {
				t.Fatalf("QoS %d: packet identifier %d is 0 or in use", qos, p.PacketID)
			}
			if used[p.PacketID] = true; i%3 == 0 {
				sub.Acknowledge(p)
				delete(used, p.PacketID)
			}
		}
	}
}

// [MQTT-2.2.1-5] Acknowledgements have the Packet Identifier of the PUBLISH.
func TestMQTT_2_2_1_5_AcknowledgementsRepeatThePacketIdentifier(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 2)
	for _, id := range []uint16{1, 258, 65535} {
		for qos := byte(1); qos <= 2; qos++ {
			c.Publish(topic, "payload", qos, func(p *codec.Publish) { p.PacketID = id })
			p := c.ExpectPublish(topic, "payload")
			if qos == 1 {
				c.Acknowledge(p)
				continue
			}
			c.Send(ack(codec.TypePubrec, p.PacketID, 0))
			c.ExpectAck(codec.TypePubrel, p.PacketID, 0)
			c.Send(ack(codec.TypePubcomp, p.PacketID, 0))
		}
	}
}

// [MQTT-2.2.1-6] [MQTT-3.8.4-2] [MQTT-3.10.4-5] SUBACK and UNSUBACK have the Packet Identifier of their request.
func TestMQTT_2_2_1_6_SubackAndUnsubackRepeatThePacketIdentifier(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for _, id := range []uint16{1, 258, 65535} {
		c.Send(subscribe(id, brokertest.Subscription(topic, 0)))
		c.ExpectSuback(id, codec.GrantedQoS0)
		c.Send(&codec.Unsubscribe{PacketID: id, TopicFilters: [][]byte{[]byte(topic)}})
		c.ExpectUnsuback(id, codec.Success)
	}
}

// [MQTT-2.2.2-1] Where there are no properties, a Property Length of 0 says so; without it a packet is malformed.
func TestMQTT_2_2_2_1_EmptyPropertiesHaveALength(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Send(subscribe(1, brokertest.Subscription(topic, 0)))
	if got, want := c.ReceiveRaw(), packet(0x90, []byte{0, 1, 0, 0}); !bytes.Equal(got, want) {
		t.Errorf("got SUBACK % X, want % X", got, want)
	}
	c.SendRaw(packet(0x30, str(topic), []byte{0}))
	if got, want := c.ReceiveRaw(), packet(0x30, str(topic), []byte{0}); !bytes.Equal(got, want) {
		t.Errorf("got PUBLISH % X, want % X", got, want)
	}
	c.SendRaw(packet(0x30, str(topic)))
	disconnected(t, c, codec.MalformedPacket)
}
