package memory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loopmq/store"
	"loopmq/store/local"
)

// Hub is a Store that several brokers of one process share, for tests and for
// embedding: each gets its own view from [Hub.Open], which is a store.Shared. Nobody
// has a lease here: an instance is dead when [Hub.Expel] says so.
type Hub struct {
	*Store

	mu      sync.Mutex // guards what follows, and makes a step of the store and its Change one
	changed *sync.Cond // the feed or an inbox has grown, or a member has gone
	feed    []store.Change
	members map[string]*member
	names   int
	live    atomic.Int64 // len(members)
	paused  bool         // the feed moves with commits only
}

var _ store.Shared = (*HubStore)(nil)

// NewHub returns a Hub with an empty Store.
func NewHub(opts Options) *Hub {
	h := &Hub{Store: New(opts), members: make(map[string]*member)}
	h.shared = true
	h.changed = sync.NewCond(&h.mu)
	return h
}

// Open returns a view for one broker. Closing it leaves the Hub open.
func (h *Hub) Open() *HubStore {
	s := &HubStore{Store: h.Store, hub: h}
	h.Store.mu.Lock()
	defer h.Store.mu.Unlock()
	h.bells = append(h.bells, &s.bell)
	return s
}

// Expel declares an instance dead, as a node does whose lease has lapsed.
func (h *Hub) Expel(instance string) {
	h.mu.Lock()
	m := h.members[instance]
	h.mu.Unlock()
	if m == nil {
		return
	}
	h.bury(m)
	m.node.Expelled()
}

// Pause keeps instances from applying what is new in the feed, except for what their
// own commits bring: so a test sees what happens where one of them is slow.
func (h *Hub) Pause() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused = true
}

// Resume ends a Pause, and returns when every instance has applied everything.
func (h *Hub) Resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused = false
	h.changed.Broadcast()
	for {
		behind := false
		for _, m := range h.members {
			behind = behind || m.started && m.position < len(h.feed)
		}
		if !behind {
			return
		}
		h.changed.Wait()
	}
}

// HubStore is one broker's view of a Hub.
type HubStore struct {
	*Store
	hub    *Hub
	member *member // guarded by hub.mu
	bell   local.Bell
}

// Bans implements store.Store: each change is told to all views.
func (s *HubStore) Bans() store.Bans { return hubBans{s.Store.Bans(), s.hub} }

// Outbox implements store.Store.
func (s *HubStore) Outbox() store.Outbox { return outboxView{s.Store, &s.bell} }

// Close ends the view, not the Hub.
func (s *HubStore) Close() error { return nil }

// Join implements store.Shared.
func (s *HubStore) Join(_ context.Context, n store.Node) (store.Member, error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.names++
	m := &member{hub: h, node: n, instance: fmt.Sprintf("instance-%d", h.names), position: len(h.feed), additions: 1, giving: make(map[string]store.Session)}
	s.member = m
	h.members[m.instance] = m
	h.live.Store(int64(len(h.members)))
	return m, nil
}

// NewWriter implements store.Store.
func (s *HubStore) NewWriter(name string) store.Writer {
	return &hubWriter{s: s, Writer: s.Store.NewWriter(name)}
}

// Sessions implements store.Store: a claim tells the instance that had the session.
func (s *HubStore) Sessions() store.Sessions { return hubSessions{s.Store.Sessions(), s} }

type hubSessions struct {
	store.Sessions
	s *HubStore
}

func (v hubSessions) Claim(ctx context.Context, c store.Claim) (store.Claimed, error) {
	h := v.s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.members[c.Owner] == nil {
		return store.Claimed{}, store.ErrDead
	}
	claimed, err := v.Sessions.Claim(ctx, c)
	if err != nil {
		return claimed, err
	}
	se := claimed.Session
	if claimed.Ended != nil && claimed.Ended.Durable {
		h.append(store.Change{Kind: store.ChangeEnded, Session: claimed.Ended.ID})
	}
	if se.Durable && claimed.OldOwner != se.Owner {
		h.append(store.Change{Kind: store.ChangeOwner, Session: se.ID, Instance: se.Owner, Epoch: se.Epoch})
	}
	if old := h.members[claimed.OldOwner]; old != nil && claimed.OldOwner != c.Owner {
		old.controlLocked(func() { old.node.Yield(c.ClientID, se.Epoch, c.CleanStart, c.Owner) })
	}
	return claimed, nil
}

// append adds a Change to the feed. REQUIRES: h.mu
func (h *Hub) append(c store.Change) {
	h.feed = append(h.feed, c)
	h.changed.Broadcast()
}

type hubWriter struct {
	store.Writer
	s *HubStore
}

