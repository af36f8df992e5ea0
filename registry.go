package loopmq

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"loopmq/codec"
	"loopmq/store"
	"loopmq/trie"
)

// Session is what the broker knows of a session as a whole: who it is, what it
// subscribes to, and which connection it has. The trie points to it. The state
// of its deliveries belongs to that connection (see flow.go), and what outlives
// the connection is in the store.
type Session struct {
	id     store.SessionID
	client atomic.Pointer[Client] // nil: offline

	// owner is the loop of that connection, or of the last one: what it has to
	// commit for the session goes before what others do.
	owner atomic.Pointer[loop]

	// epoch is that of the last connection. It is set after client was.
	epoch atomic.Uint64

	// remote says which other instance has the connection; nil: none.
	remote atomic.Pointer[remote]

	// held is the epoch of the claim by which this instance has a durable session, 0
	// once another one, or nobody, has it. While it is set the subscriptions change
	// here only, and records of the feed are older than what the claim returned.
	held atomic.Uint64

	// denied says what the session may not get of shared subscriptions; nil: nothing.
	denied atomic.Pointer[denials]

	durable bool

	// queuesQoS0: see Settings.QueueQoS0.
	queuesQoS0 atomic.Bool

	// over: the session was ended elsewhere. It is set before client is looked at, and
	// looked at after client was set: a connection that is given a session which is over
	// ends, and nobody forgets one that a connection has.
	over atomic.Bool

	mu struct {
		sync.Mutex
		// lastSent is the last entry of the queue that a connection of this process
		// sent.
		lastSent store.Number
		// known is false if the session is older than this process, and another one
		// may have sent entries that this one has not sent.
		known   bool
		left    bool // the trie, for good
		ended   bool
		shared  int32  // how many of the filters are shared
		changes uint32 // of the feed that were applied to it
		filters filterSet
	}
}

// registry finds sessions by ClientID and orders the CONNECTs of each: one
// attempt at a time goes on, and of those that wait the latest wins.
type registry struct {
	queueQoS0 bool // of sessions that no client of this process has had

	once   sync.Once
	seed   maphash.Seed
	shards [64]registryShard
}

type registryShard struct {
	mu struct {
		sync.Mutex
		sessions map[string]*Session
		attempts map[string]*attempt
	}
	_ [40]byte // a cache line of its own
}

type attempt struct {
	current   *Client
	next      *Client
	deletions []*Client // see DeleteSession; they come before next
	ended     uint64    // the last incarnation that was ended elsewhere meanwhile: a claim may be about to return it
}

func (r *registry) shard(clientID string) *registryShard {
	r.once.Do(func() { r.seed = maphash.MakeSeed() })
	return &r.shards[maphash.String(r.seed, clientID)%uint64(len(r.shards))]
}

