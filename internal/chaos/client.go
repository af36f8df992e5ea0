package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"loopmq/codec"
)

// Never is a Session Expiry Interval: the session does not expire.
const Never = 0xFFFFFFFF

// Client is what all clients have in common. Its exported fields are not changed
// once it runs; Drop and Intrude may be called by any goroutine.
type Client struct {
	// ClientID is unique, and the name in the Ledger.
	ClientID string
	// Addr returns where to connect. It is asked each time.
	Addr    func() string
	Version codec.Version
	Ledger  *Ledger
	// SessionExpiryInterval, in seconds, is 0 for a session that ends with its
	// connection. In 3.x anything else is a session that lasts.
	SessionExpiryInterval uint32
	// ReceiveMaximum is left to its default if it is 0, and not known to 3.x.
	ReceiveMaximum uint16

	mu struct {
		sync.Mutex
		conn net.Conn
	}
}

// reconnectPause is how long a client waits at least until it connects again, and up
// to four times as long.
const reconnectPause = 5 * time.Millisecond

// patience bounds each wait for a packet: a broker that is there and says nothing
// is one to leave.
const patience = 5 * time.Second

var (
	// errSessionGone: the broker does not know a session that it acknowledged.
	errSessionGone = errors.New("the broker has forgotten the session")
	// errPartial: the connection ended, or nothing came, within a packet.
	errPartial = errors.New("part of a packet")
)

// connection is one of a client's connections.
type connection struct {
	net.Conn
	r       *bufio.Reader
	version codec.Version
	connack codec.Connack
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

// receive returns the next packet. After a timeout it may be called again.
func (c *connection) receive(wait time.Duration) (h codec.FixedHeader, body []byte, err error) {
	_ = c.SetReadDeadline(time.Now().Add(wait))
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
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err = io.ReadFull(c.r, body); err != nil {
		return h, nil, errPartial
	}
	return h, body, nil
}

// isTimeout reports whether receive has waited in vain.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Drop cuts the client's connection, if it has one: it connects again, to whatever
// Addr says then.
func (cl *Client) Drop() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.mu.conn != nil {
		_ = cl.mu.conn.Close()
	}
}

// Intrude connects with the client's ClientID at addr, takes its session over, and
// acknowledges nothing, until the broker ends that connection or ctx ends. It reports
// whether the broker took it.
func (cl *Client) Intrude(ctx context.Context, addr string) (taken bool) {
	other := &Client{
		ClientID: cl.ClientID, Addr: func() string { return addr }, Version: cl.Version, SessionExpiryInterval: cl.SessionExpiryInterval,
	}
	_ = other.once(ctx, nil, func(c *connection) error {
		taken = true
		for {
			if _, _, err := c.receive(patience); err != nil && !isTimeout(err) {
				return err
			}
		}
	})
	return taken
}

// Appear connects once and leaves, as a client that no Run uses any more: whoever has
// intruded into its session loses it.
func (cl *Client) Appear(ctx context.Context) error {
	last := &Client{ClientID: cl.ClientID, Addr: cl.Addr, Version: cl.Version, SessionExpiryInterval: cl.SessionExpiryInterval}
	return last.each(ctx, func(c *connection) error { return c.send(&codec.Disconnect{}) })
}

// End ends the client's session, which no Run uses any more.
func (cl *Client) End(ctx context.Context) error {
	last := &Client{ClientID: cl.ClientID, Addr: cl.Addr, Version: cl.Version}
	return last.each(ctx, func(c *connection) error { return c.send(&codec.Disconnect{}) })
}

// each connects again and again, and has f use the connection, until f returns
// nil or ctx ends.
func (cl *Client) each(ctx context.Context, f func(c *connection) error) error {
	// Once the broker has acknowledged a connection it has to know the session.
	known := false
	for {
		err := cl.once(ctx, nil, func(c *connection) error {
			if known && cl.SessionExpiryInterval == Never && !c.connack.SessionPresent {
				return fmt.Errorf("%s: %w", cl.ClientID, errSessionGone)
			}
			known = true
			return f(c)
		})
		if err == nil || errors.Is(err, errSessionGone) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", cl.ClientID, ctx.Err(), err)
		case <-time.After(reconnectPause + rand.N(3*reconnectPause)):
		}
	}
}

// once connects, with a Will unless it is nil, and has f use the connection.
func (cl *Client) once(ctx context.Context, will *codec.Will, f func(c *connection) error) error {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", cl.Addr())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	cl.mu.Lock()
	cl.mu.conn = conn
	cl.mu.Unlock()
	c := &connection{Conn: conn, r: bufio.NewReaderSize(conn, 64<<10), version: cl.Version}
	p := &codec.Connect{
		ProtocolName: []byte("MQTT"), Version: cl.Version, ClientID: []byte(cl.ClientID), CleanStart: cl.SessionExpiryInterval == 0,
	}
	if will != nil {
		p.WillFlag, p.Will = true, *will
	}
	if cl.Version == codec.V5 {
		p.Properties.Set(codec.PropSessionExpiryInterval)
		p.Properties.SessionExpiryInterval = cl.SessionExpiryInterval
		if cl.ReceiveMaximum > 0 {
			p.Properties.Set(codec.PropReceiveMaximum)
			p.Properties.ReceiveMaximum = cl.ReceiveMaximum
		}
	}
	if err := c.send(p); err != nil {
		return err
	}
	h, body, err := c.receive(patience)
	if err != nil {
		return err
	}
	if h.Type != codec.TypeConnack {
		return fmt.Errorf("%v instead of CONNACK", h.Type)
	}
	if err := c.connack.Decode(c.version, h.Flags, body); err != nil {
		return err
	}
	if c.connack.ReasonCode != codec.Success {
		return fmt.Errorf("CONNACK with 0x%02X", byte(c.connack.ReasonCode))
	}
	return f(c)
}
