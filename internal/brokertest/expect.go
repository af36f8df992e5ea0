package brokertest

import (
	"errors"
	"io"
	"slices"

	"loopmq/codec"
)

// Receive returns the next packet, whichever it is.
func (c *Client) Receive() Packet {
	c.t.Helper()
	p, err := c.next()
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return p
}

// ReceiveRaw returns the bytes of the next packet as they came, or nil if the broker has closed the connection.
func (c *Client) ReceiveRaw() []byte {
	c.t.Helper()
	_, raw, err := c.readRaw()
	if err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatalf("receive: %v", err)
	}
	return raw
}

// ReceiveOrClosed returns the next packet, or nil if the broker has closed the connection.
func (c *Client) ReceiveOrClosed() Packet {
	c.t.Helper()
	p, err := c.next()
	if err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatalf("receive: %v", err)
	}
	return p
}

// Expect returns the next packet, which has to be a P: brokertest.Expect[*codec.Publish](c).
func Expect[P Packet](c *Client) P {
	c.t.Helper()
	var want P
	p, err := c.next()
	if err != nil {
		c.t.Fatalf("want %T: %v", want, err)
	}
	want, ok := p.(P)
	if !ok {
		c.t.Fatalf("got %s, want %T", Describe(p), want)
	}
	return want
}

// ExpectConnack takes a CONNACK with the Reason Code (3.x: Connect Return Code). After one from 0x80 on, or any but 0 in 3.x, the broker
// has to close the connection [MQTT-3.2.2-7].
func (c *Client) ExpectConnack(code codec.ReasonCode) *codec.Connack {
	c.t.Helper()
	p := Expect[*codec.Connack](c)
	if p.ReasonCode != code {
		c.t.Fatalf("got %s %q, want reason code 0x%02X", Describe(p), p.Properties.ReasonString, byte(code))
	}
	if code.IsError() || c.version != codec.V5 && code != 0 {
		c.ExpectClosed()
	}
	return p
}

// ExpectPublish takes a PUBLISH with this Topic Name and payload.
func (c *Client) ExpectPublish(topicName, payload string) *codec.Publish {
	c.t.Helper()
	p := Expect[*codec.Publish](c)
	if string(p.TopicName) != topicName || string(p.Payload) != payload {
		c.t.Fatalf("got %s, want PUBLISH(%q, %.64q)", Describe(p), topicName, payload)
	}
	return p
}

// ExpectAck takes a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *Client) ExpectAck(t codec.PacketType, packetID uint16, code codec.ReasonCode) *codec.Ack {
	c.t.Helper()
	p := Expect[*codec.Ack](c)
	if p.Type != t || p.PacketID != packetID || p.ReasonCode != code {
		c.t.Fatalf("got %s, want %v(id %d, 0x%02X)", Describe(p), t, packetID, byte(code))
	}
	return p
}

// ExpectSuback takes a SUBACK with these Reason Codes.
func (c *Client) ExpectSuback(packetID uint16, codes ...codec.ReasonCode) *codec.Suback {
	c.t.Helper()
	p := Expect[*codec.Suback](c)
	if p.PacketID != packetID || !slices.Equal(p.ReasonCodes, codes) {
		c.t.Fatalf("got %s, want SUBACK(id %d, % X)", Describe(p), packetID, codes)
	}
	return p
}

// ExpectUnsuback takes an UNSUBACK with these Reason Codes, which 3.x doesn't have.
func (c *Client) ExpectUnsuback(packetID uint16, codes ...codec.ReasonCode) *codec.Unsuback {
	c.t.Helper()
	p := Expect[*codec.Unsuback](c)
	if p.PacketID != packetID || !slices.Equal(p.ReasonCodes, codes) {
		c.t.Fatalf("got %s, want UNSUBACK(id %d, % X)", Describe(p), packetID, codes)
	}
	return p
}

// ExpectPingresp takes a PINGRESP.
func (c *Client) ExpectPingresp() {
	c.t.Helper()
	Expect[Pingresp](c)
}

// ExpectAuth takes an AUTH with this Reason Code.
func (c *Client) ExpectAuth(code codec.ReasonCode) *codec.Auth {
	c.t.Helper()
	p := Expect[*codec.Auth](c)
	if p.ReasonCode != code {
		c.t.Fatalf("got %s, want reason code 0x%02X", Describe(p), byte(code))
	}
	return p
}

// ExpectDisconnect takes a DISCONNECT with this Reason Code and then the end of the connection [MQTT-3.14.4-2].
func (c *Client) ExpectDisconnect(code codec.ReasonCode) *codec.Disconnect {
	c.t.Helper()
	p := Expect[*codec.Disconnect](c)
	if p.ReasonCode != code {
		c.t.Fatalf("got %s, want reason code 0x%02X", Describe(p), byte(code))
	}
	c.ExpectClosed()
	return p
}

// ExpectClosed waits for the end of the connection. Any packet before it fails the test.
func (c *Client) ExpectClosed() {
	c.t.Helper()
	switch p, err := c.next(); {
	case err == nil:
		c.t.Fatalf("got %s, want the end of the connection", Describe(p))
	case !errors.Is(err, io.EOF):
		c.t.Fatalf("want the end of the connection: %v", err)
	}
}

// ExpectNothing checks that the broker has sent nothing up to now: it sends a PINGREQ, and the next packet has to be the PINGRESP. That
// covers answers to what this client sent. A message from another client may still be on its way between event loops; for its absence use
// [Client.ExpectNothingFrom].
func (c *Client) ExpectNothing() {
	c.t.Helper()
	c.Send(Pingreq{})
	c.ExpectPingresp()
}

// ExpectNothingFrom checks that no message which pub published before is on its way to c: c subscribes to a topic of its own, pub publishes
// there with QoS qos, and the next packet that c gets has to be that message, since messages of one client and one QoS keep their order.
// It is acknowledged. pub may be c.
func (c *Client) ExpectNothingFrom(pub *Client, qos byte) {
	c.t.Helper()
	topic := "brokertest/marker/" + Name()
	c.Subscribe(topic, qos)
	pub.Publish(topic, "marker", qos)
	p := c.ExpectPublish(topic, "marker")
	c.Acknowledge(p)
	c.Unsubscribe(topic)
}
