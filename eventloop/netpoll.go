package eventloop

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"
)

const (
	// inletLimit is how many bytes of a connection netpoll may have read that its loop hasn't taken. Beyond it the
	// connection is taken out of netpoll's poller until the loop has. A read that is under way may add as much again.
	inletLimit = 32 << 10

	// netpollBuffer is what netpoll has for each connection, in bytes, as long as little comes from it.
	netpollBuffer = 4 << 10
)

// netpollReader is netpoll's poller, which reads the connections of all engines of the process that are called
// "netpoll": netpoll has one for the process, and no handle for several. Its goroutine, and no other, touches netpoll's
// connections, so that each is taken out between two reads and nothing that was read gets lost; the exception is the end
// of a connection, which netpoll tells from a goroutine of its own. Others send it commands.
//
// netpoll calls what it has read a request and would run it on a goroutine from a pool. Here the poller runs it: all it
// does is to copy the bytes to where the loop finds them.
type netpollReader struct {
	wakeup  int // our end of a socket pair whose other end netpoll reads
	buffers sync.Pool

	mu struct {
		sync.Mutex
		commands []func()
	}
}

// startNetpoll returns the reader, which lives as long as the process.
var startNetpoll = sync.OnceValues(func() (*netpollReader, error) {
	err := netpoll.Configure(netpoll.Config{
		PollerNum:    1, // netpoll doesn't say which of several it gives a connection to, and it wants one per 20 cores
		BufferSize:   netpollBuffer,
		Runner:       func(_ context.Context, f func()) { f() },
		LoggerOutput: netpollLog{},
	})
	if err != nil {
		return nil, err
	}
	netpoll.LinkBufferCap = netpollBuffer
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	for _, fd := range pair {
		unix.CloseOnExec(fd)
		_ = unix.SetNonblock(fd, true)
	}
	r := &netpollReader{wakeup: pair[0]}
	r.buffers.New = func() any { return new([]byte) }
	nc, err := netpoll.NewFDConnection(pair[1])
	if err != nil {
		return nil, err
	}
	return r, nc.SetOnRequest(func(_ context.Context, nc netpoll.Connection) error {
		in := nc.Reader()
		if err := in.Skip(in.Len()); err != nil {
			return err
		}
		r.obey()
		return in.Release()
	})
})

// netpollLog has what netpoll logs in the process's log.
type netpollLog struct{}

var _ io.Writer = netpollLog{}

func (netpollLog) Write(p []byte) (int, error) {
	slog.Warn("netpoll", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}

// do has the poller's goroutine call f, in the order of the calls. It is safe for any goroutine and never blocks.
func (r *netpollReader) do(f func()) {
	r.mu.Lock()
	first := len(r.mu.commands) == 0
	r.mu.commands = append(r.mu.commands, f)
	r.mu.Unlock()
	if first { // else a byte is on its way
		_, _ = write(r.wakeup, []byte{0})
	}
}

func (r *netpollReader) obey() {
	r.mu.Lock()
	commands := r.mu.commands
	r.mu.commands = nil
	r.mu.Unlock()
	for _, f := range commands {
		f()
	}
}

// settle waits until the commands that were sent before are done.
func (r *netpollReader) settle() {
	done := make(chan struct{})
	r.do(func() { close(done) })
	<-done
}

// inlet is a connection as netpoll has it, and what was read and not yet taken by the loop.
//
//	attach:  netpoll reads it                      when the connection opens, and when the loop has taken all
//	detach:  netpoll has no part in it any more    when inletLimit waits
//	close:   the same, and the file is closed      when the connection is destroyed
//
// The file is closed by the poller's goroutine: netpoll may be about to read it, and its number would be another's then.
type inlet struct {
	// immutable
	reader *netpollReader
	conn   *Conn
	fd     int

	// owned by the loop
	held []byte // was taken, but the Handler paused
	told bool   // the end was handed over

	mu struct {
		sync.Mutex
		attached netpoll.Connection // nil if netpoll doesn't read it
		wanted   bool               // it is attached, or a command to do so is under way
		data     *[]byte            // nil if there are none
		waiting  int                // bytes of data, and those that the loop hasn't consumed
		queued   bool               // in the loop's arrivals
		ended    bool               // nothing more comes
		err      error              // why, if it isn't the peer's end
		lost     bool               // netpoll has closed the file
		closed   bool
	}
}

// attach runs on the poller's goroutine.
func (s *inlet) attach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || s.mu.ended || s.mu.attached != nil {
		return
	}
	nc, err := netpoll.NewFDConnection(s.fd)
	if err != nil { // the kernel has no room for one more; netpoll has closed the file
		s.mu.lost = true
		s.end(err)
		return
	}
	// Both only store the function: nobody but this goroutine reads.
	_ = nc.(netpollConn).SetOnDisconnect(s.hungUp)
	_ = nc.SetOnRequest(s.arrived)
	s.mu.attached = nc
}

// arrived is called by the poller after each read.
func (s *inlet) arrived(_ context.Context, nc netpoll.Connection) error {
	in := nc.Reader()
	n := in.Len()
	p, err := in.Next(n)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.mu.data == nil {
		s.mu.data = s.reader.buffers.Get().(*[]byte)
	}
	*s.mu.data = append(*s.mu.data, p...)
	s.mu.waiting += n
	if s.mu.waiting >= inletLimit && s.mu.wanted {
		s.mu.wanted = false
		s.reader.do(s.detach) // not at once: netpoll is in the middle of it
	}
	s.announce()
	s.mu.Unlock()
	return in.Release()
}

