package eventloop

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRounds is how often a turn starts over when its work made new work.
	maxRounds = 4

	// A buffer that grew beyond keepBuffer isn't kept, nor is one that would make the loop keep more than
	// keepBuffers bytes.
	keepBuffer  = 64 << 10
	keepBuffers = 8 << 20

	// firstBuffer is the capacity that an output buffer starts with.
	firstBuffer = 512
)

// Loop is one event loop: a goroutine that owns connections and calls the Handler for them. Post, Index and the
// functions of a Mailbox are safe for any goroutine. All else belongs to the loop's own goroutine.
type Loop struct {
	// immutable after New
	engine *Engine
	index  int
	poller *poller

	// owned by the loop
	now         int64
	wheel       wheel
	readBuffer  []byte
	plain       []byte       // what TLS decrypts into; nil until then
	raw         bytes.Buffer // what it reads records into, see tls_buffer.go
	scratch     [64]byte     // what a closed connection's output is encoded into
	reply       []byte       // what the frames of a read are answered with; see webSocket
	frame       []byte       // what webSocket encodes into
	requests    int          // bytes kept of requests that are incomplete
	dirty       []*Conn
	closing     []closeRequest
	closingBack []closeRequest
	turnEnd     []func()
	turnEndBack []func()
	controlBack []func()
	free        []*output
	freeBytes   int
	freeLow     int // the fewest that were free since the last trim
	listeners   map[int]*listener
	stashes     map[*Conn]*stash
	adopted     *Mailbox[adoption]
	arrivals    *Mailbox[*inlet] // what netpoll has read; with inlets nil if the engine isn't netpoll
	inlets      map[*Conn]*inlet
	gone        chan struct{} // set by closeAll, closed when the last connection is destroyed
	stopping    bool          // closeAll was called: new connections are refused
	exiting     bool

	// shared
	scheduled atomic.Bool  // a turn is under way or will come, see wake
	waking    atomic.Int32 // goroutines between the check of scheduled and the end of the poller's wake
	mailboxes atomic.Pointer[[]deliveries]
	control   struct {
		sync.Mutex
		in     []func()
		closed bool
	}
	controls atomic.Int64 // len(control.in)
	probe    atomic.Int64 // when the ticker asked for a turn, to measure the lag; 0 if it was answered

	counters counters
}

func newLoop(e *Engine, index int) (*Loop, error) {
	poller, err := openPoller()
	if err != nil {
		return nil, fmt.Errorf("open poller: %w", err)
	}
	l := &Loop{
		engine:    e,
		index:     index,
		poller:    poller,
		listeners: make(map[int]*listener),
		stashes:   make(map[*Conn]*stash),
	}
	l.wheel.init()
	l.mailboxes.Store(new([]deliveries))
	l.adopted = NewMailbox(l, maxAdoptions, l.adopt)
	if e.netpoll != nil {
		l.arrivals, l.inlets = NewMailbox(l, maxFiles, l.arrived), make(map[*Conn]*inlet)
	}
	return l, nil
}

// Index returns the loop's position in Engine.Loops.
func (l *Loop) Index() int { return l.index }

// Engine returns the engine that the loop belongs to.
func (l *Loop) Engine() *Engine { return l.engine }

// Nanotime returns monotonic nanoseconds since the engine was made. The value is taken before each event and at the
// beginning of each turn, so that reading it costs nothing. All loops of an engine count from the same moment.
func (l *Loop) Nanotime() int64 { return l.now }

// Post has the loop call f. It never blocks and is never full; functions run in the order in which one goroutine posts
// them, each exactly once, unless the loop stops first. Many posts cost one wake. It is safe for any goroutine,
// including the loop's own, where f runs later in the same turn.
func (l *Loop) Post(f func()) {
	l.control.Lock()
	if l.control.closed {
		l.control.Unlock()
		return
	}
	l.control.in = append(l.control.in, f)
	l.controls.Store(int64(len(l.control.in)))
	l.control.Unlock()
	l.wake()
}

// AtTurnEnd calls f once at the end of the current turn, before the output is flushed. Several functions run in the
// order in which they were given. Loop only.
func (l *Loop) AtTurnEnd(f func()) {
	l.turnEnd = append(l.turnEnd, f)
}