// begin says whether c's CONNECT may go on now. If not it is started by the end
// of the one under way, or replaced by a later one: that one is returned by the
// later call, to be refused.
func (r *registry) begin(c *Client) (now bool, replaced *Client) {
	sh := r.shard(c.info.ClientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if a := sh.mu.attempts[c.info.ClientID]; a != nil {
		if c.deletes() {
			if len(a.deletions) == maxDeletions {
				return false, c
			}
			a.deletions = append(a.deletions, c)
			return false, nil
		}
		replaced, a.next = a.next, c
		return false, replaced
	}
	if sh.mu.attempts == nil {
		sh.mu.attempts = make(map[string]*attempt)
	}
	sh.mu.attempts[c.info.ClientID] = &attempt{current: c}
	return true, nil
}

// end ends the attempt under way for a ClientID, and returns the one to go on
// with, nil if there is none.
func (r *registry) end(clientID string) (next *Client) {
	sh := r.shard(clientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	a := sh.mu.attempts[clientID]
	if len(a.deletions) > 0 {
		a.current, a.deletions = a.deletions[0], a.deletions[1:]
		return a.current
	}
	if a.next == nil {
		delete(sh.mu.attempts, clientID)
		return nil
	}
	a.current, a.next = a.next, nil
	return a.current
}

// busy reports whether a CONNECT with a ClientID is being decided on.
func (r *registry) busy(clientID string) bool {
	sh := r.shard(clientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.mu.attempts[clientID] != nil
}

// attempt returns the CONNECT that is being decided on for a ClientID, nil if none
// is.
func (r *registry) attempt(clientID string) *Client {
	sh := r.shard(clientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if a := sh.mu.attempts[clientID]; a != nil {
		return a.current
	}
	return nil
}

// session returns the session of a ClientID, nil if there is none.
func (r *registry) session(clientID string) *Session {
	sh := r.shard(clientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.mu.sessions[clientID]
}

// known returns the session, nil if there is none or another incarnation of it.
func (r *registry) known(id store.SessionID) *Session {
	if s := r.session(id.ClientID); s != nil && s.id == id {
		return s
	}
	return nil
}

// put makes s the session of its ClientID.
func (r *registry) put(s *Session) {
	sh := r.shard(s.id.ClientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.mu.sessions == nil {
		sh.mu.sessions = make(map[string]*Session)
	}
	sh.mu.sessions[s.id.ClientID] = s
	if a := sh.mu.attempts[s.id.ClientID]; a != nil && 0 < s.id.Incarnation && s.id.Incarnation <= a.ended {
		s.over.Store(true)
	}
}

// ended notes that a session was ended elsewhere, and returns it, nil if it isn't known.
func (r *registry) ended(id store.SessionID) *Session {
	sh := r.shard(id.ClientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if a := sh.mu.attempts[id.ClientID]; a != nil {
		a.ended = max(a.ended, id.Incarnation)
	}
	s := sh.mu.sessions[id.ClientID]
	if s == nil || s.id != id {
		return nil
	}
	s.over.Store(true)
	return s
}

// remove forgets s, if it is still the session of its ClientID.
func (r *registry) remove(s *Session) bool {
	sh := r.shard(s.id.ClientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.mu.sessions[s.id.ClientID] != s {
		return false
	}
	delete(sh.mu.sessions, s.id.ClientID)
	return true
}

// restore puts a session that the store had when the broker started.
func (r *registry) restore(stored *store.Session) *Session {
	s := r.session(stored.ID.ClientID)
	if s == nil || s.id != stored.ID {
		s = &Session{id: stored.ID, durable: true}
		s.queuesQoS0.Store(r.queueQoS0)
		r.put(s)
	}
	s.epoch.Store(max(stored.Epoch, s.epoch.Load()))
	return s
}

// each calls f for every session. f may call other methods of r.
func (r *registry) each(f func(s *Session)) {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		sessions := slices.Collect(maps.Values(sh.mu.sessions))
		sh.mu.Unlock()
		for _, s := range sessions {
			f(s)
		}
	}
}

func (r *registry) len() int {
	n := 0
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		n += len(sh.mu.sessions)
		sh.mu.Unlock()
	}
	return n
}

// subscribe puts a subscription into the trie, and reports whether it existed; ok
// is false if there would be more than limit of them (negative: no limit).
func (s *Session) subscribe(b *Broker, sub store.Subscription, limit int) (existed, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.left {
		return false, true
	}
	_, existed = s.mu.filters.find(sub.TopicFilter)
	if !existed && limit >= 0 && len(s.mu.filters.all) >= limit {
		return false, false
	}
	b.subscriptions.Subscribe(sub.TopicFilter, s, trie.Options{
		QoS:                    sub.Options.QoS,
		NoLocal:                sub.Options.NoLocal,
		RetainAsPublished:      sub.Options.RetainAsPublished,
		RetainHandling:         sub.Options.RetainHandling,
		SubscriptionIdentifier: sub.SubscriptionIdentifier,
	})
	if existed {
		return true, true
	}
	s.mu.filters.add(sub.TopicFilter)
	if isShared(sub.TopicFilter) {
		s.mu.shared++
	}
	if s.routes(b) {
		b.cluster.routed(sub.TopicFilter)
	}
	return false, true
}

// unsubscribe takes a subscription out of the trie, and reports whether it was
// there.
func (s *Session) unsubscribe(b *Broker, topicFilter string) (existed bool) {
	if isShared(topicFilter) {
		defer b.groupLost(topicFilter)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.filters.remove(topicFilter) {
		return false
	}
	b.subscriptions.Unsubscribe(topicFilter, s)
	if isShared(topicFilter) {
		s.mu.shared--
	}
	if s.routes(b) {
		b.cluster.unrouted(topicFilter)
	}
	return true
}

// routes reports whether other instances have to know what s subscribes to, beyond
// what the store tells them of it.
func (s *Session) routes(b *Broker) bool {
	return b.cluster != nil && !s.durable && s.remote.Load() == nil
}

// keepsQoS0 reports whether QoS 0 messages for s, which is offline, wait in its queue.
func (s *Session) keepsQoS0() bool {
	return s.durable && s.queuesQoS0.Load() && s.remote.Load() == nil
}

// sentUpTo notes that a connection sent the entries up to n.
func (s *Session) sentUpTo(n store.Number) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.lastSent.Less(n) {
		s.mu.lastSent = n
	}
}

// sent returns the last entry that a connection of this process sent, and whether
// nothing behind it was sent by an earlier one.
func (s *Session) sent() (last store.Number, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.lastSent, s.mu.known
}

// becomesKnown notes that nothing an earlier process may have sent is left.
func (s *Session) becomesKnown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.known = true
}

// unknown notes that another process may have sent entries of the queue.
func (s *Session) unknown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.known = false
}

// has reports whether the session subscribes to a Topic Filter.
func (s *Session) has(topicFilter string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.mu.filters.find(topicFilter)
	return ok
}

// subscriptionCount returns how many subscriptions there are, and how many of
// them are shared.
func (s *Session) subscriptionCount() (all, shared int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.filters.all), int(s.mu.shared)
}

// sharedFilters returns the subscriptions that are shared.
func (s *Session) sharedFilters() (filters []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.shared == 0 {
		return nil
	}
	for _, f := range s.mu.filters.all {
		if isShared(f) {
			filters = append(filters, f)
		}
	}
	return filters
}

// leaveTrie takes the subscriptions out of the trie for good.
func (s *Session) leaveTrie(b *Broker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.left = true
	for _, f := range s.mu.filters.all {
		b.subscriptions.Unsubscribe(f, s)
		if isShared(f) {
			b.groupLost(f)
		}
		if s.routes(b) {
			b.cluster.unrouted(f)
		}
	}
	s.mu.filters, s.mu.shared = filterSet{}, 0
}

// forget takes a session out of the trie and the registry, which ended elsewhere.
func (s *Session) forget(b *Broker) (first bool) {
	s.leaveTrie(b)
	s.mu.Lock()
	first = !s.mu.ended
	s.mu.ended = true
	s.mu.Unlock()
	if first {
		b.registry.remove(s)
	}
	return first
}

func isShared(topicFilter string) bool {
	return len(topicFilter) > 7 && topicFilter[:7] == "$share/"
}

// asError returns err as the protocol error it is, or as an unspecified one.
func asError(err error) *codec.Error {
	if e, ok := err.(*codec.Error); ok { //nolint:errorlint // decoders return it bare
		return e
	}
	return errUnspecified
}
