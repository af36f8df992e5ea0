package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"loopmq/codec"
)

// Client is what Publisher and Subscriber have in common.
type Client struct {
	// ClientID is unique, and the name in the Ledger.
	ClientID string
	// Addr returns where to connect. It is asked each time.
	Addr    func() string
	Version codec.Version
	Ledger  *Ledger
}

// reconnectPause is how long a client waits until it connects again.
const reconnectPause = 5 * time.Millisecond

// patience bounds each wait for a packet: a broker that is there and says nothing
// is one to leave.
const patience = 5 * time.Second

// errSessionGone: the broker does not know a session that it acknowledged.
var errSessionGone = errors.New("the broker has forgotten the session")

// connection is one of a client's connections.
type connection struct {
	net.Conn
	r       *bufio.Reader
	version codec.Version
}

// packet is a control packet of package codec.
type packet interface {
	Append(dst []byte, v codec.Version) []byte
}

func (c *connection) send(p packet) error {
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	_, err := c.Write(p.Append(nil, c.version))
	return err
}

// receive returns the next packet.
func (c *connection) receive() (h codec.FixedHeader, body []byte, err error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	var head []byte
	for n := 2; ; n++ {
		if head, err = c.r.Peek(n); err != nil {
			return h, nil, err
		}
		var ok bool
		if h, ok, err = codec.DecodeFixedHeader(head, c.version); err != nil {
			return h, nil, err
		}
		if ok {
			_, _ = c.r.Discard(n)
			break
		}
	}
	body = make([]byte, h.Remaining)
	_, err = io.ReadFull(c.r, body)
	return h, body, err
}

// each connects again and again, and has f use the connection, until f returns
// nil or ctx ends. known: the broker has acknowledged a connection before, so it has to
// know the session.
func (cl *Client) each(ctx context.Context, f func(c *connection) error) error {
	known := false
	for {
		err := cl.once(ctx, &known, f)
		if err == nil || errors.Is(err, errSessionGone) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", cl.ClientID, ctx.Err(), err)
		case <-time.After(reconnectPause):
		}
	}
}

func (cl *Client) once(ctx context.Context, known *bool, f func(c *connection) error) error {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", cl.Addr())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c := &connection{Conn: conn, r: bufio.NewReaderSize(conn, 64<<10), version: cl.Version}
	p := &codec.Connect{ProtocolName: []byte("MQTT"), Version: cl.Version, KeepAlive: 60, ClientID: []byte(cl.ClientID)}
	if cl.Version == codec.V5 {
		p.Properties.Set(codec.PropSessionExpiryInterval)
		p.Properties.SessionExpiryInterval = 0xFFFFFFFF
	}
	if err := c.send(p); err != nil {
		return err
	}
	h, body, err := c.receive()
	if err != nil {
		return err
	}
	var ack codec.Connack
	if h.Type != codec.TypeConnack {
		return fmt.Errorf("%v instead of CONNACK", h.Type)
	}
	if err := ack.Decode(c.version, h.Flags, body); err != nil {
		return err
	}
	if ack.ReasonCode != codec.Success {
		return fmt.Errorf("CONNACK with 0x%02X", byte(ack.ReasonCode))
	}
	if *known && !ack.SessionPresent {
		return fmt.Errorf("%s: %w", cl.ClientID, errSessionGone)
	}
	*known = true
	return f(c)
}

// Publisher publishes numbered messages to one topic, each until it is
// acknowledged.
type Publisher struct {
	Client
	TopicName string
	QoS       byte // 1 or 2
	Window    int  // messages under way

	next     int
	inFlight []outgoing
}

// outgoing is a message under way. Its Packet Identifier is its number.
type outgoing struct {
	seq      int
	released bool // PUBREC came: only PUBREL goes again [MQTT-4.4.0-1]
}

// Run publishes until stop is closed and all is acknowledged, or ctx ends.
func (p *Publisher) Run(ctx context.Context, stop <-chan struct{}) error {
	return p.each(ctx, func(c *connection) error {
		for _, o := range p.inFlight {
			if err := p.resend(c, o); err != nil {
				return err
			}
		}
		for {
			if done, err := p.fill(c, stop); done || err != nil {
				return err
			}
			if err := p.acknowledged(c); err != nil {
				return err
			}
		}
	})
}

// fill sends up to the window.
func (p *Publisher) fill(c *connection, stop <-chan struct{}) (done bool, err error) {
	for len(p.inFlight) < p.Window {
		select {
		case <-stop:
			return len(p.inFlight) == 0, nil
		default:
		}
		p.next++
		p.Ledger.Sent(p.ClientID, p.next, p.QoS)
		p.inFlight = append(p.inFlight, outgoing{seq: p.next})
		if err := p.publish(c, p.next, false); err != nil {
			return false, err
		}
	}
	return false, nil
}

