//go:build linux

package loadtest

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// setupMax is how long a client may take from its dial to its last SUBACK.
	setupMax = 30 * time.Second
	// backoffMax bounds how long a client waits before it connects again.
	backoffMax = time.Minute
	// outMax is how much output a publisher may have that the kernel hasn't taken: what is due beyond that waits.
	outMax = 256 << 10
)

// A role is what a client is there for.
type role uint8

const (
	idler role = iota
	visitor
	taker
	publishing
	subscribing
)

// names are what {role} is replaced by. Those that share ClientIDs share a name, none else does.
var roleNames = [...]string{"idle", "visit", "take", "pub", "sub"}

type state uint8

const (
	down state = iota
	connecting
	securing // TLS, in a goroutine of its own
	upgrading
	waitConnack
	waitSuback
	up
	leaving
)

// A client is who connects, and its connection if it has one. Its loop owns it.
type client struct {
	// immutable
	section *section
	number  int // in its role, of all processes
	role    role

	publisher  *publisher
	subscriber *subscriber
	other      *client // takeover: the other connection with the same ClientID
	spare      bool    // takeover: isn't there from the beginning

	fd         int // -1: none
	slot       int32
	generation int32 // of the connection, so that old events are told apart
	state      state
	dirty      bool // in loop.dirty
	blocked    bool // the socket took only a part; epoll says when it takes more
	known      bool // was connected before
	lost       bool // its connection ended as it shouldn't have
	subscribed bool // the broker has its subscriptions, if it has its session
	gone       bool // failed, and doesn't connect again
	erasing    bool // connects only to have its session deleted
	replaced   bool // takeover: the end of the connection is what is expected
	dialing    bool // counts in dials.busy
	attempts   uint8
	subacks    uint16 // SUBACKs that are awaited
	packetID   uint16 // of the last SUBSCRIBE or UNSUBSCRIBE

	begun   int64 // when it was due to connect
	written int64 // when it last wrote
	pinged  int64 // when it sent a PINGREQ that isn't answered; 0 if there is none

	out    []byte // MQTT
	wire   []byte // the same encoded, with TLS or WebSocket
	rest   []byte // the beginning of a packet whose end hasn't been read
	secure *secure
	frames *frames
}

// clientID is what it connects as.
func (c *client) clientID() string {
	return c.section.fill(c.section.clientID, c)
}

// dials is who is to connect, for one section.
type dials struct {
	queue []*client // in order, at the rate
	again []*client // these had a connection before, and waited their time
	rate  float64   // 0: as fast as limit allows
	limit int       // how many connections are set up at a time
	busy  int
	start int64
	count uint64 // taken from queue since start
}

// begin has clients connect.
func (d *dials) begin(clients []*client, now int64) {
	d.queue, d.start, d.count = clients, now, 0
}

func (d *dials) due() int64 {
	if len(d.queue) == 0 || d.busy >= d.limit {
		return 1<<63 - 1
	}
	return d.next()
}

func (d *dials) next() int64 {
	if d.rate == 0 {
		return d.start
	}
	return d.start + int64(float64(d.count)*1e9/d.rate)
}

// turn opens what is due.
func (d *dials) turn(l *loop) {
	for len(d.queue) > 0 && d.busy < d.limit {
		due := l.now
		if d.rate > 0 {
			if due = d.next(); due > l.now {
				break
			}
		}
		c := d.queue[0]
		d.queue = d.queue[1:]
		d.count++
		l.dial(c, due)
	}
	for len(d.again) > 0 && d.busy < d.limit {
		c := d.again[0]
		d.again = d.again[1:]
		if c.state == down && !c.gone {
			l.dial(c, l.now)
		}
	}
}

// dial starts a connection that was due at a time.
func (l *loop) dial(c *client, due int64) {
	c.begun, c.dialing, c.generation = due, true, c.generation+1
	c.section.dials.busy++
	c.state = connecting
	p := l.run.endpoint(c)
	fd, err := p.open()
	if err != nil {
		l.fail(c, "connect", err)
		return
	}
	c.fd = fd
	if n := len(l.vacant); n > 0 {
		c.slot, l.vacant = l.vacant[n-1], l.vacant[:n-1]
		l.slots[c.slot] = c
	} else {
		c.slot = int32(len(l.slots))
		l.slots = append(l.slots, c)
	}
	l.open++
	events := uint32(unix.EPOLLIN)
	// Where the network answers at once, as on this machine, the connection is there already, and the first write says so.
	if !p.tls && l.opening(c) {
		if c.fd < 0 {
			return
		}
	} else {
		events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: c.slot, Pad: c.generation}); err != nil {
		l.fail(c, "connect", err)
	}
}

