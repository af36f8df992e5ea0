package agents

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

// leaveMax is how long a process may take to end when its link is closed.
const leaveMax = 5 * time.Second

// startProcess starts a child process that calls ServePipe. Closing its link ends it, since it sees the end of its input; ended is closed
// when it has.
func startProcess(command []string) (l *link, ended <-chan struct{}, err error) {
	if len(command) == 0 {
		return nil, nil, errors.New("no command for processes")
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	// An interrupt from the terminal is for the coordinator, which tells its processes.
	ownGroup(cmd)
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		_, _ = theirIn.Close(), in.Close()
		return nil, nil, err
	}
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	err = cmd.Start()
	_, _ = theirIn.Close(), theirOut.Close()
	if err != nil {
		_, _ = in.Close(), out.Close()
		return nil, nil, fmt.Errorf("start a process: %w", err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait() // what it has to say has come by its link
		close(gone)
	}()
	return newLink(out, in, sync.OnceValue(func() error {
		time.AfterFunc(leaveMax, func() { _ = cmd.Process.Kill() })
		return errors.Join(in.Close(), out.Close())
	})), gone, nil
}
