package webhooks

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/sony/gobreaker/v2"

	"loopmq/store"
)

// State is whether an endpoint gets requests.
type State string

// The states.
const (
	// Running: it does.
	Running State = "running"
	// Waiting: another node delivers to it, since it has an order.
	Waiting State = "waiting"
	// Paused: it asked to be left alone, by Retry-After.
	Paused State = "paused"
	// Open: it failed so often that its circuit breaker is open.
	Open State = "open"
	// Probing: it was left alone, and one request shows whether it is well again.
	Probing State = "probing"
	// Disabled: it answered 410, or an operator disabled it.
	Disabled State = "disabled"
	// Unconfigured: this node has no such endpoint, but the store has its outbox.
	Unconfigured State = "unconfigured"
)

// Status is how an endpoint fares: State, Until and what follows LastError at this node, the rest of all nodes.
type Status struct {
	Endpoint string
	URL      string // without what is secret in it
	State    State
	// Until is when Paused or Open ends.
	Until time.Time
	// DisabledReason is why it is disabled.
	DisabledReason string
	// Outbox adds up: Matched = Delivered + Queued + Taken + Dead + Dropped.
	Outbox store.OutboxState
	// LastError is the last that went wrong; LastErrorAt and LastDelivered, when, are the zero time if it never did.
	LastError     string
	LastErrorAt   time.Time
	LastDelivered time.Time
}

// Status returns how all endpoints fare: those that are configured, in their order, then others that have an outbox.
func (w *Webhooks) Status(ctx context.Context) ([]Status, error) {
	var all []Status
	for _, d := range w.all() {
		o, err := w.outbox.State(ctx, d.endpoint.Name)
		if err != nil {
			return nil, fmt.Errorf("read the state of %q: %w", d.endpoint.Name, err)
		}
		all = append(all, d.status(o))
	}
	names, err := w.outbox.Endpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("list outboxes: %w", err)
	}
	for _, name := range names {
		if slices.ContainsFunc(all, func(s Status) bool { return s.Endpoint == name }) {
			continue
		}
		o, err := w.outbox.State(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read the state of %q: %w", name, err)
		}
		all = append(all, Status{Endpoint: name, State: Unconfigured, DisabledReason: o.Disabled, Outbox: o})
	}
	return all, nil
}

// StatusOf returns how one endpoint fares. ErrNoEndpoint: there is none with that name.
func (w *Webhooks) StatusOf(ctx context.Context, endpoint string) (Status, error) {
	all, err := w.Status(ctx)
	if err != nil {
		return Status{}, err
	}
	for _, s := range all {
		if s.Endpoint == endpoint {
			return s, nil
		}
	}
	return Status{}, ErrNoEndpoint
}

func (d *deliverer) status(o store.OutboxState) Status {
	breaker := d.breaker.State()
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &d.mu.progress
	s := Status{
		Endpoint: d.endpoint.Name, State: Running, DisabledReason: o.Disabled, Outbox: o,
		LastError: p.lastError, LastErrorAt: p.lastErrorAt, LastDelivered: p.lastDelivered,
	}
	if u, err := url.Parse(d.endpoint.URL); err == nil {
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		s.URL = u.String()
	}
	switch {
	case o.Disabled != "":
		s.State = Disabled
	case d.endpoint.Order != OrderNone && !p.leads:
		s.State = Waiting
	case breaker == gobreaker.StateOpen:
		s.State, s.Until = Open, d.mu.openUntil
	case p.pausedUntil.After(time.Now()):
		s.State, s.Until = Paused, p.pausedUntil
	case breaker == gobreaker.StateHalfOpen:
		s.State = Probing
	}
	return s
}

// Disable has nothing sent to an endpoint, by any node, until Enable or Reload. reason is for people. Events are queued
// meanwhile. ErrNoEndpoint: there is none with that name.
func (w *Webhooks) Disable(ctx context.Context, endpoint, reason string) error {
	if reason == "" {
		reason = "by an operator"
	}
	return w.change(ctx, endpoint, reason)
}

// Enable undoes Disable, and what the answer 410 did. ErrNoEndpoint: there is none with that name.
func (w *Webhooks) Enable(ctx context.Context, endpoint string) error {
	return w.change(ctx, endpoint, "")
}

func (w *Webhooks) change(ctx context.Context, endpoint, disabled string) error {
	if err := w.exists(ctx, endpoint); err != nil {
		return err
	}
	return w.disable(ctx, endpoint, disabled)
}

// disable tells the store why an endpoint is disabled; empty: it isn't.
func (w *Webhooks) disable(ctx context.Context, endpoint, reason string) error {
	if err := w.outbox.Disable(ctx, endpoint, reason); err != nil {
		return fmt.Errorf("enable or disable %q: %w", endpoint, err)
	}
	if d := w.find(endpoint); d != nil {
		d.look(ctx)
	}
	return nil
}

// exists returns ErrNoEndpoint unless there is an endpoint, or an outbox, with that name.
func (w *Webhooks) exists(ctx context.Context, endpoint string) error {
	if w.find(endpoint) != nil {
		return nil
	}
	names, err := w.outbox.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("list outboxes: %w", err)
	}
	if !slices.Contains(names, endpoint) {
		return ErrNoEndpoint
	}
	return nil
}

// Forget deletes the outbox of an endpoint that this node has no more, with its events and dead letters.
// ErrNoEndpoint: there is no such outbox; ErrConfigured: there is such an endpoint.
func (w *Webhooks) Forget(ctx context.Context, endpoint string) error {
	if w.find(endpoint) != nil {
		return ErrConfigured
	}
	if err := w.exists(ctx, endpoint); err != nil {
		return err
	}
	return w.outbox.Remove(ctx, endpoint)
}
