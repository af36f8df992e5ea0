package opcuaserver_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/gopcua/opcua"

	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// turningArgument has the test binary be a server's process that is stuck in a FindServersRequest.
const turningArgument = "turn-round-and-round"

// hungryArgument has the test binary take more memory than it may.
const hungryArgument = "take-too-much-memory"

func hungry() {
	const limit = 64 << 20
	if err := opcuaserver.LimitMemory(limit); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var all [][]byte
	for i := range 16 {
		all = append(all, make([]byte, limit/2))
		for j := range all[i] {
			all[i][j] = 1
		}
	}
	fmt.Fprintln(os.Stderr, "there is no limit:", len(all))
	os.Exit(0)
}

func TestAProcessThatTakesTooMuchMemoryEnds(t *testing.T) {
	t.Parallel()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(own, hungryArgument).CombinedOutput(); err == nil {
		t.Errorf("it lived: %s", out)
	}
}

// The process is killed: MQTT clients notice nothing, and another process has the listener, without a connection refused.
func TestAKilledProcessIsStartedAgain(t *testing.T) {
	t.Parallel()
	f := mustStart(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	for round := range int64(2) {
		c := f.mustDial()
		f.await(c, topic("plant/a"), round+1)
		pid := f.server.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.Publish("plant/a", fmt.Sprint(round+2), 1, brokertest.Retained) // it is acknowledged
		c = f.mustDial()                                                  // it waits, and isn't refused
		f.await(c, topic("plant/a"), round+2)
		if now := f.server.PID(); now == pid || now == 0 {
			t.Errorf("the process is %d after %d", now, pid)
		}
	}
	if n := f.set.OPCUAServer.Ended[metrics.OPCUAServerExited].Get(); n != 2 {
		t.Errorf("%d ends were counted, want 2", n)
	}
}

// A process that says nothing is ended, and another one started.
func TestASilentProcessIsStartedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, open("plant/#"))
	f.server.EndSilent(5*time.Second, time.Hour)
	f.start()
	f.awaitServed()
	pid := f.server.PID()
	if pid == 0 {
		t.Fatal("there is no process")
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	silent := f.set.OPCUAServer.Ended[metrics.OPCUAServerSilent]
	f.eventually(func() bool { return silent.Get() > 0 }, func() string { return "it wasn't ended" })
	f.awaitServed()
}

// awaitServed connects until a process serves the connection.
func (f *fixture) awaitServed() {
	f.t.Helper()
	var err error
	f.eventually(func() bool {
		_, err = f.dial()
		return err == nil
	}, func() string { return fmt.Sprint("nobody is served: ", err) })
}

// A process that turns round and round in a request is ended, and another one started.
func TestAStuckProcessIsStartedAgain(t *testing.T) {
	t.Parallel()
	o := open("plant/#")
	o.Command = []string{turningArgument}
	f := newFixture(t, o)
	f.server.EndSilent(time.Hour, 5*time.Second)
	f.start()
	f.awaitServed()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := opcua.FindServers(ctx, f.url); err == nil {
		t.Error("the request was answered")
	}
	stuck := f.set.OPCUAServer.Ended[metrics.OPCUAServerStuck]
	f.eventually(func() bool { return stuck.Get() > 0 }, func() string { return "it wasn't ended" })
	f.awaitServed()
}

// The process has a limit of its memory.
func TestTheProcessHasALimit(t *testing.T) {
	t.Parallel()
	f := mustStart(t, open("plant/#"))
	f.mustDial()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", f.server.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if want := regexp.MustCompile(`Max data size\s+469762048\s+469762048`); !want.Match(limits) { // 256 MiB and 192 MiB
		t.Errorf("the limits are\n%s", limits)
	}
}
