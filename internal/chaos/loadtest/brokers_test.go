// Package loadtest_test plays scenarios of package loadtest against real brokers, which are killed and started again meanwhile.
package loadtest_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"loopmq/internal/child"
)

// patience bounds each wait.
const patience = time.Minute

// program is cmd/loopmq, built once by TestMain.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "loadtest")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "loopmq")
	if out, err := exec.Command("go", "build", "-o", program, "loopmq/cmd/loopmq").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// A broker is a program on ports of its own, that can be started again.
type broker struct {
	dir     string
	addr    string
	command []string
	process *child.Process
}

// loopmq is one with an embedded store, and HTTP at http. configuration is added to it.
func loopmq(t *testing.T, configuration string) (b *broker, http string) {
	t.Helper()
	b = &broker{dir: t.TempDir(), addr: address()}
	http = address()
	text := fmt.Sprintf("listeners:\n  - {name: tcp, address: %q}\nhttp:\n  address: %q\ncoap:\n  address: \"off\"\nadmin:\n  address: \"off\"\nstore: %q\n%s",
		b.addr, http, "pebble:"+filepath.Join(b.dir, "data"), configuration)
	file := filepath.Join(b.dir, "loopmq.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.command = []string{program, "serve", "--config", file}
	b.begin(t)
	return b, http
}

// mosquitto is that of Debian, without its limits of messages under way and queued.
func mosquitto(t *testing.T) *broker {
	t.Helper()
	b := &broker{dir: t.TempDir(), addr: address()}
	_, port, _ := strings.Cut(b.addr, ":")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\npersistence true\npersistence_location %s/\nuser root\n", port, b.dir)
	file := filepath.Join(b.dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto" // Debian keeps it out of an ordinary user's PATH
	}
	b.command = []string{path, "-c", file}
	b.begin(t)
	return b
}

func address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(child.FreePort())) }

// begin starts the program, and returns when it listens. It ends with the test.
func (b *broker) begin(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(b.command[0], b.command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, log, log
	if b.process, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.process.Kill()
		if text, err := os.ReadFile(filepath.Join(b.dir, "log")); t.Failed() && err == nil {
			t.Logf("log of the broker:\n%s", text)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-b.process.Ended:
			t.Fatalf("%s has ended", b.command[0])
		case <-ctx.Done():
			t.Fatalf("%s doesn't listen: %v", b.command[0], err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
