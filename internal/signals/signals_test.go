package signals

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestMain is a command that doesn't come to its end where TestContext starts this binary.
func TestMain(m *testing.M) {
	if os.Getenv("SIGNALS_TEST") == "" {
		os.Exit(m.Run())
	}
	ctx := Context(130)
	fmt.Fprintln(os.Stdout, "ready")
	<-ctx.Done()
	fmt.Fprintln(os.Stdout, "asked")
	select {}
}

// TestContext: the first signal asks, the second ends.
func TestContext(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			c := exec.CommandContext(t.Context(), os.Args[0])
			c.Env = append(os.Environ(), "SIGNALS_TEST=1")
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, want := range []string{"ready", "asked"} {
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("got %q (%v), want %q", lines.Text(), lines.Err(), want)
				}
				if err := c.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			var exit *exec.ExitError
			if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
				t.Errorf("got %v, want exit code 130", err)
			}
		})
	}
}
