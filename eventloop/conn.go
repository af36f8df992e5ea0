package eventloop

import (
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// flushEarly is how much output is sent before the end of the turn, so that buffers stay small and in the cache.
	flushEarly = 64 << 10

	// copyLimit is from which size on Write sends the caller's bytes without copying them, if the socket takes them.
	copyLimit = 16 << 10

	// closeTimeout is how long a closed connection may take to read what was written to it.
	closeTimeout = 5 * time.Second

	// lingerTimeout is how long a connection that we closed waits for the peer to close, see Conn.Close.
	lingerTimeout = 2 * time.Second

	// stopLinger is the same while the engine stops, for those who are still sending.
	stopLinger = 250 * time.Millisecond
)

// The state of a connection, as bits.
const (
	dirty        uint16 = 1 << iota // in Loop.dirty
	blocked                         // the socket didn't take all; waiting until it is writable
	paused                          // Pause was called
	closing                         // Close was called or it failed; in Loop.closing until closed
	closed                          // OnClose was called
	broken                          // failed; what isn't sent never will be
	inputEnded                      // the peer has sent its last byte
	telling                         // closed with an error, so the peer should get to read what we wrote
	lingering                       // all is sent and the sending direction is shut down
	destroyed                       // the file is closed
	watchesRead                     // registered with the poller for reading
	watchesWrite                    // registered with the poller for writing
	open                            // OnOpen was called
	refused                         // closed before that, and counted
)

// Conn is one connection. It belongs to one loop, and all its methods but Loop, Listener and RemoteAddr may be called
// there only. A method never calls the Handler. After OnClose the methods may still be called and do nothing.
type Conn struct {
	loop     *Loop
	listener *listener // nil if it was dialled
	stack    *stack    // what stands between the socket and the Handler; nil if nothing does
	context  any
	out      *output // borrowed while there is something to send, else nil
	remote   netip.Addr
	fd       int32
	state    uint16
	port     uint16 // of remote
}

// output is what a connection has to send: buf[sent:], and plain, which its layers have not encoded yet.
type output struct {
	buf   []byte
	plain []byte
	sent  int
	extra int // size of a message that Room admitted though it exceeds the bound
}

type closeRequest struct {
	conn *Conn
	err  error
}

// Loop returns the loop that owns the connection, always the same. It is safe for any goroutine.
func (c *Conn) Loop() *Loop { return c.loop }

// RemoteAddr returns the peer's address: that of the client, if a proxy in front named it. For a peer on a unix socket,
// which has no address, it is the socket's. It is valid after the connection was closed too, and safe for any goroutine.
func (c *Conn) RemoteAddr() net.Addr {
	if !c.remote.IsValid() {
		return c.listener.addr
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.remote, c.port))
}

// Listener returns what was given to Engine.Listen for the listener that accepted the connection. It is not to be
// changed, and safe for any goroutine.
func (c *Conn) Listener() *Listener { return &c.listener.spec }

// LocalAddr returns the address that the peer connected to, by a system call, or nil once the connection is closed.
// Loop only.
func (c *Conn) LocalAddr() net.Addr {
	if c.state&destroyed != 0 {
		return nil
	}
	sa, err := unix.Getsockname(int(c.fd))
	if err != nil {
		return nil
	}
	if a := addrPort(sa); a.IsValid() {
		return net.TCPAddrFromAddrPort(a)
	}
	return c.RemoteAddr()
}

// Context returns what SetContext stored; nil after OnClose has returned.
func (c *Conn) Context() any { return c.context }

// SetContext stores the handler's own state of this connection.
func (c *Conn) SetContext(v any) { c.context = v }

// BeginWrite returns the connection's output buffer, to be appended to and given back by EndWrite:
//
//	b := c.BeginWrite()
//	b = append(b, "hello"...)
//	c.EndWrite(b)
//
// All output of a turn leaves by one system call at its end. The buffer must be given back before anything else is done
// with the connection. Its present contents are to be left alone. On a connection that is closed the output goes
// nowhere.
func (c *Conn) BeginWrite() []byte {
	l := c.loop
	if c.state&closing != 0 {
		return l.scratch[:0]
	}
	if c.out == nil {
		c.out = l.borrow()
	}
	c.markDirty()
	if c.stack != nil {
		return c.out.plain
	}
	return c.out.buf
}

// markDirty has the connection flushed at the end of the turn, unless it waits for the socket anyway.
func (c *Conn) markDirty() {
	if c.state&(dirty|blocked) != 0 {
		return
	}
	c.state |= dirty
	c.loop.dirty = append(c.loop.dirty, c)
}

// EndWrite gives the buffer of BeginWrite back with the output appended. If more than Config.MaxOutputBytes wait, and
// the socket doesn't take them at once, the connection is closed with ErrOutputOverflow.
func (c *Conn) EndWrite(b []byte) {
	if c.state&closing != 0 {
		return
	}
	if c.stack != nil {
		c.out.plain = b
	} else {
		c.out.buf = b
	}
	if n := c.Buffered(); n >= flushEarly || n > c.loop.engine.maxOutput {
		c.flushEarly()
		c.checkBound()
	}
}

