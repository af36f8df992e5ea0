package coapbridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"

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
	// Listener is the name that ConnectRequest and ClientInfo have; default "coap".
	Listener string
	// DTLS is how StartDTLS serves; nil: it can't be called.
	DTLS *DTLSOptions

	// Peers is how many addresses may be known at one time; requests of others are ignored.
	// Default 100,000.
	Peers int
	// Inactivity is after how long without a word an address, or a connection, is forgotten.
	// Observers are asked first whether they are there. Default 5 min.
	Inactivity time.Duration
	// Requests that are answered at one time, or wait for their turn; more are refused
	// (5.03). Default 16,384.
	Requests int
	// Exchanges is how many requests are known again when they are repeated, which is for
	// 247 s unless there are more than this. Default 1,000,000.
	Exchanges int
	// BodyBytes bounds the body of a request that comes in blocks. Default 4 MiB.
	BodyBytes int
	// BodiesBytes bounds all bodies that come or go in blocks, of which one peer may have a
	// quarter, but one body at least. Default 64 MiB.
	BodiesBytes int
	// Timeout bounds the time that a request may take. Default 30 s.
	Timeout time.Duration
	// IdentityTTL is for how long a peer is known without asking the Authenticator again.
	// Default a minute.
	IdentityTTL time.Duration

	// Connections and Observations bound those, ObservationsPerPeer the ones of one address.
	// Default 100,000, 100,000 and 100.
	Connections, Observations, ObservationsPerPeer int
	// QueueMessages and QueueBytes bound what waits for one observation: QoS 0 messages are
	// dropped then, others wait in the session. Default 64 and 256 KiB.
	QueueMessages, QueueBytes int

	// AckTimeout, MaxRetransmit and NStart are the parameters of these names. Default 2 s,
	// 4 and 1. [RFC 7252, 4.8]
	AckTimeout    time.Duration
	MaxRetransmit int
	NStart        int

	resume time.Duration // resumeTimeout, but in tests

	// Metrics is where requests are counted; default: the Broker's.
	Metrics *metrics.Set
	// Logger gets what goes wrong; nil means slog.Default().
	Logger *slog.Logger
}

// DTLSOptions are how clients are known by their keys. What a handshake has shown is the
// MQTT user, and no password is asked for.
type DTLSOptions struct {
	// Keys returns the key of a PSK identity, nil if it isn't known. It must not block. nil:
	// there are no such clients.
	Keys func(identity string) []byte
	// TLS has the server's certificates, and how clients' are looked at; what
	// GetConfigForClient returns holds for each handshake. nil: clients need a key.
	TLS *tls.Config
	// Authenticator judges whom the handshake has named: Username is the PSK identity, or
	// TLS has the client's certificate. Default: it is the identity, or the certificate's
	// CN.
	Authenticator loopmq.Authenticator
	// HandshakeTimeout is how long a handshake may take; default 10 s. Handshakes is how many
	// may be under way; default 1024.
	HandshakeTimeout time.Duration
	Handshakes       int
}

func (o *Options) setDefaults() {
	o.Listener = cmp.Or(o.Listener, "coap")
	o.Peers = cmp.Or(o.Peers, 100_000)
	o.Inactivity = cmp.Or(o.Inactivity, 5*time.Minute)
	o.Requests = cmp.Or(o.Requests, 16384)
	o.Exchanges = cmp.Or(o.Exchanges, 1_000_000)
	o.BodyBytes = cmp.Or(o.BodyBytes, 4<<20)
	o.BodiesBytes = max(cmp.Or(o.BodiesBytes, 64<<20), o.BodyBytes)
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.IdentityTTL = cmp.Or(o.IdentityTTL, time.Minute)
	o.Connections = cmp.Or(o.Connections, 100_000)
	o.Observations = cmp.Or(o.Observations, 100_000)
	o.ObservationsPerPeer = cmp.Or(o.ObservationsPerPeer, 100)
	o.QueueMessages = cmp.Or(o.QueueMessages, 64)
	o.QueueBytes = cmp.Or(o.QueueBytes, 256<<10)
	o.AckTimeout = cmp.Or(o.AckTimeout, 2*time.Second)
	o.MaxRetransmit = cmp.Or(o.MaxRetransmit, 4)
	o.NStart = cmp.Or(o.NStart, 1)
	o.resume = cmp.Or(o.resume, resumeTimeout)
	o.Metrics = cmp.Or(o.Metrics, o.Broker.Metrics())
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.DTLS != nil {
		d := *o.DTLS
		d.HandshakeTimeout = cmp.Or(d.HandshakeTimeout, 10*time.Second)
		d.Handshakes = cmp.Or(d.Handshakes, 1024)
		o.DTLS = &d
	}
}

