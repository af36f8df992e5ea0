package coapbridge

import (
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/metrics"
)

// nameMax is the length of the name of a connection.
const nameMax = 64

// connections are those that clients asked for, by their tokens.
type connections struct {
	mu  sync.Mutex
	all map[string]*connection
}

// connection is a session that a client has at whichever address: its token says which
// one. It has the session of a user and a name; with an expiry, that outlives it.
type connection struct {
	token, name string
	caller      *loopmq.Caller
	session     *session
	user        string // of the DTLS session that it was made with
	over        atomic.Bool

	mu    sync.Mutex
	peer  *peer // where it was heard of last
	heard time.Time
}

// connect is POST /mqtt/connection.
func (b *Bridge) connect(c *call) (*response, error) {
	if err := c.allow("expiry"); err != nil {
		return nil, err
	}
	name := c.query["clientid"]
	if !validName(name) {
		return nil, badRequest("clientid is %q: allowed: 1 to %d letters, digits, - _ . and :", name, nameMax)
	}
	expiry, err := c.expiry()
	if err != nil {
		return nil, err
	}
	show := credentialsOf(c.request)
	caller, err := b.identify(c, &show)
	if err != nil {
		return nil, err
	}
	conn := &connection{token: rand.Text(), name: name, caller: caller, user: c.p.user(), peer: c.p, heard: time.Now()}
	b.connections.mu.Lock()
	full := len(b.connections.all) >= b.opts.Connections
	b.connections.mu.Unlock()
	if full {
		caller.Close()
		return nil, errBusy
	}
	if conn.session, err = b.newSession(c.ctx, caller, name, expiry, func(error) { b.endConnection(conn) }); err != nil {
		caller.Close()
		return nil, err
	}
	b.connections.mu.Lock()
	b.connections.all[conn.token] = conn
	b.connections.mu.Unlock()
	b.metrics.CoAPConnections.Inc()
	if conn.session.closed.Load() { // it was taken over meanwhile
		b.endConnection(conn)
	}
	plain := uint16(0)
	return &response{code: codes.Created, payload: []byte(conn.token), format: &plain}, nil
}

func validName(name string) bool {
	return name != "" && len(name) <= nameMax && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:", r)
	})
}

// heartbeat is PUT /mqtt/connection.
func (b *Bridge) heartbeat(c *call) (*response, error) {
	if _, err := b.connected(c); err != nil {
		return nil, err
	}
	return &response{code: codes.Changed}, nil
}

// disconnect is DELETE /mqtt/connection. It ends the session.
func (b *Bridge) disconnect(c *call) (*response, error) {
	conn, err := b.connected(c)
	if err != nil {
		return nil, err
	}
	if client := conn.session.client.Load(); client != nil && !conn.session.closed.Swap(true) {
		client.End()
	}
	b.endConnection(conn)
	return &response{code: codes.Deleted}, nil
}

// connected returns the connection that a request is about.
func (b *Bridge) connected(c *call) (*connection, error) {
	if err := c.allow(); err != nil {
		return nil, err
	}
	if c.query["token"] == "" {
		return nil, badRequest("the query has no token")
	}
	if err := b.authenticate(c); err != nil {
		return nil, err
	}
	return c.connection, nil
}

// connectionOf returns the connection with a token. What it observes is sent to where the
// request comes from, from now on.
func (b *Bridge) connectionOf(c *call, token string) (*connection, error) {
	b.connections.mu.Lock()
	conn := b.connections.all[token]
	b.connections.mu.Unlock()
	name, said := c.query["clientid"]
	if conn == nil || conn.over.Load() || conn.caller.Err() != nil || said && name != conn.name || conn.user != c.p.user() {
		return nil, faulty(codes.Unauthorized, metrics.CoAPCredentials, "there is no such connection: ask for one again")
	}
	conn.mu.Lock()
	moved := conn.peer != c.p
	conn.peer, conn.heard = c.p, time.Now()
	conn.mu.Unlock()
	if moved {
		for _, o := range *conn.session.observations.Load() {
			o.move(c.p)
		}
		c.p.ping(verifyTimeout/4, 2, false)
	}
	return conn, nil
}

// endConnection ends a connection; it does nothing if it has ended.
func (b *Bridge) endConnection(conn *connection) {
	b.connections.mu.Lock()
	_, there := b.connections.all[conn.token]
	delete(b.connections.all, conn.token)
	b.connections.mu.Unlock()
	if !there || conn.over.Swap(true) {
		return
	}
	b.metrics.CoAPConnections.Dec()
	conn.session.close()
	for _, o := range *conn.session.observations.Load() {
		conn.session.end(o, metrics.CoAPDisconnected)
	}
	conn.caller.Close()
}

func (cs *connections) list() []*connection {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	all := make([]*connection, 0, len(cs.all))
	for _, c := range cs.all {
		all = append(all, c)
	}
	return all
}

// sweep ends connections that nothing is heard of.
func (cs *connections) sweep(b *Bridge, now time.Time) {
	for _, c := range cs.list() {
		c.session.sweep(now)
		c.mu.Lock()
		p, heard := c.peer, c.heard
		c.mu.Unlock()
		if len(*c.session.observations.Load()) > 0 { // whose acknowledgements count
			p.mu.Lock()
			if p.mu.heard.After(heard) {
				heard = p.mu.heard
			}
			p.mu.Unlock()
		}
		// A peer that observes is asked first.
		if now.Sub(heard) > b.opts.Inactivity+maxTransmitSpan {
			b.endConnection(c)
		}
	}
}

func (cs *connections) endAll(b *Bridge) {
	for _, c := range cs.list() {
		b.endConnection(c)
	}
}
