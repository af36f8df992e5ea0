package auth

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// certificateState is the server's side of a real handshake with a client whose
// certificate has this CN, and none of the rest if cn is "".
func certificateState(t testing.TB, cn string) *tls.ConnectionState {
	t.Helper()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caCert := issue(t, ca, ca, testKeys.p256, testKeys.p256)
	spiffe, _ := url.Parse("spiffe://example/pump/7")
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(31), NotBefore: ca.NotBefore, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if cn != "" {
		leaf.Subject = pkix.Name{CommonName: cn, Organization: []string{"example"}, OrganizationalUnit: []string{"plant"}}
		leaf.DNSNames, leaf.EmailAddresses, leaf.URIs = []string{"pump.example", "other.example"}, []string{"pump@example.com"}, []*url.URL{spiffe}
	}
	cert := issue(t, leaf, ca, testKeys.p384, testKeys.p256)
	roots := x509.NewCertPool()
	roots.AddCert(caCert)
	client := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: testKeys.p384}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{client}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13})
	done := make(chan error, 1)
	go func() {
		// The name of the server is not what is tested.
		c := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{client}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		err := c.HandshakeContext(t.Context())
		if err == nil {
			_, _ = c.Read(make([]byte, 1)) // The ticket, on a pipe without a buffer.
		}
		done <- err
	}()
	if err := server.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	state := server.ConnectionState()
	return &state
}

// mosquitto's client connects with a certificate, and is who that says.
func TestCertificateBroker(t *testing.T) {
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caCert := issue(t, ca, ca, testKeys.p256, testKeys.p256)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "pump-7"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	cert := issue(t, leaf, ca, testKeys.p384, testKeys.p256)
	key, err := x509.MarshalPKCS8PrivateKey(testKeys.p384)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for name, block := range map[string]*pem.Block{
		"ca": {Type: "CERTIFICATE", Bytes: caCert.Raw}, "cert": {Type: "CERTIFICATE", Bytes: cert.Raw}, "key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		files[name] = mustWrite(t, name, pem.EncodeToMemory(block))
	}
	roots := x509.NewCertPool()
	roots.AddCert(caCert)
	method, err := NewCertificate(CommonName)
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan string, 1)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = NewChain(Options{Logger: discard}, Step{Method: method})
		o.Recorder = loopmq.OnEvent(func(e *loopmq.Event) { connected <- e.Client.Username }, loopmq.EventClientConnected)
	})
	addr, err := s.Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", TLS: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: testKeys.p384}},
		ClientCAs:    roots, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12,
	}})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--cafile", files["ca"], "-u", "root", "-P", "any", "-t", "a", "-m", "x", "-q", "1"}
	if out, code := mosquitto(t, "mosquitto_pub", addr.String(), append(args, "--cert", files["cert"], "--key", files["key"])...); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	if username := <-connected; username != "pump-7" {
		t.Errorf("connected as %q", username)
	}
	if out, code := mosquitto(t, "mosquitto_pub", addr.String(), args...); code == 0 {
		t.Errorf("without a certificate: %s", out)
	}
}

func issue(t testing.TB, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificate(t *testing.T) {
	full, empty := certificateState(t, "pump-7"), certificateState(t, "")
	unverified := *full
	unverified.VerifiedChains = nil
	strange := certificateState(t, "a\x00b")
	for _, c := range []struct {
		field CertificateField
		state *tls.ConnectionState
		want  Decision
		name  string
	}{
		{CommonName, full, Accept, "pump-7"},
		{Subject, full, Accept, "CN=pump-7,OU=plant,O=example"},
		{DNSName, full, Accept, "pump.example"},
		{EmailAddress, full, Accept, "pump@example.com"},
		{URI, full, Accept, "spiffe://example/pump/7"},
		{CommonName, empty, Reject, ""},
		{Subject, empty, Reject, ""},
		{DNSName, empty, Reject, ""},
		{EmailAddress, empty, Reject, ""},
		{URI, empty, Reject, ""},
		{CommonName, strange, Reject, ""},
		{CommonName, nil, Next, ""},
		{CommonName, &tls.ConnectionState{}, Next, ""},
		{CommonName, &unverified, Next, ""},
	} {
		m, err := NewCertificate(c.field)
		if err != nil {
			t.Fatal(err)
		}
		res, err := m.Authenticate(t.Context(), &loopmq.ConnectRequest{Username: "root", HasUsername: true, TLS: c.state})
		if err != nil || res.Decision != c.want || res.Identity.Username != c.name {
			t.Errorf("%s: got %v %q, %v, want %v %q", c.field, res.Decision, res.Identity.Username, err, c.want, c.name)
		}
		if res.Decision == Accept && !res.Identity.ExpiresAt.Equal(c.state.PeerCertificates[0].NotAfter) {
			t.Errorf("%s: until %v", c.field, res.Identity.ExpiresAt)
		}
		if res.Decision == Reject && res.ReasonCode != codec.NotAuthorized {
			t.Errorf("%s: %v", c.field, res.ReasonCode)
		}
	}
	if _, err := NewCertificate("serial"); err == nil {
		t.Error("an unknown field is taken")
	}
}