// Schedule arms t to fire after d, rounded up to a multiple of Tick. A timer that is armed already is moved. It costs
// no system call and no allocation. Loop only.
func (l *Loop) Schedule(t *Timer, d time.Duration) { l.wheel.schedule(t, l.now+int64(max(d, 0))) }

func (l *Loop) addMailbox(m deliveries) {
	for {
		old := l.mailboxes.Load()
		boxes := append(append([]deliveries(nil), *old...), m)
		if l.mailboxes.CompareAndSwap(old, &boxes) {
			return
		}
	}
}

// wake makes sure that a turn comes, after something was put into a queue of the loop. While the loop is awake it costs
// one look at a flag; of all who find it asleep, one pays for the wake.
//
// No wake gets lost, and no lock is needed, because each side writes before it reads, and all four are atomic operations
// in one order that both agree on:
//
//	who wakes:  entry into the queue, its length > 0    then    reads scheduled
//	the loop:   scheduled = false                       then    reads the lengths (busy), and sleeps if all are 0
//
// If the loop sees no entry, then its read came before the entry's write, so scheduled was false before the other side
// read it, and that side sets it and writes to the poller. If that side reads true, then the loop hasn't cleared it yet,
// or has set it again since, and in both cases looks at the lengths later. A wake that comes between the loop's look and
// its wait isn't lost either, for the poller keeps it until the wait. The loop sets scheduled again before the turn in
// which it takes the queues, whatever ended its wait.
//
// What the loop puts off for itself (output, AtTurnEnd, Close) needs no wake: a turn follows all that runs on it.
func (l *Loop) wake() {
	if l.scheduled.Load() {
		return
	}
	l.waking.Add(1)
	if l.scheduled.CompareAndSwap(false, true) {
		l.trigger()
	}
	l.waking.Add(-1)
}

// fallAsleep is called behind a turn, and reports whether the loop may wait for the poller now. If it may not, there is
// something to do and the next turn must come without a wake.
func (l *Loop) fallAsleep() bool {
	l.scheduled.Store(false)
	return !l.busy() || !l.scheduled.CompareAndSwap(false, true) // someone else set it, and so ends the wait
}

func (l *Loop) trigger() {
	if err := l.poller.wake(); err != nil {
		panic(fmt.Sprintf("eventloop: wake loop %d: %v", l.index, err)) // its eventfd is gone: nothing can work
	}
}

// run is the loop's goroutine.
func (l *Loop) run() {
	if err := l.poller.run(l); err != nil {
		panic(fmt.Sprintf("eventloop: poll loop %d: %v", l.index, err))
	}
}

// onEvent is called by the poller for one file that is ready. An event may be stale, since what ran before in the same
// batch may have closed the file and opened another under its number: so the flags only say what to try.
func (l *Loop) onEvent(fd int, readable, writable bool) {
	l.now = l.engine.nanotime()
	if c := l.engine.conns.load(fd); c != nil && c.loop == l {
		if writable && c.state&blocked != 0 {
			l.flush(c)
		}
		if readable && c.state&watchesRead != 0 {
			l.read(c)
		}
		return
	}
	if ln := l.listeners[fd]; ln != nil {
		ln.accept()
	}
}

// read hands over what one read system call yields. One is enough: the poller reports the file again if there is more,
// and others get their share in between.
func (l *Loop) read(c *Conn) {
	n, err := read(int(c.fd), l.readBuffer)
	switch {
	case n > 0:
		l.counters.reads.Add(1)
		l.counters.bytesIn.Add(uint64(n))
		l.input(c, l.readBuffer[:n])
	case err == nil:
		l.endOfInput(c)
	case err == unix.EAGAIN || err == unix.EINTR: //nolint:errorlint // a system call's error is bare, and this is the path of every read
	default:
		l.fail(c, err)
	}
}

func (l *Loop) input(c *Conn, in []byte) {
	switch {
	case c.state&closing != 0: // the peer's last words, which nobody is to hear
	case c.state&paused != 0 || l.stashes[c] != nil:
		l.stash(c, in)
	case c.stack != nil:
		c.stack.bottom.input(c, in)
		c.checkBound()
	default:
		l.deliver(c, in)
	}
}

func (l *Loop) endOfInput(c *Conn) {
	switch {
	case c.state&closed != 0:
		l.destroy(c)
	case c.state&paused != 0 || l.stashes[c] != nil:
		l.stashEnd(c)
	default:
		c.state |= inputEnded
		c.Close(nil)
	}
}

