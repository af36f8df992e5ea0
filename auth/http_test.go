package auth

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// service is an HTTP service whose answers the test sets.
type service struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]

	mu   sync.Mutex
	last map[string]any // the latest question
}

func newService(t testing.TB, answer http.HandlerFunc) *service {
	s := &service{}
	s.set(answer)
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	var question map[string]any
	if err := json.NewDecoder(r.Body).Decode(&question); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	s.mu.Lock()
	s.last = question
	s.mu.Unlock()
	(*s.answer.Load())(w, r)
}

func (s *service) set(answer http.HandlerFunc) { s.answer.Store(&answer) }

func (s *service) question() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// says answers with a status and JSON.
func says(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if body != "" {
			w.Header().Set("Content-Type", "application/json")
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func mustHTTPMethod(t testing.TB, o HTTPOptions) *HTTPMethod {
	t.Helper()
	if o.Logger == nil {
		o.Logger = discard
	}
	m, err := NewHTTPMethod(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestHTTPAnswers(t *testing.T) {
	const failure = Decision(99)
	s := newService(t, nil)
	m := mustHTTPMethod(t, HTTPOptions{URL: s.URL, BreakerFailures: 1000, ResponseBytes: 1000})
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   Decision
		code   codec.ReasonCode
	}{
		{"allow", says(200, `{"result": "allow"}`), Accept, 0},
		{"allow and more", says(200, `{"result": "allow", "is_superuser": true}`), Accept, 0},
		{"deny", says(200, `{"result": "deny"}`), Reject, 0},
		{"ignore", says(200, `{"result": "ignore"}`), Next, 0},
		{"200", says(200, ""), Accept, 0},
		{"204", says(204, ""), Accept, 0},
		{"401", says(401, ""), Reject, 0},
		{"403", says(403, `{"result": "allow"}`), Reject, codec.NotAuthorized},
		{"404", says(404, "<html>"), Reject, 0},
		{"a page", says(200, "<html>Please log in</html>", "Content-Type", "text/html"), failure, 0},
		{"a page as JSON", says(200, "<html>Please log in</html>"), failure, 0},
		{"JSON of another type", says(200, `{"result": "allow"}`, "Content-Type", "text/html"), failure, 0},
		{"text", says(200, "ok", "Content-Type", "text/plain"), failure, 0},
		{"no result", says(200, `{}`), failure, 0},
		{"unknown result", says(200, `{"result": "allowed"}`), failure, 0},
		{"result of a wrong type", says(200, `{"result": true}`), failure, 0},
		{"a list", says(200, `[]`), failure, 0},
		{"too large", says(200, `{"result": "allow", "x": "`+strings.Repeat("x", 1000)+`"}`), failure, 0},
		{"500", says(500, `{"result": "allow"}`), failure, 0},
		{"429", says(429, ""), failure, 0},
		{"a redirect", says(307, "", "Location", "/other"), failure, 0},
		{"a bad acl", says(200, `{"result": "allow", "acl": {"publish": ["#/a"]}}`), failure, 0},
		{"a bad name", says(200, `{"result": "allow", "username": "a\u0000"}`), failure, 0},
		{"a bad time", says(200, `{"result": "allow", "expires_at": "soon"}`), failure, 0},
		{"a time before 1970", says(200, `{"result": "allow", "expires_at": -1}`), failure, 0},
		{"nulls", says(200, `{"result": "allow", "expires_at": null, "acl": null, "username": null}`), Accept, 0},
		{"hang up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, failure, 0},
	} {
		s.set(c.answer)
		asked := s.asked.Load()
		r := &loopmq.ConnectRequest{ClientID: "c", Username: "u", HasUsername: true, Password: []byte("p")}
		res, err := m.Authenticate(t.Context(), r)
		got := res.Decision
		if err != nil {
			got = failure
		}
		if got != c.want || res.ReasonCode != c.code || s.asked.Load() != asked+1 {
			t.Errorf("%s: got %v %v, %v after %d calls", c.name, got, res.ReasonCode, err, s.asked.Load()-asked)
		}
		if got == Accept && res.Identity.Username != "u" {
			t.Errorf("%s: %+v", c.name, res.Identity)
		}
	}
}

func TestHTTPIdentity(t *testing.T) {
	s := newService(t, says(200, `{"result": "allow", "username": "plant", "client_id": "pump/7", "expires_at": 1800000000,
		"acl": {"publish": ["a/%u/%c", "b/%u"], "subscribe": ["c/#"]}}`))
	m := mustHTTPMethod(t, HTTPOptions{URL: s.URL + "/auth?key=hidden", Header: http.Header{"Authorization": {"Bearer hidden"}}})
	r := &loopmq.ConnectRequest{
		ClientID: "c", Username: "u", HasUsername: true, Password: []byte("p"), ProtocolVersion: codec.V5, Listener: "tls",
		RemoteAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}, TLS: certificateState(t, "pump-7"),
	}
	res, err := m.Authenticate(t.Context(), r)
	if err != nil || res.Decision != Accept {
		t.Fatal(res, err)
	}
	id := res.Identity
	if id.Username != "plant" || id.ClientID != "pump/7" || id.ExpiresAt.Unix() != 1_800_000_000 {
		t.Errorf("got %+v", id)
	}
	if g := id.ACL.(*Grant); !g.Allows(loopmq.ActionPublish, "b/plant") || g.Allows(loopmq.ActionPublish, "a/plant/pump/7") || !g.Allows(loopmq.ActionSubscribe, "c/+") {
		t.Errorf("got %+v", g)
	}
	q := s.question()
	certificate, _ := q["certificate"].(map[string]any)
	if q["client_id"] != "c" || q["username"] != "u" || q["password"] != "p" || q["remote_addr"] != "192.0.2.7" || q["protocol_version"] != 5.0 ||
		q["listener"] != "tls" || certificate["common_name"] != "pump-7" || len(certificate["sha256"].(string)) != 64 {
		t.Errorf("asked %v", q)
	}
	r = &loopmq.ConnectRequest{ClientID: "d", Password: []byte{0xFF}, RemoteAddr: &net.UnixAddr{Name: "/run/x", Net: "unix"}}
	if _, err := m.Authenticate(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	q = s.question()
	if _, ok := q["username"]; ok || q["password"] != nil || q["password_base64"] != base64.StdEncoding.EncodeToString([]byte{0xFF}) || q["certificate"] != nil {
		t.Errorf("asked %v", q)
	}
	if res, err := m.Authenticate(t.Context(), &loopmq.ConnectRequest{AuthenticationMethod: "SCRAM-SHA-256"}); err != nil || res.Decision != Next {
		t.Errorf("an enhanced authentication: %v, %v", res, err)
	}
}

func TestHTTPCache(t *testing.T) {
	c := newClock()
	set := metrics.New(1)
	s := newService(t, says(200, `{"result": "allow"}`, "Cache-Control", "private, max-age=60"))
	m := mustHTTPMethod(t, HTTPOptions{URL: s.URL, Now: c.now, CacheEntries: 2, CacheMaxAge: 5 * time.Minute, Metrics: set})
	ask := func(password string, want Decision, calls int64) {
		t.Helper()
		before := s.asked.Load()
		if got := judge(t, m, "c", password).Decision; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if n := s.asked.Load() - before; n != calls {
			t.Errorf("%d calls, want %d", n, calls)
		}
	}
	ask("one", Accept, 1)
	ask("one", Accept, 0)
	c.advance(59 * time.Second)
	ask("one", Accept, 0)
	c.advance(time.Second)
	ask("one", Accept, 1)
	s.set(says(401, "", "Cache-Control", "max-age=60"))
	ask("wrong", Reject, 1)
	ask("wrong", Reject, 0)
	ask("one", Accept, 0)
	s.set(says(200, "", "Cache-Control", "max-age=60"))
	ask("three", Accept, 1) // in the place of "wrong", which was longest unused
	ask("one", Accept, 0)
	ask("wrong", Accept, 1)
	m.DropCache()
	ask("wrong", Accept, 1)
	if n := set.Auth.CacheHits[metrics.AuthHTTP].Get(); n != 5 {
		t.Errorf("%d hits, want 5", n)
	}
	for _, header := range []string{"", "no-store", "max-age=60, no-cache", "max-age=x", "max-age=-1", "max-age=99999999999"} {
		s.set(says(200, "", "Cache-Control", header))
		m.DropCache()
		ask("x", Accept, 1)
		ask("x", Accept, 1)
	}
	// No longer than this side allows, nor than the identity lasts.
	s.set(says(200, "", "Cache-Control", "max-age=3600"))
	m.DropCache()
	ask("x", Accept, 1)
	c.advance(5*time.Minute - 1)
	ask("x", Accept, 0)
	c.advance(1)
	ask("x", Accept, 1)
	s.set(says(200, fmt.Sprintf(`{"result": "allow", "expires_at": %d}`, c.now().Unix()+10), "Cache-Control", "max-age=60"))
	m.DropCache()
	ask("x", Accept, 1)
	c.advance(10 * time.Second)
	ask("x", Accept, 1)
	// A failure is never kept.
	s.set(says(500, "", "Cache-Control", "max-age=60"))
	m.DropCache()
	if _, err := m.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "c"}); err == nil {
		t.Error("no failure")
	}
	s.set(says(204, ""))
	if _, err := m.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "c"}); err != nil {
		t.Error(err)
	}
	off := mustHTTPMethod(t, HTTPOptions{URL: s.URL, CacheEntries: -1})
	s.set(says(204, "", "Cache-Control", "max-age=60"))
	for range 2 {
		before := s.asked.Load()
		judge(t, off, "c", "x")
		if s.asked.Load() != before+1 {
			t.Error("kept without a cache")
		}
	}
}

