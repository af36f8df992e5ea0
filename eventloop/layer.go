package eventloop

import (
	"net/netip"
	"time"

	"loopmq/internal/invariants"
	"loopmq/metrics"
)

// layer stands between a connection's socket and the Handler and turns the bytes of one side into those of the other:
//
//	socket -> bottom.input  -> … -> top.input     -> Handler.OnData
//	socket <- bottom.output <- … <- top.output    <- what the Handler wrote
//
// A layer first settles what it needs to (a header, a handshake), and then says so by links.ready: the next one starts,
// and behind the last Handler.OnOpen is called. So the Handler never hears of a connection that comes to nothing. All
// methods are called on the connection's loop and must not block. A layer ends a connection by Conn.Close, or
// Conn.refuse while it isn't ready.
type layer interface {
	// start is called once, when what is beneath is ready.
	start(c *Conn)

	// input is given bytes from beneath, which are valid until it returns, and consumes all of them. It hands on what it
	// makes of them by links.up, once: what is made of one input is one call of OnData, since the Handler may Pause or
	// Close in it. A layer that has to hand over several looks at the state in between.
	input(c *Conn, in []byte)

	// output encodes p, which isn't kept, and hands it on by links.down. It is called once per flush and connection, so
	// that what collected in a turn becomes one record, or one frame.
	output(c *Conn, p []byte) error

	// goodbye writes what tells the peer that nothing follows, by links.down. All output was encoded before. err is why
	// the connection ends, as OnClose gets it.
	goodbye(c *Conn, err error)

	// stop is the last call, when the connection is closed, or once the layer is left out: timers and goroutines end.
	stop(c *Conn)

	// neighbours returns the links, for building a stack.
	neighbours() *links
}

// stack is the layers of a connection. A connection without any has none.
type stack struct {
	bottom layer // gets what is read
	top    layer // encodes what is written
}

// links are a layer's neighbours.
type links struct {
	above layer // nil: the Handler
	below layer // nil: the socket
}

func (k *links) neighbours() *links { return k }

// ready says that the layer has settled what it had to.
func (k *links) ready(c *Conn) {
	if k.above != nil {
		k.above.start(c)
		return
	}
	c.opened()
}

// up hands input to the layer above.
func (k *links) up(c *Conn, in []byte) {
	switch {
	case len(in) == 0 || c.state&closing != 0:
	case k.above != nil:
		k.above.input(c, in)
	default:
		c.loop.deliver(c, in)
	}
}

// down hands output to the layer below.
func (k *links) down(c *Conn, p []byte) error {
	if k.below != nil {
		return k.below.output(c, p)
	}
	c.emit(p)
	return nil
}

// push puts a layer on top of the stack.
func (s *stack) push(y layer) {
	if s.bottom == nil {
		s.bottom, s.top = y, y
		return
	}
	s.top.neighbours().above, y.neighbours().below = y, s.top
	s.top = y
}

// leave takes the bottom layer out of the stack, when it has done all it had to.
func (c *Conn) leave() {
	s := c.stack
	above := s.bottom.neighbours().above
	s.bottom.stop(c)
	if above == nil {
		c.stack = nil
		return
	}
	s.bottom, above.neighbours().below = above, nil
}

// opened has the Handler know of the connection.
func (c *Conn) opened() {
	c.state |= open
	c.loop.engine.handler.OnOpen(c)
}

// emit appends to what the socket is to be given, encoded already.
func (c *Conn) emit(p []byte) {
	if c.state&(broken|closed|destroyed) != 0 {
		return
	}
	if c.out == nil {
		c.out = c.loop.borrow()
	}
	c.markDirty()
	c.out.buf = append(c.out.buf, p...)
}

// encode has the layers turn what was written into what the socket gets.
func (c *Conn) encode() error {
	o := c.out
	if o == nil || len(o.plain) == 0 {
		return nil
	}
	plain := o.plain
	o.plain = o.plain[:0]
	return c.stack.top.output(c, plain)
}

// takeLeave encodes what is left, and has each layer say goodbye, while the connection is closing.
func (c *Conn) takeLeave(err error) {
	if c.encode() != nil {
		return
	}
	for y := c.stack.top; y != nil; y = y.neighbours().below {
		y.goodbye(c, err)
	}
}

// dissolve ends the layers.
func (c *Conn) dissolve() {
	if c.stack == nil {
		return
	}
	for y := c.stack.bottom; y != nil; y = y.neighbours().above {
		y.stop(c)
	}
	c.stack = nil
}

// deliver gives the Handler what it is to read.
func (l *Loop) deliver(c *Conn, in []byte) {
	l.engine.handler.OnData(c, in)
	if invariants.Enabled {
		invariants.Mangle(in)
	}
}

// refuse closes a connection that the Handler hasn't heard of, and counts it. The peer gets to read what was written.
func (c *Conn) refuse(reason metrics.RefuseReason, err error) {
	if c.state&closing != 0 {
		return
	}
	c.state |= refused
	c.loop.engine.refused(reason, c.RemoteAddr(), err)
	c.Close(err)
}

// setRemote replaces the peer's address by the one that a proxy names, before the connection is open.
func (c *Conn) setRemote(a netip.AddrPort) { c.remote, c.port = a.Addr().Unmap(), a.Port() }

// handshakeTimeout is how long each layer of a connection may take to be ready.
func (c *Conn) handshakeTimeout() time.Duration {
	if d := c.listener.spec.HandshakeTimeout; d > 0 {
		return d
	}
	return defaultHandshakeTimeout
}
