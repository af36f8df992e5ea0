package httpbridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/net/netutil"

	"loopmq"
	"loopmq/metrics"
)

// Options configure a [Bridge]. The zero value of a field means its default.
type Options struct {
	// Broker is what requests are translated for. Required.
	Broker *loopmq.Broker
	// Settings are what callers may do, as those of an MQTT listener; nil: those of the
	// Broker's Options.
	Settings *loopmq.Settings
	// Listener is the name that ConnectRequest and ClientInfo have; default "http".
	Listener string
	// TLS has clients connect by TLS, with HTTP/2 where they can; nil: HTTP/1.1, and
	// HTTP/2 with prior knowledge (h2c).
	TLS *tls.Config
	// ProxyProtocol is the networks of the balancers in front, whose connections begin
	// with a PROXY header, version 1 or 2. With any, other connections are refused.
	ProxyProtocol []netip.Prefix
	// Forwarders are the networks of proxies whose X-Forwarded-For is believed.
	Forwarders []netip.Prefix
	// Origins are the sites whose pages may send requests (CORS): https://app.example.com;
	// https://*.example.com is all hosts below that domain, * any site. Default: none but
	// the listener's own.
	Origins []string
	// Hosts are names that the Host header may have on a loopback address, beside
	// addresses and localhost.
	Hosts []string

	// Connections at one time; more wait. Default 10,000.
	Connections int
	// Requests that are answered at one time; more are refused (503). Default 4096.
	// Streams count as Connections only.
	Requests int
	// HeaderBytes bounds the header of a request. Default 16 KiB.
	HeaderBytes int
	// BodyBytes bounds the body of a request. Default 8 MiB.
	BodyBytes int
	// BodiesBytes bounds the bodies of all requests under way, of which one user may have
	// a quarter; what goes beyond is refused (503). Default 256 MiB.
	BodiesBytes int
	// BulkMessages bounds the messages of one request. Default 1000.
	BulkMessages int
	// Timeout bounds the time that a request may take. Default 30 s.
	Timeout time.Duration
	// IdempotencyWindow is for how long the same Idempotency-Key is the same request.
	// Default 24 h.
	IdempotencyWindow time.Duration
	// Identities is how many callers are known without asking the Authenticator again,
	// IdentityTTL for how long. Default 10,000 and a minute.
	Identities  int
	IdentityTTL time.Duration

	// Streams bound GET /subscribe, Replies POST /request.
	Streams StreamOptions
	Replies ReplyOptions

	// Metrics is where requests are counted; default: the Broker's.
	Metrics *metrics.Set
	// Logger gets what goes wrong; nil means slog.Default().
	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	o.Listener = cmp.Or(o.Listener, "http")
	o.Connections = cmp.Or(o.Connections, 10_000)
	o.Requests = cmp.Or(o.Requests, 4096)
	o.HeaderBytes = cmp.Or(o.HeaderBytes, 16<<10)
	o.BodyBytes = cmp.Or(o.BodyBytes, 8<<20)
	o.BodiesBytes = max(cmp.Or(o.BodiesBytes, 256<<20), o.BodyBytes)
	o.BulkMessages = cmp.Or(o.BulkMessages, 1000)
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.IdempotencyWindow = cmp.Or(o.IdempotencyWindow, 24*time.Hour)
	o.Identities = cmp.Or(o.Identities, 10_000)
	o.IdentityTTL = cmp.Or(o.IdentityTTL, time.Minute)
	o.Streams.setDefaults()
	o.Replies.setDefaults()
	o.Metrics = cmp.Or(o.Metrics, o.Broker.Metrics())
	o.Logger = cmp.Or(o.Logger, slog.Default())
}

// The limits of the listener that nobody needs to change.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
	streamsMax        = 100 // of one HTTP/2 connection
)

// Bridge translates HTTP requests into calls of a Broker. Its routes are in routes;
// /openapi.json describes them. Whoever sends a request is an MQTT identity, and
// whatever is wrong is a problem (RFC 9457). Its methods are safe for concurrent use.
type Bridge struct {
	opts       Options
	broker     *loopmq.Broker
	log        *slog.Logger
	metrics    *metrics.Set
	routes     []route[bridgeRoute]
	origins    []origin
	identities *identities
	keys       keysInUse
	server     *http.Server
	loopback   atomic.Bool  // the listener can be reached from this machine only
	underWay   atomic.Int64 // requests
	bodies     bodyBudget   // of their bodies
	deadlines  deadlines
	served     sync.WaitGroup
	streams    streams
	replies    replies
	stopping   chan struct{} // closed when Shutdown is called
}

