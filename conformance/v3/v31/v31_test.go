// Package v31 shows what MQTT 3.1 (MQIsdp) says differently from MQTT 3.1.1 and how the broker obeys it. MQTT 3.1 doesn't number its
// statements: the comments name its sections.
package v31

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// shared is the broker of all tests. It allows all topics without "denied" in them.
var shared *brokertest.Server

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	var err error
	if shared, err = brokertest.Run(func(o *loopmq.Options) { o.Authorizer = gate{} }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

type gate struct{}

func (gate) Authorize(_ context.Context, _ *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	return !strings.Contains(topic, "denied")
}

func dial(t *testing.T) *brokertest.Client {
	t.Helper()
	return brokertest.Dial(t, shared.Addr, codec.V31)
}

func connect(t *testing.T, options ...brokertest.ConnectOption) *brokertest.Client {
	t.Helper()
	return brokertest.Connect(t, shared.Addr, codec.V31, options...)
}

// packet is a control packet of any form: its first byte and the parts of its body.
func packet(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return slices.Concat([]byte{first, byte(len(body))}, body) // of less than 128 bytes
}

// str is a string with its two bytes of length.
func str(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// connectPacket is a CONNECT with these Connect Flags and this payload.
func connectPacket(flags byte, payload ...[]byte) []byte {
	return packet(0x10, append([][]byte{str("MQIsdp"), {3, flags, 0, 60}}, payload...)...)
}

// expectRaw takes a packet that has to consist of these bytes.
func expectRaw(t *testing.T, c *brokertest.Client, want ...byte) {
	t.Helper()
	if got := c.ReceiveRaw(); !bytes.Equal(got, want) {
		t.Fatalf("got % X, want % X", got, want)
	}
}

// Section 3.1: the Protocol Name is MQIsdp, the version 3; another version with that name gets return code 1, in the form of 5.0 if it isn't
// one of 3.x.
func TestProtocolNameAndVersion(t *testing.T) {
	t.Parallel()
	c := dial(t)
	c.SendRaw(packet(0x10, str("MQIsdp"), []byte{3, 2, 0, 60}, str(brokertest.Name())))
	expectRaw(t, c, 0x20, 2, 0, 0)
	for _, version := range []byte{0, 1, 2, 4, 5, 6} {
		c := dial(t)
		c.SendRaw(packet(0x10, str("MQIsdp"), []byte{version, 2, 0, 60}, str(brokertest.Name())))
		if version == 4 {
			expectRaw(t, c, 0x20, 2, 0, 1)
		} else {
			expectRaw(t, c, 0x20, 3, 0, 0x84, 0)
		}
		c.ExpectClosed()
	}
}

// Section 3.1: a ClientID has at least one character, any of which may be other than letters and digits. None gets return code 2,
// identifier rejected. The limit of 23 is not kept: clients of today exceed it.
func TestClientIDIsNotEmpty(t *testing.T) {
	t.Parallel()
	for _, clean := range []byte{0, 2} {
		for _, id := range []string{""} {
			c := dial(t)
			c.SendRaw(connectPacket(clean, str(id)))
			expectRaw(t, c, 0x20, 2, 0, 2)
			c.ExpectClosed()
		}
		for _, id := range []string{"!", "Ä-_ /#$", strings.Repeat("x", 23), strings.Repeat("€", 23)} {
			c := dial(t)
			c.SendRaw(connectPacket(clean, str(id)))
			expectRaw(t, c, 0x20, 2, 0, 0)
			c.Disconnect()
		}
	}
}

// Section 3.2: the first byte of CONNACK's variable header is reserved: it stays 0, though there is a Session and it goes on.
func TestConnackHasNoSessionPresent(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	c.Subscribe(topic, 1)
	c.Disconnect()
	pub.Publish(topic, "queued", 1)
	c = dial(t)
	c.SendConnect(brokertest.Durable(id))
	expectRaw(t, c, 0x20, 2, 0, 0)
	c.ExpectPublish(topic, "queued")
}

// Section 3.1: the lowest bit of the Connect Flags isn't used, and Will QoS and Will Retain are disregarded without Will Flag.
func TestConnectFlagsThatAreNotUsed(t *testing.T) {
	t.Parallel()
	for _, flags := range []byte{0x03, 0x0A, 0x12, 0x1A, 0x22, 0x3B} {
		c := dial(t)
		c.SendRaw(connectPacket(flags, str(brokertest.Name())))
		expectRaw(t, c, 0x20, 2, 0, 0)
	}
}

// Section 3.1: the Remaining Length goes before the User Name Flag and the Password Flag: the fields may be missing.
func TestUserNameAndPasswordMayBeMissing(t *testing.T) {
	t.Parallel()
	id := str(brokertest.Name())
	for _, raw := range [][]byte{connectPacket(0x82, id), connectPacket(0xC2, id), connectPacket(0xC2, id, str("user"))} {
		c := dial(t)
		c.SendRaw(raw)
		expectRaw(t, c, 0x20, 2, 0, 0)
		c.Disconnect()
	}
	c := dial(t)
	c.SendRaw(connectPacket(0x42, id, str("password"))) // "not valid to supply a password without supplying a user name"
	c.ExpectClosed()
}

// Section 2.1: DUP marks a SUBSCRIBE, UNSUBSCRIBE or PUBREL that is sent again. It is answered as the first one.
func TestDupOnSubscribeUnsubscribeAndPubrel(t *testing.T) {
	t.Parallel()
	c, pub, topic := connect(t), connect(t), brokertest.Name()
	for range 2 {
		c.SendRaw(packet(0x8A, []byte{0, 1}, str(topic), []byte{2}))
		c.ExpectSuback(1, 2)
	}
	pub.Send(&codec.Publish{TopicName: []byte(topic), Payload: []byte("payload"), QoS: 2, PacketID: 2})
	pub.ExpectAck(codec.TypePubrec, 2, 0)
	for range 2 {
		pub.SendRaw(packet(0x6A, []byte{0, 2}))
		pub.ExpectAck(codec.TypePubcomp, 2, 0)
	}
	c.Acknowledge(c.ExpectPublish(topic, "payload"))
	for range 2 {
		c.SendRaw(packet(0xAA, []byte{0, 3}, str(topic)))
		c.ExpectUnsuback(3)
	}
	pub.Publish(topic, "payload", 2)
	c.ExpectNothingFrom(pub, 2)
}

// Section 2.1: QoS is 1 in SUBSCRIBE, UNSUBSCRIBE and PUBREL.
func TestQoSOfSubscribeUnsubscribeAndPubrel(t *testing.T) {
	t.Parallel()
	for _, flags := range []byte{0x00, 0x04, 0x06, 0x08, 0x0C} {
		for _, raw := range [][]byte{
			packet(0x80|flags, []byte{0, 1}, str("a"), []byte{0}), packet(0xA0|flags, []byte{0, 1}, str("a")), packet(0x60|flags, []byte{0, 1}),
		} {
			c := connect(t)
			c.SendRaw(raw)
			c.ExpectClosed()
		}
	}
}

// Sections 2.1, 3.4 and following: flags that a packet doesn't use are disregarded.
func TestFlagsThatAreNotUsed(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 1)
	c.Publish(topic, "payload", 1)
	p := c.ExpectPublish(topic, "payload")
	c.SendRaw(packet(0x4F, []byte{byte(p.PacketID >> 8), byte(p.PacketID)}))
	c.SendRaw(packet(0x83, []byte{0, 9}, str(topic), []byte{0xFC})) // RETAIN, and the upper six bits of the QoS
	c.ExpectSuback(9, 0)
	c.SendRaw(packet(0xCF))
	c.ExpectPingresp()
	c.SendRaw(packet(0xEF))
	c.ExpectClosed()
}

// Section 2.1: a PUBLISH with QoS 0 and DUP 1 is none that 3.1 forbids. DUP isn't passed on.
func TestDupWithQoS0(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 0)
	c.SendRaw(packet(0x38, str(topic), []byte("payload")))
	if p := c.ExpectPublish(topic, "payload"); p.Dup {
		t.Error("DUP was passed on")
	}
}

