package metrics_test

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"loopmq/metrics"
)

// The open files of the process are counted, and there is a limit above them.
func TestOpenFiles(t *testing.T) {
	read := func(name string) int {
		var out bytes.Buffer
		metrics.New(1).WritePrometheus(&out)
		for line := range strings.Lines(out.String()) {
			if value, ok := strings.CutPrefix(line, name+" "); ok {
				n, err := strconv.Atoi(strings.TrimSpace(value))
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Skipf("%s is known on Linux only", name)
		return 0
	}
	before := read("process_open_fds")
	const more = 20
	for range more {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
	}
	if after := read("process_open_fds"); after < before+more-5 || after > before+more+5 {
		t.Errorf("got %d open files, want %d: %d were open before", after, before+more, before)
	}
	if limit := read("process_max_fds"); limit < before+more {
		t.Errorf("the limit is %d", limit)
	}
}
