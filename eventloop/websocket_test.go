package eventloop

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"

	"loopmq/eventloop/websocket"
	"loopmq/metrics"
)

// mustStartWebSocket starts an engine with a listener for WebSocket.
func mustStartWebSocket(t testing.TB, cfg Config, o websocket.Options, change ...func(*Listener)) (*Engine, string) {
	t.Helper()
	h, err := websocket.NewHandshake(o)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	e, _ := mustStart(t, cfg)
	l := Listener{Address: "127.0.0.1:0", WebSocket: &WebSocket{Handshake: h, MaxFrame: 1 << 20}}
	for _, f := range change {
		f(&l)
	}
	addr, err := e.Listen(l)
	if err != nil {
		t.Fatal(err)
	}
	return e, addr.String()
}

func mustDialWebSocket(t testing.TB, addr string) *gorilla.Conn {
	t.Helper()
	c, r, err := (&gorilla.Dialer{Subprotocols: []string{"mqtt"}}).DialContext(t.Context(), "ws://"+addr+"/mqtt", nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	return c
}

// stream is the binary frames of a gorilla client as a stream.
type stream struct {
	*gorilla.Conn
	rest   []byte
	frames int
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		kind, b, err := s.ReadMessage()
		if err != nil {
			return 0, err
		}
		if kind != gorilla.BinaryMessage {
			return 0, fmt.Errorf("message of kind %d", kind)
		}
		s.rest = b
		s.frames++
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

const testRequest = "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

// mustUpgrade makes the handshake by hand, with first behind the request, and returns what reads behind the answer.
func mustUpgrade(t testing.TB, nc net.Conn, first string) *bufio.Reader {
	t.Helper()
	if _, err := nc.Write([]byte(testRequest + first)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(nc)
	mustBeUpgraded(t, r)
	return r
}

func mustBeUpgraded(t testing.TB, r *bufio.Reader) {
	t.Helper()
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %+v, %v", response, err)
	}
}

// masked is a frame with a mask of zeros.
func masked(first byte, payload string) string {
	b := websocket.AppendHeader(nil, len(payload))
	b[0], b[1] = first, b[1]|0x80
	return string(b) + "\x00\x00\x00\x00" + payload
}

func unmasked(payload string) string {
	return string(websocket.AppendHeader(nil, len(payload))) + payload
}

func TestWebSocket_Echo(t *testing.T) {
	_, addr := mustStartWebSocket(t, Config{Loops: 2, Handler: &handler{data: echo}}, websocket.Options{})
	random := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, size := range []int{1, 125, 126, 65535, 65536, 1 << 20} {
		c := &stream{Conn: mustDialWebSocket(t, addr)}
		if c.Subprotocol() != "mqtt" {
			t.Fatalf("subprotocol %q", c.Subprotocol())
		}
		go func() {
			_ = c.WriteMessage(gorilla.BinaryMessage, random[:size])
			w, _ := c.NextWriter(gorilla.BinaryMessage)
			for p := random[:size]; len(p) > 0; {
				n := min(len(p), 1+size/3)
				_, _ = w.Write(p[:n])
				p = p[n:]
			}
			_ = w.Close()
		}()
		mustRead(t, c, string(random[:size])+string(random[:size]))
	}
}

// Each byte comes alone, of the request too; and a whole conversation comes at once.
func TestWebSocket_Pieces(t *testing.T) {
	_, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: &handler{data: echo}}, websocket.Options{})
	sent := masked(0x02, "ab") + masked(0x89, "ping") + masked(0x80, "cd") + masked(0x82, "ef") + masked(0x88, "\x03\xE8bye")
	c := mustDial(t, addr)
	for i := range len(testRequest) {
		_, _ = c.Write([]byte(testRequest[i : i+1]))
	}
	r := bufio.NewReader(c)
	mustBeUpgraded(t, r)
	_ = c.SetNoDelay(true)
	var echoed bytes.Buffer
	for i := range len(sent) {
		_, _ = c.Write([]byte(sent[i : i+1]))
	}
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(all, []byte("\x8A\x04ping")) || !bytes.HasSuffix(all, []byte("\x88\x02\x03\xE8")) {
		t.Fatalf("got %q", all)
	}
	for b := bytes.Replace(all, []byte("\x8A\x04ping"), nil, 1); len(b) > 0 && b[0] == 0x82; b = b[2+b[1]:] {
		echoed.Write(b[2 : 2+b[1]])
	}
	if echoed.String() != "abcdef" {
		t.Fatalf("got %q, echo %q", all, &echoed)
	}

	r = mustUpgrade(t, mustDial(t, addr), sent)
	mustRead(t, r, unmasked("abcdef")+"\x8A\x04ping\x88\x02\x03\xE8")
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("behind the Close frame: %v", err)
	}
}

