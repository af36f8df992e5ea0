package v3

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
		if raw := c.ReceiveRaw(); string(raw) != "\xD0\x00" {
			t.Errorf("got % X, want D0 00", raw)
		}
	}
}

// [MQTT-3.14.1-1] A DISCONNECT with reserved flags that aren't 0, or with a body, is a protocol violation: the Will is published.
func TestMQTT_3_14_1_1_FlagsOfDisconnect(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	for _, raw := range [][]byte{{0xE1, 0}, {0xE2, 0}, {0xE4, 0}, {0xE8, 0}, {0xE0, 1, 0}} {
		c := connect(t, brokertest.Will(topic, "will", 1, false))
		c.SendRaw(raw)
		c.ExpectClosed()
		sub.Acknowledge(sub.ExpectPublish(topic, "will"))
	}
}

// [MQTT-3.14.4-3] DISCONNECT discards the Will Message.
func TestMQTT_3_14_4_3_DisconnectDiscardsTheWill(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 2)
	for qos := range byte(3) {
		c := connect(t, brokertest.Will(topic, "will", qos, true))
		c.Disconnect()
		sub.ExpectNothingFrom(connect(t, brokertest.ClientID(c.ClientID)), qos)
	}
	if got := payloads(retained(t, topic)); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.14.4-1] [MQTT-3.14.4-2] After the DISCONNECT of a Client the broker closes if the Client doesn't, and what follows isn't processed.
func TestMQTT_3_14_4_2_NothingIsProcessedAfterDisconnect(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	c := connect(t)
	c.Send(publish(topic, "before", 0, 0), &codec.Disconnect{}, publish(topic, "after", 0, 0), brokertest.Pingreq{})
	c.ExpectClosed()
	sub.ExpectPublish(topic, "before")
	sub.ExpectNothingFrom(connect(t, brokertest.ClientID(c.ClientID)), 0)
}
