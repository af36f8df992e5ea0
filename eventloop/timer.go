package eventloop

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Tick is the resolution of timers: a timer fires at the first multiple of it at or after its time, never before.
const Tick = 20 * time.Millisecond

// wheelSlots is a power of two. One revolution takes wheelSlots * Tick = 41 s.
const wheelSlots = 2048

// TimerHandler is what a Timer calls when it expires, on the loop that it was scheduled on. The timer is not armed any
// more and may be scheduled again. An owner of several timers tells them apart by the pointer.
type TimerHandler interface {
	OnTimer(t *Timer)
}

// TimerFunc is a function as a TimerHandler.
type TimerFunc func(t *Timer)

// OnTimer calls f.
func (f TimerFunc) OnTimer(t *Timer) { f(t) }

// Timer is one entry of a loop's timing wheel, meant to be embedded in what it times: it is 40 bytes and scheduling it
// allocates nothing. It belongs to one loop; its methods and Loop.Schedule are called there only. A Timer must not be
// copied while armed. The zero value needs Init before it is scheduled.
//
// To guard against silence (MQTT's Keep Alive), don't schedule again with every packet. Store the time of the last
// packet, and look at it when the timer expires:
//
//	func (s *session) OnTimer(t *eventloop.Timer) {
//		idle := s.loop.Nanotime() - s.lastPacket
//		if idle >= s.limit {
//			s.conn.Close(errKeepAlive)
//			return
//		}
//		s.loop.Schedule(t, time.Duration(s.limit-idle))
//	}
type Timer struct {
	next    *Timer
	pprev   **Timer // what points at this entry: the slot or the next field of the entry before; nil if not armed
	tick    int64
	handler TimerHandler
}

// Init sets what is called on expiry.
func (t *Timer) Init(h TimerHandler) { t.handler = h }

// Armed reports whether the timer is scheduled.
func (t *Timer) Armed() bool { return t.pprev != nil }

// Stop disarms the timer and reports whether it was armed. After Stop its handler isn't called. A timer that isn't
// armed may be stopped.
func (t *Timer) Stop() bool {
	if t.pprev == nil {
		return false
	}
	*t.pprev = t.next
	if t.next != nil {
		t.next.pprev = t.pprev
	}
	t.next, t.pprev = nil, nil
	return true
}

// wheel is a hashed timing wheel: a timer for tick n hangs in slot n mod wheelSlots, in no order. Each tick looks at one
// slot and leaves what belongs to a later revolution, so that scheduling, stopping and firing are O(1), and a timer
// that waits costs one look per revolution.
//
// A hierarchy of wheels was left out: it would spare that look, and pay with moving each timer from level to level.
type wheel struct {
	tick  int64 // everything up to this tick was fired
	slots [wheelSlots]*Timer
	used  [wheelSlots / 64]uint64 // slots that may hold timers; a bit is cleared when its slot is looked at

	// due is the tick at which the loop has to look again, for the engine's ticker; math.MaxInt64 means never.
	due atomic.Int64
}

func (w *wheel) init() { w.due.Store(math.MaxInt64) }

// schedule arms t to fire at the first tick at or after the time at, in nanoseconds.
func (w *wheel) schedule(t *Timer, at int64) {
	t.Stop()
	t.tick = max((at+int64(Tick)-1)/int64(Tick), w.tick+1)
	w.insert(t)
	if t.tick < w.due.Load() {
		w.due.Store(t.tick)
	}
}

func (w *wheel) insert(t *Timer) {
	slot := uint(t.tick) % wheelSlots
	head := &w.slots[slot]
	w.used[slot/64] |= 1 << (slot % 64)
	t.next, t.pprev = *head, head
	if t.next != nil {
		t.next.pprev = &t.next
	}
	*head = t
}

// advance fires what is due at the time now, in nanoseconds, tick by tick, and publishes the next tick to look at.
func (w *wheel) advance(now int64) {
	end := now / int64(Tick)
	if end <= w.tick {
		return
	}
	// After a long sleep each slot is looked at once, whatever the time.
	for n := max(w.tick+1, end-wheelSlots+1); n <= end; n++ {
		slot := uint(n) % wheelSlots
		if w.used[slot/64]&(1<<(slot%64)) == 0 {
			continue
		}
		w.used[slot/64] &^= 1 << (slot % 64)
		// From now on w.tick is what a handler may not schedule at or before; n would do only without a long sleep.
		w.tick = end
		w.fire(slot, end)
	}
	w.tick = end
	w.due.Store(w.next())
}

// fire takes the slot's list out first, since a handler may schedule into the slot or stop any timer of the list.
func (w *wheel) fire(slot uint, end int64) {
	list := w.slots[slot]
	w.slots[slot] = nil
	if list != nil {
		list.pprev = &list
	}
	for list != nil {
		t := list
		t.Stop()
		if t.tick > end {
			w.insert(t)
			continue
		}
		t.handler.OnTimer(t)
	}
}

// next returns the next tick whose slot may hold timers.
func (w *wheel) next() int64 {
	first := uint(w.tick+1) % wheelSlots
	for i := uint(0); i <= wheelSlots/64; i++ {
		word := (first/64 + i) % (wheelSlots / 64)
		used := w.used[word]
		if i == 0 {
			used &= ^uint64(0) << (first % 64)
		}
		if used != 0 {
			slot := word*64 + uint(bits.TrailingZeros64(used))
			return w.tick + 1 + int64((slot-first)%wheelSlots)
		}
	}
	return math.MaxInt64
}
