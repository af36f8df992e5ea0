package coapbridge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

func (b *bridge) dtls(t *testing.T) string {
	t.Helper()
	addr, err := b.StartDTLS("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return addr.String()
}

func TestPSK(t *testing.T) {
	t.Parallel()
	keys := filepath.Join(t.TempDir(), "keys")
	write := func(text string) {
		if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# devices\npump:7365637265746b6579\n")
	f, err := OpenKeyFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	b := mustBridge(t, Options{DTLS: &DTLSOptions{Keys: f.Key}})
	addr := b.dtls(t)
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("pump/#", 1)
	url := "coaps://" + addr + "/ps/pump/state"
	if out := b.libcoap("", "-u", "pump", "-k", "secretkey", "-m", "put", "-e", "on", url+"?retain=true"); strings.Contains(out, "4.") {
		t.Error(out)
	}
	sub.Acknowledge(sub.ExpectPublish("pump/state", "on"))
	if out := b.libcoap("", "-u", "pump", "-k", "secretkey", "-m", "get", url); strings.TrimSpace(out) != "on" {
		t.Errorf("got %q", out)
	}
	if out := b.libcoap("", "-u", "pump", "-k", "secretkey", "-m", "get", "coaps://"+addr+"/ps/other/state"); !strings.Contains(out, "4.03") {
		t.Errorf("got %q", out)
	}
	for _, wrong := range [][]byte{nil, []byte("another key")} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if conn, err := dialDTLS(ctx, t, addr, &dtls.Config{PSK: func([]byte) ([]byte, error) { return wrong, nil }, PSKIdentityHint: []byte("pump"), CipherSuites: []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_CCM_8}}); err == nil {
			t.Errorf("a handshake with the key %q succeeded", wrong)
			_ = conn.Close()
		}
		cancel()
	}
	// Whose key has changed is cut off.
	conn, err := dialDTLS(t.Context(), t, addr, &dtls.Config{
		PSK: func([]byte) ([]byte, error) { return []byte("secretkey"), nil }, PSKIdentityHint: []byte("pump"), CipherSuites: []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_CCM_8},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, conn: conn}
	d.want(d.ask(codes.GET, "/ps/pump/state", nil), codes.Content, "on")
	write("pump:0011223344556677\n")
	apply, err := f.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	apply()
	b.Forget()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 100)); err == nil {
		t.Error("it goes on with another key")
	}
}

func dialDTLS(ctx context.Context, t *testing.T, addr string, c *dtls.Config) (*dtls.Conn, error) {
	t.Helper()
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.LoggerFactory = silent{}
	conn, err := dtls.Dial("udp", at, c)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.HandshakeContext(ctx)
}

// mustCertificate returns a certificate that ca signs; nil: it is a CA.
func mustCertificate(t *testing.T, name string, ca *tls.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: ca == nil,
	}
	parent, signer := c, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca, stranger := mustCertificate(t, "ca", nil), mustCertificate(t, "stranger", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	server := &tls.Config{Certificates: []tls.Certificate{*mustCertificate(t, "server", ca)}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	b := mustBridge(t, Options{DTLS: &DTLSOptions{
		TLS:  &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return server, nil }},
		Keys: func(identity string) []byte { return map[string][]byte{"psk": []byte("secretkey")}[identity] },
	}})
	addr := b.dtls(t)
	dir := t.TempDir()
	file := func(c *tls.Certificate, name string) string {
		key, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})...)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("#", 1)
	pump, cas := file(mustCertificate(t, "pump", ca), "pump"), file(ca, "ca")
	if out := b.libcoap("", "-c", pump, "-j", pump, "-C", cas, "-m", "put", "-e", "on", "coaps://"+addr+"/ps/pump/state"); out != "" {
		t.Error(out)
	}
	sub.Acknowledge(sub.ExpectPublish("pump/state", "on"))
	if out := b.libcoap("", "-u", "psk", "-k", "secretkey", "-m", "put", "-e", "on", "coaps://"+addr+"/ps/psk/state"); strings.Contains(out, "4.") {
		t.Error(out)
	}
	sub.Acknowledge(sub.ExpectPublish("psk/state", "on"))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	for name, certificates := range map[string][]tls.Certificate{"none": nil, "another CA's": {*mustCertificate(t, "pump", stranger)}} {
		conn, err := dialDTLS(ctx, t, addr, &dtls.Config{Certificates: certificates, InsecureSkipVerify: true})
		if err == nil {
			d := &device{t: t, conn: conn} // it may not know yet
			_, _ = conn.Write(encode(d.message(0, codes.POST, "x", "/ps/t/a", []byte("x"))))
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := conn.Read(make([]byte, 100)); err == nil {
				t.Errorf("%s: it was answered", name)
			}
		}
	}
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a:0011223344556677\n":                        "",
		"a:b:0011223344556677":                        "",
		"a:00":                                        "line 1: the key of \"a\": allowed: 16 to 128 hexadecimal digits",
		"\n:0011223344556677":                         "line 2: allowed: identity:key, with an identity of 1 to 128 bytes of UTF-8",
		"a:0011223344556677\na:0011223344556677":      "line 2: \"a\" comes twice",
		strings.Repeat("x", 129) + ":001122334455667": "line 1: allowed: identity:key, with an identity of 1 to 128 bytes of UTF-8",
	} {
		_, err := parseKeys([]byte(text))
		if got := ""; err != nil && err.Error() != want || err == nil && want != got {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := OpenKeyFile(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that isn't there was read")
	}
	if _, err := New(Options{Broker: brokertest.Start(t).Broker}).StartDTLS("127.0.0.1:0"); err == nil {
		t.Error("DTLS without keys")
	}
}

var _ loopmq.Authenticator = users{}

// psk is a Config of a client with a key.
func psk(identity, key string) *dtls.Config {
	return &dtls.Config{
		PSK: func([]byte) ([]byte, error) { return []byte(key), nil }, PSKIdentityHint: []byte(identity), CipherSuites: []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_CCM_8},
		LoggerFactory: silent{},
	}
}

