//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"loopmq/benchmarks/process"
)

const (
	// connectsMax is how many connections are being set up at a time: below the backlog of every broker compared (mosquitto
	// listens with 100), so that no SYN is dropped and retried a second later.
	connectsMax = 100
	// readBytes takes what a thousand deliveries need in one read.
	readBytes = 256 << 10
	// turnMax bounds how long a turn waits, so that a stop is seen.
	turnMax = 20 * time.Millisecond
	// defaultPatience is how long a scenario waits without any progress before it calls what is missing lost.
	defaultPatience = 5 * time.Second
)

var (
	errStopped = errors.New("stopped")
	// baseTime is what generator.now counts from.
	baseTime = time.Now()
)

// A generator drives all clients of a scenario from one goroutine: raw non-blocking sockets, one level-triggered epoll, one big
// read buffer that all connections share, and one write per connection and turn. What a broker is measured with should cost a
// fraction of the broker, and an idle client nothing.
//
// A turn is: wait, read and parse what is there, let the handler send, write what was sent.
type generator struct {
	version  byte
	port     int
	stop     *atomic.Bool
	patience time.Duration
	handler  handler
	beside   process.Process // whose CPU time counts as the broker's; 0: none

	epoll  int
	conns  []*conn // by the index that epoll hands back; nil where one was closed
	free   []int32
	dirty  []*conn
	events []unix.EpollEvent
	buffer []byte
	opened int // sockets ever opened, to spread them over source addresses
	busy   int // connections that establish waits for

	calls int64 // own reads, writes and waits
}

// A handler is the scenario's side of a turn. Neither method may keep body.
type handler interface {
	// packet takes a control packet that isn't CONNACK or SUBACK.
	packet(c *conn, first byte, body []byte) error
	// turn runs after everything that a turn has read, and before it writes.
	turn()
}

// A client says who connects and what it subscribes to.
type client struct {
	clientID string
	filter   string // Topic Filter to subscribe to, empty for none
	qos      byte
	leave    bool // disconnect right after CONNACK
	durable  bool // its session outlives the connection

	publisher *publisher // what it publishes, if anything
	expect    uint64     // fan-out: the number of the next message
}

type state byte

const (
	connecting state = iota
	waitConnack
	waitSuback
	ready
	leaving
)

// A conn is one client's connection. The generator's goroutine owns it.
type conn struct {
	client
	fd             int
	index          int32
	state          state
	dirty          bool // in generator.dirty
	blocked        bool // the socket took only a part; epoll says when it takes more
	receiveMaximum int
	out            []byte
	rest           []byte // the beginning of a packet whose end hasn't been read
}

// newGenerator returns a generator of clients of the broker at 127.0.0.1:port. When stop becomes true, its methods return
// errStopped. Close releases it.
func newGenerator(version byte, port int, stop *atomic.Bool) (*generator, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	runtime.LockOSThread()
	// The default slack of 50 µs would show in every latency of an open loop. The thread is the main one or a test's: nothing
	// needs the old value back.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return &generator{
		version:  version,
		port:     port,
		stop:     stop,
		patience: defaultPatience,
		handler:  noHandler{},
		epoll:    epoll,
		events:   make([]unix.EpollEvent, 1024),
		buffer:   make([]byte, readBytes),
	}, nil
}

// close closes every connection without a DISCONNECT.
func (g *generator) close() {
	for _, c := range g.conns {
		if c != nil {
			_ = unix.Close(c.fd)
		}
	}
	_ = unix.Close(g.epoll)
	runtime.UnlockOSThread()
}

// now returns nanoseconds of the monotonic clock.
func (g *generator) now() int64 { return int64(time.Since(baseTime)) }

// establish connects the clients, at most connectsMax at a time, and returns when each has its CONNACK, its SUBACK where it
// subscribes, and the end of its connection where it leaves.
func (g *generator) establish(clients []client) error {
	progress := g.now()
	for next := 0; next < len(clients) || g.busy > 0; {
		before := next - g.busy
		for ; next < len(clients) && g.busy < connectsMax; next++ {
			if err := g.open(clients[next]); err != nil {
				return fmt.Errorf("connect %s: %w", clients[next].clientID, err)
			}
		}
		if err := g.turn(turnMax); err != nil {
			return err
		}
		if next-g.busy > before {
			progress = g.now()
		} else if g.now()-progress > int64(g.patience) {
			return fmt.Errorf("%d of %d clients didn't get through CONNECT and SUBSCRIBE", len(clients)-next+g.busy, len(clients))
		}
	}
	return nil
}

// open starts a connection.
func (g *generator) open(cl client) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c := &conn{client: cl, fd: fd, receiveMaximum: 65535}
	if c.publisher != nil {
		c.publisher.conn = c
	}
	if n := len(g.free); n > 0 {
		c.index, g.free = g.free[n-1], g.free[:n-1]
		g.conns[c.index] = c
	} else {
		c.index = int32(len(g.conns))
		g.conns = append(g.conns, c)
	}
	g.busy++

	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// Eight source addresses give 8 x 28,000 ports, so connections in TIME_WAIT don't end a long series of rounds.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + g.opened%8)}}); err != nil {
		return err
	}
	g.opened++
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: g.port, Addr: [4]byte{127, 0, 0, 1}})
	interest := uint32(unix.EPOLLIN)
	switch {
	case err == nil:
		g.sendConnect(c)
	case errors.Is(err, unix.EINPROGRESS):
		interest |= unix.EPOLLOUT
	default:
		return err
	}
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: interest, Fd: c.index})
}

func (g *generator) sendConnect(c *conn) {
	c.state = waitConnack
	c.out = appendConnect(c.out, g.version, c.clientID, c.durable)
	g.markDirty(c)
}

