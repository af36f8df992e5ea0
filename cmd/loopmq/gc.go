package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The collector's settings. Most of what a broker holds is small, long-lived and
// idle, and a QoS 0 message makes no garbage, so a small heap overhead costs
// little: gcPercent keeps the memory of idle connections down. Where messages are
// kept (durable sessions, shared subscriptions) there is garbage at their rate, and
// a small heap would be collected all the time, at a tenth of the CPU: if that is
// gcOften times within a tick the overhead doubles, up to gcPercentMax, and it
// halves with each second without a collection.
//
// What a load has left is collected when it is over, since nothing else would: once
// more than a gcLeft of the live heap has been allocated since the last collection,
// and for a second less than a gcCalm of it in each tick. A calm broker needs 12 s
// at least to allocate so much again.
const (
	gcTick       = 200 * time.Millisecond
	gcTicks      = 5 // in a second
	gcPercent    = 50
	gcPercentMax = 400
	gcOften      = 2
	gcLeft       = 8
	gcCalm       = 512
	gcLeftMin    = 1 << 20 // bytes; less isn't worth it
)

// tuneGC adapts the collector until ctx ends. A GOGC in the environment has the
// last word.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(gcPercent)
	go func() {
		ticker := time.NewTicker(gcTick)
		defer ticker.Stop()
		for g := newGCTuner(readHeap()); ; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			before := g.percent
			left := g.tick(readHeap())
			if g.percent != before {
				debug.SetGCPercent(g.percent)
			}
			if left {
				debug.FreeOSMemory()
			}
		}
	}()
}

// heap is what the collector says of itself.
type heap struct {
	cycles    uint64 // collections
	allocated uint64 // bytes, ever
	live      uint64 // bytes, at the last collection
}

func readHeap() heap {
	samples := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return heap{cycles: samples[0].Value.Uint64(), allocated: samples[1].Value.Uint64(), live: samples[2].Value.Uint64()}
}

// gcTuner finds the heap overhead that suits the load.
type gcTuner struct {
	percent   int
	last      heap
	collected uint64 // what was allocated before the last collection
	quiet     int    // ticks since then
	calm      int    // ticks in which hardly anything was allocated
}

func newGCTuner(h heap) gcTuner {
	return gcTuner{percent: gcPercent, last: h, collected: h.allocated}
}

// tick learns how the heap is after a tick. It returns true if what a load has left
// is to be collected now.
func (g *gcTuner) tick(h heap) (left bool) {
	cycles, allocated := h.cycles-g.last.cycles, h.allocated-g.last.allocated
	g.last = h
	if g.quiet++; cycles > 0 {
		g.quiet, g.collected = 0, h.allocated
	}
	if g.calm++; allocated > h.live/gcCalm {
		g.calm = 0
	}
	before := g.percent
	switch {
	case cycles >= gcOften:
		g.percent = min(2*g.percent, gcPercentMax)
	case g.quiet == gcTicks:
		g.percent = max(g.percent/2, gcPercent)
		g.quiet = 0
	}
	return g.percent < before && g.percent == gcPercent ||
		g.calm >= gcTicks && h.allocated-g.collected > max(h.live/gcLeft, gcLeftMin)
}