// Bridge translates CoAP requests into calls of a Broker. Its methods are safe for
// concurrent use.
type Bridge struct {
	opts    Options
	broker  *loopmq.Broker
	log     *slog.Logger
	metrics *metrics.Set
	seed    maphash.Seed

	peers        atomic.Int64
	requests     atomic.Int64 // under way, or waiting
	exchanges    atomic.Int64
	observations atomic.Int64
	verifying    atomic.Int64
	handshakes   handshakes
	generation   atomic.Int64 // of what is known of identities
	bodies       budget
	connections  connections
	senders      senders

	stopping chan struct{}   // closed when Shutdown is called
	answered chan struct{}   // closed when what was under way then is over
	ctx      context.Context // of requests
	cancel   context.CancelFunc
	work     sync.WaitGroup // sockets, requests
	sessions sync.WaitGroup // of DTLS

	// stopContext ends when Shutdown is called.
	stopContext context.Context
	stop        context.CancelFunc

	mu struct {
		sync.Mutex
		endpoints []*endpoint
		stopped   bool
	}
}

// sweepInterval is how often what is over is looked for.
const sweepInterval = time.Second

// New returns a Bridge that isn't listening yet.
func New(o Options) *Bridge {
	o.setDefaults()
	b := &Bridge{opts: o, broker: o.Broker, log: o.Logger, metrics: o.Metrics, seed: maphash.MakeSeed(), stopping: make(chan struct{}), answered: make(chan struct{})}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.stopContext, b.stop = context.WithCancel(context.Background())
	b.bodies.limit = int64(o.BodiesBytes)
	b.connections.all = make(map[string]*connection)
	b.senders.start(b)
	b.work.Go(b.sweep)
	return b
}

// Start serves CoAP on a UDP address until Shutdown. It returns the address that it is
// bound to, which has the port if addr asked for any (port 0).
func (b *Bridge) Start(addr string) (net.Addr, error) { return b.listen(addr, nil) }

// StartDTLS is Start for CoAP over DTLS 1.2, as Options.DTLS says.
func (b *Bridge) StartDTLS(addr string) (net.Addr, error) {
	s, err := newSecurity(b.opts.DTLS)
	if err != nil {
		return nil, err
	}
	return b.listen(addr, s)
}

// receiveBuffer is what the kernel is asked to keep of datagrams that come at once.
const receiveBuffer = 4 << 20

func (b *Bridge) listen(addr string, s *security) (net.Addr, error) {
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("coap: listen on %q: %w", addr, err)
	}
	conn, err := net.ListenUDP("udp", at)
	if err != nil {
		return nil, fmt.Errorf("coap: %w", err)
	}
	_ = conn.SetReadBuffer(receiveBuffer) // It works without, too.
	e := &endpoint{b: b, conn: conn, security: s}
	e.mu.peers, e.mu.returning = make(map[addrPort]*peer), make(map[addrPort]*peer)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.stopped {
		return nil, errors.Join(errStopping, conn.Close())
	}
	b.mu.endpoints = append(b.mu.endpoints, e)
	b.work.Go(e.serve)
	return conn.LocalAddr(), nil
}

// Shutdown stops listening, tells observers that it is over, and returns when all
// requests are answered. Those that are still under way when ctx ends are given up, and
// the error of ctx is returned.
func (b *Bridge) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	first := !b.mu.stopped
	b.mu.stopped = true
	endpoints := b.mu.endpoints
	b.mu.Unlock()
	if !first {
		return nil
	}
	close(b.stopping)
	b.stop()
	for _, e := range endpoints {
		e.end()
	}
	stopped := make(chan struct{})
	go func() {
		b.work.Wait()
		close(stopped)
	}()
	var err error
	select {
	case <-stopped:
	case <-ctx.Done():
		err = ctx.Err()
		b.cancel()
		<-stopped
	}
	b.cancel()
	close(b.answered)
	b.sessions.Wait()
	b.connections.endAll(b)
	b.senders.stop()
	for _, e := range endpoints {
		err = errors.Join(err, e.close())
	}
	return err
}

