package websocket

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// pipe is a connection in memory: what the client writes is collected, what it reads was put there.
type pipe struct {
	net.Conn
	in, out bytes.Buffer
	opened  bool
}

func newPipe() *pipe { return new(pipe) }

func (p *pipe) Read(b []byte) (int, error) { return p.in.Read(b) }

func (p *pipe) Write(b []byte) (int, error) {
	n, _ := p.out.Write(b)
	if p.opened {
		return n, nil
	}
	h, err := NewHandshake(Options{})
	if err != nil {
		return 0, err
	}
	r, err := h.Answer(p.out.Bytes(), netip.Addr{})
	if err != nil {
		return 0, err
	}
	p.opened = true
	p.out.Reset()
	p.in.Write(r.Response)
	return n, nil
}

func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
func (p *pipe) Close() error                     { return nil }

// gorillaClient makes the handshake over p.
func gorillaClient(t testing.TB, p *pipe) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return p, nil }}
	c, _, err := d.DialContext(t.Context(), "ws://broker/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
