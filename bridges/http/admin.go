// Package httpbridge serves a Broker over HTTP. So far that is the [Admin]
// listener, for operators and their machines: metrics and health.
package httpbridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"loopmq/metrics"
)

// The limits of the admin listener. Whoever asks for metrics or health needs
// little, so these are far above that and far below what would hurt the broker.
const (
	adminConnectionsMax    = 64
	adminHeaderBytesMax    = 8 << 10
	adminReadHeaderTimeout = 5 * time.Second
	adminReadTimeout       = 10 * time.Second
	adminWriteTimeout      = 30 * time.Second
	adminIdleTimeout       = 60 * time.Second
)

// AdminOptions are what an [Admin] needs to know of its broker. The functions are
// called for each request, from several goroutines at once, and should return
// within milliseconds.
type AdminOptions struct {
	// Metrics is what /metrics writes. Required.
	Metrics *metrics.Set
	// Health returns what /health writes as JSON. Required.
	Health func() any
	// Ready returns nil if the broker takes connections, or why it doesn't; nil
	// means that it always does.
	Ready func() error
	// Live returns nil if the process works, or why it should be restarted; nil
	// means that it works as long as it answers.
	Live func() error
	// Clients returns what /clients writes as JSON: up to limit connected clients of
	// all nodes behind a ClientID, in order. Nil: there is no such list.
	Clients func(ctx context.Context, afterClientID string, limit int) (clients any, err error)
	// Kick ends the connection of a client, at whichever node it is. ErrNoClient: it is
	// connected at none. Nil: that can't be done.
	Kick func(ctx context.Context, clientID string) error
	// Bans are what /bans reads and changes. Nil: there is no such path.
	Bans *BanFunctions
	// Logger gets what goes wrong; nil means slog.Default().
	Logger *slog.Logger
}

// ErrNoClient is what AdminOptions.Kick returns for a client that isn't connected.
var ErrNoClient = errors.New("not connected")

// listMax is how many clients or bans one answer lists.
const listMax = 1000

// Admin is the listener for operators. It answers GET and HEAD for
//
//	/metrics  metrics in Prometheus text format
//	/livez    200 if the process works, else 503: restart it
//	/readyz   200 if the broker takes connections, else 503: send clients elsewhere
//	/health   state of the broker as JSON; 200 or 503 as /readyz. A broker that
//	          is degraded but takes connections answers 200
//	/clients  connected clients of all nodes as JSON: ?after=CLIENTID&limit=N
//	/bans     bans of this node as JSON: ?after=KIND/VALUE&limit=N
//
// POST of a [Ban] as application/json for
//
//	/bans     adds it: 204, or 400
//
// DELETE for
//
//	/clients/{ClientID}   ends that client's connection, wherever it is: 204, or 404
//	/bans/{kind}/{value}  removes a ban that was added at run time: 204, or 404
//
// and everything else with a problem (RFC 9457). It has no authentication, so
// it belongs on a loopback address or a network of the operator's own.
// Connections beyond 64 wait. Its methods are safe for concurrent use.
type Admin struct {
	opts   AdminOptions
	log    *slog.Logger
	server *http.Server
	served chan struct{} // Closed when the goroutine of Start has ended.
}

// NewAdmin returns an Admin that isn't listening yet.
func NewAdmin(opts AdminOptions) *Admin {
	a := &Admin{
		opts:   opts,
		log:    cmp.Or(opts.Logger, slog.Default()),
		served: make(chan struct{}),
	}
	a.server = &http.Server{
		Handler:           a,
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
		var sys *os.SyscallError
		if errors.As(err, &sys) { // Leaves out "listen tcp", the address again, and "bind".
			err = sys.Err
		}
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	go func() {
		defer close(a.served)
		err := a.server.Serve(netutil.LimitListener(listener, adminConnectionsMax))
		if !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("admin_listener_failed", "addr", listener.Addr().String(), "error", err)
		}
	}()
	return listener.Addr(), nil
}

// Shutdown stops listening, lets requests finish, and returns when all
// connections are closed. Those that are still open when ctx ends are cut off,
// and the error of ctx is returned. Call it only after Start succeeded.
func (a *Admin) Shutdown(ctx context.Context) error {
	err := a.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, a.server.Close())
	}
	<-a.served
	return err
}

// ServeHTTP answers one request.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if clientID, ok := strings.CutPrefix(r.URL.Path, "/clients/"); ok && clientID != "" && a.opts.Kick != nil {
		a.serveKick(w, r, clientID)
		return
	}
	if a.opts.Bans != nil && (r.URL.Path == "/bans" && r.Method == http.MethodPost || strings.HasPrefix(r.URL.Path, "/bans/")) {
		a.changeBans(w, r)
		return
	}
	var serve http.HandlerFunc
	switch r.URL.Path {
	case "/metrics":
		serve = a.serveMetrics
	case "/livez":
		serve = serveCheck(a.opts.Live)
	case "/readyz":
		serve = serveCheck(a.opts.Ready)
	case "/health":
		serve = a.serveHealth
	case "/clients":
		serve = a.serveClients
	case "/bans":
		serve = a.serveBans
	default:
		writeProblem(w, http.StatusNotFound, "there are /metrics, /livez, /readyz, /health, /clients and /bans")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeProblem(w, http.StatusMethodNotAllowed, "allowed: GET, HEAD")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	serve(w, r)
}

func (a *Admin) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	a.opts.Metrics.WritePrometheus(w)
}

func (a *Admin) serveClients(w http.ResponseWriter, r *http.Request) {
	limit, ok := limitOf(w, r)
	if !ok {
		return
	}
	if a.opts.Clients == nil {
		writeProblem(w, http.StatusNotFound, "this broker has no list of clients")
		return
	}
	clients, err := a.opts.Clients(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	body, err := json.Marshal(clients)
	if err != nil {
		writeProblem(w, http.StatusInternalServerError, "the list of clients can't be written as JSON")
		return
	}
	write(w, http.StatusOK, "application/json", append(body, '\n'))
}

// limitOf returns how many elements of a list are asked for, or says what is wrong.
func limitOf(w http.ResponseWriter, r *http.Request) (int, bool) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return listMax, true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > listMax {
		writeProblem(w, http.StatusBadRequest, fmt.Sprintf("limit is %q; allowed: 1 to %d", text, listMax))
		return 0, false
	}
	return n, true
}

func (a *Admin) serveKick(w http.ResponseWriter, r *http.Request, clientID string) {
	if r.Method != http.MethodDelete {
		w.Header().Set("Allow", "DELETE")
		writeProblem(w, http.StatusMethodNotAllowed, "allowed: DELETE")
		return
	}
	switch err := a.opts.Kick(r.Context(), clientID); {
	case errors.Is(err, ErrNoClient):
		writeProblem(w, http.StatusNotFound, fmt.Sprintf("%q is not connected", clientID))
	case err != nil:
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func serveCheck(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := run(check); err != nil {
			writeProblem(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		write(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
	}
}

func (a *Admin) serveHealth(w http.ResponseWriter, _ *http.Request) {
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

// problem is the JSON of an error. (RFC 9457)
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

func writeProblem(w http.ResponseWriter, status int, detail string) {
	// Marshal can't fail on strings and a number.
	body, _ := json.Marshal(problem{http.StatusText(status), status, detail})
	write(w, status, "application/problem+json", append(body, '\n'))
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// If the client has gone there is nobody left to tell.
	_, _ = w.Write(body)
}