// A service that fails isn't asked for a while; what becomes of clients is configured.
func TestHTTPBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, pass := range []bool{false, true} {
			var log strings.Builder
			set := metrics.New(1)
			fail, calls := true, 0
			m := mustHTTPMethod(t, HTTPOptions{
				URL: "https://user:hidden@auth.example/a?key=hidden", BreakerFailures: 3, BreakerDelay: 10 * time.Second, PassOnFailure: pass,
				Metrics: set, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			m.caller.client.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
				if calls++; fail {
					return nil, io.ErrUnexpectedEOF
				}
				return &http.Response{StatusCode: 204, Body: http.NoBody, Header: http.Header{}}, nil
			})
			ask := func(wantCalls int, want Decision) {
				t.Helper()
				calls = 0
				res, err := m.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "c", Password: []byte("secret-password")})
				if pass && err != nil || !pass && (err != nil) != fail {
					t.Errorf("pass %v: %v", pass, err)
				}
				if err != nil && strings.Contains(err.Error(), "hidden") {
					t.Errorf("a secret in %v", err)
				}
				if calls != wantCalls || res.Decision != want {
					t.Errorf("pass %v: %d calls, %v, want %d, %v", pass, calls, res.Decision, wantCalls, want)
				}
			}
			for range 3 {
				ask(1, Next)
			}
			if set.Auth.BreakersOpen.Get() != 1 || set.Auth.BreakersOpened.Get() != 1 {
				t.Error("an open breaker isn't counted")
			}
			for range 5 {
				ask(0, Next)
			}
			time.Sleep(10*time.Second + 1) // of the bubble's clock
			ask(1, Next)                   // one try
			ask(0, Next)
			time.Sleep(10*time.Second + 1)
			fail = false
			ask(1, Accept)
			ask(1, Accept)
			if set.Auth.BreakersOpen.Get() != 0 || set.Auth.BreakersOpened.Get() != 1 {
				t.Errorf("open %d, opened %d", set.Auth.BreakersOpen.Get(), set.Auth.BreakersOpened.Get())
			}
			text := log.String()
			if strings.Contains(text, "hidden") || strings.Contains(text, "secret-password") || !strings.Contains(text, "auth_service_failed") ||
				!strings.Contains(text, "auth_service_recovered") || !strings.Contains(text, "https://auth.example/a") {
				t.Errorf("log: %s", text)
			}
		}
	})
}

