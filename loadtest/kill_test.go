package loadtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRunKills(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	var failures []string
	failed := make(chan string)
	go func() {
		defer close(failed)
		RunKills(ctx, []Kill{
			{After: 0, Command: "echo done > " + filepath.Join(dir, "first")},
			{After: time.Millisecond, Command: "echo no such thing >&2; exit 3"},
			{After: time.Hour, Command: "touch " + filepath.Join(dir, "late")},
		}, func(k Kill, err error) { failed <- fmt.Sprintf("%v: %v", k.After, err) })
	}()
	failures = append(failures, <-failed)
	if want := "1ms: exit status 3: no such thing"; failures[0] != want {
		t.Errorf("got %q, want %q", failures[0], want)
	}
	first := filepath.Join(dir, "first")
	for deadline := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
		if text, err := os.ReadFile(first); err == nil && string(text) == "done\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first command hasn't run")
		}
	}
	cancel()
	for f := range failed {
		t.Errorf("failed after the end: %s", f)
	}
	if _, err := os.Stat(filepath.Join(dir, "late")); err == nil {
		t.Error("a command has run before its time")
	}
}

// TestKillLeavesWhatItStarts: a command that starts a broker in the background has ended, and the broker lives and can write.
func TestKillLeavesWhatItStarts(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pidFile := filepath.Join(t.TempDir(), "pid")
	port := l.Addr().(*net.TCPAddr).Port
	// In the background: bash opens a connection and waits to be told, then writes to its standard output, and says so.
	script := fmt.Sprintf(`bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; read -r word <&3; echo $word && echo wrote >&3' & echo $! > %s`, port, pidFile)
	if err := (Kill{Command: script}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 16)
	if n, err := conn.Read(buf); string(buf[:n]) != "wrote\n" {
		t.Errorf("it answered %q, %v", buf[:n], err)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
