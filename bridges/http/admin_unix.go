package httpbridge

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// StartUnix listens on a unix socket at a path, too, and serves it until Shutdown, which
// removes it. What is left of a socket there that nobody listens on any more is
// replaced. Whoever may open the socket, which mode says, may do everything. Call it
// once.
func (a *Admin) StartUnix(path string, mode fs.FileMode) error {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path) // If that fails, so does what follows.
		}
	}
	// Linux makes the file with no more rights than the socket has, so that there is no
	// moment when others can open it. Elsewhere Chmod follows.
	restricted := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), uint32(mode.Perm())) })
	}}
	listener, err := restricted.Listen(context.Background(), "unix", path)
	if err != nil {
		return cannotListen(path, err)
	}
	if err := os.Chmod(path, mode.Perm()); err != nil {
		_ = listener.Close()
		return cannotListen(path, err)
	}
	a.serve(listener, false)
	return nil
}