// One client about which a service says nonsense doesn't keep the others out; a
// service that says that it is down is spared.
func TestHTTPBreakerCountsOutages(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		opens  bool
	}{
		{"not JSON", says(200, "x"), false},
		{"a page", says(200, "<html>", "Content-Type", "text/html"), false},
		{"no result", says(200, `{}`), false},
		{"a field of a wrong type", says(200, `{"result": "allow", "expires_at": "soon"}`), false},
		{"too large", says(200, strings.Repeat(" ", 1001)), false},
		{"400", says(400, ""), false},
		{"a redirect", says(302, "", "Location", "/other"), false},
		{"408", says(408, ""), true},
		{"429", says(429, ""), true},
		{"500", says(500, ""), true},
		{"503", says(503, ""), true},
		{"hang up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t, c.answer)
			set := metrics.New(1)
			m := mustHTTPMethod(t, HTTPOptions{URL: s.URL, BreakerFailures: 3, BreakerDelay: time.Hour, ResponseBytes: 1000, Metrics: set})
			for range 4 {
				if _, err := m.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "bad"}); err == nil {
					t.Fatal("let in")
				}
			}
			s.set(says(204, ""))
			res, err := m.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "good"})
			if opened := set.Auth.BreakersOpened.Get() > 0; opened != c.opens || (err == nil && res.Decision == Accept) == c.opens {
				t.Errorf("opened: %v, want %v; another client: %v, %v", opened, c.opens, res.Decision, err)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Calls are bounded in number and time.
func TestHTTPParallel(t *testing.T) {
	var now, most atomic.Int64
	release := make(chan struct{})
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-release
		now.Add(-1)
		w.WriteHeader(204)
	})
	m := mustHTTPMethod(t, HTTPOptions{URL: s.URL, Parallel: 3, Timeout: 20 * time.Second})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if got := judge(t, m, fmt.Sprint(i), "x").Decision; got != Accept {
				t.Errorf("got %v", got)
			}
		})
	}
	eventually(t, "three calls", func() bool { return now.Load() == 3 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Authenticate(ctx, &loopmq.ConnectRequest{ClientID: "impatient"}); err == nil {
		t.Error("a call beyond the bound went out")
	}
	close(release)
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d calls at a time, want 3", most.Load())
	}
	hanging := make(chan struct{})
	s.set(func(http.ResponseWriter, *http.Request) { <-hanging })
	defer close(hanging)
	slow := mustHTTPMethod(t, HTTPOptions{URL: s.URL, Timeout: 50 * time.Millisecond})
	if _, err := slow.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "c"}); err == nil {
		t.Error("no error of a service that hangs")
	}
}

