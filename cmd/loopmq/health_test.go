package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthOfABroker(t *testing.T) {
	p := mustServe(t)
	t.Setenv("http_proxy", "http://127.0.0.1:1") // Isn't asked.
	if code, stdout, stderr := execute(t, "health", "--admin", p.admin); code != 0 || stdout != "ok\n" || stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	_, port, err := net.SplitHostPort(p.admin)
	if err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := call(t, "health", "--admin=:"+port); code != 0 || stdout != "ok\n" || stderr != "" {
		t.Errorf("without a host: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// What isn't ready, isn't there, or isn't a broker is one line and exit code 1.
func TestHealthSaysWhyNot(t *testing.T) {
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				status = http.StatusOK
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	for address, want := range map[string]string{
		answer(503, `{"status":503,"detail":"starting"}`): ": /readyz: 503 Service Unavailable: starting\n",
		answer(404, "no such page"):                       ": /readyz: 404 Not Found: \n",
		gone.Listener.Addr().String():                     "connection refused\n",
	} {
		code, stdout, stderr := call(t, "health", "--admin", address)
		if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "loopmq: health: "+address+": ") || !strings.HasSuffix(stderr, want) {
			t.Errorf("exit %d, stdout %q, stderr %q, want %q", code, stdout, stderr, want)
		}
	}
}

// Who asks in the wrong way hears of the right one.
func TestHealthByTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	address := s.Listener.Addr().String()
	for asked, want := range map[string]string{
		address:              "it speaks TLS: --admin https://" + address + "\n",
		"https://" + address: ": --ca FILE says whose certificates to believe\n",
		"https://" + plain.Listener.Addr().String(): "server gave HTTP response to HTTPS client\n",
	} {
		if code, stdout, stderr := call(t, "health", "--admin", asked); code != 1 || stdout != "" || !strings.HasSuffix(stderr, want) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q, want %q", asked, code, stdout, stderr, want)
		}
	}
}

func TestHealthCommandLine(t *testing.T) {
	for _, args := range [][]string{{"health", "--help"}, {"help", "health"}} {
		if code, stdout, stderr := call(t, args...); code != 0 || stdout != healthUsage || stderr != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
	for args, want := range map[string]string{
		"health --admin off":     `--admin "off": allowed: host:port`,
		"health --admin 8081":    `--admin "8081": allowed: host:port`,
		"health --admin":         `admin`,
		"health --port 1":        `-port`,
		"health 127.0.0.1:8081":  `argument "127.0.0.1:8081": allowed: --admin host:port`,
		"health --admin :1 more": `argument "more"`,
	} {
		code, stdout, stderr := call(t, strings.Fields(args)...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, "loopmq: health: ") || !strings.Contains(stderr, want) ||
			strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, stdout %q, stderr %q, want %q", args, code, stdout, stderr, want)
		}
	}
}
