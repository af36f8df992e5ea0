package loadtest

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestAuditAgainstModel spoils random streams and compares what the audit finds with what was done to them.
func TestAuditAgainstModel(t *testing.T) {
	for round := range 300 {
		seed := rand.Uint64()
		if round == 0 {
			seed = 1
		}
		r := rand.New(rand.NewPCG(seed, 0))
		sent := 1 + r.Uint64N(300)
		unpromised := map[uint64]bool{}
		var arrivals []uint64 // numbers as they come
		for n := range sent {
			switch r.IntN(8) {
			case 0: // lost
			case 1:
				arrivals = append(arrivals, n, n)
			case 2:
				at := len(arrivals) - r.IntN(min(len(arrivals), 5)+1)
				arrivals = slices.Insert(arrivals, at, n)
			default:
				arrivals = append(arrivals, n)
			}
			if r.IntN(20) == 0 {
				unpromised[n] = true
			}
		}
		s := stream{}
		came := map[uint64]bool{}
		var highest int64 = -1
		var doubled, overtaken, wantDoubled, wantOvertaken uint64
		for _, n := range arrivals {
			got := s.arrive(s.extend(uint32(n)), true)
			switch {
			case came[n]:
				wantDoubled++
			case int64(n) < highest:
				wantOvertaken++
			}
			came[n], highest = true, max(highest, int64(n))
			switch got {
			case late:
				overtaken++
			case twice:
				doubled++
			}
		}
		if doubled != wantDoubled || overtaken != wantOvertaken {
			t.Fatalf("seed %d: found %d doubled and %d overtaken, want %d and %d", seed, doubled, overtaken, wantDoubled, wantOvertaken)
		}
		var want AuditQoS
		var free spans
		for n := range sent {
			t := &want.Promised
			if unpromised[n] {
				t = &want.MayDrop
				free.add(n, n+1)
			}
			t.Expected++
			if !came[n] {
				t.Lost++
			}
		}
		h := s.heard(0, 1, 0)
		if got := settle(1, &Sender{Sent: sent, Unpromised: free}, &h); got != want {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
		want = AuditQoS{MayDrop: Tally{Expected: sent, Lost: want.Promised.Lost + want.MayDrop.Lost}}
		if got := settle(0, &Sender{Sent: sent}, &h); got != want {
			t.Fatalf("seed %d, QoS 0: got %+v, want %+v", seed, got, want)
		}
	}
}

// TestAway excuses what a subscriber without a session can't have got, and nothing else.
func TestAway(t *testing.T) {
	s := stream{}
	for _, n := range []uint64{0, 1, 3} { // 2 is lost while it is there
		s.arrive(n, true)
	}
	s.arrive(2, true) // but came late
	s.arrive(5, true) // 4 is lost
	s.leave()
	s.arrive(9, true)  // 6 to 8 were missed
	s.arrive(11, true) // 10 is lost
	h := s.heard(0, 1, 0)
	// What is missing when it leaves is excused too: nobody can tell where it got lost.
	if got, want := settle(1, &Sender{Sent: 13}, &h), (AuditQoS{Tally{Expected: 9, Lost: 2}, Tally{Expected: 4, Lost: 4}}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	s.leave()
	h = s.heard(0, 1, 0)
	if got, want := settle(1, &Sender{Sent: 13}, &h), (AuditQoS{Tally{Expected: 7}, Tally{Expected: 6, Lost: 6}}); got != want {
		t.Errorf("away at the end: got %+v, want %+v", got, want)
	}
	fresh := newStreams(1)[0]
	h = fresh.heard(0, 1, 0)
	if got, want := settle(1, &Sender{Sent: 5}, &h), (AuditQoS{MayDrop: Tally{Expected: 5, Lost: 5}}); got != want {
		t.Errorf("never there: got %+v, want %+v", got, want)
	}
}

// TestNumbersBeyond32Bits goes on where the low half of a number begins again.
func TestNumbersBeyond32Bits(t *testing.T) {
	s := stream{next: 1<<32 - 2}
	for n := s.next; n < 1<<32+3; n++ {
		if got := s.extend(uint32(n)); got != n {
			t.Fatalf("got %d, want %d", got, n)
		}
		if got := s.arrive(n, true); got != fresh {
			t.Fatalf("%d: got %d", n, got)
		}
	}
	if got := s.extend(uint32(1<<32 - 1&(1<<32-1))); got != 1<<32-1 {
		t.Errorf("got %d, want %d", got, uint64(1<<32-1))
	}
}

func TestGapsAreBounded(t *testing.T) {
	s := stream{}
	const sent = 4 * gapsMax
	for n := uint64(0); n < sent; n += 2 {
		s.arrive(n, true)
	}
	if got := len(s.gaps.missing); got > gapsMax {
		t.Errorf("%d gaps are kept", got)
	}
	h := s.heard(0, 1, 0)
	if got := settle(1, &Sender{Sent: sent}, &h); got.Promised.Lost != sent/2 {
		t.Errorf("%d lost, want %d", got.Promised.Lost, sent/2)
	}
}

func TestSpans(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const limit = 40
	random := func() (s spans, set [limit]bool) {
		for n := range uint64(limit) {
			if r.IntN(2) == 0 {
				s.add(n, n+1)
				set[n] = true
			}
		}
		return s, set
	}
	for range 200 {
		a, inA := random()
		b, inB := random()
		var all, both uint64
		for n := range limit {
			all += uint64(b2u(inA[n] || inB[n]))
			both += uint64(b2u(inA[n] && inB[n]))
		}
		if got := union(a, b, limit).size(); got != all {
			t.Fatalf("union of %v and %v has %d, want %d", a, b, got, all)
		}
		if got := common(a, b); got != both {
			t.Fatalf("%v and %v have %d in common, want %d", a, b, got, both)
		}
		for _, n := range r.Perm(limit) {
			if got := a.take(uint64(n)); got != inA[n] {
				t.Fatalf("taking %d: got %v", n, got)
			}
		}
		if len(a) > 0 {
			t.Fatalf("%v is left", a)
		}
	}
}

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
