package eventloop

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"loopmq/metrics"
)

const (
	maxProxyV1    = 107 // with its end, says the protocol
	proxyV2Prefix = 16  // signature, command, family, length
	maxProxyV2    = 4096
)

var (
	proxySignatureV1 = []byte("PROXY ")
	proxySignatureV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

	errProxyUntrusted = errors.New("the peer is in no network that may send a PROXY header")
	errProxyInvalid   = errors.New("no PROXY header, or a bad one")
	errBanned         = errors.New("the address is banned")
	errProxyTime      = errors.New("no whole PROXY header in time")
)

// proxied is the layer of the PROXY protocol, version 1 or 2. It takes the header that a trusted balancer puts in front
// of everything, and leaves. There is no guessing: without a header the connection is closed, since a peer that could
// choose would choose its address.
type proxied struct {
	links
	conn  *Conn
	timer Timer
	in    []byte // of the header
}

func (p *proxied) start(c *Conn) {
	p.conn = c
	p.timer.Init(p)
	if !c.listener.trusts(c.remote) {
		c.refuse(metrics.RefuseProxyUntrusted, errProxyUntrusted)
		return
	}
	c.loop.Schedule(&p.timer, c.handshakeTimeout())
}

// trusts reports whether a peer may name another's address. Who may open a unix socket may.
func (ln *listener) trusts(a netip.Addr) bool {
	if !a.IsValid() {
		return true
	}
	for _, p := range ln.spec.ProxyProtocol {
		if p.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}

func (p *proxied) input(c *Conn, in []byte) {
	have := len(p.in)
	p.in = append(p.in, in[:min(len(in), proxyV2Prefix+maxProxyV2-have)]...)
	n, err := proxyHeaderLength(p.in)
	if err == nil && n == 0 {
		return // there is more to come
	}
	var source netip.AddrPort
	if err == nil {
		source, err = parseProxyHeader(p.in[:n])
	}
	if err != nil {
		c.refuse(metrics.RefuseProxyInvalid, err)
		return
	}
	if source.IsValid() {
		c.setRemote(source)
		if c.loop.engine.refusesAddress(source.Addr().Unmap()) {
			c.refuse(metrics.RefuseBanned, errBanned)
			return
		}
	}
	c.leave()
	p.ready(c)
	if rest := in[n-have:]; len(rest) > 0 {
		c.loop.input(c, rest)
	}
}

// proxyHeaderLength returns the length of the header that b begins with, or 0 if it isn't whole.
func proxyHeaderLength(b []byte) (int, error) {
	switch {
	case bytes.HasPrefix(b, proxySignatureV1):
		if i := bytes.IndexByte(b[:min(len(b), maxProxyV1)], '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(b) >= maxProxyV1 {
			return 0, errProxyInvalid
		}
	case bytes.HasPrefix(b, proxySignatureV2):
		if len(b) < proxyV2Prefix {
			return 0, nil
		}
		n := int(binary.BigEndian.Uint16(b[14:]))
		if n > maxProxyV2 {
			return 0, errProxyInvalid
		}
		if len(b) >= proxyV2Prefix+n {
			return proxyV2Prefix + n, nil
		}
	case !bytes.HasPrefix(proxySignatureV1, b) && !bytes.HasPrefix(proxySignatureV2, b):
		return 0, errProxyInvalid
	}
	return 0, nil
}

// parseProxyHeader returns the client's address from a whole header. It is the zero AddrPort if the header names none:
// the balancer speaks for itself (LOCAL), or for something without an IP address.
func parseProxyHeader(b []byte) (netip.AddrPort, error) {
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), max(len(b), proxyV2Prefix)))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errProxyInvalid, err)
	}
	if a, ok := h.SourceAddr.(*net.TCPAddr); ok && h.Command.IsProxy() {
		return a.AddrPort(), nil
	}
	return netip.AddrPort{}, nil
}

// OnTimer ends a connection whose header didn't come.
func (p *proxied) OnTimer(*Timer) { p.conn.refuse(metrics.RefuseProxyTimeout, errProxyTime) }

func (p *proxied) stop(c *Conn) {
	p.timer.Stop()
	if len(p.in) > 0 && c.state&(refused|closing) == closing && !c.loop.stopping {
		c.loop.engine.refused(metrics.RefuseProxyInvalid, c.RemoteAddr(), errProxyInvalid)
	}
}

// output and goodbye have nothing to do: nothing is written before the header came.
func (p *proxied) output(c *Conn, b []byte) error { return p.down(c, b) }
func (p *proxied) goodbye(*Conn, error)           {}
