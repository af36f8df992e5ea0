// Package meddler spoils a known number of messages on their way from a broker to its clients, to test what claims to notice.
//
// A [Proxy] stands before a broker and drops, doubles or swaps one PUBLISH in so many, of those that the broker sends. Both sides go on
// as if nothing had been: for a message that it drops, the proxy sends the acknowledgements itself, and it keeps to itself those for a
// copy. So a spoiled message stays spoiled, and all that shows is what subscribers get.
package meddler

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Fault is what the proxy does to a message.
type Fault byte

// The faults.
const (
	// Drop: the subscriber never gets the message, and the broker hears that it did.
	Drop Fault = iota
	// Double: the subscriber gets the message twice, the second time under another Packet Identifier and without DUP.
	Double
	// Swap: the subscriber gets the message after the next one of its stream.
	Swap
	faults
)

// holdMax is how long a message waits for the next one of its stream, with which it is to be swapped.
const holdMax = 200 * time.Millisecond

// Plan says which messages are spoiled, and how.
type Plan struct {
	// Every is how many messages there are to one that is spoiled: at least 1.
	Every int
	// Faults take turns. At least one.
	Faults []Fault
	// Stream names what a message is in order with: only messages of one stream on one connection are swapped. nil: its Topic Name. The
	// payload is only valid during the call.
	Stream func(topicName, payload []byte) string
}

// Proxy is a TCP server that passes on what clients and a broker say to each other, apart from what its [Plan] spoils. Clients must not
// allow Topic Aliases, and a Receive Maximum above 32,767 is not for them: a copy has the Packet Identifier half-way round. Its methods are
// safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	plan     Plan
	served   sync.WaitGroup

	seen   atomic.Int64
	turn   atomic.Int64
	counts [faults]atomic.Int64

	mu struct {
		sync.Mutex
		closed bool
		conns  map[net.Conn]bool
	}
}

// New returns a Proxy before the broker at target, host:port, on a port of its own. It ends with Close.
func New(target string, plan Plan) (*Proxy, error) {
	if plan.Every < 1 || len(plan.Faults) == 0 {
		return nil, fmt.Errorf("a plan needs Every, at least 1, and Faults: %+v", plan)
	}
	if plan.Stream == nil {
		plan.Stream = func(topicName, _ []byte) string { return string(topicName) }
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, target: target, plan: plan}
	p.mu.conns = make(map[net.Conn]bool)
	p.served.Go(p.accept)
	return p, nil
}

// Addr is what clients dial.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Count says how many messages were spoiled in this way.
func (p *Proxy) Count(f Fault) int { return int(p.counts[f].Load()) }

// Seen says how many messages the broker has sent.
func (p *Proxy) Seen() int { return int(p.seen.Load()) }

// Close ends all connections, and returns when they have ended.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.mu.closed = true
	for conn := range p.mu.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.served.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.served.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.forget(client)
	if !p.keep(client) {
		return
	}
	broker, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.forget(broker)
	if !p.keep(broker) {
		return
	}
	c := &conn{
		proxy:    p,
		toClient: &side{conn: client, w: bufio.NewWriter(client)},
		toBroker: &side{conn: broker, w: bufio.NewWriter(broker)},
	}
	c.mu.copies, c.mu.dropped = make(map[uint16]bool), make(map[uint16]bool)
	var up sync.WaitGroup
	up.Go(func() {
		c.pass(client, c.toBroker, c.up)
		_ = broker.Close()
	})
	c.pass(broker, c.toClient, c.down)
	c.release()
	_ = client.Close()
	up.Wait()
}

// keep has Close end conn. It reports false if that has been called.
func (p *Proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.conns[conn] = true
	return !p.mu.closed
}

func (p *Proxy) forget(conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.conns, conn)
}

// spoil says whether the next message is to be spoiled, and how.
func (p *Proxy) spoil() (Fault, bool) {
	if p.seen.Add(1)%int64(p.plan.Every) != 0 {
		return 0, false
	}
	turn := p.turn.Add(1) - 1
	return p.plan.Faults[turn%int64(len(p.plan.Faults))], true
}
