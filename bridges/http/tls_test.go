package httpbridge_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/auth"
	httpbridge "loopmq/bridges/http"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/tlsfiles"
)

// authority signs certificates for a server on 127.0.0.1 and for clients, as files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func mustAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.sign("ca", template, template, nil)
	return a
}

// sign makes a certificate, and writes it and its key to files; parentKey nil: it signs itself.
func (a *authority) sign(name string, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	must := func(err error) {
		a.t.Helper()
		if err != nil {
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	if parentKey == nil {
		parentKey = key
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	must(os.WriteFile(a.path(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile(a.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	cert, err := x509.ParseCertificate(der)
	must(err)
	return cert, key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// pair returns the files of a certificate for a name and 127.0.0.1.
func (a *authority) pair(name string) tlsfiles.KeyPair {
	a.t.Helper()
	a.sign(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	return tlsfiles.KeyPair{Certificate: a.path(name + ".crt"), Key: a.path(name + ".key")}
}

// client returns a client of HTTP that trusts the authority, and shows a certificate unless name is empty.
func (a *authority) client(name string, http2 bool) *http.Client {
	a.t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	c.RootCAs.AddCert(a.cert)
	if name != "" {
		pair := a.pair(name)
		cert, err := tls.LoadX509KeyPair(pair.Certificate, pair.Key)
		if err != nil {
			a.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	transport := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: http2}
	a.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// source reads the server's files as the program does.
func (a *authority) source(f tlsfiles.Files) *tls.Config {
	a.t.Helper()
	f.Certificates = []tlsfiles.KeyPair{a.pair("server")}
	s, err := tlsfiles.Load(f, tlsfiles.Options{Poll: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(s.Close)
	return s.Config()
}

// answer sends a request and returns the version of HTTP, the status and the body.
func answer(t *testing.T, c *http.Client, method, url, body string) (version, status int, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ProtoMajor, resp.StatusCode, string(b)
}

// HTTP/2 is spoken over TLS with who can, HTTP/1.1 with others, and both carry publications and streams.
func TestTLS_HTTP2(t *testing.T) {
	t.Parallel()
	a := mustAuthority(t)
	s := brokertest.Start(t)
	b := mustBridge(t, s, func(o *httpbridge.Options) { o.TLS = a.source(tlsfiles.Files{}) })
	url := strings.Replace(b.url, "http://", "https://", 1)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("t", 1)
	for want, client := range map[int]*http.Client{1: a.client("", false), 2: a.client("", true)} {
		version, status, text := answer(t, client, "POST", url+"/topics/t?qos=1", "x")
		if version != want || status != 200 {
			t.Errorf("HTTP/%d: got HTTP/%d, %d %s", want, version, status, text)
			continue
		}
		sub.Acknowledge(sub.ExpectPublish("t", "x"))
		resp, err := client.Get(url + "/subscribe?filter=t")
		if err != nil {
			t.Fatal(err)
		}
		if resp.ProtoMajor != want {
			t.Errorf("stream: got %s, want HTTP/%d", resp.Proto, want)
		}
		stream := &sse{t: t, resp: resp, events: make(chan sseEvent, 10)}
		go stream.read()
		stream.next() // it is subscribed
		answer(t, client, "POST", url+"/topics/t?qos=1", "y")
		stream.expect("y")
		resp.Body.Close()
		sub.Acknowledge(sub.ExpectPublish("t", "y"))
	}
}

// The name in a client's certificate is its user name, for rules as well; without one, it is nobody.
func TestTLS_Certificate(t *testing.T) {
	t.Parallel()
	a := mustAuthority(t)
	acl := a.path("acl")
	if err := os.WriteFile(acl, []byte("user pump\ntopic write pumps/7\npattern readwrite users/%u/#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	rules, err := auth.OpenACLFile(acl)
	if err != nil {
		t.Fatal(err)
	}
	byName, err := auth.NewCertificate(auth.CommonName)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	s := brokertest.Start(t)
	b := mustBridge(t, s, func(o *httpbridge.Options) {
		o.TLS = a.source(tlsfiles.Files{ClientCA: a.path("ca.crt")})
		o.Settings = &loopmq.Settings{
			Authenticator: auth.NewChain(auth.Options{Logger: quiet}, auth.Step{Method: byName}),
			Authorizer:    auth.NewRules(auth.RulesOptions{Logger: quiet}, rules),
		}
	})
	url := strings.Replace(b.url, "http://", "https://", 1)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("pumps/#", 1)
	clients := map[string]*http.Client{"": a.client("", true), "pump": a.client("pump", true), "valve": a.client("valve", true)}
	for _, c := range []struct {
		name, method, path string
		status             int
	}{
		{"pump", "POST", "/topics/pumps/7?qos=1&retain=true", 200},
		{"pump", "POST", "/topics/users/pump/a", 202},
		{"pump", "POST", "/topics/pumps/8", 403},
		{"pump", "POST", "/topics/users/valve/a", 403},
		{"pump", "GET", "/topics/pumps/7", 403}, // there is a message, which may not be read
		{"pump", "GET", "/topics/users/pump/a", 404},
		{"valve", "GET", "/topics/pumps/7", 403},
		{"valve", "POST", "/topics/users/valve/a", 202},
		{"valve", "POST", "/topics/pumps/7", 403},
		{"", "POST", "/topics/pumps/7", 401},
		{"", "GET", "/subscribe?filter=users/pump/a", 401},
	} {
		body := ""
		if c.method == "POST" {
			body = "x"
		}
		version, status, text := answer(t, clients[c.name], c.method, url+c.path, body)
		if version != 2 || status != c.status {
			t.Errorf("%q %s %s: got HTTP/%d %d %s, want %d", c.name, c.method, c.path, version, status, text, c.status)
		}
	}
	sub.Acknowledge(sub.ExpectPublish("pumps/7", "x"))
	sub.ExpectNothing()

	// A certificate of another authority doesn't get as far as a request.
	other := mustAuthority(t)
	stranger := other.client("pump", true)
	stranger.Transport.(*http.Transport).TLSClientConfig.RootCAs.AddCert(a.cert)
	resp, err := stranger.Post(url+"/topics/pumps/7", "text/plain", bytes.NewReader(nil))
	if err == nil {
		resp.Body.Close()
		t.Errorf("a certificate of another authority: got %s", resp.Status)
	}
	sub.ExpectNothing()
}
