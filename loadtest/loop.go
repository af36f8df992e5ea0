//go:build linux

package loadtest

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readBytes takes what a thousand deliveries need in one read.
	readBytes = 256 << 10
	// turnMax bounds how long a loop waits, so that it looks after Keep Alive.
	turnMax = 20 * time.Millisecond
	// sweepTime is how often each client is looked at.
	sweepTime = time.Second
	// keepBuffer is the largest output buffer that is kept, keepBuffers how many.
	keepBuffer  = 64 << 10
	keepBuffers = 4096
)

// holders is how many loops of this process run: a few may hold their processor of Go's scheduler while they wait.
var holders atomic.Int32

// A loop drives a part of the clients from one goroutine: raw non-blocking sockets, one level-triggered epoll, one big read
// buffer that all connections share, and one write per connection and turn. An idle client costs nothing but its memory.
//
// A turn is: wait, read and take what is there, do what was posted and what is due, let the sections send, write what was sent.
// All of a loop, but for its mailbox, belongs to its goroutine.
type loop struct {
	run   *run
	index int
	epoll int
	event int // eventfd

	mailbox struct {
		sync.Mutex
		in     []func()
		closed bool
	}

	now      int64 // nanoseconds of Unix time, taken before each read and each turn
	events   []unix.EpollEvent
	buffer   []byte
	plain    []byte    // what TLS decrypts into; nil until then
	slots    []*client // by the index that epoll hands back; nil where one was closed
	vacant   []int32   // slots that are free
	scratch  []byte
	dirty    []*client      // have output
	buffers  [][]byte       // for output
	timers   timers         // reconnects
	clients  []*client      // all of this loop
	swept    int            // clients looked at in this round of sweeps
	sweepAt  int64          // when the next few are
	sections []*section     // the loop's part of each flow
	credits  [][]*publisher // deliveries to tell other loops of, by their index
	random   *rand.Rand
	stopped  bool
	holds    bool // see wait
	shaking  int  // handshakes of TLS that goroutines make

	counts *counts
	spare  *counts // the run's until it takes counts
	faults faults
	open   int // connections
	gone   int // clients that failed and stay away

	// Since the beginning, to see when everything is done.
	owed, got uint64 // deliveries
	underWay  int    // handshakes of QoS 1 and 2, on either side
	progress  uint64 // whatever happened
}

func newLoop(r *run, index int) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	}
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return &loop{
		run: r, index: index, epoll: epoll, event: event,
		events: make([]unix.EpollEvent, 1024),
		buffer: make([]byte, readBytes),
		random: rand.New(rand.NewPCG(uint64(now()), uint64(index))),
		counts: newCounts(), spare: newCounts(),
		faults: faults{},
		now:    now(),
	}, nil
}

// post has the loop call f in its next turn, if there is one. It is safe for any goroutine.
func (l *loop) post(f func()) {
	l.mailbox.Lock()
	defer l.mailbox.Unlock() // the file is open as long as this is held
	if l.mailbox.closed {
		return
	}
	if l.mailbox.in = append(l.mailbox.in, f); len(l.mailbox.in) == 1 {
		one := [8]byte{1}
		_, _ = unix.Write(l.event, one[:]) // fails only if it is awake anyway
	}
}

// work is the loop's goroutine.
func (l *loop) work() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The default slack of 50 µs would show in every latency of an open loop.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	l.holds = hold()
	defer holders.Add(-1)
	for !l.stopped {
		n := l.wait(l.timeout())
		for i := range n {
			l.ready(&l.events[i])
		}
		l.now = now()
		l.runPosted()
		l.runTimers()
		l.sweep()
		for _, s := range l.sections {
			s.turn()
		}
		l.handCredits()
		l.flush()
	}
	for _, c := range l.slots {
		if c != nil {
			_ = unix.Close(c.fd)
		}
	}
	l.close()
}

// hold counts a loop, and says whether a processor is left if it holds one.
func hold() bool { return int(holders.Add(1)) < runtime.GOMAXPROCS(0) }

// close closes the loop's own files.
func (l *loop) close() {
	l.mailbox.Lock()
	defer l.mailbox.Unlock()
	l.mailbox.closed = true
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.event)
}

// timeout is how long there is nothing to do.
func (l *loop) timeout() time.Duration {
	due := l.now + int64(turnMax)
	if len(l.timers) > 0 {
		due = min(due, l.timers[0].at)
	}
	for _, s := range l.sections {
		due = min(due, s.due())
	}
	if len(l.dirty) > 0 {
		return 0
	}
	return time.Duration(max(due-now(), 0))
}

