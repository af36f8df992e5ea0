package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/panjf2000/gnet/v2/pkg/socket"
	"golang.org/x/sys/unix"

	"loopmq/metrics"
)

const (
	keepAlive = 15 * time.Second

	// acceptBatch is how many connections are accepted before the loop looks after the ones that it has.
	acceptBatch = 64

	// maxAdoptions is how many accepted connections may wait for another loop to take them.
	maxAdoptions = 4096

	// While the system is short of something, accepting is tried again after minBackoff, and then after twice the last
	// wait each, up to maxBackoff.
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second

	defaultHandshakeTimeout = 10 * time.Second
)

// acceptAgain are errors of one connection that is gone before it was accepted. The next may do.
var acceptAgain = []error{
	unix.EINTR, unix.ECONNABORTED, unix.ECONNRESET, unix.EPROTO, unix.EPERM, unix.ENOPROTOOPT, unix.EOPNOTSUPP,
	unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EHOSTUNREACH,
}

// inheritsOptions says whether accepted sockets have the options of the listening one.
const inheritsOptions = runtime.GOOS == "linux"

// Listener says where and how an Engine accepts connections. It isn't changed after it was given to [Engine.Listen].
type Listener struct {
	// Network is "tcp", "tcp4", "tcp6" or "unix"; "" means "tcp".
	Network string

	// Address is host:port; port 0 takes a free one. For "unix" it is a path, or @ and a name that is no file (Linux). A
	// socket at the path that nobody listens on is replaced.
	Address string

	// Mode is the rights of the file of a unix socket, whatever the umask is; 0 leaves them to the umask.
	Mode fs.FileMode

	// ProxyProtocol is the networks whose peers begin with a PROXY header, version 1 or 2, which names the client. With
	// any, whoever else connects is refused, and so is who doesn't send one. A peer on a unix socket may send one, in
	// whatever networks.
	ProxyProtocol []netip.Prefix

	// TLS has connections speak TLS, as servers; nil means that they don't. It is asked for its certificate at each
	// handshake, so that it can change by GetConfigForClient.
	TLS *tls.Config

	// HandshakeTimeout is how long a connection may take for each step before Handler.OnOpen: a header, a handshake;
	// 0 means 10 s.
	HandshakeTimeout time.Duration

	// Admission is the listener's own, within that of the Engine; see [Engine.SetListenerAdmission].
	Admission Admission

	// WebSocket makes it a listener for WebSocket; nil: plain bytes.
	WebSocket *WebSocket

	// Context is the caller's own, see [Conn.Listener].
	Context any
}

// listener is a listening socket. One loop accepts from it and gives each connection to the loop that has the fewest.
type listener struct {
	spec   Listener
	engine *Engine
	loop   *Loop
	addr   net.Addr
	fd     int
	gate   *gate
	remove func() // removes the file of a unix socket

	// owned by loop
	closed   bool
	timer    Timer         // armed while accepting is paused, or would be too fast
	backoff  time.Duration // the last wait; 0 if there is no shortage
	pausedAt int64
	batches  [][]adoption // by loop; reused
}

// adoption is a connected socket on its way to its loop.
type adoption struct {
	fd       int
	remote   netip.AddrPort
	listener *listener
}