// Commit is one step for all instances.
func (w *hubWriter) Commit(ctx context.Context, b *store.Batch) error {
	h := w.s.hub
	h.mu.Lock()
	m := w.s.member
	if m == nil || h.members[m.instance] != m {
		h.mu.Unlock()
		return store.ErrDead
	}
	stale := slices.ContainsFunc(h.feed[m.position:], func(c store.Change) bool { return c.Kind.Adds() })
	published := store.Done
	for i := range b.Ops {
		op := &b.Ops[i]
		one := &store.Batch{Ops: b.Ops[i : i+1]}
		if op.Kind == store.OpEnqueue && op.IfPublished && published != store.Done {
			op.Result = published
			continue
		}
		inOneStep := op.Kind == store.OpPublish && (op.Message.QoS == 2 || op.WillOf != nil || op.Once != nil)
		if inOneStep && op.Additions != 0 && (stale || op.Additions < m.additions) {
			op.Result, published = store.Stale, store.Stale
			continue
		}
		before, _ := h.sessionOf(op)
		topics := h.topicsOf(op)
		forwards := op.Targets
		op.Targets = slices.DeleteFunc(slices.Clone(op.Targets), func(t store.Target) bool { return t.Instance != "" })
		if err := w.Writer.Commit(ctx, one); err != nil {
			h.mu.Unlock()
			return err
		}
		queues := op.Targets
		op.Targets = forwards
		if op.Kind == store.OpPublish {
			published = op.Result
		}
		w.s.merge(op, queues)
		h.tell(m, op, before, topics)
	}
	upTo := len(h.feed)
	h.mu.Unlock()
	m.catchUp(upTo)
	return nil
}

// merge puts the results of the queues back among all Targets, and tells instances.
func (s *HubStore) merge(op *store.Op, queues []store.Target) {
	h, next := s.hub, 0
	news := make(map[string]*store.News)
	newsFor := func(instance string) *store.News {
		if news[instance] == nil {
			news[instance] = &store.News{Message: op.Message}
		}
		return news[instance]
	}
	for i := range op.Targets {
		t := &op.Targets[i]
		if t.Instance == "" {
			*t = queues[next]
			next++
			if t.Result != store.Done || t.Queue.IsGroup() {
				continue
			}
			if se, err := s.Store.Sessions().Lookup(context.Background(), t.Queue.Session.ClientID); err == nil {
				t.Owner = se.Owner
				if se.Owner == "" && t.ShareName != "" {
					t.Left = se.Epoch
				}
			}
			if t.Owner == "" || t.Owner == s.member.instance {
				continue
			}
			n := newsFor(t.Owner)
			n.Queued = append(n.Queued, store.Hint{
				Session: t.Queue.Session, Number: t.Number, QoS: t.QoS, Retain: t.Retain,
				SubscriptionIdentifiers: t.SubscriptionIdentifiers, ShareName: t.ShareName, TopicFilter: t.TopicFilter,
			})
			continue
		}
		switch {
		case op.Result != store.Done:
			t.Result = op.Result
		case h.members[t.Instance] == nil:
			t.Result = store.Gone
		default:
			t.Result = store.Done
			if t.ShareName != "" {
				n := newsFor(t.Instance)
				n.Groups = append(n.Groups, store.GroupID{ShareName: t.ShareName, TopicFilter: t.TopicFilter})
			} else {
				newsFor(t.Instance).Routed = true
			}
		}
	}
	for instance, n := range news {
		if to := h.members[instance]; to != nil {
			to.inbox = append(to.inbox, *n)
			to.came++
			h.changed.Broadcast()
		}
	}
}

// sessionOf returns the session that op is about. REQUIRES: h.mu
func (h *Hub) sessionOf(op *store.Op) (store.Session, bool) {
	se, err := h.Store.Sessions().Lookup(context.Background(), op.Session.ClientID)
	return se, err == nil && se.ID == op.Session
}

// topicsOf returns whether the topic that op may change has a retained message.
func (h *Hub) topicsOf(op *store.Op) (had bool) {
	if op.Message == nil {
		return false
	}
	m, err := h.Store.Retained().Read(context.Background(), []string{string(op.Message.TopicName)})
	return err == nil && m[0] != nil
}

