// Package v3 shows for each normative statement of MQTT 3.1.1 that binds a Server how the broker obeys it, as its Clients see it: bytes on
// the wire, return codes, closed connections. The doc comment of a test names the statements that it shows, with the identifiers of 3.1.1,
// which differ from those of 5.0; docs/conformance.md is made from them. What MQTT 3.1 says differently is in package v31.
package v3

import (
	"context"
	"encoding/binary"
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

// guarded is a broker that refuses things: see guard.
var guarded *brokertest.Server

func TestMain(m *testing.M) {
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

func guard(o *loopmq.Options) { o.Authenticator, o.Authorizer = gate{}, gate{} }

// gate lets everybody in but the User Names in refusals and ClientIDs with "invalid" in them, and allows all topics without "denied" in
// them.
type gate struct{}

// refusals are the Reason Codes that a User Name gets.
var refusals = map[string]codec.ReasonCode{
	"unavailable":   codec.ServerUnavailable,
	"wrong":         codec.BadUserNameOrPassword,
	"unauthorized":  codec.NotAuthorized,
	"banned":        codec.Banned,
	"inexpressible": codec.ImplementationSpecificError,
}

func (gate) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if code, refused := refusals[r.Username]; refused {
		return loopmq.Identity{}, nil, codec.NewError(code, "refused by its name")
	}
	if strings.Contains(r.ClientID, "invalid") {
		return loopmq.Identity{}, nil, codec.NewError(codec.ClientIdentifierNotValid, "not a name for a client")
	}
	return loopmq.Identity{Username: r.Username}, nil, nil
}

func (gate) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, codec.NewError(codec.BadAuthenticationMethod, "no such method")
}

func (gate) Authorize(_ context.Context, _ *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	return !strings.Contains(topic, "denied")
}

// dial opens a connection to the shared broker.
func dial(t *testing.T) *brokertest.Client {
	t.Helper()
	return brokertest.Dial(t, shared.Addr, codec.V311)
}

// connect opens a connection to the shared broker and has its CONNECT accepted. Clean Session is 1 unless the options say otherwise.
func connect(t *testing.T, options ...brokertest.ConnectOption) *brokertest.Client {
	t.Helper()
	return brokertest.Connect(t, shared.Addr, codec.V311, options...)
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

// dialGuarded opens a connection to the broker that refuses things.
func dialGuarded(t *testing.T) *brokertest.Client {
	t.Helper()
	if brokertest.Outside() {
		t.Skip("needs a broker with options of its own")
	}
	return brokertest.Dial(t, guarded.Addr, codec.V311)
}

func connectGuarded(t *testing.T, options ...brokertest.ConnectOption) *brokertest.Client {
	t.Helper()
	c := dialGuarded(t)
	c.Connect(options...)
	return c
}

// closes sends each of the packets on a connection of its own, which has to be closed without an answer.
func closes(t *testing.T, raw ...[]byte) {
	t.Helper()
	for _, b := range raw {
		c := connect(t)
		c.SendRaw(b)
		if p := c.ReceiveOrClosed(); p != nil {
			t.Errorf("got %s for % .64X, want the end of the connection", brokertest.Describe(p), b)
		}
	}
}

// refused sends each of the CONNECT packets on a connection of its own, which has to be closed without a CONNACK [MQTT-3.1.4-1].
func refused(t *testing.T, raw ...[]byte) {
	t.Helper()
	for _, b := range raw {
		c := dial(t)
		c.SendRaw(b)
		if p := c.ReceiveOrClosed(); p != nil {
			t.Errorf("got %s for % .64X, want the end of the connection", brokertest.Describe(p), b)
		}
	}
}

// retained subscribes anew and returns the retained messages that come, acknowledged. A second Topic Filter in the same SUBSCRIBE, which
// counts as a later one [MQTT-3.8.4-4], brings the message that shows their end.
func retained(t *testing.T, topicFilter string) (all []*codec.Publish) {
	t.Helper()
	c, end := connect(t), brokertest.Name()
	c.Publish(end, "end", 2, brokertest.Retained)
	c.Send(subscribe(1, brokertest.Subscription(topicFilter, 2), brokertest.Subscription(end, 2)))
	for {
		p, ok := c.Receive().(*codec.Publish)
		if !ok {
			continue // SUBACK may come before, between or after
		}
		c.Acknowledge(p)
		if string(p.TopicName) == end {
			c.Publish(end, "", 0, brokertest.Retained)
			return all
		}
		all = append(all, p)
	}
}

// received returns the messages of pub that are on their way to c, acknowledged. Marks that pub publishes behind them with each QoS show
// where they end.
func received(t *testing.T, c, pub *brokertest.Client) (all []*codec.Publish) {
	t.Helper()
	end := brokertest.Name()
	c.Subscribe(end, 2)
	for qos := range byte(3) {
		pub.Publish(end, "end", qos)
	}
	for n := 0; n < 3; {
		p := brokertest.Expect[*codec.Publish](c)
		c.Acknowledge(p)
		if string(p.TopicName) == end {
			n++
			continue
		}
		all = append(all, p)
	}
	c.Unsubscribe(end)
	return all
}

func payloads(all []*codec.Publish) (payloads []string) {
	for _, p := range all {
		payloads = append(payloads, string(p.Payload))
	}
	return payloads
}

// elapse lets time pass. It is for statements about intervals, which are whole seconds; it never waits for something to have happened.
func elapse(d time.Duration) { <-time.After(d) }

// publish is a PUBLISH.
func publish(topicName, payload string, qos byte, packetID uint16) *codec.Publish {
	return &codec.Publish{TopicName: []byte(topicName), Payload: []byte(payload), QoS: qos, PacketID: packetID}
}

// ack is a PUBACK, PUBREC, PUBREL or PUBCOMP.
func ack(t codec.PacketType, packetID uint16) *codec.Ack {
	return &codec.Ack{Type: t, PacketID: packetID}
}

// subscribe is a SUBSCRIBE.
func subscribe(packetID uint16, subscriptions ...codec.Subscription) *codec.Subscribe {
	return &codec.Subscribe{PacketID: packetID, Subscriptions: subscriptions}
}

// unsubscribe is an UNSUBSCRIBE.
func unsubscribe(packetID uint16, topicFilters ...string) *codec.Unsubscribe {
	p := &codec.Unsubscribe{PacketID: packetID}
	for _, f := range topicFilters {
		p.TopicFilters = append(p.TopicFilters, []byte(f))
	}
	return p
}

// bytesOf are packets as they go over the wire.
func bytesOf(packets ...brokertest.Packet) (raw [][]byte) {
	for _, p := range packets {
		raw = append(raw, p.Append(nil, codec.V311))
	}
	return raw
}

// packet is a control packet of any form: its first byte and the parts of its body.
func packet(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	length := binary.AppendUvarint(nil, uint64(len(body))) // has the form of a Remaining Length
	return slices.Concat([]byte{first}, length, body)
}

// str is a string or binary field with its two bytes of length.
func str(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// connectPacket is a CONNECT with these Connect Flags and this payload.
func connectPacket(flags byte, payload ...[]byte) []byte {
	return packet(0x10, append([][]byte{str("MQTT"), {4, flags, 0, 60}}, payload...)...)
}

// badStrings are strings that no string in a packet may be.
var badStrings = []string{
	"a\xED\xA0\x80b",     // a surrogate
	"a\xC0\xAFb",         // longer than needed
	"a\xE2\x82",          // cut off
	"a\xF4\x90\x80\x80b", // beyond U+10FFFF
	"a\x80b",             // a lone continuation byte
	"a\x00b",             // U+0000
}
