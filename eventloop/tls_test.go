package eventloop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	randv2 "math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"loopmq/metrics"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	next int64
}

func mustAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool(), next: 1}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	var der []byte
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
		der, err = x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	}
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) mustIssue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	a.next++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// mustListenTLS is mustStart and a listener with TLS. It returns what a client needs.
func mustListenTLS(t testing.TB, cfg Config, change func(*Listener)) (*Engine, string, *tls.Config) {
	t.Helper()
	e, _ := mustStart(t, cfg)
	a := mustAuthority(t)
	spec := Listener{Address: "127.0.0.1:0", TLS: &tls.Config{
		Certificates: []tls.Certificate{a.mustIssue(t, "broker")}, ClientCAs: a.pool,
	}}
	if change != nil {
		change(&spec)
	}
	addr, err := e.Listen(spec)
	if err != nil {
		t.Fatal(err)
	}
	return e, addr.String(), &tls.Config{RootCAs: a.pool, ServerName: "broker", Certificates: []tls.Certificate{a.mustIssue(t, "client")}}
}

func mustDialTLS(t testing.TB, addr string, config *tls.Config) *tls.Conn {
	t.Helper()
	return mustClient(t, mustDial(t, addr), config)
}

// mustClient makes a handshake on a connection.
func mustClient(t testing.TB, nc net.Conn, config *tls.Config) *tls.Conn {
	t.Helper()
	c := tls.Client(nc, config)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

var tlsVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// TestTLS_Echo sends much and little, in both versions, and many connections at once.
func TestTLS_Echo(t *testing.T) {
	for _, version := range tlsVersions {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			closes := make(chan error, 1)
			e, addr, config := mustListenTLS(t, Config{Loops: 2, Handler: &handler{data: echo, close: func(_ *Conn, err error) { closes <- err }}}, nil)
			config.MinVersion, config.MaxVersion = version, version
			for _, size := range []int{1, 40_000, 800_000} {
				c := mustDialTLS(t, addr, config)
				want := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
				go func() { _, _ = c.Write(want) }()
				got := make([]byte, size)
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("echo of %d bytes: %v", size, err)
				}
				if err := c.CloseWrite(); err != nil { // close_notify
					t.Fatal(err)
				}
				if n, err := c.Read(got); n != 0 || !errors.Is(err, io.EOF) {
					t.Errorf("after close_notify: %d bytes, %v, want a close_notify in return", n, err)
				}
				if err := receive(t, "OnClose", closes); err != nil {
					t.Errorf("OnClose: %v", err)
				}
			}
			if got := e.Stats(); got.TLSHandshakes != 3 || got.TLSHandshakesUnderWay != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// pieces is a net.Conn that writes a few bytes at a time.
type pieces struct {
	net.Conn
	rng *randv2.Rand
}

func (p *pieces) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(1+p.rng.IntN(40), len(rest))
		if _, err := p.Conn.Write(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}

// TestTLS_Pieces has handshakes and records arrive in pieces, while the handler pauses now and then, and checks that a
// paused connection is left alone.
func TestTLS_Pieces(t *testing.T) {
	for _, version := range tlsVersions {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rng := randv2.New(randv2.NewPCG(seed, 0))
			h := &handler{}
			h.data = func(c *Conn, in []byte) {
				if c.state&paused != 0 {
					t.Error("OnData while paused")
				}
				c.Write(in)
				if rng.IntN(3) == 0 {
					c.Pause()
					c.loop.Post(c.Resume)
				}
			}
			_, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: h, ReadBufferBytes: 4096}, nil)
			config.MinVersion, config.MaxVersion = version, version
			tcp := mustDial(t, addr)
			c := tls.Client(&pieces{tcp, randv2.New(randv2.NewPCG(seed, 1))}, config)
			want := make([]byte, 400_000)
			for i := range want {
				want[i] = byte(i * 7 / 3)
			}
			go func() {
				for rest := want; len(rest) > 0; {
					n := min(1+randv2.IntN(40_000), len(rest))
					_, _ = c.Write(rest[:n])
					rest = rest[n:]
				}
			}()
			got := make([]byte, len(want))
			if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v, equal %v", n, err, bytes.Equal(got, want))
			}
		})
	}
}

