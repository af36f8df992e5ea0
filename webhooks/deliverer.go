package webhooks

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"loopmq/metrics"
	"loopmq/store"
)

const (
	// storeTimeout bounds a call of the store, storePause is between two if the first fails.
	storeTimeout = 10 * time.Second
	storePause   = time.Second
	// farewell bounds what is said to the store at the end.
	farewell = 2 * time.Second
)

// deliverer delivers the events of one endpoint, in goroutines of its own: whatever the endpoint does, others don't feel
// it.
type deliverer struct {
	endpoint *Endpoint
	outbox   store.Outbox
	leases   store.Leases
	consumer string        // new for each deliverer; also who holds a lease
	ttl      time.Duration // of consumers and leases
	client   *http.Client
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	replier  *Replier // nil: nobody gets answers
	metrics  *metrics.Webhook
	logger   *slog.Logger

	halt  chan struct{}      // closed: nothing new is begun
	abort context.CancelFunc // ends what is under way
	ended chan struct{}

	disabled atomic.Bool
	poked    chan struct{} // something has changed that may let requests go

	mu struct {
		sync.Mutex
		progress
		openUntil   time.Time // of the breaker
		storeFailed bool
	}
}

// progress is what a deliverer knows of its doings.
type progress struct {
	leads         bool // has the lease, where there is one
	lastError     string
	lastErrorAt   time.Time
	lastDelivered time.Time
	pausedUntil   time.Time
}

func (p *progress) failed(err error, now time.Time) { p.lastError, p.lastErrorAt = err.Error(), now }

func newDeliverer(e *Endpoint, o *Options, consumer string, m *metrics.Webhook) *deliverer {
	d := &deliverer{
		endpoint: e, outbox: o.Store.Outbox(), leases: o.Store.Leases(), consumer: consumer, ttl: o.TTL,
		client: newClient(e), metrics: m, logger: o.Logger.With("endpoint", e.Name),
		halt: make(chan struct{}), ended: make(chan struct{}), poked: make(chan struct{}, 1),
	}
	d.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: e.Name, Timeout: e.BreakerDelay,
		ReadyToTrip:   func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= e.BreakerFailures },
		IsExcluded:    func(err error) bool { return errors.Is(err, errNoVerdict) },
		OnStateChange: func(_ string, from, to gobreaker.State) { d.breakerChanged(from, to) },
	})
	if e.Replies != nil {
		d.replier = NewReplier(o.Broker, e)
	}
	return d
}

// breakerChanged is called with the breaker's lock held.
func (d *deliverer) breakerChanged(from, to gobreaker.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if to == gobreaker.StateOpen {
		d.mu.openUntil = time.Now().Add(d.endpoint.BreakerDelay)
	}
	switch {
	case from == gobreaker.StateClosed:
		d.metrics.BreakersOpened.Inc()
		d.metrics.Open.Store(true)
		d.logger.Error("webhook_failed", "retry_in", d.endpoint.BreakerDelay, "error", d.mu.lastError)
	case to == gobreaker.StateClosed:
		d.metrics.Open.Store(false)
		d.logger.Info("webhook_recovered")
	}
}

// start begins to deliver.
func (d *deliverer) start() {
	var ctx context.Context
	ctx, d.abort = context.WithCancel(context.Background())
	go func() {
		defer close(d.ended)
		defer d.client.CloseIdleConnections()
		if d.replier != nil {
			defer d.replier.Close()
		}
		var watching sync.WaitGroup
		defer watching.Wait()
		defer d.abort()
		d.look(ctx)
		watching.Go(func() {
			for d.sleep(ctx, d.ttl*2/5) {
				d.look(ctx)
			}
		})
		if d.endpoint.Order == OrderNone {
			d.beside(ctx)
		} else {
			d.alone(ctx)
		}
	}()
}

// stop ends delivering. Requests under way may end until ctx does.
func (d *deliverer) stop(ctx context.Context) {
	close(d.halt)
	select {
	case <-d.ended:
	case <-ctx.Done():
		d.abort()
		<-d.ended
	}
}

