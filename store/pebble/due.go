package pebble

import (
	"encoding/binary"
	"time"
)

// dueIndex has what is due, in the order in which it is. A key is the prefix,
// the due time, and what tells those of one time apart.
type dueIndex struct {
	prefix byte
	// from is not later than the first entry: what was deleted before it needn't
	// be passed by each read.
	from uint64
}

func (d *dueIndex) key(due uint64, name []byte) []byte {
	return append(key1(make([]byte, 0, 9+len(name)), d.prefix, due), name...)
}

// add puts an entry in that is not there.
func (d *dueIndex) add(t *tx, due time.Time, name, value []byte) {
	at := orderedTime(due)
	d.from = min(d.from, at)
	t.set(d.key(at, name), value)
}

// remove takes an entry out that is there.
func (d *dueIndex) remove(t *tx, due time.Time, name []byte) {
	t.deleteOnce(d.key(orderedTime(due), name))
}

// next returns when the first one is due.
func (d *dueIndex) next(t *tx) (time.Time, bool) {
	var due time.Time
	d.each(t, 1, func(at time.Time, _, _ []byte) error {
		due = at
		return nil
	})
	return due, !due.IsZero()
}

// upTo calls f with up to limit entries that are due at now, the longest overdue
// first.
func (d *dueIndex) upTo(t *tx, now time.Time, limit int, f func(due time.Time, name, value []byte) error) {
	n := orderedTime(now)
	if n < d.from {
		return
	}
	d.scan(t, key1(nil, d.prefix, n+1), limit, f)
}

func (d *dueIndex) each(t *tx, limit int, f func(due time.Time, name, value []byte) error) {
	d.scan(t, []byte{d.prefix + 1}, limit, f)
}

func (d *dueIndex) scan(t *tx, upper []byte, limit int, f func(due time.Time, name, value []byte) error) {
	if limit <= 0 {
		return
	}
	lower, n := key1(nil, d.prefix, d.from), 0
	t.each(lower, upper, func(key, value []byte) (bool, error) {
		at := binary.BigEndian.Uint64(key[1:])
		if n++; n == 1 {
			d.from = at
		}
		return n < limit, f(timeOf(at), key[9:], value)
	})
}
