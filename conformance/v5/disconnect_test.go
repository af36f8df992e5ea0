package v5

import (
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Sections 3.12 and 3.14: PINGREQ and DISCONNECT.

// [MQTT-3.12.4-1] Each PINGREQ is answered with a PINGRESP.
func TestMQTT_3_12_4_1_Pingresp(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.Send(brokertest.Pingreq{}, brokertest.Pingreq{}, brokertest.Pingreq{})
	for range 3 {
		c.ExpectPingresp()
	}
}

// [MQTT-3.14.0-1] The answer to something wrong before CONNACK is CONNACK or none, never DISCONNECT.
func TestMQTT_3_14_0_1_NoDisconnectBeforeConnack(t *testing.T) {
	t.Parallel()
	for _, raw := range [][]byte{
		brokertest.Pingreq{}.Append(nil, codec.V5),
		{0x10, 0xFF, 0xFF, 0xFF, 0xFF},
		{0x13, 0},
		{0x00, 0},
		{0xF0, 0},
		connectPacket(0x03, str("id")),
		connectPacket(0x02),
		packet(0x10, str("MQTT"), []byte{9, 2, 0, 0, 0}, str("id")),
		packet(0x10, str("HTTP"), []byte{5, 2, 0, 0, 0}, str("id")),
	} {
		c := dial(t)
		c.SendRaw(raw)
		if answer := c.ReceiveRaw(); answer != nil {
			if answer[0] != 0x20 || answer[3] == 0 {
				t.Errorf("got % X for % X, want a CONNACK that refuses", answer, raw)
			}
			c.ExpectClosed()
		}
	}
}

// [MQTT-3.14.1-1] A DISCONNECT with reserved flags that aren't 0 is answered with 0x82 as external suites expect it
// (the standard has 0x81), and counts as an error: the Will is published.
func TestMQTT_3_14_1_1_FlagsOfDisconnect(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	for _, first := range []byte{0xE1, 0xE2, 0xE4, 0xE8} {
		c := connect(t, brokertest.Will(topic, "will", 0, false))
		c.SendRaw([]byte{first, 0})
		disconnected(t, c, codec.ProtocolError)
		sub.ExpectPublish(topic, "will")
	}
}

// [MQTT-3.14.2-1] A DISCONNECT with a Reason Code that isn't one of its own isn't a normal one: the Will is published.
func TestMQTT_3_14_2_1_ReasonCodesOfDisconnect(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	for _, code := range []codec.ReasonCode{0x01, 0x10, 0x18, 0x92, 0xFF} {
		c := connect(t, brokertest.Will(topic, "will", 0, false))
		c.SendRaw([]byte{0xE0, 1, byte(code)})
		ended(t, c, codec.ProtocolError, codec.MalformedPacket)
		sub.ExpectPublish(topic, "will")
	}
}

// [MQTT-3.14.2-2] [MQTT-3.14.2-1] A DISCONNECT of the broker has no Session Expiry Interval and one of its Reason Codes.
func TestMQTT_3_14_2_2_NoSessionExpiryIntervalFromTheServer(t *testing.T) {
	t.Parallel()
	id := brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	again := resume(t, id)
	if p := c.ExpectDisconnect(codec.SessionTakenOver); p.Properties.Has(codec.PropSessionExpiryInterval) {
		t.Errorf("got session expiry interval %d", p.Properties.SessionExpiryInterval)
	}
	again.SendConnect()
	if p := again.ExpectDisconnect(codec.ProtocolError); p.Properties.Has(codec.PropSessionExpiryInterval) {
		t.Errorf("got session expiry interval %d", p.Properties.SessionExpiryInterval)
	}
}

// [MQTT-3.14.2-2] A Session Expiry Interval in DISCONNECT after one of 0 in CONNECT is a Protocol Error (section 3.14.2.2.2).
func TestMQTT_3_14_2_2_SessionExpiryIntervalAfterZero(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 60)})
	disconnected(t, c, codec.ProtocolError)
}

// [MQTT-3.14.2-3] [MQTT-3.14.2-4] A DISCONNECT keeps within the Maximum Packet Size by leaving out the Reason String.
func TestMQTT_3_14_2_3_DisconnectWithinMaximumPacketSize(t *testing.T) {
	t.Parallel()
	limit := connackSize(t)
	free := connect(t)
	free.SendConnect()
	if p := disconnected(t, free, codec.ProtocolError); p.Size(codec.V5) <= limit {
		t.Fatalf("got DISCONNECT of %d bytes without a limit: this shows nothing", p.Size(codec.V5))
	}
	c := connect(t, brokertest.With(codec.PropMaximumPacketSize, limit))
	c.SendConnect()
	if p := disconnected(t, c, codec.ProtocolError); p.Size(codec.V5) > limit {
		t.Errorf("got DISCONNECT of %d bytes, limit %d", p.Size(codec.V5), limit)
	}
}

// [MQTT-3.14.4-1] [MQTT-3.14.4-2] After its DISCONNECT the broker sends nothing, though there are messages, and closes.
func TestMQTT_3_14_4_1_NothingFollowsDisconnect(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	c.Subscribe(topic, 1)
	again := dial(t)
	again.SendConnect(brokertest.Durable(id))
	for range 10 {
		pub.Publish(topic, "payload", 1)
	}
	again.ExpectConnack(codec.Success)
	for {
		p := c.Receive()
		if d, ok := p.(*codec.Disconnect); ok && d.ReasonCode == codec.SessionTakenOver {
			break
		}
		if _, ok := p.(*codec.Publish); !ok {
			t.Fatalf("got %s", brokertest.Describe(p))
		}
	}
	c.ExpectClosed()
}

// [MQTT-3.14.4-2] After the DISCONNECT of a Client the broker closes too, and what follows isn't processed.
func TestMQTT_3_14_4_2_ConnectionIsClosedAfterDisconnect(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	c := connect(t)
	c.Send(publish(topic, "before", 0, 0), &codec.Disconnect{}, publish(topic, "after", 0, 0), brokertest.Pingreq{})
	c.ExpectClosed()
	sub.ExpectPublish(topic, "before")
	sub.ExpectNothingFrom(connect(t), 0)
}

// [MQTT-3.14.4-3] A DISCONNECT with 0x00, given or left out, discards the Will Message, also a delayed one; other Reason Codes don't.
func TestMQTT_3_14_4_3_NormalDisconnectionDiscardsTheWill(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	for _, raw := range [][]byte{{0xE0, 0}, {0xE0, 1, 0}, {0xE0, 2, 0, 0}} {
		c := connect(t, brokertest.Will(topic, "discarded", 1, false))
		c.SendRaw(raw)
		c.ExpectClosed()
	}
	for _, code := range []codec.ReasonCode{codec.DisconnectWithWill, codec.UnspecifiedError, codec.QuotaExceeded} {
		c := connect(t, brokertest.Will(topic, "kept", 1, false))
		c.Send(&codec.Disconnect{ReasonCode: code})
		c.ExpectClosed()
		sub.Acknowledge(sub.ExpectPublish(topic, "kept"))
	}
	sub.ExpectNothingFrom(connect(t), 1)
}
