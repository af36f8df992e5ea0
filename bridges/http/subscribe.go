package httpbridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

const (
	// filtersMax is how many Topic Filters a stream may have.
	filtersMax = 100
	// sessionExpiry is how long, in seconds, a named session outlives its stream unless
	// it is said.
	sessionExpiry = 3600
	// connectTimeout bounds the time until a stream begins.
	connectTimeout = 15 * time.Second
	// sessionNameMax is the length of a session's name.
	sessionNameMax = 64
)

// streams are those that are open.
type streams struct {
	open *metrics.Count

	mu     sync.Mutex
	all    int
	byUser map[string]int
	byAddr map[netip.Addr]int
}

// errTooManyStreams is the answer to one stream too many.
func errTooManyStreams(whose string) error {
	return &fault{
		status: http.StatusTooManyRequests, reason: metrics.HTTPRate, code: codec.QuotaExceeded,
		detail: "too many streams of " + whose + " are open", retryAfter: busyRetry,
	}
}

// enter counts a stream; leave takes it back.
func (ss *streams) enter(o *StreamOptions, user string, addr netip.Addr) (leave func(), err error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case ss.all >= o.Max:
		return nil, &fault{status: http.StatusServiceUnavailable, reason: metrics.HTTPBusy, detail: "too many streams are open", retryAfter: busyRetry}
	case ss.byUser[user] >= o.PerUser && user != "":
		return nil, errTooManyStreams("this user")
	case ss.byAddr[addr] >= o.PerAddress:
		return nil, errTooManyStreams("this address")
	}
	ss.all++
	ss.open.Inc()
	ss.byUser[user]++
	ss.byAddr[addr]++
	return func() {
		ss.mu.Lock()
		defer ss.mu.Unlock()
		ss.all--
		ss.open.Dec()
		if ss.byUser[user]--; ss.byUser[user] == 0 {
			delete(ss.byUser, user)
		}
		if ss.byAddr[addr]--; ss.byAddr[addr] == 0 {
			delete(ss.byAddr, addr)
		}
	}, nil
}

// subscription is what the query of GET /subscribe asks for.
type subscription struct {
	filters       []string
	options       codec.SubscriptionOptions
	session       string
	expiry        uint32
	format        eventFormat
	lastDelivered loopmq.DeliveryID
}

var (
	retainHandlings = map[string]byte{"": 1, "new": 1, "all": 0, "none": 2}
	formats         = map[string]bool{"": false, "json": false, "payload": true}
)

// parseSubscription reads the query of GET /subscribe.
func parseSubscription(r *http.Request) (*subscription, error) {
	q, err := query(r, "filter", "qos", "session", "expiry", "retained", "format", "payload", "last_event_id")
	if err != nil {
		return nil, err
	}
	s := &subscription{filters: slices.Compact(slices.Sorted(slices.Values(q["filter"])))}
	if s.session, err = sessionName(q); err != nil {
		return nil, err
	}
	named := s.session != ""
	standard := byte(0)
	if named {
		standard = 1
	}
	if s.options.QoS, err = parseQoS(q.Get("qos"), standard); err != nil {
		return nil, err
	}
	if expiry := q.Get("expiry"); named || expiry != "" {
		s.expiry = sessionExpiry
		if expiry != "" {
			n, err := strconv.ParseUint(expiry, 10, 32)
			if err != nil || n == 0 || !named {
				return nil, badRequest("expiry is %q: allowed, with a session: 1 to 4294967295, in seconds", expiry)
			}
			s.expiry = uint32(n)
		}
	}
	var ok bool
	if s.options.RetainHandling, ok = retainHandlings[q.Get("retained")]; !ok {
		return nil, badRequest("retained is %q: allowed: new, all, none", q.Get("retained"))
	}
	if s.format.payload, ok = payloadForms[q.Get("payload")]; !ok {
		return nil, badRequest("payload is %q: allowed: auto, plain, base64, json", q.Get("payload"))
	}
	if s.format.payloadOnly, ok = formats[q.Get("format")]; !ok {
		return nil, badRequest("format is %q: allowed: json, payload", q.Get("format"))
	}
	s.format.ids = named
	if !named && len(s.filters) == 0 || len(s.filters) > filtersMax {
		return nil, badRequest("there are %d filters: allowed: 1 to %d; none only with a session that has some", len(s.filters), filtersMax)
	}
	for _, f := range s.filters {
		if !codec.ValidTopicFilter([]byte(f)) {
			return nil, badRequest("filter is %q, which is not a valid Topic Filter", f)
		}
	}
	if s.lastDelivered, err = lastDelivered(r, q); err == nil && !named && !s.lastDelivered.IsZero() {
		s.lastDelivered = loopmq.DeliveryID{} // a page has changed its URL: no session knows it
	}
	return s, err
}

