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

	"loopmq/internal/opcuatest"
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

// The program prints what changes at a server, which an MQTT client changes too, and ends with exit code 0 on SIGTERM.
func TestOPCUA(t *testing.T) {
	server := opcuatest.Start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-listen", "127.0.0.1:0", "-server", opcuatest.URL(server.Addr()))
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
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
				return rest
			}
		}
		t.Fatalf("no line %q: %v", prefix, lines.Err())
		return ""
	}
	addr := expect("listening on ")
	expect("plant/Boiler_1/Temperature: 20.5")
	server.Do("set", "name", "Temperature", "value", 31.5)
	expect("plant/Boiler_1/Temperature: 31.5")

	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := client.Connect(ctx, &paho.Connect{CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Publish(ctx, &paho.Publish{Topic: "set/Name", QoS: 1, Payload: []byte("two")}); err != nil {
		t.Fatal(err)
	}
	expect("plant/Name: two")
	if got := server.Do("get", "name", "Name"); got != "two" {
		t.Errorf("the server has %v, want two", got)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what was on its way
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v, want exit code 0", err)
	}
}