// beside delivers while other nodes do. This one is a consumer, and lives as long as it renews.
func (d *deliverer) beside(ctx context.Context) {
	for !d.renew(ctx, d.consumer) { // Else what it takes would be anybody's.
		if !d.sleep(ctx, storePause) {
			return
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for wait(ctx, d.ttl/3) {
			d.renew(ctx, d.consumer)
		}
	})
	newTerm(d, d.consumer).run(ctx)
	cancel()
	renewing.Wait()
	// What it has not delivered others may have at once.
	ctx, cancel = context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_ = d.outbox.Renew(ctx, d.consumer, 0)
}

// alone delivers while no other node does, so that there is an order. A lease says who does. The consumer is always the
// same, so that who has the lease next goes on with what this one has taken.
func (d *deliverer) alone(ctx context.Context) {
	for {
		asked := time.Now()
		_, ok, err := d.leases.Acquire(ctx, d.lease(), d.consumer, d.ttl)
		d.stored(err)
		if ok {
			d.lead(ctx, asked)
		}
		if !d.sleep(ctx, d.ttl/4) {
			return
		}
	}
}

func (d *deliverer) lease() string { return "webhook/" + d.endpoint.Name }

// lead delivers for as long as the lease is certain to be held: a request that may be under way when another node begins
// could overtake, so the end is earlier than that of the lease.
func (d *deliverer) lead(ctx context.Context, asked time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	certain := d.ttl - d.ttl/5
	end := time.AfterFunc(time.Until(asked.Add(certain)), cancel)
	defer end.Stop()
	consumer := "ordered/" + d.endpoint.Name
	if !d.renew(ctx, consumer) {
		return
	}
	d.note(func(p *progress) { p.leads = true })
	defer d.note(func(p *progress) { p.leads = false })
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for wait(ctx, d.ttl/5) {
			asked := time.Now()
			_, ok, err := d.leases.Acquire(ctx, d.lease(), d.consumer, d.ttl)
			d.stored(err)
			switch {
			case ok:
				end.Reset(time.Until(asked.Add(certain)))
				d.renew(ctx, consumer)
			case err == nil: // another has it
				cancel()
			}
		}
	})
	newTerm(d, consumer).run(ctx)
	cancel()
	renewing.Wait()
	ctx, cancel = context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_ = d.leases.Release(ctx, d.lease(), d.consumer)
}

func (d *deliverer) renew(ctx context.Context, consumer string) bool {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return d.stored(d.outbox.Renew(ctx, consumer, d.ttl))
}

// look asks what the outbox holds, and whether the endpoint is enabled, which any node may have changed.
func (d *deliverer) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s, err := d.outbox.State(ctx, d.endpoint.Name)
	if !d.stored(err) {
		return
	}
	d.metrics.Outbox.Store(&metrics.WebhookOutbox{
		Matched: s.Matched, Delivered: s.Delivered, Queued: s.Queued, InFlight: s.Taken, Dead: s.Dead, Dropped: s.Dropped,
		Bytes: s.Bytes, Oldest: s.Oldest, Disabled: s.Disabled != "",
	})
	if d.disabled.Swap(s.Disabled != "") != (s.Disabled != "") {
		d.poke()
	}
}

// poke has requests begin that couldn't before.
func (d *deliverer) poke() {
	select {
	case d.poked <- struct{}{}:
	default:
	}
}

// stored reports whether a call of the store went well, and logs when that begins or ends to be so.
func (d *deliverer) stored(err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if failed := err != nil && !errors.Is(err, context.Canceled); failed != d.mu.storeFailed {
		d.mu.storeFailed = failed
		if failed {
			d.logger.Error("webhook_store_failed", "error", err)
		} else {
			d.logger.Info("webhook_store_recovered")
		}
	}
	return err == nil
}

func (d *deliverer) note(f func(p *progress)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.mu.progress)
}

// sleep waits, unless delivering is to end.
func (d *deliverer) sleep(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.halt:
	case <-ctx.Done():
	}
	return false
}

// wait waits, unless ctx ends.
func wait(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
