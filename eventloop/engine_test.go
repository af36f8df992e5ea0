package eventloop

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// handler is a Handler made of functions; nil ones do nothing.
type handler struct {
	open  func(*Conn)
	data  func(*Conn, []byte)
	close func(*Conn, error)
	drain func(*Conn)
}

func (h *handler) OnOpen(c *Conn) {
	if h.open != nil {
		h.open(c)
	}
}

func (h *handler) OnData(c *Conn, in []byte) {
	if h.data != nil {
		h.data(c, in)
	}
}

func (h *handler) OnClose(c *Conn, err error) {
	if h.close != nil {
		h.close(c, err)
	}
}

func (h *handler) OnDrain(c *Conn) {
	if h.drain != nil {
		h.drain(c)
	}
}

func echo(c *Conn, in []byte) { c.Write(in) }

// mustStart starts an engine that listens on a free port and is stopped with the test.
func mustStart(t testing.TB, cfg Config) (*Engine, string) {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	addr, err := e.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return e, addr.String()
}

func mustDial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func TestEcho(t *testing.T) {
	_, addr := mustStart(t, Config{Loops: 2, Handler: &handler{data: echo}})
	for range 8 {
		c := mustDial(t, addr)
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
		go func() { _, _ = c.Write(want) }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatal("echo differs")
		}
	}
}