// What is written in a turn leaves as one frame.
func TestWebSocket_OneFramePerFlush(t *testing.T) {
	conns := make(chan *Conn, 1)
	e, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: &handler{open: func(c *Conn) { conns <- c }}}, websocket.Options{})
	client := &stream{Conn: mustDialWebSocket(t, addr)}
	c := receive(t, "OnOpen", conns)
	var before uint64
	onLoop(c.Loop(), func() { before = e.Stats().Writes }) // the answer to the request is counted
	onLoop(c.Loop(), func() {
		for range 100 {
			c.EndWrite(append(c.BeginWrite(), "0123456789"...))
		}
	})
	mustRead(t, client, strings.Repeat("0123456789", 100))
	onLoop(c.Loop(), func() {}) // the write is counted
	if client.frames != 1 || e.Stats().Writes != before+1 {
		t.Errorf("%d frames, %d writes", client.frames, e.Stats().Writes-before)
	}
}

func TestWebSocket_Refused(t *testing.T) {
	for _, test := range []struct {
		name, sent string
		status     int
		reason     metrics.RefuseReason
	}{
		{"an MQTT packet", "\x10\x10\x00\x04MQTT", 400, metrics.RefuseWebSocketRequest},
		{"no upgrade", "GET /mqtt HTTP/1.1\r\nHost: broker\r\n\r\n", 400, metrics.RefuseWebSocketRequest},
		{"garbage", "GARBAGE\r\n\r\n", 400, metrics.RefuseWebSocketRequest},
		{"another path", strings.Replace(testRequest, "/mqtt", "/", 1), 404, metrics.RefuseWebSocketPath},
		{"another origin", strings.Replace(testRequest, "Host", "Origin: http://evil\r\nHost", 1), 403, metrics.RefuseWebSocketOrigin},
		{"another subprotocol", strings.Replace(testRequest, ": mqtt", ": chat", 1), 400, metrics.RefuseWebSocketSubprotocol},
		{"a large header", "GET /mqtt HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 2000), 431, metrics.RefuseWebSocketTooLarge},
		{"nothing in time", "", 408, metrics.RefuseWebSocketTimeout},
		{"half a request", testRequest[:50], 408, metrics.RefuseWebSocketTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &handler{open: func(*Conn) { t.Error("OnOpen") }, close: func(*Conn, error) { t.Error("OnClose") }}
			e, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: h}, websocket.Options{},
				func(l *Listener) {
					if test.reason == metrics.RefuseWebSocketTimeout {
						l.HandshakeTimeout = 20 * time.Millisecond
					}
				})
			c := mustDial(t, addr)
			_, _ = c.Write([]byte(test.sent))
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || r.StatusCode != test.status {
				t.Fatalf("got %+v, %v", r, err)
			}
			if _, err := io.ReadAll(r.Body); err != nil {
				t.Error(err)
			}
			_ = c.CloseWrite()
			if n, err := io.Copy(io.Discard, c); n > 0 || err != nil {
				t.Errorf("behind the answer: %d bytes, %v", n, err)
			}
			await(t, "the end", func() bool { return e.Stats().Connections == 0 })
			for r, n := range e.Stats().Refused {
				if want := metrics.RefuseReason(r) == test.reason; want && n != 1 || !want && n != 0 {
					t.Errorf("counted %d times as %v", n, metrics.RefuseReason(r))
				}
			}
			onLoop(e.loops[0], func() {
				if n := e.loops[0].requests; n != 0 {
					t.Errorf("%d bytes of requests are accounted for", n)
				}
			})
		})
	}
}

