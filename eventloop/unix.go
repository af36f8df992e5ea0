package eventloop

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeTimeout is how long a look may take if someone listens on a unix socket.
const probeTimeout = time.Second

// abstract reports whether a unix socket's name is in Linux's own name space and not in the file system.
func abstract(path string) bool { return len(path) > 0 && path[0] == '@' }

// clearSocket removes what a process left at path that didn't close its socket. Nothing else is removed: not a file of
// another kind, and not a socket that someone listens on.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case abstract(path), errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("there is a file that is not a socket: %w", syscall.EADDRINUSE)
	}
	c, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return syscall.EADDRINUSE
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// restrictSocket has bind make the file of a unix socket with no more rights than mode; Linux heeds it, and elsewhere
// openSocket follows.
func restrictSocket(fd int, mode fs.FileMode) {
	if mode != 0 {
		_ = unix.Fchmod(fd, uint32(mode.Perm()))
	}
}

// openSocket sets the rights of the file of a unix socket, and returns what removes it, if it is still the same one.
func openSocket(path string, mode fs.FileMode) (remove func(), err error) {
	if abstract(path) {
		return func() {}, nil
	}
	if mode != 0 {
		if err := os.Chmod(path, mode.Perm()); err != nil {
			return nil, err
		}
	}
	ours, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	return func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(ours, now) {
			_ = os.Remove(path)
		}
	}, nil
}
