package eventloop

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"loopmq/metrics"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// mustHeader makes a header by the library's own means.
func mustHeader(t testing.TB, version byte, source string) []byte {
	t.Helper()
	a := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source))
	dest := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1883}
	if a.IP.To4() == nil {
		dest.IP = net.ParseIP("2001:db8::1")
	}
	b, err := proxyproto.HeaderProxyFromAddrs(version, a, dest).Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func v2(command, family byte, body ...byte) []byte {
	b := append(slices.Clone(proxySignatureV2), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

// TestProxy has the address of the header be the client's, with and without TLS, whole and byte by byte.
func TestProxy(t *testing.T) {
	ssl := bytes.Repeat([]byte{0x20, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0}, 300) // many TLVs
	tests := []struct {
		name, want string // "" means the address of the connection
		header     []byte
	}{
		{"v1", "203.0.113.7:4711", mustHeader(t, 1, "203.0.113.7:4711")},
		{"v1 IPv6", "[2001:db8::7]:4711", mustHeader(t, 1, "[2001:db8::7]:4711")},
		{"v1 UNKNOWN", "", []byte("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n")},
		{"v2", "203.0.113.7:4711", mustHeader(t, 2, "203.0.113.7:4711")},
		{"v2 IPv6", "[2001:db8::7]:4711", mustHeader(t, 2, "[2001:db8::7]:4711")},
		{"v2 with TLVs", "203.0.113.7:4711", v2(0x21, 0x11, append([]byte{203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 7, 91}, ssl...)...)},
		{"v2 LOCAL", "", v2(0x20, 0)},
		{"v2 LOCAL with an address", "", v2(0x20, 0x11, 203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 7, 91)},
		{"v2 unix", "", v2(0x21, 0x31, make([]byte, 216)...)},
	}
	for _, secured := range []bool{false, true} {
		opened := make(chan net.Addr, 1)
		h := &handler{data: echo, open: func(c *Conn) { opened <- c.RemoteAddr() }}
		e, addr, config := mustListenTLS(t, Config{Loops: 1, Handler: h}, func(l *Listener) {
			l.ProxyProtocol = loopback
			if !secured {
				l.TLS = nil
			}
		})
		for _, test := range tests {
			for _, bytewise := range []bool{false, true} {
				nc := mustDial(t, addr)
				want := test.want
				if want == "" {
					want = nc.LocalAddr().String()
				}
				var c net.Conn = nc
				if bytewise {
					for _, b := range test.header {
						_, _ = nc.Write([]byte{b})
					}
				} else { // at once with what follows
					c = &prefixed{Conn: nc, prefix: test.header}
				}
				if secured {
					c = mustClient(t, c, config)
				}
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				if got := receive(t, "OnOpen", opened).String(); got != want {
					t.Errorf("%s: RemoteAddr is %s, want %s", test.name, got, want)
				}
				got := make([]byte, 5)
				if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
					t.Errorf("%s: %q, %v", test.name, got, err)
				}
				_ = nc.Close()
			}
		}
		if s := e.Stats(); slices.Max(s.Refused[:]) != 0 {
			t.Errorf("refused: %v", s.Refused)
		}
	}
}

// prefixed puts bytes in front of the first write.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	if p.prefix == nil {
		return p.Conn.Write(b)
	}
	_, err := p.Conn.Write(append(p.prefix, b...))
	p.prefix = nil
	return len(b), err
}

// TestProxy_Refused counts each once.
func TestProxy_Refused(t *testing.T) {
	tests := []struct {
		name    string
		trusted string
		send    []byte
		closes  bool // the peer goes itself
		want    metrics.RefuseReason
	}{
		{"untrusted", "10.0.0.0/8", mustHeader(t, 2, "203.0.113.7:4711"), false, metrics.RefuseProxyUntrusted},
		{"none", "127.0.0.1/32", []byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"), false, metrics.RefuseProxyInvalid},
		{"v1 without an end", "127.0.0.1/32", []byte("PROXY TCP4 " + strings.Repeat("1", 200)), false, metrics.RefuseProxyInvalid},
		{"v1 without CR", "127.0.0.1/32", []byte("PROXY TCP4 1.2.3.4 1.2.3.5 1 2\n"), false, metrics.RefuseProxyInvalid},
		{"v1 with a wrong address", "127.0.0.1/32", []byte("PROXY TCP4 1.2.3.400 1.2.3.5 1 2\r\n"), false, metrics.RefuseProxyInvalid},
		{"v2 of another version", "127.0.0.1/32", v2(0x31, 0x11, make([]byte, 12)...), false, metrics.RefuseProxyInvalid},
		{"v2 of another command", "127.0.0.1/32", v2(0x22, 0x11, make([]byte, 12)...), false, metrics.RefuseProxyInvalid},
		{"v2 too short", "127.0.0.1/32", v2(0x21, 0x11, 1, 2, 3), false, metrics.RefuseProxyInvalid},
		{"v2 too long", "127.0.0.1/32", append(slices.Clone(proxySignatureV2), 0x21, 0x11, 0xff, 0xff), false, metrics.RefuseProxyInvalid},
		{"half", "127.0.0.1/32", []byte("PROXY TCP4 1.2.3.4"), false, metrics.RefuseProxyTimeout},
		{"silent", "127.0.0.1/32", nil, false, metrics.RefuseProxyTimeout},
		{"half, and gone", "127.0.0.1/32", []byte("PROXY TCP4 1.2.3.4"), true, metrics.RefuseProxyInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &handler{open: func(*Conn) { t.Error("OnOpen") }, close: func(*Conn, error) { t.Error("OnClose") }}
			e, _ := mustStart(t, Config{Loops: 1, Handler: h})
			spec := Listener{Address: "127.0.0.1:0", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix(test.trusted)}}
			if test.want == metrics.RefuseProxyTimeout {
				spec.HandshakeTimeout = 50 * time.Millisecond
			}
			addr, err := e.Listen(spec)
			if err != nil {
				t.Fatal(err)
			}
			c := mustDial(t, addr.String())
			_, _ = c.Write(test.send)
			if !test.closes {
				_, _ = io.Copy(io.Discard, c)
			}
			_ = c.Close()
			await(t, "the connection is gone", func() bool { s := e.Stats(); return s.Accepted == 1 && s.Connections == 0 })
			var want [metrics.NumRefuseReasons]uint64
			want[test.want] = 1
			if got := e.Stats().Refused; got != want {
				t.Errorf("refused: %v, want one %s", got, test.want)
			}
		})
	}
}