// announce puts the inlet into its loop's mailbox. REQUIRES: s.mu.
func (s *inlet) announce() {
	if !s.mu.queued {
		s.mu.queued = true
		s.conn.loop.arrivals.Push(s) // has room for every file that there can be
	}
}

// end notes that nothing more comes. REQUIRES: s.mu.
func (s *inlet) end(err error) {
	s.mu.ended, s.mu.err = true, err
	s.announce()
}

// hungUp is called by a goroutine of netpoll when a read has failed or the peer has ended the stream. All that came
// before has arrived.
func (s *inlet) hungUp(_ context.Context, nc netpoll.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.attached != nc {
		return // detached meanwhile; who attaches it again hears of it again
	}
	s.release()
	s.end(nil)
}

// release takes the connection out of netpoll, which would close the file otherwise. REQUIRES: s.mu.
func (s *inlet) release() {
	if s.mu.attached != nil {
		_ = s.mu.attached.(netpollConn).Detach()
		s.mu.attached = nil
	}
}

// netpollConn is what each connection of netpoll implements, though netpoll.Connection leaves it out.
type netpollConn interface {
	SetOnDisconnect(netpoll.OnDisconnect) error
	Detach() error
}

// detach runs on the poller's goroutine.
func (s *inlet) detach() {
	s.mu.Lock()
	s.release()
	s.mu.Unlock()
}

// close runs on the poller's goroutine.
func (s *inlet) close() {
	s.mu.Lock()
	s.release()
	s.mu.closed = true
	lost := s.mu.lost
	s.mu.Unlock()
	if !lost {
		_ = unix.Close(s.fd)
	}
}

// take returns what was read. The second result is the buffer to give back.
func (s *inlet) take() (in []byte, buffer *[]byte, ended bool) {
	s.mu.Lock()
	buffer, s.mu.data, s.mu.queued = s.mu.data, nil, false
	ended = s.mu.ended
	s.mu.Unlock()
	switch {
	case buffer == nil:
		in = s.held
	case len(s.held) > 0:
		in = append(s.held, *buffer...)
	default:
		in = *buffer
	}
	s.held = nil
	return in, buffer, ended
}

// consumed says that the loop is done with n bytes.
func (s *inlet) consumed(n int) {
	s.mu.Lock()
	s.mu.waiting -= n
	if s.mu.waiting == 0 && !s.mu.wanted {
		s.mu.wanted = true
		s.reader.do(s.attach)
	}
	s.mu.Unlock()
}

// hasMore reports whether the loop has something to take.
func (s *inlet) hasMore() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.waiting > 0
}

// watchInlet begins to hand over input, of a connection that is new or was paused. While it is paused, netpoll goes on
// to read up to the limit.
func (l *Loop) watchInlet(c *Conn) {
	s := l.inlets[c]
	if s == nil {
		s = &inlet{reader: l.engine.netpoll, conn: c, fd: int(c.fd)}
		s.mu.wanted = true
		l.inlets[c] = s
		s.reader.do(s.attach)
		return
	}
	s.mu.Lock()
	if s.mu.waiting > 0 || s.mu.ended && !s.told {
		s.announce()
	}
	s.mu.Unlock()
}

// arrived is called in a turn, with the connections of which something was read.
func (l *Loop) arrived(batch []*inlet) {
	for _, s := range batch {
		l.now = l.engine.nanotime()
		l.receive(s)
	}
}

// receive hands over what was read of a connection, in parts no larger than a read buffer.
func (l *Loop) receive(s *inlet) {
	c := s.conn
	in, buffer, ended := s.take()
	n := 0
	for n < len(in) && c.state&watchesRead != 0 {
		part := in[n:min(n+len(l.readBuffer), len(in))]
		n += len(part)
		l.counters.reads.Add(1)
		l.counters.bytesIn.Add(uint64(len(part)))
		l.input(c, part)
	}
	if n < len(in) && c.state&destroyed == 0 {
		s.held = append([]byte(nil), in[n:]...)
	}
	if buffer != nil && cap(*buffer) <= keepBuffer {
		*buffer = (*buffer)[:0]
		s.reader.buffers.Put(buffer)
	}
	if n > 0 && c.state&destroyed == 0 {
		s.consumed(n)
	}
	if ended && !s.told && len(s.held) == 0 && c.state&watchesRead != 0 {
		s.told = true
		l.inletEnded(s)
	}
}

// inletEnded finds out what netpoll doesn't say: whether the peer has ended the stream or cut it off.
func (l *Loop) inletEnded(s *inlet) {
	c := s.conn
	switch {
	case s.mu.err != nil: // isn't changed any more
		l.fail(c, s.mu.err)
	case c.remote.IsValid() && c.state&closing == 0 && isCutOff(s.fd):
		l.fail(c, unix.ECONNRESET)
	default:
		l.endOfInput(c)
	}
}

// isCutOff reports whether a TCP connection is gone in both directions, of which we have ended none.
func isCutOff(fd int) bool {
	files := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(files, 0)
	return err == nil && n > 0 && files[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// closeFile closes the file of a connection.
func (l *Loop) closeFile(c *Conn) {
	s := l.inlets[c]
	if s == nil {
		_ = unix.Close(int(c.fd)) // which takes it out of the poller too
		return
	}
	delete(l.inlets, c)
	s.reader.do(s.close)
}