// tell writes the Changes that op has made. REQUIRES: h.mu
func (h *Hub) tell(m *member, op *store.Op, before store.Session, hadTopic bool) {
	if op.Result != store.Done {
		return
	}
	filters := make([]string, len(op.Subscriptions))
	for i := range filters {
		filters[i] = op.Subscriptions[i].TopicFilter
	}
	switch op.Kind {
	case store.OpSubscribe:
		h.append(store.Change{Kind: store.ChangeSubscribed, Session: op.Session, Instance: m.instance, Subscriptions: slices.Clone(op.Subscriptions)})
	case store.OpUnsubscribe:
		h.append(store.Change{Kind: store.ChangeUnsubscribed, Session: op.Session, Instance: m.instance, TopicFilters: filters})
	case store.OpOffline:
		if op.Gives {
			m.giving[op.Session.ClientID] = before
		} else if op.Gave {
			delete(m.giving, op.Session.ClientID)
		}
		if before.Durable && before.Owner != "" {
			h.append(store.Change{Kind: store.ChangeOwner, Session: op.Session, Epoch: op.Epoch})
		}
	case store.OpEndSession:
		h.append(store.Change{Kind: store.ChangeEnded, Session: op.Session})
	case store.OpRoute:
		fresh := slices.DeleteFunc(slices.Clone(op.TopicFilters), func(f string) bool { return slices.Contains(m.routes, f) })
		if len(fresh) > 0 {
			m.routes = append(m.routes, fresh...)
			h.append(store.Change{Kind: store.ChangeRouted, Instance: m.instance, TopicFilters: fresh})
		}
	case store.OpUnroute:
		m.routes = slices.DeleteFunc(m.routes, func(f string) bool { return slices.Contains(op.TopicFilters, f) })
		h.append(store.Change{Kind: store.ChangeUnrouted, Instance: m.instance, TopicFilters: slices.Clone(op.TopicFilters)})
	case store.OpPublish, store.OpRetain, store.OpDropExpiredRetained:
		if has := h.topicsOf(op); has != hadTopic {
			kind := store.ChangeRetained
			if hadTopic {
				kind = store.ChangeNotRetained
			}
			h.append(store.Change{Kind: kind, TopicFilters: []string{string(op.Message.TopicName)}})
		}
	}
}

// bury takes a member out, with all that it held. It returns when the others know.
func (h *Hub) bury(m *member) {
	h.mu.Lock()
	if h.members[m.instance] != m {
		h.mu.Unlock()
		return
	}
	delete(h.members, m.instance)
	h.live.Store(int64(len(h.members)))
	var orphans []store.Session
	w := h.NewWriter("reaper")
	h.Store.mu.Lock()
	var held []store.Session
	for _, se := range h.sessions {
		if se.Owner == m.instance {
			held = append(held, se.Session)
		}
	}
	h.Store.mu.Unlock()
	now := h.now()
	for _, se := range held {
		op := store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, SessionExpiryInterval: se.SessionExpiryInterval, WillDue: now, Disconnected: store.Disconnected{At: now, Reason: store.NodeEnded}}
		if se.Durable && se.SessionExpiryInterval != 0xFFFFFFFF {
			op.Due = now.Add(time.Duration(se.SessionExpiryInterval) * time.Second)
		}
		_ = w.Commit(context.Background(), &store.Batch{Ops: []store.Op{op}})
		if se.Durable {
			se.Owner = ""
			orphans = append(orphans, se)
			h.append(store.Change{Kind: store.ChangeOwner, Session: se.ID, Epoch: se.Epoch})
		}
	}
	for clientID, se := range m.giving {
		if now, err := h.Store.Sessions().Lookup(context.Background(), clientID); err == nil && now.ID == se.ID && now.Owner == "" {
			orphans = append(orphans, now)
		}
	}
	h.append(store.Change{Kind: store.ChangeDead, Instance: m.instance})
	upTo := len(h.feed)
	var others []*member
	for _, o := range h.members {
		others = append(others, o)
	}
	h.changed.Broadcast()
	h.mu.Unlock()
	for i, o := range others {
		o.control(func() {
			o.catchUp(upTo)
			if i == 0 {
				o.node.Orphaned(orphans)
			}
			o.node.Dead(m.instance)
		})
	}
}

// member is one instance.
type member struct {
	hub      *Hub
	node     store.Node
	instance string

	applying sync.Mutex // held while Changes are applied; before hub.mu

	// guarded by hub.mu
	position  int // in the feed
	additions uint64
	inbox     []store.News
	came      int // how many news ever came into the inbox, and how many of them were delivered
	delivered int
	controls  []func()
	routes    []string
	giving    map[string]store.Session // offline, with something that is to go back to groups: by ClientID
	started   bool
}

// Instance implements store.Member.
func (m *member) Instance() string { return m.instance }

// Start implements store.Member.
func (m *member) Start(context.Context) error {
	h := m.hub
	h.mu.Lock()
	m.started = true
	var routes []store.Change
	for _, o := range h.members {
		if o != m && len(o.routes) > 0 {
			routes = append(routes, store.Change{Kind: store.ChangeRouted, Instance: o.instance, TopicFilters: slices.Clone(o.routes)})
		}
	}
	upTo := len(h.feed)
	h.mu.Unlock()
	m.applying.Lock()
	m.node.Apply(routes)
	m.applying.Unlock()
	m.catchUp(upTo)
	go m.follow()
	go m.deliver()
	return nil
}