// opening writes the first bytes, if the connection is there, and reports whether it is; a failure ends it.
func (l *loop) opening(c *client) bool {
	b := l.firstBytes(c, l.scratch[:0])
	l.scratch = b
	l.counts.calls++
	n, err := rawWrite(c.fd, b)
	switch {
	case err == unix.EAGAIN || err == unix.ENOTCONN || err == unix.EINTR: //nolint:errorlint // a bare Errno
		c.state = connecting
		return false
	case err != nil:
		c.state = connecting
		l.fail(c, "connect", err)
		return true
	case n < len(b): // a first segment has room for this, but who knows
		l.fail(c, "connect", io.ErrShortWrite)
		return true
	}
	l.counts.bytesOut += uint64(n)
	c.written = l.now
	return true
}

// firstBytes appends what a new connection begins with, and sets the state.
func (l *loop) firstBytes(c *client, b []byte) []byte {
	if p := l.run.endpoint(c); p.ws {
		c.frames = newFrames(l.random)
		c.state = upgrading
		return c.frames.appendRequest(b, p.target)
	}
	c.state = waitConnack
	return l.appendConnect(c, b)
}

// connected goes on when the kernel says that a connect has ended.
func (l *loop) connected(c *client) {
	if code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
		l.fail(c, "connect", unix.Errno(code))
		return
	}
	p := l.run.endpoint(c)
	if p.tls {
		c.state = securing
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, nil)
		l.secure(c, p)
		return
	}
	l.watch(c, unix.EPOLLIN)
	c.out = l.firstBytes(c, l.output(c))
}

func (l *loop) appendConnect(c *client, b []byte) []byte {
	f := c.section.flow
	durable := !c.erasing && f.durable(c)
	g := login{
		version:   f.Version,
		clean:     !durable,
		durable:   durable,
		keepAlive: uint16(f.KeepAlive / time.Second),
		clientID:  c.clientID(),
		user:      f.fill(f.User, c),
		password:  f.fill(f.Password, c),
	}
	return g.append(b)
}

