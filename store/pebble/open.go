package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/RaduBerinde/btreemap"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"loopmq/store"
	"loopmq/store/local"
)

// formatVersion is that of the keys and records which this code writes.
const formatVersion = 1

// migrations convert what the version of their index wrote into that of the
// next one. Each makes its changes in the batch that also notes the new version,
// so one that was interrupted begins again.
var migrations = []func(*pebble.DB, *pebble.Batch) error{
	0: nil, // there was none
}

// Open opens the store in o.Dir, or makes one there. Sessions that a former
// process left connected are offline from now on.
func Open(o Options) (*Store, error) {
	o.setDefaults()
	s := &Store{
		opts:        o,
		now:         o.Now,
		log:         o.Logger,
		low:         make(chan struct{}, 1),
		stopped:     make(chan struct{}),
		sessions:    make(map[string]*session),
		bans:        -1,
		unstored:    btreemap.New[string, *session](16, strings.Compare),
		groups:      make(map[groupID]*queue),
		shared:      make(map[uint64]*shared),
		sessionDue:  dueIndex{prefix: keySessionDue},
		retainedDue: dueIndex{prefix: keyRetainedDue},
		willDue:     dueIndex{prefix: keyWillDue},
		onceDue:     dueIndex{prefix: keyOnceDue},
		outboxes:    make(map[string]*outbox),
		consumers:   make(local.Consumers),
	}
	s.syncs.moved = sync.NewCond(&s.syncs.mu)
	if err := refuseForeign(o.FS, o.Dir); err != nil {
		return nil, err
	}
	db, err := pebble.Open(o.Dir, s.pebbleOptions())
	switch {
	case isLocked(err):
		return nil, fmt.Errorf("%s %w", o.Dir, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("open the store in %s: %w%s", o.Dir, err, advice(err))
	}
	s.db = db
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("open the store: %s %w%s", o.Dir, errors.Join(err, db.Close()), advice(err))
	}
	s.room() // so that a disk that is full now is known before the first commit
	s.workers.Go(s.makeRoom)
	if o.Sync == SyncInterval {
		s.workers.Go(s.syncAtIntervals)
	}
	return s, nil
}

// start brings what is stored into the state in which it is worked with.
func (s *Store) start() error {
	if err := upgrade(s.db, migrations, formatVersion); err != nil {
		return err
	}
	block, err := s.readUint(keyBlock)
	if err != nil {
		return err
	}
	used, err := s.readUint(keyUsed)
	if err != nil {
		return err
	}
	s.used = int(used)
	s.peak = 2*s.used + 1 // nobody knows what was deleted before
	s.ids.begin(block + 1)
	s.generation = s.ids.last
	s.leases = local.NewLeases(s.now, s.ids.last) // durably larger than what any process before gave out
	s.mu.Lock()
	t := s.begin()
	t.setBlock(block + 1)
	w, err := t.apply(true)
	s.mu.Unlock()
	if err == nil {
		err = s.wait(w)
	}
	if err != nil {
		return err
	}
	if err := s.readOutboxes(); err != nil {
		return err
	}
	return s.takeOffline()
}

// readUint reads a record of one integer.
func (s *Store) readUint(key byte) (n uint64, err error) {
	_, err = get(s.db, []byte{key}, func(value []byte) error {
		r := readRecord(value)
		n = r.fixed()
		return r.err()
	})
	return n, err
}

// upgrade brings a database to a version, or says why it can't.
func upgrade(db *pebble.DB, migrations []func(*pebble.DB, *pebble.Batch) error, version uint64) error {
	var at uint64
	found, err := get(db, []byte{keyFormat}, func(value []byte) error {
		if len(value) != 8 {
			return ErrFormat
		}
		at = binary.BigEndian.Uint64(value)
		return nil
	})
	if err != nil {
		return err
	}
	if !found {
		if err := each(db, nil, nil, func([]byte, []byte) (bool, error) { return false, ErrFormat }); err != nil {
			return fmt.Errorf("is not a store of loopmq: %w", err)
		}
		return db.Set([]byte{keyFormat}, appendUint64(nil, version), pebble.Sync)
	}
	if at > version {
		return fmt.Errorf("%w: version %d, the newest known is %d", ErrFormat, at, version)
	}
	for ; at < version; at++ {
		b := db.NewBatch()
		if err := migrations[at](db, b); err != nil {
			return errors.Join(fmt.Errorf("upgrade from version %d: %w", at, err), b.Close())
		}
		if err := b.Set([]byte{keyFormat}, appendUint64(nil, at+1), nil); err != nil {
			return err
		}
		if err := b.Commit(pebble.Sync); err != nil {
			return err
		}
	}
	return nil
}

// offlinePage is how many sessions go offline in one step.
const offlinePage = 1000