// A probe connects and closes; nobody hears of it.
func TestWebSocket_Probe(t *testing.T) {
	h := &handler{open: func(*Conn) { t.Error("OnOpen") }, close: func(*Conn, error) { t.Error("OnClose") }}
	e, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: h}, websocket.Options{})
	c := mustDial(t, addr)
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	await(t, "the end", func() bool { return e.Stats().Connections == 0 })
	if s := e.Stats(); s.Refused != [metrics.NumRefuseReasons]uint64{} {
		t.Errorf("counted: %v", s.Refused)
	}
}

// Requests that never end take up what a loop keeps of them. Whoever sends a whole one is served all the same.
func TestWebSocket_Slowloris(t *testing.T) {
	e, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: &handler{data: echo}}, websocket.Options{})
	part := []byte("GET /mqtt HTTP/1.1\r\nX: " + strings.Repeat("x", 8000))
	n := maxRequests/len(part) + 20
	for range n {
		_, _ = mustDial(t, addr).Write(part)
	}
	// Some more, if what is read of one that is refused later leaves no room for another.
	await(t, "20 or some more are refused, and the others kept", func() bool {
		kept, refused := 0, int(e.Stats().Refused[metrics.RefuseWebSocketBusy])
		onLoop(e.loops[0], func() { kept = e.loops[0].requests })
		if kept > maxRequests {
			t.Fatalf("%d bytes are kept, at most %d may be", kept, maxRequests)
		}
		return refused >= 20 && refused < 40 && kept == (n-refused)*len(part)
	})
	c := &stream{Conn: mustDialWebSocket(t, addr)}
	_ = c.WriteMessage(gorilla.BinaryMessage, []byte("hello"))
	mustRead(t, c, "hello")
}

func TestWebSocket_BadFrames(t *testing.T) {
	for _, test := range []struct {
		name, sent string
		code       int
		reason     metrics.FrameReason
	}{
		{"not masked", unmasked("x"), 1002, metrics.FrameNotMasked},
		{"reserved bit", masked(0xC2, "x"), 1002, metrics.FrameReservedBits},
		{"opcode", masked(0x83, "x"), 1002, metrics.FrameOpcode},
		{"continuation", masked(0x80, "x"), 1002, metrics.FrameFragments},
		{"ping in fragments", masked(0x09, "x"), 1002, metrics.FrameControl},
		{"length", "\x82\xFE\x00\x01\x00\x00\x00\x00x", 1002, metrics.FrameLength},
		{"text", masked(0x81, "x"), 1003, metrics.FrameText},
		{"too large", "\x82\xFF\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", 1009, metrics.FrameTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			closed := make(chan error, 1)
			e, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: &handler{data: echo, close: func(_ *Conn, err error) { closed <- err }}}, websocket.Options{})
			c := mustDial(t, addr)
			// A valid frame in front is handed over, and its answer is in front of the Close frame. What follows is dropped.
			r := mustUpgrade(t, c, masked(0x82, "first")+test.sent+masked(0x82, "later"))
			mustRead(t, r, unmasked("first")+string(websocket.AppendClose(nil, uint16(test.code))))
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("behind the Close frame: %v", err)
			}
			var bad *websocket.Error
			if err := receive(t, "OnClose", closed); !errors.As(err, &bad) || bad.Reason != test.reason {
				t.Errorf("OnClose: %v", err)
			}
			for r, n := range e.Stats().BadFrames {
				if want := metrics.FrameReason(r) == test.reason; want && n != 1 || !want && n != 0 {
					t.Errorf("counted %d times as %v", n, metrics.FrameReason(r))
				}
			}
		})
	}
}