// catchUp applies the Changes up to a position.
func (m *member) catchUp(upTo int) {
	h := m.hub
	m.applying.Lock()
	defer m.applying.Unlock()
	h.mu.Lock()
	if !m.started || m.position >= upTo {
		h.mu.Unlock()
		return
	}
	changes := slices.Clone(h.feed[m.position:upTo])
	h.mu.Unlock()
	m.node.Apply(changes)
	h.mu.Lock()
	m.position = upTo
	h.changed.Broadcast()
	for i := range changes {
		if changes[i].Kind.Adds() {
			m.additions++
		}
	}
	h.mu.Unlock()
}

// control has f run on the member's goroutine, in the order of such calls.
func (m *member) control(f func()) {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	m.controlLocked(f)
}

// controlLocked REQUIRES: hub.mu
func (m *member) controlLocked(f func()) {
	m.controls = append(m.controls, f)
	m.hub.changed.Broadcast()
}

// follow applies the feed and runs controls until the member has gone.
func (m *member) follow() {
	h := m.hub
	for {
		h.mu.Lock()
		for h.members[m.instance] == m && (h.paused || m.position == len(h.feed)) && len(m.controls) == 0 {
			h.changed.Wait()
		}
		gone, upTo, controls := h.members[m.instance] != m, len(h.feed), m.controls
		if h.paused {
			upTo = 0
		}
		m.controls = nil
		h.mu.Unlock()
		if gone {
			return
		}
		m.catchUp(upTo)
		for _, f := range controls {
			f()
		}
	}
}

// deliver hands over the inbox until the member has gone.
func (m *member) deliver() {
	h := m.hub
	for {
		h.mu.Lock()
		for h.members[m.instance] == m && len(m.inbox) == 0 {
			h.changed.Wait()
		}
		gone, news := h.members[m.instance] != m, m.inbox
		m.inbox = nil
		h.mu.Unlock()
		if gone {
			return
		}
		m.node.Deliver(news)
		h.mu.Lock()
		m.delivered += len(news)
		h.changed.Broadcast()
		h.mu.Unlock()
	}
}

// CaughtUp implements store.Member.
func (m *member) CaughtUp(context.Context) error {
	h := m.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	for came := m.came; m.delivered < came && h.members[m.instance] == m; {
		h.changed.Wait()
	}
	return nil
}

// Additions implements store.Member.
func (m *member) Additions() uint64 {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	return m.additions
}

// Alone implements store.Member.
func (m *member) Alone() bool { return m.hub.live.Load() == 1 }

// Valid implements store.Member.
func (m *member) Valid() bool { return m.Alive(m.instance) }

// Alive implements store.Member.
func (m *member) Alive(instance string) bool {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	return m.hub.members[instance] != nil
}

// Kick implements store.Member.
func (m *member) Kick(ctx context.Context, clientID string) error {
	se, err := m.hub.Store.Sessions().Lookup(ctx, clientID)
	if err != nil {
		return err
	}
	m.hub.mu.Lock()
	o := m.hub.members[se.Owner]
	m.hub.mu.Unlock()
	if o == nil {
		return store.ErrGone
	}
	o.control(func() { o.node.Kicked(clientID) })
	return nil
}

// Released implements store.Member.
func (m *member) Released(clientID string, epoch uint64, to string) {
	m.hub.mu.Lock()
	o := m.hub.members[to]
	m.hub.mu.Unlock()
	if o != nil {
		o.control(func() { o.node.Released(clientID, epoch) })
	}
}

// Ask implements store.Member.
func (m *member) Ask(ctx context.Context, instance string, question []byte) ([]byte, error) {
	m.hub.mu.Lock()
	o := m.hub.members[instance]
	gone := o == nil || !o.started
	m.hub.mu.Unlock()
	if gone {
		return nil, store.ErrGone
	}
	answer := make(chan []byte, 1)
	go func() { answer <- o.node.Asked(question) }()
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Instances implements store.Member. Leases don't lapse here.
func (m *member) Instances(context.Context) (list []store.Instance, _ error) {
	m.hub.mu.Lock()
	started := make(map[*member]bool, len(m.hub.members))
	for _, o := range m.hub.members {
		started[o] = o.started
	}
	m.hub.mu.Unlock()
	for o, started := range started {
		i := store.Instance{Name: o.instance, Lapses: m.hub.now().Add(time.Hour)}
		if started {
			i.Report = o.node.Report()
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b store.Instance) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Leave implements store.Member.
func (m *member) Leave(context.Context) error {
	m.hub.bury(m)
	return nil
}
