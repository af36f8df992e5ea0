package httpbridge

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"

	"loopmq/metrics"
)

const (
	// bodyStep is what a body takes of the budget to begin with, if it doesn't say that it
	// is smaller; then it takes as much again as has come. So who only says that much is
	// coming holds little.
	bodyStep = 4 << 10
	// bodyShares is into how many parts the budget is divided, of which one user may hold
	// one, or one address of callers without a name; but one body at least.
	bodyShares = 4
)

// bodyBudget bounds the bytes of the bodies under way, of all callers and of each.
type bodyBudget struct {
	limit, share int64

	mu struct {
		sync.Mutex
		all int64
		of  map[string]int64
	}
}

// take reports whether there is room for n bytes more of a caller.
func (b *bodyBudget) take(who string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.all+n > b.limit || b.mu.of[who]+n > b.share {
		return false
	}
	if b.mu.of == nil {
		b.mu.of = make(map[string]int64)
	}
	b.mu.all += n
	b.mu.of[who] += n
	return true
}

func (b *bodyBudget) give(who string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.all -= n
	if b.mu.of[who] -= n; b.mu.of[who] <= 0 {
		delete(b.mu.of, who)
	}
}

// holder is who holds the bytes of a request's body.
func (b *Bridge) holder(c *call) string {
	if name := c.caller.Info().Username; name != "" {
		return "user " + name
	}
	from, _ := b.clientAddr(c.r) // it was good when the caller was authenticated
	return from.Addr().String()
}

// readBody reads the body of a request, which has to be of one of some media types;
// none: of any. What it returns is valid until done is called, which has to be in any
// case.
func (b *Bridge) readBody(c *call, types ...string) (body []byte, done func(), err error) {
	r, limit := c.r, int64(b.opts.BodyBytes)
	done = func() {}
	if len(types) > 0 && !isOfType(r.Header.Get("Content-Type"), types) {
		return nil, done, faulty(http.StatusUnsupportedMediaType, metrics.HTTPMediaType, "Content-Type is %q: allowed: %q", r.Header.Get("Content-Type"), types)
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, done, faulty(http.StatusUnsupportedMediaType, metrics.HTTPMediaType, "Content-Encoding is %q: allowed: none", r.Header.Get("Content-Encoding"))
	}
	if r.ContentLength > limit {
		return nil, done, errBodyTooLarge(limit)
	}
	whole := r.ContentLength // what comes at most
	if whole < 0 {
		whole = limit
	}
	who, held := b.holder(c), int64(0)
	done = func() {
		if held > 0 {
			b.bodies.give(who, held)
		}
	}
	for int64(len(body)) < whole {
		if len(body) == cap(body) {
			more := min(max(int64(len(body)), bodyStep), whole-int64(len(body)))
			if !b.bodies.take(who, more) {
				return nil, done, errBusy
			}
			held += more
			body = append(make([]byte, 0, int64(len(body))+more), body...)
		}
		var n int
		n, err = r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err != nil {
			break
		}
	}
	if r.ContentLength < 0 && err == nil {
		var more int
		if more, err = io.ReadFull(r.Body, make([]byte, 1)); more > 0 {
			return nil, done, errBodyTooLarge(limit)
		}
	}
	switch {
	case err == nil, errors.Is(err, io.EOF) && (r.ContentLength < 0 || int64(len(body)) == whole):
		return body, done, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, done, faulty(http.StatusRequestTimeout, metrics.HTTPBadRequest, "the body has not come within %v", b.opts.Timeout)
	}
	return nil, done, badRequest("the body could not be read: %v", err)
}
