package child

import (
	"fmt"
	"net"
	"os/exec"
	"syscall"
)

// reservations are kept open until the process ends. REQUIRES: taken
var reservations []net.Listener

// reserve takes a port from other processes that ask for one: by a name that only one
// of them can have, and that goes with it. REQUIRES: taken
func reserve(port int) bool {
	l, err := net.Listen("unix", fmt.Sprint("@loopmq-test-port-", port))
	if err != nil {
		return false
	}
	reservations = append(reservations, l)
	return true
}

// dieWithParent has the kernel kill cmd when the thread that starts it ends.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
