package loadtest_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain runs more tests at a time than there are cores: most of them wait.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "4")
	os.Exit(m.Run())
}