// query returns the query of a request, which may have the named parameters.
func query(r *http.Request, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query can't be read: %v", err)
	}
	for name, values := range q {
		if !slices.Contains(names, name) {
			return nil, badRequest("the query has %q: allowed: %s", name, strings.Join(names, ", "))
		}
		if name != "filter" && len(values) > 1 {
			return nil, badRequest("the query has %q more than once", name)
		}
	}
	return q, nil
}

// sessionName returns the name of a session: of letters, digits, and -_.
func sessionName(q url.Values) (string, error) {
	name := q.Get("session")
	ok := len(name) <= sessionNameMax && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
	if !ok || q.Has("session") && name == "" {
		return "", badRequest("session is %q: allowed: 1 to %d letters, digits, - _ and .", name, sessionNameMax)
	}
	return name, nil
}

// lastDelivered returns the last event that a client has, of an earlier stream.
func lastDelivered(r *http.Request, q url.Values) (id loopmq.DeliveryID, err error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = q.Get("last_event_id")
	}
	if text == "" {
		return id, nil
	}
	if id, err = loopmq.ParseDeliveryID(text); err != nil {
		return id, badRequest("the last event ID is %q, which no event had", text)
	}
	return id, nil
}

// clientID returns the Client Identifier of a user's session. Connections of the network
// can't have it, and the name has no slash, so that no user has another's.
func (c *call) clientID(session string) string {
	return loopmq.LocalClientIDs + "http/" + c.caller.Info().Username + "/" + session
}

// subscribe is GET /subscribe.
func (b *Bridge) subscribe(c *call) error {
	sub, err := parseSubscription(c.r)
	if err != nil {
		return err
	}
	from, err := b.clientAddr(c.r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), connectTimeout)
	defer cancel()
	clientID := c.clientID(cmp.Or(sub.session, "~"+rand.Text()))
	for _, f := range sub.filters { // before there is a session that would have to end again
		if !c.mayRead(ctx, clientID, f, sub.options.QoS) {
			return &fault{status: http.StatusForbidden, reason: metrics.HTTPNotAuthorized, code: codec.NotAuthorized, detail: fmt.Sprintf("not authorized to subscribe to %q, or to be sent its messages", f)}
		}
	}
	if c.r.Method == http.MethodHead {
		streamHeader(c.w.Header())
		return nil
	}
	leave, err := b.streams.enter(&b.opts.Streams, c.caller.Info().Username, from.Addr())
	if err != nil {
		return err
	}
	defer leave()
	s := &stream{b: b, name: sub.session, format: sub.format, changed: make(chan struct{}, 1)}
	o := loopmq.LocalOptions{
		ClientID: clientID, CleanStart: s.name == "", ReceiveMaximum: uint16(b.opts.Streams.Window), SessionExpiryInterval: sub.expiry,
		Acknowledged: sub.lastDelivered,
	}
	if s.client, err = c.caller.Connect(ctx, o, s.handler()); err != nil {
		return err
	}
	defer s.client.Close()
	if s.name != "" {
		s.window = max(1, s.client.ReceiveMaximum()*3/4)
	}
	if err := s.subscribe(ctx, sub); err != nil {
		if !s.client.SessionPresent() {
			s.client.End()
		}
		return err
	}
	cancel()
	streamHeader(c.w.Header())
	// The bounds on a request are not for a stream.
	if err := http.NewResponseController(c.w).SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	b.metrics.StreamsEnded[s.serve(c.r.Context(), c.w)].Inc()
	return nil
}

