package eventloop

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"loopmq/rate"
)

const (
	defaultMaxOutput  = 1 << 20
	defaultReadBuffer = 64 << 10

	// probeInterval is how often the lag of each loop is measured.
	probeInterval = time.Second
)

// The engines. ARCHITECTURE.md says how they differ.
const (
	Gnet    = "gnet"    // the default: a loop reads, writes and accepts itself
	Netpoll = "netpoll" // netpoll reads, the loop writes and accepts
)

// Config configures an Engine. Only Handler is required.
type Config struct {
	// Engine is Gnet or Netpoll; "" means Gnet.
	Engine string

	// Loops is the number of event loops; 0 means GOMAXPROCS.
	Loops int

	// Handler is told what happens to connections.
	Handler Handler

	// Logger gets what happens to the engine itself; nil means slog.Default().
	Logger *slog.Logger

	// MaxConnections bounds the connections that are open at the same time. One more is accepted and closed at once,
	// and counted: its client knows, and may try elsewhere. 0 means the process's limit of open files less a reserve
	// (a sixteenth, 32 to 1024) for everything else that needs files. A value above that is lowered to it.
	MaxConnections int

	// RefuseAddress says whose connections are closed as soon as they are accepted, before any handshake: by the peer's
	// address, or by that of the client that a PROXY header names. It is called on the loops, several at a time, and
	// must not block; nil refuses nobody.
	RefuseAddress func(netip.Addr) bool

	// AcceptRate bounds how many connections are accepted in a time, by all listeners together; see [Admission].
	AcceptRate rate.Limit

	// MaxOutputBytes bounds the output of one connection that the kernel hasn't taken yet, in bytes; 0 means 1 MiB. It
	// should hold the largest packet and then some, since what is larger can be sent only as far as the socket takes it.
	MaxOutputBytes int

	// ReadBufferBytes is the size of the read buffer that each loop has, and so the most that one call of OnData gets, but
	// for 17 KiB more with TLS; 0 means 64 KiB.
	ReadBufferBytes int
}

// Handler is told what happens to connections. All calls for one connection come from its loop, and never from inside a
// method of this package. A handler must not block.
type Handler interface {
	// OnOpen is the first call for a connection.
	OnOpen(c *Conn)

	// OnData hands over bytes from the peer. They are valid until it returns, and all of them are consumed: what the
	// handler needs longer, such as the beginning of a packet, it copies.
	OnData(c *Conn, in []byte)

	// OnClose is the last call, exactly once. err is nil if the peer ended the stream, the error given to Close, or what
	// went wrong (an errno of reading or writing, ErrOutputOverflow). Output written from here on is discarded.
	OnClose(c *Conn, err error)
}

// DrainHandler is implemented by a Handler that wants to know when a connection whose output had to wait has sent all
// of it: the moment to go on with what was held back.
type DrainHandler interface {
	OnDrain(c *Conn)
}

// Engine is a set of event loops with their connections. Its methods are safe for any goroutine, but those that wait
// (CloseListeners, Stop) must not be called on a loop.
type Engine struct {
	// immutable after New
	handler      Handler
	drainHandler DrainHandler // handler, if it is one
	logger       *slog.Logger
	maxOutput    int
	loops        []*Loop
	epoch        time.Time

	refuses    func(netip.Addr) bool // Config.RefuseAddress
	conns      connTable
	gate       *gate
	nextListen atomic.Uint32
	accepts    acceptCounters
	handshakes *handshakes
	netpoll    *netpollReader // nil if the engine is Gnet

	wg         sync.WaitGroup
	stopTicker chan struct{}

	mu struct {
		sync.Mutex
		listeners []*listener
		state     engineState
	}
}

type engineState uint8

const (
	engineNew engineState = iota
	engineRunning
	engineStopped
)

// New returns an engine that is not yet running. Its loops exist, so mailboxes can be made. It holds files, so it has
// to be stopped even if it is never started.
func New(cfg Config) (*Engine, error) {
	if cfg.Handler == nil {
		return nil, errNoHandler
	}
	e := &Engine{
		handler:    cfg.Handler,
		refuses:    cfg.RefuseAddress,
		logger:     cfg.Logger,
		maxOutput:  cfg.MaxOutputBytes,
		gate:       newGate(Admission{Connections: int(connectionLimit(cfg.MaxConnections)), Rate: cfg.AcceptRate}),
		epoch:      time.Now(),
		stopTicker: make(chan struct{}),
	}
	e.handshakes = newHandshakes(e)
	switch cfg.Engine {
	case "", Gnet:
	case Netpoll:
		var err error
		if e.netpoll, err = startNetpoll(); err != nil {
			return nil, fmt.Errorf("eventloop: start netpoll: %w", err)
		}
	default:
		return nil, fmt.Errorf("eventloop: engine %q is not known", cfg.Engine)
	}
	e.drainHandler, _ = cfg.Handler.(DrainHandler)
	if e.logger == nil {
		e.logger = slog.Default()
	}
	if e.maxOutput <= 0 {
		e.maxOutput = defaultMaxOutput
	}
	if cfg.Loops <= 0 {
		cfg.Loops = runtime.GOMAXPROCS(0)
	}
	if cfg.ReadBufferBytes <= 0 {
		cfg.ReadBufferBytes = defaultReadBuffer
	}
	for i := range cfg.Loops {
		l, err := newLoop(e, i)
		if err != nil {
			for _, l := range e.loops {
				l.release()
			}
			return nil, fmt.Errorf("eventloop: %w", err)
		}
		l.readBuffer = make([]byte, cfg.ReadBufferBytes)
		e.loops = append(e.loops, l)
	}
	return e, nil
}

