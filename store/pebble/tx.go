package pebble

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"loopmq/store"
)

// tx is one step: what changes in memory, and the batch that makes the same
// change durable. It is made, filled and applied under Store.mu. A read that
// fails leaves err set and finds nothing; the step is then not applied, and
// since memory has changed already, the store has failed.
//
// The batch keeps the order of the operations: putting its keys in order, so that
// the memtable finds the place of one beside that of the last, was tried and cost
// five times what it saved.
//
// Reads see what the step has written. Most steps read nothing, so the batch
// gets its index, which costs as much as the writes, only with the first read
// after a write.
type tx struct {
	s       *Store
	batch   *pebble.Batch // nil: nothing is written yet
	indexed bool
	dirty   bool // to be applied though nothing is written
	err     error
	used    int       // when the step began
	full    bool      // the disk has no room for messages
	counts  []*shared // whose references have changed
	moved   []*queue  // whose front has moved
	boxes   []*outbox // whose record is to be written
	last    *session  // that was looked up; a client's messages come in a row
	absent  string    // ClientID that was looked up last and isn't on the disk

	key, body []byte // scratch
	value     recordWriter
}

// scratchMax is the largest record whose buffer is kept for the next one.
const scratchMax = 64 << 10

// begin starts a step. It ends with apply, which is before s.mu is let go.
// REQUIRES: s.mu
func (s *Store) begin() *tx {
	t := s.reuse()
	t.evict()
	return t
}

// reuse is begin for what writes nothing. REQUIRES: s.mu
func (s *Store) reuse() *tx {
	t := &s.tx
	*t = tx{s: s, used: s.used, counts: t.counts[:0], moved: t.moved[:0], boxes: t.boxes[:0], key: t.key[:0], value: t.value[:0], body: t.body[:0]}
	if cap(t.value) > scratchMax {
		t.value, t.body = nil, nil
	}
	return t
}

func (t *tx) write() *pebble.Batch {
	if t.batch == nil {
		t.batch = t.s.db.NewBatch()
	}
	return t.batch
}

func (t *tx) note(err error) {
	if err != nil && t.err == nil {
		t.err = err
	}
}

func (t *tx) set(key, value []byte) { t.note(t.write().Set(key, value, nil)) }
func (t *tx) delete(key []byte)     { t.note(t.write().Delete(key, nil)) }

// deleteOnce is for keys that are set once before they are deleted: the two
// then vanish together when they meet, at the latest in a flush, and leave
// nothing behind that reads would have to pass.
func (t *tx) deleteOnce(key []byte) { t.note(t.write().SingleDelete(key, nil)) }

// reader sees the database with what this step has written.
func (t *tx) reader() pebble.Reader {
	switch {
	case t.batch == nil:
		return t.s.db
	case !t.indexed:
		plain := t.batch
		t.batch, t.indexed = t.s.db.NewIndexedBatch(), true
		t.note(t.batch.Apply(plain, nil))
		t.note(plain.Close())
	}
	return t.batch
}

// get calls f with the value of key. It reports whether there is one.
func (t *tx) get(key []byte, f func(value []byte) error) bool {
	if t.err != nil {
		return false
	}
	ok, err := get(t.reader(), key, f)
	t.note(err)
	return ok && t.err == nil
}

// get calls f with the value of key, which is valid until f returns.
func get(r pebble.Reader, key []byte, f func(value []byte) error) (bool, error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %q: %w", key[:1], err)
	}
	err = f(value)
	if err != nil {
		err = fmt.Errorf("read %q: %w", key[:1], err)
	}
	return true, errors.Join(err, closer.Close())
}

// each calls f with what is from lower up to but not upper, until f returns
// false.
func (t *tx) each(lower, upper []byte, f func(key, value []byte) (bool, error)) {
	if t.err == nil {
		t.note(each(t.reader(), lower, upper, f))
	}
}

