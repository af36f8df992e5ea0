package loadtest

import (
	"math"
	"time"
)

// grid is the finest step of an open loop. Above 10,000 messages a second, or what another grid is good for, those of one step are due together, so that a loop
// doesn't wake for each.
const grid = 100 * time.Microsecond

// coarseGrid is that of Offline, whose latencies begin when the subscribers come: a wake for each message would cost more than the
// messages do.
const coarseGrid = time.Millisecond

// A schedule says when the messages of an open loop are due: the rate grows evenly from 0 during the ramp, and then stays.
type schedule struct {
	start int64   // nanoseconds of Unix time
	rate  float64 // messages/s; above 0
	ramp  float64 // seconds
	grid  time.Duration
}

// at returns when message k is due, counted from 0.
func (s *schedule) at(k uint64) int64 {
	n := float64(k)
	t := s.ramp/2 + n/s.rate
	if n < s.rate*s.ramp/2 {
		t = math.Sqrt(2 * n * s.ramp / s.rate)
	}
	nanos := int64(t * 1e9)
	if s.rate > float64(time.Second/s.grid) {
		nanos -= nanos % int64(s.grid)
	}
	return s.start + nanos
}
