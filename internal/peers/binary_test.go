package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The program itself serves each client from each other. On SIGTERM clients of 5.0 learn why, and it exits
// with 0.
func TestProgram(t *testing.T) {
	program, addr := serve(t)
	receivers := connectAll(t, addr, func(i int) options {
		return options{subscribe: []subscription{{filter: fmt.Sprintf("matrix/%d/#", i), qos: 2}}}
	})
	matrix(t, addr, receivers)
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for i, r := range receivers {
		want := byte(0)
		if peers[i].version == 5 {
			want = 0x8B
		}
		if reason := r.closed(); reason != want {
			t.Errorf("%s: got reason code %#x, want %#x", peers[i].name, reason, want)
		}
	}
	if err := program.Wait(); err != nil {
		t.Errorf("got %v, want exit code 0", err)
	}
}

// serve builds and starts the program, and returns where it listens.
func serve(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "loopmq")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmd/loopmq")
	build.Dir = "../.." // in the broker's own module, as it is shipped
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	program := exec.CommandContext(ctx, path, "serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "off", "--coap", "off", "--admin", "off", "--log-format", "json",
		"--store", "pebble:"+t.TempDir())
	stderr, err := program.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = program.Wait() })
	log := bufio.NewScanner(stderr)
	var first struct{ TCP string }
	if !log.Scan() {
		t.Fatalf("no first line: %v", log.Err())
	}
	if err := json.Unmarshal(log.Bytes(), &first); err != nil || first.TCP == "" {
		t.Fatalf("first line %q: %v", log.Text(), err)
	}
	go func() {
		for log.Scan() { // so that it can go on
		}
	}()
	return program, first.TCP
}