func TestWebSocket_Close(t *testing.T) {
	failed := errors.New("failed")
	conns, closed := make(chan *Conn, 1), make(chan error, 1)
	h := &handler{open: func(c *Conn) { conns <- c }, close: func(_ *Conn, err error) { closed <- err }}
	for _, test := range []struct {
		err    error
		choose func(error) uint16
		code   int
	}{
		{nil, nil, 1000},
		{ErrStopped, nil, 1001},
		{failed, nil, 1011},
		{failed, func(err error) uint16 { return map[error]uint16{failed: 4001}[err] }, 4001},
	} {
		_, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: h}, websocket.Options{}, func(l *Listener) { l.WebSocket.CloseCode = test.choose })
		client := &stream{Conn: mustDialWebSocket(t, addr)}
		c := receive(t, "OnOpen", conns)
		onLoop(c.Loop(), func() {
			c.Write([]byte("last words"))
			c.Close(test.err)
			c.Write([]byte("too late"))
		})
		mustRead(t, client, "last words")
		if _, err := client.Read(make([]byte, 1)); !gorilla.IsCloseError(err, test.code) {
			t.Errorf("got %v, want %d", err, test.code)
		}
		if err := receive(t, "OnClose", closed); err != test.err { //nolint:errorlint // it is the very one
			t.Errorf("OnClose: %v", err)
		}
	}
}

// The client closes: it gets a Close frame, then the end. Both sides closing at once is no error either.
func TestWebSocket_ClosedByClient(t *testing.T) {
	closed := make(chan error, 1)
	h := &handler{
		data:  func(c *Conn, in []byte) { c.Write([]byte("bye")); c.Close(errors.New("told to")) },
		close: func(_ *Conn, err error) { closed <- err },
	}
	e, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: h}, websocket.Options{})
	r := mustUpgrade(t, mustDial(t, addr), masked(0x88, "\x03\xE9"))
	mustRead(t, r, "\x88\x02\x03\xE9")
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("behind the Close frame: %v", err)
	}
	if err := receive(t, "OnClose", closed); err != nil {
		t.Errorf("OnClose: %v", err)
	}
	r = mustUpgrade(t, mustDial(t, addr), masked(0x82, "x")+masked(0x88, "\x03\xE9"))
	mustRead(t, r, unmasked("bye")+"\x88\x02\x03\xE9")
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("behind the Close frame: %v", err)
	}
	if err := receive(t, "OnClose", closed); err == nil {
		t.Error("OnClose: nil")
	}
	await(t, "the files are closed", func() bool { return e.Stats().Connections == 0 })
}

// A client that doesn't read gets its frames whole once it does, and one that never does is closed.
func TestWebSocket_Blocked(t *testing.T) {
	conns, closed, drained := make(chan *Conn, 1), make(chan error, 1), make(chan bool, 1)
	h := &handler{open: func(c *Conn) { conns <- c }, close: func(_ *Conn, err error) { closed <- err }, drain: func(*Conn) { drained <- true }}
	_, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: h, MaxOutputBytes: 32 << 20}, websocket.Options{})
	client := &stream{Conn: mustDialWebSocket(t, addr)}
	c := receive(t, "OnOpen", conns)
	part := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	n := 0
	for blocked := false; n < 300 || !blocked; n++ {
		onLoop(c.Loop(), func() {
			c.Write(part)
			blocked = c.state&4 != 0 || c.Buffered() > 0
		})
	}
	mustRead(t, client, strings.Repeat(string(part), n))
	receive(t, "OnDrain", drained)
	onLoop(c.Loop(), func() {
		for range 1000 {
			c.Write(part)
		}
	})
	if err := receive(t, "OnClose", closed); !errors.Is(err, ErrOutputOverflow) {
		t.Errorf("OnClose: %v", err)
	}
}