func packetID(seq int) uint16 { return uint16((seq-1)%65535 + 1) }

func (p *Publisher) publish(c *connection, seq int, dup bool) error {
	return c.send(&codec.Publish{
		QoS: p.QoS, Dup: dup, TopicName: []byte(p.TopicName), PacketID: packetID(seq),
		Payload: fmt.Appendf(nil, "%s %d", p.ClientID, seq),
	})
}

func (p *Publisher) resend(c *connection, o outgoing) error {
	if o.released {
		return c.send(&codec.Ack{Type: codec.TypePubrel, PacketID: packetID(o.seq)})
	}
	return p.publish(c, o.seq, true)
}

// acknowledged handles one packet.
func (p *Publisher) acknowledged(c *connection) error {
	h, body, err := c.receive()
	if err != nil {
		return err
	}
	var ack codec.Ack
	switch h.Type {
	case codec.TypePuback, codec.TypePubrec, codec.TypePubcomp:
		if err := ack.Decode(c.version, h.Type, body); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%v for a publisher", h.Type)
	}
	i := slices.IndexFunc(p.inFlight, func(o outgoing) bool { return packetID(o.seq) == ack.PacketID })
	switch {
	case i < 0: // of a message that was sent twice
		return nil
	case ack.ReasonCode >= 0x80 && !p.inFlight[i].released:
		return fmt.Errorf("%v with 0x%02X", h.Type, byte(ack.ReasonCode)) // and again
	}
	o := &p.inFlight[i]
	if h.Type == codec.TypePubrec {
		o.released = true
		p.Ledger.Acked(p.ClientID, o.seq)
		return c.send(&codec.Ack{Type: codec.TypePubrel, PacketID: ack.PacketID})
	}
	p.Ledger.Acked(p.ClientID, o.seq)
	p.inFlight = slices.Delete(p.inFlight, i, i+1)
	return nil
}

// Subscriber subscribes once, and receives in a session that goes on.
type Subscriber struct {
	Client
	TopicFilter string
	QoS         byte
	// OnSubscribed is called after the first SUBACK; nil: nobody is.
	OnSubscribed func()

	subscribed bool
	held       map[uint16]bool // QoS 2, PUBREL is to come
}

// Run receives until ctx ends.
func (s *Subscriber) Run(ctx context.Context) error {
	s.held = make(map[uint16]bool)
	err := s.each(ctx, func(c *connection) error {
		if !s.subscribed {
			if err := c.send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{{
				TopicFilter: []byte(s.TopicFilter), Options: codec.SubscriptionOptions{QoS: s.QoS},
			}}}); err != nil {
				return err
			}
		}
		for {
			if err := s.packet(c); err != nil {
				return err
			}
		}
	})
	if ctx.Err() != nil && !errors.Is(err, errSessionGone) {
		return nil
	}
	return err
}

// packet handles one packet.
func (s *Subscriber) packet(c *connection) error {
	h, body, err := c.receive()
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil // nothing to receive
	}
	if err != nil {
		return err
	}
	switch h.Type {
	case codec.TypeSuback:
		var p codec.Suback
		if err := p.Decode(c.version, h.Flags, body); err != nil || len(p.ReasonCodes) != 1 || p.ReasonCodes[0] >= 0x80 {
			return fmt.Errorf("SUBACK % X: %w", p.ReasonCodes, err)
		}
		s.subscribed = true
		s.Ledger.Expect(s.ClientID)
		if s.OnSubscribed != nil {
			s.OnSubscribed()
			s.OnSubscribed = nil
		}
	case codec.TypePublish:
		return s.publish(c, h, body)
	case codec.TypePubrel:
		var p codec.Ack
		if err := p.Decode(c.version, h.Type, body); err != nil {
			return err
		}
		delete(s.held, p.PacketID)
		return c.send(&codec.Ack{Type: codec.TypePubcomp, PacketID: p.PacketID})
	default:
		return fmt.Errorf("%v for a subscriber", h.Type)
	}
	return nil
}

func (s *Subscriber) publish(c *connection, h codec.FixedHeader, body []byte) error {
	var p codec.Publish
	if err := p.Decode(c.version, h.Flags, body); err != nil {
		return err
	}
	var publisher string
	var seq int
	if _, err := fmt.Sscan(string(p.Payload), &publisher, &seq); err != nil {
		return fmt.Errorf("payload %q: %w", p.Payload, err)
	}
	switch {
	case p.QoS == 1:
		s.Ledger.Received(s.ClientID, publisher, seq)
		return c.send(&codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID})
	case p.QoS == 2 && !s.held[p.PacketID]:
		s.held[p.PacketID] = true
		s.Ledger.Received(s.ClientID, publisher, seq)
	}
	return c.send(&codec.Ack{Type: codec.TypePubrec, PacketID: p.PacketID})
}
