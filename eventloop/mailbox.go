package eventloop

import (
	"sync"
	"sync/atomic"
)

// Mailbox hands values of type T from any goroutine to one loop: deliveries, for which order matters and which may be
// refused. It is bounded by count. A batch costs the loop one wake, however many values it has.
type Mailbox[T any] struct {
	loop     *Loop
	capacity int
	drain    func(batch []T)

	length atomic.Int64 // of mu.in; lets the loop pass by an empty mailbox without the lock

	mu struct {
		sync.Mutex
		in     []T
		closed bool
	}

	spare []T // owned by the loop: the array that changes places with mu.in
}

// NewMailbox returns a mailbox of the loop that holds at most capacity values. In a turn the loop calls drain with all
// values that wait, in the order in which they were pushed, before it flushes. The batch is reused after drain returns.
// It may be called at any time from any goroutine, also before the engine starts; a mailbox lives as long as its loop.
func NewMailbox[T any](loop *Loop, capacity int, drain func(batch []T)) *Mailbox[T] {
	m := &Mailbox[T]{loop: loop, capacity: capacity, drain: drain}
	loop.addMailbox(m)
	return m
}

// Push hands v over and reports whether there was room; it never blocks. After the loop has stopped there is none.
// It is safe for any goroutine.
func (m *Mailbox[T]) Push(v T) bool {
	m.mu.Lock()
	if len(m.mu.in) >= m.capacity || m.mu.closed {
		m.mu.Unlock()
		return false
	}
	m.mu.in = append(m.mu.in, v)
	m.length.Store(int64(len(m.mu.in)))
	m.mu.Unlock()
	m.loop.wake()
	return true
}

// PushAll hands over as many of vs as there is room for, from the front, and returns how many these are. It copies
// them, so vs may be reused. It is safe for any goroutine.
func (m *Mailbox[T]) PushAll(vs []T) int {
	m.mu.Lock()
	n := min(len(vs), m.capacity-len(m.mu.in))
	if m.mu.closed {
		n = 0
	}
	if n > 0 {
		m.mu.in = append(m.mu.in, vs[:n]...)
		m.length.Store(int64(len(m.mu.in)))
	}
	m.mu.Unlock()
	if n > 0 {
		m.loop.wake()
	}
	return n
}

// Len returns how many values wait. It is safe for any goroutine.
func (m *Mailbox[T]) Len() int { return int(m.length.Load()) }

// deliveries is what a loop needs of a mailbox, whatever its type.
type deliveries interface {
	Len() int
	deliver()
	close()
}

func (m *Mailbox[T]) deliver() {
	if m.Len() == 0 {
		return
	}
	m.mu.Lock()
	batch := m.mu.in
	m.mu.in = m.spare[:0]
	m.length.Store(0)
	m.mu.Unlock()

	m.drain(batch)
	clear(batch) // so that the array keeps nothing alive
	m.spare = batch[:0]
}

// close refuses what comes from now on, and delivers what came before.
func (m *Mailbox[T]) close() {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.deliver()
}