// received takes what was read, through TLS and WebSocket.
func (l *loop) received(c *client, b []byte) error {
	if c.secure == nil {
		return l.clear(c, b)
	}
	if l.plain == nil {
		l.plain = make([]byte, readBytes)
	}
	c.secure.in = b
	for c.fd >= 0 {
		n, err := c.secure.conn.Read(l.plain)
		if n > 0 {
			if err := l.clear(c, l.plain[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, errNoInput):
			return nil
		case errors.Is(err, io.EOF):
			l.ended(c, nil)
			return nil
		default:
			return err
		}
	}
	return nil
}

// clear takes what is inside TLS.
func (l *loop) clear(c *client, b []byte) error {
	if c.frames != nil {
		if c.state == upgrading {
			rest, done, err := c.frames.upgrade(b)
			if err != nil || !done {
				return err
			}
			c.state = waitConnack
			c.out = l.appendConnect(c, l.output(c))
			b = rest
		}
		data, closed, err := c.frames.decode(b)
		if len(c.frames.replies) > 0 {
			l.markDirty(c)
			c.out = l.output(c)
		}
		if err == nil {
			err = l.packets(c, data)
		}
		if err == nil && closed && c.fd >= 0 {
			l.ended(c, nil)
		}
		return err
	}
	return l.packets(c, b)
}

// packets hands on every whole packet of b, behind what was kept.
func (l *loop) packets(c *client, b []byte) error {
	kept := len(c.rest) > 0
	if kept {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	for c.fd >= 0 {
		first, body, n, size, err := nextPacket(b)
		if err != nil {
			return err
		}
		if n == 0 {
			if size > c.section.packetMax {
				return fmt.Errorf("%w: a packet of %d bytes", errMalformed, size)
			}
			break
		}
		if err := l.packet(c, first, body); err != nil {
			return err
		}
		b = b[n:]
	}
	switch {
	case c.fd < 0:
		c.rest = nil
	case len(b) == 0:
		if cap(c.rest) > 4<<10 {
			c.rest = nil
		}
		c.rest = c.rest[:0]
	case kept:
		c.rest = c.rest[:copy(c.rest, b)]
	default:
		c.rest = append(c.rest, b...)
	}
	return nil
}

// packet takes one packet.
func (l *loop) packet(c *client, first byte, body []byte) error {
	f := c.section.flow
	switch first & 0xF0 {
	case typePublish:
		return l.delivery(c, first, body)
	case typePuback, typePubrec, typePubcomp, typePubrel & 0xF0:
		return l.acknowledgement(c, first, body)
	case typeConnack:
		if c.state == leaving {
			return nil // the run has ended while this was under way
		}
		if c.state != waitConnack {
			return fmt.Errorf("%w: CONNACK again", errMalformed)
		}
		g, err := readConnack(f.Version, body)
		if err != nil {
			return err
		}
		l.connack(c, g)
		return nil
	case typeSuback, typeUnsuback:
		return l.suback(c, first, body)
	case typePingresp:
		c.pinged = 0
		return nil
	case typeDisconnect:
		code := byte(0)
		if len(body) > 0 {
			code = body[0]
		}
		if !c.replaced && c.state != leaving {
			l.fail(c, fmt.Sprintf("DISCONNECT 0x%02X by the broker", code), nil)
		}
		return nil
	}
	return fmt.Errorf("packet type %d, which no broker sends", first>>4)
}

// connack goes on with what the client is there for.
func (l *loop) connack(c *client, g greeting) {
	if g.code != 0 {
		l.fail(c, fmt.Sprintf("CONNACK 0x%02X", g.code), nil)
		return
	}
	l.counts.connects++
	l.progress++
	record(l.counts.connect, l.now-c.begun)
	if c.lost {
		l.counts.reconnects++
	}
	c.attempts, c.lost = 0, false
	s := c.section
	f := s.flow
	if f.Version == 3 && c.known && f.durable(c) && !c.erasing { // 3.1 doesn't say
		g.sessionPresent = true
	}
	if c.known && f.durable(c) && !g.sessionPresent && !c.erasing && c.subscribed {
		l.fault("the broker lost a durable session", c.clientID())
	}
	if !g.sessionPresent {
		c.subscribed = false
	}
	c.known = c.role != visitor && c.role != taker
	switch {
	case c.erasing:
		l.leave(c, true)
	case c.role == visitor:
		l.leave(c, false)
	case c.publisher != nil:
		s.resume(c.publisher, g)
		l.up(c)
	case c.subscriber != nil:
		c.subscriber.came(g.sessionPresent, l.now)
		fallthrough
	default:
		if c.subscribed || !l.subscribe(c) {
			l.up(c)
		}
	}
}

// subscribe sends what the client subscribes to, and reports whether there is anything.
func (l *loop) subscribe(c *client) bool {
	f := c.section.flow
	filters := f.filters(c)
	if len(filters) == 0 {
		return false
	}
	c.state = waitSuback
	c.out = l.output(c)
	for part := range slices.Chunk(filters, filtersPerSubscribe) {
		c.packetID = c.packetID%65535 + 1
		c.out = appendSubscribe(c.out, f.Version, c.packetID, f.QoS, part)
		c.subacks++
	}
	return true
}

func (l *loop) suback(c *client, first byte, body []byte) error {
	if c.subscriber != nil && c.subscriber.replay != nil {
		return l.replayed(c, first, body)
	}
	if first != typeSuback || c.state != waitSuback {
		return fmt.Errorf("unexpected packet type %d", first>>4)
	}
	if err := readSuback(c.section.Version, body, c.section.QoS); err != nil {
		return err
	}
	if c.subacks--; c.subacks == 0 {
		switch sub := c.subscriber; {
		case sub != nil && sub.group != nil:
			c.section.join(sub, l.now, c.section.running)
		case sub != nil && !sub.lost:
			sub.joined()
		}
		c.subscribed = true
		l.up(c)
	}
	return nil
}

// up says that the client is all set.
func (l *loop) up(c *client) {
	c.state = up
	l.progress++
	l.dialed(c)
	switch {
	case c.role == taker:
		c.section.took(c)
	case c.publisher != nil:
		c.section.wake(c.publisher)
	case c.subscriber != nil && c.subscriber.replay != nil && c.section.running:
		l.ask(c)
	}
}

// dialed makes room for another dial.
func (l *loop) dialed(c *client) {
	if c.dialing {
		c.dialing = false
		c.section.dials.busy--
	}
}

// leave says goodbye. The broker closes then.
func (l *loop) leave(c *client, endSession bool) {
	if c.state < waitConnack || c.state == leaving {
		if c.fd >= 0 && c.state != leaving {
			l.drop(c)
		}
		return
	}
	c.out = appendDisconnect(l.output(c), c.section.Version, endSession)
	c.state = leaving
}

// ended is called when the broker has closed the connection, or it failed.
func (l *loop) ended(c *client, err error) {
	if c.state == leaving || c.replaced {
		l.drop(c)
		c.section.left(c)
		return
	}
	what := "the broker ended the connection"
	if c.state < up {
		what = "the broker ended the connection before it was set up"
	}
	l.fail(c, what, cmp.Or(err, io.EOF))
}

// fail ends the connection for an error, which is counted, and plans the next.
func (l *loop) fail(c *client, what string, err error) {
	example := c.clientID()
	if err != nil {
		example += ": " + err.Error()
	}
	if what == "connect" || what == "protocol" || what == "TLS" {
		what = kind(what, err)
	}
	l.fault(what, example)
	l.drop(c)
	c.lost = true
	c.section.failed(c)
	f := c.section.flow
	if c.erasing || !f.Reconnect && c.role != visitor || c.section.closing {
		c.gone = true
		if !c.erasing && !c.section.closing {
			l.gone++
		}
		if c.publisher != nil {
			c.section.abandonAll(c.publisher)
		}
		if sub := c.subscriber; sub != nil && sub.group != nil && f.durable(c) && !c.section.closing {
			f.abandon(sub.group)
		}
		return
	}
	longest := min(f.ReconnectJitter<<min(c.attempts, 10), backoffMax)
	c.attempts++
	heap.Push(&l.timers, timer{l.now + l.random.Int64N(int64(longest)+1), c})
}

// kind tells errors apart by what doesn't differ from client to client.
func kind(what string, err error) string {
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		return what + ": " + errno.Error()
	case errors.Is(err, errMalformed):
		return errMalformed.Error()
	case err == nil:
		return what
	}
	text := err.Error()
	return what + ": " + text[:min(len(text), 80)]
}

// drop forgets the connection.
func (l *loop) drop(c *client) {
	l.dialed(c)
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		l.slots[c.slot] = nil
		l.vacant = append(l.vacant, c.slot)
		c.fd = -1
		l.open--
		if c.state > waitConnack {
			l.counts.disconnects++
		}
	}
	c.generation++
	if c.subscriber != nil && c.state > waitConnack && c.state != leaving && !c.section.closing {
		c.subscriber.left(c)
	}
	*c = client{
		section: c.section, number: c.number, role: c.role, publisher: c.publisher, subscriber: c.subscriber, other: c.other, spare: c.spare,
		fd: -1, generation: c.generation, known: c.known, lost: c.lost, subscribed: c.subscribed, gone: c.gone, erasing: c.erasing,
		attempts: c.attempts, packetID: c.packetID, dirty: c.dirty,
	}
}

