package httpbridge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/metrics"
)

type state struct {
	Status      string `json:"status"`
	Connections int    `json:"connections"`
}

// fixture is an Admin on a port of its own. Its handlers say what the fields say.
type fixture struct {
	*Admin
	addr        string
	set         *metrics.Set
	broker      atomic.Pointer[loopmq.Broker]
	ready, live atomic.Pointer[error]
	log         *syncBuffer
}

// syncBuffer is text that may be written and read at the same time.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func load(p *atomic.Pointer[error]) error {
	if err := p.Load(); err != nil {
		return *err
	}
	return nil
}

func mustStart(t *testing.T, change func(*Admin)) *fixture {
	t.Helper()
	return mustStartWith(t, nil, change)
}

func mustStartWith(t *testing.T, options func(*AdminOptions), change func(*Admin)) *fixture {
	t.Helper()
	f := &fixture{set: metrics.New(2), log: &syncBuffer{}}
	o := AdminOptions{
		Metrics: f.set,
		Health:  func() any { return state{"ok", 3} },
		Ready:   func() error { return load(&f.ready) },
		Live:    func() error { return load(&f.live) },
		Broker:  f.broker.Load,
		Logger:  slog.New(slog.NewTextHandler(f.log, nil)),
	}
	if options != nil {
		options(&o)
	}
	f.Admin = NewAdmin(o)
	if change != nil {
		change(f.Admin)
	}
	addr, err := f.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = addr.String()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		_ = f.Shutdown(ctx) // Open connections of the test are cut off.
		for line := range strings.Lines(f.log.String()) {
			if !strings.Contains(line, "msg=admin_write") && !strings.Contains(line, "msg=admin_refused") {
				t.Errorf("logged: %s", line)
			}
		}
	})
	return f
}

func (f *fixture) do(t *testing.T, method, path string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	// No connection outlives its request, so that none delays the Shutdown.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func (f *fixture) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func checkProblem(t *testing.T, resp *http.Response, body string, status int) {
	t.Helper()
	if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s, %s, want %d and a problem", resp.Status, resp.Header.Get("Content-Type"), status)
	}
	var p problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
	if p.Status != status || p.Title != http.StatusText(status) || p.Detail == "" {
		t.Errorf("got %+v", p)
	}
}

func TestAdminPaths(t *testing.T) {
	f := mustStart(t, nil)
	f.set.Loop(1).MessagesAcked.Add(41)
	for _, c := range []struct{ path, contentType, want string }{
		{"/metrics", "text/plain; version=0.0.4; charset=utf-8", "\nloopmq_messages_acked_total 41\n"},
		{"/livez", "text/plain; charset=utf-8", "ok\n"},
		{"/readyz", "text/plain; charset=utf-8", "ok\n"},
		{"/readyz?verbose", "text/plain; charset=utf-8", "ok\n"},
		{"/health", "application/json", `{"status":"ok","connections":3}` + "\n"},
	} {
		resp, body := f.do(t, "GET", c.path)
		if resp.StatusCode != 200 || !strings.Contains(body, c.want) {
			t.Errorf("GET %s: %s %q, want 200 and %q", c.path, resp.Status, body, c.want)
		}
		if got := resp.Header.Get("Content-Type"); got != c.contentType {
			t.Errorf("GET %s: Content-Type %q, want %q", c.path, got, c.contentType)
		}
		if got := resp.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("GET %s: Cache-Control %q", c.path, got)
		}
		resp, body = f.do(t, "HEAD", c.path)
		if resp.StatusCode != 200 || body != "" || resp.Header.Get("Content-Type") != c.contentType {
			t.Errorf("HEAD %s: %s %q %v, want as GET without body", c.path, resp.Status, body, resp.Header)
		}
	}
}

func TestAdminUnknownPath(t *testing.T) {
	f := mustStart(t, nil)
	for _, path := range []string{"/", "/metrics/", "//metrics", "/Metrics", "/debug/pprof/", "/..%2fetc/passwd", "/%00"} {
		for _, method := range []string{"GET", "POST"} {
			resp, body := f.do(t, method, path)
			checkProblem(t, resp, body, 404)
		}
	}
}

func TestAdminWrongMethod(t *testing.T) {
	f := mustStart(t, nil)
	for _, path := range []string{"/metrics", "/livez", "/readyz", "/health"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE"} {
			resp, body := f.do(t, method, path)
			checkProblem(t, resp, body, 405)
			if got := resp.Header.Get("Allow"); got != "GET, HEAD" {
				t.Errorf("%s %s: Allow %q", method, path, got)
			}
		}
	}
}

func TestAdminNotReadyNotLive(t *testing.T) {
	f := mustStart(t, nil)
	reason := errors.New("shutting down")
	f.ready.Store(&reason)
	resp, body := f.do(t, "GET", "/readyz")
	checkProblem(t, resp, body, 503)
	if !strings.Contains(body, "shutting down") {
		t.Errorf("body %q doesn't say why", body)
	}
	if resp, body = f.do(t, "GET", "/health"); resp.StatusCode != 503 || !strings.Contains(body, `"connections":3`) {
		t.Errorf("/health: %s %q, want 503 with the state", resp.Status, body)
	}
	if resp, _ = f.do(t, "GET", "/livez"); resp.StatusCode != 200 {
		t.Errorf("/livez: %s, want 200: not ready is no reason to restart", resp.Status)
	}
	f.live.Store(&reason)
	resp, body = f.do(t, "GET", "/livez")
	checkProblem(t, resp, body, 503)
}

