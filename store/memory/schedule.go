package memory

import (
	"container/heap"
	"time"
)

// schedule is a heap of deadlines, the next one first.
type schedule[T any] []*deadline[T]

// deadline is the place of a value in a schedule. The zero value is in none.
type deadline[T any] struct {
	at       time.Time
	position int // index in the schedule + 1, 0: not in it
	value    T
}

// set puts d into the schedule, moves it, or, if at is zero, takes it out.
func (s *schedule[T]) set(d *deadline[T], at time.Time) {
	switch {
	case at.IsZero():
		if d.position != 0 {
			heap.Remove(s, d.position-1)
		}
		d.at = at
	case d.position != 0:
		d.at = at
		heap.Fix(s, d.position-1)
	default:
		d.at = at
		heap.Push(s, d)
	}
}

// next returns the first deadline, and false if there is none.
func (s schedule[T]) next() (time.Time, bool) {
	if len(s) == 0 {
		return time.Time{}, false
	}
	return s[0].at, true
}

// due returns up to limit values whose deadline has come at now, the longest
// overdue first. They stay in the schedule.
func (s *schedule[T]) due(now time.Time, limit int) []T {
	var taken []*deadline[T]
	for len(*s) > 0 && len(taken) < limit && !now.Before((*s)[0].at) {
		taken = append(taken, heap.Pop(s).(*deadline[T]))
	}
	values := make([]T, len(taken))
	for i, d := range taken {
		values[i] = d.value
		heap.Push(s, d)
	}
	return values
}

// Len, Less, Swap, Push and Pop are for container/heap.
func (s schedule[T]) Len() int           { return len(s) }
func (s schedule[T]) Less(i, j int) bool { return s[i].at.Before(s[j].at) }

func (s schedule[T]) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].position, s[j].position = i+1, j+1
}

func (s *schedule[T]) Push(x any) {
	d := x.(*deadline[T])
	*s = append(*s, d)
	d.position = len(*s)
}

func (s *schedule[T]) Pop() any {
	last := len(*s) - 1
	d := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	d.position = 0
	return d
}
