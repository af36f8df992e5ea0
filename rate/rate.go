// Package rate bounds how much of something comes in a time: token buckets that any goroutine may take from without a
// lock. The clock is the caller's, in nanoseconds from whatever moment, and never goes back by much.
package rate

import (
	"sync/atomic"
	"time"
)

// Limit is so much per second, with a burst. The zero value is no limit.
type Limit struct {
	// PerSecond is how much may come on average; 0, or less: no limit.
	PerSecond int
	// Burst is how much may come at once, after as long a rest as it takes; 0, or less: as much as in one second.
	Burst int
}

// IsLimit reports whether it is a limit at all.
func (l Limit) IsLimit() bool { return l.PerSecond > 0 }

// cost is the time in which n come at the rate.
func (l Limit) cost(n int) int64 {
	return int64(float64(n) * float64(time.Second) / float64(l.PerSecond))
}

// slack is the time in which the burst comes at the rate.
func (l Limit) slack() int64 {
	if l.Burst > 0 {
		return l.cost(l.Burst)
	}
	return int64(time.Second)
}

// debtMax bounds what a bucket owes, so that no single thing taken from it stops all others for ever.
const debtMax = int64(time.Hour)

// Bucket is the state of a limit. It is one word: the moment at which all that was taken would have come, had it come
// evenly, at which the bucket is full. The zero value is full. Its methods are safe for concurrent use, and those with
// the same bucket are to be given the same limit; after a change of it, what was taken before counts as time.
type Bucket struct {
	fullAt atomic.Int64
}

// Take takes n, whether they are there or not, and returns how long nothing more should be taken: 0 if they were.
// Of several who have to wait, each is told a moment of its own, in the order in which they took.
func (b *Bucket) Take(l Limit, n int, now int64) time.Duration {
	if !l.IsLimit() {
		return 0
	}
	cost, slack := l.cost(n), l.slack()
	for {
		old := b.fullAt.Load()
		next := min(max(old, now)+cost, now+slack+debtMax)
		if b.fullAt.CompareAndSwap(old, next) {
			return time.Duration(max(next-now-slack, 0))
		}
	}
}

// Wait returns how long it takes until one more is there: 0 if it is.
func (b *Bucket) Wait(l Limit, now int64) time.Duration {
	if !l.IsLimit() {
		return 0
	}
	return time.Duration(max(max(b.fullAt.Load(), now)+l.cost(1)-now-l.slack(), 0))
}

// Full reports whether nothing is missing, so that the bucket is as good as a new one.
func (b *Bucket) Full(now int64) bool { return b.fullAt.Load() <= now }
