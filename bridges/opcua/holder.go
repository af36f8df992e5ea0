package opcuabridge

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

const (
	defaultTTL = 5 * time.Second
	// farewell bounds what is said to the store, the broker and the server at the end.
	farewell = 2 * time.Second
	// statusTimeout bounds the publishing of a status.
	statusTimeout = 5 * time.Second
	// failuresShown is how many failures a status has.
	failuresShown = 20
)

// holder serves one endpoint while it has the lease.
//
// Two nodes could both serve it if one of them didn't notice that its lease has lapsed. Three things keep that short: the
// holder ends before the lease does, by its own clock; commands come by an MQTT session, which the next holder takes
// over, and the store's epochs allow one; and the end of that session ends the holder.
type holder struct {
	endpoint *Endpoint
	o        *Options
	name     string // of the holder, new for each
	leases   store.Leases
	metrics  *metrics.OPCUA
	log      *slog.Logger

	abort context.CancelFunc
	ended chan struct{}
}

func newHolder(e *Endpoint, o *Options, name string, m *metrics.OPCUA) *holder {
	return &holder{
		endpoint: e, o: o, name: name, leases: o.Store.Leases(), metrics: m, log: o.Logger.With("endpoint", e.Name),
		ended: make(chan struct{}),
	}
}

func (h *holder) start() {
	var ctx context.Context
	ctx, h.abort = context.WithCancel(context.Background())
	go func() {
		defer close(h.ended)
		h.run(ctx)
	}()
}

// stop ends serving, and returns when that is done or ctx ends.
func (h *holder) stop(ctx context.Context) {
	h.abort()
	select {
	case <-h.ended:
	case <-ctx.Done():
	}
}

func (h *holder) lease() string { return "opcua/" + h.endpoint.Name }

// run asks for the lease, again and again.
func (h *holder) run(ctx context.Context) {
	failed := false
	for {
		asked := time.Now()
		fence, ok, err := h.acquire(ctx)
		if ok {
			h.lead(ctx, asked, fence)
		}
		if err != nil && ctx.Err() == nil && !failed {
			h.log.Error("opcua_store_failed", "error", err)
		}
		failed = err != nil
		if !wait(ctx, h.o.TTL/4) {
			return
		}
	}
}

func (h *holder) acquire(ctx context.Context) (fence uint64, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.o.TTL)
	defer cancel()
	return h.leases.Acquire(ctx, h.lease(), h.name, h.o.TTL)
}

// lead serves the endpoint for as long as the lease is certain to be held.
func (h *holder) lead(ending context.Context, asked time.Time, fence uint64) {
	ctx, cancel := context.WithCancel(ending)
	defer cancel()
	certain := h.o.TTL - h.o.TTL/5
	end := time.AfterFunc(time.Until(asked.Add(certain)), cancel)
	defer end.Stop()
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for wait(ctx, h.o.TTL/5) {
			asked := time.Now()
			now, ok, err := h.acquire(ctx)
			switch {
			case ok && now == fence:
				end.Reset(time.Until(asked.Add(certain)))
			case err == nil: // another has it, or had it meanwhile
				cancel()
			}
		}
	})
	h.log.Info("opcua_lease", "fence", fence)
	h.serve(ctx, ending, fence)
	cancel()
	renewing.Wait()
	ctx, cancelFarewell := context.WithTimeout(context.Background(), farewell)
	defer cancelFarewell()
	_ = h.leases.Release(ctx, h.lease(), h.name)
}

// serve is the endpoint's client at the broker and at the server.
func (h *holder) serve(ctx, ending context.Context, fence uint64) {
	caller, err := h.o.Broker.Authenticate(ctx, &loopmq.ConnectRequest{
		ClientID: ClientID(h.endpoint.Name), Username: h.o.Username, HasUsername: h.o.Username != "", Listener: "opcua", ProtocolVersion: codec.V5,
	}, &loopmq.Settings{Authenticator: configured{}, Authorizer: h.o.Authorizer})
	if err != nil {
		h.log.Error("opcua_not_admitted", "error", err)
		return
	}
	defer caller.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l := &link{holder: h, endpoint: h.endpoint, caller: caller, fence: fence, ending: ending, since: time.Now()}
	commands, err := newCommander(ctx, l, cancel)
	if err != nil {
		h.log.Error("opcua_not_connected", "error", err)
		return
	}
	defer commands.close()
	l.run(ctx)
	var over *codec.Error
	if errors.As(context.Cause(ctx), &over) {
		h.log.Warn("opcua_disconnected", "error", over)
	}
}

// The states of an endpoint.
const (
	stateConnecting   = "connecting"
	stateConnected    = "connected"
	stateDisconnected = "disconnected"
	stateStopped      = "stopped"
)

// status is what the status topic says.
type status struct {
	Endpoint string    `json:"endpoint"`
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Error    string    `json:"error,omitempty"`
	Fence    uint64    `json:"fence"`
	Items    int       `json:"items"`
	Failed   int       `json:"failed"`
	Failures []failure `json:"failures,omitempty"` // the first ones
}

// failure is a mapping, or a node of one, that can't be monitored.
type failure struct {
	Node  string `json:"node"`
	Error string `json:"error"`
}

// tell publishes a state, unless it is what was told last.
func (l *link) tell(ctx context.Context, state string, why error) {
	s := status{Endpoint: l.endpoint.Name, State: state, Fence: l.fence, Items: len(l.items), Failed: len(l.failures), Failures: l.failures}
	s.Failures = s.Failures[:min(len(s.Failures), failuresShown)]
	if why != nil {
		s.Error = why.Error()
	}
	if state != l.told.State {
		l.since = time.Now().UTC()
	}
	s.Since = l.since
	h := l.holder
	h.metrics.Connected.Store(state == stateConnected)
	h.metrics.Items.Store(int64(s.Items))
	h.metrics.Failed.Store(int64(s.Failed))
	if same(&s, &l.told) || ctx.Err() != nil {
		return
	}
	if state == stateDisconnected && l.told.State == state && time.Since(l.toldAt) < l.endpoint.RetryMax {
		return // errors name ports, so that each is another one
	}
	l.toldAt = time.Now()
	if state == stateDisconnected {
		h.log.Warn("opcua_"+state, "error", s.Error)
	} else {
		h.log.Info("opcua_"+state, "items", s.Items, "failed", s.Failed)
	}
	payload, err := json.Marshal(&s)
	if err != nil { // it never is
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	_, err = l.caller.Publish(ctx, &loopmq.Message{TopicName: l.endpoint.statusTopic, Payload: payload, QoS: 1, Retain: true, ContentType: "application/json", PayloadFormatIndicator: 1})
	if err != nil {
		h.log.Warn("opcua_status_failed", "error", err)
		return // it is tried again with the next one
	}
	l.told = s
}

func same(a, b *status) bool {
	if a.State != b.State || a.Error != b.Error || a.Items != b.Items || a.Failed != b.Failed || len(a.Failures) != len(b.Failures) {
		return false
	}
	for i := range a.Failures {
		if a.Failures[i] != b.Failures[i] {
			return false
		}
	}
	return true
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

// configured is the Authenticator of who needs no credentials, since the configuration says who it is.
type configured struct{}

// Authenticate accepts.
func (configured) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{Username: r.Username}, nil, nil
}

// Continue is never called: there is no Challenge.
func (configured) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errors.New("opcuabridge: there is no challenge")
}
