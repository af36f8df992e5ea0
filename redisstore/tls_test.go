package redisstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loopmq/internal/child"
	"loopmq/internal/redistest"
	"loopmq/store"
)

// authority is a CA, whose certificate is in a file.
type authority struct {
	t    *testing.T
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert = &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.file, _, a.key = a.issue("ca "+rand.Text(), a.cert)
	return a
}

// issue writes a certificate and its key into files. The first one signs itself.
func (a *authority) issue(name string, template *x509.Certificate) (certFile, keyFile string, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile, key
}

// startTLS starts a Redis that has TLS at a port of its own, where clients need a
// certificate or not, and returns what a URL begins with up to its parameters.
func (a *authority) startTLS(template x509.Certificate, authClients string) (r *redistest.Server, url string) {
	a.t.Helper()
	cert, key, _ := a.issue("redis", &template)
	port := child.FreePort()
	r = redistest.Start(a.t, fmt.Sprint("tls-port ", port), "tls-cert-file "+cert, "tls-key-file "+key, "tls-ca-cert-file "+a.file,
		"tls-auth-clients "+authClients)
	return r, fmt.Sprintf("rediss://127.0.0.1:%d/0", port)
}

var localhost = x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}

// All that a node does goes through TLS, with a certificate of its own too.
func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	cert, key, _ := ca.issue("node", &x509.Certificate{})
	_, open := ca.startTLS(localhost, "no")
	_, closed := ca.startTLS(localhost, "yes")
	for _, url := range []string{open + "?ca=" + ca.file, fmt.Sprintf("%s?ca=%s&cert=%s&key=%s", closed, ca.file, cert, key)} {
		one, other := joinAt(t, url), joinAt(t, url)
		session := one.claim(t, "c").Session
		if got := commit(t, other.NewWriter("w"), publish("m", session)).Result; got != store.Done {
			t.Errorf("publish: got %v", got)
		}
		one.node.await(t, "news of the message", func() bool { return len(one.node.news) > 0 })
	}
}

func TestTLSThatIsWrong(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	r, open := ca.startTLS(localhost, "no")
	_, closed := ca.startTLS(localhost, "yes")
	_, elsewhere := ca.startTLS(x509.Certificate{DNSNames: []string{"redis.example"}}, "no")
	_, expired := ca.startTLS(x509.Certificate{IPAddresses: localhost.IPAddresses, NotAfter: time.Now().Add(-time.Minute)}, "no")
	cert, key, _ := foreign.issue("node", &x509.Certificate{})
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, url, want string
		lasts           bool // waiting is of no use
	}{
		{"unknown CA", open, "ca=FILE", true},
		{"another CA", open + "?ca=" + foreign.file, "ca=FILE", true},
		{"another name", elsewhere + "?ca=" + ca.file, "as its certificate does", true},
		{"expired", expired + "?ca=" + ca.file, "certificate of Redis", true},
		{"no certificate", closed + "?ca=" + ca.file, "cert=FILE&key=FILE", false},
		{"certificate of another CA", fmt.Sprintf("%s?ca=%s&cert=%s&key=%s", closed, ca.file, cert, key), "a CA that it knows", false},
		{"a port without TLS", strings.Replace(r.URL(), "redis:", "rediss:", 1) + "?timeout=300ms", "whether its port is for TLS", false},
		{"a port with TLS only", strings.Replace(open, "rediss:", "redis:", 1), "begin with rediss", false},
	} {
		s, err := NewStore(t.Context(), tt.url, Options{Logger: quiet})
		if err == nil {
			_ = s.Close()
			t.Errorf("%s: no error", tt.what)
			continue
		}
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrUnusable) != tt.lasts {
			t.Errorf("%s: got %v (lasts: %t), want %q", tt.what, err, errors.Is(err, ErrUnusable), tt.want)
		}
	}
	for what, query := range map[string]string{
		"open /nowhere":         "ca=/nowhere",
		"has no certificate":    "ca=" + empty,
		"cert and key in the U": "cert=" + empty + "&key=" + empty,
	} {
		if _, err := NewStore(t.Context(), open+"?"+query, Options{}); err == nil || !strings.Contains(err.Error(), what) || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v, want %q", query, err, what)
		}
	}
}