// TestTLS_EarlyInput sends much right behind the handshake, before the engine can know that it is done.
func TestTLS_EarlyInput(t *testing.T) {
	_, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: &handler{data: echo}}, nil)
	for range 20 {
		c := mustDialTLS(t, addr, config)
		want := bytes.Repeat([]byte("early"), 60_000)
		go func() { _, _ = c.Write(want) }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatal("echo differs", err)
		}
	}
}

// meddler is a net.Conn that keeps what was last read, and calls a function before a write.
type meddler struct {
	net.Conn
	last   []byte
	writes int
	before func(n int)
}

func (m *meddler) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if n > 0 {
		m.last = bytes.Clone(b[:n])
	}
	return n, err
}

func (m *meddler) Write(b []byte) (int, error) {
	m.writes++
	if m.before != nil {
		m.before(m.writes)
	}
	return m.Conn.Write(b)
}

// TestTLS_EarlyInputPaused has more come with the end of the handshake than fits what it is decrypted into, for a handler
// that pauses at once.
func TestTLS_EarlyInputPaused(t *testing.T) {
	h := &handler{}
	h.data = func(c *Conn, in []byte) {
		if c.state&paused != 0 {
			t.Error("OnData while paused")
		}
		c.Write(in)
		c.Pause()
		c.loop.Post(c.Resume)
	}
	e, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: h, ReadBufferBytes: 4096}, nil)
	hold := func() {
		for range cap(e.handshakes.cpu) {
			e.handshakes.cpu <- struct{}{}
		}
	}
	m := &meddler{Conn: mustDial(t, addr), before: func(n int) {
		if n == 2 { // the end of the handshake, which can't go on from here
			hold()
		}
	}}
	c := mustClient(t, m, config)
	want := bytes.Repeat([]byte("early"), 30_000)
	go func() { _, _ = c.Write(want) }()
	await(t, "much is read early", func() bool { return e.Stats().BytesIn > earlyInput })
	for range cap(e.handshakes.cpu) {
		<-e.handshakes.cpu
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatal("echo differs", err)
	}
}

// TestTLS_CloseNotify looks for the alert, which TLS 1.2 has in a record of its own type.
func TestTLS_CloseNotify(t *testing.T) {
	opened := make(chan *Conn, 1)
	_, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: &handler{open: func(c *Conn) { opened <- c }}}, nil)
	config.MaxVersion = tls.VersionTLS12
	m := &meddler{Conn: mustDial(t, addr)}
	client := mustClient(t, m, config)
	c := receive(t, "OnOpen", opened)
	onLoop(c.Loop(), func() {
		c.Write([]byte("bye"))
		c.Close(errors.New("enough"))
	})
	if got, err := io.ReadAll(client); string(got) != "bye" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	const alert, size = 21, 5 + 8 + 2 + 16 // of a record with AES-GCM
	if n := len(m.last); n < size || m.last[n-size] != alert {
		t.Errorf("the last record is %x", m.last)
	}
}

// TestTLS_OneWrite has the output of a turn leave by one system call.
func TestTLS_OneWrite(t *testing.T) {
	opened := make(chan *Conn, 1)
	e, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: &handler{open: func(c *Conn) { opened <- c }}}, nil)
	client := mustDialTLS(t, addr, config)
	c := receive(t, "OnOpen", opened)
	onLoop(c.Loop(), func() {}) // session tickets are sent
	before := e.Stats()
	onLoop(c.Loop(), func() {
		for range 64 {
			c.EndWrite(append(c.BeginWrite(), "packet"...))
		}
		if c.Buffered() != 64*6 {
			t.Errorf("%d bytes are buffered", c.Buffered())
		}
	})
	got := make([]byte, 64*6)
	if n, err := client.Read(got); n != len(got) || err != nil {
		t.Errorf("the first record has %d bytes, %v", n, err)
	}
	onLoop(c.Loop(), func() {
		if c.out != nil || c.Buffered() != 0 {
			t.Error("an idle connection owns a buffer")
		}
	})
	if n := e.Stats().Writes - before.Writes; n != 1 {
		t.Errorf("%d writes", n)
	}
	state := make(chan *tls.ConnectionState, 2)
	onLoop(c.Loop(), func() { state <- c.TLSState() })
	if s := <-state; s == nil || s.Version != tls.VersionTLS13 || s.ServerName != "broker" {
		t.Errorf("TLSState: %+v", s)
	}
	onLoop(c.Loop(), func() { c.Close(nil) })
	if _, err := client.Read(got); !errors.Is(err, io.EOF) {
		t.Errorf("after Close the client reads %v, want a close_notify", err)
	}
	onLoop(c.Loop(), func() { state <- c.TLSState() })
	if s := <-state; s != nil {
		t.Errorf("TLSState after Close: %+v", s)
	}
}

