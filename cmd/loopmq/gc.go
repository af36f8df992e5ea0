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
const (
	gcTick       = 200 * time.Millisecond
	gcTicks      = 5 // in a second
	gcPercent    = 50
	gcPercentMax = 400
	gcOften      = 2
)

// tuneGC adapts the collector until ctx ends. A GOGC in the environment has the
// last word.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	g := gcTuner{percent: gcPercent}
	debug.SetGCPercent(g.percent)
	go func() {
		ticker := time.NewTicker(gcTick)
		defer ticker.Stop()
		sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
		metrics.Read(sample)
		for last := sample[0].Value.Uint64(); ; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			metrics.Read(sample)
			cycles := sample[0].Value.Uint64() - last
			last += cycles
			before := g.percent
			if g.tick(cycles); g.percent == before {
				continue
			}
			debug.SetGCPercent(g.percent)
			if g.percent == gcPercent {
				debug.FreeOSMemory() // nothing else would collect what the load has left
			}
		}
	}()
}

// gcTuner finds the heap overhead that suits the load.
type gcTuner struct {
	percent int
	quiet   int // ticks since the last collection
}

// tick learns how often the collector ran in a tick.
func (g *gcTuner) tick(cycles uint64) {
	if cycles > 0 {
		g.quiet = 0
	} else {
		g.quiet++
	}
	switch {
	case cycles >= gcOften:
		g.percent = min(2*g.percent, gcPercentMax)
	case g.quiet == gcTicks:
		g.percent = max(g.percent/2, gcPercent)
		g.quiet = 0
	}
}
