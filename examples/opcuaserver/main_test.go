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
	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/monitor"
	"github.com/gopcua/opcua/ua"

	opcuaserver "loopmq/bridges/opcua/server"
)

// asProgram makes the test binary the program itself.
const asProgram = "LOOPMQ_EXAMPLE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" || len(os.Args) == 2 && os.Args[1] == opcuaserver.Command {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// An OPC UA client reads and watches what an MQTT client publishes, and what it writes is published. The program ends with
// exit code 0 on SIGTERM.
func TestOPCUAServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-listen", "127.0.0.1:0", "-serve", "127.0.0.1:0")
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
	addr, url := expect("listening on "), expect("serving ")

	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	publisher := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := publisher.Connect(ctx, &paho.Connect{CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatal(err)
	}
	publish := func(payload string) {
		t.Helper()
		if _, err := publisher.Publish(ctx, &paho.Publish{Topic: "plant/press/temperature", QoS: 1, Retain: true, Payload: []byte(payload)}); err != nil {
			t.Fatal(err)
		}
	}
	publish("21.5")

	// It doesn't connect again: the library races with itself if it is closed meanwhile.
	client, err := opcua.NewClient(url, opcua.SecurityMode(ua.MessageSecurityModeNone), opcua.AutoReconnect(false))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	// The variable is there as soon as the message has come to the process that serves clients.
	node := client.Node(ua.NewStringNodeID(2, "plant/press/temperature"))
	for {
		v, err := node.Value(ctx)
		if err == nil && v.Value() == 21.5 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the value is %v (%v)", v, err)
		}
		<-time.After(10 * time.Millisecond)
	}

	nodes, err := monitor.NewNodeMonitor(client)
	if err != nil {
		t.Fatal(err)
	}
	changes := make(chan *monitor.DataChangeMessage, 16)
	watch, err := nodes.ChanSubscribe(ctx, &opcua.SubscriptionParameters{Interval: 100 * time.Millisecond}, changes, node.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	expectChange := func(want any) {
		t.Helper()
		select {
		case m := <-changes:
			if m.Error != nil || m.Value.Value() != want {
				t.Fatalf("got %+v, want %v", m, want)
			}
		case <-ctx.Done():
			t.Fatalf("no change to %v", want)
		}
	}
	expectChange(21.5)
	publish("30")
	expectChange(int64(30))

	written, err := client.Write(ctx, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{
		NodeID: node.ID, AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(42.5)},
	}}})
	if err != nil || written.Results[0] != ua.StatusOK {
		t.Fatalf("write: %v, %v", written, err)
	}
	expect("plant/press/temperature: 42.5")
	expectChange(42.5)

	if err := watch.Unsubscribe(ctx); err != nil {
		t.Error(err)
	}
	if err := client.Close(ctx); err != nil {
		t.Error(err)
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
