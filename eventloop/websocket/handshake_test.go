package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"loopmq/metrics"
)

// request is one that a browser could send, with lines changed or added.
func request(lines ...string) string {
	r := []string{
		"GET /mqtt HTTP/1.1", "Host: broker.example.com:8083", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: mqtt",
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		added := false
		for i := range r {
			if strings.HasPrefix(r[i], name+":") || i == 0 && strings.Contains(line, " HTTP/") {
				r[i], added = line, true
				if value == "" && i > 0 {
					r[i] = "X-Removed: 1"
				}
				break
			}
		}
		if !added {
			r = append(r, line)
		}
	}
	return strings.Join(r, "\r\n") + "\r\n\r\n"
}

func mustHandshake(t testing.TB, o Options) *Handshake {
	t.Helper()
	h, err := NewHandshake(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var peer = netip.MustParseAddr("192.0.2.1")

func TestAnswer(t *testing.T) {
	h := mustHandshake(t, Options{})
	for _, test := range []struct{ offered, chosen string }{
		{"Sec-WebSocket-Protocol: mqtt", "mqtt"},
		{"Sec-WebSocket-Protocol: mqttv3.1", "mqttv3.1"},
		{"Sec-WebSocket-Protocol: mqttv3.1, mqtt", "mqtt"},
		{"Sec-WebSocket-Protocol: other, mqttv3.1", "mqttv3.1"},
		{"Sec-WebSocket-Protocol:", ""},
	} {
		r, err := h.Answer([]byte(request(test.offered)), peer)
		if err != nil {
			t.Errorf("%s: %v", test.offered, err)
			continue
		}
		response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(r.Response)), nil)
		if err != nil || response.StatusCode != 101 {
			t.Fatalf("got %q, %v", r.Response, err)
		}
		if got := response.Header.Get("Sec-WebSocket-Protocol"); got != test.chosen { // [MQTT-6.0.0-4]
			t.Errorf("%s: got %q, want %q", test.offered, got, test.chosen)
		}
		if got := response.Header.Get("Sec-WebSocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // of RFC 6455, 1.3
			t.Errorf("accept is %q", got)
		}
		if r.Client.IsValid() {
			t.Errorf("client is %v", r.Client)
		}
	}
}

func TestAnswerRefuses(t *testing.T) {
	h := mustHandshake(t, Options{})
	for _, test := range []struct {
		name, request string
		reason        metrics.RefuseReason
		status        int
	}{
		{"garbage", "\x10\x1E\x00\x04MQTT\r\n\r\n", metrics.RefuseWebSocketRequest, 400},
		{"a bad header", "GET /mqtt HTTP/1.1\r\nno colon\r\n\r\n", metrics.RefuseWebSocketRequest, 400},
		{"HTTP/1.0", request("GET /mqtt HTTP/1.0"), metrics.RefuseWebSocketRequest, 400},
		{"POST", request("POST /mqtt HTTP/1.1"), metrics.RefuseWebSocketRequest, 405},
		{"no upgrade", request("Upgrade:"), metrics.RefuseWebSocketRequest, 400},
		{"no connection", request("Connection: close"), metrics.RefuseWebSocketRequest, 400},
		{"version 8", request("Sec-WebSocket-Version: 8"), metrics.RefuseWebSocketRequest, 400},
		{"no key", request("Sec-WebSocket-Key:"), metrics.RefuseWebSocketRequest, 400},
		{"a short key", request("Sec-WebSocket-Key: AAAA"), metrics.RefuseWebSocketRequest, 400},
		{"a body", request("Content-Length: 3"), metrics.RefuseWebSocketRequest, 400},
		{"a chunked body", request("Transfer-Encoding: chunked"), metrics.RefuseWebSocketRequest, 400},
		{"another path", request("GET / HTTP/1.1"), metrics.RefuseWebSocketPath, 404},
		{"a longer path", request("GET /mqtt/x HTTP/1.1"), metrics.RefuseWebSocketPath, 404},
		{"other subprotocols", request("Sec-WebSocket-Protocol: chat, stomp"), metrics.RefuseWebSocketSubprotocol, 400},
		{"another origin", request("Origin: https://evil.example.com"), metrics.RefuseWebSocketOrigin, 403},
	} {
		_, err := h.Answer([]byte(test.request), peer)
		var e *RefusedError
		if !errors.As(err, &e) || e.Reason != test.reason || e.Status != test.status {
			t.Errorf("%s: got %#v", test.name, err)
			continue
		}
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(e.Response())), nil)
		if err != nil || r.StatusCode != test.status || !r.Close {
			t.Errorf("%s: got %q, %v", test.name, e.Response(), err)
			continue
		}
		if text, _ := io.ReadAll(r.Body); string(text) != e.text+"\n" {
			t.Errorf("%s: got %q", test.name, text)
		}
	}
}