// Section 3.9: SUBACK has no failure code. A subscription that isn't authorized gets a positive acknowledgement all the same, and brings
// nothing.
func TestSubackHasNoFailureCode(t *testing.T) {
	t.Parallel()
	c, pub, topic := connect(t), connect(t), brokertest.Name()
	c.SendRaw(packet(0x82, []byte{0, 1}, str(topic+"/denied"), []byte{2}, str(topic+"/a"), []byte{1}))
	raw := c.ReceiveRaw()
	if len(raw) != 6 || !bytes.Equal(raw[:4], []byte{0x90, 4, 0, 1}) || raw[4] > 2 || raw[5] != 1 {
		t.Fatalf("got % X, want 90 04 00 01, a QoS, and 01", raw)
	}
	// The Authorizer would stop a Client that published there.
	if _, err := shared.Broker.Publish(t.Context(), loopmq.Message{TopicName: topic + "/denied"}); err != nil {
		t.Fatal(err)
	}
	pub.Publish(topic+"/a", "payload", 1)
	c.Acknowledge(c.ExpectPublish(topic+"/a", "payload"))
	c.ExpectNothingFrom(pub, 1)
}

// Sections 3.3 and 4.2: a PUBLISH that isn't authorized is acknowledged all the same.
func TestUnauthorizedPublishIsAcknowledged(t *testing.T) {
	t.Parallel()
	c, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic+"/#", 2)
	for qos := range byte(3) {
		c.Publish(topic+"/denied", "payload", qos)
	}
	sub.ExpectNothingFrom(c, 2)
}

// Section 4.2: PUBLISH and PUBREL that aren't acknowledged come again when the Client reconnects, marked with DUP.
func TestDupOnRedelivery(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	c.Subscribe(topic, 2)
	pub.Publish(topic, "released", 2)
	pub.Publish(topic, "sent", 2)
	p := c.ExpectPublish(topic, "released")
	c.ExpectPublish(topic, "sent")
	c.Send(&codec.Ack{Type: codec.TypePubrec, PacketID: p.PacketID})
	expectRaw(t, c, 0x62, 2, byte(p.PacketID>>8), byte(p.PacketID))
	for range 2 {
		c.Close()
		c = connect(t, brokertest.Durable(id))
		expectRaw(t, c, 0x6A, 2, byte(p.PacketID>>8), byte(p.PacketID))
		if again := c.ExpectPublish(topic, "sent"); !again.Dup {
			t.Errorf("got %s, want DUP 1", brokertest.Describe(again))
		}
	}
}

// Clients of all versions exchange messages.
func TestOtherVersions(t *testing.T) {
	t.Parallel()
	topic := brokertest.Name()
	versions := []codec.Version{codec.V31, codec.V311, codec.V5}
	for _, from := range versions {
		for _, to := range versions {
			pub, sub := brokertest.Connect(t, shared.Addr, from), brokertest.Connect(t, shared.Addr, to)
			sub.Subscribe(topic, 2)
			for qos := range byte(3) {
				pub.Publish(topic, "payload", qos)
				p := sub.ExpectPublish(topic, "payload")
				if sub.Acknowledge(p); p.QoS != qos {
					t.Errorf("%v to %v: got QoS %d, want %d", from, to, p.QoS, qos)
				}
			}
		}
	}
}