// TestTLS_IdleBuffers has a connection that is idle keep nothing of what it read, and one that has part of a record no
// more than that.
func TestTLS_IdleBuffers(t *testing.T) {
	if !haveBuffers {
		t.Fatal("crypto/tls has other fields than tls_buffer.go knows: idle connections keep their buffers")
	}
	for _, version := range tlsVersions {
		opened := make(chan *Conn, 1)
		_, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: &handler{data: echo, open: func(c *Conn) { opened <- c }}}, nil)
		config.MinVersion, config.MaxVersion = version, version
		f := &flip{Conn: mustDial(t, addr)}
		client := mustClient(t, f, config)
		c := receive(t, "OnOpen", opened)
		kept := func() (raw, hand int) {
			onLoop(c.Loop(), func() {
				tc := c.stack.bottom.(*secure).tls
				raw, hand = rawBuffer(tc).Cap(), handBuffer(tc).Cap()
			})
			return raw, hand
		}
		for _, size := range []int{1, 100_000} {
			go func() { _, _ = client.Write(make([]byte, size)) }()
			if _, err := io.ReadFull(client, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if raw, hand := kept(); raw != 0 || hand != 0 {
				t.Errorf("after %d bytes: buffers of %d and %d bytes are kept", size, raw, hand)
			}
		}
		f.held = 100
		_, _ = client.Write(make([]byte, 200)) // of which 100 bytes are held back
		await(t, "the record's beginning", func() bool { raw, _ := kept(); return raw != 0 })
		if raw, _ := kept(); raw > 1024 {
			t.Errorf("part of a small record keeps %d bytes", raw)
		}
		_, _ = f.Conn.Write(f.rest)
		if _, err := io.ReadFull(client, make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTLS_Output bounds what waits for a client that doesn't read, and tells the handler when it has.
func TestTLS_Output(t *testing.T) {
	opened, closes, drained := make(chan *Conn, 1), make(chan error, 1), make(chan struct{}, 1)
	h := &handler{
		open:  func(c *Conn) { opened <- c },
		close: func(_ *Conn, err error) { closes <- err },
		drain: func(*Conn) { drained <- struct{}{} },
	}
	_, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: h, MaxOutputBytes: 1 << 20}, nil)
	client := mustDialTLS(t, addr, config)
	c := receive(t, "OnOpen", opened)
	sent := 0
	packet := bytes.Repeat([]byte("x"), 10_000)
	onLoop(c.Loop(), func() {
		for c.Room(len(packet)) {
			c.EndWrite(append(c.BeginWrite(), packet...))
			sent += len(packet)
		}
		if got := c.Buffered(); got > 1<<20 || got < 1<<19 {
			t.Errorf("%d bytes are buffered", got)
		}
	})
	if n, err := io.ReadFull(client, make([]byte, sent)); err != nil {
		t.Fatalf("%d of %d bytes: %v", n, sent, err)
	}
	receive(t, "OnDrain", drained)
	big := bytes.Repeat([]byte("y"), 8<<20) // one message beyond the bound
	onLoop(c.Loop(), func() {
		if !c.Room(len(big)) {
			t.Error("no room for one message")
		}
		c.Write(big)
	})
	if _, err := io.ReadFull(client, make([]byte, len(big))); err != nil {
		t.Fatal(err)
	}
	receive(t, "OnDrain", drained)
	onLoop(c.Loop(), func() { c.Write(big) }) // without asking
	if err := receive(t, "OnClose", closes); !errors.Is(err, ErrOutputOverflow) {
		t.Errorf("OnClose: %v", err)
	}
}

