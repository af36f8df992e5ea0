package pebble

import (
	"loopmq/store"
)

// queue is what is known of a queue without reading it.
type queue struct {
	number     uint64 // in its keys
	generation uint64 // of the entries that are appended from now on; 0: a group's that has none yet
	last       store.Number
	front      store.Number // no entry is before it, so reads needn't pass what was deleted there
	live       int          // entries
	bytes      int          // sizes of their messages
	commit     uint64       // the last one that appended
	uncounted  bool         // live, bytes and last are to be found out
	marked     bool         // the record says that it is to be counted
	moved      bool         // in tx.moved
	ended      bool         // its record was deleted

	// What was removed in order, as nearly everything is, is only behind the front of
	// the record, and is deleted much of it at a time: garbage entries from
	// garbageFrom on, whose messages had garbageBytes.
	garbage, garbageBytes int
	garbageFrom           store.Number

	// recent are the newest entries, those with a Seq from recentFrom to last of
	// the generation, at Seq modulo its length, which is a power of two. Only
	// connected sessions have it.
	recent     []slot
	recentFrom uint64
	recentMax  int
}

// slot is one entry in memory.
type slot struct {
	shared uint64
	size   int32
	qos    byte
	live   bool
}

// recentMax is how many entries of a queue are remembered: enough for what is
// under way to a client, who acknowledges about what was appended last.
const recentMax = 128

// open reads what is stored of q. created: nothing is.
func (t *tx) openQueue(q *queue) (created bool) {
	t.key = key1(t.key, keyQueue, q.number)
	found := t.get(t.key, func(value []byte) error {
		r := readRecord(value)
		q.marked = r.byte() != 0
		q.uncounted = q.marked
		q.live, q.bytes = int(r.uint()), int(r.uint())
		q.last, q.front = r.number(), r.number()
		if q.marked {
			q.garbage = 1 // at least, nobody knows from where on
		}
		return r.err()
	})
	return !found
}

// saveQueue writes the record of q, unless it is there. A queue whose record is
// not marked has no garbage.
func (t *tx) saveQueue(q *queue) {
	if q.marked && !q.uncounted {
		t.reclaim(q)
		t.writeQueue(q, 0)
		q.marked = false
	}
}

// markQueue lets the record of q say that it is to be counted, before q changes.
func (t *tx) markQueue(q *queue) {
	if !q.marked {
		t.writeQueue(q, 1)
		q.marked = true
	}
}

func (t *tx) writeQueue(q *queue, mark byte) {
	t.value = newRecord(t.value)
	t.value.byte(mark)
	t.value.uint(uint64(q.live))
	t.value.uint(uint64(q.bytes))
	t.value.number(q.last)
	t.value.number(q.front)
	t.key = key1(t.key, keyQueue, q.number)
	t.set(t.key, t.value)
}

// count finds out what the record doesn't say after a crash.
func (t *tx) count(q *queue) {
	if !q.uncounted {
		return
	}
	q.live, q.bytes = 0, 0
	t.entries(q, store.Number{}, func(n store.Number, value []byte) (bool, error) {
		r := readRecord(value)
		e, _ := r.head()
		if q.live++; q.live == 1 {
			q.front = n
		}
		q.bytes += e.size
		if q.last.Less(n) {
			q.last = n
		}
		return true, r.err()
	})
	q.uncounted = t.err != nil
}

// entries calls f with the entries of q that are behind after, until it returns
// false.
func (t *tx) entries(q *queue, after store.Number, f func(n store.Number, value []byte) (bool, error)) {
	lower, upper := q.span(after)
	t.each(lower, upper, func(key, value []byte) (bool, error) { return f(numberOf(key), value) })
}

// span returns the bounds of the keys of the entries behind after.
func (q *queue) span(after store.Number) (lower, upper []byte) {
	from := next(after)
	if from.Less(q.front) {
		from = q.front
	}
	return entryKey(nil, q.number, from), key1(nil, keyEntry, q.number+1)
}

func next(n store.Number) store.Number { return store.Number{Generation: n.Generation, Seq: n.Seq + 1} }

// track begins to remember entries: the session is connected.
func (q *queue) track() {
	q.recent, q.recentFrom, q.recentMax = nil, q.nextSeq(), recentMax
}