// markDirty has c's output written at the end of the turn.
func (g *generator) markDirty(c *conn) {
	if !c.dirty && !c.blocked {
		c.dirty = true
		g.dirty = append(g.dirty, c)
	}
}

// turn waits at most timeout for something to read, and does one round of reading, sending and writing.
func (g *generator) turn(timeout time.Duration) error {
	if g.stop.Load() {
		return errStopped
	}
	// What was marked dirty outside of a turn goes first.
	if err := g.flush(); err != nil {
		return err
	}
	n, err := g.wait(min(timeout, turnMax))
	if err != nil {
		return err
	}
	for i := range n {
		ev := &g.events[i]
		c := g.conns[ev.Fd]
		if c == nil {
			continue
		}
		if ev.Events&unix.EPOLLOUT != 0 {
			if err := g.writable(c); err != nil {
				return err
			}
		}
		if ev.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			if err := g.read(c); err != nil {
				return err
			}
		}
	}
	g.handler.turn()
	return g.flush()
}

// wait is epoll_pwait2: a timeout in nanoseconds, which an open loop needs.
func (g *generator) wait(timeout time.Duration) (int, error) {
	g.calls++
	ts := unix.NsecToTimespec(int64(max(timeout, 0)))
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(g.epoll), uintptr(unsafe.Pointer(&g.events[0])),
		uintptr(len(g.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("epoll_pwait2 (Linux 5.11 or later): %w", errno)
}

// broken is the error for a connection that the broker has ended: it may show in a read or in a write.
func (c *conn) broken(err error) error {
	return fmt.Errorf("the broker ended the connection of %s: %w", c.clientID, err)
}

// writable goes on with a connect or with a write that the socket took in part.
func (g *generator) writable(c *conn) error {
	if c.state == connecting {
		if code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			return fmt.Errorf("connect %s: %w", c.clientID, unix.Errno(code))
		}
		g.sendConnect(c)
	} else {
		c.blocked = false
		g.markDirty(c)
	}
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.index})
}

// read reads once and hands every whole packet on.
func (g *generator) read(c *conn) error {
	have := copy(g.buffer, c.rest)
	g.calls++
	n, err := rawRead(c.fd, g.buffer[have:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR: //nolint:errorlint // a bare Errno, and this is the hot path
		return nil
	case c.state == leaving && (err != nil || n == 0):
		g.drop(c)
		return nil
	case err != nil || n == 0:
		return c.broken(cmp.Or(err, io.EOF))
	}
	b := g.buffer[:have+n]
	for {
		first, body, size, err := nextPacket(b)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		if c.state != ready {
			err = g.setup(c, first, body)
		} else {
			err = g.handler.packet(c, first, body)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.clientID, err)
		}
		b = b[size:]
	}
	if len(b) == len(g.buffer) {
		return errMalformed // a packet larger than any that these scenarios can cause
	}
	c.rest = append(c.rest[:0], b...)
	return nil
}

// setup takes the CONNACK and the SUBACK.
func (g *generator) setup(c *conn, first byte, body []byte) error {
	switch {
	case c.state == waitConnack && first == typeConnack && len(body) >= 2:
		if body[1] != 0 {
			return fmt.Errorf("CONNACK with code 0x%02X", body[1])
		}
		if g.version == 5 {
			var err error
			if c.receiveMaximum, err = connackReceiveMaximum(body); err != nil {
				return err
			}
		}
		switch {
		case c.leave:
			c.state = leaving
			c.out = append(c.out, typeDisconnect, 0)
			g.markDirty(c)
		case c.filter != "":
			c.state = waitSuback
			c.out = appendSubscribe(c.out, g.version, 1, c.filter, c.qos)
			g.markDirty(c)
		default:
			c.state = ready
			g.busy--
		}
	case c.state == waitSuback && first == typeSuback && len(body) >= 3:
		if code := body[len(body)-1]; code != c.qos {
			return fmt.Errorf("SUBACK with code 0x%02X for QoS %d", code, c.qos)
		}
		c.state = ready
		g.busy--
	default:
		return fmt.Errorf("packet type %d before the session was set up", first>>4)
	}
	return nil
}

// drop forgets a connection that has ended as planned.
func (g *generator) drop(c *conn) {
	_ = unix.Close(c.fd)
	g.conns[c.index] = nil
	g.free = append(g.free, c.index)
	g.busy--
}

// flush writes each dirty connection's output, once.
func (g *generator) flush() error {
	for _, c := range g.dirty {
		c.dirty = false
		g.calls++
		n, err := rawWrite(c.fd, c.out)
		if err == unix.EAGAIN || err == unix.EINTR { //nolint:errorlint // a bare Errno, and this is the hot path
			n, err = 0, nil
		}
		if err != nil {
			return c.broken(err)
		}
		if n < len(c.out) {
			c.out = c.out[:copy(c.out, c.out[n:])]
			c.blocked = true
			ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: c.index}
			if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
				return err
			}
			continue
		}
		c.out = c.out[:0]
		if c.state == leaving {
			// To the broker this is a close; for us the other half stays open to see when the broker has done its part.
			_ = unix.Shutdown(c.fd, unix.SHUT_WR)
		}
	}
	g.dirty = g.dirty[:0]
	return nil
}

// noHandler is the handler of scenarios without messages.
type noHandler struct{}

func (noHandler) packet(_ *conn, first byte, _ []byte) error {
	return fmt.Errorf("unexpected packet type %d", first>>4)
}

func (noHandler) turn() {}

// rawRead and rawWrite skip the Go scheduler's bookkeeping around a system call: the sockets don't block.
func rawRead(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func rawWrite(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
