package tlsfiles

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loopmq/metrics"
)

// authority signs certificates and revocation lists, and writes them to files of a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func mustAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// subordinate returns an authority that a has signed.
func (a *authority) subordinate(name string) *authority {
	a.t.Helper()
	s := mustAuthority(a.t, a.dir, name)
	s.cert.SerialNumber = big.NewInt(99)
	der, err := x509.CreateCertificate(rand.Reader, s.cert, a.cert, &s.key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if s.cert, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return s
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	// By a new file that takes the name: readers see the old or the new, as with tools that renew certificates.
	err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return path
}

func (a *authority) pair(file, name string, number int64, until time.Time) KeyPair {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return KeyPair{Certificate: a.write(file+".crt", "CERTIFICATE", der), Key: a.write(file+".key", "PRIVATE KEY", keyDER)}
}

func (a *authority) crl(until time.Time, revoked ...int64) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: until}
	for _, n := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

var (
	later = time.Now().Add(time.Hour)
	past  = time.Now().Add(-time.Hour)
)

// handshake returns the server's certificate as the client saw it, and the errors of both.
func handshake(server, client *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return state, err, err
	}
	defer func() { _ = ln.Close() }()
	theirs, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return state, err, err
	}
	done := make(chan error, 1)
	go func() {
		ours, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		s := tls.Server(ours, server)
		err = s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x")) // a client of TLS 1.3 learns with it that it was accepted, and gets its ticket
		}
		_ = ours.Close()
		done <- err
	}()
	c := tls.Client(theirs, client)
	if _, clientErr = c.Read(make([]byte, 1)); errors.Is(clientErr, io.EOF) {
		clientErr = errors.New("closed")
	}
	_ = theirs.Close()
	return c.ConnectionState(), clientErr, <-done
}