// mayRead reports whether a stream may have a filter. What is below a wildcard is decided
// for each message, as with all clients; where a filter is a topic, a stream that never
// gets anything is of no use to anybody.
func (c *call) mayRead(ctx context.Context, clientID, filter string, qos byte) bool {
	if !c.caller.Authorize(ctx, loopmq.ActionSubscribe, filter, qos, false) {
		return false
	}
	if _, behind, shared := codec.SplitShare([]byte(filter)); shared {
		filter = string(behind)
	}
	return strings.ContainsAny(filter, "+#") || c.caller.MayGet(ctx, clientID, filter, qos)
}

// bearer makes a token in the query that of a header, and hides it.
func bearer(r *http.Request) {
	const name = "access_token"
	if !strings.Contains(r.URL.RawQuery, name) {
		return
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(q[name]) != 1 || r.Header.Get("Authorization") != "" {
		return // who reads the query says what is wrong
	}
	r.Header.Set("Authorization", "Bearer "+q.Get(name))
	q.Del(name)
	r.URL.RawQuery = q.Encode()
}

// streamHeader says that events follow, to whom they pass.
func streamHeader(h http.Header) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx: hand on what comes
}

// subscribe makes the subscriptions of the session those that are asked for.
func (s *stream) subscribe(ctx context.Context, sub *subscription) error {
	before := s.client.TopicFilters()
	if len(sub.filters) == 0 {
		if len(before) == 0 {
			return faulty(http.StatusNotFound, metrics.HTTPNotFound, "there is no session %q: it begins with a filter", sub.session)
		}
		return nil
	}
	gone := slices.DeleteFunc(before, func(f string) bool { return slices.Contains(sub.filters, f) })
	if len(gone) > 0 {
		if _, err := s.client.Unsubscribe(ctx, gone...); err != nil {
			return err
		}
	}
	subscriptions := make([]store.Subscription, len(sub.filters))
	for i, f := range sub.filters {
		subscriptions[i] = store.Subscription{TopicFilter: f, Options: sub.options}
	}
	reasons, err := s.client.Subscribe(ctx, subscriptions)
	if errors.Is(err, loopmq.ErrTopicFilter) { // it has too many levels
		return badRequest("%s", detailOf(err))
	}
	if err != nil {
		return err
	}
	for i, code := range reasons {
		if code.IsError() {
			return codec.NewError(code, fmt.Sprintf("the subscription to %q was refused: %v", sub.filters[i], code))
		}
	}
	return nil
}

// acknowledge is POST /subscribe.
func (b *Bridge) acknowledge(c *call) error {
	q, err := query(c.r, "session", "last_event_id")
	if err != nil {
		return err
	}
	name, err := sessionName(q)
	if err != nil {
		return err
	}
	id, err := lastDelivered(c.r, q)
	if err != nil {
		return err
	}
	if name == "" || id.IsZero() {
		return badRequest("session or last_event_id is missing")
	}
	ok, err := b.broker.AcknowledgeUpTo(c.ctx, c.clientID(name), id)
	if err != nil {
		return err
	}
	if !ok {
		return faulty(http.StatusConflict, metrics.HTTPConflict, "no stream of the session has that event unacknowledged: a stream that begins with its Last-Event-ID acknowledges it")
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// endSession is DELETE /subscribe.
func (b *Bridge) endSession(c *call) error {
	q, err := query(c.r, "session")
	if err != nil {
		return err
	}
	name, err := sessionName(q)
	switch {
	case err != nil:
		return err
	case name == "":
		return badRequest("session is missing")
	}
	s, err := c.caller.Connect(c.r.Context(), loopmq.LocalOptions{ClientID: c.clientID(name), CleanStart: true}, loopmq.LocalHandler{
		OnMessage: func(*loopmq.MessageView, loopmq.DeliveryID, bool) bool { return true },
		OnClosed:  func(error) {},
	})
	if err != nil {
		return err
	}
	s.Close()
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
