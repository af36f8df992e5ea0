//go:build !gnetpoller

package eventloop

import (
	"encoding/binary"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxEvents is how many events one look at the poller may yield, and so how many there are between two turns.
const maxEvents = 128

var one = binary.NativeEndian.AppendUint64(nil, 1) // what an eventfd takes

// poller is epoll, and an eventfd to wake the loop that waits. Unlike gnet's it knows the end of a batch, which is where a
// turn belongs, so that a loop never has to wake itself.
type poller struct {
	epoll  int
	wakeup int
	events [maxEvents]unix.EpollEvent // owned by the loop
}

func openPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p := &poller{epoll: epoll}
	if p.wakeup, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		_ = unix.Close(epoll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	// Edge-triggered: each wake makes one event, and nobody has to read the count, which takes centuries to overflow.
	if err := p.control(unix.EPOLL_CTL_ADD, p.wakeup, unix.EPOLLIN|unix.EPOLLET); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() {
	_ = unix.Close(p.wakeup)
	_ = unix.Close(p.epoll)
}

// wake ends the loop's wait, or its next one. It is safe for any goroutine.
func (p *poller) wake() error {
	_, err := write(p.wakeup, one)
	return err
}

// watchAccepts registers a listening socket, edge-triggered: while accepting is paused, waiting connections make no
// events.
func (p *poller) watchAccepts(fd int) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLET)
}

// watch changes what is reported of a socket from have to want, of watchesRead and watchesWrite. A socket without
// either is taken out, since epoll would go on to report that its peer has gone.
func (p *poller) watch(fd int, have, want uint16) error {
	var events uint32
	if want&watchesRead != 0 {
		events |= unix.EPOLLIN | unix.EPOLLPRI
	}
	if want&watchesWrite != 0 {
		events |= unix.EPOLLOUT
	}
	switch {
	case want == 0:
		return p.control(unix.EPOLL_CTL_DEL, fd, 0)
	case have == 0:
		return p.control(unix.EPOLL_CTL_ADD, fd, events)
	}
	return p.control(unix.EPOLL_CTL_MOD, fd, events)
}

func (p *poller) control(op, fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, op, fd, &unix.EpollEvent{Fd: int32(fd), Events: events}))
}

// run hands the loop its events and its turns, until a turn says that it was the last. Between two turns it looks for
// events once, so that a loop that always finds work still reads, and one that always reads has turns. To look again
// before the turn, for a larger batch, was tried and cost more than it saved.
func (p *poller) run(l *Loop) error {
	for {
		n, err := p.poll()
		if n == 0 && l.fallAsleep() {
			runtime.Gosched() // else a goroutine that waits for this processor may wait as long as the loop does
			n, err = p.wait()
			l.scheduled.Store(true) // before the turn takes the queues, see wake
		}
		if err != nil {
			return err
		}
		p.handle(l, n)
		if !l.turn() {
			return nil
		}
	}
}

func (p *poller) handle(l *Loop, n int) {
	for i := range n {
		if e := &p.events[i]; int(e.Fd) != p.wakeup {
			const read, write = unix.EPOLLIN | unix.EPOLLPRI, unix.EPOLLOUT
			l.onEvent(int(e.Fd), e.Events&^write != 0, e.Events&^read != 0)
		}
	}
}

// poll looks for events without waiting. As it never blocks, Go's scheduler needn't hear of it.
func (p *poller) poll() (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll),
		uintptr(unsafe.Pointer(&p.events)), maxEvents, 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return 0, os.NewSyscallError("epoll_pwait", errno)
	}
	if errno != 0 {
		return 0, nil
	}
	return int(n), nil
}

// wait waits for an event.
func (p *poller) wait() (int, error) {
	n, err := unix.EpollWait(p.epoll, p.events[:], -1)
	if err == unix.EINTR {
		return 0, nil
	}
	return n, os.NewSyscallError("epoll_wait", err)
}
