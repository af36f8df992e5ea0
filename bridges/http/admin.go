// Package httpbridge serves a Broker over HTTP. So far that is the [Admin]
// listener, for operators and their machines: metrics, health, and an API.
package httpbridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"loopmq"
	"loopmq/metrics"
	"loopmq/webhooks"
)

// The limits of the admin listener. Whoever asks for metrics or health needs
// little, so these are far above that and far below what would hurt the broker.
const (
	adminConnectionsMax    = 64
	adminHeaderBytesMax    = 8 << 10
	adminBodyBytesMax      = 512 << 10
	adminReadHeaderTimeout = 5 * time.Second
	adminReadTimeout       = 10 * time.Second
	adminCallTimeout       = 20 * time.Second // of what a request asks of the broker
	adminWriteTimeout      = 30 * time.Second
	adminIdleTimeout       = 60 * time.Second
)

// AdminOptions are what an [Admin] needs to know of its broker. The functions are
// called for each request, from several goroutines at once, and should return
// within milliseconds.
type AdminOptions struct {
	// Metrics is what /metrics writes, and where refused requests are counted. Required.
	Metrics *metrics.Set
	// Health returns what /health writes as JSON. Required.
	Health func() any
	// Ready returns nil if the broker takes connections, or why it doesn't; nil
	// means that it always does.
	Ready func() error
	// Live returns nil if the process works, or why it should be restarted; nil
	// means that it works as long as it answers.
	Live func() error
	// Broker returns what /api/v1 is about, or nil if there is none yet, and then Ready
	// says why. Nil: there is no API.
	Broker func() *loopmq.Broker
	// Bans are what /api/v1/bans reads and changes. Nil: there is no such path.
	Bans *BanFunctions
	// Webhooks returns what /api/v1/webhooks is about, or nil if there are none. Nil: there
	// are none.
	Webhooks func() *webhooks.Webhooks
	// Access says who may do what. See [Admin.SetAccess].
	Access Access
	// TLS is how the listener of Start speaks TLS; nil: it doesn't.
	TLS *tls.Config
	// Profiles adds /debug/pprof/, for the role write.
	Profiles bool
	// Logger gets what goes wrong, and a line for each request of the role write; nil
	// means slog.Default().
	Logger *slog.Logger
}

// Admin is the listener for operators. It answers GET and HEAD for
//
//	/metrics  metrics in Prometheus text format
//	/livez    200 if the process works, else 503: restart it
//	/readyz   200 if the broker takes connections, else 503: send clients elsewhere
//	/health   state of the broker as JSON; 200 or 503 as /readyz. A broker that
//	          is degraded but takes connections answers 200
//
// and below /api/v1 what /api/v1/openapi.json describes: lists and changes of
// clients, subscriptions, sessions, retained messages, bans, and nodes. Whatever is
// wrong is a problem (RFC 9457). [Access] says who may ask for what. Each request
// that changes something is a line of the log, admin_write. Connections beyond 64
// wait. Its methods are safe for concurrent use.
type Admin struct {
	opts     AdminOptions
	log      *slog.Logger
	routes   []route[adminRoute]
	access   atomic.Pointer[Access]
	failures *failures
	origins  *http.CrossOriginProtection
	loopback atomic.Bool // the listener of Start can be reached from this machine only
	server   *http.Server
	served   sync.WaitGroup // the goroutines of Start and StartUnix
}

// NewAdmin returns an Admin that isn't listening yet.
func NewAdmin(opts AdminOptions) *Admin {
	a := &Admin{
		opts:     opts,
		log:      cmp.Or(opts.Logger, slog.Default()),
		failures: newFailures(),
		origins:  http.NewCrossOriginProtection(),
	}
	a.loopback.Store(true)
	a.SetAccess(opts.Access)
	a.routes = a.monitoringRoutes()
	if opts.Broker != nil {
		a.routes = append(a.routes, a.apiRoutes()...)
	}
	if opts.Profiles {
		a.routes = append(a.routes, profileRoutes()...)
	}
	a.server = &http.Server{
		Handler:           a,
		TLSConfig:         opts.TLS,
		MaxHeaderBytes:    adminHeaderBytesMax,
		ReadHeaderTimeout: adminReadHeaderTimeout,
		ReadTimeout:       adminReadTimeout,
		WriteTimeout:      adminWriteTimeout,
		IdleTimeout:       adminIdleTimeout,
		// What a client does wrong is no news to the operator.
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	return a
}

// Start listens on a TCP address and serves it until Shutdown. It returns the
// address that it is bound to, which has the port if addr asked for any (port
// 0), or one error if it can't listen there. Call it once.
func (a *Admin) Start(addr string) (net.Addr, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, cannotListen(addr, err)
	}
	a.loopback.Store(listener.Addr().(*net.TCPAddr).IP.IsLoopback())
	a.serve(listener, a.opts.TLS != nil)
	return listener.Addr(), nil
}

