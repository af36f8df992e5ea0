package loadtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessSampler returns a function for Options.Broker that looks at a process on this machine, on Linux: at the kernel's clock of
// its CPU time, which is exact, and at its resident memory.
func ProcessSampler(pid int) func(context.Context) (BrokerSample, error) {
	return func(context.Context) (BrokerSample, error) {
		cpu, err := processClock(pid)
		if err != nil {
			return BrokerSample{}, err
		}
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return BrokerSample{}, err
		}
		fields := strings.Fields(string(statm))
		if len(fields) < 2 {
			return BrokerSample{}, fmt.Errorf("memory of process %d: %q", pid, statm)
		}
		pages, err := strconv.ParseUint(fields[1], 10, 64)
		return BrokerSample{At: time.Now(), CPUSeconds: cpu.Seconds(), ResidentBytes: pages * uint64(unix.Getpagesize())}, err
	}
}
