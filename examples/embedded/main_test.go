package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// asProgram makes the test binary the program itself.
const asProgram = "LOOPMQ_EXAMPLE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The program prints what clients publish, answers a heat with a retained alarm, and ends with exit code 0 on SIGTERM.
func TestEmbedded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	expect := func(prefix string) (rest string) {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), prefix) {
			t.Fatalf("got line %q (%v), want %q", lines.Text(), lines.Err(), prefix)
		}
		return strings.TrimPrefix(lines.Text(), prefix)
	}
	addr := expect("listening on ")

	publisher, _ := connect(ctx, t, addr)
	publish(ctx, t, publisher, "sensors/hall/temperature", "18.5")
	expect("hall: 18.5 degrees")
	publish(ctx, t, publisher, "sensors/attic/temperature", "warm")
	expect("attic: warm degrees")
	publish(ctx, t, publisher, "sensors/kitchen/temperature", "31.5")
	expect("kitchen: 31.5 degrees")

	subscriber, alarms := connect(ctx, t, addr)
	if _, err := subscriber.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "alarms/#", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-alarms:
		if m.Topic != "alarms/kitchen" || string(m.Payload) != "31.5" {
			t.Errorf("got %s: %s, want the alarm of the kitchen", m.Topic, m.Payload)
		}
	case <-ctx.Done():
		t.Fatal("no alarm")
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if lines.Scan() {
		t.Errorf("unexpected line %q", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v, want exit code 0", err)
	}
}

// A port that is taken ends the program with exit code 1.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-listen", l.Addr().String())
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "address already in use") {
		t.Errorf("exit code %d, output %q", cmd.ProcessState.ExitCode(), out)
	}
}

// connect returns a client and what it gets.
func connect(ctx context.Context, t *testing.T, addr string) (*paho.Client, <-chan *paho.Publish) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	received := make(chan *paho.Publish, 10)
	client := paho.NewClient(paho.ClientConfig{
		Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			received <- p.Packet
			return true, nil
		}},
	})
	if _, err := client.Connect(ctx, &paho.Connect{CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatal(err)
	}
	return client, received
}

func publish(ctx context.Context, t *testing.T, c *paho.Client, topic, payload string) {
	t.Helper()
	if _, err := c.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: []byte(payload)}); err != nil {
		t.Fatal(err)
	}
}
