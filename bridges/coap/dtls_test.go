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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
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