// Listen opens a listening socket and accepts from it, once the engine runs. The address that it got is returned. The
// error is one sentence, and errors.Is finds syscall.EADDRINUSE in it.
func (e *Engine) Listen(spec Listener) (net.Addr, error) {
	network, address := spec.Network, spec.Address
	switch network {
	case "":
		network = "tcp"
	case "tcp", "tcp4", "tcp6":
	case "unix":
		if err := clearSocket(address); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
	default:
		return nil, fmt.Errorf("listen on %s: network %q is not known", address, network)
	}
	config := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) {
			if network == "unix" {
				restrictSocket(int(fd), spec.Mode)
				return
			}
			err = tuneSocket(int(fd))
		})
		return errors.Join(controlErr, err)
	}}
	nl, err := config.Listen(context.Background(), network, address)
	if err != nil {
		var sys *os.SyscallError
		if errors.As(err, &sys) { // leaves out what the caller knows: "listen tcp 127.0.0.1:1883: bind:"
			err = sys.Err
		}
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	defer func() { _ = nl.Close() }()
	remove := func() {}
	if ul, ok := nl.(*net.UnixListener); ok {
		ul.SetUnlinkOnClose(false)
		if remove, err = openSocket(address, spec.Mode); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
	}

	// The socket moves from the runtime's poller to the loop's.
	fd := -1
	raw, err := nl.(syscall.Conn).SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(f uintptr) { fd, err = socket.Dup(int(f)) })
		err = errors.Join(err, controlErr)
	}
	if err != nil {
		remove()
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.state == engineStopped {
		_ = unix.Close(fd)
		remove()
		return nil, ErrStopped
	}
	l := e.loops[int(e.nextListen.Add(1)-1)%len(e.loops)]
	ln := &listener{spec: spec, engine: e, loop: l, addr: nl.Addr(), fd: fd, remove: remove, gate: newGate(spec.Admission), batches: make([][]adoption, len(e.loops))}
	ln.timer.Init(ln)
	e.mu.listeners = append(e.mu.listeners, ln)
	l.Post(ln.open)
	return ln.addr, nil
}

// CloseListeners closes all listening sockets; connections are left alone. When it returns, nothing is accepted any
// more. It must not be called on a loop.
func (e *Engine) CloseListeners() {
	e.mu.Lock()
	listeners := e.mu.listeners
	e.mu.listeners = nil
	running := e.mu.state == engineRunning
	e.mu.Unlock()
	for _, ln := range listeners {
		if !running {
			ln.close()
			continue
		}
		done := make(chan struct{})
		ln.loop.Post(func() {
			ln.close()
			close(done)
		})
		<-done
	}
}

func (ln *listener) open() {
	if ln.closed {
		return
	}
	ln.loop.listeners[ln.fd] = ln
	if err := ln.loop.poller.watchAccepts(ln.fd); err != nil {
		ln.engine.logger.Error("listen", "addr", ln.addr.String(), "error", err)
		return
	}
	ln.accept()
}

func (ln *listener) close() {
	if ln.closed {
		return
	}
	ln.closed = true
	ln.timer.Stop()
	if ln.backoff != 0 {
		ln.engine.accepts.pausedNow.Add(-1)
	}
	delete(ln.loop.listeners, ln.fd)
	ln.remove()
	_ = unix.Close(ln.fd)
}

// accept takes connections off the queue until it is empty, and no more than a batch at a time.
func (ln *listener) accept() {
	if ln.closed || ln.timer.Armed() {
		return
	}
	more := true
	for range acceptBatch {
		if more = !ln.throttled() && ln.acceptOne(); !more {
			break
		}
	}
	for i, batch := range ln.batches {
		if len(batch) > 0 {
			ln.engine.refuse(batch[ln.engine.loops[i].adopted.PushAll(batch):], ln.engine.loops[i])
			ln.batches[i] = batch[:0]
		}
	}
	if more {
		ln.loop.Post(ln.accept)
	}
}

// acceptOne reports whether it makes sense to go on.
func (ln *listener) acceptOne() bool {
	e := ln.engine
	fd, sa, err := socket.Accept(ln.fd)
	switch {
	case err == nil:
	case errors.Is(err, unix.EAGAIN):
		ln.recovered()
		return false
	case slices.Contains(acceptAgain, err):
		return true
	default: // out of files or of memory
		ln.pause(err)
		return false
	}
	from := addrPort(sa)
	if len(ln.spec.ProxyProtocol) == 0 && e.refusesAddress(from.Addr()) {
		e.accepts.refused[metrics.RefuseBanned].Add(1)
		_ = unix.Close(fd)
		return true
	}
	if !ln.admit(fd) {
		return true
	}
	e.accepts.accepted.Add(1)
	if !inheritsOptions {
		_ = tuneSocket(fd)
	}
	a := adoption{fd: fd, remote: from, listener: ln}
	l := e.leastLoaded()
	l.counters.conns.Add(1)
	if l == ln.loop {
		l.open(a)
	} else {
		ln.batches[l.index] = append(ln.batches[l.index], a)
	}
	return true
}

