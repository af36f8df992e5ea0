package coapbridge

import (
	"bytes"
	"container/list"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/logging"
	"github.com/pion/transport/v3/packetio"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// security is how an endpoint speaks DTLS.
type security struct{ o *DTLSOptions }

// Why DTLS can't be spoken.
var errNoKeys = errors.New("coap: DTLS needs keys of clients, or certificates")

func newSecurity(o *DTLSOptions) (*security, error) {
	if o == nil || o.Keys == nil && o.TLS == nil {
		return nil, errNoKeys
	}
	return &security{o}, nil
}

// config returns the configuration of one handshake. What it shows is noted in s.
func (x *security) config(addr net.Addr, s *secured) (*dtls.Config, error) {
	c := &dtls.Config{LoggerFactory: silent{}, FlightInterval: time.Second}
	if x.o.Keys != nil {
		c.PSK = func(identity []byte) ([]byte, error) {
			key := x.o.Keys(string(identity))
			if key == nil {
				s.stranger.Store(true)
				return nil, errNoIdentity
			}
			s.identity, s.key = string(identity), key
			return key, nil
		}
		c.PSKIdentityHint = []byte{} // else pion leaves out its length with ECDHE, and GnuTLS doesn't take that [RFC 5489, 2]
		c.CipherSuites = []dtls.CipherSuiteID{
			dtls.TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256, dtls.TLS_PSK_WITH_AES_128_CCM, dtls.TLS_PSK_WITH_AES_128_CCM_8, dtls.TLS_PSK_WITH_AES_256_CCM_8,
			dtls.TLS_PSK_WITH_AES_128_GCM_SHA256, dtls.TLS_PSK_WITH_AES_128_CBC_SHA256,
		}
	}
	if x.o.TLS == nil {
		return c, nil
	}
	t := x.o.TLS
	if t.GetConfigForClient != nil {
		now, err := t.GetConfigForClient(&tls.ClientHelloInfo{SupportedVersions: []uint16{tls.VersionTLS12}})
		if err != nil {
			return nil, err
		}
		if now != nil {
			t = now
		}
	}
	c.Certificates, c.ClientCAs = t.Certificates, t.ClientCAs
	c.CipherSuites = append(c.CipherSuites,
		dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM, dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8)
	c.ClientAuth = dtls.ClientAuthType(t.ClientAuth)                       // the same values
	if x.o.Keys != nil && t.ClientAuth == tls.RequireAndVerifyClientCert { // pion would want one of those with a key, too
		c.ClientAuth = dtls.VerifyClientCertIfGiven
		s.required = true
	}
	c.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
		if len(chains) == 0 {
			return nil
		}
		state := &tls.ConnectionState{Version: tls.VersionTLS12, HandshakeComplete: true, PeerCertificates: chains[0][:1], VerifiedChains: chains}
		if t.VerifyConnection != nil {
			if err := t.VerifyConnection(*state); err != nil {
				return err
			}
		}
		s.tls = state
		return nil
	}
	return c, nil
}

// Why a handshake fails.
var (
	errNoIdentity    = errors.New("the PSK identity is not known")
	errNoCertificate = errors.New("there is neither a key nor a certificate")
)

// secured is what a handshake has shown of a client: a PSK identity, or a certificate, or
// nothing.
type secured struct {
	identity string
	key      []byte
	tls      *tls.ConnectionState
	required bool        // a certificate is, of who has no key
	stranger atomic.Bool // its PSK identity isn't known
}

// name is what the client is known as.
func (s *secured) name() string {
	switch {
	case s.key != nil:
		return "psk " + s.identity
	case s.tls != nil:
		return "certificate " + string(s.tls.PeerCertificates[0].Raw)
	}
	return ""
}

// user tells whose DTLS session it is.
func (p *peer) user() string {
	if p.secured == nil {
		return ""
	}
	return p.secured.name()
}

// holds reports whether the client's key is the same still.
func (s *secured) holds(o *DTLSOptions) bool {
	return s.key == nil || subtle.ConstantTimeCompare(s.key, o.Keys(s.identity)) == 1
}

// holds reports whether the client of a DTLS session may go on: its key is the same, and
// of its certificate the Broker has not said otherwise, which isn't known of who has asked
// for nothing yet.
func (p *peer) holds() bool {
	if !p.pipe.isReady() { // the handshake looks when it is done
		return true
	}
	p.mu.Lock()
	k := p.mu.known
	p.mu.Unlock()
	return p.secured.holds(p.b.opts.DTLS) && (p.secured.tls == nil || k != nil && k.caller.Err() == nil)
}

