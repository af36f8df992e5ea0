package coapbridge

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq/metrics"
)

type addrPort = netip.AddrPort

// endpoint is a socket, and the peers that are known there.
type endpoint struct {
	b        *Bridge
	conn     *net.UDPConn
	security *security // nil: there is no DTLS

	mu struct {
		sync.Mutex
		peers map[addrPort]*peer
		// returning are those of an address that has a session, and begins another: a client
		// that lost its own, or one that forges the address. DTLS only. [RFC 6347, 4.2.8]
		returning map[addrPort]*peer
		over      bool
	}
}

// datagramMax is the largest datagram there is.
const datagramMax = 64 << 10

// serve reads datagrams until the socket is closed.
func (e *endpoint) serve() {
	buf := make([]byte, datagramMax)
	for {
		n, addr, err := e.conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed), e.stopped():
			return
		case err != nil: // of one datagram
			continue
		}
		e.receive(addr, buf[:n])
	}
}

func (e *endpoint) stopped() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.over
}

// receive is given a datagram, whose bytes are valid until it returns.
func (e *endpoint) receive(addr addrPort, data []byte) {
	if e.security != nil {
		e.receiveRecords(addr, data)
		return
	}
	p := e.find(addr)
	if p == nil {
		m, err := decode(data)
		switch {
		case errors.Is(err, errNotCoAP):
			e.b.metrics.CoAPIgnored[metrics.CoAPMalformed].Inc()
		case m.Type == coap.Confirmable && (err != nil || !isRequest(m.Code)): // a ping, say
			e.write(addr, empty(coap.Reset, uint16(m.MessageID)))
		case err == nil && m.Type <= coap.NonConfirmable && isRequest(m.Code):
			p = e.enter(addr)
		}
	}
	if p != nil {
		p.receive(data)
	}
}

// receiveRecords is receive for DTLS. The old session of an address goes on until the
// handshake of another is done.
func (e *endpoint) receiveRecords(addr addrPort, data []byte) {
	e.mu.Lock()
	p, returning := e.mu.peers[addr], e.mu.returning[addr]
	e.mu.Unlock()
	if returning == nil && (p == nil || p.pipe.isReady()) && isHello(data) {
		if fresh := e.enter(addr); p == nil {
			p = fresh
		} else {
			returning = fresh
		}
	}
	for _, to := range []*peer{p, returning} {
		if to != nil {
			to.pipe.put(data)
		}
	}
}

// settle makes the session of p, whose handshake is done, the one of its address.
func (e *endpoint) settle(p *peer) {
	e.mu.Lock()
	old := e.mu.peers[p.addr]
	settled := e.mu.returning[p.addr] == p
	if settled {
		delete(e.mu.returning, p.addr)
		e.mu.peers[p.addr] = p
	}
	e.mu.Unlock()
	if settled && old != nil {
		old.end(metrics.CoAPDisconnected)
	}
}

// isRequest reports whether a code is a request's.
func isRequest(c codes.Code) bool { return c > 0 && c < 32 }

func (e *endpoint) write(addr addrPort, data []byte) {
	_, _ = e.conn.WriteToUDPAddrPort(data, addr) // Datagrams may be lost.
}

func (e *endpoint) find(addr addrPort) *peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.peers[addr]
}

// all returns all peers.
func (e *endpoint) all() []*peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*peer, 0, len(e.mu.peers)+len(e.mu.returning))
	for _, peers := range []map[addrPort]*peer{e.mu.peers, e.mu.returning} {
		for _, p := range peers {
			all = append(all, p)
		}
	}
	return all
}

const (
	// evictable is for how long a peer has been silent that has to make room for another,
	// evictableRead if it has only read.
	evictable     = maxTransmitSpan
	evictableRead = time.Second
	// evictTries is how many are looked at.
	evictTries = 32
)

// enter makes a peer known, or returns nil if there are too many.
func (e *endpoint) enter(addr addrPort) *peer {
	b := e.b
	if b.peers.Add(1) > int64(b.opts.Peers) && !b.evict() {
		b.peers.Add(-1)
		b.metrics.CoAPIgnored[metrics.CoAPPeers].Inc()
		return nil
	}
	leave, err := b.broker.EnterAddress(net.UDPAddrFromAddrPort(unmapped(addr)))
	if err != nil {
		if leave != nil {
			leave()
		}
		b.peers.Add(-1)
		b.metrics.CoAPIgnored[metrics.CoAPAddress].Inc()
		return nil
	}
	p := newPeer(e, addr, leave)
	e.mu.Lock()
	over := e.mu.over
	switch {
	case over:
	case e.mu.peers[addr] == nil:
		e.mu.peers[addr] = p
	default:
		e.mu.returning[addr] = p
	}
	e.mu.Unlock()
	b.metrics.CoAPPeers.Inc()
	if over {
		p.end(metrics.CoAPDisconnected)
		return nil
	}
	if e.security != nil {
		b.sessions.Go(p.serveDTLS)
	}
	return p
}

// evict makes room for a peer, at the cost of one that has been silent for longer.
func (b *Bridge) evict() bool {
	b.mu.Lock()
	endpoints := b.mu.endpoints
	b.mu.Unlock()
	now := time.Now()
	for _, e := range endpoints {
		if p := e.evictable(now); p != nil {
			p.end(metrics.CoAPDisconnected)
			return true
		}
	}
	return false
}

// evictable returns a peer that may go, or nil if it finds none.
func (e *endpoint) evictable(now time.Time) *peer {
	tries := 0
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.mu.peers { // begins anywhere
		if p.mayGo(now) {
			return p
		}
		if tries++; tries == evictTries {
			break
		}
	}
	return nil
}

// end tells observers that it is over, and reads no more.
func (e *endpoint) end() {
	e.mu.Lock()
	e.mu.over = true
	e.mu.Unlock()
	for _, p := range e.all() {
		p.farewell()
	}
	_ = e.conn.SetReadDeadline(time.Now()) // wakes serve; it can't fail on an open socket
}

// close closes the socket.
func (e *endpoint) close() error {
	for _, p := range e.all() {
		p.end(metrics.CoAPDisconnected)
	}
	return e.conn.Close()
}

// unmapped returns an address as one of IPv4, if it is.
func unmapped(a addrPort) addrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
