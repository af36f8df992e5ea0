package child_test

import (
	"os/exec"
	"testing"

	"loopmq/internal/child"
)

func TestKill(t *testing.T) {
	t.Parallel()
	p, err := child.Start(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if p.Cmd.ProcessState.Success() {
		t.Error("it ended by itself")
	}
}

func TestNoSuchProgram(t *testing.T) {
	t.Parallel()
	if _, err := child.Start(exec.Command("no-such-program")); err == nil {
		t.Error("started")
	}
}

func TestFreePort(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 100 {
		port := child.FreePort()
		if seen[port] {
			t.Errorf("port %d was given out twice", port)
		}
		seen[port] = true
	}
}