func TestHTTPTLS(t *testing.T) {
	s := &service{}
	s.set(says(204, ""))
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	if _, err := mustHTTPMethod(t, HTTPOptions{URL: s.URL}).Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "c"}); err == nil {
		t.Error("a certificate that nobody knows was accepted")
	}
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	m := mustHTTPMethod(t, HTTPOptions{URL: s.URL, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	if got := judge(t, m, "c", "x").Decision; got != Accept {
		t.Errorf("got %v", got)
	}
}

func TestHTTPOptionErrors(t *testing.T) {
	for want, o := range map[string]HTTPOptions{
		"plain http":        {URL: "http://auth.example/?key=hidden"},
		"allowed: https":    {URL: "auth.example"},
		"can't be read":     {URL: "https://auth.example:hidden"},
		"timeout":           {URL: "https://auth.example", Timeout: -1},
		"parallel":          {URL: "https://auth.example", Parallel: -1},
		"response bytes":    {URL: "https://auth.example", ResponseBytes: -1},
		"cache max-age":     {URL: "https://auth.example", CacheMaxAge: -1},
		"breaker failures":  {URL: "https://auth.example", BreakerFailures: -1},
		"breaker delay":     {URL: "https://auth.example", BreakerDelay: -1},
		"URL \"unix:///x\"": {URL: "unix:///x"},
	} {
		if _, err := NewHTTPMethod(o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := NewHTTPRule(o); err == nil {
			t.Errorf("no error, want %q", want)
		}
	}
	for _, o := range []HTTPOptions{{URL: "http://localhost:1/x"}, {URL: "http://[::1]/x"}, {URL: "http://auth.example", AllowPlainHTTP: true}} {
		if _, err := NewHTTPMethod(o); err != nil {
			t.Error(err)
		}
	}
}

// mosquitto runs one of mosquitto's clients, and returns its output and exit code.
func mosquitto(t testing.TB, program, addr string, args ...string) (string, int) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"-h", host, "-p", port}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// A broker asks a service who a client is, and another what it may do; real clients see
// the answers.
func TestHTTPBroker(t *testing.T) {
	who := newService(t, nil)
	who.set(func(w http.ResponseWriter, r *http.Request) {
		q := who.question()
		if q["username"] == "alice" && q["password"] == "right" {
			says(200, `{"result": "allow", "username": "alice@example"}`)(w, r)
			return
		}
		w.WriteHeader(401)
	})
	what := newService(t, nil)
	what.set(func(w http.ResponseWriter, r *http.Request) {
		q := what.question()
		ok := q["username"] == "alice@example" && q["remote_addr"] == "127.0.0.1"
		switch q["action"] {
		case "publish":
			ok = ok && q["topic"] == "in/a" && q["qos"] == 1.0
		case "subscribe":
			ok = ok && q["topic"] == "out/#"
		case "deliver":
			ok = ok && q["topic"] != "out/secret"
		}
		if !ok {
			w.WriteHeader(403)
			return
		}
		says(200, `{"result": "allow"}`, "Cache-Control", "max-age=60")(w, r)
	})
	set := metrics.New(1)
	method := mustHTTPMethod(t, HTTPOptions{URL: who.URL, Metrics: set})
	rule, err := NewHTTPRule(HTTPOptions{URL: what.URL, Metrics: set, Deliveries: true, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rule.Close)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = NewChain(Options{Metrics: set, Logger: discard}, Step{Method: method})
		o.Authorizer = NewRules(RulesOptions{Metrics: set, Logger: discard}, Claims{}, rule)
	})
	for _, version := range []string{"mqttv311", "mqttv5"} {
		if out, code := mosquitto(t, "mosquitto_pub", s.Addr, "-V", version, "-u", "alice", "-P", "wrong", "-t", "in/a", "-m", "x"); code == 0 {
			t.Errorf("%s: a wrong password: %s", version, out)
		}
		if out, code := mosquitto(t, "mosquitto_pub", s.Addr, "-V", version, "-i", "pump", "-u", "alice", "-P", "right", "-t", "in/a", "-m", "x", "-q", "1"); code != 0 || out != "" {
			t.Errorf("%s: %s", version, out)
		}
	}
	if out, _ := mosquitto(t, "mosquitto_pub", s.Addr, "-V", "mqttv5", "-u", "alice", "-P", "right", "-t", "in/b", "-m", "x", "-q", "1"); !strings.Contains(out, "Not authorized") {
		t.Errorf("publish to another topic: %q", out)
	}
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("sub"), brokertest.Credentials("alice", "right"))
	c.Subscribe("out/#", 1)
	refuseSubscribe(c, "#")
	for _, topic := range []string{"out/secret", "out/x"} {
		if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: topic, Payload: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	c.ExpectPublish("out/x", "x") // and not the other
	if n := set.Auth.Decisions[metrics.AuthHTTP][metrics.AuthRejected].Get(); n != 2 {
		t.Errorf("%d rejections, want 2", n)
	}
	// Each delivery is judged by itself: the other one's answer may come later.
	eventually(t, "three rejections", func() bool { return set.Auth.Decisions[metrics.AuthHTTPACL][metrics.AuthRejected].Get() == 3 })
	if set.Auth.CacheHits[metrics.AuthHTTPACL].Get() == 0 {
		t.Error("the second publisher's right was asked for again")
	}
}