func each(r pebble.Reader, lower, upper []byte, f func(key, value []byte) (bool, error)) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		more, err := f(it.Key(), it.Value())
		if err != nil {
			return errors.Join(fmt.Errorf("read %q: %w", it.Key()[:1], err), it.Close())
		}
		if !more {
			break
		}
	}
	return it.Close() // with the iterator's error
}

// rangeDeleteMin is from how many keys on one tombstone for all of them costs
// less than one for each: each read has to look at all of the former.
const rangeDeleteMin = 1000

// deletePrefix deletes all keys with a prefix.
func (t *tx) deletePrefix(prefix []byte) {
	upper := after(prefix)
	var keys [][]byte
	t.each(prefix, upper, func(key, _ []byte) (bool, error) {
		keys = append(keys, append([]byte(nil), key...))
		return len(keys) < rangeDeleteMin, nil
	})
	t.deleteKeys(keys, prefix, upper)
}

// deleteKeys deletes keys, or, if they are many, all from lower up to upper.
func (t *tx) deleteKeys(keys [][]byte, lower, upper []byte) {
	if len(keys) >= rangeDeleteMin {
		t.note(t.write().DeleteRange(lower, upper, nil))
		return
	}
	for _, key := range keys {
		t.delete(key)
	}
}

// ticket is what a caller waits for after it has let the lock go.
type ticket struct {
	commit uint64
	batch  *pebble.Batch // nil: nothing was written, or nobody waits
}

// apply ends a step. The change is visible from here on; wait makes it final.
// sync: the log is to be on the disk whatever the mode is. REQUIRES: s.mu
func (t *tx) apply(sync bool) (ticket, error) {
	s := t.s
	t.finishMoved()
	t.finishCounts()
	t.finishBoxes()
	if s.used != t.used {
		s.peak = max(s.peak, s.used)
		t.value = newRecord(t.value)
		t.value.fixed(uint64(s.used))
		t.set([]byte{keyUsed}, t.value)
	}
	if t.dirty && t.batch == nil {
		t.note(t.write().LogData(nil, nil))
	}
	if t.err != nil {
		return ticket{}, s.fail(t.err)
	}
	sync = sync || s.opts.Sync == SyncAlways
	if t.batch == nil {
		return ticket{commit: s.commit}, nil
	}
	if err := s.applyBatch(t.batch, sync); err != nil {
		return ticket{}, err
	}
	s.commit++
	if !sync {
		s.syncs.reached(s.commit) // as far as anybody waits
		return ticket{commit: s.commit}, s.fail(t.batch.Close())
	}
	return ticket{s.commit, t.batch}, nil
}

