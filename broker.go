package loopmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"loopmq/eventloop"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// Broker is an MQTT broker. Its exported methods are safe for concurrent use.
type Broker struct {
	// Immutable after New.
	opts     Options
	settings *settings // Options.Settings
	log      *slog.Logger
	// logPackets: the logger takes debug messages, so there is one per packet.
	logPackets atomic.Bool
	store      store.Store
	metrics    *metrics.Set
	engine     *eventloop.Engine
	loops      []*loop
	started    time.Time
	handlers   [4]Handler // by speaks
	v5         *V5Handler // one of them

	registry                    registry
	subscriptions               *trie.Trie[*Session]
	retained                    *trie.Index[retainedMessage]
	retainedSerial              atomic.Uint64 // of the last change in retained
	retainedBytes               atomic.Int64
	retainedSys                 atomic.Int64 // how many of retained are in $SYS
	queuedBefore                atomic.Int64 // messages in the store's queues at the start
	givingBack                  []*Session   // until Start: who has what others are to get
	workers                     *workers     // calls of the store
	authenticating, authorizing *workers     // of their own: slow ones hold up nothing else
	scheduler                   *scheduler
	sys                         *sys
	groups                      groups
	limits                      atomic.Pointer[Limits] // those that SetLimits changes; opts has the others
	drainDefaults               atomic.Pointer[DrainOptions]
	addresses                   addresses
	received                    received
	connecting                  atomic.Int64 // CONNECTs under decision
	callers                     callers
	refusedConnects             [metrics.NumRefuseReasons]atomic.Int64
	cluster                     *cluster       // nil: nobody else uses the store
	commitGroup                 sync.WaitGroup // the goroutines of the loops' committers

	nextLoop     atomic.Uint64 // of Publish
	rules        atomic.Uint64 // counts DropDecisions
	denies       atomic.Bool   // a session was denied something of a shared subscription
	running      atomic.Bool
	draining     atomic.Bool // Drain was called
	parking      parking
	banWatch     atomic.Pointer[banWatch]
	shuttingDown atomic.Bool            // no connection is accepted any more
	stopping     atomic.Bool            // Shutdown was called
	elsewhere    atomic.Pointer[string] // the Server Reference of a drain; nil: none
	expelled     atomic.Bool            // another node declared this one dead, and it hasn't begun to join again
	rejoining    atomic.Bool            // it has begun
	degraded     atomic.Pointer[error]  // why durable publishes fail at the moment
	stopped      chan struct{}          // closed when no loop runs any more
}

// New returns a Broker that is not started yet.
func New(o Options) (*Broker, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if o.NodeID == "" {
		o.NodeID = rand.Text()
	}
	b := &Broker{
		opts:           o,
		log:            o.Logger,
		store:          o.Store,
		metrics:        o.Metrics,
		subscriptions:  trie.New[*Session](),
		retained:       trie.NewIndex[retainedMessage](),
		workers:        newWorkers(maxWorkers),
		authenticating: newWorkers(maxWorkers),
		authorizing:    newWorkers(maxWorkers),
		stopped:        make(chan struct{}),
		started:        time.Now(),
	}
	b.limits.Store(&b.opts.Limits)
	b.drainDefaults.Store(&b.opts.Drain)
	b.logPackets.Store(o.Logger.Enabled(context.Background(), slog.LevelDebug))
	b.v5 = &V5Handler{b}
	b.handlers = [...]Handler{speaksV3: &V3Handler{b}, speaksV5: b.v5, speaksCalls: localHandler{}}
	var err error
	if b.settings, err = b.opts.resolve(&b.opts.Settings); err != nil {
		return nil, err
	}
	b.registry.queueQoS0 = b.settings.QueueQoS0
	engine, err := eventloop.New(eventloop.Config{
		Engine:         o.Engine,
		Loops:          o.Loops,
		Handler:        connections{b},
		Logger:         o.Logger,
		MaxConnections: o.Limits.Connections,
		AcceptRate:     o.Limits.ConnectionRate,
		RefuseAddress:  o.RefuseAddress,
		MaxOutputBytes: o.Limits.OutputBytes,
	})
	if err != nil {
		return nil, fmt.Errorf("loopmq: %w", err)
	}
	b.engine = engine
	if b.metrics == nil {
		b.metrics = metrics.New(len(engine.Loops()))
	}
	for i, el := range engine.Loops() {
		b.loops = append(b.loops, newLoop(b, el, b.metrics.Loop(i)))
	}
	for _, l := range b.loops {
		l.outboxes, l.waiting = make([]*outbox, len(b.loops)), make([]atomic.Bool, len(b.loops))
	}
	if shared, ok := o.Store.(store.Shared); ok {
		b.cluster = newCluster(b, shared)
	}
	b.scheduler = newScheduler(b)
	b.sys = newSys(b)
	b.registerGauges()
	return b, nil
}

