package pebble

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/RaduBerinde/btreemap"
	"github.com/cockroachdb/pebble/v2"

	"loopmq/store"
	"loopmq/store/local"
)

// Store is a store.Store in a directory. Its methods are safe for concurrent
// use, and may block on the disk.
type Store struct {
	// Immutable after Open.
	opts Options
	now  func() time.Time
	log  *slog.Logger
	db   *pebble.DB

	failure atomic.Pointer[error] // why the store can't go on; nil: it can
	lowDisk atomic.Bool           // the free space was below the reserve
	syncs   syncs
	low     chan struct{}  // has one element: lowDisk has become true
	stopped chan struct{}  // closed by Close
	workers sync.WaitGroup // the goroutines that sync at intervals, and that make room

	// life is held for reading by each call, and for writing by Close.
	life   sync.RWMutex
	closed bool // guarded by life

	mu     sync.Mutex // guards everything below; its holder may write to Pebble
	tx     tx         // the step under way
	ids    ids
	used   int    // bytes of all messages
	peak   int    // the most that used was since deleted messages were given back
	commit uint64 // number of the last batch that was applied
	// generation is that of the numbers which session queues give out from now on.
	generation uint64

	sessions map[string]*session                  // those in the cache
	bans     int                                  // how many there are; negative: not counted yet
	unstored *btreemap.BTreeMap[string, *session] // those of them that have no stored state, by ClientID
	idle     lru                                  // of these, the ones that may leave it
	groups   map[groupID]*queue                   // those in the cache
	shared   map[uint64]*shared                   // messages that several places share, as far as cached

	sessionDue, retainedDue, willDue, onceDue dueIndex

	outboxes  map[string]*outbox // all
	consumers local.Consumers

	bell   local.Bell
	leases *local.Leases
}

var _ store.Store = (*Store)(nil)

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
func (s *Store) Outbox() store.Outbox { return outboxView{s} }

// Leases returns the leases. They end when the store is closed.
func (s *Store) Leases() store.Leases { return leasesView{s} }

// NewWriter returns a writer. The name has no meaning here: a writer lives no
// longer than the store is open.
func (s *Store) NewWriter(string) store.Writer { return &writer{store: s} }

// Now is the store's clock. It goes on after Close.
func (s *Store) Now() time.Time { return s.now() }

// Health returns nil, or why the store takes no messages: it failed, or the
// disk is nearly full.
func (s *Store) Health() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	if s.lowDisk.Load() {
		return ErrDiskFull
	}
	return nil
}

// closeTimeout bounds how long Close waits for a database that has failed,
// and which may hold its own locks for ever.
const closeTimeout = 5 * time.Second

// Close lets the calls under way end, and writes what is only in memory. All
// later calls, Close too, return store.ErrClosed.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	s.closed = true
	close(s.stopped)
	if s.failure.Load() != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			s.workers.Wait()
			_ = s.db.Close() // what it says follows from the failure
		}()
		select {
		case <-done:
		case <-time.After(closeTimeout):
		}
		return nil
	}
	s.workers.Wait()
	err := s.flush()
	return errors.Join(err, s.db.Close())
}

// flush writes all that is only in memory, and waits until it is durable.
func (s *Store) flush() error {
	s.mu.Lock()
	t := s.begin()
	for _, se := range s.sessions {
		if se.state != nil {
			t.saveQueue(&se.state.queue)
		}
	}
	for _, q := range s.groups {
		t.saveQueue(q)
	}
	for _, o := range s.outboxes {
		if o.behind {
			t.changed(o)
		}
	}
	t.dirty = true // so that what came before is synced too, whatever the mode
	w, err := t.apply(true)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.wait(w)
}

// enter begins a call that leave ends.
func (s *Store) enter() error {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return store.ErrClosed
	}
	if err := s.failure.Load(); err != nil {
		s.life.RUnlock()
		return *err
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

// fail marks the store as failed: what is in memory may not be what is on the
// disk. It returns the error of all calls from now on.
func (s *Store) fail(cause error) error {
	if cause == nil {
		return nil
	}
	err := fmt.Errorf("%w: %w", store.ErrUnavailable, cause)
	if s.failure.CompareAndSwap(nil, &err) {
		s.log.Error("store_failed", "error", cause)
	}
	s.syncs.wake()
	return *s.failure.Load()
}

// syncs knows up to which commit the log is on the disk.
type syncs struct {
	mu     sync.Mutex
	moved  *sync.Cond
	synced uint64
}

func (y *syncs) wake() {
	y.mu.Lock()
	y.moved.Broadcast()
	y.mu.Unlock()
}

func (y *syncs) reached(commit uint64) {
	y.mu.Lock()
	if y.synced < commit {
		y.synced = commit
		y.moved.Broadcast()
	}
	y.mu.Unlock()
}

// waitSynced waits until commit is durable, or, if commits don't wait for the
// disk, not at all.
func (s *Store) waitSynced(commit uint64) error {
	y := &s.syncs
	y.mu.Lock()
	defer y.mu.Unlock()
	for y.synced < commit {
		if err := s.failure.Load(); err != nil {
			return *err
		}
		y.moved.Wait()
	}
	return nil
}

// ids gives out integers that increase and never come twice, not even in a
// later process. Their upper bits are a number that goes up durably with each
// opening of the store, and when the lower bits run out.
type ids struct{ last uint64 }

const idBits = 40

// begin starts the numbers of a block.
func (i *ids) begin(block uint64) { i.last = block << idBits }

// nextID returns an id.
func (t *tx) nextID() uint64 {
	i := &t.s.ids
	i.last++
	if i.last&(1<<idBits-1) == 0 { // it has run into the next block
		t.setBlock(i.last >> idBits)
	}
	return i.last
}

func (t *tx) setBlock(block uint64) {
	r := newRecord(nil)
	r.fixed(block)
	t.set([]byte{keyBlock}, r)
}
