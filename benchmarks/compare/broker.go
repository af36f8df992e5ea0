//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"loopmq/benchmarks/process"
)

const (
	startWait = 10 * time.Second
	stopWait  = 5 * time.Second
)

// mosquittoConf is Debian's defaults but for the two limits, which at 20 in flight and 1,000 queued would refuse or drop messages
// of these scenarios.
const mosquittoConf = `listener {port} 127.0.0.1
allow_anonymous true
max_inflight_messages 0
max_queued_messages 0
`

// A broker is a name and the shell command that runs it in the foreground as one process. {port} stands for the port of
// 127.0.0.1 to listen on, {dir} for an empty directory.
type broker struct {
	name    string
	command string
	conf    string // written to {dir}/conf if not empty
}

// brokerNamed returns one of the built-in brokers.
func brokerNamed(name, loopmq string) (broker, error) {
	switch name {
	case "loopmq":
		path, err := exec.LookPath(loopmq)
		if err != nil {
			return broker{}, fmt.Errorf("loopmq: %w (make build puts it there)", err)
		}
		return broker{name: name, command: quote(path) + " serve --tcp 127.0.0.1:{port} --ws off --http off --coap off --admin off --store pebble:{dir}/data"}, nil
	case "mosquitto":
		path, err := exec.LookPath("mosquitto")
		if err != nil {
			if path, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
				return broker{}, errors.New("mosquitto isn't installed (apt-get install mosquitto)")
			}
		}
		return broker{name: name, command: quote(path) + " -c {dir}/conf", conf: mosquittoConf}, nil
	}
	return broker{}, fmt.Errorf("no broker %q: known are loopmq and mosquitto, others are given as NAME=COMMAND", name)
}

// parseBroker takes a NAME=COMMAND of the command line.
func parseBroker(arg string) (broker, error) {
	name, command, ok := strings.Cut(arg, "=")
	if !ok || name == "" || !strings.Contains(command, "{port}") {
		return broker{}, fmt.Errorf("%q isn't NAME=COMMAND with {port} in the command", arg)
	}
	return broker{name: name, command: command}, nil
}

// shell is the command as sh runs it: a simple one replaces the shell, so that the process measured is the broker.
func (b broker) shell() string {
	if strings.Contains(b.command, "exec ") {
		return b.command
	}
	return "exec " + b.command
}

// A running broker. Stop ends it.
type running struct {
	broker
	process.Process
	port   int
	dir    string
	log    string
	ended  chan struct{} // closed when the process has ended
	result string        // how it ended, after ended
}

// start runs b on a free port and returns when it accepts connections. What it writes goes to a file.
func (b broker) start(ctx context.Context) (_ *running, err error) {
	r := &running{broker: b, ended: make(chan struct{})}
	if r.port, err = freePort(); err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp("", "compare-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(r.dir)
		}
	}()
	fill := strings.NewReplacer("{port}", strconv.Itoa(r.port), "{dir}", r.dir)
	if b.conf != "" {
		if err := os.WriteFile(filepath.Join(r.dir, "conf"), []byte(fill.Replace(b.conf)), 0o644); err != nil {
			return nil, err
		}
		if err := os.Chmod(r.dir, 0o755); err != nil { // mosquitto drops root's rights
			return nil, err
		}
	}
	r.log = filepath.Join(r.dir, "log")
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()

	cmd := exec.Command("/bin/sh", "-c", fill.Replace(b.shell()))
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: a Ctrl-C reaches this process only, which then ends the broker and all that it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", b.name, err)
	}
	r.Process = process.Process(cmd.Process.Pid)
	go func() {
		_ = cmd.Wait()
		r.result = cmd.ProcessState.String()
		close(r.ended)
	}()
	if err := r.awaitListening(ctx); err != nil {
		err = fmt.Errorf("start %s: %w%s", b.name, err, r.tail())
		r.stop()
		return nil, err
	}
	return r, nil
}

// awaitListening returns when the port takes a connection.
func (r *running) awaitListening(ctx context.Context) error {
	deadline := time.NewTimer(startWait)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("tcp", r.address())
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-r.ended:
			return fmt.Errorf("it ended at once: %s", r.result)
		case <-deadline.C:
			return fmt.Errorf("it doesn't listen after %v", startWait)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// address is where it listens.
func (r *running) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// stop ends the broker and all processes of its group, and removes its files.
func (r *running) stop() {
	group := -int(r.Process)
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(stopWait):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-r.ended
	_ = os.RemoveAll(r.dir)
}

// tail returns the end of what the broker wrote, for an error message.
func (r *running) tail() string {
	b, _ := os.ReadFile(r.log)
	if text := strings.TrimSpace(string(b[max(0, len(b)-500):])); text != "" {
		return "\n" + text
	}
	return ""
}

// freePort returns a port of 127.0.0.1 that nothing listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// quote makes s one word of a shell command.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
