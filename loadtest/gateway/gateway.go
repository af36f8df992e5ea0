package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"loopmq/codec"
)

const (
	// requestMax is how long a request may take.
	requestMax = 30 * time.Second
	// writeMax is how long a client may take nothing.
	writeMax = 10 * time.Second
	// packetBytesMax bounds a packet, and a request.
	packetBytesMax = 64 << 20
)

// Options say what a Gateway is for.
type Options struct {
	// PublishURL is where messages are published to by HTTP, as JSON: loopmq's /publish, or /api/v5/publish of EMQX. "" means that
	// clients can't publish. User names and passwords of clients are sent with their requests.
	PublishURL string
	// Webhook is the address, host:port, where the broker's webhooks come in, on any path. "" means that there are none.
	Webhook string
	// OnError gets what went wrong, and an example, from any goroutine, until Close returns. nil means that nobody wants it.
	OnError func(what, example string)
}

// Gateway is an MQTT server, of 3.1.1 and 5.0, before HTTP. Its methods are safe for concurrent use.
type Gateway struct {
	Options
	listener net.Listener
	webhook  net.Listener // nil without one
	client   http.Client
	server   http.Server
	ctx      context.Context
	cancel   context.CancelFunc
	served   sync.WaitGroup

	reporting struct {
		sync.Mutex
		closed bool
	}

	mu struct {
		sync.RWMutex
		exact     map[string][]*conn // by Topic Filters without wildcards; empty once the last has gone
		wildcards map[string][]*conn
	}
}

// Start starts a Gateway. It ends with Close.
func Start(o Options) (*Gateway, error) {
	g := &Gateway{Options: o}
	if o.PublishURL != "" {
		u, err := url.Parse(o.PublishURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%q isn't a URL of http:// or https://", o.PublishURL)
		}
	}
	g.mu.exact, g.mu.wildcards = make(map[string][]*conn), make(map[string][]*conn)
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.client = http.Client{
		Timeout:       requestMax,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1 << 16, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var err error
	if g.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if o.Webhook != "" {
		if g.webhook, err = net.Listen("tcp", o.Webhook); err != nil {
			_ = g.listener.Close()
			return nil, fmt.Errorf("listen for webhooks: %w", err)
		}
		g.server = http.Server{Handler: g, ReadHeaderTimeout: requestMax, ReadTimeout: requestMax, WriteTimeout: requestMax}
		g.served.Go(func() { _ = g.server.Serve(g.webhook) })
	}
	g.served.Go(g.accept)
	return g, nil
}

// Addr is where MQTT clients connect to.
func (g *Gateway) Addr() string { return g.listener.Addr().String() }

// WebhookAddr is where webhooks come in: Options.Webhook, with the port if that was 0.
func (g *Gateway) WebhookAddr() string { return g.webhook.Addr().String() }

// Close ends all connections and requests, and returns when they have ended.
func (g *Gateway) Close() {
	g.cancel()
	_ = g.listener.Close()
	if g.webhook != nil {
		_ = g.server.Close()
	}
	g.served.Wait()
	g.client.CloseIdleConnections()
	g.reporting.Lock()
	defer g.reporting.Unlock()
	g.reporting.closed = true
}

// report tells of an error.
func (g *Gateway) report(what, example string) {
	g.reporting.Lock()
	defer g.reporting.Unlock()
	if !g.reporting.closed && g.OnError != nil {
		g.OnError(what, example)
	}
}

func (g *Gateway) accept() {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			if g.ctx.Err() == nil {
				g.report("gateway: accept", err.Error())
			}
			return
		}
		g.served.Go(func() { g.serve(c) })
	}
}

// A conn is a client's connection. Its goroutine reads; webhooks write as well.
type conn struct {
	net.Conn
	version  codec.Version
	clientID string
	user     *url.Userinfo
	filters  []string
	buf      []byte

	mu       sync.Mutex
	out      *bufio.Writer // guarded by mu
	packetID uint16        // guarded by mu
}

