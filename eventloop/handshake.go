package eventloop

import (
	"container/list"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loopmq/metrics"
)

const (
	// maxHandshakes is how many TLS handshakes an engine has under way at the same time, each in a goroutine; others
	// wait for their turn.
	maxHandshakes = 256

	// maxHandshakesPerSource is the same for one address, or one /64 of IPv6.
	maxHandshakesPerSource = 64

	// patience is how long a handshake may wait for its peer while others wait for a turn.
	patience = time.Second

	// turnTimeouts is how many handshake timeouts a connection may wait for its turn.
	turnTimeouts = 3

	// earlyInput is how much a peer may send before its handshake is done and we stop to read.
	earlyInput = 64 << 10

	recordHeader    = 5
	recordHandshake = 22
	maxHello        = 16 << 10 // the largest record
)

var (
	errNotTLS        = errors.New("what came is not a TLS handshake")
	errHandshakeTime = errors.New("the TLS handshake took too long")
	errHandshakeTurn = errors.New("too many TLS handshakes wait for their turn")
	errHandshakeGone = errors.New("the peer gave the TLS handshake up")
)

// handshake is a TLS handshake under way. It begins on the loop, which collects the first record: a peer that sends
// nothing, or a byte now and then, costs a few bytes and a timer. Then it is handed to the engine's handshakes and, when
// its turn comes, gets a goroutine, which is fed by the loop and has its output sent by the loop.
type handshake struct {
	layer *secure
	timer Timer // looks at the deadlines, owned by the loop
	begun int64 // when the connection came, or the layer below was ready
	src   netip.Addr

	submitted bool // the first record is whole; owned by the loop
	gone      bool // the connection has ended, and done says why; owned by the loop

	entry *list.Element // in its source's queue while it waits for a turn; guarded by handshakes.mu
	turn  atomic.Int64  // when it got its goroutine, 0 until then
	idle  atomic.Int64  // since when it waits for its peer; 0 if it doesn't

	signal chan struct{} // of capacity 1: there is input, or no more will come
	mu     sync.Mutex
	in     []byte // received and not read yet
	ended  bool
}

func newHandshake(s *secure) *handshake {
	l := s.conn.loop
	h := &handshake{layer: s, begun: l.now, src: source(s.conn.remote)}
	h.timer.Init(h)
	l.Schedule(&h.timer, min(patience, s.conn.handshakeTimeout()))
	return h
}

// source is who shares the turns of an address.
func source(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}

// input takes what the peer sent, on the loop.
func (h *handshake) input(in []byte) {
	c := h.layer.conn
	h.mu.Lock()
	h.in = append(h.in, in...)
	n := len(h.in)
	h.mu.Unlock()
	if n > earlyInput {
		c.Pause() // until it is done
	}
	if h.submitted {
		h.wake()
		return
	}
	switch whole, err := wholeRecord(h.in); {
	case err != nil:
		c.refuse(metrics.RefuseTLSProtocol, err)
	case whole:
		h.submitted = true
		h.signal = make(chan struct{}, 1)
		c.loop.engine.handshakes.submit(h)
	}
}

// wholeRecord reports whether b begins with all of a handshake record.
func wholeRecord(b []byte) (bool, error) {
	switch {
	case len(b) > 0 && b[0] != recordHandshake, len(b) > 1 && b[1] != 3:
		return false, errNotTLS
	case len(b) < recordHeader:
		return false, nil
	}
	n := int(b[3])<<8 | int(b[4])
	if n == 0 || n > maxHello {
		return false, errNotTLS
	}
	return len(b) >= recordHeader+n, nil
}

func (h *handshake) wake() {
	select {
	case h.signal <- struct{}{}:
	default: // it is awake, or will be
	}
}

// OnTimer ends a handshake that takes too long, and looks again later if it is on time.
func (h *handshake) OnTimer(*Timer) {
	c := h.layer.conn
	l := c.loop
	limit := int64(c.handshakeTimeout())
	turn, idle := h.turn.Load(), h.idle.Load()
	switch {
	case !h.submitted && l.now-h.begun >= limit,
		turn != 0 && l.now-turn >= limit,
		turn != 0 && idle != 0 && l.now-idle >= int64(patience) && l.engine.handshakes.pressed(h):
		c.refuse(metrics.RefuseTLSTimeout, errHandshakeTime)
	case h.submitted && turn == 0 && l.now-h.begun >= turnTimeouts*limit:
		c.refuse(metrics.RefuseBusy, errHandshakeTurn)
	default:
		l.Schedule(&h.timer, min(patience, c.handshakeTimeout()))
	}
}

// stop ends it because its connection ends.
func (h *handshake) stop() {
	c := h.layer.conn
	h.timer.Stop()
	h.mu.Lock()
	received := h.submitted || len(h.in) > 0
	h.ended = true
	h.mu.Unlock()
	if h.submitted {
		c.loop.engine.handshakes.withdraw(h)
		h.wake()
	}
	switch {
	case !received || c.state&refused != 0 || c.loop.stopping:
	case h.turn.Load() != 0: // the peer may have gone because of what its goroutine has sent
		h.gone = true
	default:
		c.loop.engine.refused(metrics.RefuseTLSAborted, c.RemoteAddr(), errHandshakeGone)
	}
}

