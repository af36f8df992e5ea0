//go:build unix

package loadtest

import (
	"os/exec"
	"syscall"
)

// ownGroup has an interrupt from the terminal end the load test, and not what the command has started.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
