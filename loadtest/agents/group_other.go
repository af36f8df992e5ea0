//go:build !unix

package agents

import "os/exec"

// ownGroup does nothing: there are no groups of processes.
func ownGroup(*exec.Cmd) {}
