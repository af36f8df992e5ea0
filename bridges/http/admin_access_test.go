package httpbridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whose certificate has which name.
func TestCertificateNames(t *testing.T) {
	uri, _ := url.Parse("spiffe://example.com/ops")
	cert := &x509.Certificate{
		Subject: pkix.Name{CommonName: "alice"}, DNSNames: []string{"a.example.com", "b.example.com"}, EmailAddresses: []string{"ops@example.com"}, URIs: []*url.URL{uri},
	}
	for _, c := range []struct {
		names []CertificateName
		want  Role
	}{
		{[]CertificateName{{"cn", "alice", RoleRead}}, RoleRead},
		{[]CertificateName{{"cn", "alice", RoleRead}, {"dns", "b.example.com", RoleWrite}}, RoleWrite},
		{[]CertificateName{{"email", "ops@example.com", RoleWrite}, {"cn", "alice", RoleRead}}, RoleWrite},
		{[]CertificateName{{"uri", "spiffe://example.com/ops", RoleWrite}}, RoleWrite},
		{[]CertificateName{{"dns", "alice", RoleWrite}, {"cn", "bob", RoleWrite}, {"email", "alice", RoleWrite}, {"uri", "alice", RoleWrite}}, 0},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		if _, role, err := (&Access{Certificates: c.names}).identify(r); role != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%v: %v, %v, want %v", c.names, role, err, c.want)
		}
	}
}

// Wrong tokens keep out tokens from their address, right ones too, but no certificates; and
// certificates without a role keep out nobody.
func TestWrongTokensKeepOutTokensOnly(t *testing.T) {
	t.Parallel()
	secret, token := NewToken("alice", RoleRead)
	f := mustStartWith(t, nil, nil)
	f.SetAccess(Access{Tokens: []Token{token}, Certificates: []CertificateName{{"cn", "ops", RoleRead}}})
	ask := func(name, secret string, want int) {
		t.Helper()
		r := httptest.NewRequest("GET", "http://localhost/metrics", nil)
		if name != "" {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: name}}}}
		}
		if secret != "" {
			r.Header.Set("Authorization", "Bearer "+secret)
		}
		w := httptest.NewRecorder()
		if f.ServeHTTP(w, r); w.Code != want || (w.Header().Get("Retry-After") != "") != (want == 429) {
			t.Errorf("certificate %q, token %q: %d %v, want %d", name, secret, w.Code, w.Header(), want)
		}
	}
	for range failuresAtOnce + 1 {
		ask("stranger", "", 401)
	}
	ask("", secret, 200)
	for range failuresAtOnce {
		ask("", "wrong", 401)
	}
	ask("", "wrong", 429)
	ask("", secret, 429)
	ask("ops", secret, 429)
	ask("ops", "", 200)
	ask("stranger", "", 401)
	ask("", "", 401)
}

func TestFailuresAreForgotten(t *testing.T) {
	f, now := newFailures(), time.Now()
	r := &http.Request{RemoteAddr: "[2001:db8::1]:1"}
	for range failuresAtOnce + 5 {
		f.add(addressOf(r), now)
	}
	neighbor := addressOf(&http.Request{RemoteAddr: "[2001:db8::2]:1"}) // of the same network
	if wait := f.wait(neighbor, now); wait <= 0 || wait > failuresEvery {
		t.Errorf("wait %v", wait)
	}
	if wait := f.wait(neighbor, now.Add(failuresEvery)); wait != 0 {
		t.Errorf("wait %v later", wait)
	}
	if wait := f.wait(addressOf(&http.Request{RemoteAddr: "[2001:db8:0:1::1]:1"}), now); wait != 0 {
		t.Errorf("another network waits %v", wait)
	}
	for i := range failuresAddresses {
		f.add(addressOf(&http.Request{RemoteAddr: net.JoinHostPort(net.IPv4(10, 0, byte(i>>8), byte(i)).String(), "1")}), now)
	}
	if f.limits.Len() > failuresAddresses {
		t.Errorf("%d addresses are remembered", f.limits.Len())
	}
}

func TestTokenFile(t *testing.T) {
	secret, a := NewToken("a", RoleWrite)
	_, b := NewToken("b", RoleRead)
	if again, _ := NewToken("a", RoleWrite); again == secret || len(secret) < 40 {
		t.Errorf("tokens %q and %q", secret, again)
	}
	path := filepath.Join(t.TempDir(), "tokens")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# operators\n\n " + a.String() + "\r\n" + b.String())
	if tokens, err := ReadTokens(path); err != nil || len(tokens) != 2 || tokens[0] != a || tokens[1] != b {
		t.Errorf("got %v, %v", tokens, err)
	}
	write("a write\n" + a.String() + "\nb king " + strings.Repeat("0", 64) + "\nc read x\n")
	_, err := ReadTokens(path)
	if err == nil {
		t.Fatal("wrong lines are read")
	}
	for _, part := range []string{"line 1: ", "line 3: ", "line 4: "} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %s in it", err, part)
		}
	}
	if strings.Contains(err.Error(), "king") {
		t.Errorf("%v repeats what may be a secret", err)
	}
	write(strings.Repeat(a.String()+"\n", tokensMax+1))
	if _, err := ReadTokens(path); err == nil {
		t.Error("a file that is too long is read")
	}
	if _, err := ReadTokens(path + "x"); err == nil {
		t.Error("a file that isn't there is read")
	}
}

func FuzzTokens(f *testing.F) {
	_, a := NewToken("a", RoleWrite)
	for _, text := range []string{a.String(), "# x\n\n" + a.String(), "a read 00", "\x00", strings.Repeat("x", 100_000)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := parseTokens(strings.NewReader(text))
		if err != nil {
			return
		}
		var again strings.Builder
		for _, token := range tokens {
			again.WriteString(token.String() + "\n")
		}
		got, err := parseTokens(strings.NewReader(again.String()))
		if err != nil || len(got) != len(tokens) {
			t.Errorf("%q: %v, %v", again.String(), got, err)
		}
	})
}

// The unix socket is its owner's only, and asks nobody.
func TestUnixSocket(t *testing.T) {
	f := mustServeAPI(t, func(o *AdminOptions) { o.Access = Access{Required: true, APIOff: true} })
	path := filepath.Join(t.TempDir(), "admin.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := NewAdmin(AdminOptions{}).StartUnix(path, 0o600); err == nil {
		t.Error("a socket that is in use is taken")
	}
	left.Close()
	if err := f.StartUnix(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://anything/api/v1/nodes")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("got %s", resp.Status)
	}
	if err := os.WriteFile(path+"x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := NewAdmin(AdminOptions{}).StartUnix(path+"x", 0o600); err == nil {
		t.Error("a file is taken")
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	secret, token := NewToken("reader", RoleRead)
	f := mustStartWith(t, func(o *AdminOptions) { o.Profiles = true }, nil)
	for _, path := range []string{"/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline", "/debug/pprof/profile?seconds=1", "/debug/pprof/symbol?0x1", "/debug/pprof/trace?seconds=0.01"} {
		if resp, body := f.do(t, "GET", path); resp.StatusCode != 200 && !strings.Contains(body, "already in use") {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	f.SetAccess(Access{Tokens: []Token{token}})
	r := httptest.NewRequest("GET", "http://localhost/debug/pprof/heap", nil)
	r.Header.Set("Authorization", "Bearer "+secret)
	w := httptest.NewRecorder()
	if f.ServeHTTP(w, r); w.Code != 403 {
		t.Errorf("with the role read: %d", w.Code)
	}
}
