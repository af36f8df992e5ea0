// Package child runs other programs for tests: they die with the test, and their
// ports stay theirs while they are down.
package child

import (
	"math/rand/v2"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
)

// Process is a program that was started. Signals go to Cmd.Process.
type Process struct {
	// Cmd is the program; its Wait is called already.
	Cmd *exec.Cmd
	// Ended is closed when the process has ended. Cmd.ProcessState is set then.
	Ended chan struct{}
}

// Start starts cmd so that it is killed when this process dies, where the system can
// do that (Linux).
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{Cmd: cmd, Ended: make(chan struct{})}
	started := make(chan error)
	dieWithParent(cmd)
	go func() {
		// The kernel takes the end of the thread that started a child for the end of
		// its parent: this goroutine keeps that thread until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(p.Ended)
		}
	}()
	return p, <-started
}

// Kill ends the process as kill -9 does, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill()
	<-p.Ended
}

// taken holds the ports that were given out: two programs that start at the same
// time must not get the same one.
var taken struct {
	sync.Mutex
	ports map[int]bool
}

// FreePort returns a port of 127.0.0.1 that is free, and that no other call returns,
// nor one in another process of tests while this one lives (Linux). It is below those
// that systems give to outgoing connections: one of these could take it while a program
// is down. So is the port 10000 above it, the bus of a Redis Cluster.
func FreePort() int {
	taken.Lock()
	defer taken.Unlock()
	if taken.ports == nil {
		taken.ports = map[int]bool{}
	}
	for {
		port := 12000 + rand.IntN(10000)
		if taken.ports[port] || !reserve(port) {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		_ = l.Close()
		taken.ports[port] = true
		return port
	}
}