// TestProxy_Probe connects and closes: nothing is counted, and nobody hears of it.
func TestProxy_Probe(t *testing.T) {
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{open: func(*Conn) { t.Error("OnOpen") }}})
	addr, err := e.Listen(Listener{Address: "127.0.0.1:0", ProxyProtocol: loopback})
	if err != nil {
		t.Fatal(err)
	}
	_ = mustDial(t, addr.String()).Close()
	await(t, "it is gone", func() bool { s := e.Stats(); return s.Accepted == 1 && s.Connections == 0 })
	if s := e.Stats(); slices.Max(s.Refused[:]) != 0 {
		t.Errorf("refused: %v", s.Refused)
	}
}

// FuzzProxyHeader compares what arrives in two pieces with what arrives at once, and looks that an address that was
// taken is one.
func FuzzProxyHeader(f *testing.F) {
	f.Add(mustHeader(f, 1, "203.0.113.7:4711"), 3)
	f.Add(mustHeader(f, 2, "[2001:db8::7]:4711"), 20)
	f.Add(v2(0x20, 0), 13)
	f.Add(v2(0x21, 0x31, make([]byte, 216)...), 100)
	f.Add([]byte("PROXY UNKNOWN\r\n"), 1)
	f.Add([]byte("PROXY TCP6 ::1 ::2 1 65536\r\n"), 0)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		n, err := proxyHeaderLength(b)
		if n > len(b) || n > proxyV2Prefix+maxProxyV2 || err != nil && n != 0 {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if n == 0 && err == nil && len(b) >= proxyV2Prefix+maxProxyV2 {
			t.Fatal("it would collect for ever")
		}
		if cut = min(max(cut, 0), len(b)); cut < len(b) {
			m, earlier := proxyHeaderLength(b[:cut])
			if m != 0 && m != n || earlier != nil && err == nil {
				t.Fatalf("of %d bytes %d, %v; of all %d, %v", cut, m, earlier, n, err)
			}
		}
		if n == 0 {
			return
		}
		source, err := parseProxyHeader(b[:n])
		if err != nil && source.IsValid() {
			t.Fatal("an address and an error")
		}
	})
}

// TestUnix serves on a unix socket whose rights are as said, replaces a socket that was left, and nothing else.
func TestUnix(t *testing.T) {
	opened := make(chan net.Addr, 1)
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{data: echo, open: func(c *Conn) {
		opened <- c.RemoteAddr()
		if c.LocalAddr() == nil {
			t.Error("no LocalAddr")
		}
	}}})
	dir := t.TempDir()
	path := filepath.Join(dir, "mqtt.sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	addr, err := e.Listen(Listener{Network: "unix", Address: path, Mode: 0o662})
	if err != nil {
		t.Fatal(err)
	}
	if addr.Network() != "unix" || addr.String() != path {
		t.Errorf("bound to %s %s", addr.Network(), addr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o662 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write([]byte("hello"))
	if got := receive(t, "OnOpen", opened); got.Network() != "unix" || got.String() != path {
		t.Errorf("RemoteAddr: %s %s", got.Network(), got)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}

	for name, address := range map[string]string{"in use": path, "a file": filepath.Join(dir, "file"), "a directory": dir} {
		if name == "a file" {
			if err := os.WriteFile(address, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := e.Listen(Listener{Network: "unix", Address: address}); !strings.Contains(errorText(err), syscall.EADDRINUSE.Error()) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(address); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := e.Listen(Listener{Network: "unix", Address: filepath.Join(dir, "none", "s")}); err == nil {
		t.Error("a socket in no directory")
	}

	e.CloseListeners()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after CloseListeners: %v", err)
	}
}

// TestUnix_Replaced leaves a socket alone that another process has put in place of ours.
func TestUnix_Replaced(t *testing.T) {
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{}})
	path := filepath.Join(t.TempDir(), "s")
	if _, err := e.Listen(Listener{Network: "unix", Address: path}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	e.CloseListeners()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestUnix_Proxy takes a PROXY header from whoever may open the socket.
func TestUnix_Proxy(t *testing.T) {
	opened := make(chan net.Addr, 1)
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{open: func(c *Conn) { opened <- c.RemoteAddr() }}})
	path := filepath.Join(t.TempDir(), "s")
	if _, err := e.Listen(Listener{Network: "unix", Address: path, ProxyProtocol: loopback}); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write(mustHeader(t, 2, "203.0.113.7:4711"))
	if got := receive(t, "OnOpen", opened).String(); got != "203.0.113.7:4711" {
		t.Errorf("RemoteAddr: %s", got)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
