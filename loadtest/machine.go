package loadtest

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// filesReserve is how many files the generator needs besides connections.
const filesReserve = 64

// processMemory is what a process needs before it has clients.
const processMemory = 32 << 20

// ProcessesMax is how many processes of this machine may play a scenario, which has been checked: 32, or 4 for each core, or twice what
// the limit of open files makes necessary, as far as there is memory for them. More would only be in each other's way.
func ProcessesMax(s *Scenario) int {
	most := max(32, 4*runtime.NumCPU())
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Max > filesReserve {
		most = max(most, 2*(1+int(uint64(s.clients())/(limit.Max-filesReserve))))
	}
	if memory := ThisMachine().Memory; memory > 0 {
		most = max(1, min(most, int(memory/processMemory)))
	}
	return most
}

// ThisMachine returns what is known of the machine that this process runs on. What isn't known is "unknown" or 0.
func ThisMachine() Machine {
	m := Machine{Host: "unknown", CPU: "unknown", Cores: runtime.NumCPU(), Kernel: "unknown", Go: runtime.Version()}
	if name, err := os.Hostname(); err == nil {
		m.Host = name
	}
	m.CPU = firstField("/proc/cpuinfo", "model name", m.CPU)
	if kib, err := strconv.ParseUint(strings.TrimSuffix(firstField("/proc/meminfo", "MemTotal", ""), " kB"), 10, 64); err == nil {
		m.Memory = kib << 10
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(b)); len(fields) > 2 {
			m.Load = strings.Join(fields[:3], " ")
		}
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.Files = limit.Cur
	}
	return m
}

// firstField returns what a file of lines 'name: value' has under a name.
func firstField(path, name, otherwise string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return otherwise
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return otherwise
}
