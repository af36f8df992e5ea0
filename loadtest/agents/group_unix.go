//go:build unix

package agents

import (
	"os/exec"
	"syscall"
)

// ownGroup has an interrupt from the terminal end the coordinator alone.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