// wait waits for events. If Go's scheduler hears of it, it looks every 20 µs whether it should take the processor away, and does:
// where messages are rare that costs more than they do. So it doesn't hear of it, as long as a processor is left for the few other
// goroutines and they have little to do. When it wants to stop the world, its signal ends the wait.
func (l *loop) wait(timeout time.Duration) int {
	l.counts.calls++
	ts := unix.NsecToTimespec(int64(timeout))
	call := unix.Syscall6
	if l.holds && l.shaking == 0 && len(l.run.gateways) == 0 {
		call = unix.RawSyscall6
	}
	n, _, errno := call(unix.SYS_EPOLL_PWAIT2, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
		uintptr(len(l.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch errno {
	case 0:
		return int(n)
	case unix.EINTR:
		return 0
	case unix.ENOSYS: // before Linux 5.11: milliseconds have to do
		n, _ := unix.EpollWait(l.epoll, l.events, int((timeout+time.Millisecond-1)/time.Millisecond))
		return max(n, 0)
	}
	panic(fmt.Sprintf("loadtest: epoll_pwait2: %v", errno)) // our own file is gone: nothing can work
}

// ready takes an event. It may be stale: what ran before in the same batch may have closed the file, and opened another.
func (l *loop) ready(ev *unix.EpollEvent) {
	if ev.Fd < 0 {
		var b [8]byte
		_, _ = unix.Read(l.event, b[:])
		return
	}
	c := l.slots[ev.Fd]
	if c == nil || c.generation != ev.Pad {
		return
	}
	if ev.Events&unix.EPOLLOUT != 0 {
		l.writable(c)
	}
	if ev.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 && c.fd >= 0 && c.generation == ev.Pad && c.state != connecting {
		l.read(c)
	}
}

func (l *loop) runPosted() {
	l.mailbox.Lock()
	in := l.mailbox.in
	l.mailbox.in = nil
	l.mailbox.Unlock()
	for _, f := range in {
		f()
	}
}

// read reads once and hands on what came.
func (l *loop) read(c *client) {
	l.counts.calls++
	n, err := rawRead(c.fd, l.buffer)
	l.now = now()
	switch {
	case err == unix.EAGAIN || err == unix.EINTR: //nolint:errorlint // a bare Errno, and this is the hot path
		return
	case err != nil:
		l.ended(c, err)
		return
	case n == 0:
		l.ended(c, nil)
		return
	}
	l.counts.bytesIn += uint64(n)
	if err := l.received(c, l.buffer[:n]); err != nil {
		l.fail(c, "protocol", err)
	}
}

// markDirty has c's output written at the end of the turn.
func (l *loop) markDirty(c *client) {
	if !c.dirty && !c.blocked {
		c.dirty = true
		l.dirty = append(l.dirty, c)
	}
}

// output returns c's output, to append to. The caller puts it back into c.out.
func (l *loop) output(c *client) []byte {
	l.markDirty(c)
	if c.out != nil {
		return c.out
	}
	if n := len(l.buffers); n > 0 {
		b := l.buffers[n-1]
		l.buffers = l.buffers[:n-1]
		return b
	}
	return make([]byte, 0, 512)
}

// giveBack keeps an output buffer for others.
func (l *loop) giveBack(b []byte) {
	if cap(b) > 0 && cap(b) <= keepBuffer && len(l.buffers) < keepBuffers {
		l.buffers = append(l.buffers, b[:0])
	}
}

// flush writes each dirty connection's output, once.
func (l *loop) flush() {
	for i := 0; i < len(l.dirty); i++ { // a failure may have another one write
		c := l.dirty[i]
		c.dirty = false
		if c.fd >= 0 && (len(c.out)+len(c.wire) > 0 || c.frames != nil && len(c.frames.replies) > 0) {
			l.write(c)
		}
	}
	clear(l.dirty)
	l.dirty = l.dirty[:0]
}

// write writes what c has.
func (l *loop) write(c *client) {
	c.written = l.now
	out := &c.out
	if c.secure != nil || c.frames != nil {
		if err := c.encode(l); err != nil {
			l.fail(c, "TLS", err)
			return
		}
		out = &c.wire
	}
	l.counts.calls++
	n, err := rawWrite(c.fd, *out)
	if err == unix.EAGAIN || err == unix.EINTR { //nolint:errorlint // a bare Errno, and this is the hot path
		n, err = 0, nil
	}
	if err != nil {
		l.ended(c, err)
		return
	}
	l.counts.bytesOut += uint64(n)
	if n < len(*out) {
		*out = (*out)[:copy(*out, (*out)[n:])]
		c.blocked = true
		l.watch(c, unix.EPOLLIN|unix.EPOLLOUT)
		return
	}
	l.giveBack(*out)
	*out = nil
	if c.state == leaving {
		// To the broker this is a close; for us the other half stays open, to see when the broker has done its part.
		_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	}
}

// writable goes on with a connect, or with a write that the socket took in part.
func (l *loop) writable(c *client) {
	switch {
	case c.state == connecting:
		l.now = now()
		l.connected(c)
	case c.blocked:
		c.blocked = false
		l.watch(c, unix.EPOLLIN)
		l.markDirty(c)
		if c.publisher != nil {
			c.section.wake(c.publisher)
		}
	}
}

// watch has epoll watch for other events than before.
func (l *loop) watch(c *client, events uint32) {
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: c.slot, Pad: c.generation})
}

// fault counts an error.
func (l *loop) fault(what, example string) {
	l.faults.add(what, example, 1)
	l.counts.errors++
}

// sweep looks after some clients, so that each has its turn once in sweepTime.
func (l *loop) sweep() {
	if l.now < l.sweepAt || len(l.clients) == 0 {
		return
	}
	l.sweepAt = l.now + int64(turnMax)
	for range len(l.clients)/int(sweepTime/turnMax) + 1 {
		l.swept = (l.swept + 1) % len(l.clients)
		l.look(l.clients[l.swept])
	}
}

// timers are clients to connect again, the first due first.
type timers []timer

type timer struct {
	at     int64
	client *client
}

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push implements heap.Interface.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	*t = old[:len(old)-1]
	return last
}

func (l *loop) runTimers() {
	for len(l.timers) > 0 && l.timers[0].at <= l.now {
		c := heap.Pop(&l.timers).(timer).client
		if c.state == down && !c.gone {
			c.section.dials.again = append(c.section.dials.again, c)
		}
	}
}

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
