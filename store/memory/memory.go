package memory

import (
	"strings"
	"sync"
	"time"

	"github.com/RaduBerinde/btreemap"

	"loopmq/store"
	"loopmq/store/local"
)

// Options configure a Store. The zero value is usable.
type Options struct {
	// MaxBytes bounds the sizes of all messages in the store, each counted once
	// however many queues it is in, and of events, dead letters and keys of
	// store.Once. What goes beyond it has the result store.Full. Stored Wills count,
	// but are never refused. Zero: no bound.
	MaxBytes int
	// Now is the store's clock; nil: time.Now. It is called from many goroutines.
	Now func() time.Time
}

// Store is a store.Store in memory. Its methods are safe for concurrent use,
// and none of them blocks.
type Store struct {
	shared   bool // by a Hub; immutable
	maxBytes int
	now      func() time.Time

	mu sync.Mutex // guards everything below, and the sequence of each writer

	closed bool
	used   int // bytes of all messages held
	// One counter each for all ClientIDs, so that neither an Epoch nor an
	// Incarnation restarts when a session is forgotten.
	epoch       uint64
	incarnation uint64
	// generation was given out last. Session queues have the first one. Each
	// group queue gets one of its own, since a group that comes into being again
	// numbers its entries from 1 again.
	generation uint64

	sessions map[string]*session
	inOrder  *btreemap.BTreeMap[string, *session] // the same, in the order of ClientIDs
	groups   map[groupID]*queue
	retained map[string]*retained
	wills    map[willID]*will
	bans     map[string]store.Ban
	onces    map[string]*once

	outboxes  map[string]*outbox
	consumers local.Consumers
	event     uint64        // Seq of the last one, of all outboxes
	bells     []*local.Bell // of each broker

	sessionExpiry  schedule[*session]
	retainedExpiry schedule[*retained]
	willDue        schedule[*will]
	onceExpiry     schedule[*once]

	bell   local.Bell // of the one broker, or of the Hub
	leases *local.Leases
}

var _ store.Store = (*Store)(nil)

// sessionGeneration is the Generation of all session queues: nothing is ever
// lost from the tail of a queue in memory.
const sessionGeneration = 1

// New returns an empty store.
func New(opts Options) *Store {
	now := opts.Now
	if now == nil {
		now = time.Now
	}
	s := &Store{
		maxBytes:   opts.MaxBytes,
		now:        now,
		generation: sessionGeneration,
		sessions:   make(map[string]*session),
		inOrder:    btreemap.New[string, *session](16, strings.Compare),
		groups:     make(map[groupID]*queue),
		retained:   make(map[string]*retained),
		wills:      make(map[willID]*will),
		bans:       make(map[string]store.Ban),
		onces:      make(map[string]*once),
		outboxes:   make(map[string]*outbox),
		consumers:  make(local.Consumers),
		leases:     local.NewLeases(now, 0),
	}
	s.bells = []*local.Bell{&s.bell}
	return s
}

// Messages returns the queues.
func (s *Store) Messages() store.Messages { return messagesView{s} }

// Sessions returns the session registry.
func (s *Store) Sessions() store.Sessions { return sessionsView{s} }

// Subscriptions returns the subscriptions of the sessions.
func (s *Store) Subscriptions() store.Subscriptions { return subscriptionsView{s} }

// Retained returns the retained messages.
func (s *Store) Retained() store.Retained { return retainedView{s} }

// Wills returns the stored Wills.
func (s *Store) Wills() store.Wills { return willsView{s} }

// Bans returns the bans.
func (s *Store) Bans() store.Bans { return bansView{s} }

// Outbox returns the outboxes.
func (s *Store) Outbox() store.Outbox { return outboxView{s, &s.bell} }

// Leases returns the leases.
func (s *Store) Leases() store.Leases { return leasesView{s} }

// NewWriter returns a writer. The name has no meaning here: a writer lives no
// longer than the store does.
func (s *Store) NewWriter(string) store.Writer { return &writer{store: s} }

// Now is the store's clock. It goes on after Close.
func (s *Store) Now() time.Time { return s.now() }

// Health returns nil: a store that is full by its own bound is well.
func (s *Store) Health() error { return nil }

// Close forgets everything. All later calls, Close too, return store.ErrClosed.
func (s *Store) Close() error {
	if err := s.lock(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.closed = true
	s.inOrder, s.sessions, s.groups, s.retained, s.wills = nil, nil, nil, nil, nil
	s.outboxes, s.onces = nil, nil
	s.sessionExpiry, s.retainedExpiry, s.willDue, s.onceExpiry = nil, nil, nil, nil
	s.used = 0
	return nil
}

// lock takes s.mu, or returns store.ErrClosed without it.
func (s *Store) lock() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	return nil
}

// message is a stored message and the number of places that hold it.
type message struct {
	*store.Message
	refs int
}

// hold adds a reference to m. REQUIRES: s.mu
func (s *Store) hold(m *message) {
	if m.refs == 0 {
		s.used += m.Size()
	}
	m.refs++
}

// drop takes a reference to m away. REQUIRES: s.mu
func (s *Store) drop(m *message) {
	if m.refs--; m.refs == 0 {
		s.used -= m.Size()
	}
}

// fits reports whether a message of size bytes has room once freed bytes have
// gone. REQUIRES: s.mu
func (s *Store) fits(size, freed int) bool {
	return s.maxBytes == 0 || s.used-freed+size <= s.maxBytes
}