func TestWebSocket_Pause(t *testing.T) {
	conns := make(chan *Conn, 1)
	got := make(chan string, 10)
	_, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: &handler{
		open: func(c *Conn) { c.Pause(); conns <- c },
		data: func(_ *Conn, in []byte) { got <- string(in) },
	}}, websocket.Options{})
	_ = mustUpgrade(t, mustDial(t, addr), masked(0x82, "what came with the request is handed over"))
	c := receive(t, "OnOpen", conns)
	if s := receive(t, "OnData", got); s != "what came with the request is handed over" {
		t.Errorf("got %q", s)
	}
	onLoop(c.Loop(), c.Resume)
}

func TestWebSocket_ForwardedFor(t *testing.T) {
	addrs := make(chan string, 1)
	_, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: &handler{open: func(c *Conn) { addrs <- c.RemoteAddr().String() }}},
		websocket.Options{Forwarders: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	_, _ = mustDial(t, addr).Write([]byte(strings.Replace(testRequest, "Host", "X-Forwarded-For: 6.6.6.6, 203.0.113.5\r\nHost", 1)))
	if got := receive(t, "OnOpen", addrs); got != "203.0.113.5:0" {
		t.Errorf("got %s", got)
	}
}

func TestWebSocket_Stop(t *testing.T) {
	e, addr := mustStartWebSocket(t, Config{Loops: 1, Handler: &handler{}}, websocket.Options{})
	client, half := mustDialWebSocket(t, addr), mustDial(t, addr)
	_, _ = half.Write([]byte(testRequest[:50]))
	await(t, "both are there", func() bool { return e.Stats().Connections == 2 })
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.ReadMessage(); !gorilla.IsCloseError(err, 1001) {
		t.Errorf("got %v", err)
	}
	if b, err := io.ReadAll(half); len(b) > 0 {
		t.Errorf("got %q, %v", b, err)
	}
}

// Over TLS it is the same: echo in pieces and large, bad frames, the Close frame and then TLS's own end.
func TestWebSocket_Secure(t *testing.T) {
	h, err := websocket.NewHandshake(websocket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: &handler{data: echo}, Logger: slog.New(slog.DiscardHandler)}, func(l *Listener) {
		l.WebSocket = &WebSocket{Handshake: h}
	})
	for _, version := range tlsVersions {
		config.MinVersion, config.MaxVersion = version, version
		d := gorilla.Dialer{TLSClientConfig: config, Subprotocols: []string{"mqtt"}}
		conn, _, err := d.DialContext(t.Context(), "wss://"+addr+"/mqtt", nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &stream{Conn: conn}
		large := strings.Repeat("0123456789abcdef", 1<<15)
		for _, payload := range []string{"x", large, strings.Repeat("y", 20_000)} {
			written := make(chan error, 1)
			go func() { written <- c.WriteMessage(gorilla.BinaryMessage, []byte(payload)) }()
			mustRead(t, c, payload)
			if err := receive(t, "WriteMessage", written); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.WriteMessage(gorilla.CloseMessage, gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !gorilla.IsCloseError(err, gorilla.CloseNormalClosure) {
			t.Errorf("got %v", err)
		}
		_ = c.Close()

		raw := mustDialTLS(t, addr, config)
		r := mustUpgrade(t, raw, masked(0x82, "first")+unmasked("x"))
		mustRead(t, r, unmasked("first")+string(websocket.AppendClose(nil, websocket.CloseProtocolError)))
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("behind the Close frame: %v", err)
		}

		raw = mustDialTLS(t, addr, config)
		_, _ = raw.Write([]byte("GET / HTTP/1.1\r\nHost: broker\r\n\r\n"))
		if response, err := http.ReadResponse(bufio.NewReader(raw), nil); err != nil || response.StatusCode != http.StatusNotFound {
			t.Errorf("got %+v, %v", response, err)
		}
	}
	if s := e.Stats(); s.BadFrames[metrics.FrameNotMasked] != 2 || s.Refused[metrics.RefuseWebSocketPath] != 2 {
		t.Errorf("counted: %v, %v", s.BadFrames, s.Refused)
	}
}