func cannotListen(addr string, err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) { // Leaves out "listen tcp", the address again, and "bind".
		err = sys.Err
	}
	return fmt.Errorf("listen on %s: %w", addr, err)
}

func (a *Admin) serve(listener net.Listener, encrypted bool) {
	a.served.Go(func() {
		var err error
		if limited := netutil.LimitListener(listener, adminConnectionsMax); encrypted {
			err = a.server.ServeTLS(limited, "", "")
		} else {
			err = a.server.Serve(limited)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("admin_listener_failed", "addr", listener.Addr().String(), "error", err)
		}
	})
}

// Shutdown stops listening, lets requests finish, and returns when all
// connections are closed. Those that are still open when ctx ends are cut off,
// and the error of ctx is returned.
func (a *Admin) Shutdown(ctx context.Context) error {
	err := a.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, a.server.Close())
	}
	a.served.Wait()
	return err
}

// adminRoute is what serves a path, and which role that takes.
type adminRoute struct {
	role  Role
	serve func(w *answer, r *http.Request)
}

// answer is a response, and what the log says of it.
type answer struct {
	http.ResponseWriter
	status int
	notes  []any // attributes of the log
}

// WriteHeader notes the status.
func (w *answer) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// note adds an attribute to the line of the log.
func (w *answer) note(key string, value any) { w.notes = append(w.notes, key, value) }

// ServeHTTP answers one request.
func (a *Admin) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &answer{ResponseWriter: rw, status: http.StatusOK}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	access := a.access.Load()
	if !a.meant(w, r, access) {
		return
	}
	found, ok, allow := findRoute(a.routes, r)
	if !ok {
		writeNoRoute(w, r, allow)
		return
	}
	who, ok := a.admit(w, r, access, found.role)
	if !ok {
		return
	}
	r.Body = http.MaxBytesReader(rw, r.Body, adminBodyBytesMax)
	found.serve(w, r)
	if found.role == RoleWrite {
		a.audit(w, r, who)
	}
}

// audit writes who did what, from where, and what came of it.
func (a *Admin) audit(w *answer, r *http.Request, who string) {
	a.log.LogAttrs(r.Context(), slog.LevelInfo, "admin_write", append([]slog.Attr{
		slog.String("actor", who), slog.String("remote_addr", r.RemoteAddr), slog.String("method", r.Method),
		slog.String("path", r.URL.EscapedPath()), slog.Int("status", w.status),
	}, slog.Group("", w.notes...))...)
}

func (a *Admin) monitoringRoutes() []route[adminRoute] {
	return []route[adminRoute]{
		{"GET", "/metrics", adminRoute{roleMonitor, a.serveMetrics}},
		{"GET", "/livez", adminRoute{roleAnybody, serveCheck(a.opts.Live)}},
		{"GET", "/readyz", adminRoute{roleAnybody, serveCheck(a.opts.Ready)}},
		{"GET", "/health", adminRoute{roleMonitor, a.serveHealth}},
	}
}

func (a *Admin) serveMetrics(w *answer, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	a.opts.Metrics.WritePrometheus(w)
}

func serveCheck(check func() error) func(*answer, *http.Request) {
	return func(w *answer, _ *http.Request) {
		if err := run(check); err != nil {
			writeProblem(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		write(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
	}
}

func (a *Admin) serveHealth(w *answer, _ *http.Request) {
	body, err := json.Marshal(a.opts.Health())
	if err != nil {
		a.log.Error("health_failed", "error", err)
		writeProblem(w, http.StatusInternalServerError, "the state of the broker can't be written as JSON")
		return
	}
	status := http.StatusOK
	if run(a.opts.Ready) != nil {
		status = http.StatusServiceUnavailable
	}
	write(w, status, "application/json", append(body, '\n'))
}

func run(check func() error) error {
	if check == nil {
		return nil
	}
	return check()
}