// apply says in r who the client is, and returns what it may do.
func (s *secured) apply(b *Bridge, r *loopmq.ConnectRequest) *loopmq.Settings {
	if s.key == nil && s.tls == nil {
		return b.opts.Settings
	}
	r.Username, r.HasUsername, r.Password, r.TLS = s.identity, s.key != nil, nil, s.tls
	var settings loopmq.Settings
	if b.opts.Settings != nil {
		settings = *b.opts.Settings
	}
	settings.Authenticator = b.opts.DTLS.Authenticator
	if settings.Authenticator == nil {
		settings.Authenticator = shown{}
	}
	return &settings
}

// shown is an Authenticator that believes what the handshake has shown.
type shown struct{}

// Authenticate implements loopmq.Authenticator.
func (shown) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	id := loopmq.Identity{Username: r.Username}
	if r.TLS != nil {
		leaf := r.TLS.PeerCertificates[0]
		id.Username, id.ExpiresAt = leaf.Subject.CommonName, leaf.NotAfter
	}
	if id.Username == "" {
		return id, nil, codec.NewError(codec.NotAuthorized, "the certificate has no CN")
	}
	return id, nil, nil
}

// Continue implements loopmq.Authenticator.
func (shown) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, codec.NewError(codec.BadAuthenticationMethod, "there is one step only")
}

// The bounds of what comes from an address and hasn't been read.
const (
	pipeDatagrams = 64
	pipeBytes     = 256 << 10
)

// pipe is the net.PacketConn of a DTLS session: what an endpoint reads of its address.
type pipe struct {
	e      *endpoint
	addr   addrPort
	remote net.Addr
	buffer *packetio.Buffer
	shown  secured
	conn   *dtls.Conn // set before the first message
	ready  chan struct{}
	turn   *list.Element // among the handshakes under way; nil: it is none, or is proven
	read   int           // bytes of handshakes; of the endpoint's reader
}

var _ net.PacketConn = (*pipe)(nil)

func newPipe(e *endpoint, addr addrPort) *pipe {
	q := &pipe{e: e, addr: addr, remote: net.UDPAddrFromAddrPort(addr), buffer: packetio.NewBuffer(), ready: make(chan struct{})}
	q.buffer.SetLimitCount(pipeDatagrams)
	q.buffer.SetLimitSize(pipeBytes)
	return q
}

// isReady reports whether the handshake is done.
func (q *pipe) isReady() bool {
	select {
	case <-q.ready:
		return true
	default:
		return false
	}
}

// put is given a datagram.
func (q *pipe) put(data []byte) {
	if !q.admits(data) {
		q.e.b.metrics.CoAPIgnored[metrics.CoAPMalformed].Inc()
		return
	}
	_, _ = q.buffer.Write(data) // What is too much is lost, as datagrams may be.
}

// admits reports whether pion may see a datagram. It believes what comes in the first
// epoch, that the session is over, say, though anyone can send that; and it keeps all of
// a handshake, how much that ever is.
func (q *pipe) admits(data []byte) bool {
	ready := q.isReady()
	for len(data) > 0 {
		if len(data) < recordHeader {
			return false
		}
		n := recordHeader + int(binary.BigEndian.Uint16(data[11:]))
		if n > len(data) {
			return false
		}
		kind, plain := data[0], data[3] == 0 && data[4] == 0
		switch {
		case ready && plain && (kind != recordHandshake && kind != recordChange || isHello(data)):
			return false
		case kind == recordHandshake:
			if q.read += n; q.read > handshakeBytes {
				return false
			}
		}
		data = data[n:]
	}
	return true
}

// send sends a message of the session.
func (q *pipe) send(data []byte) {
	select {
	case <-q.ready:
		_, _ = q.conn.Write(data) // Datagrams may be lost.
	default:
	}
}

func (q *pipe) close() {
	_ = q.buffer.Close() // It can't fail.
}

// ReadFrom implements net.PacketConn.
func (q *pipe) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := q.buffer.Read(b)
	return n, q.remote, err
}

// WriteTo implements net.PacketConn.
func (q *pipe) WriteTo(b []byte, _ net.Addr) (int, error) {
	switch {
	case len(b) > recordHeader && b[0] == recordHandshake && b[recordHeader] == serverHello: // to who has said the cookie
		q.e.b.handshakes.proven(q)
	case len(b) == recordHeader+2 && b[0] == recordAlert && q.shown.stranger.Load(): // pion says internal_error [RFC 4279, 2]
		b = append(bytes.Clone(b[:len(b)-1]), unknownIdentity)
	}
	return q.e.conn.WriteToUDPAddrPort(b, q.addr)
}

// Close implements net.PacketConn.
func (q *pipe) Close() error { return q.buffer.Close() }

// LocalAddr implements net.PacketConn.
func (q *pipe) LocalAddr() net.Addr { return q.e.conn.LocalAddr() }

