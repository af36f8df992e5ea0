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