func TestPath(t *testing.T) {
	for _, test := range []struct {
		path, request string
		found         bool
	}{
		{"/ws", "/ws", true}, {"/ws", "/mqtt", false}, {"", "/mqtt?token=x", true}, {"*", "/anything", true}, {"/a b", "/a%20b", true},
	} {
		_, err := mustHandshake(t, Options{Path: test.path}).Answer([]byte(request("GET "+test.request+" HTTP/1.1")), peer)
		if (err == nil) != test.found {
			t.Errorf("%q at %q: got %v", test.request, test.path, err)
		}
	}
}

func TestOrigins(t *testing.T) {
	for _, test := range []struct {
		allowed string // separated by spaces
		origin  string
		may     bool
	}{
		{"", "", true},
		{"", "http://broker.example.com:8083", true},
		{"", "http://broker.example.com", false},
		{"", "null", false},
		{"", "http://[", false},
		{"https://app.example.com", "", true},
		{"https://app.example.com", "https://app.example.com", true},
		{"https://app.example.com", "https://APP.example.com", true},
		{"https://app.example.com", "http://app.example.com", false},
		{"https://app.example.com", "https://app.example.com:444", false},
		{"https://app.example.com", "https://app.example.com.evil.org", false},
		{"https://app.example.com", "http://broker.example.com:8083", false},
		{"http://a http://b:3000", "http://b:3000", true},
		{"https://*.example.com", "https://a.b.example.com", true},
		{"https://*.example.com", "https://example.com", false},
		{"https://*.example.com", "https://.example.com", false},
		{"https://*.example.com", "https://evilexample.com", false},
		{"https://*.example.com:8443", "https://a.example.com:8443", true},
		{"null", "null", true},
		{"null", "", true},
		{"null", "https://null", false},
		{"*", "https://any.where", true},
		{"*", "null", true},
	} {
		h := mustHandshake(t, Options{Origins: strings.Fields(test.allowed)})
		var lines []string
		if test.origin != "" {
			lines = append(lines, "Origin: "+test.origin)
		}
		if _, err := h.Answer([]byte(request(lines...)), peer); (err == nil) != test.may {
			t.Errorf("origin %q, allowed %q: got %v", test.origin, test.allowed, err)
		}
	}
	h := mustHandshake(t, Options{Origins: []string{"https://a.example.com"}})
	two := strings.Replace(request("Origin: https://a.example.com"), "\r\n\r\n", "\r\nOrigin: https://b.example.com\r\n\r\n", 1)
	if _, err := h.Answer([]byte(two), peer); err == nil {
		t.Error("two origins are accepted")
	}
}

// A page whose name somebody makes lead to 127.0.0.1 comes from the host that it
// connects to, but may not connect to a broker on the machine of who looks at it.
func TestRebinding(t *testing.T) {
	for _, test := range []struct {
		host, peer string
		may        bool
	}{
		{"evil.example.com:8083", "127.0.0.1", false},
		{"evil.example.com:8083", "::1", false},
		{"evil.example.com:8083", "::ffff:127.0.0.1", false},
		{"localhost.example.com:8083", "127.0.0.1", false},
		{"10.0.0.1:8083", "127.0.0.1", false},
		{"localhost:8083", "127.0.0.1", true},
		{"LocalHost", "127.0.0.1", true},
		{"app.localhost:8083", "127.0.0.1", true},
		{"127.0.0.1:8083", "127.0.0.1", true},
		{"[::1]:8083", "::1", true},
		{"broker.example.com:8083", "192.0.2.1", true},
		{"broker.example.com", "127.0.0.9", true}, // a forwarder
	} {
		h := mustHandshake(t, Options{Forwarders: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}})
		if _, err := h.Answer([]byte(request("Host: "+test.host, "Origin: http://"+test.host)), netip.MustParseAddr(test.peer)); (err == nil) != test.may {
			t.Errorf("%s from %s: got %v", test.host, test.peer, err)
		}
		if _, err := h.Answer([]byte(request("Host: "+test.host)), netip.MustParseAddr(test.peer)); err != nil {
			t.Errorf("%s from %s, no page: got %v", test.host, test.peer, err)
		}
	}
}

