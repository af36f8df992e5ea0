package eventloop

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// maxRecord is more than what one TLS record, or a part of one that was kept, holds.
const maxRecord = 17 << 10

// secure is the TLS layer. The handshake runs in a goroutine of its own, see handshake; from then on all is done on the
// loop, by a tls.Conn whose net.Conn is the layer itself: its Read yields what the loop has just read and then a
// temporary error, which crypto/tls takes for a reason to be asked again, and its Write adds to the output. So a
// connection that is idle has no goroutine, and what a turn wrote becomes one sequence of records.
type secure struct {
	links
	conn   *Conn
	config *tls.Config
	tls    *tls.Conn  // nil until the handshake is done
	shake  *handshake // nil from then on
	in     []byte     // what is left of the input, while there is some
}

func (s *secure) start(c *Conn) {
	s.conn = c
	s.shake = newHandshake(s)
}

func (s *secure) input(c *Conn, in []byte) {
	if s.tls == nil {
		s.shake.input(in)
		return
	}
	l := c.loop
	if l.plain == nil {
		l.plain = make([]byte, len(l.readBuffer)+maxRecord) // holds all there can be, but for a stash
	}
	s.in = in
	l.lendBuffer(s.tls)
	defer l.takeBuffer(s.tls)
	for {
		n, err := s.read(l.plain)
		s.up(c, l.plain[:n])
		switch {
		case err == nil && c.state&(closing|paused) == 0: // the buffer was too small
			continue
		case err == nil && c.state&closing == 0:
			l.stash(c, s.in)
		case errors.Is(err, io.EOF):
			c.Close(nil)
		case err != nil && !errors.Is(err, errNoInput):
			c.Close(fmt.Errorf("%w: %w", ErrTLS, err))
		}
		s.in = nil
		return
	}
}

// read decrypts until the buffer is full or there is an error, at the latest errNoInput.
func (s *secure) read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = s.tls.Read(p[n:])
		n += m
	}
	return n, err
}

func (s *secure) output(_ *Conn, p []byte) error {
	_, err := s.tls.Write(p)
	return err
}

func (s *secure) goodbye(*Conn, error) {
	if s.tls != nil {
		_ = s.tls.CloseWrite() // It fails if an alert was sent before.
	}
}

func (s *secure) stop(*Conn) {
	if s.shake != nil {
		s.shake.stop()
	}
}

// done ends the handshake, on the loop.
func (s *secure) done(tc *tls.Conn, err error) {
	c, h := s.conn, s.shake
	if c.state&closing != 0 {
		if h.gone {
			err = cmp.Or(err, errHandshakeGone)
			c.loop.engine.refused(refusal(err), c.RemoteAddr(), err)
		}
		return
	}
	if err != nil {
		c.refuse(refusal(err), err)
		return
	}
	h.timer.Stop()
	c.loop.engine.handshakes.completed.Add(1)
	s.tls, s.shake = tc, nil
	c.Resume()
	s.ready(c)
	if c.state&paused == 0 {
		s.input(c, h.in) // even if there is none: tc may hold some
	} else {
		st := c.loop.stashOf(c)
		st.data = append(h.in, st.data...)
	}
}

// TLSState returns what the TLS handshake agreed on, or nil without TLS and after OnClose. It makes a new one each time.
func (c *Conn) TLSState() *tls.ConnectionState {
	if c.stack == nil {
		return nil
	}
	for y := c.stack.bottom; y != nil; y = y.neighbours().above {
		if s, ok := y.(*secure); ok && s.tls != nil {
			state := s.tls.ConnectionState()
			return &state
		}
	}
	return nil
}

// The rest makes secure the net.Conn of its tls.Conn. A handshake calls it in its own goroutine, later the loop does.

var _ net.Conn = (*secure)(nil)

func (s *secure) Read(p []byte) (int, error) {
	if s.shake != nil {
		return s.shake.read(p)
	}
	if len(s.in) == 0 {
		return 0, errNoInput
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *secure) Write(p []byte) (int, error) {
	if s.shake != nil {
		s.shake.write(p)
		return len(p), nil
	}
	return len(p), s.down(s.conn, p)
}

func (s *secure) Close() error                     { return nil }
func (s *secure) LocalAddr() net.Addr              { return s.conn.listener.addr }
func (s *secure) RemoteAddr() net.Addr             { return s.conn.RemoteAddr() }
func (s *secure) SetDeadline(time.Time) error      { return nil }
func (s *secure) SetReadDeadline(time.Time) error  { return nil }
func (s *secure) SetWriteDeadline(time.Time) error { return nil }

// errNoInput is what crypto/tls survives: a temporary net.Error.
var errNoInput net.Error = noInput{}

type noInput struct{}

func (noInput) Error() string   { return "no input yet" }
func (noInput) Timeout() bool   { return true }
func (noInput) Temporary() bool { return true }
