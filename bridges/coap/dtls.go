package coapbridge

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
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
				return nil, errNoIdentity
			}
			s.identity, s.key = string(identity), key
			return key, nil
		}
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
	required bool // a certificate is, of who has no key
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
	select {
	case <-p.pipe.ready:
	default: // the handshake looks when it is done
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
	conn   *dtls.Conn // set before the first message
	ready  chan struct{}
}

var _ net.PacketConn = (*pipe)(nil)

func newPipe(e *endpoint, addr addrPort) *pipe {
	q := &pipe{e: e, addr: addr, remote: net.UDPAddrFromAddrPort(addr), buffer: packetio.NewBuffer(), ready: make(chan struct{})}
	q.buffer.SetLimitCount(pipeDatagrams)
	q.buffer.SetLimitSize(pipeBytes)
	return q
}

func (q *pipe) put(data []byte) { _, _ = q.buffer.Write(data) } // What is too much is lost, as datagrams may be.

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

// recordHandshake is the type of a record that begins a session.
const recordHandshake = 22

// isHello reports whether a datagram may begin a session: a ClientHello of DTLS 1.0 or
// 1.2 in the first epoch.
func isHello(data []byte) bool {
	const messageType = 13 // behind the header of the record
	return len(data) > messageType && data[0] == recordHandshake && data[1] == 0xfe && data[3] == 0 && data[4] == 0 && data[messageType] == 1
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

func (p *peer) handshake() (*dtls.Conn, error) {
	b, o := p.b, p.e.security.o
	if b.handshakes.Add(1) > int64(o.Handshakes) {
		b.handshakes.Add(-1)
		return nil, errBusy
	}
	defer b.handshakes.Add(-1)
	s := &secured{}
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
