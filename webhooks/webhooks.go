package webhooks

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"loopmq"
	"loopmq/metrics"
	"loopmq/store"
)

// Options are what Webhooks work with.
type Options struct {
	// Store has the outboxes; it is that of the Broker.
	Store store.Store
	// Broker publishes replies. It may be nil if no endpoint has any.
	Broker *loopmq.Broker
	// Endpoints get the events. Their defaults are set by New.
	Endpoints []*Endpoint
	// Metrics counts; nil: nobody looks.
	Metrics *metrics.Set
	// Logger gets failures of endpoints and of the store; nil means slog.Default().
	Logger *slog.Logger
	// TTL is after what time without a sign of life what a node has taken is for others: that of leases and consumers;
	// default 5 s.
	TTL time.Duration
}

// Webhooks deliver what is in the outboxes of a store to endpoints, beside other nodes that do the same. Its methods are
// safe for concurrent use.
type Webhooks struct {
	o        Options
	outbox   store.Outbox
	instance string

	changing sync.Mutex // Start, Reload and Close, one at a time
	running  bool
	started  int // deliverers so far
	metrics  map[string]*metrics.Webhook

	mu         sync.Mutex
	deliverers []*deliverer // in the order of the endpoints
}

// New returns Webhooks that don't deliver yet. The error names the endpoint and the field that is wrong.
func New(o Options) (*Webhooks, error) {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Metrics = cmp.Or(o.Metrics, metrics.New(1))
	o.TTL = cmp.Or(o.TTL, 5*time.Second)
	w := &Webhooks{o: o, outbox: o.Store.Outbox(), instance: rand.Text(), metrics: make(map[string]*metrics.Webhook)}
	if err := check(o.Endpoints, nil); err != nil {
		return nil, err
	}
	return w, nil
}

// check sets the defaults of endpoints, but of those in use, which have them.
func check(endpoints, inUse []*Endpoint) error {
	var wrong []error
	names := make(map[string]bool)
	for _, e := range endpoints {
		if slices.Contains(inUse, e) {
			names[e.Name] = true
			continue
		}
		if err := e.SetDefaults(); err != nil {
			wrong = append(wrong, fmt.Errorf("%w %q: %w", ErrEndpoint, e.Name, err))
		} else if names[e.Name] {
			wrong = append(wrong, fmt.Errorf("%w %q: Name: is that of another one, too", ErrEndpoint, e.Name))
		}
		names[e.Name] = true
	}
	return errors.Join(wrong...)
}

// Start begins to deliver.
func (w *Webhooks) Start() {
	w.changing.Lock()
	defer w.changing.Unlock()
	w.running = true
	w.replace(context.Background(), w.o.Endpoints)
}

// Close ends delivering. Requests under way may end until ctx does; what is not delivered stays in the store.
func (w *Webhooks) Close(ctx context.Context) {
	w.changing.Lock()
	defer w.changing.Unlock()
	w.running = false
	w.replace(ctx, nil)
}

// Reload delivers to these endpoints from now on, and enables those that were disabled. What is in the outbox of an
// endpoint that is no more stays there for one with its name. Requests to one that changes may end until ctx does; others
// go on meanwhile. An error of ErrEndpoint changes nothing, other ones are of the store.
func (w *Webhooks) Reload(ctx context.Context, endpoints []*Endpoint) error {
	w.changing.Lock()
	defer w.changing.Unlock()
	if err := check(endpoints, w.o.Endpoints); err != nil {
		return err
	}
	w.o.Endpoints = endpoints
	if !w.running {
		return nil
	}
	w.replace(ctx, endpoints)
	var failed []error
	for _, e := range endpoints {
		failed = append(failed, w.disable(ctx, e.Name, ""))
	}
	return errors.Join(failed...)
}

// replace ends delivering to all endpoints but these, and begins with those that are new. REQUIRES: w.changing
func (w *Webhooks) replace(ctx context.Context, endpoints []*Endpoint) {
	var stopping sync.WaitGroup
	kept := make(map[string]*deliverer)
	for _, d := range w.all() {
		if slices.Contains(endpoints, d.endpoint) {
			kept[d.endpoint.Name] = d
		} else {
			stopping.Go(func() { d.stop(ctx) })
		}
	}
	stopping.Wait()
	for name := range w.metrics {
		if !slices.ContainsFunc(endpoints, func(e *Endpoint) bool { return e.Name == name }) {
			w.o.Metrics.RemoveWebhook(name)
			delete(w.metrics, name)
		}
	}
	var all []*deliverer
	for _, e := range endpoints {
		d := kept[e.Name]
		if d == nil {
			d = w.begin(e)
		}
		all = append(all, d)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deliverers = all
}

// begin has a new deliverer deliver. REQUIRES: w.changing
func (w *Webhooks) begin(e *Endpoint) *deliverer {
	if w.metrics[e.Name] == nil {
		w.metrics[e.Name] = w.o.Metrics.Webhook(e.Name)
	}
	w.started++
	d := newDeliverer(e, &w.o, fmt.Sprintf("%s-%d", w.instance, w.started), w.metrics[e.Name])
	d.start()
	return d
}

func (w *Webhooks) all() []*deliverer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deliverers
}

// find returns who delivers to an endpoint, nil: nobody.
func (w *Webhooks) find(endpoint string) *deliverer {
	for _, d := range w.all() {
		if d.endpoint.Name == endpoint {
			return d
		}
	}
	return nil
}
