package eventloop

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	gneterrors "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"github.com/panjf2000/gnet/v2/pkg/queue"
	"golang.org/x/sys/unix"

	"loopmq/internal/invariants"
)

const (
	// maxRounds is how often a turn starts over when its work made new work.
	maxRounds = 4

	// maxTurnsInARow is how many turns may follow each other without an event before one gives way. The poller runs
	// tasks until there are none left, so that those who post all the time could keep it from reading.
	maxTurnsInARow = 8

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
	engine   *Engine
	index    int
	poller   *netpoll.Poller
	turnTask queue.Func // l.turn; made once, so that a wake doesn't allocate it
	yieldR   int        // a pipe, by which a turn puts itself behind the next look at the poller
	yieldW   int

	// owned by the loop
	now         int64
	wheel       wheel
	readBuffer  []byte
	scratch     [64]byte               // what a closed connection's output is encoded into
	attachment  netpoll.PollAttachment // argument of the poller's methods, reused
	dirty       []*Conn
	closing     []closeRequest
	closingBack []closeRequest
	turnEnd     []func()
	turnEndBack []func()
	controlBack []func()
	turnsInARow int
	free        []*output
	freeBytes   int
	freeLow     int // the fewest that were free since the last trim
	listeners   map[int]*listener
	stashes     map[*Conn]*stash
	adopted     *Mailbox[adoption]
	gone        chan struct{} // set by closeAll, closed when the last connection is destroyed
	stopping    bool          // closeAll was called: new connections are refused
	exiting     bool

	// shared
	scheduled atomic.Bool  // a turn is under way or will be
	waking    atomic.Int32 // goroutines between the check of scheduled and the end of the poller's Trigger
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
	poller, err := netpoll.OpenPoller()
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
	l.turnTask = l.turn
	l.wheel.init()
	l.mailboxes.Store(new([]deliveries))
	l.adopted = NewMailbox(l, maxAdoptions, l.adopt)

	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		_ = poller.Close()
		return nil, os.NewSyscallError("pipe", err)
	}
	l.yieldR, l.yieldW = pipe[0], pipe[1]
	for _, fd := range pipe {
		unix.CloseOnExec(fd)
		_ = unix.SetNonblock(fd, true)
	}
	if err := poller.AddRead(&netpoll.PollAttachment{FD: l.yieldR}, false); err != nil {
		l.release()
		return nil, err
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
	l.wake()
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

// wake makes sure that a turn comes. Of all who call it before the turn, one pays for the wake.
//
// While a turn is under way, scheduled stays true; at its end the loop clears it and looks at the queues again, and
// wake is called after a queue got its entry: so either the loop sees the entry, or wake sees false.
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

// trigger gives the poller the next turn as a task, and ends its wait.
func (l *Loop) trigger() {
	if err := l.poller.Trigger(queue.HighPriority, l.turnTask, nil); err != nil {
		panic(fmt.Sprintf("eventloop: wake loop %d: %v", l.index, err)) // its eventfd is gone: nothing can work
	}
}

// run is the loop's goroutine.
func (l *Loop) run() {
	err := l.poller.Polling(l.onEvent)
	if !errors.Is(err, gneterrors.ErrEngineShutdown) {
		panic(fmt.Sprintf("eventloop: poll loop %d: %v", l.index, err))
	}
}

// onEvent is called by the poller for one file that is ready. An event may be stale, since what ran before in the same
// batch may have closed the file and opened another under its number: so the flags only say what to try.
func (l *Loop) onEvent(fd int, event netpoll.IOEvent, flags netpoll.IOFlags) error {
	l.now = l.engine.nanotime()
	l.turnsInARow = 0
	if c := l.engine.conns.load(fd); c != nil && c.loop == l {
		failed := netpoll.IsErrorEvent(event, flags)
		if c.state&blocked != 0 && (failed || netpoll.IsWriteEvent(event)) {
			l.flush(c)
		}
		if c.state&watchesRead != 0 && (failed || netpoll.IsReadEvent(event)) {
			l.read(c)
		}
		return nil
	}
	if fd == l.yieldR {
		var b [8]byte
		_, _ = unix.Read(fd, b[:])
		return l.turn(nil)
	}
	if ln := l.listeners[fd]; ln != nil {
		ln.accept()
	}
	return nil
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
	default:
		l.engine.handler.OnData(c, in)
		if invariants.Enabled {
			invariants.Mangle(in)
		}
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

// turn does everything that was put off since the last one. The poller runs it behind the events of a batch.
func (l *Loop) turn(any) error {
	l.now = l.engine.nanotime()
	l.counters.turns.Add(1)
	if asked := l.probe.Load(); asked != 0 {
		l.counters.lag.Store(l.now - asked)
		l.probe.Store(0)
		l.trim()
	}
	if l.turnsInARow++; l.turnsInARow > maxTurnsInARow {
		l.yield()
		return nil
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
			return l.exit()
		}
		if l.busy() {
			continue
		}
		l.scheduled.Store(false)
		if !l.busy() || !l.scheduled.CompareAndSwap(false, true) {
			return nil
		}
	}
	l.trigger()
	return nil
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

// yield puts the next turn behind the events that are ready now. A task of the poller would run before them.
func (l *Loop) yield() {
	if _, err := unix.Write(l.yieldW, l.scratch[:1]); err != nil && err != unix.EAGAIN {
		panic(fmt.Sprintf("eventloop: yield on loop %d: %v", l.index, err))
	}
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
	for _, c := range l.dirty { // flush writes and calls nobody, so the list doesn't grow
		c.state &^= dirty
		if c.out != nil && c.state&(blocked|broken) == 0 {
			l.flush(c)
		}
		if c.out == nil {
			c.extra = 0
		}
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
	l.freeBytes -= cap(o.buf)
	l.freeLow = min(l.freeLow, n)
	return o
}

func (l *Loop) giveBack(o *output) {
	if cap(o.buf) > keepBuffer || l.freeBytes+cap(o.buf) > keepBuffers {
		return
	}
	o.buf, o.sent = o.buf[:0], 0
	l.free = append(l.free, o)
	l.freeBytes += cap(o.buf)
}

// trim lets go of half of the buffers that weren't needed since the last call, once a second.
func (l *Loop) trim() {
	for range (l.freeLow + 1) / 2 {
		n := len(l.free) - 1
		l.freeBytes -= cap(l.free[n].buf)
		l.free[n] = nil
		l.free = l.free[:n]
	}
	l.freeLow = len(l.free)
}

// exit ends the goroutine. From here on scheduled stays true, so that nobody wakes the loop again.
func (l *Loop) exit() error {
	l.control.Lock()
	l.control.closed = true
	l.control.Unlock()
	l.runControl()
	for _, m := range *l.mailboxes.Load() {
		m.close()
	}
	return gneterrors.ErrEngineShutdown
}

// release closes the loop's own files, after its goroutine has ended.
func (l *Loop) release() {
	for l.waking.Load() != 0 { // a goroutine may be about to write to the poller's eventfd
		runtime.Gosched()
	}
	_ = l.poller.Close()
	_ = unix.Close(l.yieldR)
	_ = unix.Close(l.yieldW)
}