// pause stops accepting for a while. Connections wait in the kernel's queue.
func (ln *listener) pause(err error) {
	if ln.backoff == 0 {
		ln.pausedAt = ln.loop.now
		ln.engine.accepts.pauses.Add(1)
		ln.engine.accepts.pausedNow.Add(1)
		ln.engine.logger.Warn("accept_paused", "addr", ln.addr.String(), "error", err)
	}
	ln.backoff = min(max(2*ln.backoff, minBackoff), maxBackoff)
	ln.loop.Schedule(&ln.timer, ln.backoff)
}

// recovered ends a shortage, when all that waited was accepted.
func (ln *listener) recovered() {
	if ln.backoff == 0 {
		return
	}
	ln.backoff = 0
	ln.engine.accepts.pausedNow.Add(-1)
	ln.engine.logger.Info("accept_resumed", "addr", ln.addr.String(),
		"after", time.Duration(ln.loop.now-ln.pausedAt).Round(time.Millisecond))
}

// OnTimer tries again after a shortage, or when the rate allows it.
func (ln *listener) OnTimer(*Timer) { ln.accept() }

// refuse closes connections that their loop has no room for.
func (e *Engine) refuse(batch []adoption, l *Loop) {
	for _, a := range batch {
		e.accepts.refused[metrics.RefuseBusy].Add(1)
		e.left(a.listener)
		l.counters.conns.Add(-1)
		_ = unix.Close(a.fd)
	}
}

// refused counts a connection that the Handler never hears of, and logs it.
func (e *Engine) refused(reason metrics.RefuseReason, remote net.Addr, err error) {
	e.accepts.refused[reason].Add(1)
	e.logger.Info("connection_refused", "remote_addr", remote.String(), "reason", reason.String(), "error", err)
}

// adopt takes connections that were accepted or dialled elsewhere.
func (l *Loop) adopt(batch []adoption) {
	for _, a := range batch {
		l.open(a)
	}
}

// open makes a connection of a socket that was counted already.
func (l *Loop) open(a adoption) {
	c := &Conn{loop: l, listener: a.listener, remote: a.remote.Addr(), port: a.remote.Port(), fd: int32(a.fd)}
	l.engine.conns.store(a.fd, c)
	if l.stopping {
		l.destroy(c)
		return
	}
	l.watch(c)
	if c.state&closing != 0 { // the poller refused it, so the handler never hears of it
		l.closing = l.closing[:len(l.closing)-1]
		l.destroy(c)
		return
	}
	if c.stack = c.listener.layers(); c.stack != nil {
		c.stack.bottom.start(c)
		return
	}
	c.opened()
}

// layers makes the layers of one connection; nil if there are none.
func (ln *listener) layers() *stack {
	var s stack
	if len(ln.spec.ProxyProtocol) > 0 {
		s.push(&proxied{})
	}
	if ln.spec.TLS != nil {
		s.push(&secure{config: ln.spec.TLS})
	}
	if ws := ln.spec.WebSocket; ws != nil {
		s.push(newWebSocket(ws))
	}
	if s.bottom == nil {
		return nil
	}
	return &s
}

// tuneSocket sets what every connection has. On a listening socket it is set once, where accepted ones inherit it.
func tuneSocket(fd int) error {
	if err := socket.SetNoDelay(fd, 1); err != nil {
		return err
	}
	secs := int(keepAlive / time.Second)
	return socket.SetKeepAlive(fd, true, secs, secs, 4)
}

// addrPort converts what the kernel reports. An IPv4 address in IPv6 form becomes an IPv4 address.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port))
	}
	return netip.AddrPort{}
}