// run is the handshake's goroutine.
func (h *handshake) run(all *handshakes) {
	s := h.layer
	all.cpu <- struct{}{}
	tc := tls.Server(s, s.config)
	err := tc.Handshake()
	<-all.cpu
	s.conn.loop.Post(func() { s.done(tc, err) })
	all.release(h)
}

// read waits for the peer, in the handshake's goroutine.
func (h *handshake) read(p []byte) (int, error) {
	engine := h.layer.conn.loop.engine
	for {
		h.mu.Lock()
		n := copy(p, h.in)
		h.in = h.in[n:]
		ended := h.ended
		h.mu.Unlock()
		switch {
		case ended:
			return 0, errHandshakeGone
		case n > 0:
			return n, nil
		}
		h.idle.Store(engine.nanotime())
		<-engine.handshakes.cpu
		<-h.signal
		engine.handshakes.cpu <- struct{}{}
		h.idle.Store(0)
	}
}

// write sends, from the handshake's goroutine. A handshake writes a few times at most.
func (h *handshake) write(p []byte) {
	c := h.layer.conn
	p = append([]byte(nil), p...)
	c.loop.Post(func() { _ = h.layer.down(c, p) })
}

// handshakes are the TLS handshakes of an engine that wait for a goroutine or have one. Turns go round the sources, so
// that one which has many doesn't keep others from theirs.
type handshakes struct {
	engine    *Engine
	completed atomic.Uint64
	cpu       chan struct{} // holds one for each goroutine that computes: the others wait for their peers or for this

	mu       sync.Mutex
	running  int
	queued   int
	sources  map[netip.Addr]*handshakeSource
	eligible list.List // sources that have one queued and may have one more running
}

type handshakeSource struct {
	addr    netip.Addr
	running int
	queue   list.List
	entry   *list.Element // in eligible
}

func newHandshakes(e *Engine) *handshakes {
	return &handshakes{
		engine:  e,
		cpu:     make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		sources: make(map[netip.Addr]*handshakeSource),
	}
}

// submit queues h for a turn.
func (a *handshakes) submit(h *handshake) {
	a.mu.Lock()
	defer a.mu.Unlock()
	src := a.sources[h.src]
	if src == nil {
		src = &handshakeSource{addr: h.src}
		a.sources[h.src] = src
	}
	h.entry = src.queue.PushBack(h)
	a.queued++
	a.changedLocked(src)
	a.nextLocked()
}

// withdraw takes h out of the queue, if it is still there.
func (a *handshakes) withdraw(h *handshake) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h.entry == nil {
		return
	}
	src := a.sources[h.src]
	src.queue.Remove(h.entry)
	h.entry = nil
	a.queued--
	a.changedLocked(src)
}

// release gives h's turn back.
func (a *handshakes) release(h *handshake) {
	a.mu.Lock()
	defer a.mu.Unlock()
	src := a.sources[h.src]
	src.running--
	a.running--
	a.changedLocked(src)
	a.nextLocked()
}

// pressed reports whether another handshake could have the turn that h has.
func (a *handshakes) pressed(h *handshake) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.eligible.Len() > 0 || a.sources[h.src].queue.Len() > 0
}

// underWay returns how many there are.
func (a *handshakes) underWay() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running + a.queued
}

// changedLocked puts a source where it belongs.
func (a *handshakes) changedLocked(src *handshakeSource) {
	switch may := src.queue.Len() > 0 && src.running < maxHandshakesPerSource; {
	case may && src.entry == nil:
		src.entry = a.eligible.PushBack(src)
	case !may && src.entry != nil:
		a.eligible.Remove(src.entry)
		src.entry = nil
	}
	if src.running == 0 && src.queue.Len() == 0 {
		delete(a.sources, src.addr)
	}
}

// nextLocked gives turns while there are any.
func (a *handshakes) nextLocked() {
	for a.running < maxHandshakes && a.eligible.Len() > 0 {
		src := a.eligible.Front().Value.(*handshakeSource)
		a.eligible.Remove(src.entry)
		src.entry = nil
		h := src.queue.Remove(src.queue.Front()).(*handshake)
		h.entry = nil
		a.queued--
		a.running++
		src.running++
		a.changedLocked(src) // to the end of the round
		h.turn.Store(max(a.engine.nanotime(), 1))
		a.engine.wg.Go(func() { h.run(a) })
	}
}

// refusal says why a handshake failed.
func refusal(err error) metrics.RefuseReason {
	var verification *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.As(err, &verification),
		strings.Contains(err.Error(), "client") && strings.Contains(err.Error(), "certificate"): // crypto/tls has no type for a missing one
		return metrics.RefuseTLSCertificate
	case errors.Is(err, errHandshakeGone), errors.As(err, &op) && op.Op == "remote error":
		return metrics.RefuseTLSAborted
	}
	return metrics.RefuseTLSProtocol
}
