package webhooks

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loopmq/metrics"
	"loopmq/store"
	"loopmq/store/memory"
)

// bench is a store and the webhooks of some endpoints.
type bench struct {
	*testing.T
	store   store.Store
	hooks   *Webhooks
	metrics *metrics.Set
	writer  store.Writer
	next    uint64
}

// mustDeliver starts webhooks on a memory store.
func mustDeliver(t *testing.T, endpoints ...*Endpoint) *bench {
	t.Helper()
	return mustDeliverFrom(t, newMemory(), endpoints...)
}

func mustDeliverFrom(t *testing.T, s store.Store, endpoints ...*Endpoint) *bench {
	t.Helper()
	return mustDeliverAs(t, s, time.Minute, endpoints...) // so long that a slow machine keeps its leases
}

func mustDeliverAs(t *testing.T, s store.Store, ttl time.Duration, endpoints ...*Endpoint) *bench {
	t.Helper()
	b := &bench{T: t, store: s, metrics: metrics.New(1), writer: s.NewWriter("test")}
	var err error
	b.hooks, err = New(Options{Store: s, Endpoints: endpoints, Metrics: b.metrics, TTL: ttl, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	b.hooks.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		b.hooks.Close(ctx)
	})
	return b
}

// endpointAt is an endpoint that fails fast and tries again soon.
func endpointAt(name, url string) *Endpoint {
	return &Endpoint{
		Name: name, URL: url, AllowPlainHTTP: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Events: []string{"*"},
		Timeout: 30 * time.Second, RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond, BreakerFailures: 1 << 20,
	}
}

// publish enqueues n events of a topic for an endpoint. Their payloads are numbers.
func (b *bench) publish(e *Endpoint, topic string, n int) {
	b.Helper()
	b.enqueue(e, time.Now(), topic, n)
}

func (b *bench) enqueue(e *Endpoint, at time.Time, topic string, n int) {
	b.Helper()
	b.add(e, b.records(at, topic, n)...)
}

// records makes events, which are numbered.
func (b *bench) records(at time.Time, topic string, n int) (all [][]byte) {
	for range n {
		b.next++
		r := record{kind: "message.published", at: at, clientID: "c", topicName: []byte(topic), payload: fmt.Append(nil, b.next)}
		binary.BigEndian.PutUint64(r.id[8:], b.next)
		all = append(all, r.encode())
	}
	return all
}

// add enqueues records, all at once.
func (b *bench) add(e *Endpoint, records ...[]byte) {
	b.Helper()
	var batch store.Batch
	for _, r := range records {
		op := batch.Next()
		op.Kind, op.Event = store.OpEnqueue, &store.Event{Endpoint: e.Name, Data: r}
	}
	if err := b.writer.Commit(b.Context(), &batch); err != nil {
		b.Fatal(err)
	}
	for i := range batch.Ops {
		if r := batch.Ops[i].Result; r != store.Done {
			b.Fatalf("enqueue: result %v", r)
		}
	}
}

// state is what the outbox of an endpoint holds.
func (b *bench) state(e *Endpoint) store.OutboxState {
	b.Helper()
	s, err := b.store.Outbox().State(context.Background(), e.Name)
	if err != nil {
		b.Fatal(err)
	}
	if s.Matched != s.Delivered+s.Queued+s.Taken+s.Dead+s.Dropped {
		b.Errorf("%s does not add up: %+v", e.Name, s)
	}
	return s
}

// until waits until a condition holds.
func (b *bench) until(what string, holds func() bool) {
	b.Helper()
	for end := time.Now().Add(time.Minute); !holds(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("waited in vain until %s", what)
		}
	}
}

// settled waits until the outbox of an endpoint holds nothing, but for dead letters.
func (b *bench) settled(e *Endpoint, delivered, dead int) {
	b.Helper()
	b.until("all is settled", func() bool { s := b.state(e); return s.Queued+s.Taken == 0 })
	if s := b.state(e); s.Delivered != uint64(delivered) || s.Dead != uint64(dead) {
		b.Errorf("%s: %+v, want %d delivered and %d dead", e.Name, s, delivered, dead)
	}
}

// got is an event as a receiver sees it.
type got struct {
	ID      string `json:"id"`
	Subject string `json:"subject"`
	Data    int    `json:"data"`
}

// receiver notes the events that it has answered with 2xx, in their order by topic, and those that come while another
// request with the topic is under way.
type receiver struct {
	*httptest.Server
	requests atomic.Int64

	mu       sync.Mutex
	topics   map[string][]int
	busy     map[string]int
	together int
}

// reset is no answer, but the end of the connection.
const reset = -1

func resetConnection(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// mustReceive starts a receiver. answer says what to answer to events; it may write the answer itself and return 0.
func mustReceive(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, events []got) int) *receiver {
	t.Helper()
	rc := &receiver{topics: map[string][]int{}, busy: map[string]int{}}
	rc.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc.requests.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var events []got
		if body[0] != '[' {
			body = fmt.Appendf(nil, "[%s]", body)
		}
		if err := json.Unmarshal(body, &events); err != nil {
			t.Errorf("%s: %v", body, err)
			return
		}
		topics := map[string]bool{}
		for _, e := range events {
			topics[e.Subject] = true
		}
		rc.mu.Lock()
		for topic := range topics {
			if rc.busy[topic]++; rc.busy[topic] > 1 {
				rc.together++
			}
		}
		rc.mu.Unlock()
		status := http.StatusOK
		if answer != nil {
			status = answer(w, r, events)
		}
		rc.mu.Lock()
		for topic := range topics {
			rc.busy[topic]--
		}
		if status/100 == 2 {
			for _, e := range events {
				rc.topics[e.Subject] = append(rc.topics[e.Subject], e.Data)
			}
		}
		rc.mu.Unlock()
		switch status {
		case 0:
		case reset:
			resetConnection(w)
		default:
			w.WriteHeader(status)
		}
	}))
	t.Cleanup(func() { rc.CloseClientConnections(); rc.Close() })
	return rc
}

// count is how many events of all topics it has, and how many of them it has more than once.
func (rc *receiver) count() (events, again int) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	for _, numbers := range rc.topics {
		seen := map[int]bool{}
		for _, n := range numbers {
			if seen[n] {
				again++
			}
			seen[n] = true
		}
		events += len(seen)
	}
	return events, again
}

func TestDelivers(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, nil)
	e := endpointAt("a", rc.URL)
	b := mustDeliver(t, e)
	b.publish(e, "t", 1000)
	b.settled(e, 1000, 0)
	if n, again := rc.count(); n != 1000 || again != 0 {
		t.Errorf("%d events came, %d of them again", n, again)
	}
}

func newMemory() store.Store { return memory.New(memory.Options{}) }
