package brokertest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"loopmq/codec"
)

// Timeout is how long a client waits for a packet or for the end of the connection before the test fails.
const Timeout = 20 * time.Second

// Client is one Network Connection to a broker, and what a test sends and expects on it. Its methods fail the test that it was made for,
// so they are to be called from the goroutine of that test, and end it there. The zero value is of no use: see [Dial] and [Connect].
type Client struct {
	// ClientID is the Client Identifier of the last CONNECT, or the one that the broker assigned.
	ClientID string

	t        testing.TB
	conn     net.Conn
	version  codec.Version
	timeout  time.Duration
	received []byte   // bytes of packets that haven't been taken yet
	aside    []Packet // packets that came while a handshake waited for another
	packetID uint16   // the last one assigned
}

// Dial opens a connection, over which nothing is sent yet. It is closed when the test ends.
func Dial(t testing.TB, addr string, version codec.Version) *Client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, Timeout)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	return Over(t, conn, version)
}

// Over uses a connection that the test has made, over another transport than TCP. It is closed when the test ends.
func Over(t testing.TB, conn net.Conn, version codec.Version) *Client {
	t.Cleanup(func() { _ = conn.Close() })
	return &Client{t: t, conn: conn, version: version, timeout: Timeout}
}

// Connect opens a connection, sends a CONNECT made by the options (see [Client.SendConnect]), and expects to be accepted.
func Connect(t testing.TB, addr string, version codec.Version, options ...ConnectOption) *Client {
	t.Helper()
	c := Dial(t, addr, version)
	c.Connect(options...)
	return c
}

// ConnectOption changes a CONNECT before it is sent.
type ConnectOption func(*codec.Connect)

// ClientID sets the Client Identifier. Without it, a new [Name] is used.
func ClientID(id string) ConnectOption {
	return func(p *codec.Connect) { p.ClientID = []byte(id) }
}

// Resume sets Clean Start (3.x: Clean Session) to 0.
func Resume(p *codec.Connect) { p.CleanStart = false }

// Durable makes a session that outlives its connection: Clean Start 0 and, for 5.0, a Session Expiry Interval of a minute.
func Durable(id string) ConnectOption {
	return func(p *codec.Connect) {
		p.ClientID, p.CleanStart = []byte(id), false
		if p.Version == codec.V5 {
			setProperty(&p.Properties, codec.PropSessionExpiryInterval, 60)
		}
	}
}

// KeepAlive sets the Keep Alive, in seconds.
func KeepAlive(seconds uint16) ConnectOption {
	return func(p *codec.Connect) { p.KeepAlive = seconds }
}

// Credentials sets User Name and Password.
func Credentials(username, password string) ConnectOption {
	return func(p *codec.Connect) {
		p.UsernameFlag, p.Username = true, []byte(username)
		p.PasswordFlag, p.Password = true, []byte(password)
	}
}

// Will sets the Will Message. Its properties are pairs as for [Properties].
func Will(topicName, payload string, qos byte, retain bool, properties ...any) ConnectOption {
	return func(p *codec.Connect) {
		p.WillFlag = true
		p.Will = codec.Will{
			QoS: qos, Retain: retain, TopicName: []byte(topicName), Payload: []byte(payload), Properties: Properties(properties...),
		}
	}
}

// With adds properties to a CONNECT: pairs as for [Properties].
func With(properties ...any) ConnectOption {
	return func(p *codec.Connect) {
		for i := 0; i < len(properties); i += 2 {
			setProperty(&p.Properties, properties[i].(codec.PropertyID), properties[i+1])
		}
	}
}

// SendConnect sends a CONNECT with Clean Start 1, a Keep Alive of a minute, and a ClientID of its own, changed by the options.
func (c *Client) SendConnect(options ...ConnectOption) {
	c.t.Helper()
	p := &codec.Connect{
		ProtocolName: []byte("MQTT"), Version: c.version, CleanStart: true, KeepAlive: 60, ClientID: []byte(Name()),
	}
	if c.version == codec.V31 {
		p.ProtocolName = []byte("MQIsdp")
	}
	for _, o := range options {
		o(p)
	}
	c.ClientID = string(p.ClientID)
	c.Send(p)
}

// Connect sends a CONNECT as [Client.SendConnect] does and returns the CONNACK, which has to be one with Success.
func (c *Client) Connect(options ...ConnectOption) *codec.Connack {
	c.t.Helper()
	c.SendConnect(options...)
	p := c.ExpectConnack(codec.Success)
	if p.Properties.Has(codec.PropAssignedClientIdentifier) {
		c.ClientID = string(p.Properties.AssignedClientIdentifier)
	}
	return p
}

