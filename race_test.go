//go:build race

package loopmq_test

// raceEnabled says whether the race detector is on.
const raceEnabled = true
