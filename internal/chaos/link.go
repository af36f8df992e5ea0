package chaos

import (
	"io"
	"net"
	"sync"
	"time"
)

// Link is a way to a TCP server that can be cut and slowed. Its methods are safe for
// concurrent use.
type Link struct {
	listener net.Listener
	target   string

	mu struct {
		sync.Mutex
		cut   chan struct{} // closed when the link is whole; nil: it is
		delay time.Duration
		conns map[net.Conn]bool
	}
}

// NewLink returns a Link to target, with an address of its own. It ends with Close.
func NewLink(target string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{listener: listener, target: target}
	l.mu.conns = make(map[net.Conn]bool)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go l.serve(conn)
		}
	}()
	return l, nil
}

// Addr is where the link begins.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Close ends the link and all its connections.
func (l *Link) Close() {
	_ = l.listener.Close()
	l.Heal()
	l.Reset()
}

// Cut stops all that is under way, and what comes: nobody is told. What was sent
// arrives when the link is whole again.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.cut == nil {
		l.mu.cut = make(chan struct{})
	}
}

// Heal undoes Cut and Slow.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.cut != nil {
		close(l.mu.cut)
		l.mu.cut = nil
	}
	l.mu.delay = 0
}

// Slow delays each piece of data in both directions.
func (l *Link) Slow(delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.delay = delay
}

// Reset ends all connections.
func (l *Link) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.mu.conns {
		_ = conn.Close()
	}
}

// pass returns when a piece of data may go on.
func (l *Link) pass() {
	for {
		l.mu.Lock()
		cut, delay := l.mu.cut, l.mu.delay
		l.mu.Unlock()
		if cut != nil {
			<-cut
			continue
		}
		if delay > 0 {
			<-time.After(delay)
		}
		return
	}
}

// serve joins a connection with one to the target until either ends.
func (l *Link) serve(from net.Conn) {
	defer l.forget(from)
	l.keep(from)
	l.pass()
	to, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer l.forget(to)
	l.keep(to)
	var wg sync.WaitGroup
	wg.Go(func() { l.copy(to, from) })
	l.copy(from, to)
	wg.Wait()
}

func (l *Link) keep(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.conns[conn] = true
}

func (l *Link) forget(conn net.Conn) {
	_ = conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mu.conns, conn)
}

// copy passes data on until one side ends, and then ends both.
func (l *Link) copy(to io.WriteCloser, from io.ReadCloser) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			l.pass()
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
