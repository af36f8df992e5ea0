package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"loopmq/metrics"
)

// DefaultPath is the path of a listener that names none.
const DefaultPath = "/mqtt"

// MaxRequest is the largest header of a request, in bytes.
const MaxRequest = 8 << 10

// subprotocols are those of MQTT [MQTT-6.0.0-3], the preferred one first.
var subprotocols = []string{"mqtt", "mqttv3.1"}

// Options say which handshakes are accepted.
type Options struct {
	// Path is what the request has to be for, beginning with a slash; empty means DefaultPath, "*" any path.
	Path string

	// Origins are the origins of web pages that may connect, such as "https://app.example.com" or "http://localhost:3000";
	// "https://*.example.com" means all below that domain, "*" any page. Empty: pages that come from the host and port
	// that they connect to; from this machine, by a loopback address that isn't a forwarder's, only if that host is
	// localhost or such an address, since the name of any page can be made to lead there. What isn't a page sends no
	// origin, and isn't asked for one.
	Origins []string

	// Forwarders are the networks whose X-Forwarded-For is believed; empty: none.
	Forwarders []netip.Prefix
}

// Handshake answers the requests that open connections. It is safe for concurrent use.
type Handshake struct {
	path       string
	origins    []origin
	forwarders []netip.Prefix
	upgrader   websocket.Upgrader
}

// origin is what one of Options.Origins allows.
type origin struct {
	any, below   bool // any page; all hosts that end in host
	scheme, host string
}

// Request is an accepted request.
type Request struct {
	// Response is what the client is to be sent.
	Response []byte
	// Client is the address from which the client's connection came to the first forwarder, with port 0 if that one
	// didn't tell; the zero value if the request wasn't forwarded by one of Options.Forwarders.
	Client netip.AddrPort
}

// NewHandshake checks the options. The error is one sentence that names what is allowed.
func NewHandshake(o Options) (*Handshake, error) {
	h := &Handshake{path: o.Path, forwarders: slices.Clone(o.Forwarders)}
	if h.path == "" {
		h.path = DefaultPath
	}
	if h.path != "*" && h.path[0] != '/' {
		return nil, fmt.Errorf("path %q: allowed: one that begins with a slash, or *", o.Path)
	}
	for _, s := range o.Origins {
		allowed, err := parseOrigin(s)
		if err != nil {
			return nil, err
		}
		h.origins = append(h.origins, allowed)
	}
	h.upgrader.Subprotocols = subprotocols
	h.upgrader.Error = func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
		w.(*exchange).refused = &RefusedError{metrics.RefuseWebSocketRequest, status, strings.TrimPrefix(reason.Error(), "websocket: ")}
		if status == http.StatusForbidden {
			w.(*exchange).refused = &RefusedError{metrics.RefuseWebSocketOrigin, status, "pages of this origin may not connect: allowed are those of the broker's own host and port, or what websocket.origins lists"}
		}
	}
	h.upgrader.CheckOrigin = h.checkOrigin
	return h, nil
}

func parseOrigin(s string) (origin, error) {
	switch s {
	case "*":
		return origin{any: true}, nil
	case "null":
		return origin{scheme: s}, nil
	}
	u, err := url.Parse(strings.ToLower(s))
	if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return origin{}, fmt.Errorf("origin %q: allowed: SCHEME://HOST or SCHEME://HOST:PORT, where HOST may begin with *. , or * for any", s)
	}
	o := origin{scheme: u.Scheme, host: u.Host}
	if o.host, o.below = strings.CutPrefix(u.Host, "*"); o.below && !strings.HasPrefix(o.host, ".") || strings.Contains(o.host, "*") {
		return origin{}, fmt.Errorf("origin %q: allowed: a * only in front of the host's first dot", s)
	}
	return o, nil
}

// checkOrigin reports whether what sends a request may: a page that may, or no page.
func (h *Handshake) checkOrigin(r *http.Request) bool {
	values := r.Header["Origin"]
	if len(values) == 0 {
		return true
	}
	value := strings.ToLower(values[0])
	scheme, host, _ := strings.Cut(value, "://")
	if len(h.origins) == 0 {
		return len(values) == 1 && host == strings.ToLower(r.Host) && h.mayBeOurs(r)
	}
	return len(values) == 1 && slices.ContainsFunc(h.origins, func(o origin) bool {
		switch {
		case o.any:
			return true
		case o.below:
			return o.scheme == scheme && len(host) > len(o.host) && strings.HasSuffix(host, o.host)
		}
		return o.scheme == scheme && o.host == host
	})
}

