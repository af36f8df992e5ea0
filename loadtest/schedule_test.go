package loadtest

import (
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	for _, test := range []schedule{
		{start: 5, rate: 10, grid: grid},
		{start: 1_000_000_007, rate: 1000, ramp: 2, grid: grid},
		{rate: 123_456, ramp: 0.5, grid: grid},
		{rate: 5000, ramp: 1, grid: coarseGrid},
	} {
		last := int64(0)
		count := map[int64]int{} // messages by half second
		for k := uint64(0); ; k++ {
			at := test.at(k)
			if at < last {
				t.Fatalf("%+v: message %d is due before the one before", test, k)
			}
			last = at
			half := (at - test.start) / int64(time.Second/2)
			if half >= 8 {
				break
			}
			count[half]++
		}
		// Steady from the end of the ramp on, and half of that during it.
		steady := test.rate / 2
		for half := int64(test.ramp * 2); half < 8; half++ {
			if got := float64(count[half]); got < steady*0.98-2 || got > steady*1.02+2 {
				t.Errorf("%+v: %v messages in half second %d, want %v", test, got, half, steady)
			}
		}
		ramped := 0
		for half := range int64(test.ramp * 2) {
			ramped += count[half]
		}
		if want := test.rate * test.ramp / 2; float64(ramped) < want*0.98-2 || float64(ramped) > want*1.02+2 {
			t.Errorf("%+v: %d messages while the rate grew, want %v", test, ramped, want)
		}
	}
}

// TestGrid has messages of high rates due together, at most once in a grid.
func TestGrid(t *testing.T) {
	for step, want := range map[time.Duration]int{grid: 100, coarseGrid: 10} {
		s := schedule{start: 77, rate: 1_000_000, grid: step}
		times := map[int64]int{}
		for k := range uint64(10_000) {
			times[s.at(k)]++
		}
		if got := len(times); got != want {
			t.Errorf("%d different times in 10 ms of a grid of %v, want %d", got, step, want)
		}
	}
}
