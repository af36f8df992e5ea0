package webhooks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"

	"loopmq/metrics"
)

// In order, each topic's events come in their order, one request at a time, though requests fail in all ways.
func TestOrderWhileRequestsFail(t *testing.T) {
	t.Parallel()
	for _, batch := range []int{1, 7} {
		rc := mustReceive(t, func(http.ResponseWriter, *http.Request, []got) int {
			switch rand.N(10) {
			case 0:
				return http.StatusInternalServerError
			case 1:
				return http.StatusTooManyRequests
			case 2:
				return reset
			}
			return http.StatusNoContent
		})
		e := endpointAt("a", rc.URL)
		e.Order, e.Batch.Count, e.Concurrency = OrderTopic, batch, 4
		b := mustDeliver(t, e)
		const topics, each = 10, 40
		for i := range topics * each / 10 {
			b.publish(e, fmt.Sprint("t", i%topics), 10)
		}
		b.settled(e, topics*each, 0)
		for topic, numbers := range rc.topics {
			if len(numbers) != each || !slices.IsSorted(numbers) {
				t.Errorf("%s: %v", topic, numbers)
			}
		}
		if rc.together > 0 {
			t.Errorf("%d requests came while another with their topic was under way", rc.together)
		}
	}
}

// A receiver that does its worst harms nobody else: another endpoint of the same webhooks keeps its pace, memory stays
// bounded, and nothing is given up.
func TestHostileReceivers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	hang := func(r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"hangs": func(_ http.ResponseWriter, r *http.Request) { hang(r) },
		"drips": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("."))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(100 * time.Millisecond): // as slow as it is to be
				case <-r.Context().Done():
				}
			}
		},
		"drips headers": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			for _, c := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n") {
				if _, err := conn.Write([]byte{c}); err != nil {
					return
				}
				<-time.After(100 * time.Millisecond)
			}
		},
		"sends a gigabyte": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			for range 1 << 30 / (64 << 10) {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
		"sends a gigabyte of headers": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n"))
			line := fmt.Appendf(nil, "X: %01000d\r\n", 0)
			for range 1 << 20 {
				if _, err := conn.Write(line); err != nil {
					return
				}
			}
		},
		"isn't HTTP": func(w http.ResponseWriter, _ *http.Request) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_, _ = conn.Write([]byte("220 mail.example.org ESMTP\r\n"))
				_ = conn.Close()
			}
		},
		"resets": func(w http.ResponseWriter, _ *http.Request) {
			resetConnection(w)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := mustReceive(t, func(w http.ResponseWriter, r *http.Request, _ []got) int { answer(w, r); return 0 })
			good := mustReceive(t, nil)
			worse, well := endpointAt("worse", bad.URL), endpointAt("well", good.URL)
			worse.Timeout = 300 * time.Millisecond
			worse.BreakerFailures, worse.BreakerDelay = 3, 10*time.Millisecond
			b := mustDeliver(t, worse, well)
			b.publish(worse, "t", 10_000)
			b.until("a request failed", func() bool { return bad.requests.Load() > 0 })
			began := time.Now()
			const n = 500
			for range n {
				b.publish(well, "t", 1)
			}
			b.settled(well, n, 0)
			if d := time.Since(began); d > time.Minute {
				t.Errorf("%d events took %v", n, d)
			}
			b.until("its breaker opened", func() bool { return b.hooks.metrics["worse"].BreakersOpened.Get() > 0 })
			if s := b.state(worse); s.Delivered+s.Dead+s.Dropped > 0 || s.Taken > 1000 {
				t.Errorf("%+v", s)
			}
			if s, err := b.hooks.StatusOf(t.Context(), "worse"); err != nil || s.LastError == "" || len(s.LastError) > 2000 {
				t.Errorf("status %+v, %v", s, err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			began = time.Now()
			b.hooks.Close(ctx)
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("Close took %v", d)
			}
		})
	}
	close(release)
}

// With 100,000 events for a receiver that hangs, what this node has in memory is what it may hold, and the goroutines are
// those of its requests.
func TestMemoryOfAHangingReceiver(t *testing.T) {
	release := make(chan struct{})
	bad := mustReceive(t, func(_ http.ResponseWriter, r *http.Request, _ []got) int {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return 0
	})
	defer close(release)
	e := endpointAt("a", bad.URL)
	e.Timeout, e.Concurrency = time.Minute, 4
	s := newMemory()
	b := mustDeliverFrom(t, s)
	for range 100 {
		b.publish(e, "t", 1000)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, routines := heap(), runtime.NumGoroutine()
	if err := b.hooks.Reload(t.Context(), []*Endpoint{e}); err != nil {
		t.Fatal(err)
	}
	b.until("all its requests hang", func() bool { return bad.requests.Load() == 4 })
	b.until("it has taken what it may", func() bool { return b.state(e).Taken >= heldMin })
	if s := b.state(e); s.Taken > heldMin || s.Queued != 100_000-s.Taken {
		t.Errorf("%+v", s)
	}
	more := int64(heap()) - int64(before)
	t.Logf("%d KiB and %d goroutines more, those of the receiver included", more>>10, runtime.NumGoroutine()-routines)
	if more > 4<<20 || runtime.NumGoroutine()-routines > 60 {
		t.Errorf("%d bytes and %d goroutines more", more, runtime.NumGoroutine()-routines)
	}
}

// Redirects aren't followed, so there are no loops of them, and none that leads to where requests may not go.
func TestRedirects(t *testing.T) {
	t.Parallel()
	other := mustReceive(t, nil)
	var rc *receiver
	rc = mustReceive(t, func(w http.ResponseWriter, r *http.Request, events []got) int {
		to := rc.URL
		if events[0].Data%2 == 0 {
			to = other.URL
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		return 0
	})
	e := endpointAt("a", rc.URL)
	b := mustDeliver(t, e)
	b.publish(e, "t", 4)
	b.settled(e, 0, 4)
	if n, m := rc.requests.Load(), other.requests.Load(); n != 4 || m != 0 {
		t.Errorf("%d and %d requests came", n, m)
	}
	if n := b.hooks.metrics["a"].Requests[metrics.Webhook3xx].Get(); n != 4 {
		t.Errorf("%d redirects are counted", n)
	}
}
