//go:build linux

package loadtest

import (
	"runtime"
	"testing"
)

// TestHold: loops that hold their processor while they wait leave one to the rest of the process.
func TestHold(t *testing.T) {
	holding := 0
	for range 2 * runtime.GOMAXPROCS(0) {
		if hold() {
			holding++
		}
		defer holders.Add(-1)
	}
	if most := runtime.GOMAXPROCS(0) - 1; holding > most {
		t.Errorf("%d loops hold a processor, want at most %d", holding, most)
	}
}
