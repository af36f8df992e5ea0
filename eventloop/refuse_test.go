package eventloop_test

import (
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"loopmq/eventloop"
	"loopmq/metrics"
)

// opens counts the connections that the handler hears of, and echoes.
type opens struct{ n atomic.Int64 }

func (o *opens) OnOpen(*eventloop.Conn)            { o.n.Add(1) }
func (*opens) OnData(c *eventloop.Conn, in []byte) { c.EndWrite(append(c.BeginWrite(), in...)) }
func (*opens) OnClose(*eventloop.Conn, error)      {}

// A banned address gets no further than accept: no handshake is begun for it, and the handler never hears of it.
func TestRefusedAddress(t *testing.T) {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	banned := netip.MustParseAddr("198.51.100.7")
	for _, engine := range []string{eventloop.Gnet, eventloop.Netpoll} {
		t.Run(engine, func(t *testing.T) {
			var refuses atomic.Bool
			handler := &opens{}
			e, err := eventloop.New(eventloop.Config{Engine: engine, Loops: 2, Handler: handler, RefuseAddress: func(a netip.Addr) bool {
				return a == banned || refuses.Load() && loopback.Contains(a)
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = e.Stop(t.Context()) })
			plain, err := e.Listen(eventloop.Listener{Address: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			proxied, err := e.Listen(eventloop.Listener{Address: "127.0.0.1:0", ProxyProtocol: []netip.Prefix{loopback}})
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			says := func(to net.Addr, text, want string) {
				t.Helper()
				c, err := net.Dial("tcp", to.String())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.WriteString(c, text); err != nil && want != "" {
					t.Fatal(err)
				}
				answer := make([]byte, 8)
				n, err := io.ReadAtLeast(c, answer, max(1, len(want)))
				if got := string(answer[:n]); got != want || (err == nil) != (want != "") {
					t.Errorf("to %q it says %q, %v; want %q", text, got, err, want)
				}
			}
			says(plain, "hello", "hello")
			says(proxied, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello", "hello")
			says(proxied, "PROXY TCP4 198.51.100.7 192.0.2.2 1 2\r\nhello", "")
			refuses.Store(true)
			says(plain, "hello", "")
			says(proxied, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello", "hello") // the balancer isn't the client
			if n := e.Stats().Refused[metrics.RefuseBanned]; n != 2 || handler.n.Load() != 3 {
				t.Errorf("%d refused, %d opened; want 2 and 3", n, handler.n.Load())
			}
		})
	}
}
