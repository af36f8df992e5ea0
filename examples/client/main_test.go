package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/store/memory"
)

// asProgram makes the test binary the program itself.
const asProgram = "LOOPMQ_EXAMPLE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The program gets its own message back from a broker, and says so.
func TestClient(t *testing.T) {
	stdout, stderr, code := program(t, start(t))
	if want := `^connected as \S+\ngreeting/world: hello\n$`; code != 0 || !regexp.MustCompile(want).MatchString(stdout) {
		t.Errorf("exit code %d, output %q, want 0 and %q; stderr %q", code, stdout, want, stderr)
	}
}

// Without a broker it says so and fails.
func TestClientWithoutBroker(t *testing.T) {
	stdout, stderr, code := program(t, "127.0.0.1:1")
	if code != 1 || stdout != "" || !strings.Contains(stderr, "connection refused") {
		t.Errorf("exit code %d, output %q, stderr %q", code, stdout, stderr)
	}
}

// program runs the program to its end and returns what it printed.
func program(t *testing.T, broker string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-broker", broker)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	_ = cmd.Run() // the exit code tells
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// start starts a broker for the test and returns its address.
func start(t *testing.T) string {
	t.Helper()
	store := memory.New(memory.Options{})
	broker, err := loopmq.New(loopmq.Options{Store: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		_ = store.Close()
	})
	addr, err := broker.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return addr.String()
}