// turn does everything that was put off since the last one. It reports false if it was the last.
func (l *Loop) turn() bool {
	l.now = l.engine.nanotime()
	l.counters.turns.Add(1)
	if asked := l.probe.Load(); asked != 0 {
		l.counters.lag.Store(l.now - asked)
		l.probe.Store(0)
		l.trim()
	}
	for range maxRounds {
		l.runControl()
		for _, m := range *l.mailboxes.Load() {
			m.deliver()
		}
		l.wheel.advance(l.now)
		l.runTurnEnd()
		l.flushDirty()
		l.runClosing()
		if l.exiting {
			l.exit()
			return false
		}
		if !l.busy() {
			break
		}
	}
	return true
}

// busy reports whether a turn has something to do.
func (l *Loop) busy() bool {
	if l.controls.Load() != 0 || len(l.dirty)+len(l.closing)+len(l.turnEnd) != 0 {
		return true
	}
	for _, m := range *l.mailboxes.Load() {
		if m.Len() != 0 {
			return true
		}
	}
	return false
}

func (l *Loop) runControl() {
	if l.controls.Load() == 0 {
		return
	}
	l.control.Lock()
	batch := l.control.in
	l.control.in = l.controlBack[:0]
	l.controls.Store(0)
	l.control.Unlock()
	for _, f := range batch {
		f()
	}
	clear(batch)
	l.controlBack = batch[:0]
}

func (l *Loop) runTurnEnd() {
	if len(l.turnEnd) == 0 {
		return
	}
	batch := l.turnEnd
	l.turnEnd = l.turnEndBack[:0]
	for _, f := range batch {
		f()
	}
	clear(batch)
	l.turnEndBack = batch[:0]
}

func (l *Loop) flushDirty() {
	for _, c := range l.dirty { // flush writes and calls no Handler, and who is dirty isn't marked again: the list doesn't grow
		if c.out != nil && c.state&(blocked|broken) == 0 {
			extra := c.out.extra
			c.out.extra = 0 // The turn is over: what comes of it has come.
			l.flush(c)
			if c.out != nil {
				c.out.extra = extra
			}
		}
		c.state &^= dirty
	}
	clear(l.dirty)
	l.dirty = l.dirty[:0]
}

func (l *Loop) runClosing() {
	batch := l.closing
	l.closing = l.closingBack[:0]
	for _, r := range batch {
		l.finish(r.conn, r.err)
	}
	clear(batch)
	l.closingBack = batch[:0]
}

// borrow returns an empty output buffer.
func (l *Loop) borrow() *output {
	n := len(l.free) - 1
	if n < 0 {
		return &output{buf: make([]byte, 0, firstBuffer)}
	}
	o := l.free[n]
	l.free[n] = nil
	l.free = l.free[:n]
	l.freeBytes -= o.size()
	l.freeLow = min(l.freeLow, n)
	return o
}

func (l *Loop) giveBack(o *output) {
	if o.size() > keepBuffer || l.freeBytes+o.size() > keepBuffers {
		return
	}
	o.buf, o.plain, o.sent, o.extra = o.buf[:0], o.plain[:0], 0, 0
	l.free = append(l.free, o)
	l.freeBytes += o.size()
}

func (o *output) size() int { return cap(o.buf) + cap(o.plain) }

// trim lets go of half of the buffers that weren't needed since the last call, once a second.
func (l *Loop) trim() {
	for range (l.freeLow + 1) / 2 {
		n := len(l.free) - 1
		l.freeBytes -= l.free[n].size()
		l.free[n] = nil
		l.free = l.free[:n]
	}
	l.freeLow = len(l.free)
}

// exit ends the goroutine. From here on scheduled stays true, so that nobody wakes the loop again.
func (l *Loop) exit() {
	l.control.Lock()
	l.control.closed = true
	l.control.Unlock()
	l.runControl()
	for _, m := range *l.mailboxes.Load() {
		m.close()
	}
}

// release closes the loop's own files, after its goroutine has ended.
func (l *Loop) release() {
	for l.waking.Load() != 0 { // a goroutine may be about to use the poller
		runtime.Gosched()
	}
	l.poller.close()
}
