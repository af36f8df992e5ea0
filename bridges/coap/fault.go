package coapbridge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// fault is why a request is refused.
type fault struct {
	code   codes.Code
	reason metrics.CoAPReason
	detail string
	// retryAfter is when it is worth another try, 0: never, as it is.
	retryAfter time.Duration
	// size1 is how large a body may be; 0: it isn't said.
	size1 int
}

// Error returns the detail.
func (f *fault) Error() string { return f.detail }

// faulty returns an error with the code that it is answered with.
func faulty(code codes.Code, reason metrics.CoAPReason, format string, a ...any) error {
	return &fault{code: code, reason: reason, detail: fmt.Sprintf(format, a...)}
}

func badRequest(format string, a ...any) error {
	return faulty(codes.BadRequest, metrics.CoAPBadRequest, format, a...)
}

// busyRetry is when a request is worth another try that came at a bad moment.
const busyRetry = time.Second

var (
	errBusy          = &fault{code: codes.ServiceUnavailable, reason: metrics.CoAPBusy, detail: "too much is under way: try again later", retryAfter: busyRetry}
	errPeerBusy      = &fault{code: codes.TooManyRequests, reason: metrics.CoAPRate, detail: "too many requests of this client are under way", retryAfter: busyRetry}
	errForgetful     = &fault{code: codes.ServiceUnavailable, reason: metrics.CoAPBusy, detail: "no more messages can be told from repetitions: try again later", retryAfter: exchangeLifetime / 4}
	errNotAcceptable = &fault{code: codes.NotAcceptable, reason: metrics.CoAPNotAcceptable, detail: "the message has another Content-Format than the one that is accepted"}
	errStopping      = &fault{code: codes.ServiceUnavailable, reason: metrics.CoAPUnavailable, detail: "the broker is stopping", retryAfter: busyRetry}
)

// faultOf returns what an error means for a request.
func faultOf(err error) *fault {
	var f *fault
	var wait *loopmq.RateError
	var e *codec.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &wait):
		return &fault{code: codes.TooManyRequests, reason: metrics.CoAPRate, detail: err.Error(), retryAfter: wait.RetryAfter}
	case errors.Is(err, loopmq.ErrTooLarge):
		return &fault{code: codes.RequestEntityTooLarge, reason: metrics.CoAPTooLarge, detail: "the message is larger than packet_size, or its payload than payload_size"}
	case errors.Is(err, loopmq.ErrNoRetained):
		return &fault{code: codes.NotFound, reason: metrics.CoAPNotFound, detail: "the topic has no retained message"}
	case errors.Is(err, loopmq.ErrNotStored), errors.Is(err, loopmq.ErrNotRunning), errors.Is(err, store.ErrUnavailable):
		return &fault{code: codes.ServiceUnavailable, reason: metrics.CoAPUnavailable, detail: detailOf(err), retryAfter: busyRetry}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &fault{code: codes.ServiceUnavailable, reason: metrics.CoAPUnavailable, detail: "it took too long: the message may have been published", retryAfter: busyRetry}
	case errors.As(err, &e):
		f = &fault{detail: detailOf(err)}
		f.code, f.reason, f.retryAfter = codeOf(e.ReasonCode)
		return f
	}
	return &fault{code: codes.InternalServerError, reason: metrics.CoAPInternal, detail: "an error of the broker, which its log has"}
}

// detailOf returns the text of an error of the Broker, without the prefix that names it.
func detailOf(err error) string { return strings.TrimPrefix(err.Error(), "loopmq: ") }

// codeOf returns the code for a reason code of MQTT.
func codeOf(code codec.ReasonCode) (codes.Code, metrics.CoAPReason, time.Duration) {
	switch code {
	case codec.BadUserNameOrPassword, codec.BadAuthenticationMethod:
		return codes.Unauthorized, metrics.CoAPCredentials, 0
	case codec.NotAuthorized, codec.Banned:
		return codes.Forbidden, metrics.CoAPNotAuthorized, 0
	case codec.PacketTooLarge:
		return codes.RequestEntityTooLarge, metrics.CoAPTooLarge, 0
	case codec.MessageRateTooHigh, codec.ConnectionRateExceeded, codec.QuotaExceeded:
		return codes.TooManyRequests, metrics.CoAPRate, busyRetry
	case codec.ServerUnavailable, codec.ServerBusy, codec.ServerShuttingDown, codec.UseAnotherServer, codec.ServerMoved:
		return codes.ServiceUnavailable, metrics.CoAPUnavailable, busyRetry
	case codec.SessionTakenOver, codec.AdministrativeAction, codec.KeepAliveTimeout:
		return codes.NotFound, metrics.CoAPNotFound, 0
	case codec.UnspecifiedError, codec.ImplementationSpecificError:
		return codes.InternalServerError, metrics.CoAPInternal, 0
	}
	return codes.BadRequest, metrics.CoAPBadRequest, 0
}

// response is what a fault is answered with.
func (f *fault) response() *response {
	r := &response{code: f.code, payload: []byte(f.detail), size1: f.size1}
	if f.retryAfter > 0 {
		age := uint32(math.Ceil(f.retryAfter.Seconds()))
		r.maxAge = &age
	}
	return r
}

// fail counts a fault, and returns what it is answered with.
func (b *Bridge) fail(p *peer, err error) *response {
	f := faultOf(err)
	b.metrics.CoAPRefused[f.reason].Inc()
	if f.reason == metrics.CoAPInternal {
		b.log.Error("coap_request_failed", "remote_addr", p.addr.String(), "error", err)
	}
	return f.response()
}