// takeOffline ends the connections of a former process, as they would have ended
// if it had seen them end: durable sessions expire, and Wills are due, counted
// from now; other sessions end. Each step takes its sessions out of the index, so
// a crash in between does no harm.
func (s *Store) takeOffline() error {
	for {
		type connection struct {
			epoch    uint64
			clientID string
		}
		var page []connection
		err := each(s.db, []byte{keyOwned}, []byte{keyOwned + 1}, func(key, value []byte) (bool, error) {
			r := readRecord(value)
			page = append(page, connection{binary.BigEndian.Uint64(key[1:]), r.string()})
			return len(page) < offlinePage, r.err()
		})
		if err != nil || len(page) == 0 {
			return err
		}
		err = s.step(func(t *tx) {
			now := s.now()
			for _, c := range page {
				t.connectionLost(c.clientID, c.epoch, now)
			}
		})
		if err != nil {
			return err
		}
	}
}

// neverExpires is the Session Expiry Interval of a session that does not expire
// [MQTT-3.1.2-23].
const neverExpires = 0xFFFFFFFF

// connectionLost ends one connection of a former process.
func (t *tx) connectionLost(clientID string, epoch uint64, now time.Time) {
	w := t.will(epoch)
	se := t.session(clientID)
	switch {
	case se == nil || se.Epoch != epoch || !se.Durable: // the session ends, and with it the delay [MQTT-3.1.3-9]
		if w != nil {
			t.hurryWill(w, now)
		}
		if se != nil && se.Epoch == epoch {
			t.endSession(se, store.Number{})
			return
		}
		t.deleteOnce(key1(t.key[:0], keyOwned, epoch))
	default:
		if w != nil {
			delay := min(w.DelayInterval, se.SessionExpiryInterval)
			t.setWillDue(w, now.Add(time.Duration(delay)*time.Second))
		}
		var due time.Time
		if se.SessionExpiryInterval != neverExpires {
			due = now.Add(time.Duration(se.SessionExpiryInterval) * time.Second)
		}
		se.Disconnected = &store.Disconnected{At: now, Reason: store.NodeEnded}
		t.leave(se, due)
	}
}

// syncAtIntervals forces the log to the disk again and again, until Close. After
// a failure it does nothing.
func (s *Store) syncAtIntervals() {
	ticker := time.NewTicker(s.opts.SyncInterval)
	defer ticker.Stop()
	var last uint64
	for {
		select {
		case <-s.stopped:
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		if s.failure.Load() != nil || s.commit == last {
			s.mu.Unlock()
			continue
		}
		t := s.begin()
		t.dirty = true
		w, err := t.apply(true)
		last = s.commit
		s.mu.Unlock()
		if err == nil {
			_ = s.wait(w) // an error makes the store fail, which is where it shows
		}
	}
}

// isLocked reports whether err says that somebody has the lock; that its file
// can't be opened is another matter.
func isLocked(err error) bool {
	var file *fs.PathError
	return err != nil && !errors.As(err, &file) &&
		(errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) || strings.Contains(err.Error(), "lock held by current process"))
}

// advice is what to do about an error of opening, which names the file.
func advice(err error) string {
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("; the user loopmq runs as (uid %d) must own the directory and all files in it", os.Geteuid())
	case errors.Is(err, ErrFormat):
	case errors.Is(err, fs.ErrNotExist), !errors.As(err, &errno): // the system has no complaint, so it is about what the files hold
		return "; the store is damaged: put a copy of the whole directory in its place, or move it away to start with an empty one"
	}
	return ""
}

// refuseForeign refuses a directory that has files and no store: a store among
// what is somebody else's is a slip of who named it.
func refuseForeign(files vfs.FS, dir string) error {
	names, err := files.List(dir)
	if err != nil {
		return nil //nolint:nilerr // it isn't there yet, or Pebble says why not
	}
	var foreign string
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "marker.manifest."):
			return nil // there is a store
		case name == "LOCK", name == "lost+found", hasAnyPrefix(name, "MANIFEST-", "OPTIONS-", "marker."):
			// of an empty disk, or of a store whose making was interrupted
		default:
			foreign = name
		}
	}
	if foreign != "" {
		return fmt.Errorf("%s %w: it has files such as %s; name an empty directory, or one that isn't there", dir, ErrForeign, foreign)
	}
	return nil
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(s, prefix) })
}

// memTablesMax is how many memtables there may be. Pebble keeps one more old logs
// than that, to write over them.
const memTablesMax = 3

func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                 newDisk(s),
		FormatMajorVersion: pebble.FormatNewest,
		CacheSize:          s.opts.CacheBytes,
		MemTableSize:       uint64(s.opts.MemTableBytes),
		// How many of them may wait to be written: after that commits wait.
		MemTableStopWritesThreshold: memTablesMax,
		MaxOpenFiles:                256,
		Logger:                      pebbleLogger{s},
	}
	// Sessions are looked up by ClientID, most of which aren't in most files.
	o.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	return o
}