// mustPSK is a Bridge of a client "pump" with the key "secretkey".
func mustPSK(t *testing.T, o DTLSOptions) (b *bridge, addr string) {
	t.Helper()
	o.Keys = func(identity string) []byte { return map[string][]byte{"pump": []byte("secretkey")}[identity] }
	b = mustBridge(t, Options{DTLS: &o})
	return b, b.dtls(t)
}

// mustSocket is one that DTLS may use, and others too.
func mustSocket(t *testing.T) *net.UDPConn {
	t.Helper()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket
}

// mustSession is a session of "pump" by a socket.
func mustSession(t *testing.T, socket net.PacketConn, addr string) *dtls.Conn {
	t.Helper()
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dtls.Client(socket, at, psk("pump", "secretkey"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	return conn
}

// record is one that isn't encrypted.
func record(kind byte, sequence int, fragment ...byte) []byte {
	r := []byte{kind, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, byte(sequence >> 8), byte(sequence), byte(len(fragment) >> 8), byte(len(fragment))}
	return append(r, fragment...)
}

// What isn't encrypted may be forged: it ends no session, and takes no memory.
func TestForgedRecords(t *testing.T) {
	t.Parallel()
	b, addr := mustPSK(t, DTLSOptions{})
	socket := mustSocket(t)
	conn := mustSession(t, socket, addr)
	d := &device{t: t, conn: conn}
	d.want(d.ask(codes.PUT, "/ps/pump/state?retain=true", []byte("on")), codes.Changed, "")
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	forge := func(data []byte) {
		if _, err := socket.WriteTo(data, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, data := range [][]byte{
		record(recordAlert, 900, 2, 40), record(recordAlert, 901, 1, 0), record(23, 902, 'x'), record(99, 903, 'x'),
		record(recordHandshake, 904, 1), record(recordHandshake, 905),
		{recordHandshake},
		record(recordChange, 906, 1), append(record(recordChange, 907, 1), record(recordAlert, 908, 2, 40)...),
	} {
		forge(data)
		d.want(d.ask(codes.GET, "/ps/pump/state", nil), codes.Content, "on")
	}
	n, refused := 0, b.metrics.CoAPIgnored[metrics.CoAPMalformed].Get()
	await(t, func() bool { // messages of a handshake that nobody waits for
		for range 20 {
			message := make([]byte, 12+1000)
			message[0], message[2], message[3], message[4], message[5], message[10], message[11] = 14, 1000>>8, 1000&0xff, byte((10+n)>>8), byte(10+n), 1000>>8, 1000&0xff
			forge(record(recordHandshake, 1000+n, message...))
			n++
		}
		return b.metrics.CoAPIgnored[metrics.CoAPMalformed].Get() > refused+20
	})
	if n < handshakeBytes/1025 {
		t.Errorf("%d were too many", n)
	}
	if code := d.confirm(d.message(coap.Confirmable, codes.GET, "t", "/ps/pump/state", nil)); code != codes.Content {
		t.Errorf("got %v", code)
	}
}

// A client that has lost its session, as it was restarted, begins another from the same
// address; who only forges that address changes nothing.
func TestSameAddress(t *testing.T) {
	t.Parallel()
	b, addr := mustPSK(t, DTLSOptions{HandshakeTimeout: 2 * time.Second})
	socket := mustSocket(t)
	first := &cable{UDPConn: socket, gone: make(chan struct{})}
	d := &device{t: t, conn: mustSession(t, first, addr)}
	d.want(d.ask(codes.GET, "/ps/pump/x", nil, num(coap.Observe, 0)), codes.Content, "")
	if _, err := socket.WriteTo(hello(t), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(b.mu.endpoints[1].all()) == 2 })
	d.want(d.ask(codes.GET, "/health", nil), codes.Content, "ok")
	await(t, func() bool { return len(b.mu.endpoints[1].all()) == 1 })
	d.want(d.ask(codes.GET, "/health", nil), codes.Content, "ok")
	if b.observations.Load() != 1 {
		t.Error("a forged hello has ended an observation")
	}

	first.cut()
	d = &device{t: t, conn: mustSession(t, socket, addr)}
	d.want(d.ask(codes.GET, "/ps/pump/x", nil, num(coap.Observe, 0)), codes.Content, "")
	await(t, func() bool { return b.observations.Load() == 1 && b.peers.Load() == 1 })
	d.want(d.ask(codes.PUT, "/ps/pump/x?qos=0", []byte("on")), codes.Changed, "")
}

// cable is a socket that a session can be cut off from without a word.
type cable struct {
	*net.UDPConn
	isCut atomic.Bool
	gone  chan struct{} // closed when nobody reads any more
	once  sync.Once
}

func (c *cable) cut() {
	c.isCut.Store(true)
	_ = c.UDPConn.SetReadDeadline(time.Now())
	<-c.gone
	_ = c.UDPConn.SetReadDeadline(time.Time{})
}

func (c *cable) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.UDPConn.ReadFrom(b)
	if c.isCut.Load() {
		c.once.Do(func() { close(c.gone) })
		return 0, nil, io.EOF
	}
	return n, from, err
}

func (c *cable) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.isCut.Load() {
		return len(b), nil
	}
	return c.UDPConn.WriteTo(b, to)
}

func (c *cable) SetReadDeadline(at time.Time) error {
	if c.isCut.Load() {
		return nil
	}
	return c.UDPConn.SetReadDeadline(at)
}

func (c *cable) Close() error { return nil }

// hello is the beginning of a handshake.
func hello(t *testing.T) []byte {
	t.Helper()
	server := mustSocket(t)
	conn, err := dtls.Client(mustSocket(t), server.LocalAddr(), psk("pump", "secretkey"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = conn.HandshakeContext(ctx) }()
	defer cancel()
	buf := make([]byte, 2000)
	_ = server.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := server.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// Forged hellos, which nobody goes on with, keep no client out; handshakes that are
// answered have their bound.
func TestHandshakeFlood(t *testing.T) {
	t.Parallel()
	b, addr := mustPSK(t, DTLSOptions{Handshakes: 4, HandshakeTimeout: time.Minute})
	first := hello(t)
	flood := func(n int) {
		for range n {
			if _, err := mustSocket(t).WriteTo(first, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))); err != nil {
				t.Fatal(err)
			}
		}
	}
	flood(20)
	await(t, func() bool { return b.metrics.CoAPIgnored[metrics.CoAPHandshake].Get() == 16 })
	d := &device{t: t, conn: mustSession(t, mustSocket(t), addr)}
	d.want(d.ask(codes.GET, "/health", nil), codes.Content, "ok")

	// Those whose clients have answered stay: the last flight of four is lost.
	at := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 4 {
		s := &stalled{UDPConn: mustSocket(t)}
		config := psk("pump", "secretkey")
		config.FlightInterval = time.Minute // each is sent once
		conn, err := dtls.Client(s, at, config)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = conn.HandshakeContext(ctx) }()
		await(t, func() bool { return s.written.Load() > 2 })
	}
	await(t, func() bool { return b.metrics.CoAPIgnored[metrics.CoAPHandshake].Get() == 20 }) // all that were forged
	flood(3)
	await(t, func() bool { return b.metrics.CoAPIgnored[metrics.CoAPHandshake].Get() == 23 })
	b.handshakes.mu.Lock()
	if b.handshakes.n != 4 || b.handshakes.unproven.Len() != 0 {
		t.Errorf("%d handshakes, %d of them unproven", b.handshakes.n, b.handshakes.unproven.Len())
	}
	b.handshakes.mu.Unlock()
}

