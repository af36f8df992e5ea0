//go:build linux

package loadtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// secure is TLS on a loop. The handshake is made in a goroutine of its own, which blocks; from then on all is done on the loop, by
// a tls.Conn whose net.Conn is secure itself: its Read yields what the loop has just read and then a temporary error, which
// crypto/tls takes for a reason to be asked again, and its Write collects what the loop is to write.
type secure struct {
	conn   *tls.Conn
	socket net.Conn // during the handshake
	in     []byte   // what is left of the input
	out    []byte   // what is to be written
}

// secure starts the handshake of a client whose connection is there.
func (l *loop) secure(c *client, p *endpoint) {
	generation, fd := c.generation, c.fd
	// A file of its own for the same socket: the runtime's poller keeps it until the handshake is done.
	dup, err := unix.Dup(fd)
	if err != nil {
		l.fail(c, "TLS", err)
		return
	}
	l.shaking++
	l.run.handshakes.Go(func() {
		s := new(secure)
		err := s.shake(l.run.ctx, dup, p.config)
		l.post(func() {
			l.shaking--
			if c.generation != generation || c.state != securing {
				return
			}
			if err != nil {
				l.fail(c, "TLS", err)
				return
			}
			c.secure = s
			if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.slot, Pad: c.generation}); err != nil {
				l.fail(c, "TLS", err)
				return
			}
			c.out = l.firstBytes(c, l.output(c))
			if err := l.received(c, nil); err != nil { // the handshake may have read more than it needed
				l.fail(c, "TLS", err)
			}
		})
	})
}

// shake makes the handshake on a file, which it closes.
func (s *secure) shake(ctx context.Context, fd int, config *tls.Config) error {
	file := os.NewFile(uintptr(fd), "")
	socket, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		return fmt.Errorf("use socket: %w", err)
	}
	s.socket = socket
	s.conn = tls.Client(s, config)
	_ = socket.SetDeadline(time.Now().Add(setupMax))
	ctx, cancel := context.WithTimeout(ctx, setupMax)
	defer cancel()
	err = s.conn.HandshakeContext(ctx)
	s.socket = nil
	_ = socket.Close() // of this file: the loop's stays
	return err
}

// Read is called in the handshake's goroutine until that is done, and by the loop later.
func (s *secure) Read(p []byte) (int, error) {
	if s.socket != nil {
		return s.socket.Read(p)
	}
	if len(s.in) == 0 {
		return 0, errNoInput
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

// Write is like Read.
func (s *secure) Write(p []byte) (int, error) {
	if s.socket != nil {
		return s.socket.Write(p)
	}
	s.out = append(s.out, p...)
	return len(p), nil
}

// Close ends a handshake whose time is over.
func (s *secure) Close() error {
	if s.socket != nil {
		return s.socket.Close()
	}
	return nil
}

// The rest of net.Conn is of no use to crypto/tls here.

// LocalAddr returns nil.
func (s *secure) LocalAddr() net.Addr { return nil }

// RemoteAddr returns nil.
func (s *secure) RemoteAddr() net.Addr { return nil }

// SetDeadline does nothing.
func (s *secure) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (s *secure) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (s *secure) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*secure)(nil)

// errNoInput is what crypto/tls survives: a temporary net.Error.
var errNoInput net.Error = noInput{}

type noInput struct{}

// Error implements error.
func (noInput) Error() string { return "no input yet" }

// Timeout implements net.Error.
func (noInput) Timeout() bool { return true }

// Temporary implements net.Error.
func (noInput) Temporary() bool { return true }

// encode turns c's output into what goes on the wire.
func (c *client) encode(l *loop) error {
	plain := c.out
	c.out = nil
	if c.wire == nil && len(l.buffers) > 0 {
		n := len(l.buffers) - 1
		c.wire, l.buffers = l.buffers[n], l.buffers[:n]
	}
	give := plain
	if c.frames != nil && c.state != upgrading {
		framed := append(c.frames.framed[:0], c.frames.replies...)
		c.frames.replies = nil
		if len(plain) > 0 {
			framed = c.frames.append(framed, plain)
		}
		plain = framed
		c.frames.framed = nil
		defer func() { l.giveBack(framed) }()
	}
	if c.secure == nil {
		c.wire = append(c.wire, plain...)
	} else if len(plain) > 0 {
		c.secure.out = c.wire
		_, err := c.secure.conn.Write(plain)
		if c.state == leaving {
			_ = c.secure.conn.CloseWrite() // fails if an alert was sent before
		}
		c.wire, c.secure.out = c.secure.out, nil
		if err != nil {
			return err
		}
	}
	l.giveBack(give)
	return nil
}
