package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sony/gobreaker/v2"

	"loopmq/metrics"
)

var errBusy = errors.New("too many calls of the service are under way")

// answerError is an answer that means nothing. The client is refused; but whoever
// answers is there, and one client about which a service has nothing sensible to say
// must not keep the others out.
type answerError struct{ text string }

func (e *answerError) Error() string { return e.text }

// serviceIsUp is whether a call shows that the service answers.
func serviceIsUp(err error) bool {
	var answer *answerError
	return err == nil || errors.As(err, &answer)
}

// httpBody is what an answer holds besides its result.
type httpBody interface{ validUntil() time.Time }

// httpAnswer is what a service said.
type httpAnswer[B any] struct {
	decision Decision
	status   int
	body     B
}

// httpCaller asks one service: a bounded number of questions at a time, none while it
// is down, and none again while the answer holds.
type httpCaller[B any] struct {
	o       HTTPOptions
	method  metrics.AuthMethod
	seconds *metrics.Duration
	client  *http.Client
	turns   chan struct{}
	breaker *gobreaker.CircuitBreaker[kept[B]]

	cache *lru.Cache[cacheKey, kept[B]] // nil: none is kept
	// secret makes keys of questions, so that a password can't be found by trying
	// what hashes to one.
	secret [32]byte
}

type cacheKey [sha256.Size]byte

// kept is an answer, and until when it holds.
type kept[B any] struct {
	answer httpAnswer[B]
	until  time.Time
}

