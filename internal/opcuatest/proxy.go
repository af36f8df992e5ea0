package opcuatest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy is the way to a server, which can be cut.
type Proxy struct {
	// Swallowed gets a value when something was kept back because of Mute.
	Swallowed chan struct{}

	listener net.Listener
	to       string

	mu struct {
		sync.Mutex
		cut, mute bool
		conns     []net.Conn
	}
}

// MustProxy starts a proxy before a server, until the test ends.
func MustProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, to: to, Swallowed: make(chan struct{}, 1)}
	t.Cleanup(func() {
		_ = listener.Close()
		p.Cut()
	})
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			p.join(in)
		}
	}()
	return p
}

// Addr returns where clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

func (p *Proxy) join(in net.Conn) {
	out, err := net.Dial("tcp", p.to)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || p.mu.cut {
		_ = in.Close()
		if err == nil {
			_ = out.Close()
		}
		return
	}
	p.mu.conns = append(p.mu.conns, in, out)
	pass := func(to io.WriteCloser, from io.ReadCloser) {
		_, _ = io.Copy(to, from)
		_, _ = to.Close(), from.Close()
	}
	go pass(out, in)
	go pass(in, mutable{p, out})
}

// Cut ends all connections and keeps new ones away, until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.cut = true
	for _, conn := range p.mu.conns {
		_ = conn.Close()
	}
	p.mu.conns = nil
}

// Mute keeps back what the server sends, until Mend.
func (p *Proxy) Mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.mute = true
}

// Mend ends what Cut and Mute began. What was kept back is lost.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.cut, p.mu.mute = false, false
}

// mutable is a connection to the server.
type mutable struct {
	p *Proxy
	net.Conn
}

// Read returns what is to be passed on.
func (m mutable) Read(b []byte) (int, error) {
	for {
		n, err := m.Conn.Read(b)
		m.p.mu.Lock()
		mute := m.p.mu.mute
		m.p.mu.Unlock()
		if err != nil || !mute {
			return n, err
		}
		select {
		case m.p.Swallowed <- struct{}{}:
		default:
		}
	}
}