// New returns a Bridge that isn't listening yet.
func New(o Options) *Bridge {
	o.setDefaults()
	b := &Bridge{opts: o, broker: o.Broker, log: o.Logger, metrics: o.Metrics, identities: newIdentities(&o)}
	for _, s := range o.Origins {
		b.origins = append(b.origins, parseOrigin(s))
	}
	b.bodies.limit = int64(o.BodiesBytes)
	b.bodies.share = max(b.bodies.limit/bodyShares, int64(o.BodyBytes))
	b.loopback.Store(true)
	b.routes = b.table()
	b.server = &http.Server{
		Handler:           b,
		MaxHeaderBytes:    o.HeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       o.Timeout,
		// What is left after the handler is over, which has its own bound.
		WriteTimeout: 2 * o.Timeout,
		IdleTimeout:  idleTimeout,
		Protocols:    new(http.Protocols),
		ConnContext:  withConnection,
		HTTP2:        &http.HTTP2Config{MaxConcurrentStreams: streamsMax},
		// What a client does wrong is no news to the operator.
		ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	b.prepareStreams()
	b.server.Protocols.SetHTTP1(true)
	if o.TLS == nil {
		b.server.Protocols.SetUnencryptedHTTP2(true)
	} else {
		b.server.Protocols.SetHTTP2(true)
		b.server.TLSConfig = withALPN(o.TLS)
	}
	return b
}

// withALPN has clients of TLS know that there is HTTP/2, whatever configuration
// GetConfigForClient returns.
func withALPN(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	forClient := c.GetConfigForClient
	if forClient == nil {
		return c
	}
	type pair struct{ from, to *tls.Config }
	var last atomic.Pointer[pair] // a clone for each handshake would have session tickets of its own
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		from, err := forClient(h)
		if from == nil || err != nil {
			return nil, err
		}
		if p := last.Load(); p != nil && p.from == from {
			return p.to, nil
		}
		to := from.Clone()
		to.NextProtos = c.NextProtos
		last.Store(&pair{from, to})
		return to, nil
	}
	return c
}

// Start listens on a TCP address and serves it until Shutdown. It returns the
// address that it is bound to, which has the port if addr asked for any (port
// 0), or one error if it can't listen there. Call it once.
func (b *Bridge) Start(addr string) (net.Addr, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, cannotListen(addr, err)
	}
	b.loopback.Store(listener.Addr().(*net.TCPAddr).IP.IsLoopback())
	inner := netutil.LimitListener(listener, b.opts.Connections)
	if len(b.opts.ProxyProtocol) > 0 {
		inner = &proxyproto.Listener{Listener: inner, ReadHeaderTimeout: readHeaderTimeout, ConnPolicy: b.proxyPolicy}
	}
	inner = connectionListener{inner, b}
	b.served.Go(func() {
		var err error
		if b.opts.TLS != nil {
			err = b.server.ServeTLS(inner, "", "")
		} else {
			err = b.server.Serve(inner)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			b.log.Error("http_listener_failed", "addr", listener.Addr().String(), "error", err)
		}
	})
	return listener.Addr(), nil
}

// Shutdown stops listening, lets requests finish, and returns when all connections
// are closed. Those that are still open when ctx ends are cut off, and the error of
// ctx is returned.
func (b *Bridge) Shutdown(ctx context.Context) error {
	err := b.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, b.server.Close())
	}
	b.served.Wait()
	b.identities.drop()
	return err
}

// Forget has each caller authenticated again, for instance because files of users have
// changed.
func (b *Bridge) Forget() { b.identities.drop() }

// bridgeRoute is what serves a path.
type bridgeRoute struct {
	serve func(b *Bridge, c *call) error
	// open: whoever asks is not authenticated.
	open bool
	// emqx: errors have the form that EMQX gives them.
	emqx bool
	// stream: it goes on for longer than Options.Timeout, and doesn't count against
	// Options.Requests.
	stream bool
	// token: ?access_token= is as good as Authorization: Bearer, which a page can't set
	// for an EventSource.
	token bool
}