// untrack gives the memory back.
func (q *queue) untrack() { q.recent, q.recentMax = nil, 0 }

// nextSeq is the Seq of the entry that is appended next.
func (q *queue) nextSeq() uint64 {
	if q.last.Generation == q.generation {
		return q.last.Seq + 1
	}
	return 1
}

// remember puts the entry that was appended last into recent.
func (q *queue) remember(seq uint64, sl slot) {
	if q.recentMax == 0 {
		return
	}
	if q.front.Generation == q.generation && q.recentFrom < q.front.Seq {
		q.recentFrom = q.front.Seq
	}
	if q.recentFrom > seq {
		q.recentFrom = seq
	}
	if size := len(q.recent); seq-q.recentFrom >= uint64(size) {
		if size >= q.recentMax {
			q.recentFrom = seq - uint64(size) + 1
		} else {
			grown := make([]slot, max(4, 2*size))
			for n := q.recentFrom; n < seq; n++ {
				grown[n&uint64(len(grown)-1)] = q.recent[n&uint64(size-1)]
			}
			q.recent = grown
		}
	}
	q.recent[seq&uint64(len(q.recent)-1)] = sl
}

// known returns the slot of n, or nil if recent doesn't reach that far back.
func (q *queue) known(n store.Number) *slot {
	if len(q.recent) == 0 || n.Generation != q.generation || n.Seq < q.recentFrom || n.Seq > q.last.Seq || q.last.Generation != q.generation {
		return nil
	}
	return &q.recent[n.Seq&uint64(len(q.recent)-1)]
}

// append adds e to q, and returns its number.
func (t *tx) append(q *queue, e *entry) store.Number {
	t.markQueue(q)
	n := store.Number{Generation: q.generation, Seq: q.nextSeq()}
	q.last = n
	if q.live == 0 {
		q.front = n
	}
	q.live++
	q.bytes += e.size
	q.commit = t.s.commit + 1
	q.remember(n.Seq, slot{shared: e.shared, size: int32(e.size), qos: e.qos, live: true})
	if e.shared == 0 {
		t.s.used += e.size
	}
	t.key = entryKey(t.key, q.number, n)
	t.value = newRecord(t.value)
	t.value.entry(e)
	t.set(t.key, t.value)
	return n
}

// remove deletes the entry n, if it is there.
func (t *tx) remove(q *queue, n store.Number) (qos byte, ok bool) {
	if n.Less(q.front) || q.last.Less(n) {
		return 0, false
	}
	var sl slot
	if known := q.known(n); known != nil {
		if !known.live {
			return 0, false
		}
		sl, known.live = *known, false
	} else if !t.get(entryKey(t.key[:0], q.number, n), func(value []byte) error {
		r := readRecord(value)
		e, _ := r.head()
		sl = slot{shared: e.shared, size: int32(e.size), qos: e.qos}
		return r.err()
	}) {
		return 0, false
	}
	t.markQueue(q)
	if n == q.front {
		t.passed(q, n, int(sl.size))
	} else {
		t.key = entryKey(t.key, q.number, n)
		t.deleteOnce(t.key)
	}
	t.forget(sl.shared, int(sl.size))
	q.live--
	q.bytes -= int(sl.size)
	q.advance(n)
	return sl.qos, true
}

// garbageMax and garbageBytesMax are how much garbage a queue may have: the disk
// that all connected sessions waste depends on it.
const (
	garbageMax      = 256
	garbageBytesMax = 16 << 10
)

// passed makes the entry n, which is the first one, garbage. The front that is
// behind it is written at the end of the step: once, however many entries a client
// acknowledged.
func (t *tx) passed(q *queue, n store.Number, size int) {
	if q.garbage == 0 {
		q.garbageFrom = n
	}
	q.garbage++
	q.garbageBytes += size
	if !q.moved {
		q.moved = true
		t.moved = append(t.moved, q)
	}
}

// finishMoved writes the fronts that have moved.
func (t *tx) finishMoved() {
	for _, q := range t.moved {
		q.moved = false
		if q.ended {
			continue
		}
		if q.garbage >= garbageMax || q.garbageBytes >= garbageBytesMax {
			t.reclaim(q)
		}
		if q.marked {
			t.writeQueue(q, 1)
		}
	}
	clear(t.moved)
	t.moved = t.moved[:0]
}