// TestTLS_Refused counts each failure once, with its reason, and never tells the handler.
func TestTLS_Refused(t *testing.T) {
	other := mustAuthority(t)
	dial := func(change func(*tls.Config)) func(*testing.T, string, *tls.Config) {
		return func(t *testing.T, addr string, config *tls.Config) {
			change(config)
			c := tls.Client(mustDial(t, addr), config)
			err := c.Handshake()
			if err == nil {
				_, err = c.Read(make([]byte, 1)) // TLS 1.3 clients are done before the server has looked at their certificate
			}
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the client sees %v, want an alert", err)
			}
			_ = c.NetConn().Close()
		}
	}
	raw := func(b []byte) func(*testing.T, string, *tls.Config) {
		return func(t *testing.T, addr string, _ *tls.Config) {
			c := mustDial(t, addr)
			_, _ = c.Write(b)
			_, _ = io.Copy(io.Discard, c) // until it is closed
			_ = c.Close()
		}
	}
	mutual := func(l *Listener) { l.TLS.ClientAuth = tls.RequireAndVerifyClientCert }
	tests := []struct {
		name   string
		listen func(*Listener)
		client func(*testing.T, string, *tls.Config)
		want   metrics.RefuseReason
	}{
		{"plain MQTT", nil, raw([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")), metrics.RefuseTLSProtocol},
		{"HTTP", nil, raw([]byte("GET / HTTP/1.1\r\n\r\n")), metrics.RefuseTLSProtocol},
		{"record too long", nil, raw([]byte{22, 3, 1, 255, 255}), metrics.RefuseTLSProtocol},
		{"empty record", nil, raw([]byte{22, 3, 1, 0, 0}), metrics.RefuseTLSProtocol},
		{"rubbish", nil, raw([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 9}), metrics.RefuseTLSProtocol},
		{"no common version", func(l *Listener) { l.TLS.MinVersion = tls.VersionTLS13 }, dial(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), metrics.RefuseTLSProtocol},
		{"no certificate", mutual, dial(func(c *tls.Config) { c.Certificates = nil }), metrics.RefuseTLSCertificate},
		{"no certificate, 1.2", mutual, dial(func(c *tls.Config) { c.Certificates, c.MaxVersion = nil, tls.VersionTLS12 }), metrics.RefuseTLSCertificate},
		{"other authority", mutual, dial(func(c *tls.Config) { c.Certificates = []tls.Certificate{other.mustIssue(t, "client")} }), metrics.RefuseTLSCertificate},
		{"client refuses us", nil, dial(func(c *tls.Config) { c.RootCAs = other.pool }), metrics.RefuseTLSAborted},
		{"gave up", nil, func(t *testing.T, addr string, _ *tls.Config) {
			c := mustDial(t, addr)
			_, _ = c.Write([]byte{22, 3, 1})
			_ = c.Close()
		}, metrics.RefuseTLSAborted},
		{"silent", func(l *Listener) { l.HandshakeTimeout = 50 * time.Millisecond }, raw(nil), metrics.RefuseTLSTimeout},
		{"half", func(l *Listener) { l.HandshakeTimeout = 50 * time.Millisecond }, raw([]byte{22, 3, 1, 0, 200, 1}), metrics.RefuseTLSTimeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &handler{
				open:  func(*Conn) { t.Error("OnOpen") },
				close: func(*Conn, error) { t.Error("OnClose") },
			}
			e, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: h}, test.listen)
			test.client(t, addr, config)
			await(t, "the connection is gone, and that is counted", func() bool {
				s := e.Stats()
				return s.Accepted == 1 && s.Connections == 0 && slices.Max(s.Refused[:]) > 0
			})
			for r, n := range e.Stats().Refused {
				if n != 0 && metrics.RefuseReason(r) != test.want {
					t.Errorf("counted as %s", metrics.RefuseReason(r))
				}
			}
			if n := e.Stats().Refused[test.want]; n != 1 {
				t.Errorf("%s is counted %d times", test.want, n)
			}
			await(t, "no handshake is left", func() bool { return e.Stats().TLSHandshakesUnderWay == 0 })
		})
	}
}

// TestTLS_Probe connects and closes, as balancers do: nobody hears of it, and nothing is counted.
func TestTLS_Probe(t *testing.T) {
	e, addr, _ := mustListenTLS(t, Config{Loops: 1, Handler: &handler{open: func(*Conn) { t.Error("OnOpen") }}}, nil)
	for _, linger := range []int{-1, 0} { // 0: a reset
		c := mustDial(t, addr)
		_ = c.SetLinger(linger)
		_ = c.Close()
	}
	await(t, "both are gone", func() bool { s := e.Stats(); return s.Accepted == 2 && s.Connections == 0 })
	if s := e.Stats(); slices.Max(s.Refused[:]) != 0 {
		t.Errorf("refused: %v", s.Refused)
	}
}

