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
// kept (shared subscriptions, queues) there is garbage at their rate, and a
// small heap would be collected all the time: if that is more than gcOften times
// a second the overhead doubles, up to gcPercentMax, and goes back when it is
// less than gcRarely.
const (
	gcPercent    = 50
	gcPercentMax = 400
	gcOften      = 20
	gcRarely     = 3
)

// tuneGC adapts the collector until ctx ends. A GOGC in the environment has the
// last word.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := gcPercent
	debug.SetGCPercent(percent)
	go func() {
		ticker := time.NewTicker(time.Second)
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
			if next := nextGCPercent(percent, cycles); next != percent {
				percent = next
				debug.SetGCPercent(percent)
			}
		}
	}()
}

// nextGCPercent returns the setting for the next second.
func nextGCPercent(percent int, cycles uint64) int {
	switch {
	case cycles > gcOften:
		return min(2*percent, gcPercentMax)
	case cycles < gcRarely:
		return max(percent/2, gcPercent)
	}
	return percent
}