// Write is BeginWrite, append and EndWrite. It doesn't keep p. Large slices are written to the socket directly.
func (c *Conn) Write(p []byte) {
	if len(p) >= copyLimit && c.state&(closing|blocked) == 0 && c.stack == nil {
		c.flushEarly()
		if c.state&(closing|blocked) == 0 {
			n, err := c.loop.write(c, p)
			if err != nil {
				c.loop.fail(c, err)
				return
			}
			p = p[n:]
		}
		if len(p) == 0 {
			return
		}
	}
	c.EndWrite(append(c.BeginWrite(), p...))
}

// Buffered returns how many bytes were written and not yet taken by the kernel. What layers add to them counts.
func (c *Conn) Buffered() int {
	if c.out == nil {
		return 0
	}
	return len(c.out.buf) - c.out.sent + len(c.out.plain)
}

// Room reports whether n more bytes fit within Config.MaxOutputBytes. Before it says no it gives the socket what is
// there. One message that exceeds the bound by itself fits when nothing else waits: the bound is raised by it until all
// is sent. On a closed connection there is no room.
func (c *Conn) Room(n int) bool {
	limit := c.loop.engine.maxOutput
	if c.state&closing != 0 {
		return false
	}
	if c.Buffered()+n <= limit {
		return true
	}
	c.flushEarly()
	switch {
	case c.state&closing != 0:
		return false
	case c.Buffered()+n <= limit:
		return true
	case c.Buffered() > 0:
		return false
	}
	if c.out == nil {
		c.out = c.loop.borrow()
	}
	c.out.extra = n
	c.markDirty() // the end of the turn takes it back if nothing comes of it
	return true
}

func (c *Conn) flushEarly() {
	if c.out != nil && c.state&(blocked|closing) == 0 {
		c.loop.flush(c)
	}
}

func (c *Conn) checkBound() {
	if c.state&closing == 0 && c.out != nil && c.Buffered() > c.loop.engine.maxOutput+c.out.extra {
		c.loop.counters.outputOverflows.Add(1)
		c.loop.fail(c, ErrOutputOverflow)
	}
}

// Pause stops reading from the connection: what the peer sends fills the socket's buffers, and then the peer has to
// wait. OnData isn't called until Resume, neither is the peer's end noticed, unless a write fails. What is handed over
// by the call of OnData that pauses is the handler's to consume.
func (c *Conn) Pause() {
	if c.state&(paused|closing) != 0 {
		return
	}
	c.state |= paused
	c.loop.watch(c)
}

// Resume ends Pause. OnData is called by the loop, not from inside Resume.
func (c *Conn) Resume() {
	if c.state&paused == 0 || c.state&closing != 0 {
		return
	}
	c.state &^= paused
	c.loop.unstash(c)
	c.loop.watch(c)
}

// ReadNow reads what has arrived from the peer, as if the poller had just reported it. It must not be called from inside
// OnData. A connection that is paused or closing isn't read.
func (c *Conn) ReadNow() {
	if c.state&watchesRead == 0 || c.state&closing != 0 {
		return
	}
	if s := c.loop.inlets[c]; s != nil {
		c.loop.receive(s)
		return
	}
	c.loop.read(c)
}

// Close closes the connection at the end of the turn: what was written before is sent first, what is written later is
// discarded. The loop then calls OnClose with err, and OnData is not called any more. Of several calls the first
// counts. From other goroutines: c.Loop().Post(func() { c.Close(err) }).
//
// The file may stay open in the background, and counts as a connection until it is closed. A peer that doesn't take
// its output has a few seconds for it. With err != nil the peer is assumed not to expect the end and to be sending
// still: only our direction is shut down, and its input is read and dropped until it closes or two seconds have passed,
// since closing a socket with unread input destroys what we wrote last.
func (c *Conn) Close(err error) {
	if c.state&closing != 0 {
		return
	}
	c.state |= closing
	if err != nil {
		c.state |= telling
	}
	c.loop.closing = append(c.loop.closing, closeRequest{c, err})
}

// fail closes the connection without sending anything more.
func (l *Loop) fail(c *Conn, err error) {
	c.state |= broken
	if c.state&closed != 0 {
		l.destroy(c)
		return
	}
	c.Close(err)
}

// write is one write system call. It returns 0 and no error if the socket takes nothing now.
func (l *Loop) write(c *Conn, p []byte) (int, error) {
	n, err := write(int(c.fd), p)
	l.counters.writes.Add(1)
	if n < 0 {
		n = 0
	}
	if err == unix.EAGAIN || err == unix.EINTR { //nolint:errorlint // a system call's error is bare, and this is the path of every write
		err = nil
	}
	l.counters.bytesOut.Add(uint64(n))
	return n, err
}