// TestTLS_HalfOpen holds more handshakes half open than may be under way, from several addresses, and expects an honest
// client to come through all the same.
func TestTLS_HalfOpen(t *testing.T) {
	e, addr, config := mustListenTLS(t, Config{Loops: 2, Handler: &handler{data: echo}}, func(l *Listener) { l.Address, l.HandshakeTimeout = "0.0.0.0:0", 10*time.Minute })
	_, port, _ := net.SplitHostPort(addr)
	hello := mustHello(t, config)
	const addresses = 6 // times maxHandshakesPerSource is more than maxHandshakes
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for i := range addresses * (maxHandshakesPerSource + 10) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(10+i%addresses))}}
		c, err := d.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all are under way", func() bool { return e.Stats().TLSHandshakesUnderWay >= len(held)-maxHandshakes })
	running := func() int {
		e.handshakes.mu.Lock()
		defer e.handshakes.mu.Unlock()
		return e.handshakes.running
	}
	if n := running(); n > maxHandshakes {
		t.Errorf("%d handshakes have a goroutine", n)
	}
	begun := time.Now()
	await(t, "an honest client comes through", func() bool { return sayHi("127.0.0.1:"+port, config) == nil })
	t.Logf("an honest client came through in %v", time.Since(begun))
	if n := e.Stats().Refused[metrics.RefuseTLSTimeout]; n == 0 {
		t.Error("no half-open handshake was ended")
	}
}

// TestTLS_FairShare fills the turns of one address and expects another to have its own at once.
func TestTLS_FairShare(t *testing.T) {
	e, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: &handler{}}, nil)
	hello := mustHello(t, config)
	for range maxHandshakesPerSource + 20 {
		if _, err := mustDial(t, addr).Write(hello); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "its turns are taken", func() bool { return e.Stats().TLSHandshakesUnderWay == maxHandshakesPerSource+20 })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	if err := tls.Client(nc, config).Handshake(); err != nil {
		t.Fatal(err)
	}
	if n := e.Stats().Refused[metrics.RefuseTLSTimeout]; n != 0 {
		t.Errorf("%d others were ended for it", n)
	}
}

// mustHello returns a ClientHello.
func mustHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() { _ = tls.Client(theirs, config).Handshake() }()
	b := make([]byte, 16<<10)
	n, err := ours.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	return b[:n]
}

// TestTLS_Storm has many clients connect at once.
func TestTLS_Storm(t *testing.T) {
	e, addr, config := mustListenTLS(t, Config{Loops: 2, Handler: &handler{data: echo}}, func(l *Listener) { l.HandshakeTimeout = time.Minute })
	config.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	const clients = 400
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			err := sayHi(addr, config)
			for range 20 { // who hasn't got to compute in time, and has kept others waiting, comes again
				if err == nil {
					return
				}
				err = sayHi(addr, config)
			}
			t.Error(err)
		})
	}
	wg.Wait()
	s := e.Stats()
	s.Refused[metrics.RefuseTLSTimeout] = 0
	if s.TLSHandshakes != clients || slices.Max(s.Refused[:]) != 0 {
		t.Errorf("%d handshakes, refused %v", s.TLSHandshakes, s.Refused)
	}
}

// sayHi connects, and has a word echoed.
func sayHi(addr string, config *tls.Config) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = nc.Close() }()
	c := tls.Client(nc, config)
	if _, err := c.Write([]byte("hi")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 2))
	return err
}

// TestTLS_BadRecord changes a bit on the way.
func TestTLS_BadRecord(t *testing.T) {
	for _, version := range tlsVersions {
		closes := make(chan error, 1)
		_, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: &handler{data: echo, close: func(_ *Conn, err error) { closes <- err }}}, nil)
		config.MinVersion, config.MaxVersion = version, version
		f := &flip{Conn: mustDial(t, addr)}
		c := tls.Client(f, config)
		if _, err := c.Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		f.on = true
		_, _ = c.Write([]byte("hello"))
		if err := receive(t, "OnClose", closes); !errors.Is(err, ErrTLS) {
			t.Errorf("OnClose: %v", err)
		}
		var op *net.OpError
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &op) || op.Op != "remote error" {
			t.Errorf("the client sees %v, want an alert", err)
		}
	}
}

// flip changes a bit of what is written, or holds back its end.
type flip struct {
	net.Conn
	on   bool
	held int
	rest []byte
}

func (f *flip) Write(b []byte) (int, error) {
	if f.held > 0 {
		f.rest = bytes.Clone(b[len(b)-f.held:])
		_, err := f.Conn.Write(b[:len(b)-f.held])
		return len(b), err
	}
	if f.on {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
	}
	return f.Conn.Write(b)
}
