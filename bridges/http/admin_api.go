package httpbridge

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"loopmq"
)

// openAPI describes the API. A test holds it against the routes and their answers.
//
//go:embed admin_openapi.json
var openAPI []byte

// How many elements an answer lists.
const (
	limitStandard = 100
	limitMax      = 1000
)

// apiRoutes are the paths below /api/v1.
func (a *Admin) apiRoutes() []route[adminRoute] {
	read := func(pattern string, serve func(*answer, *http.Request)) route[adminRoute] {
		return route[adminRoute]{"GET", "/api/v1" + pattern, adminRoute{RoleRead, serve}}
	}
	change := func(method, pattern string, serve func(*answer, *http.Request)) route[adminRoute] {
		return route[adminRoute]{method, "/api/v1" + pattern, adminRoute{RoleWrite, serve}}
	}
	return []route[adminRoute]{
		{"GET", "/api/v1/openapi.json", adminRoute{roleAnybody, serveOpenAPI}},
		read("/clients", a.listClients),
		read("/clients/{client_id}", a.showClient),
		change("DELETE", "/clients/{client_id}", a.kickClient),
		read("/clients/{client_id}/subscriptions", a.listSubscriptionsOf),
		read("/subscriptions", a.listSubscriptions),
		read("/sessions", a.listSessions),
		read("/sessions/{client_id}", a.showClient),
		change("DELETE", "/sessions/{client_id}", a.deleteSession),
		read("/retained", a.listRetained),
		read("/retained/{topic...}", a.showRetained),
		change("DELETE", "/retained/{topic...}", a.deleteRetained),
		read("/bans", a.listBans),
		change("POST", "/bans", a.addBan),
		change("DELETE", "/bans/{kind}/{value...}", a.removeBan),
		read("/nodes", a.listNodes),
		change("POST", "/nodes/{node}/drain", a.drainNode),
		change("DELETE", "/nodes/{node}/drain", a.undrainNode),
		read("/counters", a.showCounters),
		read("/webhooks", a.listWebhooks),
		read("/webhooks/{name}", a.showWebhook),
		change("DELETE", "/webhooks/{name}", a.forgetWebhook),
		change("POST", "/webhooks/{name}/enable", a.enableWebhook),
		change("POST", "/webhooks/{name}/disable", a.disableWebhook),
		read("/webhooks/{name}/dead", a.listDead),
		change("POST", "/webhooks/{name}/dead/replay", a.replayDead),
		change("POST", "/webhooks/{name}/dead/drop", a.dropDead),
		read("/webhooks/{name}/dead/{id}", a.showDead),
	}
}

func serveOpenAPI(w *answer, _ *http.Request) {
	write(w, http.StatusOK, "application/json", openAPI)
}

// page is the answer to a request for a list. A cursor is where the next page begins;
// without one this page is the last. Pages may be short, even empty, before the last:
// a filter looks at so many elements and no more for each.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// listQuery is which page a request asks for: up to limit elements behind the cursor,
// which is next of the page before, or empty for the first one.
type listQuery struct {
	cursor string
	limit  int
}

// listQueryOf returns which page a request asks for, or answers what is wrong with it.
// filters are the parameters that it may have besides: one that is spelled wrongly would
// list too much.
func listQueryOf(w *answer, r *http.Request, filters []string) (q listQuery, ok bool) {
	values := r.URL.Query()
	for name := range values {
		if name != "limit" && name != "cursor" && !slices.Contains(filters, name) {
			allowed := strings.Join(append([]string{"limit", "cursor"}, filters...), ", ")
			writeProblem(w, http.StatusBadRequest, fmt.Sprintf("%q: allowed: %s", name, allowed))
			return q, false
		}
	}
	q = listQuery{values.Get("cursor"), limitStandard}
	if text := values.Get("limit"); text != "" {
		var err error
		if q.limit, err = strconv.Atoi(text); err != nil || q.limit < 1 || q.limit > limitMax {
			writeProblem(w, http.StatusBadRequest, fmt.Sprintf("limit is %q: allowed: 1 to %d", text, limitMax))
			return q, false
		}
	}
	return q, true
}

// list answers with the page that read returns, and where the next one begins.
func list[T any](a *Admin, w *answer, r *http.Request, filters []string, read func(ctx context.Context, b *loopmq.Broker, q listQuery) ([]T, string, error)) {
	q, ok := listQueryOf(w, r, filters)
	if !ok {
		return
	}
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		items, next, err := read(ctx, b, q)
		if err != nil {
			return err
		}
		if items == nil {
			items = []T{}
		}
		writeJSON(w, http.StatusOK, page[T]{items, next})
		return nil
	})
}

// noContent answers that something is done, unless there is an error.
func noContent(w *answer, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// call has f ask the broker, if there is one, and answer unless there is an error.
func (a *Admin) call(w *answer, r *http.Request, f func(ctx context.Context, b *loopmq.Broker) error) {
	b := a.opts.Broker()
	if b == nil {
		err := run(a.opts.Ready)
		writeProblem(w, http.StatusServiceUnavailable, fmt.Sprintf("there is no broker yet: %v", err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), adminCallTimeout)
	defer cancel()
	if err := f(ctx, b); err != nil {
		a.failed(w, err)
	}
}

// refusal is an error that has a status of its own.
type refusal struct {
	status int
	detail string
}

func (e *refusal) Error() string { return e.detail }

// refused returns an error that is answered with a status.
func refused(status int, format string, a ...any) error {
	return &refusal{status, fmt.Sprintf(format, a...)}
}

// failed answers with an error.
func (a *Admin) failed(w *answer, err error) {
	var r *refusal
	switch {
	case errors.As(err, &r):
		writeProblem(w, r.status, r.detail)
	case errors.Is(err, context.DeadlineExceeded):
		writeProblem(w, http.StatusServiceUnavailable, "it took too long: "+err.Error())
	default:
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
	}
}

// readJSON reads the body of a request, or answers what is wrong with it. what says what
// it should be.
func readJSON(w *answer, r *http.Request, what string, v any) bool {
	// A page of another site can't send this type without asking first.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		writeProblem(w, http.StatusUnsupportedMediaType, "the body has to be application/json")
		return false
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		writeProblem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", large.Limit))
	case err != nil:
		writeProblem(w, http.StatusBadRequest, "not "+what+" as JSON: "+err.Error())
	case d.More():
		writeProblem(w, http.StatusBadRequest, "there is something behind "+what)
	}
	return err == nil && !d.More()
}
