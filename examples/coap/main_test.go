package main

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"loopmq"
	coapbridge "loopmq/bridges/coap"
	"loopmq/store/memory"
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

// patience is how long anything may take.
const patience = 30 * time.Second

// The heater does what it is told, says so, and gets what came while it was away.
func TestHeater(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	broker, addr := start(t)
	states := make(chan string, 10)
	stop, err := broker.Subscribe("heaters/hall/state", func(m *loopmq.MessageView) { states <- string(m.Payload) })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	set := func(value string) {
		t.Helper()
		if _, err := broker.Publish(ctx, loopmq.Message{TopicName: "heaters/hall/set", Payload: []byte(value), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(lines *bufio.Scanner, want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, %v, want %q", lines.Text(), lines.Err(), want)
		}
	}
	state := func(want string) {
		t.Helper()
		select {
		case got := <-states:
			if got != want {
				t.Errorf("the state is %s, want %s", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("the state isn't %s", want)
		}
	}
	cmd, lines := program(ctx, t, addr)
	expect(lines, "heater of the hall")
	for _, value := range []string{"21.5", "18"} {
		set(value)
		expect(lines, "set to "+value)
		state(value)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	set("20")
	_, lines = program(ctx, t, addr)
	expect(lines, "heater of the hall")
	for lines.Scan() && lines.Text() == "set to 18" { // it may not have acknowledged that
		state("18")
	}
	if lines.Text() != "set to 20" {
		t.Errorf("got %q, %v", lines.Text(), lines.Err())
	}
	state("20")
}

// Without a broker it says so and fails.
func TestHeaterWithoutBroker(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-broker", "127.0.0.1:1")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	_ = cmd.Run() // the exit code tells
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "coap: connect: ") {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}

// program starts the program, and returns what it prints.
func program(ctx context.Context, t *testing.T, broker string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0], "-broker", broker)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(stdout)
}

// start starts a broker for the test and returns its address for CoAP.
func start(t *testing.T) (*loopmq.Broker, string) {
	t.Helper()
	store, log := memory.New(memory.Options{}), slog.New(slog.DiscardHandler)
	broker, err := loopmq.New(loopmq.Options{Store: store, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	bridge := coapbridge.New(coapbridge.Options{Broker: broker, Logger: log})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := bridge.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := broker.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		_ = store.Close()
	})
	addr, err := bridge.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return broker, addr.String()
}
