package webhooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"loopmq/internal/redistest"
	"loopmq/redisstore"
	"loopmq/store"
)

// mortal is a store as a node sees it that is killed: from then on nothing that the node does gets there.
type mortal struct {
	store.Store
	dead atomic.Bool
}

var errKilled = errors.New("killed")

func (m *mortal) err() error {
	if m.dead.Load() {
		return errKilled
	}
	return nil
}

func (m *mortal) Outbox() store.Outbox { return mortalOutbox{m.Store.Outbox(), m} }
func (m *mortal) Leases() store.Leases { return mortalLeases{m.Store.Leases(), m} }

type mortalOutbox struct {
	store.Outbox
	*mortal
}

func (m mortalOutbox) Take(ctx context.Context, endpoint, consumer string, limit, maxBytes int) ([]store.Taken, error) {
	if err := m.err(); err != nil {
		return nil, err
	}
	return m.Outbox.Take(ctx, endpoint, consumer, limit, maxBytes)
}

func (m mortalOutbox) Renew(ctx context.Context, consumer string, ttl time.Duration) error {
	if err := m.err(); err != nil {
		return err
	}
	return m.Outbox.Renew(ctx, consumer, ttl)
}

func (m mortalOutbox) Done(ctx context.Context, endpoint string, ids []store.EventID) error {
	if err := m.err(); err != nil {
		return err
	}
	return m.Outbox.Done(ctx, endpoint, ids)
}

type mortalLeases struct {
	store.Leases
	*mortal
}

func (m mortalLeases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (uint64, bool, error) {
	if err := m.err(); err != nil {
		return 0, false, err
	}
	return m.Leases.Acquire(ctx, name, holder, ttl)
}

func (m mortalLeases) Release(ctx context.Context, name, holder string) error {
	if err := m.err(); err != nil {
		return err
	}
	return m.Leases.Release(ctx, name, holder)
}

// What a node had taken that was killed arrives by way of another, in order where there is one.
func TestTakeover(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "appendfsync no")
	views := map[string]func(t *testing.T) (a, b store.Store){
		"memory": func(*testing.T) (a, b store.Store) { a = newMemory(); return a, a },
		"redis": func(t *testing.T) (a, b store.Store) {
			open := func() store.Store {
				s, err := redisstore.NewStore(t.Context(), redis.URL()+"?prefix="+t.Name()+":", redisstore.Options{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return s
			}
			return open(), open()
		},
	}
	for name, open := range views {
		for _, order := range []Order{OrderNone, OrderTopic} {
			t.Run(name+" "+string(order), func(t *testing.T) {
				t.Parallel()
				takeOver(t, order, open)
			})
		}
	}
}

func takeOver(t *testing.T, order Order, open func(t *testing.T) (a, b store.Store)) {
	var hung atomic.Int64
	rc := mustReceive(t, func(_ http.ResponseWriter, r *http.Request, _ []got) int {
		if r.Header.Get("Node") == "killed" && hung.Add(1) > 20 {
			<-r.Context().Done()
			return 0
		}
		return http.StatusOK
	})
	first, second := open(t)
	node := func(s store.Store, name string) *bench {
		e := endpointAt("a", rc.URL)
		e.Order, e.Concurrency, e.Headers = order, 4, http.Header{"Node": {name}}
		b := &bench{T: t, store: s, writer: s.NewWriter(name)}
		var err error
		if b.hooks, err = New(Options{Store: s, Endpoints: []*Endpoint{e}, TTL: time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}); err != nil {
			t.Fatal(err)
		}
		return b
	}
	killed := &mortal{Store: first}
	a := node(killed, "killed")
	e := a.hooks.o.Endpoints[0]
	const topics, each = 8, 50
	for i := range topics * 5 {
		a.publish(e, fmt.Sprint("t", i%topics), each/5)
	}
	a.hooks.Start()
	a.until("it hangs", func() bool { return hung.Load() >= 24 })
	b := node(second, "other")
	b.hooks.Start()
	killed.dead.Store(true)
	b.settled(e, topics*each, 0)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	a.hooks.Close(ended)
	b.hooks.Close(t.Context())
	n, again := rc.count()
	t.Logf("%d events came, %d of them again", n, again)
	if n != topics*each {
		t.Errorf("%d events came, want %d", n, topics*each)
	}
	for topic, numbers := range rc.topics {
		if order == OrderTopic && !slices.IsSorted(firsts(numbers)) {
			t.Errorf("%s: %v", topic, numbers)
		}
	}
}

// firsts are numbers without those that come again.
func firsts(numbers []int) (all []int) {
	for _, n := range numbers {
		if !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}

// A node that was held up while another took the lease, and then takes events by mistake, neither loses nor disorders
// any: the other reads them too.
func TestLateTake(t *testing.T) {
	t.Parallel()
	e := endpointAt("a", "http://127.0.0.1")
	e.Order = OrderTopic
	b := mustDeliver(t)
	if err := e.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	x := newTerm(newDeliverer(e, &b.hooks.o, "other", b.metrics.Webhook("a")), "ordered/a")
	var all []int
	more := func(limit int) (n int) {
		taken, err := x.more(t.Context(), limit, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range taken {
			all = append(all, int(e.ID.Seq))
		}
		return len(taken)
	}
	b.publish(e, "t", 20)
	more(5)
	if late, err := b.store.Outbox().Take(t.Context(), "a", "ordered/a", 5, 0); err != nil || len(late) != 5 {
		t.Fatalf("%d taken, %v", len(late), err)
	}
	for more(3) > 0 {
	}
	if len(all) != 20 || !slices.IsSorted(all) {
		t.Errorf("%v", all)
	}
	// Another consumer had some when the endpoint had no order yet.
	b.publish(e, "t", 4)
	if _, err := b.store.Outbox().Take(t.Context(), "a", "dead", 2, 0); err != nil {
		t.Fatal(err)
	}
	for more(3) > 0 {
	}
	slices.Sort(all)
	if len(slices.Compact(all)) != 24 {
		t.Errorf("%v", all)
	}
}

// A node that can't renew its lease stops before another may have it, though its requests hang.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second // a fifth of it is for a slow machine
	began, ended := make(chan time.Time, 10), make(chan time.Time, 10)
	rc := mustReceive(t, func(_ http.ResponseWriter, r *http.Request, _ []got) int {
		began <- time.Now()
		<-r.Context().Done()
		ended <- time.Now()
		return 0
	})
	e := endpointAt("a", rc.URL)
	e.Order, e.Timeout = OrderClient, time.Minute
	s := &mortal{Store: newMemory()}
	hooks, err := New(Options{Store: s, Endpoints: []*Endpoint{e}, TTL: ttl, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, store: s.Store, hooks: hooks, writer: s.NewWriter("w")}
	b.publish(e, "t", 1)
	hooks.Start()
	defer hooks.Close(t.Context())
	<-began
	if st, err := hooks.StatusOf(t.Context(), "a"); err != nil || st.State != Running {
		t.Errorf("%+v, %v", st, err)
	}
	s.dead.Store(true)
	killed := time.Now()
	if d := (<-ended).Sub(killed); d > ttl {
		t.Errorf("its request ended %v later", d)
	}
	b.until("it knows", func() bool { st, err := hooks.StatusOf(t.Context(), "a"); return err == nil && st.State == Waiting })
}
