package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// testKeys are made once: RSA keys take long.
var testKeys = struct {
	rsa     *rsa.PrivateKey
	p256    *ecdsa.PrivateKey
	p384    *ecdsa.PrivateKey
	p521    *ecdsa.PrivateKey
	ed25519 ed25519.PrivateKey
	secret  []byte
}{}

func init() {
	var err error
	if testKeys.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		panic(err)
	}
	testKeys.p256, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	testKeys.p384, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	testKeys.p521, _ = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, testKeys.ed25519, _ = ed25519.GenerateKey(rand.Reader)
	testKeys.secret = []byte("0123456789abcdef0123456789abcdef")
}

var discard = slog.New(slog.DiscardHandler)

// mustWrite writes a file of the test and returns its path.
func mustWrite(t testing.TB, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// publicPEM is the public half of a key as PEM.
func publicPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// sign makes a token.
func sign(t testing.TB, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustJWT(t testing.TB, o JWTOptions) *JWT {
	t.Helper()
	if o.Logger == nil {
		o.Logger = discard
	}
	j, err := NewJWT(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

// judge asks a Method about a client with a password.
func judge(t testing.TB, m Method, clientID, password string) Result {
	t.Helper()
	r := &loopmq.ConnectRequest{ClientID: clientID, Username: "any", HasUsername: true, Password: []byte(password), ProtocolVersion: codec.V5}
	res, err := m.Authenticate(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func inAnHour() int64 { return time.Now().Add(time.Hour).Unix() }

// Each key verifies the tokens of its own algorithms, and no other key's.
func TestJWTAlgorithms(t *testing.T) {
	files := map[string]string{
		"rsa":    mustWrite(t, "rsa.pem", publicPEM(t, testKeys.rsa)),
		"p256":   mustWrite(t, "p256.pem", publicPEM(t, testKeys.p256)),
		"p384":   mustWrite(t, "p384.pem", publicPEM(t, testKeys.p384)),
		"p521":   mustWrite(t, "p521.pem", publicPEM(t, testKeys.p521)),
		"ed":     mustWrite(t, "ed.pem", publicPEM(t, testKeys.ed25519)),
		"secret": mustWrite(t, "secret", append(testKeys.secret, '\n')),
	}
	for _, c := range []struct {
		method jwt.SigningMethod
		key    any
		file   string
	}{
		{jwt.SigningMethodHS256, testKeys.secret, "secret"},
		{jwt.SigningMethodHS384, testKeys.secret, "secret"},
		{jwt.SigningMethodHS512, testKeys.secret, "secret"},
		{jwt.SigningMethodRS256, testKeys.rsa, "rsa"},
		{jwt.SigningMethodRS384, testKeys.rsa, "rsa"},
		{jwt.SigningMethodRS512, testKeys.rsa, "rsa"},
		{jwt.SigningMethodPS256, testKeys.rsa, "rsa"},
		{jwt.SigningMethodES256, testKeys.p256, "p256"},
		{jwt.SigningMethodES384, testKeys.p384, "p384"},
		{jwt.SigningMethodES512, testKeys.p521, "p521"},
		{jwt.SigningMethodEdDSA, testKeys.ed25519, "ed"},
	} {
		token := sign(t, c.method, c.key, "", jwt.MapClaims{"sub": "alice", "exp": inAnHour()})
		withKid := sign(t, c.method, c.key, "whatever", jwt.MapClaims{"sub": "alice", "exp": inAnHour()})
		for name, path := range files {
			o := JWTOptions{KeyFiles: []string{path}}
			if name == "secret" {
				o = JWTOptions{SecretFiles: []string{path}}
			}
			want := Reject
			if name == c.file {
				want = Accept
			}
			j := mustJWT(t, o)
			for _, token := range []string{token, withKid} {
				if got := judge(t, j, "c", token); got.Decision != want || want == Accept && got.Identity.Username != "alice" {
					t.Errorf("%s with key %s: got %v %q, want %v", c.method.Alg(), name, got.Decision, got.Identity.Username, want)
				}
			}
		}
	}
}

// Tokens that say they are verified in another way than their key is for.
func TestJWTConfusion(t *testing.T) {
	pemText := publicPEM(t, testKeys.rsa)
	j := mustJWT(t, JWTOptions{KeyFiles: []string{mustWrite(t, "rsa.pem", pemText)}})
	claims := jwt.MapClaims{"sub": "admin", "exp": inAnHour()}
	der, err := x509.MarshalPKIXPublicKey(testKeys.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	none := sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", claims)
	critical := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	critical.Header["crit"] = []string{"b64"}
	crit, err := critical.SignedString(testKeys.rsa)
	if err != nil {
		t.Fatal(err)
	}
	// A key of one curve under the algorithm of another: its signature verifies, filled up to the length.
	ec := mustJWT(t, JWTOptions{KeyFiles: []string{mustWrite(t, "ec.pem", publicPEM(t, testKeys.p256))}})
	text, err := jwt.NewWithClaims(jwt.SigningMethodES384, claims).SigningString()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum384([]byte(text))
	x, y, err := ecdsa.Sign(rand.Reader, testKeys.p256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(x.FillBytes(make([]byte, 48)), y.FillBytes(make([]byte, 48))...)
	if got := judge(t, ec, "c", text+"."+base64.RawURLEncoding.EncodeToString(signature)); got.Decision != Reject {
		t.Errorf("ES384 with a key on P-256: %v", got.Decision)
	}
	for name, token := range map[string]string{
		"none":                 none,
		"none, kid":            sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "x", claims),
		"public PEM as secret": sign(t, jwt.SigningMethodHS256, pemText, "", claims),
		"public DER as secret": sign(t, jwt.SigningMethodHS256, der, "", claims),
		"empty secret":         sign(t, jwt.SigningMethodHS256, []byte{}, "", claims),
		"critical extension":   crit,
		"no signature":         strings.TrimSuffix(none, "."),
	} {
		want := Reject
		if name == "no signature" {
			want = Next // not a token
		}
		if got := judge(t, j, "c", token); got.Decision != want {
			t.Errorf("%s: got %v, want %v", name, got.Decision, want)
		}
	}
	// Only the algorithms that the configuration names.
	j = mustJWT(t, JWTOptions{KeyFiles: []string{mustWrite(t, "rsa.pem", pemText)}, Algorithms: []string{"RS512"}})
	if got := judge(t, j, "c", sign(t, jwt.SigningMethodRS256, testKeys.rsa, "", claims)); got.Decision != Reject {
		t.Errorf("RS256 where only RS512 is allowed: %v", got.Decision)
	}
	if got := judge(t, j, "c", sign(t, jwt.SigningMethodRS512, testKeys.rsa, "", claims)); got.Decision != Accept {
		t.Errorf("RS512 where RS512 is allowed: %v", got.Decision)
	}
}

func TestJWTClaims(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	exp := now.Add(time.Minute).Unix()
	secret := mustWrite(t, "secret", testKeys.secret)
	j := mustJWT(t, JWTOptions{
		SecretFiles: []string{secret}, Issuer: "https://issuer.example", Audience: []string{"mqtt", "other"}, UsernameClaim: "name",
		ClientIDClaim: "cid", ACLClaim: "acl", Now: func() time.Time { return now }, Leeway: 5 * time.Second,
	})
	good := func(change ...any) jwt.MapClaims {
		m := jwt.MapClaims{
			"iss": "https://issuer.example", "aud": []string{"mqtt"}, "name": "alice", "cid": "pump-7", "exp": exp,
			"acl": map[string]any{"publish": []string{"p/%c/%u"}, "subscribe": []string{"s/#"}},
		}
		for i := 0; i < len(change); i += 2 {
			if change[i+1] == nil {
				delete(m, change[i].(string))
			} else {
				m[change[i].(string)] = change[i+1]
			}
		}
		return m
	}
	for _, c := range []struct {
		name   string
		claims jwt.MapClaims
		want   Decision
		code   codec.ReasonCode
	}{
		{"good", good(), Accept, 0},
		{"audience as a string", good("aud", "other"), Accept, 0},
		{"no acl", good("acl", nil), Accept, 0},
		{"expired", good("exp", now.Add(-time.Minute).Unix()), Reject, codec.BadUserNameOrPassword},
		{"expired within leeway", good("exp", now.Add(-2*time.Second).Unix()), Accept, 0},
		{"no expiry", good("exp", nil), Reject, codec.BadUserNameOrPassword},
		{"expiry of a wrong type", good("exp", "tomorrow"), Reject, codec.BadUserNameOrPassword},
		{"not yet", good("nbf", now.Add(time.Minute).Unix()), Reject, codec.BadUserNameOrPassword},
		{"other issuer", good("iss", "https://other.example"), Next, 0},
		{"no issuer", good("iss", nil), Next, 0},
		{"other audience", good("aud", "web"), Reject, codec.BadUserNameOrPassword},
		{"no audience", good("aud", nil), Reject, codec.BadUserNameOrPassword},
		{"other client", good("cid", "pump-8"), Reject, codec.NotAuthorized},
		{"no client", good("cid", nil), Reject, codec.NotAuthorized},
		{"no user name", good("name", nil), Reject, codec.NotAuthorized},
		{"user name is empty", good("name", ""), Reject, codec.NotAuthorized},
		{"user name with NUL", good("name", "a\x00b"), Reject, codec.NotAuthorized},
		{"user name is a number", good("name", 7), Reject, codec.NotAuthorized},
		{"acl of a wrong type", good("acl", "all"), Reject, codec.NotAuthorized},
		{"acl with an unknown word", good("acl", map[string]any{"pub": []string{"#"}}), Reject, codec.NotAuthorized},
		{"acl with a bad filter", good("acl", map[string]any{"publish": []string{"a#"}}), Reject, codec.NotAuthorized},
	} {
		got := judge(t, j, "pump-7", sign(t, jwt.SigningMethodHS256, testKeys.secret, "", c.claims))
		if got.Decision != c.want || got.ReasonCode != c.code {
			t.Errorf("%s: got %v %v, want %v %v", c.name, got.Decision, got.ReasonCode, c.want, c.code)
		}
	}
	got := judge(t, j, "pump-7", sign(t, jwt.SigningMethodHS256, testKeys.secret, "", good()))
	if want := time.Unix(exp, 0).Add(5 * time.Second); !got.Identity.ExpiresAt.Equal(want) || got.Identity.Username != "alice" {
		t.Errorf("got %+v, want alice until %v", got.Identity, want)
	}
	g := got.Identity.ACL.(*Grant)
	for _, c := range []struct {
		a     loopmq.Action
		topic string
		want  bool
	}{
		{loopmq.ActionPublish, "p/pump-7/alice", true},
		{loopmq.ActionPublish, "p/pump-8/alice", false},
		{loopmq.ActionPublish, "s/x", false},
		{loopmq.ActionSubscribe, "s/+/x", true},
		{loopmq.ActionSubscribe, "#", false},
		{loopmq.ActionDeliver, "s/x", true},
		{loopmq.ActionDeliver, "t/x", false},
	} {
		if got := g.Allows(c.a, c.topic); got != c.want {
			t.Errorf("Allows(%v, %q) = %v, want %v", c.a, c.topic, got, c.want)
		}
	}
	// Tampering with any part is seen.
	parts := strings.Split(sign(t, jwt.SigningMethodHS256, testKeys.secret, "", good()), ".")
	other := strings.Split(sign(t, jwt.SigningMethodHS256, testKeys.secret, "", good("name", "root")), ".")
	if got := judge(t, j, "pump-7", parts[0]+"."+other[1]+"."+parts[2]); got.Decision != Reject {
		t.Errorf("claims of another token: %v", got.Decision)
	}
}

// Where the token comes from, and what isn't one.
func TestJWTPlaces(t *testing.T) {
	secret := mustWrite(t, "secret", testKeys.secret)
	token := sign(t, jwt.SigningMethodHS256, testKeys.secret, "", jwt.MapClaims{"sub": "alice", "exp": inAnHour()})
	inPassword := mustJWT(t, JWTOptions{SecretFiles: []string{secret}})
	inUsername := mustJWT(t, JWTOptions{SecretFiles: []string{secret}, TokenInUsername: true})
	for _, c := range []struct {
		name string
		j    *JWT
		r    loopmq.ConnectRequest
		want Decision
	}{
		{"password", inPassword, loopmq.ConnectRequest{Password: []byte(token)}, Accept},
		{"nothing", inPassword, loopmq.ConnectRequest{}, Next},
		{"a password", inPassword, loopmq.ConnectRequest{Password: []byte("secret")}, Next},
		{"a password with dots", inPassword, loopmq.ConnectRequest{Password: []byte("a.b.c")}, Next},
		{"in the wrong place", inPassword, loopmq.ConnectRequest{Username: token, HasUsername: true}, Next},
		{"user name", inUsername, loopmq.ConnectRequest{Username: token, HasUsername: true}, Accept},
		{"user name, wrong place", inUsername, loopmq.ConnectRequest{Password: []byte(token)}, Next},
		{"no user name", inUsername, loopmq.ConnectRequest{}, Next},
		{"AUTH", inPassword, loopmq.ConnectRequest{AuthenticationMethod: "JWT", AuthenticationData: []byte(token)}, Accept},
		{"AUTH, garbage", inPassword, loopmq.ConnectRequest{AuthenticationMethod: "JWT", AuthenticationData: []byte("x")}, Reject},
		{"AUTH, nothing", inPassword, loopmq.ConnectRequest{AuthenticationMethod: "JWT"}, Reject},
		{"another method", inPassword, loopmq.ConnectRequest{AuthenticationMethod: "SCRAM-SHA-256", Password: []byte(token)}, Next},
	} {
		got, err := c.j.Authenticate(t.Context(), &c.r)
		if err != nil || got.Decision != c.want {
			t.Errorf("%s: got %v, %v, want %v", c.name, got.Decision, err, c.want)
		}
	}
}

// jwksServer serves a JWK Set that the test changes.
type jwksServer struct {
	*httptest.Server
	body  atomic.Pointer[string]
	asked atomic.Int64
}

func newJWKSServer(t testing.TB) *jwksServer {
	s := &jwksServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.asked.Add(1)
		if body := s.body.Load(); body != nil {
			_, _ = w.Write([]byte(*body))
			return
		}
		http.Error(w, "gone", http.StatusInternalServerError)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *jwksServer) set(text string) { s.body.Store(&text) }

// jwks makes a JWK Set of the public halves of keys, by Key ID.
func jwks(t testing.TB, keys map[string]any) string {
	t.Helper()
	store := jwkset.NewMemoryStorage()
	for kid, key := range keys {
		k, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{
			Metadata: jwkset.JWKMetadataOptions{KID: kid}, Marshal: jwkset.JWKMarshalOptions{Private: true},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.KeyWrite(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	text, err := store.JSON(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The keys of a URL follow it, and stay while it fails.
func TestJWKSURL(t *testing.T) {
	s := newJWKSServer(t)
	set := metrics.New(1)
	j := mustJWT(t, JWTOptions{JWKSURL: s.URL + "/keys?token=hidden", RefreshInterval: 100 * time.Millisecond, Metrics: set})
	claims := jwt.MapClaims{"sub": "alice", "exp": inAnHour()}
	first := sign(t, jwt.SigningMethodRS256, testKeys.rsa, "one", claims)
	second := sign(t, jwt.SigningMethodES256, testKeys.p256, "two", claims)
	r := &loopmq.ConnectRequest{ClientID: "c", Password: []byte(first)}
	if _, err := j.Authenticate(t.Context(), r); err == nil {
		t.Error("a token was judged without any key")
	}
	if n := set.Auth.KeyRefreshFailures.Get(); n == 0 {
		t.Error("a failed fetch wasn't counted")
	}
	decision := func(token string) Decision {
		res, err := j.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "c", Password: []byte(token)})
		if err != nil {
			return Next
		}
		return res.Decision
	}
	s.set(jwks(t, map[string]any{"one": testKeys.rsa.Public()}))
	eventually(t, "the first key", func() bool { return decision(first) == Accept })
	if got := decision(second); got != Reject {
		t.Errorf("unknown key: %v", got)
	}
	s.set(jwks(t, map[string]any{"two": testKeys.p256.Public()}))
	eventually(t, "the change of keys", func() bool { return decision(first) == Reject && decision(second) == Accept })

	for _, bad := range []string{
		"not JSON", "{}", `{"keys": []}`, `{"keys": [{"kty": "oct", "kid": "three", "k": "` + base64.RawURLEncoding.EncodeToString(testKeys.secret) + `"}]}`,
		`{"keys": [` + strings.Repeat(`{"kty":"OKP"},`, 100_000) + `]}`,
	} {
		failures, asked := set.Auth.KeyRefreshFailures.Get(), s.asked.Load()
		s.set(bad)
		eventually(t, "three fetches", func() bool { return s.asked.Load() >= asked+3 }) // one may have begun before
		if decision(second) != Accept {
			t.Errorf("the key is gone after an answer of %.40s", bad)
		}
		if set.Auth.KeyRefreshFailures.Get() == failures {
			t.Errorf("an answer of %.40s is no counted failure", bad)
		}
	}
	if got := decision(sign(t, jwt.SigningMethodHS256, testKeys.secret, "three", claims)); got != Reject {
		t.Errorf("a secret that the URL published: %v", got)
	}
}

// Many tokens with unknown keys cause few fetches.
func TestJWKSUnknownKeys(t *testing.T) {
	s := newJWKSServer(t)
	s.set(jwks(t, map[string]any{"one": testKeys.ed25519.Public()}))
	j := mustJWT(t, JWTOptions{JWKSURL: s.URL, RefreshInterval: time.Hour})
	token := sign(t, jwt.SigningMethodEdDSA, testKeys.ed25519, "other", jwt.MapClaims{"sub": "alice", "exp": inAnHour()})
	for range 50 {
		if got := judge(t, j, "c", token); got.Decision != Reject {
			t.Fatalf("unknown key: %v", got.Decision)
		}
	}
	if n := s.asked.Load(); n > 3 {
		t.Errorf("50 tokens caused %d fetches", n)
	}
}

// eventually waits for a condition, and gives it a chance now and then.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: it didn't happen", what)
		case <-tick.C:
		}
	}
}

func TestJWTReload(t *testing.T) {
	path := mustWrite(t, "key.pem", publicPEM(t, testKeys.p256))
	j := mustJWT(t, JWTOptions{KeyFiles: []string{path}})
	claims := jwt.MapClaims{"sub": "alice", "exp": inAnHour()}
	old, next := sign(t, jwt.SigningMethodES256, testKeys.p256, "", claims), sign(t, jwt.SigningMethodEdDSA, testKeys.ed25519, "", claims)
	check := func(oldWant, nextWant Decision) {
		t.Helper()
		if a, b := judge(t, j, "c", old).Decision, judge(t, j, "c", next).Decision; a != oldWant || b != nextWant {
			t.Errorf("got %v and %v, want %v and %v", a, b, oldWant, nextWant)
		}
	}
	check(Accept, Reject)
	for _, bad := range []string{"", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", `{"keys": []}`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Prepare(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("reload with %q: %v", bad, err)
		}
		check(Accept, Reject)
	}
	if err := os.WriteFile(path, []byte(jwks(t, map[string]any{"": testKeys.ed25519.Public()})), 0o600); err != nil {
		t.Fatal(err)
	}
	apply, err := j.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	check(Accept, Reject)
	apply()
	check(Reject, Accept)
}

func TestJWTOptionErrors(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	good := mustWrite(t, "good", testKeys.secret)
	for _, c := range []struct {
		o    JWTOptions
		want string
	}{
		{JWTOptions{}, "no keys"},
		{JWTOptions{SecretFiles: []string{good}, Algorithms: []string{"none"}}, `"none"`},
		{JWTOptions{SecretFiles: []string{good}, RefreshInterval: time.Millisecond}, "100ms or more"},
		{JWTOptions{SecretFiles: []string{good}, Leeway: -1}, "negative"},
		{JWTOptions{SecretFiles: []string{mustWrite(t, "short", []byte("too-short"))}}, "32 or more"},
		{JWTOptions{SecretFiles: []string{"/nowhere/secret"}}, "no such file"},
		{JWTOptions{KeyFiles: []string{t.TempDir()}}, "is a directory"},
		{JWTOptions{KeyFiles: []string{mustWrite(t, "small", publicPEM(t, small))}}, "1024 bits"},
		{JWTOptions{KeyFiles: []string{mustWrite(t, "p224", publicPEM(t, p224))}}, "P-256"},
		{JWTOptions{JWKSURL: "http://keys.example/jwks?secret=x"}, "plain http"},
		{JWTOptions{JWKSURL: "ftp://keys.example/jwks"}, "allowed: https"},
		{JWTOptions{JWKSURL: "https://keys.example:port/secret"}, "can't be read"},
	} {
		c.o.Logger = discard
		_, err := NewJWT(c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "too-short") || strings.Contains(err.Error(), "secret=x") {
			t.Errorf("got %v, want an error with %q and without the secret", err, c.want)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(publicPEM(f, testKeys.rsa))
	f.Add(publicPEM(f, testKeys.p256))
	f.Add([]byte(jwks(f, map[string]any{"a": testKeys.rsa.Public(), "b": testKeys.secret, "c": testKeys.ed25519})))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(`{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeys(text)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			if err := usable(publicKey(k.Key())); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzJWT(f *testing.F) {
	j := mustJWT(f, JWTOptions{
		SecretFiles: []string{mustWrite(f, "secret", testKeys.secret)}, ACLClaim: "acl", ClientIDClaim: "sub", AllowNoExpiry: true,
	})
	// What a client sends, signed as it should be, so that the claims are reached.
	for _, claims := range []string{
		`{"sub":"alice","exp":99999999999}`, `{"sub":"alice","exp":1e300}`, `{"sub":"alice","acl":{"publish":["a/%c"]}}`, `{}`, `null`, `[]`, `{"exp":-1}`,
	} {
		f.Add(`{"alg":"HS256"}`, claims)
	}
	f.Add(`{"alg":"none"}`, `{}`)
	f.Add(`{"alg":"HS256","kid":7}`, `{}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
		signature, err := jwt.SigningMethodHS256.Sign(text, testKeys.secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{text + "." + base64.RawURLEncoding.EncodeToString(signature), text + "."} {
			res, err := j.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "alice", Password: []byte(token)})
			if err != nil {
				t.Fatal(err)
			}
			var h struct {
				Alg string `json:"alg"`
			}
			if res.Decision == Accept && (json.Unmarshal([]byte(header), &h) != nil || h.Alg != "HS256" || token == text+".") {
				t.Fatalf("accepted %q %q", header, claims)
			}
			if res.Decision == Accept && res.Identity.Username != "alice" {
				t.Fatalf("accepted as %q", res.Identity.Username)
			}
		}
	})
}