// refuseSubscribe subscribes, and expects to be refused.
func refuseSubscribe(c *brokertest.Client, topicFilter string) {
	id := c.PacketID()
	c.Send(&codec.Subscribe{PacketID: id, Subscriptions: []codec.Subscription{brokertest.Subscription(topicFilter, 0)}})
	c.ExpectSuback(id, codec.NotAuthorized)
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(200, "application/json", []byte(`{"result": "allow", "username": "u", "client_id": "c", "expires_at": "2026-12-31T00:00:00Z", "acl": {"publish": ["a/%c"]}}`))
	f.Add(200, "application/json; charset=utf-8", []byte(`{"result": "deny", "expires_at": 1e3}`))
	f.Add(204, "", []byte(nil))
	f.Add(200, "text/html", []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		a, err := readAnswer[identified](status, contentType, body)
		if err == nil && a.decision == Accept && status != 200 && status != 204 {
			t.Fatalf("%d lets a client in", status)
		}
		if err != nil || len(a.body.ACL) == 0 || string(a.body.ACL) == "null" {
			return
		}
		if g, err := parseGrant(a.body.ACL, "c/#", "u"); err == nil {
			for _, filter := range append(g.publish, g.subscribe...) {
				if strings.Contains(filter, "c/#") && !strings.Contains(string(body), "c/#") {
					t.Fatalf("the Client Identifier became a part of %q", filter)
				}
			}
		}
	})
}
