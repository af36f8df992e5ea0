package loadtest

import (
	"cmp"
	"slices"
)

// gapsMax bounds the gaps that a stream remembers, so that a broker that loses every other message doesn't take the generator's
// memory. Beyond it the oldest is taken for lost: if it comes after all, it counts as a duplicate.
const gapsMax = 4096

// spans are numbers as ranges [from, to), in order and apart from each other.
type spans [][2]uint64

// add adds [from, to) behind or at the end of what is there.
func (s *spans) add(from, to uint64) {
	if from >= to {
		return
	}
	if n := len(*s); n > 0 && from <= (*s)[n-1][1] {
		(*s)[n-1][1] = max((*s)[n-1][1], to)
		return
	}
	*s = append(*s, [2]uint64{from, to})
}

// take removes a number and says whether it was there.
func (s *spans) take(n uint64) bool {
	i, _ := slices.BinarySearchFunc(*s, n, func(r [2]uint64, n uint64) int {
		if r[1] <= n {
			return -1
		}
		return 1
	})
	if i == len(*s) || n < (*s)[i][0] {
		return false
	}
	switch r := &(*s)[i]; {
	case r[0]+1 == r[1]:
		*s = slices.Delete(*s, i, i+1)
	case n == r[0]:
		r[0]++
	case n+1 == r[1]:
		r[1]--
	default:
		to := r[1]
		r[1] = n
		*s = slices.Insert(*s, i+1, [2]uint64{n + 1, to})
	}
	return true
}

// size is how many numbers there are.
func (s spans) size() uint64 {
	n := uint64(0)
	for _, r := range s {
		n += r[1] - r[0]
	}
	return n
}

// union returns the numbers of both, below limit.
func union(a, b spans, limit uint64) spans {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y [2]uint64) int { return cmp.Compare(x[0], y[0]) })
	var s spans
	for _, r := range all {
		s.add(r[0], min(r[1], limit))
	}
	return s
}

// common is how many numbers both have.
func common(a, b spans) uint64 {
	n := uint64(0)
	for i, j := 0, 0; i < len(a) && j < len(b); {
		from, to := max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
		if from < to {
			n += to - from
		}
		if a[i][1] < b[j][1] {
			i++
		} else {
			j++
		}
	}
	return n
}

// A stream is what a subscriber, or a shared subscription, has had of one publisher. Nearly all have no gaps.
type stream struct {
	next uint64 // one above the highest number that came
	away bool   // the subscriber was away: what is missing up to the next message that nothing explains is excused
	gaps *gaps
}

type gaps struct {
	missing spans  // numbers below next that didn't come
	excused spans  // numbers that needn't come
	lost    uint64 // missing ones that were forgotten
}

// newStreams returns streams of a subscriber that isn't there yet.
func newStreams(n int) []stream {
	s := make([]stream, n)
	for i := range s {
		s[i].away = true
	}
	return s
}

// arrival is what a message turned out to be.
type arrival uint8

const (
	fresh arrival = iota
	late          // it was overtaken
	twice
)

// extend returns the number whose low half is low and that is nearest to what the stream expects.
func (s *stream) extend(low uint32) uint64 {
	return uint64(int64(s.next) + int64(int32(low-uint32(s.next))))
}

// arrive takes note of a message. back says that the subscriber is there again, if it was away: what comes may be older than that.
func (s *stream) arrive(n uint64, back bool) arrival {
	if n == s.next && !s.away {
		s.next++
		return fresh
	}
	if n >= s.next {
		if n > s.next {
			g := s.holes()
			g.missing.add(s.next, n)
			if s.away {
				g.excused.add(s.next, n)
			}
			if len(g.missing) > gapsMax {
				oldest := g.missing[0]
				g.lost += oldest[1] - oldest[0]
				g.missing = g.missing[1:]
			}
		}
		s.away = s.away && !back
		s.next = n + 1
		return fresh
	}
	if s.gaps != nil && s.gaps.missing.take(n) {
		return late
	}
	return twice
}

func (s *stream) holes() *gaps {
	if s.gaps == nil {
		s.gaps = new(gaps)
	}
	return s.gaps
}

// leave says that the subscriber isn't there, and that nobody keeps messages for it.
func (s *stream) leave() {
	s.away = true
	if s.gaps != nil {
		s.gaps.excused = union(s.gaps.excused, s.gaps.missing, s.next)
	}
}

// heard is the stream's part of a Ledger.
func (s *stream) heard(part int, qos byte, publisher int) Heard {
	h := Heard{Part: part, QoS: qos, Publisher: publisher, Next: s.next, Away: s.away}
	if s.gaps != nil {
		h.Missing, h.Excused, h.Lost = s.gaps.missing, s.gaps.excused, s.gaps.lost
	}
	return h
}

// settle compares what was sent with what came.
func settle(qos byte, sent *Sender, h *Heard) AuditQoS {
	total := max(sent.Sent, h.Next)
	lost := slices.Clone(h.Missing)
	lost.add(h.Next, sent.Sent)
	if qos == 0 {
		return AuditQoS{MayDrop: Tally{Expected: total, Lost: lost.size() + h.Lost}}
	}
	limit := h.excusedTo(sent)
	excused := union(h.Excused, nil, limit)
	if h.Away {
		excused.add(h.Next, limit)
	}
	free := union(sent.Unpromised, excused, total)
	n, dropped := free.size(), common(lost, free)
	return AuditQoS{
		Promised: Tally{Expected: total - n, Lost: lost.size() - dropped + h.Lost},
		MayDrop:  Tally{Expected: n, Lost: dropped},
	}
}
