// Package v5 shows for each normative statement of MQTT 5.0 that binds a Server how the broker obeys it, as its Clients see it: bytes on
// the wire, Reason Codes, closed connections. The doc comment of a test names the statements that it shows; docs/conformance.md is made
// from them.
package v5

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// shared is the broker with default options that all tests use which need no other. They don't disturb each other since all their
// ClientIDs and topics are made by brokertest.Name.
var shared *brokertest.Server

func TestMain(m *testing.M) {
	// The tests wait more than they work, so they can be many at a time, whatever the number of cores. An error leaves the default.
	flag.Parse()
	_ = flag.Set("test.parallel", "32")
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	for s, options := range map[**brokertest.Server][]func(*loopmq.Options){&shared: nil, &guarded: {guard}} {
		var err error
		if *s, err = brokertest.Run(options...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() {
			if err := (*s).Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}()
	}
	return m.Run()
}

// dial opens a connection to the shared broker.
func dial(t *testing.T) *brokertest.Client {
	t.Helper()
	return brokertest.Dial(t, shared.Addr, codec.V5)
}

// connect opens a connection to the shared broker and has its CONNECT accepted.
func connect(t *testing.T, options ...brokertest.ConnectOption) *brokertest.Client {
	t.Helper()
	return brokertest.Connect(t, shared.Addr, codec.V5, options...)
}

// resume connects a Client to a Session that has to be there.
func resume(t *testing.T, id string, options ...brokertest.ConnectOption) *brokertest.Client {
	t.Helper()
	c := dial(t)
	if p := c.Connect(append([]brokertest.ConnectOption{brokertest.Durable(id)}, options...)...); !p.SessionPresent {
		t.Fatal("the session is gone")
	}
	return c
}

// disconnected takes a DISCONNECT with one of the Reason Codes, and the end of the connection after it.
func disconnected(t *testing.T, c *brokertest.Client, codes ...codec.ReasonCode) *codec.Disconnect {
	t.Helper()
	p := brokertest.Expect[*codec.Disconnect](c)
	if !slices.Contains(codes, p.ReasonCode) {
		t.Fatalf("got %s, want one of % X", brokertest.Describe(p), codes)
	}
	c.ExpectClosed()
	return p
}

// ended takes the end of the connection, before which a DISCONNECT with one of the Reason Codes may come, and nothing else.
func ended(t *testing.T, c *brokertest.Client, codes ...codec.ReasonCode) {
	t.Helper()
	switch p := c.ReceiveOrClosed().(type) {
	case nil:
	case *codec.Disconnect:
		if !slices.Contains(codes, p.ReasonCode) {
			t.Fatalf("got %s, want one of % X", brokertest.Describe(p), codes)
		}
		c.ExpectClosed()
	default:
		t.Fatalf("got %s, want the end of the connection", brokertest.Describe(p))
	}
}

// await takes PUBLISH packets, acknowledging each, until the one with this payload is there.
func await(t *testing.T, c *brokertest.Client, payload string) *codec.Publish {
	t.Helper()
	for {
		p := brokertest.Expect[*codec.Publish](c)
		c.Acknowledge(p)
		if string(p.Payload) == payload {
			return p
		}
	}
}

// receiveBoth takes an acknowledgement and a PUBLISH, in either order, and returns the PUBLISH.
func receiveBoth(t *testing.T, c *brokertest.Client, packetType codec.PacketType, packetID uint16) (publish *codec.Publish) {
	t.Helper()
	var acknowledgement *codec.Ack
	for range 2 {
		switch p := c.Receive().(type) {
		case *codec.Publish:
			publish = p
		case *codec.Ack:
			acknowledgement = p
		default:
			t.Fatalf("got %s", brokertest.Describe(p))
		}
	}
	if publish == nil || acknowledgement == nil || acknowledgement.Type != packetType || acknowledgement.PacketID != packetID {
		t.Fatalf("got %+v and %+v, want PUBLISH and %v", publish, acknowledgement, packetType)
	}
	return publish
}

// elapse lets time pass. It is for statements about intervals, which are whole seconds; it never waits for something to have happened.
func elapse(d time.Duration) { <-time.After(d) }

// publish is a PUBLISH.
func publish(topicName, payload string, qos byte, packetID uint16, properties ...any) *codec.Publish {
	return &codec.Publish{
		TopicName: []byte(topicName), Payload: []byte(payload), QoS: qos, PacketID: packetID,
		Properties: brokertest.Properties(properties...),
	}
}

// properties sets the properties in a call of Client.Publish.
func properties(pairs ...any) func(*codec.Publish) {
	return func(p *codec.Publish) { p.Properties = brokertest.Properties(pairs...) }
}

// ack is a PUBACK, PUBREC, PUBREL or PUBCOMP.
func ack(t codec.PacketType, packetID uint16, code codec.ReasonCode) *codec.Ack {
	return &codec.Ack{Type: t, PacketID: packetID, ReasonCode: code}
}

// subscribe is a SUBSCRIBE.
func subscribe(packetID uint16, subscriptions ...codec.Subscription) *codec.Subscribe {
	return &codec.Subscribe{PacketID: packetID, Subscriptions: subscriptions}
}

// option changes the options of the subscription in a call of Client.Subscribe.
func option(set func(*codec.SubscriptionOptions)) func(*codec.Subscribe) {
	return func(p *codec.Subscribe) { set(&p.Subscriptions[0].Options) }
}

// identifier sets the Subscription Identifier in a call of Client.Subscribe.
func identifier(n int) func(*codec.Subscribe) {
	return func(p *codec.Subscribe) { p.Properties = brokertest.Properties(codec.PropSubscriptionIdentifier, n) }
}

// packet is a control packet of any form: its first byte and the parts of its body.
func packet(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return slices.Concat([]byte{first}, variableByteInteger(len(body)), body)
}

func variableByteInteger(n int) []byte {
	var b []byte
	for {
		digit := byte(n % 128)
		if n /= 128; n > 0 {
			digit |= 0x80
		}
		if b = append(b, digit); n == 0 {
			return b
		}
	}
}

// str is a string or binary data with its two bytes of length.
func str(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// connectPacket is a CONNECT with these Connect Flags, no properties, and this payload.
func connectPacket(flags byte, payload ...[]byte) []byte {
	return packet(0x10, append([][]byte{str("MQTT"), {5, flags, 0, 60, 0}}, payload...)...)
}

// badStrings are strings that no string in a packet may be.
var badStrings = map[string]string{
	"surrogate":         "a\xED\xA0\x80b",
	"overlong":          "a\xC0\xAFb",
	"truncated":         "a\xE2\x82",
	"beyond U+10FFFF":   "a\xF4\x90\x80\x80",
	"lone continuation": "a\x80b",
}

// hasProblemInformation reports whether there are a Reason String or User Properties.
func hasProblemInformation(p *codec.Properties) bool {
	return p.Has(codec.PropReasonString) || p.Has(codec.PropUserProperty)
}

// long is a Topic Name or Topic Filter of n bytes that no other test has.
func long(n int) string {
	s := brokertest.Name() + "/"
	return s + strings.Repeat("x", n-len(s))
}