// SetDeadline implements net.PacketConn.
func (q *pipe) SetDeadline(t time.Time) error { return q.SetReadDeadline(t) }

// SetReadDeadline implements net.PacketConn.
func (q *pipe) SetReadDeadline(t time.Time) error { return q.buffer.SetReadDeadline(t) }

// SetWriteDeadline implements net.PacketConn: writing doesn't wait.
func (q *pipe) SetWriteDeadline(time.Time) error { return nil }

// Parts of records. [RFC 6347, 4.1 and 4.3.2]
const (
	recordHeader    = 13 // bytes
	recordChange    = 20
	recordAlert     = 21
	recordHandshake = 22
	clientHello     = 1
	serverHello     = 2
	unknownIdentity = 115
)

// handshakeBytes bounds what a client may send of its handshake: more than any chain of
// certificates takes.
const handshakeBytes = 128 << 10

// isHello reports whether a datagram may begin a session: a ClientHello of DTLS 1.0 or
// 1.2 in the first epoch.
func isHello(data []byte) bool {
	return len(data) > recordHeader && data[0] == recordHandshake && data[1] == 0xfe && data[3] == 0 && data[4] == 0 && data[recordHeader] == clientHello
}

// serveDTLS makes a session with a peer, and takes what comes by it until it ends.
func (p *peer) serveDTLS() {
	b := p.b
	defer p.end(metrics.CoAPDisconnected)
	conn, err := p.handshake()
	if err != nil {
		b.metrics.CoAPIgnored[metrics.CoAPHandshake].Inc()
		b.log.Debug("coap_handshake_failed", "remote_addr", p.addr.String(), "error", err)
		return
	}
	defer func() { _ = conn.Close() }() // Who is gone can't be told.
	p.e.settle(p)
	stop := context.AfterFunc(b.stopContext, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, dtlsMax)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			break
		}
		p.receive(buf[:n])
	}
	if b.stopContext.Err() != nil {
		<-b.answered // until what is under way is
	}
}

// dtlsMax is the largest message in a record.
const dtlsMax = 16 << 10

// handshakes are those under way. Where there are too many, the oldest goes of which it
// isn't known yet that the client gets what is sent to its address: to forge hellos keeps
// nobody out who answers them.
type handshakes struct {
	mu       sync.Mutex
	n        int
	unproven list.List // of pipes, the oldest first
}

// begin reports whether there is room for another.
func (h *handshakes) begin(q *pipe, limit int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n >= limit {
		oldest := h.unproven.Front()
		if oldest == nil {
			return false
		}
		h.provenLocked(oldest.Value.(*pipe))
		oldest.Value.(*pipe).close() // which ends it
	}
	h.n++
	q.turn = h.unproven.PushBack(q)
	return true
}

// proven notes that the client has answered.
func (h *handshakes) proven(q *pipe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.provenLocked(q)
}

func (h *handshakes) provenLocked(q *pipe) {
	if q.turn != nil {
		h.unproven.Remove(q.turn)
		q.turn = nil
	}
}

func (h *handshakes) end(q *pipe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.provenLocked(q)
	h.n--
}

func (p *peer) handshake() (*dtls.Conn, error) {
	b, o := p.b, p.e.security.o
	if !b.handshakes.begin(p.pipe, o.Handshakes) {
		return nil, errBusy
	}
	defer b.handshakes.end(p.pipe)
	s := &p.pipe.shown
	config, err := p.e.security.config(p.pipe.remote, s)
	if err != nil {
		return nil, err
	}
	conn, err := dtls.Server(p.pipe, p.pipe.remote, config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(b.stopContext, o.HandshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if s.required && s.key == nil && s.tls == nil {
		return nil, errors.Join(errNoCertificate, conn.Close())
	}
	p.secured = s
	p.pipe.conn = conn
	close(p.pipe.ready)
	if !s.holds(o) { // it has changed meanwhile
		return nil, errors.Join(errNoIdentity, conn.Close())
	}
	return conn, nil
}

// silent is no log: what goes wrong is in the errors.
type silent struct{}

// NewLogger implements logging.LoggerFactory.
func (silent) NewLogger(string) logging.LeveledLogger { return silentLogger{} }

type silentLogger struct{}

func (silentLogger) Trace(string)          {}
func (silentLogger) Tracef(string, ...any) {}
func (silentLogger) Debug(string)          {}
func (silentLogger) Debugf(string, ...any) {}
func (silentLogger) Info(string)           {}
func (silentLogger) Infof(string, ...any)  {}
func (silentLogger) Warn(string)           {}
func (silentLogger) Warnf(string, ...any)  {}
func (silentLogger) Error(string)          {}
func (silentLogger) Errorf(string, ...any) {}
