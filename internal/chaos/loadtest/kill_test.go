package loadtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"loopmq/loadtest"
)

// TestRestart: a broker is killed and started again by commands of the scenario, and the audit goes on: clients connect again, publishers
// send again what wasn't acknowledged, and no promise is broken.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, version := range []byte{4, 5} {
		for name, test := range map[string]struct {
			signal string
			qos    []byte
			start  func(*testing.T) *broker
		}{
			"loopmq": {"KILL", []byte{1, 2}, func(t *testing.T) *broker { b, _ := loopmq(t, ""); return b }},
			// It writes its database when it ends. Of a handshake of QoS 2 that this interrupts it makes duplicates now and then.
			"mosquitto": {"TERM", []byte{1}, mosquitto},
		} {
			t.Run(fmt.Sprintf("%s/%d", name, version), func(t *testing.T) {
				t.Parallel()
				b := test.start(t)
				s := &loadtest.Scenario{
					Shape: loadtest.Mixed, Targets: []string{"tcp://" + b.addr}, Duration: 3 * time.Second, Drain: 20 * time.Second,
					Reconnect: true, ReconnectJitter: 100 * time.Millisecond,
					Kill: []loadtest.Kill{{After: time.Second, Command: restart(t, b, test.signal)}},
				}
				for _, qos := range test.qos {
					s.Parts = append(s.Parts, &loadtest.Scenario{
						Shape: loadtest.P2P, Pairs: 10, QoS: qos, Rate: 500, Durable: true, DurablePublishers: true, Version: version,
					})
				}
				r := run(t, s)
				if r.Broken() {
					t.Errorf("promises are broken: %+v", r.Audit)
				}
				if r.Totals.Reconnects == 0 {
					t.Error("nobody has connected again")
				}
				for _, qos := range test.qos {
					if r.Audit.QoS[qos].Promised.Expected < 100 {
						t.Errorf("QoS %d: %+v", qos, r.Audit.QoS[qos])
					}
				}
			})
		}
	}
}

// restart is a command that ends the broker and starts it again.
func restart(t *testing.T, b *broker, signal string) string {
	t.Helper()
	pidFile := filepath.Join(b.dir, "pid")
	t.Cleanup(func() {
		text, err := os.ReadFile(pidFile)
		if err != nil {
			t.Errorf("the command hasn't run: %v", err)
			return
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	pid := b.process.Cmd.Process.Pid
	return fmt.Sprintf("kill -%s %d; while kill -0 %d 2>/dev/null; do sleep 0.1; done; cd %s; %s >>log 2>&1 & echo $! >pid",
		signal, pid, pid, b.dir, strings.Join(b.command, " "))
}

// run plays a scenario, and reports the errors of its result if the test fails.
func run(t *testing.T, s *loadtest.Scenario) *loadtest.Result {
	t.Helper()
	r, err := loadtest.Run(t.Context(), s, loadtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("totals %+v, errors %+v", r.Totals, r.Errors)
		}
	})
	return r
}