func mustLoad(t *testing.T, f Files, o Options) *Source {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	s, err := Load(f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func clientOf(t *testing.T, a *authority, name string, pair *KeyPair) *tls.Config {
	t.Helper()
	c := &tls.Config{ServerName: name, RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(a.cert)
	if pair != nil {
		cert, err := tls.LoadX509KeyPair(pair.Certificate, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil } // asked for it or not
	}
	return c
}

// A client gets the certificate of the name that it asks for, and the first if there is none.
func TestSNI(t *testing.T) {
	a := mustAuthority(t, t.TempDir(), "ca")
	s := mustLoad(t, Files{Certificates: []KeyPair{a.pair("1", "one.test", 2, later), a.pair("2", "two.test", 3, later)}}, Options{Poll: -1})
	for name, want := range map[string]string{"one.test": "one.test", "two.test": "two.test", "three.test": "one.test"} {
		c := clientOf(t, a, name, nil)
		c.InsecureSkipVerify = true
		state, err, _ := handshake(s.Config(), c)
		if err != nil || state.PeerCertificates[0].Subject.CommonName != want {
			t.Errorf("%s: %v, %v", name, state.PeerCertificates, err)
		}
	}
}

// An authority between the server's certificate and the root is taken from Chain, and a client that knows the root only
// believes it.
func TestChain(t *testing.T) {
	dir := t.TempDir()
	root, other := mustAuthority(t, dir, "root"), mustAuthority(t, dir, "other")
	sub := root.subordinate("sub")
	subsub := sub.subordinate("subsub")
	chain := filepath.Join(dir, "chain.pem")
	var text []byte
	for _, a := range []*authority{other, root, subsub, sub} { // in any order, and with what has nothing to do with it
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
	}
	if err := os.WriteFile(chain, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		issuer *authority
		chain  string
		want   int // certificates sent
		err    bool
	}{
		"of the root":     {root, chain, 1, false},
		"of sub":          {sub, chain, 2, false},
		"of subsub":       {subsub, chain, 3, false},
		"of another":      {other, chain, 1, true},
		"without a chain": {sub, "", 1, true},
	} {
		pair := test.issuer.pair("server", "one.test", 2, later)
		pair.Chain = test.chain
		s := mustLoad(t, Files{Certificates: []KeyPair{pair}}, Options{Poll: -1})
		if _, err, _ := handshake(s.Config(), clientOf(t, root, "one.test", nil)); (err != nil) != test.err {
			t.Errorf("%s: %v", name, err)
		}
		c := clientOf(t, root, "one.test", nil)
		c.InsecureSkipVerify = true
		if state, err, _ := handshake(s.Config(), c); err != nil || len(state.PeerCertificates) != test.want {
			t.Errorf("%s: %d certificates, %v, want %d", name, len(state.PeerCertificates), err, test.want)
		}
	}
}

func TestVersions(t *testing.T) {
	a := mustAuthority(t, t.TempDir(), "ca")
	pair := a.pair("1", "one.test", 2, later)
	for _, test := range []struct{ minimum, maximum, client, want uint16 }{
		{0, 0, tls.VersionTLS13, tls.VersionTLS13},
		{0, 0, tls.VersionTLS12, tls.VersionTLS12},
		{0, 0, tls.VersionTLS11, 0},
		{0, tls.VersionTLS12, tls.VersionTLS13, tls.VersionTLS12},
		{tls.VersionTLS13, 0, tls.VersionTLS12, 0},
		{tls.VersionTLS10, 0, tls.VersionTLS11, 0}, // too old to be had
	} {
		s := mustLoad(t, Files{Certificates: []KeyPair{pair}, MinVersion: test.minimum, MaxVersion: test.maximum}, Options{Poll: -1})
		c := clientOf(t, a, "one.test", nil)
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, test.client
		state, err, _ := handshake(s.Config(), c)
		if (err == nil) != (test.want != 0) || err == nil && state.Version != test.want {
			t.Errorf("%+v: version %x, %v", test, state.Version, err)
		}
	}
}

// TestClients has certificates of clients asked for, required, revoked, and looked at again when a session is resumed.
func TestClients(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			dir := t.TempDir()
			a, other := mustAuthority(t, dir, "ca"), mustAuthority(t, dir, "other")
			server := a.pair("server", "broker", 2, later)
			good, bad := a.pair("good", "good", 3, later), a.pair("bad", "bad", 4, later)
			foreign, old := other.pair("foreign", "foreign", 3, later), a.pair("old", "old", 5, past)
			f := Files{
				Certificates: []KeyPair{server}, ClientCA: a.write("ca.crt", "CERTIFICATE", a.cert.Raw),
				CRL: a.write("crl", "X509 CRL", a.crl(later, 99)), MaxVersion: version,
			}
			configs := make(map[*Source]*tls.Config) // one, as a listener has: it has the keys of sessions
			try := func(s *Source, pair *KeyPair, cache tls.ClientSessionCache) (bool, error) {
				t.Helper()
				c := clientOf(t, a, "broker", pair)
				c.ClientSessionCache = cache
				if configs[s] == nil {
					configs[s] = s.Config()
				}
				state, clientErr, err := handshake(configs[s], c)
				if (clientErr == nil) != (err == nil) {
					t.Errorf("the client sees %v, the server %v", clientErr, err)
				}
				return state.DidResume, err
			}
			optional := mustLoad(t, f, Options{Poll: -1})
			f.RequireCertificate = true
			s := mustLoad(t, f, Options{Poll: -1})
			if _, err := try(optional, nil, nil); err != nil {
				t.Errorf("without a certificate, which isn't required: %v", err)
			}
			if _, err := try(s, nil, nil); err == nil {
				t.Error("without a certificate, which is required")
			}
			for name, pair := range map[string]*KeyPair{"foreign": &foreign, "expired": &old} {
				if _, err := try(optional, pair, nil); err == nil {
					t.Errorf("%s: accepted", name)
				}
			}
			cache := tls.NewLRUClientSessionCache(1)
			if _, err := try(s, &good, nil); err != nil {
				t.Errorf("a valid certificate: %v", err)
			}
			if _, err := try(s, &bad, cache); err != nil {
				t.Errorf("another: %v", err)
			}
			if resumed, err := try(s, &bad, cache); err != nil || !resumed {
				t.Errorf("resumed %v, %v", resumed, err)
			}

			a.write("crl", "X509 CRL", a.crl(later, 99, 4))
			if err := s.Reload(); err != nil {
				t.Fatal(err)
			}
			var verification *tls.CertificateVerificationError
			if resumed, err := try(s, &bad, cache); !resumed || !errors.Is(err, ErrRevoked) || !errors.As(err, &verification) {
				t.Errorf("revoked, with a session: %v, %v", resumed, err)
			}
			if _, err := try(s, &bad, nil); !errors.Is(err, ErrRevoked) {
				t.Errorf("revoked: %v", err)
			}
			if _, err := try(s, &good, nil); err != nil {
				t.Errorf("another: %v", err)
			}

			a.write("crl", "X509 CRL", a.crl(past))
			if err := s.Reload(); err != nil {
				t.Fatal(err)
			}
			if _, err := try(s, &good, nil); !errors.Is(err, ErrNoCRL) {
				t.Errorf("with a list that expired: %v", err)
			}

			// Another authority, with a list of its own, in DER.
			cache = tls.NewLRUClientSessionCache(1)
			a.write("crl", "X509 CRL", a.crl(later))
			if err := s.Reload(); err != nil {
				t.Fatal(err)
			}
			if _, err := try(s, &good, cache); err != nil {
				t.Error(err)
			}
			a.write("ca.crt", "CERTIFICATE", other.cert.Raw)
			if err := os.WriteFile(f.CRL, other.crl(later), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.Reload(); err != nil {
				t.Fatal(err)
			}
			if _, err := try(s, &good, cache); err == nil {
				t.Error("a session of an authority that is gone was resumed")
			}
			if _, err := try(s, &foreign, nil); err != nil {
				t.Errorf("of the new authority: %v", err)
			}
		})
	}
}

// TestRevoked_Chain has an intermediate revoked, and one whose authority publishes no list.
func TestRevoked_Chain(t *testing.T) {
	serials := func(n ...int64) *revocationList {
		l := &revocationList{serials: map[string]struct{}{}}
		for _, n := range n {
			l.serials[serial(big.NewInt(n))] = struct{}{}
		}
		return l
	}
	chain := []*x509.Certificate{
		{SerialNumber: big.NewInt(7), RawIssuer: []byte("sub")},
		{SerialNumber: big.NewInt(8), RawIssuer: []byte("root")},
		{SerialNumber: big.NewInt(9), RawIssuer: []byte("root")},
	}
	for name, test := range map[string]struct {
		lists revocations
		want  error
	}{
		"fine":                 {revocations{"sub": serials(1), "root": serials(1)}, nil},
		"no list of the root":  {revocations{"sub": serials(1)}, nil},
		"no list of the sub":   {revocations{"root": serials(1)}, ErrNoCRL},
		"revoked":              {revocations{"sub": serials(7)}, ErrRevoked},
		"sub revoked":          {revocations{"sub": serials(1), "root": serials(8)}, ErrRevoked},
		"the root revoking it": {revocations{"sub": serials(1), "root": serials(9)}, nil},
	} {
		if err := test.lists.check(chain, time.Now()); !errors.Is(err, test.want) || err != nil && test.want == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFollow has a renewed certificate picked up, and a bad one not, which is counted.
func TestFollow(t *testing.T) {
	a := mustAuthority(t, t.TempDir(), "ca")
	pair := a.pair("1", "one.test", 2, later)
	set := metrics.New(1)
	s := mustLoad(t, Files{Certificates: []KeyPair{pair}}, Options{Metrics: set, Poll: time.Millisecond})
	config := s.Config()
	number := func() int64 {
		state, err, _ := handshake(config, clientOf(t, a, "one.test", nil))
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.Int64()
	}
	if n := number(); n != 2 {
		t.Errorf("certificate %d", n)
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s", what)
			}
		}
	}
	a.pair("1", "one.test", 3, later)
	await("the new certificate", func() bool { return number() == 3 })
	done := set.CertificateReloads[metrics.ReloadDone]
	await("it is counted", func() bool { return done.Get() >= 1 })

	failed := set.CertificateReloads[metrics.ReloadFailed]
	before := failed.Get()
	if err := os.WriteFile(pair.Certificate, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	await("the failure is counted", func() bool { return failed.Get() > before })
	if n := number(); n != 3 {
		t.Errorf("after a bad file: certificate %d", n)
	}
	s.Close()
	if n := number(); n != 3 {
		t.Errorf("after Close: certificate %d", n)
	}
}

// TestPrepare changes nothing before it is committed.
func TestPrepare(t *testing.T) {
	a := mustAuthority(t, t.TempDir(), "ca")
	s := mustLoad(t, Files{Certificates: []KeyPair{a.pair("1", "one.test", 2, later)}}, Options{Poll: -1})
	a.pair("1", "one.test", 3, later)
	commit, err := s.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{2, 3} {
		state, err, _ := handshake(s.Config(), clientOf(t, a, "one.test", nil))
		if err != nil || state.PeerCertificates[0].SerialNumber.Int64() != want {
			t.Errorf("want %d: %v", want, err)
		}
		commit()
	}
}

// TestLoad_Errors name what is wrong.
func TestLoad_Errors(t *testing.T) {
	dir := t.TempDir()
	a, other := mustAuthority(t, dir, "ca"), mustAuthority(t, dir, "other")
	pair, wrong := a.pair("1", "one.test", 2, later), a.pair("2", "two.test", 3, later)
	ca := a.write("ca.crt", "CERTIFICATE", a.cert.Raw)
	certs := []KeyPair{pair}
	for want, f := range map[string]Files{
		"no certificate is named":          {},
		"1.crt with key":                   {Certificates: []KeyPair{{Certificate: pair.Certificate, Key: wrong.Key}}},
		"none.crt":                         {Certificates: []KeyPair{{Certificate: "none.crt", Key: pair.Key}}},
		"chain: open":                      {Certificates: []KeyPair{{pair.Certificate, pair.Key, filepath.Join(dir, "none")}}},
		"expired on":                       {Certificates: []KeyPair{a.pair("3", "old", 4, past)}},
		"need a client CA":                 {Certificates: certs, RequireCertificate: true},
		"client CA: open":                  {Certificates: certs, ClientCA: filepath.Join(dir, "none")},
		"no certificate in it":             {Certificates: certs, ClientCA: pair.Key},
		"bad.crt: x509":                    {Certificates: certs, ClientCA: a.write("bad.crt", "CERTIFICATE", []byte("x"))},
		"CRL: open":                        {Certificates: certs, ClientCA: ca, CRL: filepath.Join(dir, "none")},
		"no revocation list in it":         {Certificates: certs, ClientCA: ca, CRL: ca},
		"bad.crl: x509":                    {Certificates: certs, ClientCA: ca, CRL: a.write("bad.crl", "X509 CRL", []byte("x"))},
		"authority is not in the client":   {Certificates: certs, ClientCA: ca, CRL: a.write("o.crl", "X509 CRL", other.crl(later))},
		"TLS 1.2, is older than the oldes": {Certificates: certs, MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12},
	} {
		if s, err := Load(f, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v, %v", want, s, err)
		}
	}
}

func FuzzCRL(f *testing.F) {
	t := &testing.T{}
	a := mustAuthority(t, f.TempDir(), "ca")
	der := a.crl(later, 1, 2)
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	f.Add([]byte("-----BEGIN "))
	f.Fuzz(func(t *testing.T, b []byte) {
		lists, err := parseCRL(b, []*x509.Certificate{a.cert})
		if err == nil && len(lists) == 0 {
			t.Error("no list and no error")
		}
	})
}

// Who is connected is held to new files: a certificate that they revoke, and an authority that they don't have any more.
// What has only expired is no reason.
func TestSource_Revoked(t *testing.T) {
	dir := t.TempDir()
	a, next := mustAuthority(t, dir, "ca"), mustAuthority(t, dir, "next")
	changes := 0
	s := mustLoad(t, Files{
		Certificates: []KeyPair{a.pair("server", "broker", 2, later)}, ClientCA: a.write("ca", "CERTIFICATE", a.cert.Raw),
		CRL: a.write("crl", "X509 CRL", a.crl(later, 99)),
	}, Options{Poll: -1, OnChange: func(*Source) { changes++ }})
	pair := a.pair("client", "client", 3, later)
	var state tls.ConnectionState
	config := s.Config()
	current := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := current(hello)
		c = c.Clone()
		verify := c.VerifyConnection
		c.VerifyConnection = func(cs tls.ConnectionState) error { state = cs; return verify(cs) }
		return c, err
	}
	if _, clientErr, serverErr := handshake(config, clientOf(t, a, "broker", &pair)); clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
	for _, step := range []struct {
		name   string
		change func()
		want   error
	}{
		{"nothing", func() {}, nil},
		{"another is revoked", func() { a.write("crl", "X509 CRL", a.crl(later, 99, 4)) }, nil},
		{"the list expires", func() { a.write("crl", "X509 CRL", a.crl(past, 99)) }, nil},
		{"it is revoked", func() { a.write("crl", "X509 CRL", a.crl(later, 99, 3)) }, ErrRevoked},
		{"it is pardoned", func() { a.write("crl", "X509 CRL", a.crl(later, 99)) }, nil},
		{"another authority", func() {
			next.write("ca", "CERTIFICATE", next.cert.Raw)
			next.write("crl", "X509 CRL", next.crl(later))
		}, ErrAuthority},
	} {
		before := changes
		step.change()
		if err := s.Reload(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if err := s.Revoked(&state); !errors.Is(err, step.want) || err != nil && step.want == nil {
			t.Errorf("%s: got %v, want %v", step.name, err, step.want)
		}
		if changes != before+1 {
			t.Errorf("%s: OnChange was called %d times", step.name, changes-before)
		}
	}
	if err := s.Revoked(&tls.ConnectionState{}); err != nil {
		t.Errorf("without a certificate: %v", err)
	}
}