func TestAdminDefaults(t *testing.T) {
	a := NewAdmin(AdminOptions{Metrics: metrics.New(1), Health: func() any { return nil }})
	for _, path := range []string{"/readyz", "/livez", "/health"} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost"+path, nil))
		if w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestAdminHealthThatIsNoJSON(t *testing.T) {
	f := mustStart(t, func(a *Admin) {
		a.opts.Health = func() any { return func() {} }
		a.log = slog.New(slog.DiscardHandler)
	})
	resp, body := f.do(t, "GET", "/health")
	checkProblem(t, resp, body, 500)
}

func TestAdminGarbage(t *testing.T) {
	f := mustStart(t, nil)
	for name, input := range map[string]string{
		"MQTT CONNECT":     "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test",
		"not HTTP":         "hello\r\n\r\n",
		"binary":           "\x00\xff\x00\xff\r\n\r\n",
		"HTTP version":     "GET /livez HTTP/9.9\r\n\r\n",
		"no Host":          "GET /livez HTTP/1.1\r\n\r\n",
		"bad header":       "GET /livez HTTP/1.1\r\nHost: localhost\r\n bad\r\n\r\n",
		"header too large": "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
	} {
		c := f.dial(t)
		// The server may answer and close before it has taken everything.
		_, _ = io.WriteString(c, input)
		if w, ok := c.(*net.TCPConn); ok {
			_ = w.CloseWrite()
		}
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			if resp.StatusCode < 400 {
				t.Errorf("%s: answered %s", name, resp.Status)
			}
			resp.Body.Close()
		}
	}
	if resp, _ := f.do(t, "GET", "/livez"); resp.StatusCode != 200 {
		t.Errorf("after garbage: %s", resp.Status)
	}
}

// A client that doesn't finish its header loses the connection, and so does one
// that is idle.
func TestAdminSlowClient(t *testing.T) {
	f := mustStart(t, func(a *Admin) {
		a.server.ReadHeaderTimeout = 50 * time.Millisecond
		a.server.IdleTimeout = 50 * time.Millisecond
	})
	for _, sent := range []string{"", "GET /livez HT", "GET /livez HTTP/1.1\r\nHost: localhost\r\nX", "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"} {
		c := f.dial(t)
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("after %q: %v, want the end of the connection", sent, err)
		}
	}
}

// The timeouts that a real server has: the test above replaces them.
func TestAdminHasAllLimits(t *testing.T) {
	s := NewAdmin(AdminOptions{}).server
	for name, d := range map[string]time.Duration{
		"ReadHeaderTimeout": s.ReadHeaderTimeout, "ReadTimeout": s.ReadTimeout,
		"WriteTimeout": s.WriteTimeout, "IdleTimeout": s.IdleTimeout,
	} {
		if d <= 0 || d > time.Minute {
			t.Errorf("%s is %v", name, d)
		}
	}
	if s.MaxHeaderBytes <= 0 || s.MaxHeaderBytes > 64<<10 {
		t.Errorf("MaxHeaderBytes is %d", s.MaxHeaderBytes)
	}
}

// With all connections taken, the next one waits until one ends.
func TestAdminConnectionLimit(t *testing.T) {
	f := mustStart(t, nil)
	const request = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
	var held []net.Conn
	for range adminConnectionsMax {
		c := f.dial(t)
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	extra := f.dial(t)
	if _, err := io.WriteString(extra, request); err != nil {
		t.Fatal(err)
	}
	if err := extra.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := extra.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("connection %d was served: %d bytes, %v", adminConnectionsMax+1, n, err)
	}
	if err := extra.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	held[0].Close()
	if resp, err := http.ReadResponse(bufio.NewReader(extra), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("after one ended: %v, %v", resp, err)
	}
}

func TestAdminPortTaken(t *testing.T) {
	f := mustStart(t, nil)
	_, err := NewAdmin(AdminOptions{}).Start(f.addr)
	if err == nil || !strings.Contains(err.Error(), f.addr) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v, want one that names %s and says that it is in use", err, f.addr)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("error of several lines: %v", err)
	}
}

func TestAdminShutdown(t *testing.T) {
	f := mustStart(t, nil)
	f.do(t, "GET", "/livez")
	if err := f.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", f.addr); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

// A request that is being answered is finished; after the time allowed it is cut off.
func TestAdminShutdownWithRequestUnderWay(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("cut=%v", cut), func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			f := mustStart(t, func(a *Admin) {
				a.opts.Health = func() any { close(asked); <-answer; return "done" }
			})
			c := f.dial(t)
			if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			<-asked
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if cut {
				cancel()
			}
			ended := make(chan error, 1)
			go func() { ended <- f.Shutdown(ctx) }()
			if cut {
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("Shutdown: %v, want the error of its context", err)
				}
				close(answer)
				if b, _ := io.ReadAll(c); len(b) > 0 {
					t.Errorf("got %q, want nothing", b)
				}
				return
			}
			close(answer)
			if b, _ := io.ReadAll(c); !strings.HasSuffix(string(b), "\"done\"\n") {
				t.Errorf("got %q, want the answer", b)
			}
			if err := <-ended; err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
	}
}

func TestAdminScrapeWhileLoopsCount(t *testing.T) {
	f := mustStart(t, nil)
	stop := make(chan struct{})
	var loops, scrapers sync.WaitGroup
	for i := range 2 {
		loops.Go(func() {
			l := f.set.Loop(i)
			for {
				select {
				case <-stop:
					return
				default:
					l.PacketsReceived[3].Inc()
					l.MessagesDropped[0][metrics.DropOffline].Inc()
				}
			}
		})
	}
	for range 4 {
		scrapers.Go(func() {
			for range 5 {
				if resp, body := f.do(t, "GET", "/metrics"); resp.StatusCode != 200 || !strings.Contains(body, "\ngo_goroutines ") {
					t.Errorf("%s, %d bytes", resp.Status, len(body))
				}
			}
		})
	}
	scrapers.Wait()
	close(stop)
	loops.Wait()
}
