package v3

import (
	"bytes"
	"slices"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Sections 1.5 and 2: data representation and the format of control packets.

// [MQTT-1.5.3-1] A string that isn't UTF-8 ends the connection.
func TestMQTT_1_5_3_1_IllFormedUTF8(t *testing.T) {
	t.Parallel()
	for _, s := range badStrings {
		closes(t, bytesOf(publish(s, "payload", 0, 0), subscribe(1, brokertest.Subscription(s, 0)), unsubscribe(1, s))...)
	}
	c := connect(t)
	c.Subscribe("ü/€/𝄞", 0)
	c.Publish("ü/€/𝄞", "well-formed", 0)
	c.ExpectPublish("ü/€/𝄞", "well-formed")
}

// [MQTT-1.5.3-2] U+0000 in a string ends the connection.
func TestMQTT_1_5_3_2_NullCharacter(t *testing.T) {
	t.Parallel()
	closes(t, bytesOf(publish("a\x00b", "payload", 0, 0), publish("\x00", "payload", 1, 1))...)
}

// [MQTT-1.5.3-3] U+FEFF stays where it is, and a Topic Name with it isn't the one without it.
func TestMQTT_1_5_3_3_ByteOrderMarkIsKept(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	marked := "\uFEFF" + topic + "\uFEFF"
	c.Subscribe(topic, 0)
	c.Subscribe(marked, 0)
	c.Publish(marked, "marked", 0)
	c.ExpectPublish(marked, "marked")
	c.ExpectNothing()
}

// [MQTT-2.2.2-1] [MQTT-2.2.2-2] Flags that aren't as listed end the connection.
func TestMQTT_2_2_2_1_ReservedFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for _, valid := range bytesOf(ack(codec.TypePuback, 1), ack(codec.TypePubrec, 1), ack(codec.TypePubrel, 1), ack(codec.TypePubcomp, 1),
		subscribe(1, brokertest.Subscription("a", 0)), unsubscribe(1, "a"), brokertest.Pingreq{}, &codec.Disconnect{}) {
		for flags := range byte(16) {
			if raw := slices.Clone(valid); flags != valid[0]&0x0F {
				raw[0] = raw[0]&0xF0 | flags
				closes(t, raw)
			}
		}
	}
	for flags := byte(1); flags < 16; flags++ {
		raw := connectPacket(2, str(brokertest.Name()))
		raw[0] |= flags
		refused(t, raw)
	}
}

// [MQTT-2.2.2-1] The flags of the broker's packets are as listed.
func TestMQTT_2_2_2_1_FlagsOfTheServer(t *testing.T) {
	t.Parallel()
	c, topic := dial(t), brokertest.Name()
	first := func(want byte, p ...brokertest.Packet) []byte {
		t.Helper()
		c.Send(p...)
		raw := c.ReceiveRaw()
		if len(raw) == 0 || raw[0] != want {
			t.Fatalf("got % X, want first byte %02X", raw, want)
		}
		return raw
	}
	first(0x20, &codec.Connect{Version: codec.V311, CleanStart: true, ClientID: []byte(brokertest.Name())})
	first(0xD0, brokertest.Pingreq{})
	first(0x40, publish(topic, "payload", 1, 1))
	first(0x50, publish(topic, "payload", 2, 2))
	first(0x70, ack(codec.TypePubrel, 2))
	first(0x90, subscribe(3, brokertest.Subscription(topic, 2)))
	first(0x30, publish(topic, "payload", 0, 0))
	pub := connect(t)
	pub.Publish(topic, "payload", 2)
	raw := first(0x34)
	first(0x62, ack(codec.TypePubrec, uint16(raw[len(raw)-9])<<8|uint16(raw[len(raw)-8])))
	first(0xB0, unsubscribe(4, topic))
}

// [MQTT-2.3.1-1] Packet Identifier 0 in SUBSCRIBE, UNSUBSCRIBE or a PUBLISH with QoS > 0 is a protocol violation.
func TestMQTT_2_3_1_1_PacketIdentifierZero(t *testing.T) {
	t.Parallel()
	closes(t, bytesOf(publish("a", "payload", 1, 0), publish("a", "payload", 2, 0),
		subscribe(0, brokertest.Subscription("a", 0)), unsubscribe(0, "a"))...)
}

// [MQTT-2.3.1-4] [MQTT-2.3.1-2] [MQTT-2.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.3-1] The Packet Identifiers of messages that are under way aren't
// 0 and differ.
func TestMQTT_2_3_1_4_PacketIdentifiersOfTheServer(t *testing.T) {
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

// [MQTT-2.3.1-4] [MQTT-2.3.1-3] What the broker sends again has the Packet Identifier of the first time.
func TestMQTT_2_3_1_4_PacketIdentifierOfRedelivery(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	var first []uint16
	for i := range 5 {
		pub.Publish(topic, "payload", byte(1+i%2))
		first = append(first, sub.ExpectPublish(topic, "payload").PacketID)
	}
	sub.Close()
	sub = resume(t, id)
	for i, want := range first {
		if p := sub.ExpectPublish(topic, "payload"); p.PacketID != want {
			t.Errorf("message %d: got packet identifier %d, want %d", i, p.PacketID, want)
		}
	}
}

// [MQTT-2.3.1-5] A PUBLISH with QoS 0 has no Packet Identifier, from the Client as from the broker.
func TestMQTT_2_3_1_5_QoS0HasNoPacketIdentifier(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 1)
	raw := packet(0x30, str(topic), []byte("payload"))
	c.SendRaw(raw)
	if got := c.ReceiveRaw(); !bytes.Equal(got, raw) {
		t.Errorf("got % X, want % X", got, raw)
	}
}

// [MQTT-2.3.1-6] PUBACK, PUBREC, PUBREL and PUBCOMP have the Packet Identifier of the PUBLISH.
func TestMQTT_2_3_1_6_AcknowledgementsRepeatThePacketIdentifier(t *testing.T) {
	t.Parallel()
	c, pub, topic := connect(t), connect(t), brokertest.Name()
	for _, id := range []uint16{1, 258, 65535} {
		c.Send(publish(topic, "payload", 1, id))
		c.ExpectAck(codec.TypePuback, id, 0)
		c.Send(publish(topic, "payload", 2, id))
		c.ExpectAck(codec.TypePubrec, id, 0)
		c.Send(ack(codec.TypePubrel, id))
		c.ExpectAck(codec.TypePubcomp, id, 0)
	}
	c.Subscribe(topic, 2)
	for range 3 {
		pub.Publish(topic, "payload", 2)
		p := c.ExpectPublish(topic, "payload")
		c.Send(ack(codec.TypePubrec, p.PacketID))
		c.ExpectAck(codec.TypePubrel, p.PacketID, 0)
	}
}

// [MQTT-2.3.1-7] [MQTT-3.8.4-2] [MQTT-3.10.4-4] SUBACK and UNSUBACK have the Packet Identifier of their request.
func TestMQTT_2_3_1_7_SubackAndUnsubackRepeatThePacketIdentifier(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for _, id := range []uint16{1, 258, 65535} {
		c.Send(subscribe(id, brokertest.Subscription(topic, 0)))
		c.ExpectSuback(id, codec.GrantedQoS0)
		c.Send(unsubscribe(id, topic))
		c.ExpectUnsuback(id)
	}
}
