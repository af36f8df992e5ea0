package v3

import (
	"bytes"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Section 3.2: CONNACK.

// [MQTT-3.2.0-1] CONNACK comes before everything else. What the Client sent without waiting for it is processed.
func TestMQTT_3_2_0_1_ConnackComesFirst(t *testing.T) {
	t.Parallel()
	for _, c := range []*brokertest.Client{dial(t), dialGuarded(t)} {
		topic := brokertest.Name()
		c.Send(&codec.Connect{Version: codec.V311, CleanStart: true, ClientID: []byte(brokertest.Name())},
			subscribe(1, brokertest.Subscription(topic, 0)), publish(topic, "payload", 0, 0))
		c.ExpectConnack(0)
		c.ExpectSuback(1, 0)
		c.ExpectPublish(topic, "payload")
	}
}

// [MQTT-3.2.0-1] CONNACK comes before the messages of the Session that it resumes.
func TestMQTT_3_2_0_1_ConnackComesBeforeQueuedMessages(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	for range 5 {
		sub.Disconnect()
		pub.Publish(topic, "payload", 1)
		sub = resume(t, id)
		sub.Acknowledge(sub.ExpectPublish(topic, "payload"))
	}
}

// connack returns the bytes of the CONNACK that a CONNECT gets.
func connack(t *testing.T, options ...brokertest.ConnectOption) []byte {
	t.Helper()
	c := dial(t)
	c.SendConnect(options...)
	raw := c.ReceiveRaw()
	c.Disconnect()
	return raw
}

// [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3] Session Present is 1 if Clean Session is 0 and there is a stored Session, else 0.
func TestMQTT_3_2_2_1_SessionPresent(t *testing.T) {
	t.Parallel()
	id := brokertest.Name()
	durable, clean := brokertest.Durable(id), brokertest.ClientID(id)
	for i, step := range []struct {
		option  brokertest.ConnectOption
		present byte
	}{{durable, 0}, {durable, 1}, {durable, 1}, {clean, 0}, {clean, 0}, {durable, 0}, {durable, 1}} {
		if got, want := connack(t, step.option), []byte{0x20, 2, step.present, 0}; !bytes.Equal(got, want) {
			t.Errorf("connection %d: got % X, want % X", i, got, want)
		}
	}
}

// [MQTT-3.2.2-4] [MQTT-3.2.2-5] A CONNACK with another return code than 0 has Session Present 0, though there is a Session, and the
// connection ends. The return code is the one for the case.
func TestMQTT_3_2_2_4_RefusalHasNoSessionPresent(t *testing.T) {
	t.Parallel()
	id := brokertest.Name()
	connectGuarded(t, brokertest.Durable(id)).Close()
	for user, code := range map[string]byte{"unavailable": 3, "wrong": 4, "unauthorized": 5, "banned": 5} {
		c := dialGuarded(t)
		c.SendConnect(brokertest.Durable(id), brokertest.Credentials(user, ""))
		if got, want := c.ReceiveRaw(), []byte{0x20, 2, 0, code}; !bytes.Equal(got, want) {
			t.Errorf("got % X, want % X", got, want)
		}
		c.ExpectClosed()
	}
}

// [MQTT-3.2.2-6] If no return code says why a CONNECT is refused, the connection is closed without CONNACK.
func TestMQTT_3_2_2_6_NoReturnCodeFits(t *testing.T) {
	t.Parallel()
	c := dialGuarded(t)
	c.SendConnect(brokertest.Credentials("inexpressible", ""))
	c.ExpectClosed()
}