// reclaim deletes the garbage of q: a few entries one by one, which leaves nothing
// behind, see deleteOnce.
func (t *tx) reclaim(q *queue) {
	from := q.garbageFrom
	switch {
	case q.garbage == 0 || !from.Less(q.front):
	case q.garbage < garbageMax/8 && from.Generation == q.front.Generation && q.front.Seq-from.Seq == uint64(q.garbage):
		for ; from.Less(q.front); from = next(from) {
			t.key = entryKey(t.key, q.number, from)
			t.deleteOnce(t.key)
		}
	default:
		t.note(t.write().DeleteRange(entryKey(nil, q.number, from), entryKey(nil, q.number, q.front), nil))
	}
	q.garbage, q.garbageBytes, q.garbageFrom = 0, 0, store.Number{}
}

// forget gives up the message of one entry.
func (t *tx) forget(id uint64, size int) {
	if id == 0 {
		t.s.used -= size
		return
	}
	t.refer(t.sharedOf(id), -1)
}

// advance moves the front over n, which was removed, and what was before.
func (q *queue) advance(n store.Number) {
	if q.live == 0 {
		q.front = next(q.last)
		if len(q.recent) > recentMax/2 {
			q.recent, q.recentFrom = nil, q.nextSeq()
		}
		return
	}
	if n != q.front {
		return
	}
	q.front = next(n)
	for sl := q.known(q.front); sl != nil && !sl.live; sl = q.known(q.front) {
		q.front = next(q.front)
	}
}

// fits reports whether a message of size bytes has room under l.
func (q *queue) fits(l store.Limits, size int) bool {
	return (l.Messages == 0 || q.live < l.Messages) && (l.Bytes == 0 || q.bytes+size <= l.Bytes)
}

// withSlack is l with room for some more: to make room means to read what is
// protected, so it is done for many entries at a time.
func withSlack(l store.Limits) store.Limits {
	l.Messages += min(32, l.Messages/4)
	l.Bytes += l.Bytes / 8
	return l
}

// makeRoom removes the oldest entries behind the protected ones until size
// bytes fit, and counts them by their QoS. It removes nothing and returns false if
// that would not be enough.
func (t *tx) makeRoom(q *queue, l store.Limits, size int) (dropped [3]int, ok bool) {
	var (
		protected, bytes int
		numbers          []store.Number
		live, held       = q.live, q.bytes
	)
	fits := func() bool {
		return (l.Messages == 0 || live < l.Messages) && (l.Bytes == 0 || held+size <= l.Bytes)
	}
	t.entries(q, store.Number{}, func(n store.Number, value []byte) (bool, error) {
		r := readRecord(value)
		e, _ := r.head()
		if protected < l.Protected {
			protected++
			bytes += e.size
			return true, r.err()
		}
		if l.Messages != 0 && protected >= l.Messages || l.Bytes != 0 && bytes+size > l.Bytes || fits() {
			return false, nil
		}
		numbers = append(numbers, n)
		live--
		held -= e.size
		return true, r.err()
	})
	if t.err != nil || !fits() {
		return dropped, false
	}
	for _, n := range numbers {
		if qos, ok := t.remove(q, n); ok {
			dropped[qos]++
		}
	}
	return dropped, true
}

// dropQueue deletes q with all that is in it, and returns how many entries were
// behind the one that was sent last, by their QoS.
func (t *tx) dropQueue(q *queue, sent store.Number) (dropped [3]int) {
	var keys [][]byte
	t.count(q)
	t.reclaim(q)
	if q.live > 0 {
		lower, upper := q.span(store.Number{})
		t.each(lower, upper, func(key, value []byte) (bool, error) {
			r := readRecord(value)
			e, _ := r.head()
			if sent.Less(numberOf(key)) {
				dropped[e.qos]++
			}
			if e.shared == 0 {
				t.s.used -= e.size
			} else {
				t.refer(t.sharedOf(e.shared), -1)
			}
			keys = append(keys, append([]byte(nil), key...))
			return true, r.err()
		})
		if len(keys) < rangeDeleteMin {
			for _, key := range keys {
				t.deleteOnce(key)
			}
		} else {
			t.deleteKeys(keys, lower, upper)
		}
	}
	t.key = key1(t.key, keyQueue, q.number)
	t.delete(t.key)
	q.ended = true
	return dropped
}
