package v5

import (
	"slices"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Sections 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP.

// [MQTT-3.4.2-1] [MQTT-3.5.2-1] PUBACK and PUBREC have one of their Reason Codes: 0x00, or 0x10 if nobody subscribes.
func TestMQTT_3_4_2_1_ReasonCodesOfPubackAndPubrec(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	allowed := []codec.ReasonCode{codec.Success, codec.NoMatchingSubscribers}
	for round := range 2 {
		for qos := byte(1); qos <= 2; qos++ {
			c.Send(publish(topic, "payload", qos, uint16(qos)))
			p := brokertest.Expect[*codec.Ack](c)
			if p.PacketID != uint16(qos) || !slices.Contains(allowed[:2-round], p.ReasonCode) {
				t.Errorf("got %s", brokertest.Describe(p))
			}
		}
		c.Send(ack(codec.TypePubrel, 2, 0))
		c.ExpectAck(codec.TypePubcomp, 2, codec.Success)
		connect(t).Subscribe(topic, 0)
	}
}

// wrongReason sends an acknowledgement with a Reason Code that it can't have.
func wrongReason(t *testing.T, packetType codec.PacketType, codes ...codec.ReasonCode) {
	t.Helper()
	for _, code := range codes {
		c, topic := connect(t), brokertest.Name()
		c.Subscribe(topic, 2)
		qos := byte(2)
		if packetType == codec.TypePuback {
			qos = 1
		}
		c.Publish(topic, "payload", qos)
		p := c.ExpectPublish(topic, "payload")
		if packetType == codec.TypePubcomp {
			c.Send(ack(codec.TypePubrec, p.PacketID, 0))
			c.ExpectAck(codec.TypePubrel, p.PacketID, 0)
		}
		c.Send(ack(packetType, p.PacketID, code))
		disconnected(t, c, codec.ProtocolError, codec.MalformedPacket)
	}
}

// [MQTT-3.4.2-1] A PUBACK with a Reason Code that isn't one of its own ends the connection.
func TestMQTT_3_4_2_1_PubackWithAnotherReasonCode(t *testing.T) {
	t.Parallel()
	wrongReason(t, codec.TypePuback, 0x01, 0x18, 0x92, 0xFF)
}

// [MQTT-3.5.2-1] A PUBREC with a Reason Code that isn't one of its own ends the connection.
func TestMQTT_3_5_2_1_PubrecWithAnotherReasonCode(t *testing.T) {
	t.Parallel()
	wrongReason(t, codec.TypePubrec, 0x01, 0x18, 0x92, 0xFF)
}

// [MQTT-3.7.2-1] A PUBCOMP with a Reason Code that isn't one of its own ends the connection.
func TestMQTT_3_7_2_1_PubcompWithAnotherReasonCode(t *testing.T) {
	t.Parallel()
	wrongReason(t, codec.TypePubcomp, 0x10, 0x80, 0xFF)
}

// [MQTT-3.6.2-1] A PUBREL with a Reason Code that isn't one of its own ends the connection.
func TestMQTT_3_6_2_1_PubrelWithAnotherReasonCode(t *testing.T) {
	t.Parallel()
	for _, code := range []codec.ReasonCode{0x10, 0x80, 0xFF} {
		c := connect(t)
		connect(t).Subscribe("a", 0)
		c.Send(publish("a", "payload", 2, 1))
		c.ExpectAck(codec.TypePubrec, 1, codec.Success)
		c.Send(ack(codec.TypePubrel, 1, code))
		disconnected(t, c, codec.ProtocolError, codec.MalformedPacket)
	}
}

// [MQTT-3.6.1-1] A PUBREL with other flags than 0010 ends the connection, with 0x82 as external suites expect it.
func TestMQTT_3_6_1_1_FlagsOfPubrel(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0x60, 0x61, 0x63, 0x66, 0x6A} {
		c := connect(t)
		c.SendRaw([]byte{first, 2, 0, 1})
		disconnected(t, c, codec.ProtocolError)
	}
}

// [MQTT-3.6.2-1] [MQTT-3.7.2-1] PUBREC and PUBREL with a Packet Identifier that isn't in use are answered: with 0x92 by a broker that gives
// Reason Strings, with Success by others.
func TestMQTT_3_6_2_1_PacketIdentifierNotFound(t *testing.T) {
	t.Parallel()
	for c, reason := range map[*brokertest.Client]codec.ReasonCode{
		connect(t): codec.Success, connectGuarded(t): codec.PacketIdentifierNotFound,
	} {
		c.Send(ack(codec.TypePubrec, 9, 0))
		c.ExpectAck(codec.TypePubrel, 9, reason)
		c.Send(ack(codec.TypePubrel, 9, 0))
		c.ExpectAck(codec.TypePubcomp, 9, reason)
		c.ExpectNothing()
	}
}

// [MQTT-4.3.2-1] [MQTT-4.3.3-1] An acknowledgement of another QoS than the message's is a Protocol Error.
func TestMQTT_4_3_2_1_AcknowledgementOfOtherQoS(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		qos  byte
		acks []codec.PacketType
	}{
		{1, []codec.PacketType{codec.TypePubrec}},
		{1, []codec.PacketType{codec.TypePubcomp}},
		{2, []codec.PacketType{codec.TypePuback}},
		{2, []codec.PacketType{codec.TypePubcomp}},
		{2, []codec.PacketType{codec.TypePubrec, codec.TypePuback}},
	} {
		sub, pub, topic := connect(t), connect(t), brokertest.Name()
		sub.Subscribe(topic, test.qos)
		pub.Publish(topic, "payload", test.qos)
		id := sub.ExpectPublish(topic, "payload").PacketID
		for i, a := range test.acks {
			sub.Send(ack(a, id, 0))
			if i+1 < len(test.acks) {
				sub.ExpectAck(codec.TypePubrel, id, codec.Success)
			}
		}
		disconnected(t, sub, codec.ProtocolError)
	}
}