func TestForwardedFor(t *testing.T) {
	for _, test := range []struct{ forwarders, peer, header, want string }{
		{"", "10.0.0.1", "203.0.113.5", ""},
		{"10.0.0.0/8", "192.0.2.1", "203.0.113.5", ""},
		{"10.0.0.0/8", "10.0.0.1", "", ""},
		{"10.0.0.0/8", "10.0.0.1", "203.0.113.5", "203.0.113.5:0"},
		{"10.0.0.0/8", "::ffff:10.0.0.1", "203.0.113.5", "203.0.113.5:0"},
		{"10.0.0.0/8", "10.0.0.1", "203.0.113.5:4711", "203.0.113.5:4711"},
		{"10.0.0.0/8", "10.0.0.1", "2001:db8::1", "[2001:db8::1]:0"},
		{"10.0.0.0/8", "10.0.0.1", "[2001:db8::1]:99", "[2001:db8::1]:99"},
		{"10.0.0.0/8", "10.0.0.1", "[2001:db8::1]", "[2001:db8::1]:0"},
		{"10.0.0.0/8", "10.0.0.1", "::ffff:203.0.113.5", "203.0.113.5:0"},
		{"10.0.0.0/8", "10.0.0.1", "6.6.6.6, 203.0.113.5", "203.0.113.5:0"},                     // the client lied
		{"10.0.0.0/8", "10.0.0.1", "6.6.6.6, 203.0.113.5, 10.0.0.2", "203.0.113.5:0"},           // two forwarders
		{"10.0.0.0/8", "10.0.0.1", "6.6.6.6|203.0.113.5, 10.0.0.2", "10.0.0.2:0"},               // not an address
		{"10.0.0.0/8", "10.0.0.1", "unknown", ""},                                               //
		{"10.0.0.0/8", "10.0.0.1", "10.0.0.3", "10.0.0.3:0"},                                    // one of the network itself
		{"10.0.0.0/8 fd00::/8", "fd00::1", "203.0.113.5,10.0.0.2", "203.0.113.5:0"},             //
		{"10.0.0.0/8", "10.0.0.1", "203.0.113.5\r\nX-Forwarded-For: 10.1.1.1", "203.0.113.5:0"}, // two lines
	} {
		var o Options
		for p := range strings.FieldsSeq(test.forwarders) {
			o.Forwarders = append(o.Forwarders, netip.MustParsePrefix(p))
		}
		r, err := mustHandshake(t, o).Answer([]byte(request("X-Forwarded-For: "+test.header)), netip.MustParseAddr(test.peer))
		got := ""
		if r.Client.IsValid() {
			got = r.Client.String()
		}
		if err != nil || got != test.want {
			t.Errorf("%q from %s: got %q, %v; want %q", test.header, test.peer, got, err, test.want)
		}
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	for _, o := range []Options{
		{Path: "mqtt"},
		{Origins: []string{"app.example.com"}},
		{Origins: []string{"https://a/path"}},
		{Origins: []string{"https://a.*.com"}},
		{Origins: []string{"https://*"}},
		{Origins: []string{"https://*a.com"}},
		{Origins: []string{""}},
		{Origins: []string{"http://u@a"}},
		{Origins: []string{"http://%"}},
	} {
		if _, err := NewHandshake(o); err == nil || !strings.Contains(err.Error(), "allowed:") {
			t.Errorf("%+v: got %v", o, err)
		}
	}
}

func TestEnd(t *testing.T) {
	for b, want := range map[string]int{"": 0, "a\r\n\r": 0, "a\r\n\r\n": 5, "a\r\n\r\nframe": 5, "\r\n\r\n\r\n\r\n": 4} {
		if got := End([]byte(b)); got != want {
			t.Errorf("%q: got %d, want %d", b, got, want)
		}
	}
}

// FuzzAnswer holds that any request gets an answer: a switch of protocols or an HTTP error.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(request()))
	f.Add([]byte(request("Origin: https://a.example.com", "X-Forwarded-For: 1.2.3.4, 10.0.0.1")))
	f.Add([]byte(request("GET /mqtt HTTP/1.0")))
	f.Add([]byte("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"))
	h, err := NewHandshake(Options{Origins: []string{"https://*.example.com"}, Forwarders: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := End(b)
		r, err := h.Answer(b[:n], peer)
		response := r.Response
		var e *RefusedError
		if err != nil {
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			response = e.Response()
		}
		parsed, readErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(response)), nil)
		if readErr != nil || (parsed.StatusCode == 101) != (err == nil) || err != nil && parsed.StatusCode != e.Status {
			t.Fatalf("got %q, %v, for %v", response, readErr, err)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	h := mustHandshake(b, Options{})
	head := []byte(request("Origin: http://broker.example.com:8083"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Answer(head, peer); err != nil {
			b.Fatal(err)
		}
	}
}
