package v5

import (
	"strings"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Section 3.2: CONNACK.

// [MQTT-3.2.2-1] The reserved bits of the Connect Acknowledge Flags are 0.
func TestMQTT_3_2_2_1_ReservedFlagsAreZero(t *testing.T) {
	t.Parallel()
	id := brokertest.Name()
	for _, flags := range []byte{0, 1} {
		c := dial(t)
		c.SendConnect(brokertest.Durable(id))
		if raw := c.ReceiveRaw(); raw[2] != flags {
			t.Errorf("got connect acknowledge flags 0x%02X, want 0x%02X", raw[2], flags)
		}
		c.Disconnect()
	}
}

// [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.2.2-8] [MQTT-4.13.2-1] A CONNACK that refuses has Session Present 0, though there is a Session, and
// one of the Reason Codes for CONNACK, and the connection ends.
func TestMQTT_3_2_2_6_RefusalHasNoSessionPresent(t *testing.T) {
	t.Parallel()
	id := brokertest.Name()
	connect(t, brokertest.Durable(id)).Close()
	c := dial(t)
	c.SendConnect(brokertest.Durable(id), brokertest.With(codec.PropAuthenticationMethod, "unknown"))
	raw := c.ReceiveRaw()
	if raw[2] != 0 || raw[3] != byte(codec.BadAuthenticationMethod) {
		t.Errorf("got CONNACK % X, want flags 0 and 0x8C", raw)
	}
	c.ExpectClosed()
}

// [MQTT-3.2.2-9] [MQTT-3.2.2-10] The broker serves QoS 2, so it announces no Maximum QoS, and it grants all three.
func TestMQTT_3_2_2_9_NoMaximumQoS(t *testing.T) {
	t.Parallel()
	c, topic := dial(t), brokertest.Name()
	if p := c.Connect(); p.Properties.Has(codec.PropMaximumQoS) {
		t.Errorf("got maximum QoS %d", p.Properties.MaximumQoS)
	}
	for qos := range byte(3) {
		c.Subscribe(topic, qos)
		c.Publish(topic, "payload", 2)
		c.Acknowledge(c.ExpectPublish(topic, "payload"))
	}
}

// [MQTT-3.2.2-15] [MQTT-4.13.1-1] A packet beyond the Maximum Packet Size that CONNACK announced is refused with 0x95; one of that size is
// accepted.
func TestMQTT_3_2_2_15_PacketTooLarge(t *testing.T) {
	t.Parallel()
	c, topic := dial(t), brokertest.Name()
	size := int(c.Connect().Properties.MaximumPacketSize)
	if size == 0 {
		t.Fatal("no maximum packet size")
	}
	fits := size - len(publish(topic, strings.Repeat("x", size), 1, 1).Append(nil, codec.V5)) + size
	c.Publish(topic, strings.Repeat("x", fits), 1)
	// The fixed header is enough: nobody waits for a packet that is refused.
	c.SendRaw(append([]byte{0x30}, variableByteInteger(size)...))
	disconnected(t, c, codec.PacketTooLarge)
}

// [MQTT-3.2.2-16] [MQTT-3.1.2-24] A Client whose Maximum Packet Size has no room for what CONNACK must tell it isn't accepted without that.
func TestMQTT_3_2_2_16_NoRoomForTheAssignedClientIdentifier(t *testing.T) {
	t.Parallel()
	limit := connackSize(t)
	c := dial(t)
	c.SendConnect(brokertest.ClientID(""), brokertest.With(codec.PropMaximumPacketSize, limit))
	if p := c.ReceiveOrClosed(); p != nil {
		connack, ok := p.(*codec.Connack)
		if !ok || connack.Size(codec.V5) > limit {
			t.Errorf("got %s, limit %d", brokertest.Describe(p), limit)
		} else if !connack.ReasonCode.IsError() && len(connack.Properties.AssignedClientIdentifier) == 0 {
			t.Error("accepted without telling the client identifier")
		}
	}
}

// [MQTT-3.2.2-17] [MQTT-3.2.2-18] [MQTT-3.3.2-9] A Topic Alias beyond the Topic Alias Maximum of CONNACK is refused with 0x94.
func TestMQTT_3_2_2_17_TopicAliasBeyondMaximum(t *testing.T) {
	t.Parallel()
	c := dial(t)
	maximum := int(c.Connect().Properties.TopicAliasMaximum)
	c.Send(publish("a", "payload", 0, 0, codec.PropTopicAlias, maximum+1))
	disconnected(t, c, codec.TopicAliasInvalid)
}

// [MQTT-3.2.2-19] [MQTT-3.2.2-20] A CONNACK keeps within the Maximum Packet Size by leaving out the Reason String.
func TestMQTT_3_2_2_19_ReasonStringWithinMaximumPacketSize(t *testing.T) {
	t.Parallel()
	method := brokertest.With(codec.PropAuthenticationMethod, "unknown")
	c := dial(t)
	c.SendConnect(method)
	if p := c.ExpectConnack(codec.BadAuthenticationMethod); !hasProblemInformation(&p.Properties) {
		t.Error("no reason string without a limit: this shows nothing")
	}
	c = dial(t)
	c.SendConnect(method, brokertest.With(codec.PropMaximumPacketSize, 10))
	if p := c.ExpectConnack(codec.BadAuthenticationMethod); p.Size(codec.V5) > 10 {
		t.Errorf("got CONNACK with %d bytes", p.Size(codec.V5))
	}
}

// [MQTT-3.2.2-22] Without Server Keep Alive in CONNACK, the Client's Keep Alive counts: neither a shorter nor a longer one.
func TestMQTT_3_2_2_22_KeepAliveOfTheClient(t *testing.T) {
	t.Parallel()
	c, start := dial(t), time.Now()
	p := c.Connect(brokertest.KeepAlive(1))
	if p.Properties.Has(codec.PropServerKeepAlive) {
		t.Fatalf("got server keep alive %d", p.Properties.ServerKeepAlive)
	}
	ended(t, c, codec.KeepAliveTimeout)
	if d := time.Since(start); d < 1400*time.Millisecond {
		t.Errorf("closed after %v, want 1.5 s", d)
	}
}
