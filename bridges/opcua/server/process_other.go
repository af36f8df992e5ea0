//go:build !linux

package opcuaserver

import (
	"errors"
	"os"
	"os/exec"
)

// limitMemory does nothing here: the memory limit of the runtime is all there is.
func limitMemory(int64) error { return nil }

func socketPair() (a, b *os.File, err error) {
	return nil, nil, errors.New("opcuaserver: the OPC UA server needs Linux")
}

// bind does nothing here: the child ends when the link does.
func bind(*exec.Cmd) {}
