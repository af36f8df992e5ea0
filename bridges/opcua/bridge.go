package opcuabridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"loopmq"
	"loopmq/metrics"
)

// ClientID returns the Client Identifier of an endpoint, as which it publishes and gets commands.
func ClientID(endpoint string) string { return loopmq.LocalClientIDs + "opcua/" + endpoint }

// Bridge is the client of OPC UA servers, beside other nodes that have the same endpoints. Its methods are safe for
// concurrent use.
type Bridge struct {
	o        Options
	instance string

	changing sync.Mutex // Start, Reload and Close, one at a time
	running  bool
	holders  int // so far
	current  map[string]*holder
	metrics  map[string]*metrics.OPCUA
}

// New returns a Bridge that doesn't connect yet. The error names the endpoint and the field that is wrong.
func New(o Options) (*Bridge, error) {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Metrics = cmp.Or(o.Metrics, o.Broker.Metrics())
	o.TTL = cmp.Or(o.TTL, defaultTTL)
	if err := check(o.Endpoints, nil); err != nil {
		return nil, err
	}
	return &Bridge{o: o, instance: rand.Text(), current: make(map[string]*holder), metrics: make(map[string]*metrics.OPCUA)}, nil
}

// check sets the defaults of endpoints, but of those in use, which have them.
func check(endpoints, inUse []*Endpoint) error {
	var wrong []error
	names := make(map[string]bool)
	for _, e := range endpoints {
		if !slices.Contains(inUse, e) {
			if err := e.SetDefaults(); err != nil {
				wrong = append(wrong, fmt.Errorf("%w %q: %w", ErrEndpoint, e.Name, err))
			}
		}
		if names[e.Name] {
			wrong = append(wrong, fmt.Errorf("%w %q: Name: is that of another one, too", ErrEndpoint, e.Name))
		}
		names[e.Name] = true
	}
	return errors.Join(wrong...)
}

// Start begins to serve the endpoints. The Broker has to be started before.
func (b *Bridge) Start() {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.running = true
	b.replace(b.o.Endpoints)
}

// Close ends sessions, tells so on the status topics and gives the leases up. It returns when that is done, or when ctx
// ends, after which the rest is cut off.
func (b *Bridge) Close(ctx context.Context) {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.running = false
	b.stop(ctx, nil)
}

// Reload serves these endpoints from now on. Those that are the same go on undisturbed; others end as at Close. An error of
// ErrEndpoint changes nothing.
func (b *Bridge) Reload(ctx context.Context, endpoints []*Endpoint) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	if err := check(endpoints, b.o.Endpoints); err != nil {
		return err
	}
	b.o.Endpoints = endpoints
	if b.running {
		b.stop(ctx, endpoints)
		b.replace(endpoints)
	}
	return nil
}

// stop ends all endpoints but those to keep. REQUIRES: b.changing
func (b *Bridge) stop(ctx context.Context, keep []*Endpoint) {
	var stopping sync.WaitGroup
	for name, h := range b.current {
		if !slices.Contains(keep, h.endpoint) {
			delete(b.current, name)
			stopping.Go(func() { h.stop(ctx) })
		}
	}
	stopping.Wait()
	for name := range b.metrics {
		if b.current[name] == nil {
			b.o.Metrics.RemoveOPCUA(name)
			delete(b.metrics, name)
		}
	}
}

// replace begins with endpoints that are new. REQUIRES: b.changing
func (b *Bridge) replace(endpoints []*Endpoint) {
	for _, e := range endpoints {
		if b.current[e.Name] != nil {
			continue
		}
		b.holders++
		b.metrics[e.Name] = b.o.Metrics.OPCUA(e.Name)
		h := newHolder(e, &b.o, fmt.Sprintf("%s-%d", b.instance, b.holders), b.metrics[e.Name])
		b.current[e.Name] = h
		h.start()
	}
}