// look is called for each client now and then: it keeps it alive, and ends what takes too long.
func (l *loop) look(c *client) {
	s := c.section
	switch {
	case c.state == down:
		return
	case c.state < up && l.now-c.begun > int64(setupMax):
		l.fail(c, fmt.Sprintf("not set up after %v", setupMax), nil)
		return
	case c.replaced && c.other.state == up && l.now-c.other.begun > int64(setupMax):
		l.fault("a takeover left the old connection open", c.clientID())
		l.drop(c)
		s.left(c)
		return
	case c.state != up:
		return
	}
	if c.pinged != 0 && l.now-c.pinged > int64(min(s.KeepAlive, setupMax)) {
		l.fail(c, "no PINGRESP", nil)
		return
	}
	if l.now-c.written > int64(s.KeepAlive)*3/4 && c.pinged == 0 {
		c.pinged = l.now
		c.out = append(l.output(c), typePingreq, 0)
	}
	if c.publisher != nil {
		s.look(c.publisher)
	}
	if c.subscriber != nil && c.subscriber.replay != nil {
		l.lookReplay(c)
	}
}

// acknowledgement takes a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (l *loop) acknowledgement(c *client, first byte, body []byte) error {
	if len(body) < 2 {
		return errMalformed
	}
	id := binary.BigEndian.Uint16(body)
	if first == typePubrel {
		if c.subscriber == nil {
			return fmt.Errorf("unexpected packet type %d", first>>4)
		}
		c.subscriber.held.remove(id)
		c.out = appendAck(l.output(c), typePubcomp, id)
		return nil
	}
	code := byte(0)
	if len(body) > 2 {
		code = body[2]
	}
	if c.publisher == nil {
		return fmt.Errorf("unexpected packet type %d", first>>4)
	}
	return c.section.acknowledged(c.publisher, first, id, code)
}