// flush gives the socket what there is to send, once. What it doesn't take waits until it is writable again.
func (l *Loop) flush(c *Conn) {
	o := c.out
	if len(o.plain) > 0 {
		if err := c.encode(); err != nil {
			l.fail(c, err)
			return
		}
	}
	if len(o.buf) > o.sent {
		n, err := l.write(c, o.buf[o.sent:])
		if err != nil {
			l.fail(c, err)
			return
		}
		o.sent += n
	}
	if o.sent < len(o.buf) {
		if o.sent >= cap(o.buf)/2 { // moves each byte once at most
			o.buf = o.buf[:copy(o.buf, o.buf[o.sent:])]
			o.sent = 0
		}
		if c.state&blocked == 0 {
			c.state |= blocked
			l.watch(c)
		}
		return
	}
	if o.extra != 0 && c.state&blocked == 0 { // the message that has been admitted is yet to come
		o.buf, o.sent = o.buf[:0], 0
		return
	}
	c.out = nil
	l.giveBack(o)
	if c.state&blocked == 0 {
		return
	}
	c.state &^= blocked
	switch {
	case c.state&closed != 0:
		l.linger(c)
	case c.state&closing == 0:
		l.watch(c)
		if l.engine.drainHandler != nil {
			l.engine.drainHandler.OnDrain(c)
		}
	}
}

// finish is the part of Close that is left to the end of the turn; what could be sent was.
func (l *Loop) finish(c *Conn, err error) {
	if c.state&open != 0 {
		l.engine.handler.OnClose(c, err)
	}
	c.context = nil
	if c.stack != nil {
		if c.state&broken == 0 {
			c.takeLeave(err)
			c.flushLast()
		}
		c.dissolve()
	}
	c.state |= closed
	delete(l.stashes, c)
	switch {
	case c.state&broken != 0:
		l.destroy(c)
	case c.state&blocked != 0:
		l.watch(c)
		l.destroyAfter(c, closeTimeout)
	default:
		l.linger(c)
	}
}

// flushLast sends what layers wrote while the connection was closing.
func (c *Conn) flushLast() {
	if c.out != nil && c.state&(blocked|broken) == 0 {
		c.loop.flush(c)
	}
}

// linger closes the file, at once or after the peer had time to read, when everything is sent.
func (l *Loop) linger(c *Conn) {
	timeout := lingerTimeout
	if l.stopping {
		timeout = stopLinger
	}
	if c.state&telling == 0 || c.state&inputEnded != 0 || l.stopping && !hasInput(c) ||
		unix.Shutdown(int(c.fd), unix.SHUT_WR) != nil {
		l.destroy(c)
		return
	}
	c.state |= lingering
	l.watch(c)
	l.destroyAfter(c, timeout)
}

// hasInput reports whether bytes wait to be read.
func hasInput(c *Conn) bool {
	if s := c.loop.inlets[c]; s != nil && s.hasMore() {
		return true
	}
	var b [1]byte
	n, _, _ := unix.Recvfrom(int(c.fd), b[:], unix.MSG_PEEK)
	return n > 0
}

func (l *Loop) destroyAfter(c *Conn, d time.Duration) {
	t := new(Timer)
	t.Init(TimerFunc(func(*Timer) {
		c.state |= broken
		l.destroy(c)
	}))
	l.Schedule(t, d)
}

// destroy closes the file. If output is thrown away, the peer gets a reset, so that the kernel doesn't keep what it
// has either.
func (l *Loop) destroy(c *Conn) {
	if c.state&destroyed != 0 {
		return
	}
	c.state = c.state&^(blocked|watchesRead|watchesWrite) | destroyed
	c.dissolve()
	if c.out != nil {
		_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		l.giveBack(c.out)
		c.out = nil
	}
	l.engine.conns.store(int(c.fd), nil)
	l.closeFile(c)
	c.fd = -1
	l.engine.left(c.listener)
	if l.counters.conns.Add(-1) == 0 && l.gone != nil {
		close(l.gone)
		l.gone = nil
	}
}

// watch brings the poller in line with the state.
func (l *Loop) watch(c *Conn) {
	var want uint16
	if c.state&(paused|closing) == 0 || c.state&lingering != 0 || (!l.canPause() && c.state&closing == 0) {
		want = watchesRead
	}
	if c.state&blocked != 0 {
		want |= watchesWrite
	}
	have := c.state & (watchesRead | watchesWrite)
	if have == want {
		return
	}
	c.state = c.state&^(watchesRead|watchesWrite) | want
	if l.engine.netpoll != nil {
		if want&^have&watchesRead != 0 {
			l.watchInlet(c)
		}
		have, want = have&^watchesRead, want&^watchesRead
		if have == want {
			return
		}
	}
	if err := l.poller.watch(int(c.fd), have, want); err != nil {
		l.fail(c, err)
	}
}