// table is all that there is.
func (b *Bridge) table() []route[bridgeRoute] {
	return []route[bridgeRoute]{
		{"POST", "/publish", bridgeRoute{serve: (*Bridge).publish}},
		{"GET", "/openapi.json", bridgeRoute{serve: (*Bridge).serveDocument, open: true}},
		{"GET", "/subscribe", bridgeRoute{serve: (*Bridge).subscribe, stream: true, token: true}},
		{"POST", "/subscribe", bridgeRoute{serve: (*Bridge).acknowledge, token: true}},
		{"DELETE", "/subscribe", bridgeRoute{serve: (*Bridge).endSession, token: true}},
		{"POST", "/request/{topic...}", bridgeRoute{serve: (*Bridge).request, stream: true}},
		{"POST", "/topics/{topic...}", bridgeRoute{serve: (*Bridge).publishTopic}},
		{"GET", "/topics/{topic...}", bridgeRoute{serve: (*Bridge).readTopic}},
		{"DELETE", "/topics/{topic...}", bridgeRoute{serve: (*Bridge).clearTopic}},
		{"POST", "/publish/bulk", bridgeRoute{serve: (*Bridge).publishBulk}},
		{"POST", "/api/v5/publish", bridgeRoute{serve: (*Bridge).emqxPublish, emqx: true}},
		{"POST", "/api/v5/publish/bulk", bridgeRoute{serve: (*Bridge).emqxPublishBulk, emqx: true}},
	}
}

// call is one request.
type call struct {
	w http.ResponseWriter
	r *http.Request
	// ctx bounds the time that answering may take. That the client goes away doesn't end
	// it, unless the route is a stream: the message is on its way.
	ctx    context.Context
	route  bridgeRoute
	caller *loopmq.Caller // nil if the route is open
}

// deadlines are contexts that many requests share, since one of its own, with a timer,
// is a good part of what a request costs.
type deadlines struct{ current atomic.Pointer[deadline] }

type deadline struct {
	context.Context
	cancel context.CancelFunc
	until  time.Time // it is given out
}

// next returns a context that ends after a timeout, or up to an eighth of it later.
func (d *deadlines) next(timeout time.Duration) context.Context {
	now := time.Now()
	last := d.current.Load()
	if last != nil && now.Before(last.until) {
		return last
	}
	share := timeout / 8
	fresh := &deadline{until: now.Add(share)}
	fresh.Context, fresh.cancel = context.WithDeadline(context.Background(), now.Add(timeout+share)) // its timer ends it
	if !d.current.CompareAndSwap(last, fresh) {
		fresh.cancel()
		return d.current.Load()
	}
	return fresh
}

// ServeHTTP answers one request.
func (b *Bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.metrics.HTTPRequests.Inc()
	c := &call{w: w, r: r, ctx: r.Context()}
	if err := b.answer(c); err != nil {
		b.fail(c, err)
	}
}

func (b *Bridge) answer(c *call) error {
	w, r := c.w, c.r
	if s := stateOf(r); s != nil && s.connection != nil {
		if err := s.over(); err != nil {
			w.Header().Set("Connection", "close")
			f := *faultOf(err) // of a quota: the client can do something about it
			f.status, f.reason, f.retryAfter = http.StatusTooManyRequests, metrics.HTTPRate, busyRetry
			return &f
		}
	}
	if b.loopback.Load() && !hostAllowed(r, b.opts.Hosts) {
		return faulty(http.StatusForbidden, metrics.HTTPHost, "the Host header is %q: allowed: an address, localhost, or a name that http.hosts lists", r.Host)
	}
	if over, err := b.cors(w, r); over || err != nil {
		return err
	}
	found, ok, allow := findRoute(b.routes, r)
	if !ok {
		if len(allow) == 0 {
			return faulty(http.StatusNotFound, metrics.HTTPNotFound, "there is no %s here", r.URL.Path)
		}
		methods := strings.Join(allow, ", ")
		w.Header().Set("Allow", methods)
		return faulty(http.StatusMethodNotAllowed, metrics.HTTPMethod, "allowed: %s", methods)
	}
	c.route = found
	if !found.stream {
		b.metrics.HTTPUnderWay.Inc()
		defer func() { b.underWay.Add(-1); b.metrics.HTTPUnderWay.Dec() }()
		if b.underWay.Add(1) > int64(b.opts.Requests) {
			return errBusy
		}
		c.ctx = b.deadlines.next(b.opts.Timeout)
	}
	if found.token {
		bearer(c.r)
	}
	if !found.open {
		var err error
		if c.caller, err = b.authenticate(c); err != nil {
			return err
		}
	}
	return found.serve(b, c)
}