// Forget has each caller authenticated again, for instance because files of users have
// changed. DTLS sessions end whose key isn't what it was, or whose client the Broker has
// disconnected, say because its certificate was revoked.
func (b *Bridge) Forget() {
	b.generation.Add(1)
	b.mu.Lock()
	endpoints := b.mu.endpoints
	b.mu.Unlock()
	for _, e := range endpoints {
		for _, p := range e.all() {
			if e.security != nil && !p.holds() {
				p.end(metrics.CoAPDisconnected)
			}
		}
	}
}

// run runs f in a goroutine that Shutdown waits for. false: the Bridge has stopped.
func (b *Bridge) run(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.mu.stopped {
		b.work.Go(f)
	}
	return !b.mu.stopped
}

// background runs f, unless the Bridge has stopped.
func (b *Bridge) background(f func(context.Context)) {
	b.run(func() {
		ctx, cancel := context.WithTimeout(b.ctx, b.opts.Timeout)
		defer cancel()
		f(ctx)
	})
}

// sweep looks for what is over, until the Bridge stops.
func (b *Bridge) sweep() {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case <-b.stopping:
			return
		case now := <-t.C:
			b.mu.Lock()
			endpoints := b.mu.endpoints
			b.mu.Unlock()
			for _, e := range endpoints {
				for _, p := range e.all() {
					p.sweep(now)
				}
			}
			b.connections.sweep(b, now)
		}
	}
}

// call is a request that is being answered.
type call struct {
	*request
	p      *peer
	ctx    context.Context
	caller *loopmq.Caller
	// connection is the one that the request's token is of; nil: it has none.
	connection *connection
}

// answer answers one request.
func (b *Bridge) answer(p *peer, m *request) (*response, error) {
	select {
	case <-b.stopping:
		return nil, errStopping
	default:
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.opts.Timeout)
	defer cancel()
	c := &call{request: m, p: p, ctx: ctx}
	serve, err := b.route(m)
	if err != nil {
		return nil, err
	}
	return serve(b, c)
}

type handler func(b *Bridge, c *call) (*response, error)

// route returns what serves a request.
func (b *Bridge) route(m *request) (handler, error) {
	path, method := m.path, m.message.Code
	at := func(parts ...string) bool {
		if len(path) != len(parts) {
			return false
		}
		for i := range parts {
			if path[i] != parts[i] {
				return false
			}
		}
		return true
	}
	var methods map[codes.Code]handler
	switch {
	case len(path) > 1 && path[0] == "ps":
		methods = topicMethods
	case len(path) > 2 && path[0] == "mqtt" && path[1] == "publish":
		methods = publishMethods
	case at("mqtt", "connection"):
		methods = connectionMethods
	case at("health"):
		methods = healthMethods
	case at(".well-known", "core"):
		methods = coreMethods
	default:
		return nil, faulty(codes.NotFound, metrics.CoAPNotFound, "there is no such path")
	}
	if h := methods[method]; h != nil {
		return h, nil
	}
	return nil, faulty(codes.MethodNotAllowed, metrics.CoAPMethod, "the path doesn't have this method")
}

var (
	topicMethods = map[codes.Code]handler{
		codes.POST: publisher(1, false), codes.PUT: publisher(1, false), codes.GET: (*Bridge).read, codes.DELETE: publisher(1, true),
	}
	publishMethods    = map[codes.Code]handler{codes.POST: publisher(2, false)}
	connectionMethods = map[codes.Code]handler{codes.POST: (*Bridge).connect, codes.PUT: (*Bridge).heartbeat, codes.DELETE: (*Bridge).disconnect}
	healthMethods     = map[codes.Code]handler{codes.GET: (*Bridge).health}
	coreMethods       = map[codes.Code]handler{codes.GET: (*Bridge).core}
)
