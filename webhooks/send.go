package webhooks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"loopmq/metrics"
)

const (
	keepAlive = 15 * time.Second
	// headerBytes bounds the header of an answer.
	headerBytes = 16 << 10
	// maxRetryAfter bounds how long a receiver can have the endpoint wait.
	maxRetryAfter = time.Hour
	// excerptBytes bounds what logs and dead letters show of an answer.
	excerptBytes = 256
)

// verdict is what becomes of the events of a request.
type verdict uint8

const (
	delivered verdict = iota
	// tryAgain: the receiver can't take them now.
	tryAgain
	// tooMuch: it can't take them together.
	tooMuch
	// refused: it won't take them.
	refused
	// gone: it takes none any more.
	gone
	// givenUp: this node doesn't want it to any more.
	givenUp
)

// attempt is what came of a request.
type attempt struct {
	verdict  verdict
	result   metrics.WebhookResult
	response Response // without a Status: there was none
	err      error    // what is wrong; nil if delivered
	// retryAfter is how long the receiver wants to be left alone; 0: it doesn't say.
	retryAfter time.Duration
}

// newClient returns a client that is the endpoint's own, so that endpoints share no connections and no limits.
//
// Redirects aren't followed: a request is signed for its URL, and where it goes is for the configuration to say. Proxies
// of the environment aren't used, since a proxy would connect to where this node must not.
func newClient(e *Endpoint) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.TLS != nil {
		config = e.TLS.Clone()
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            e.dialer().DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    e.Timeout,
			MaxConnsPerHost:        e.Concurrency,
			MaxIdleConnsPerHost:    e.Concurrency,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: headerBytes,
			ForceAttemptHTTP2:      true,
			// A connection of HTTP/2 that is dead would be used for ever: requests that time out don't end it.
			HTTP2:              &http.HTTP2Config{SendPingTimeout: keepAlive, PingTimeout: e.Timeout},
			DisableCompression: true, // an answer is bounded as it comes
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request makes one request, reports to the breaker, and has the client that waits for an answer get it.
func (d *deliverer) request(ctx context.Context, records [][]byte, report func(error)) attempt {
	a := d.send(ctx, records)
	report(a.health())
	if a.verdict != givenUp {
		d.metrics.Requests[a.result].Inc()
	}
	if d.replier != nil && (a.verdict == delivered || a.verdict == refused) {
		d.reply(ctx, records[0], &a.response)
	}
	return a
}

// health is what a request says of the receiver, for the breaker: one that says no is there.
func (a *attempt) health() error {
	switch {
	case a.verdict == givenUp || a.result == metrics.WebhookUnsent:
		return errNoVerdict
	case a.verdict == tryAgain && a.response.Status != http.StatusTooManyRequests && a.response.Status != http.StatusTooEarly:
		return a.err
	}
	return nil
}

// reply publishes an answer. The receiver isn't asked again if that fails, since it has done its work; only publishing is.
func (d *deliverer) reply(ctx context.Context, record []byte, r *Response) {
	ctx, cancel := context.WithTimeout(ctx, d.endpoint.Replies.Timeout)
	defer cancel()
	for {
		_, err := d.replier.Reply(ctx, record, r)
		if err == nil {
			return
		}
		if errors.Is(err, ErrReply) || errors.Is(err, ErrRecord) || !wait(ctx, storePause) {
			d.metrics.RepliesFailed.Inc()
			d.note(func(p *progress) { p.failed(err, time.Now()) })
			d.logger.Warn("webhook_reply_failed", "error", err)
			return
		}
	}
}

// send makes one request. It returns within Endpoint.Timeout whatever the receiver does.
func (d *deliverer) send(ctx context.Context, records [][]byte) (a attempt) {
	ctx, cancel := context.WithTimeout(ctx, d.endpoint.Timeout)
	defer cancel()
	request, err := d.endpoint.Request(ctx, records, time.Now())
	if err != nil {
		a = attempt{verdict: refused, result: metrics.WebhookUnsent, err: err}
		if len(records) > 1 {
			a.verdict = tooMuch // the others may be fine
		}
		return a
	}
	began := time.Now()
	response, err := d.client.Do(request)
	if err != nil {
		d.metrics.Seconds.UpdateDuration(began)
		return d.failure(ctx, withoutURL(err))
	}
	defer response.Body.Close()
	r := Response{Status: response.StatusCode, ContentType: response.Header.Get("Content-Type")}
	err = d.read(&r, response.Body)
	d.metrics.Seconds.UpdateDuration(began)
	a = judge(r, len(records))
	if a.verdict == tryAgain {
		a.retryAfter = retryAfter(response.Header.Get("Retry-After"), time.Now())
	}
	if a.verdict == delivered && err != nil && d.endpoint.Replies != nil {
		// What is missing is the answer that a client waits for. Others need none.
		return d.failure(ctx, fmt.Errorf("read the answer: %w", err))
	}
	return a
}

// read reads the body of an answer, so that the connection can be used again: all of it if it is for a client, else what
// is shown of it.
func (d *deliverer) read(r *Response, body io.Reader) (err error) {
	limit, keep := d.endpoint.ResponseBytes, excerptBytes
	if d.replier != nil {
		keep = limit
	}
	if r.Body, err = io.ReadAll(io.LimitReader(body, int64(min(keep, limit)))); err != nil {
		return err
	}
	more, err := io.Copy(io.Discard, io.LimitReader(body, int64(limit-len(r.Body))+1))
	r.Truncated = more > 0
	return err
}

// failure is a request without an answer.
func (d *deliverer) failure(ctx context.Context, err error) attempt {
	a := attempt{verdict: tryAgain, result: metrics.WebhookUnreachable, err: err}
	var address *addressError
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return attempt{verdict: givenUp, err: err}
	case errors.As(err, &address):
		a.result = metrics.WebhookAddress
	case ctx.Err() != nil || isTimeout(err):
		a.result, a.err = metrics.WebhookTimeout, fmt.Errorf("no whole answer within %v", d.endpoint.Timeout)
	}
	return a
}

// judge says what an answer to n events means.
func judge(r Response, n int) attempt {
	a := attempt{response: r, verdict: refused, result: metrics.WebhookStatus(r.Status)}
	if r.Status/100 == 2 {
		a.verdict = delivered
		return a
	}
	a.err = statusError(r)
	switch s := r.Status; {
	case s == http.StatusGone:
		a.verdict = gone
	case s == http.StatusRequestTimeout || s == http.StatusTooEarly || s == http.StatusTooManyRequests || s >= 500:
		a.verdict = tryAgain
	case n > 1 && (s == http.StatusBadRequest || s == http.StatusRequestEntityTooLarge || s == http.StatusUnprocessableEntity):
		a.verdict = tooMuch // it may be one of them
	}
	return a
}

func statusError(r Response) error {
	body := r.Body[:min(len(r.Body), excerptBytes)] // It is quoted: no control characters come into logs.
	switch {
	case r.Status/100 == 3:
		return fmt.Errorf("the receiver answered %d: redirects aren't followed", r.Status)
	case len(body) == 0:
		return fmt.Errorf("the receiver answered %d", r.Status)
	}
	return fmt.Errorf("the receiver answered %d: %q", r.Status, body)
}

// retryAfter reads a Retry-After: seconds, or a date (RFC 9110, 10.2.3). What isn't either is none.
func retryAfter(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		wait = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// withoutURL is an error of a request without its URL, which may hold a secret.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