func newHTTPCaller[B any](o HTTPOptions, m metrics.AuthMethod, histogram int) (*httpCaller[B], error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	c := &httpCaller[B]{
		o: o, method: m, seconds: o.Metrics.Auth.HTTPSeconds[histogram],
		turns: make(chan struct{}, o.Parallel),
		client: &http.Client{
			Transport: newTransport(o.TLS, o.Parallel),
			// Credentials go where the configuration says and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	_, _ = rand.Read(c.secret[:]) // It can't fail.
	if o.CacheEntries > 0 {
		var err error
		if c.cache, err = lru.New[cacheKey, kept[B]](o.CacheEntries); err != nil {
			return nil, err
		}
	}
	c.breaker = gobreaker.NewCircuitBreaker[kept[B]](gobreaker.Settings{
		Name:          redactURL(o.URL),
		Timeout:       o.BreakerDelay,
		ReadyToTrip:   func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= o.BreakerFailures },
		IsSuccessful:  serviceIsUp,
		OnStateChange: c.breakerChanged,
	})
	return c, nil
}

// breakerChanged is called with the breaker's lock held.
func (c *httpCaller[B]) breakerChanged(name string, from, to gobreaker.State) {
	a := &c.o.Metrics.Auth
	switch {
	case from == gobreaker.StateClosed:
		a.BreakersOpen.Inc()
		a.BreakersOpened.Inc()
		c.o.Logger.Error("auth_service_failed", "method", c.method.String(), "url", name, "retry_in", c.o.BreakerDelay)
	case to == gobreaker.StateClosed:
		a.BreakersOpen.Dec()
		c.o.Logger.Info("auth_service_recovered", "method", c.method.String(), "url", name)
	}
}

func (c *httpCaller[B]) close() { c.client.CloseIdleConnections() }

func (c *httpCaller[B]) dropCache() {
	if c.cache != nil {
		c.cache.Purge()
	}
}

// failure is what a failed call means: an error, or nil for 'ask the next one'.
func (c *httpCaller[B]) failure(err error) error {
	if !c.o.PassOnFailure {
		return err
	}
	c.o.Metrics.Auth.Decisions[c.method][metrics.AuthFailed].Inc() // Its Next counts too.
	return nil
}

// known looks for an answer in the cache. It does not block.
func (c *httpCaller[B]) known(question any) (httpAnswer[B], bool) {
	if c.cache == nil {
		return httpAnswer[B]{}, false
	}
	_, key, err := c.encode(question)
	if err != nil {
		return httpAnswer[B]{}, false
	}
	return c.lookUp(key)
}

func (c *httpCaller[B]) lookUp(key cacheKey) (httpAnswer[B], bool) {
	if c.cache == nil {
		return httpAnswer[B]{}, false
	}
	k, ok := c.cache.Get(key)
	if !ok || !c.o.Now().Before(k.until) {
		return httpAnswer[B]{}, false
	}
	c.o.Metrics.Auth.CacheHits[c.method].Inc()
	return k.answer, true
}

func (c *httpCaller[B]) encode(question any) ([]byte, cacheKey, error) {
	text, err := json.Marshal(question)
	if err != nil {
		return nil, cacheKey{}, err
	}
	mac := hmac.New(sha256.New, c.secret[:])
	mac.Write(text)
	return text, cacheKey(mac.Sum(nil)), nil
}

// ask returns the service's answer, or a kept one.
func (c *httpCaller[B]) ask(ctx context.Context, question any) (httpAnswer[B], error) {
	text, key, err := c.encode(question)
	if err != nil {
		return httpAnswer[B]{}, err
	}
	if a, ok := c.lookUp(key); ok {
		return a, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	select {
	case c.turns <- struct{}{}:
	case <-ctx.Done():
		return httpAnswer[B]{}, errBusy
	}
	defer func() { <-c.turns }()
	k, err := c.breaker.Execute(func() (kept[B], error) { return c.post(ctx, text) })
	if err != nil {
		return httpAnswer[B]{}, err
	}
	if c.cache != nil && c.o.Now().Before(k.until) {
		c.cache.Add(key, k)
	}
	return k.answer, nil
}

// post makes one call.
func (c *httpCaller[B]) post(ctx context.Context, text []byte) (kept[B], error) {
	var k kept[B]
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.o.URL, bytes.NewReader(text))
	if err != nil {
		return k, withoutURL(err)
	}
	if c.o.Header != nil {
		r.Header = c.o.Header.Clone()
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	began := time.Now()
	resp, err := c.client.Do(r)
	if err != nil {
		c.seconds.UpdateDuration(began)
		return k, withoutURL(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.o.ResponseBytes)+1))
	c.seconds.UpdateDuration(began)
	switch {
	case err != nil:
		return k, withoutURL(err)
	case len(body) > c.o.ResponseBytes:
		return k, &answerError{fmt.Sprintf("the answer is larger than %d bytes", c.o.ResponseBytes)}
	}
	if k.answer, err = readAnswer[B](resp.StatusCode, resp.Header.Get("Content-Type"), body); err != nil {
		return k, err
	}
	now := c.o.Now()
	k.until = now.Add(min(maxAge(resp.Header), c.o.CacheMaxAge))
	if b, ok := any(&k.answer.body).(httpBody); ok {
		if end := b.validUntil(); !end.IsZero() && end.Before(k.until) {
			k.until = end
		}
	}
	return k, nil
}

// readAnswer makes a decision of an answer. What isn't clearly one is an error: the
// login page of a proxy must let nobody in.
func readAnswer[B any](status int, contentType string, body []byte) (httpAnswer[B], error) {
	a := httpAnswer[B]{status: status}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		a.decision = Reject
		return a, nil
	case http.StatusOK, http.StatusNoContent:
	default:
		text := fmt.Sprintf("the service answered %d", status)
		if status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
			return a, errors.New(text)
		}
		return a, &answerError{text}
	}
	if len(bytes.TrimSpace(body)) == 0 {
		a.decision = Accept
		return a, nil
	}
	if t, _, err := mime.ParseMediaType(contentType); err != nil || t != "application/json" {
		return a, &answerError{"the answer has a body that is not application/json"}
	}
	var result struct {
		Result string `json:"result"`
	}
	if err := json.Unmarshal(body, &result); err != nil {
		return a, &answerError{"the answer is not valid JSON"}
	}
	switch result.Result {
	case "allow":
		a.decision = Accept
	case "deny":
		a.decision = Reject
	case "ignore":
		a.decision = Next
	default:
		return a, &answerError{"the answer has no result; allowed: allow, deny, ignore"}
	}
	if err := json.Unmarshal(body, &a.body); err != nil {
		return a, &answerError{"the answer has a field of a wrong type"}
	}
	return a, nil
}

// maxAge is how long an answer may be kept (RFC 9111); 0: not at all.
func maxAge(h http.Header) time.Duration {
	age := time.Duration(0)
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch strings.ToLower(name) {
			case "no-store", "no-cache":
				return 0
			case "max-age":
				seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
				if err != nil {
					return 0
				}
				age = time.Duration(seconds) * time.Second
			}
		}
	}
	return age
}

// newTransport returns a transport that keeps connections for calls in parallel.
func newTransport(config *tls.Config, parallel int) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    5 * time.Second,
		MaxConnsPerHost:        parallel,
		MaxIdleConnsPerHost:    parallel,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// checkURL says what is wrong with the URL of a service.
func checkURL(text string, allowPlain bool) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("the URL can't be read") // Its text may hold a secret.
	}
	switch {
	case u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("URL %q; allowed: https://HOST/PATH, or http://", redactURL(text))
	case u.Scheme == "http" && !allowPlain && !loopback(u.Hostname()):
		return fmt.Errorf("URL %q is plain http to another host; allowed: https, or plain http stated to be allowed", redactURL(text))
	}
	return nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// redactURL is a URL for logs: without user, password and query, which may be secret.
func redactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not a URL)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// withoutURL is an error of a call without the URL.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
