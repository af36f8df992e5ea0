package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"loopmq/internal/brokertest"
	"loopmq/internal/child"
	"loopmq/loadtest"
)

// TestMain is the program itself where a test starts this binary as a process of --processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		main()
	}
	os.Exit(m.Run())
}

// resultOf reads what --json has written.
func resultOf(t *testing.T, path string) *loadtest.Result {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := loadtest.ReadResult(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTogether: an agent and two processes run scenarios together in which publishers of one have subscribers at another.
func TestTogether(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(child.FreePort()))
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"agent", "--listen", address, "--token-file", tokenFile}, os.Stdout, testWriter{t})
	}()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for _, scenario := range [][]string{
		{"p2p", "--pairs", "9"},
		{"fan-in", "--publishers", "9", "--subscribers", "2", "--rate", "900"},
	} {
		path := filepath.Join(t.TempDir(), "result.json")
		args := append([]string{"run"}, scenario...)
		args = append(args, "--agents", address, "--token-file", tokenFile, "--processes", "2", "--target", "tcp://"+server.Addr,
			"--duration", "300ms", "--drain", "20s", "--json", path)
		loadtestCommand(t, exitOK, args...)
		r := resultOf(t, path)
		promised := r.Audit.Promised()
		if r.Processes != 3 || len(r.Errors) > 0 || promised.Expected == 0 || !promised.Clean() {
			t.Errorf("%s: %d processes, audit %+v, errors %+v", scenario[0], r.Processes, r.Audit, r.Errors)
		}
		// Each message reached all that it should have: the audit of messages between processes counts them.
		if sent := r.Totals.Sent; scenario[0] == "fan-in" && promised.Expected < 2*sent {
			t.Errorf("%d sent, %d promised", sent, promised.Expected)
		}
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("the agent ended with %d", code)
	}
}

// testWriter is the log of a test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func TestAgentUsage(t *testing.T) {
	for _, test := range []struct {
		args []string
		exit int
		want string
	}{
		{[]string{"agent", "here"}, exitUsage, `argument "here"`},
		{[]string{"agent", "--listen", "nowhere"}, exitFailed, "nowhere"},
		{[]string{"agent", "--token-file", "/no/such/file"}, exitFailed, "/no/such/file"},
		{[]string{"run", "p2p", "--agents", "127.0.0.1:1"}, exitUsage, "agents need a token"},
		{[]string{"run", "p2p", "--processes", "-1"}, exitUsage, "processes is -1: allowed: 0 to"},
		{[]string{"run", "p2p", "--processes", "1000"}, exitUsage, "processes is 1000: allowed: 0 to"},
		{[]string{"run", "p2p", "--kill", "soon: x"}, exitUsage, "a time and a command"},
		{[]string{"run", "p2p", "--kill", "5s"}, exitUsage, "a time and a command"},
	} {
		_, stderr := loadtestCommand(t, test.exit, test.args...)
		contains(t, stderr, test.want)
	}
}

func TestParseKill(t *testing.T) {
	k, err := parseKill("1m30s: kill -9 $(pidof loopmq): now")
	if want := (loadtest.Kill{After: 90 * time.Second, Command: "kill -9 $(pidof loopmq): now"}); err != nil || k != want {
		t.Errorf("got %+v, %v, want %+v", k, err, want)
	}
}
