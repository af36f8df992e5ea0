package metrics

import (
	"io"
	"os"
	"syscall"

	vm "github.com/VictoriaMetrics/metrics"
)

// writeFiles writes process_open_fds and process_max_fds. The library counts the entries of /proc/self/fd, which took 20 ms with 19,000
// connections. Since Linux 6.2 the directory's size is their number.
func writeFiles(w io.Writer) {
	info, err := os.Stat("/proc/self/fd")
	var limit syscall.Rlimit
	if err != nil || info.Size() == 0 || syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		vm.WriteFDMetrics(w)
		return
	}
	vm.WriteGaugeUint64(w, "process_max_fds", limit.Cur)
	vm.WriteGaugeUint64(w, "process_open_fds", uint64(info.Size()))
}
