package httpbridge

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
)

// connectionListener counts connections against the limits of their addresses, as the
// Broker does with MQTT clients'.
type connectionListener struct {
	net.Listener
	b *Bridge
}

// Accept returns the next connection.
func (l connectionListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &connection{Conn: c, b: l.b}, nil
}

// connection is one that counts from its first Read on, since until then its address may
// be in a PROXY header that hasn't come. Its methods may be called by any goroutine.
type connection struct {
	net.Conn
	b *Bridge

	mu struct {
		sync.Mutex
		entered, closed bool
		leave           func()
		refused         error // it is over the limit: what requests are answered
	}
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// enter counts the connection, unless it is counted. Those of proxies aren't: they are
// many clients'. It returns io.EOF, on which the server says nothing, if the connection has
// to be closed at once.
func (c *connection) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.entered && !c.mu.closed {
		c.mu.entered = true
		addr := c.RemoteAddr()
		if tcp, ok := addr.(*net.TCPAddr); !ok || !contains(c.b.opts.Forwarders, tcp.AddrPort().Addr()) {
			c.mu.leave, c.mu.refused = c.b.broker.EnterAddress(addr)
		}
	}
	if c.mu.refused != nil && c.mu.leave == nil {
		return io.EOF
	}
	return nil
}

// over returns why nothing is done for the connection, or nil.
func (c *connection) over() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.refused
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.mu.Lock()
	leave := c.mu.leave
	c.mu.closed, c.mu.leave = true, nil
	c.mu.Unlock()
	if leave != nil {
		leave()
	}
	return c.Conn.Close()
}

// connectionKey finds what is known of a connection in the context of its requests.
type connectionKey struct{}

// connectionState is what is known of a connection.
type connectionState struct {
	*connection
	last lastCaller
}

// withConnection is http.Server.ConnContext.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, _ := conn.(*connection)
	return context.WithValue(ctx, connectionKey{}, &connectionState{connection: c})
}

// stateOf returns nil for a request that came otherwise, as in a test.
func stateOf(r *http.Request) *connectionState {
	s, _ := r.Context().Value(connectionKey{}).(*connectionState)
	return s
}