// applyBatch hands b to Pebble, which goes on as if nothing had happened where it
// can't write: see disk. REQUIRES: s.mu
func (s *Store) applyBatch(b *pebble.Batch, sync bool) (err error) {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	if sync {
		err = s.db.ApplyNoSyncWait(b, pebble.Sync)
	} else {
		err = s.db.Apply(b, pebble.NoSync)
	}
	if err != nil {
		return s.fail(fmt.Errorf("commit: %w", err))
	}
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// wait returns when the step is durable. It is called without s.mu.
func (s *Store) wait(w ticket) error {
	if w.batch == nil {
		return s.waitSynced(w.commit)
	}
	if err := w.batch.SyncWait(); err != nil {
		return s.fail(fmt.Errorf("sync the log: %w", err))
	}
	if err := s.failure.Load(); err != nil {
		return *err
	}
	s.syncs.reached(w.commit)
	return s.fail(w.batch.Close())
}

// step runs f under the lock as one step, and waits until that is durable. f
// returns false to leave things as they are.
func (s *Store) step(f func(t *tx)) error {
	s.mu.Lock()
	t := s.begin()
	f(t)
	w, err := t.apply(false)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.wait(w)
}

// look runs f under the lock. f may fill the cache, but changes nothing.
func (s *Store) look(f func(t *tx)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.reuse()
	f(t)
	return s.fail(t.err)
}

// shared is a message that several places hold: it is stored once, with the
// number of these places.
type shared struct {
	id      uint64
	size    int
	refs    int
	stored  int  // refs as they are written
	changed bool // in tx.counts
	counted bool // the count has a record of its own
}

// sharedMin is the size of a message from which on it is stored once for all
// the places that hold it. For a smaller one that record, its count and the
// reads cost more than the copies.
const sharedMin = 256

// share makes a shared message with no references yet.
func (t *tx) share(m *store.Message) *shared {
	sh := &shared{id: t.nextID(), size: m.Size()}
	t.s.shared[sh.id] = sh
	return sh
}

// sharedOf returns the shared message id.
func (t *tx) sharedOf(id uint64) *shared {
	if sh := t.s.shared[id]; sh != nil {
		return sh
	}
	sh := &shared{id: id}
	t.key = key1(t.key, keyMessage, id)
	if !t.get(t.key, func(value []byte) error {
		r := readRecord(value)
		sh.refs, sh.size = int(r.uint()), int(r.uint())
		return r.err()
	}) {
		if t.err == nil {
			t.err = fmt.Errorf("shared message: %w", errCorrupt)
		}
		return sh
	}
	t.key = key1(t.key, keyReferences, id)
	sh.counted = t.get(t.key, func(value []byte) error {
		r := readRecord(value)
		sh.refs = int(r.uint())
		return r.err()
	})
	sh.stored = sh.refs
	t.s.shared[id] = sh
	return sh
}

// refer adds n, which may be negative, to the references of sh.
func (t *tx) refer(sh *shared, n int) {
	if before := sh.refs; before == 0 && n > 0 {
		t.s.used += sh.size
	}
	if sh.refs += n; sh.refs == 0 && n < 0 {
		t.s.used -= sh.size
	}
	if !sh.changed {
		sh.changed = true
		t.counts = append(t.counts, sh)
	}
}

// writeShared stores the message of sh, once it is known how many places got it.
func (t *tx) writeShared(sh *shared, body []byte) {
	if sh.stored = sh.refs; sh.refs == 0 {
		delete(t.s.shared, sh.id)
		return
	}
	t.value = newRecord(t.value)
	t.value.uint(uint64(sh.refs))
	t.value.uint(uint64(sh.size))
	t.value = append(t.value, body...)
	t.key = key1(t.key, keyMessage, sh.id)
	t.set(t.key, t.value)
}

// finishCounts writes the counts that have changed: once a step, however many
// places let go of a message in it.
func (t *tx) finishCounts() {
	for _, sh := range t.counts {
		sh.changed = false
		switch {
		case sh.refs == sh.stored:
			continue
		case sh.refs > 0:
			t.value = newRecord(t.value)
			t.value.uint(uint64(sh.refs))
			t.key = key1(t.key, keyReferences, sh.id)
			t.set(t.key, t.value)
			sh.stored, sh.counted = sh.refs, true
		default:
			delete(t.s.shared, sh.id)
			t.key = key1(t.key, keyMessage, sh.id)
			t.deleteOnce(t.key)
			if sh.counted {
				t.key = key1(t.key, keyReferences, sh.id)
				t.delete(t.key)
			}
		}
	}
	clear(t.counts)
	t.counts = t.counts[:0]
}

// The bounds of the caches. A session that is not connected takes some 400
// bytes.
const (
	idleMax   = 65536
	groupsMax = 4096
	sharedMax = 16384
)

// evict makes room in the caches. It is the start of a step, so that nothing
// goes that the step has begun to change.
func (t *tx) evict() {
	s := t.s
	for s.idle.len > idleMax {
		se := s.idle.oldest()
		if se.state != nil {
			t.saveQueue(&se.state.queue)
		}
		s.idle.remove(se)
		delete(s.sessions, se.ID.ClientID)
	}
	if len(s.groups) > groupsMax {
		for id, q := range s.groups {
			t.saveQueue(q)
			if delete(s.groups, id); len(s.groups) <= groupsMax/2 {
				break
			}
		}
	}
	if len(s.shared) > sharedMax {
		for id := range s.shared {
			if delete(s.shared, id); len(s.shared) <= sharedMax/2 {
				break
			}
		}
	}
}
