//go:build !linux

package child

import "os/exec"

// reserve leaves it to chance that another process takes the same port.
func reserve(int) bool { return true }

// dieWithParent does nothing: only Linux can kill a child with its parent.
func dieWithParent(*exec.Cmd) {}