// connectionLimit applies the limit of open files to what was asked for.
func connectionLimit(asked int) int64 {
	files := int64(maxFiles)
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil && int64(r.Cur) > 0 {
		files = min(files, int64(r.Cur))
	}
	limit := max(files-min(max(files/16, 32), 1024), 1)
	if asked > 0 {
		limit = min(limit, int64(asked))
	}
	return limit
}

// Start starts the loops. It may be called once.
func (e *Engine) Start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.state != engineNew {
		return errStarted
	}
	e.mu.state = engineRunning
	for _, l := range e.loops {
		e.wg.Go(l.run)
	}
	e.wg.Go(e.tick)
	return nil
}

// Loops returns the loops, in the order of their Index. The slice is not to be changed.
func (e *Engine) Loops() []*Loop { return e.loops }

// MaxConnections returns the limit that holds, see Config.
func (e *Engine) MaxConnections() int { return e.gate.admission.Load().Connections }

func (e *Engine) leastLoaded() *Loop {
	best := e.loops[0]
	for _, l := range e.loops[1:] {
		if l.counters.conns.Load() < best.counters.conns.Load() {
			best = l
		}
	}
	return best
}

// Stop closes the listeners, then every connection as Conn.Close does, and ends all goroutines. Connections that
// haven't taken their output when ctx ends are cut off, and Stop returns ctx's error. Functions that were posted before
// are run; those posted later never will be. A second call does nothing.
func (e *Engine) Stop(ctx context.Context) error {
	e.CloseListeners()
	e.mu.Lock()
	state := e.mu.state
	e.mu.state = engineStopped
	e.mu.Unlock()

	var err error
	switch state {
	case engineStopped:
		return nil
	case engineNew: // nobody but us is on the loops
		for _, l := range e.loops {
			l.stopping = true
			l.exit()
		}
	case engineRunning:
		err = e.drain(ctx)
		close(e.stopTicker)
		for _, l := range e.loops {
			l.Post(func() { l.exiting = true })
		}
		e.wg.Wait()
	}
	if e.netpoll != nil {
		e.netpoll.settle() // closes the last files, so that nothing arrives any more
	}
	for _, l := range e.loops {
		l.release()
	}
	return err
}

// drain closes all connections and waits until they are gone, or ctx ends.
func (e *Engine) drain(ctx context.Context) error {
	gone := make([]chan struct{}, len(e.loops))
	for i, l := range e.loops {
		gone[i] = make(chan struct{})
		l.Post(func() { l.closeAll(gone[i]) })
	}
	var err error
	for i, l := range e.loops {
		select {
		case <-gone[i]:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		}
		l.Post(l.destroyAll)
		<-gone[i]
	}
	return err
}

// closeAll closes the loop's connections, and gone when the last one is destroyed. Later ones are refused.
func (l *Loop) closeAll(gone chan struct{}) {
	l.stopping = true
	if l.counters.conns.Load() == 0 {
		close(gone)
		return
	}
	l.gone = gone
	l.engine.conns.each(l, func(c *Conn) {
		c.Close(ErrStopped)
		if c.state&lingering != 0 {
			l.destroyAfter(c, stopLinger)
		}
	})
}

// destroyAll closes the files of connections that are closing. It runs in a later turn than closeAll, so that each had
// its OnClose.
func (l *Loop) destroyAll() {
	l.engine.conns.each(l, l.destroy)
}

// Nanotime is Loop.Nanotime for other goroutines: the clock is read at each call.
func (e *Engine) Nanotime() int64 { return e.nanotime() }

func (e *Engine) nanotime() int64 { return int64(time.Since(e.epoch)) }

// tick wakes the loops that have timers due, and asks each for a sign of life every now and then.
func (e *Engine) tick() {
	t := time.NewTicker(Tick)
	defer t.Stop()
	lastProbe := int64(0)
	for {
		select {
		case <-e.stopTicker:
			return
		case <-t.C:
		}
		now := e.nanotime()
		probe := now-lastProbe >= int64(probeInterval)
		if probe {
			lastProbe = now
		}
		for _, l := range e.loops {
			if probe {
				l.probe.CompareAndSwap(0, now)
			}
			if probe || l.wheel.due.Load() <= now/int64(Tick) {
				l.wake()
			}
		}
	}
}
