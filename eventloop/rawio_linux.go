package eventloop

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawMax is the largest read or write that bypasses the scheduler.
const rawMax = 128 << 10

// read and write are the system calls on a socket that never blocks. Go's own wrappers tell the scheduler before and
// after, since a call might block; that costs as much as a small message's way through a loop, and keeps the runtime's
// monitor awake that looks for calls which do. Large copies take long enough to be worth telling.
func read(fd int, p []byte) (int, error) {
	if len(p) > rawMax || len(p) == 0 {
		return unix.Read(fd, p)
	}
	return raw(unix.SYS_READ, fd, p)
}

func write(fd int, p []byte) (int, error) {
	if len(p) > rawMax || len(p) == 0 {
		return unix.Write(fd, p)
	}
	return raw(unix.SYS_WRITE, fd, p)
}

func raw(call uintptr, fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