var errUnexpected = errors.New("a packet that the gateway doesn't take")

// serve is a connection's goroutine.
func (g *Gateway) serve(netConn net.Conn) {
	c := &conn{Conn: netConn, version: codec.V311, out: bufio.NewWriter(netConn)}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(g.ctx, func() { _ = c.Close() })()
	defer g.unsubscribe(c)
	r := bufio.NewReader(netConn)
	for {
		h, body, err := c.read(r)
		if err != nil {
			return // the client has gone
		}
		done, err := g.packet(c, h, body)
		if err != nil && g.ctx.Err() == nil {
			g.report("gateway", err.Error())
		}
		if done || err != nil {
			return
		}
		if r.Buffered() == 0 && c.flush() != nil {
			return
		}
	}
}

// read returns the next packet. body is valid until the next call.
func (c *conn) read(r *bufio.Reader) (h codec.FixedHeader, body []byte, err error) {
	for n := 2; ; n++ {
		head, err := r.Peek(n)
		if err != nil {
			return h, nil, err
		}
		var ok bool
		if h, ok, err = codec.DecodeFixedHeader(head, c.version); err != nil {
			return h, nil, err
		}
		if ok {
			break
		}
	}
	if h.Size > packetBytesMax {
		return h, nil, errUnexpected
	}
	if cap(c.buf) < h.Size {
		c.buf = make([]byte, h.Size)
	}
	c.buf = c.buf[:h.Size]
	for at := 0; at < h.Size; {
		n, err := r.Read(c.buf[at:])
		if err != nil {
			return h, nil, err
		}
		at += n
	}
	return h, c.buf[h.HeaderSize:], nil
}

// packet answers one packet. done says that it was the last.
func (g *Gateway) packet(c *conn, h codec.FixedHeader, body []byte) (done bool, err error) {
	switch h.Type {
	case codec.TypeConnect:
		var p codec.Connect
		if err := p.Decode(h.Flags, body); err != nil {
			return false, err
		}
		c.version, c.clientID = p.Version, string(p.ClientID)
		if p.UsernameFlag {
			c.user = url.UserPassword(string(p.Username), string(p.Password))
		}
		c.write((&codec.Connack{}).Append(nil, c.version))
	case codec.TypePublish:
		var p codec.Publish
		if err := p.Decode(c.version, h.Flags, body); err != nil {
			return false, err
		}
		return false, g.publish(c, &p)
	case codec.TypePubrec, codec.TypePubrel:
		var p codec.Ack
		if err := p.Decode(c.version, h.Type, body); err != nil {
			return false, err
		}
		answer := codec.TypePubrel
		if h.Type == codec.TypePubrel {
			answer = codec.TypePubcomp
		}
		c.write(codec.AppendAck(nil, answer, p.PacketID))
	case codec.TypePuback, codec.TypePubcomp:
	case codec.TypeSubscribe:
		var p codec.Subscribe
		if err := p.Decode(c.version, h.Flags, body); err != nil {
			return false, err
		}
		c.write(g.subscribe(c, &p).Append(nil, c.version))
	case codec.TypeUnsubscribe:
		var p codec.Unsubscribe
		if err := p.Decode(c.version, h.Flags, body); err != nil {
			return false, err
		}
		g.unsubscribe(c)
		c.write((&codec.Unsuback{PacketID: p.PacketID, ReasonCodes: make([]codec.ReasonCode, len(p.TopicFilters))}).Append(nil, c.version))
	case codec.TypePingreq:
		c.write(codec.AppendPingresp(nil))
	case codec.TypeDisconnect:
		return true, nil
	default:
		return false, fmt.Errorf("%w: %v", errUnexpected, h.Type)
	}
	return false, nil
}

// write adds a packet to what flush sends.
func (c *conn) write(packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(writeMax))
	_, _ = c.out.Write(packet) // flush says if it failed
}

func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(writeMax))
	return c.out.Flush()
}
