package memory

import (
	"slices"
	"sort"

	"loopmq/store"
)

// Capacities up to keptSlots don't shrink. So an empty queue keeps that many at
// most, and one message in and one out doesn't allocate each time.
const keptSlots = 8

// queue is an append-only sequence whose entries are removed in any order. The
// slots are in the order of their seq. A removed slot has no message; it goes
// at once when it is first or last, else when its removal leaves the slots
// three quarters empty, or when there are enough of them to spare an append
// from growing. So append and remove are O(1) amortized (after removals out of
// order a search is O(log n)), and a queue takes at most four times the memory
// of what is in it, however wide the span of its numbers is. A ring indexed by
// seq would be as wide as that span.
type queue struct {
	generation uint64
	last       uint64 // seq that was given out last; it outlives the slots
	slots      []slot
	head       int // slots before it are removed
	live       int
	bytes      int // sizes of the messages, each counted as often as it is here
}

// slot is one entry.
type slot struct {
	seq     uint64
	message *message // nil: removed
	extra   *extra   // nil for most
	qos     byte
	retain  bool
}

// extra is what few entries have.
type extra struct {
	subscriptionIdentifiers []uint32
	shareName               string
	topicFilter             string
}

func (q *queue) lastNumber() store.Number {
	if q.last == 0 {
		return store.Number{}
	}
	return q.number(q.last)
}

func (q *queue) number(seq uint64) store.Number {
	return store.Number{Generation: q.generation, Seq: seq}
}

// append gives sl the next number and returns it.
func (q *queue) append(sl slot) store.Number {
	if len(q.slots) == cap(q.slots) && q.live <= len(q.slots)/2 {
		q.compact(q.slots)
	}
	q.last++
	sl.seq = q.last
	q.slots = append(q.slots, sl)
	q.live++
	q.bytes += sl.message.Size()
	return q.number(q.last)
}

// remove takes out slot i, which is not removed yet, and returns it.
func (q *queue) remove(i int) slot {
	sl := q.slots[i]
	q.slots[i] = slot{seq: sl.seq}
	q.live--
	q.bytes -= sl.message.Size()
	for q.head < len(q.slots) && q.slots[q.head].message == nil {
		q.head++
	}
	for len(q.slots) > q.head && q.slots[len(q.slots)-1].message == nil {
		q.slots = q.slots[:len(q.slots)-1]
	}
	if cap(q.slots) > keptSlots && q.live*4 < cap(q.slots) {
		q.compact(make([]slot, 0, q.live*2))
	}
	return sl
}

// compact moves the live slots to the front of into, which may be q.slots.
func (q *queue) compact(into []slot) {
	old := q.slots
	into = into[:0]
	for _, sl := range old[q.head:] {
		if sl.message != nil {
			into = append(into, sl)
		}
	}
	if cap(into) == cap(old) {
		clear(old[len(into):])
	}
	q.slots, q.head = into, 0
}

// find returns the index of the entry n, or -1 if there is none.
func (q *queue) find(n store.Number) int {
	if n.Generation != q.generation || q.live == 0 || n.Seq < q.slots[q.head].seq {
		return -1
	}
	// Without removals out of order the index follows from the number.
	i := q.head + int(min(n.Seq-q.slots[q.head].seq, uint64(len(q.slots)-1-q.head)))
	if q.slots[i].seq != n.Seq {
		if i = q.search(n.Seq); i == len(q.slots) || q.slots[i].seq != n.Seq {
			return -1
		}
	}
	if q.slots[i].message == nil {
		return -1
	}
	return i
}

// search returns the index of the first slot whose seq is at least seq.
func (q *queue) search(seq uint64) int {
	return q.head + sort.Search(len(q.slots)-q.head, func(i int) bool { return q.slots[q.head+i].seq >= seq })
}

// after returns the index of the first slot whose number is after n.
func (q *queue) after(n store.Number) int {
	switch {
	case n.Generation < q.generation:
		return q.head
	case n.Generation > q.generation:
		return len(q.slots)
	default:
		return q.search(n.Seq + 1)
	}
}

// countAfter returns how many entries are after n, by their QoS.
func (q *queue) countAfter(n store.Number) (count [3]int) {
	for i := q.after(n); i < len(q.slots); i++ {
		if q.slots[i].message != nil {
			count[q.slots[i].qos]++
		}
	}
	return count
}

// first returns the numbers of the first limit entries.
func (q *queue) first(limit int) []store.Number {
	numbers := make([]store.Number, 0, min(limit, q.live))
	for i := q.head; i < len(q.slots) && len(numbers) < limit; i++ {
		if q.slots[i].message != nil {
			numbers = append(numbers, q.number(q.slots[i].seq))
		}
	}
	return numbers
}

// fits reports whether a message of size bytes has room under l.
func (q *queue) fits(l store.Limits, size int) bool {
	return (l.Messages == 0 || q.live < l.Messages) && (l.Bytes == 0 || q.bytes+size <= l.Bytes)
}

// makeRoom removes the oldest entries behind the protected ones until size
// bytes fit, and hands each to drop. It removes nothing and returns false if that
// would not be enough.
func (q *queue) makeRoom(l store.Limits, size int, drop func(slot)) (ok bool) {
	i, protected, bytes := q.head, 0, 0
	for ; i < len(q.slots) && protected < l.Protected; i++ {
		if m := q.slots[i].message; m != nil {
			protected++
			bytes += m.Size()
		}
	}
	if l.Messages != 0 && protected >= l.Messages || l.Bytes != 0 && bytes+size > l.Bytes {
		return false
	}
	for !q.fits(l, size) {
		// A removal may move the slots, but not the number behind the protected.
		for q.slots[i].message == nil {
			i++
		}
		seq := q.slots[i].seq
		drop(q.remove(i))
		i = q.search(seq)
	}
	return true
}

// entry returns the slot as the caller's own.
func (q *queue) entry(sl slot) store.Entry {
	e := store.Entry{
		Number:  q.number(sl.seq),
		Message: sl.message.Message,
		QoS:     sl.qos,
		Retain:  sl.retain,
	}
	if x := sl.extra; x != nil {
		e.SubscriptionIdentifiers = slices.Clone(x.subscriptionIdentifiers)
		e.ShareName, e.TopicFilter = x.shareName, x.topicFilter
	}
	return e
}

// newExtra returns what goes into slot.extra. The identifiers are copied.
func newExtra(subscriptionIdentifiers []uint32, shareName, topicFilter string) *extra {
	if len(subscriptionIdentifiers) == 0 && shareName == "" {
		return nil
	}
	return &extra{slices.Clone(subscriptionIdentifiers), shareName, topicFilter}
}
