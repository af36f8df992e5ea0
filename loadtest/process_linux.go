package loadtest

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// processClock is the time that all threads of a process, ended ones too, have had on a CPU. The kernel keeps this clock in
// nanoseconds; /proc/PID/stat counts ticks of 10 ms.
func processClock(pid int) (time.Duration, error) {
	const clock = 2 // CPUCLOCK_SCHED, as clock_getcpuclockid composes it
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|clock), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
