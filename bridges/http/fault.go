package httpbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// fault is why a request is refused.
type fault struct {
	status int
	reason metrics.HTTPReason
	detail string
	// code is the reason code of MQTT, 0: there is none.
	code codec.ReasonCode
	// retryAfter is when it is worth another try, 0: never, as it is.
	retryAfter time.Duration
	// items are what is wrong with single messages of several.
	items []itemFault
}

// itemFault is a fault of one message.
type itemFault struct {
	Index      int    `json:"index"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	ReasonCode int    `json:"reason_code,omitempty"`
}

// Error returns the detail.
func (f *fault) Error() string { return f.detail }

// faulty returns an error with the status that it is answered with.
func faulty(status int, reason metrics.HTTPReason, format string, a ...any) error {
	return &fault{status: status, reason: reason, detail: fmt.Sprintf(format, a...)}
}

func badRequest(format string, a ...any) error {
	return faulty(http.StatusBadRequest, metrics.HTTPBadRequest, format, a...)
}

// busyRetry is when a request is worth another try that came at a bad moment.
const busyRetry = time.Second

var errBusy = &fault{status: http.StatusServiceUnavailable, reason: metrics.HTTPBusy, detail: "too many requests are under way: try again later", retryAfter: busyRetry}

// faultOf returns what an error means for a request.
func faultOf(err error) *fault {
	var f *fault
	var wait *loopmq.RateError
	var e *codec.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &wait):
		return &fault{http.StatusTooManyRequests, metrics.HTTPRate, err.Error(), codec.MessageRateTooHigh, wait.RetryAfter, nil}
	case errors.Is(err, loopmq.ErrTooLarge):
		return &fault{status: http.StatusRequestEntityTooLarge, reason: metrics.HTTPTooLarge, detail: "the message is larger than packet_size, or its payload than payload_size, of http.settings or limits", code: codec.PacketTooLarge}
	case errors.Is(err, loopmq.ErrNoRetained):
		return &fault{status: http.StatusNotFound, reason: metrics.HTTPNotFound, detail: "the topic has no retained message"}
	case errors.Is(err, loopmq.ErrNotStored), errors.Is(err, loopmq.ErrNotRunning):
		errors.As(err, &e)
		return &fault{http.StatusServiceUnavailable, metrics.HTTPUnavailable, detailOf(err), e.ReasonCode, busyRetry, nil}
	case errors.Is(err, store.ErrUnavailable):
		return &fault{status: http.StatusServiceUnavailable, reason: metrics.HTTPUnavailable, detail: detailOf(err), retryAfter: busyRetry}
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{status: http.StatusServiceUnavailable, reason: metrics.HTTPUnavailable, detail: "it took too long: the message may have been published", retryAfter: busyRetry}
	case errors.Is(err, context.Canceled): // nobody will read it
		return &fault{status: http.StatusServiceUnavailable, reason: metrics.HTTPUnavailable, detail: "the request was given up"}
	case errors.As(err, &e):
		f = &fault{detail: detailOf(err), code: e.ReasonCode}
		f.status, f.reason, f.retryAfter = statusOf(e.ReasonCode)
		return f
	}
	return &fault{status: http.StatusInternalServerError, reason: metrics.HTTPInternal, detail: "an error of the broker, which its log has"}
}

// detailOf returns the text of an error of the Broker, without the prefix that names it.
func detailOf(err error) string {
	const prefix = "loopmq: "
	text := err.Error()
	if len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return text
}

// statusOf returns the status for a reason code of MQTT.
func statusOf(code codec.ReasonCode) (status int, reason metrics.HTTPReason, retryAfter time.Duration) {
	switch code {
	case codec.NotAuthorized, codec.Banned:
		return http.StatusForbidden, metrics.HTTPNotAuthorized, 0
	case codec.PacketTooLarge:
		return http.StatusRequestEntityTooLarge, metrics.HTTPTooLarge, 0
	case codec.MessageRateTooHigh, codec.ConnectionRateExceeded:
		return http.StatusTooManyRequests, metrics.HTTPRate, busyRetry
	case codec.ServerUnavailable, codec.ServerBusy, codec.ServerShuttingDown, codec.UseAnotherServer, codec.ServerMoved, codec.QuotaExceeded:
		return http.StatusServiceUnavailable, metrics.HTTPUnavailable, busyRetry
	case codec.UnspecifiedError, codec.ImplementationSpecificError:
		return http.StatusInternalServerError, metrics.HTTPInternal, 0
	}
	return http.StatusBadRequest, metrics.HTTPBadRequest, 0
}

// bridgeProblem is a problem with what the bridge adds to it.
type bridgeProblem struct {
	problem
	ReasonCode int         `json:"reason_code,omitempty"`
	Errors     []itemFault `json:"errors,omitempty"`
}

// fail answers with an error, and counts it.
func (b *Bridge) fail(c *call, err error) {
	f := faultOf(err)
	b.metrics.HTTPRefused[f.reason].Inc()
	if f.reason == metrics.HTTPInternal {
		b.log.Error("http_request_failed", "path", c.r.URL.Path, "remote_addr", c.r.RemoteAddr, "error", err)
	}
	if f.retryAfter > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.retryAfter.Seconds()))))
	}
	if f.status == http.StatusUnauthorized {
		c.w.Header()["Www-Authenticate"] = []string{`Basic realm="loopmq", charset="UTF-8"`, `Bearer realm="loopmq"`}
	}
	if c.route.emqx {
		writeEMQXFault(c.w, f)
		return
	}
	// Marshal can't fail on strings and numbers.
	body, _ := json.Marshal(bridgeProblem{problem{http.StatusText(f.status), f.status, f.detail}, int(f.code), f.items})
	write(c.w, f.status, "application/problem+json", append(body, '\n'))
}