// Start loads what the store holds and starts the event loops. Call it once,
// before Listen.
func (b *Broker) Start() error {
	ctx := context.Background()
	if b.cluster != nil {
		if err := b.cluster.join(ctx); err != nil {
			return fmt.Errorf("loopmq: join the nodes that share the store: %w", err)
		}
	}
	if err := b.load(ctx); err != nil {
		return fmt.Errorf("loopmq: load from the store: %w", err)
	}
	if err := b.engine.Start(); err != nil {
		return fmt.Errorf("loopmq: start event loops: %w", err)
	}
	b.running.Store(true)
	if b.cluster != nil {
		if err := b.cluster.member().Start(ctx); err != nil {
			return fmt.Errorf("loopmq: follow the nodes that share the store: %w", err)
		}
	}
	for _, s := range b.givingBack {
		b.giveBack(s, s.epoch.Load(), allOfThem, func(bool) {})
	}
	b.givingBack = nil
	b.scheduler.start()
	b.sys.start()
	b.recordNode(EventNodeUp, b.node(), "")
	return nil
}

// LogPackets says whether each packet is an event at debug level, which is decided
// by the logger's level until it is called: for a level that changes. It is safe for
// concurrent use.
func (b *Broker) LogPackets(on bool) { b.logPackets.Store(on) }

// Metrics returns the set that the broker counts in.
func (b *Broker) Metrics() *metrics.Set { return b.metrics }

// Ready returns nil if the broker takes connections, or why it doesn't.
func (b *Broker) Ready() error {
	switch {
	case b.draining.Load() || b.shuttingDown.Load():
		return errors.New("shutting down")
	case b.parking.drains():
		return errParked
	case !b.running.Load():
		return errors.New("not started")
	case b.rejoining.Load():
		return errors.New("declared dead by another node, joining again")
	case b.cluster != nil && !b.opts.ServeWithoutStore && !b.cluster.member().Valid():
		return errOutOfTouch
	}
	return nil
}

// Health is the state of a Broker, for people and load balancers.
type Health struct {
	Status        string  `json:"status"` // ok, degraded, stopped
	Reason        string  `json:"reason,omitempty"`
	Version       string  `json:"version"`
	Node          string  `json:"node"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	Connections   int     `json:"connections"`
	Sessions      int     `json:"sessions"`
	Subscriptions int     `json:"subscriptions"`
	Retained      int     `json:"retained"`
}

// Health returns the broker's state.
func (b *Broker) Health() Health {
	h := Health{
		Status:        "ok",
		Version:       b.opts.Version,
		Node:          b.node(),
		UptimeSeconds: time.Since(b.started).Seconds(),
		Connections:   b.connected(),
		Sessions:      b.registry.len(),
		Subscriptions: b.subscriptions.Len(),
		Retained:      b.retainedLen(),
	}
	err := b.Ready()
	if err != nil && !errors.Is(err, errOutOfTouch) {
		h.Status, h.Reason = "stopped", err.Error()
		return h
	}
	if failed := b.degraded.Load(); failed != nil {
		err = *failed
	} else if failing := b.store.Health(); failing != nil {
		err = failing
	}
	if err != nil {
		h.Status, h.Reason = "degraded", err.Error()
	}
	return h
}

func (b *Broker) connected() int {
	n := 0
	for _, l := range b.loops {
		n += int(l.connected.Load())
	}
	return n
}

// load fills the trie and the retained index from the store, page by page.
func (b *Broker) load(ctx context.Context) error {
	const page = 1000
	for after := ""; ; {
		sessions, err := b.store.Subscriptions().List(ctx, after, page)
		if err != nil {
			return err
		}
		for i := range sessions {
			if err := b.loadSession(ctx, &sessions[i]); err != nil {
				return err
			}
			after = sessions[i].Session.ID.ClientID
		}
		if len(sessions) < page {
			break
		}
	}
	for after := ""; ; {
		topics, err := b.store.Retained().List(ctx, after, page)
		if err != nil {
			return err
		}
		messages, err := b.store.Retained().Read(ctx, topics)
		if err != nil {
			return err
		}
		for i, m := range messages {
			if m != nil {
				b.indexRetained(topics[i], m, nil)
			}
		}
		if len(topics) < page {
			return nil
		}
		after = topics[len(topics)-1]
	}
}

// loadSession puts a session that the store has into the registry and the trie.
func (b *Broker) loadSession(ctx context.Context, stored *store.Subscribed) error {
	s := b.registry.restore(&stored.Session)
	if b.cluster != nil {
		s.movedTo(stored.Session.Owner, stored.Session.Epoch, stored.Session.Owner == b.owner())
	}
	b.queuedBefore.Add(int64(stored.Queued))
	shared := false
	for _, sub := range stored.Subscriptions {
		s.subscribe(b, sub, -1)
		if isShared(sub.TopicFilter) {
			shared = true
			n, err := b.groups.restore(ctx, b.store, sub.TopicFilter)
			if err != nil {
				return err
			}
			b.queuedBefore.Add(int64(n))
		}
	}
	if shared && stored.Queued > 0 && b.cluster == nil { // the process died before others could have it
		b.givingBack = append(b.givingBack, s)
	}
	return nil
}