// stalled is a socket that sends two hellos, and nothing more.
type stalled struct {
	*net.UDPConn
	written atomic.Int32
}

func (s *stalled) WriteTo(b []byte, to net.Addr) (int, error) {
	if s.written.Add(1) > 2 {
		return len(b), nil
	}
	return s.UDPConn.WriteTo(b, to)
}

// A client whose key isn't known is told so.
func TestUnknownIdentity(t *testing.T) {
	t.Parallel()
	b, addr := mustPSK(t, DTLSOptions{})
	if out := b.libcoap("", "-B", "20", "-u", "nobody", "-k", "secretkey", "-m", "get", "coaps://"+addr+"/health"); !strings.Contains(out, "unknown psk identity") {
		t.Errorf("got %q", out)
	}
}

// GnuTLS prefers a key exchange that OpenSSL's client leaves for others.
func TestGnuTLS(t *testing.T) {
	t.Parallel()
	b, addr := mustPSK(t, DTLSOptions{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("pump/#", 1)
	for _, program := range []string{"coap-client-gnutls", "coap-client-openssl"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, program, "-B", "30", "-u", "pump", "-k", "secretkey", "-m", "put", "-e", program, "coaps://"+addr+"/ps/pump/state").CombinedOutput()
		cancel()
		if err != nil || len(out) > 0 {
			t.Fatalf("%s: %v %s", program, err, out)
		}
		sub.Acknowledge(sub.ExpectPublish("pump/state", program))
	}
}