// Disconnect sends DISCONNECT and waits until the broker has closed the connection, throwing away the PUBLISH packets that still come.
func (c *Client) Disconnect() {
	c.t.Helper()
	c.Send(&codec.Disconnect{})
	c.drain()
}

// Close ends the connection without a DISCONNECT, as a network failure does.
func (c *Client) Close() { _ = c.conn.Close() }

// CloseWrite ends the client's direction of the connection.
func (c *Client) CloseWrite() {
	c.t.Helper()
	if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
		c.t.Fatalf("close the writing side: %v", err)
	}
}

// SetTimeout changes how long this client waits, for tests of what takes longer than [Timeout].
func (c *Client) SetTimeout(d time.Duration) { c.timeout = d }

// Send sends packets in one write.
func (c *Client) Send(packets ...Packet) {
	c.t.Helper()
	var b []byte
	for _, p := range packets {
		b = p.Append(b, c.version)
	}
	c.SendRaw(b)
}

// SendRaw sends bytes as they are, in one write.
func (c *Client) SendRaw(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// PacketID returns a Packet Identifier that this client hasn't used yet.
func (c *Client) PacketID() uint16 {
	c.packetID++
	return c.packetID
}

// Publish sends a PUBLISH, goes through the handshake of its QoS, and returns the Packet Identifier used. PUBLISH packets that come
// meanwhile are kept for the Expect methods; a Reason Code from 0x80 on fails the test.
func (c *Client) Publish(topicName, payload string, qos byte, change ...func(*codec.Publish)) uint16 {
	c.t.Helper()
	p := &codec.Publish{TopicName: []byte(topicName), Payload: []byte(payload), QoS: qos}
	if qos > 0 {
		p.PacketID = c.PacketID()
	}
	for _, f := range change {
		f(p)
	}
	c.Send(p)
	switch p.QoS {
	case 1:
		c.handshake(codec.TypePuback, p.PacketID)
	case 2:
		c.handshake(codec.TypePubrec, p.PacketID)
		c.Send(&codec.Ack{Type: codec.TypePubrel, PacketID: p.PacketID})
		c.handshake(codec.TypePubcomp, p.PacketID)
	}
	return p.PacketID
}

// Retained sets RETAIN in a call of [Client.Publish].
func Retained(p *codec.Publish) { p.Retain = true }

// Subscribe subscribes to one Topic Filter, expects the QoS asked for to be granted, and returns the SUBACK. PUBLISH packets that come
// before it are kept for the Expect methods.
func (c *Client) Subscribe(topicFilter string, qos byte, change ...func(*codec.Subscribe)) *codec.Suback {
	c.t.Helper()
	p := &codec.Subscribe{PacketID: c.PacketID(), Subscriptions: []codec.Subscription{Subscription(topicFilter, qos)}}
	for _, f := range change {
		f(p)
	}
	c.Send(p)
	suback, ok := c.await(func(p Packet) bool { _, ok := p.(*codec.Suback); return ok }).(*codec.Suback)
	if !ok || suback.PacketID != p.PacketID || len(suback.ReasonCodes) != 1 || byte(suback.ReasonCodes[0]) != qos {
		c.t.Fatalf("got %s, want SUBACK(id %d, %02X)", Describe(suback), p.PacketID, qos)
	}
	return suback
}

// Subscription is one Topic Filter of a SUBSCRIBE, with all other options 0.
func Subscription(topicFilter string, qos byte) codec.Subscription {
	return codec.Subscription{TopicFilter: []byte(topicFilter), Options: codec.SubscriptionOptions{QoS: qos}}
}

// Unsubscribe ends the subscriptions to the Topic Filters and returns the UNSUBACK.
func (c *Client) Unsubscribe(topicFilters ...string) *codec.Unsuback {
	c.t.Helper()
	p := &codec.Unsubscribe{PacketID: c.PacketID()}
	for _, f := range topicFilters {
		p.TopicFilters = append(p.TopicFilters, []byte(f))
	}
	c.Send(p)
	unsuback, ok := c.await(func(p Packet) bool { _, ok := p.(*codec.Unsuback); return ok }).(*codec.Unsuback)
	if !ok || unsuback.PacketID != p.PacketID {
		c.t.Fatalf("got %s, want UNSUBACK(id %d)", Describe(unsuback), p.PacketID)
	}
	return unsuback
}

// Acknowledge goes through the rest of the handshake for a PUBLISH from the broker. Other PUBLISH packets that come meanwhile are kept for
// the Expect methods.
func (c *Client) Acknowledge(p *codec.Publish) {
	c.t.Helper()
	switch p.QoS {
	case 1:
		c.Send(&codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID})
	case 2:
		c.Send(&codec.Ack{Type: codec.TypePubrec, PacketID: p.PacketID})
		c.handshake(codec.TypePubrel, p.PacketID)
		c.Send(&codec.Ack{Type: codec.TypePubcomp, PacketID: p.PacketID})
	}
}