// mayBeOurs reports whether the host that a page on this machine came from, and connects to, is this machine by a name
// that nobody else can give out.
func (h *Handshake) mayBeOurs(r *http.Request) bool {
	peer, err := netip.ParseAddr(r.RemoteAddr)
	if err != nil || !peer.Unmap().IsLoopback() || h.forwards(peer) {
		return true
	}
	u := url.URL{Host: strings.ToLower(r.Host)}
	host := u.Hostname()
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// End returns how many bytes of b are the header of a request, or 0 if its end isn't there yet.
func End(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// Answer answers a request, of which head is the header as far as End; peer is whose connection it is. An error is a
// *RefusedError, and its Response what the client is to be sent before the connection is closed.
func (h *Handshake) Answer(head []byte, peer netip.Addr) (Request, error) {
	x := exchanges.Get().(*exchange)
	defer exchanges.Put(x)
	x.reset()
	r, err := http.ReadRequest(x.request(head))
	switch {
	case err != nil:
		return Request{}, ErrNotHTTP
	case !r.ProtoAtLeast(1, 1):
		return Request{}, &RefusedError{metrics.RefuseWebSocketRequest, http.StatusBadRequest, "request is older than HTTP/1.1 [RFC 6455, 4.2.1]"}
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return Request{}, &RefusedError{metrics.RefuseWebSocketRequest, http.StatusBadRequest, "request has a body"}
	case h.path != "*" && r.URL.Path != h.path:
		return Request{}, &RefusedError{metrics.RefuseWebSocketPath, http.StatusNotFound, "path isn't that of the listener"}
	case !offersMQTT(r):
		return Request{}, &RefusedError{metrics.RefuseWebSocketSubprotocol, http.StatusBadRequest, "none of the subprotocols offered is mqtt or mqttv3.1 [MQTT-6.0.0-3]"}
	}
	r.RemoteAddr = peer.String()
	if _, err := h.upgrader.Upgrade(x, r, nil); err != nil {
		if x.refused != nil {
			return Request{}, x.refused
		}
		return Request{}, &RefusedError{metrics.RefuseWebSocketRequest, http.StatusBadRequest, "handshake failed"}
	}
	return Request{Response: bytes.Clone(x.response), Client: h.client(r, peer)}, nil
}

// offersMQTT reports whether a client offers a subprotocol of ours, or none at all: MQTT demands that of clients
// [MQTT-6.0.0-3], but old ones don't, and their first packet says what they speak.
func offersMQTT(r *http.Request) bool {
	offered := websocket.Subprotocols(r)
	return len(offered) == 0 || slices.ContainsFunc(offered, func(s string) bool { return slices.Contains(subprotocols, s) })
}

// client goes through the hops that X-Forwarded-For lists, from the last one on, for as long as those who told of them are
// to be believed.
func (h *Handshake) client(r *http.Request, peer netip.Addr) (client netip.AddrPort) {
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !h.forwards(peer) {
			break
		}
		told, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			break
		}
		client, peer = told, told.Addr()
	}
	return client
}

func (h *Handshake) forwards(a netip.Addr) bool {
	return slices.ContainsFunc(h.forwarders, func(p netip.Prefix) bool { return p.Contains(a.Unmap().WithZone("")) })
}

func parseHop(s string) (netip.AddrPort, bool) {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), true
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return netip.AddrPortFrom(a.Unmap(), 0), err == nil
}

// Response returns what refuses the request with e.
func (e *RefusedError) Response() []byte {
	text := e.text + "\n"
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Sec-WebSocket-Version: 13\r\n\r\n%s", e.Status, http.StatusText(e.Status), len(text), text)
}

// exchange is what an Upgrader takes for the server's side of a connection: it has a request to read, and keeps what is
// written.
type exchange struct {
	head     bytes.Reader
	reader   *bufio.Reader
	hijacked *bufio.ReadWriter
	response []byte
	refused  *RefusedError
}

var exchanges = sync.Pool{New: func() any {
	x := new(exchange)
	x.reader = bufio.NewReaderSize(nil, 512)
	// Upgrade makes buffers of its own where it finds these smaller.
	x.hijacked = bufio.NewReadWriter(bufio.NewReaderSize(nil, 512), bufio.NewWriterSize(nil, 512))
	return x
}}

func (x *exchange) reset() {
	x.response, x.refused = x.response[:0], nil
	x.hijacked.Reader.Reset(eof{})
	x.hijacked.Writer.Reset(x)
}

func (x *exchange) request(head []byte) *bufio.Reader {
	x.head.Reset(head)
	x.reader.Reset(&x.head)
	return x.reader
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

var _ http.Hijacker = (*exchange)(nil)

// Header and WriteHeader are never of use: Upgrader.Error answers errors.
func (x *exchange) Header() http.Header { return http.Header{} }

// WriteHeader does nothing.
func (x *exchange) WriteHeader(int) {}

// Write keeps what is to be sent.
func (x *exchange) Write(p []byte) (int, error) {
	x.response = append(x.response, p...)
	return len(p), nil
}

// Hijack hands over the exchange itself.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return answering{x}, x.hijacked, nil
}

// answering is the exchange as a net.Conn, of which Upgrade only writes.
type answering struct{ *exchange }

var errNoConnection = errors.New("websocket: no connection yet")

func (answering) Read([]byte) (int, error)         { return 0, errNoConnection }
func (answering) Close() error                     { return nil }
func (answering) LocalAddr() net.Addr              { return nil }
func (answering) RemoteAddr() net.Addr             { return nil }
func (answering) SetDeadline(time.Time) error      { return nil }
func (answering) SetReadDeadline(time.Time) error  { return nil }
func (answering) SetWriteDeadline(time.Time) error { return nil }
