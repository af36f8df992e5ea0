package session

import "loopmq/store"

// Queue holds the messages of a session that is not durable while its window or
// its output is full. It is bounded in messages and bytes. The zero value is
// empty and holds no memory.
type Queue struct {
	ring       []*store.Entry // power of two
	head, tail uint64
	bytes      int
}

// Push appends e within the limits, and reports false if they refuse it. Entries
// that have to go for it are handed to dropped, the oldest first. One message is
// always let in.
func (q *Queue) Push(e *store.Entry, l store.Limits, dropped func(*store.Entry)) (fits bool) {
	for q.Len() > 0 && (l.Messages > 0 && q.Len() >= l.Messages || l.Bytes > 0 && q.bytes+e.Message.Size() > l.Bytes) {
		if l.Policy == store.DropNewest {
			return false
		}
		dropped(q.Pop())
	}
	if q.Len() == len(q.ring) {
		q.grow()
	}
	q.ring[q.tail&uint64(len(q.ring)-1)] = e
	q.tail++
	q.bytes += e.Message.Size()
	return true
}

func (q *Queue) grow() {
	ring := make([]*store.Entry, max(8, 2*len(q.ring)))
	for i := q.head; i < q.tail; i++ {
		ring[i&uint64(len(ring)-1)] = q.ring[i&uint64(len(q.ring)-1)]
	}
	q.ring = ring
}

// Peek returns the oldest entry, nil if there is none.
func (q *Queue) Peek() *store.Entry {
	if q.Len() == 0 {
		return nil
	}
	return q.ring[q.head&uint64(len(q.ring)-1)]
}

// Pop removes and returns the oldest entry, nil if there is none.
func (q *Queue) Pop() *store.Entry {
	if q.Len() == 0 {
		return nil
	}
	p := &q.ring[q.head&uint64(len(q.ring)-1)]
	e := *p
	*p = nil
	q.head++
	q.bytes -= e.Message.Size()
	if q.head == q.tail {
		*q = Queue{}
	}
	return e
}

// Len returns the number of entries, Bytes their size.
func (q *Queue) Len() int { return int(q.tail - q.head) }

// Bytes returns what the entries count against the limit in bytes.
func (q *Queue) Bytes() int { return q.bytes }