// Ping sends PINGREQ and waits for the PINGRESP, keeping the PUBLISH packets that come before it. When it returns, the broker has
// processed all that this client sent.
func (c *Client) Ping() {
	c.t.Helper()
	c.Send(Pingreq{})
	c.await(func(p Packet) bool { return p == Packet(Pingresp{}) })
}

// handshake takes the acknowledgement of type t for a Packet Identifier.
func (c *Client) handshake(t codec.PacketType, id uint16) {
	c.t.Helper()
	p := c.await(func(p Packet) bool { a, ok := p.(*codec.Ack); return ok && a.Type == t && a.PacketID == id }).(*codec.Ack)
	if p.ReasonCode.IsError() {
		c.t.Fatalf("got %s, want success", Describe(p))
	}
}

// await returns the first packet that is wanted. PUBLISH packets before it are put aside, anything else fails the test.
func (c *Client) await(wanted func(Packet) bool) Packet {
	c.t.Helper()
	for {
		p, err := c.read()
		if err != nil {
			c.t.Fatalf("waiting for an answer: %v", err)
		}
		if wanted(p) {
			return p
		}
		if _, ok := p.(*codec.Publish); !ok {
			c.t.Fatalf("got %s while waiting for an answer", Describe(p))
		}
		c.aside = append(c.aside, p)
	}
}

// next returns the next packet: one put aside, or one from the connection.
func (c *Client) next() (Packet, error) {
	if len(c.aside) > 0 {
		p := c.aside[0]
		c.aside = c.aside[1:]
		return p, nil
	}
	return c.read()
}

// read returns the next packet from the connection. It is well-formed and owns its bytes. The error is io.EOF when the broker has closed
// the connection.
func (c *Client) read() (Packet, error) {
	h, raw, err := c.readRaw()
	if err != nil {
		return nil, err
	}
	p, err := decode(h, raw[h.HeaderSize:], c.version)
	if err != nil {
		return nil, fmt.Errorf("the broker sent % X: %w", raw, err)
	}
	return p, nil
}

// readRaw returns a copy of the next packet's bytes.
func (c *Client) readRaw() (codec.FixedHeader, []byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return codec.FixedHeader{}, nil, err
	}
	for {
		h, ok, err := codec.DecodeFixedHeader(c.received, c.version)
		if err != nil {
			return h, nil, fmt.Errorf("the broker sent % X: %w", c.received, err)
		}
		if ok && len(c.received) >= h.Size {
			raw := slices.Clone(c.received[:h.Size])
			c.received = c.received[h.Size:]
			return h, raw, nil
		}
		c.received = slices.Grow(c.received, 4096)
		n, err := c.conn.Read(c.received[len(c.received):cap(c.received)])
		c.received = c.received[:len(c.received)+n]
		if n > 0 {
			continue
		}
		// A broker that closes with bytes of ours unread makes TCP reset the connection: closed all the same.
		if errors.Is(err, syscall.ECONNRESET) {
			err = io.EOF
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return h, nil, fmt.Errorf("no packet within %v (% X of one has come)", c.timeout, c.received)
		}
		if errors.Is(err, io.EOF) && len(c.received) > 0 {
			return h, nil, fmt.Errorf("the broker closed after a part of a packet: % X", c.received)
		}
		return h, nil, err
	}
}

// drain throws away PUBLISH packets until the broker has closed the connection.
func (c *Client) drain() {
	c.t.Helper()
	for {
		p, err := c.next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			c.t.Fatalf("waiting for the end of the connection: %v", err)
		}
		if _, ok := p.(*codec.Publish); !ok {
			c.t.Fatalf("got %s, want the end of the connection", Describe(p))
		}
	}
}
