//go:build linux

// Package process reads from the kernel what another process has used, for what measures brokers.
package process

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A Process is one whose use of the machine is measured, by its process id. All methods may be called from all goroutines; their errors say
// that there is no such process.
type Process int

// CPU is the time that all threads of the process, ended ones too, have had on a CPU in user and in kernel mode. The kernel keeps
// this clock in nanoseconds; /proc/PID/stat counts ticks of 10 ms.
func (p Process) CPU() (time.Duration, error) {
	const processClock = 2 // CPUCLOCK_SCHED, as clock_getcpuclockid composes it
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p<<3|processClock), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", p, err)
	}
	return time.Duration(ts.Nano()), nil
}

// ResidentBytes is the resident set size. It is counted page by page here: the sums in /proc/PID/statm are kept per CPU and may
// lag.
func (p Process) ResidentBytes() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if fields := bytes.Fields(lines.Bytes()); len(fields) > 1 && string(fields[0]) == "Rss:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Rss in smaps_rollup of process %d", p)
}
