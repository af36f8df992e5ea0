//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A process is one whose use of the machine is measured, by its process id.
type process int

// cpu is the time that all threads of the process, ended ones too, have had on a CPU in user and in kernel mode. The kernel keeps
// this clock in nanoseconds; /proc/PID/stat counts ticks of 10 ms.
func (p process) cpu() (time.Duration, error) {
	const processClock = 2 // CPUCLOCK_SCHED, as clock_getcpuclockid composes it
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p<<3|processClock), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", p, err)
	}
	return time.Duration(ts.Nano()), nil
}

// residentBytes is the resident set size. It is counted page by page here: the sums in /proc/PID/statm are kept per CPU and may
// lag.
func (p process) residentBytes() (int64, error) {
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

// A meter notes the clocks of the broker, with what works beside it, and of the generator at one moment, to subtract them from a later one.
type meter struct {
	target         process
	g              *generator
	broker, own    time.Duration
	nanos, callsAt int64
}

func startMeter(target process, g *generator) (meter, error) {
	m := meter{target: target, g: g, callsAt: g.calls, nanos: g.now()}
	var err error
	if m.broker, err = target.cpu(); err != nil {
		return m, err
	}
	if g.beside != 0 {
		beside, err := g.beside.cpu()
		if err != nil {
			return m, err
		}
		m.broker += beside
	}
	m.own, err = process(os.Getpid()).cpu()
	return m, err
}

// stop returns the rates and costs per unit for the units, at least one, that were done since startMeter.
func (m meter) stop(units uint64) (sample, error) {
	now, err := startMeter(m.target, m.g)
	if err != nil {
		return sample{}, err
	}
	n := float64(units)
	return sample{
		Rate:         n * 1e9 / float64(now.nanos-m.nanos),
		BrokerMicros: float64((now.broker - m.broker).Nanoseconds()) / 1e3 / n,
		GenMicros:    float64((now.own - m.own).Nanoseconds()) / 1e3 / n,
		GenCalls:     float64(now.callsAt-m.callsAt) / n,
	}, nil
}
