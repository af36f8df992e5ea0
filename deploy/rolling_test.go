package deploy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/chaos"
)

// rollingClients is how many clients there are, half of them publishers: 2000, or what ROLLING_CLIENTS says.
func rollingClients(t *testing.T) int {
	text := os.Getenv("ROLLING_CLIENTS")
	if text == "" {
		return 2000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 2 || n > 8000 {
		t.Fatalf("ROLLING_CLIENTS is %q; allowed: 2 to 8000", text)
	}
	return n
}

// Three nodes behind HAProxy are restarted one by one while clients publish and receive. Their clients are sent away at a bounded rate and
// connect elsewhere; no message that was acknowledged is lost.
func TestRollingRestart(t *testing.T) {
	pairs := rollingClients(t) / 2
	const perSecond, drainRate = 200, 500 // messages of all publishers together; clients
	c := mustUp(t, "--", "--drain-wait", "2s", "--drain-rate", fmt.Sprint(drainRate))
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	receiving, stopReceiving := context.WithCancel(ctx)
	defer stopReceiving()
	quiet := make(chan struct{})
	ledgers := make([]chaos.Ledger, pairs) // one each, since each subscriber gets what one publisher sends
	var publishers, subscribers, subscribed sync.WaitGroup
	client := func(name string, i int) chaos.Client {
		return chaos.Client{
			ClientID: fmt.Sprint(name, i), Addr: func() string { return c.env["MQTT"] }, Ledger: &ledgers[i],
			Version: [...]codec.Version{codec.V311, codec.V5}[i%2], SessionExpiryInterval: chaos.Never,
		}
	}
	subscribed.Add(pairs)
	for i := range pairs {
		s := &chaos.Subscriber{
			Client: client("subscriber", i), TopicFilter: fmt.Sprint("rolling/", i), QoS: 1, Kind: chaos.Durable, OnSubscribed: subscribed.Done,
		}
		subscribers.Go(func() {
			if err := s.Run(receiving); err != nil {
				t.Error(err)
			}
		})
	}
	subscribed.Wait()
	for i := range pairs {
		p := &chaos.Publisher{
			Client: client("publisher", i), TopicName: fmt.Sprint("rolling/", i), QoS: 1, Window: 4,
			Interval: time.Duration(pairs) * time.Second / perSecond,
		}
		publishers.Go(func() {
			if err := p.Run(ctx, quiet); err != nil {
				t.Error(err)
			}
		})
	}
	c.awaitClients(t, 2*pairs)
	for node := 1; node <= 3; node++ {
		c.restart(t, node)
		c.awaitClients(t, 2*pairs)
	}
	close(quiet)
	publishers.Wait()
	deadline := time.Now().Add(patience)
	acked, again := 0, 0
	for i := range ledgers {
		report := ledgers[i].Check()
		for ; len(report.Lost) > 0 && time.Now().Before(deadline); report = ledgers[i].Check() {
			<-time.After(10 * time.Millisecond)
		}
		if err := report.Err(); err != nil {
			t.Error(err)
		}
		if report.Acked[1] == 0 {
			t.Errorf("publisher%d has had nothing acknowledged", i)
		}
		acked, again = acked+report.Acked[1], again+report.Again[1]+report.Doubled[chaos.Durable]
	}
	stopReceiving()
	subscribers.Wait()
	t.Logf("%d clients, %d messages acknowledged, %d of them sent or received again", 2*pairs, acked, again)
}

// awaitClients waits until so many clients are connected, at all nodes.
func (c *cluster) awaitClients(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); ; <-time.After(100 * time.Millisecond) {
		n := 0
		for node := 1; node <= 3; node++ {
			n += c.metric(t, node, "loopmq_clients_connected")
		}
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d clients are connected, want %d", n, want)
		}
	}
}

// restart ends a node as systemd or Kubernetes do, starts it again, and returns when HAProxy sends it clients.
func (c *cluster) restart(t *testing.T, node int) {
	t.Helper()
	name := fmt.Sprint("node", node)
	clients := c.metric(t, node, "loopmq_clients_connected")
	if err := syscall.Kill(c.pids[name], syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for alive(c.pids[name]) {
		if time.Since(begin) > patience {
			t.Fatalf("%s doesn't end", name)
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Logf("%s, with %d clients, took %v to end", name, clients, time.Since(begin).Round(time.Millisecond))
	log, err := os.ReadFile(filepath.Join(c.env["DIR"], name, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "server is shutting down"); n < clients {
		t.Errorf("%s sent %d clients away, and had %d", name, n, clients)
	}
	for _, wrong := range []string{`"level":"ERROR"`, "within --grace"} {
		if strings.Contains(string(log), wrong) {
			t.Errorf("the log of %s has %s", name, wrong)
		}
	}
	if code, out := local(t, "start", "--dir", c.env["DIR"], name); code != 0 {
		t.Fatalf("start %s: exit %d, %s", name, code, out)
	}
	c.readPids(t)
	for deadline := time.Now().Add(patience); !c.isUp(t, name); <-time.After(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("HAProxy doesn't see that %s is up", name)
		}
	}
}

// isUp reports whether HAProxy sends clients to a node.
func (c *cluster) isUp(t *testing.T, name string) bool {
	t.Helper()
	resp, err := http.Get("http://" + c.env["STATS"] + "/;csv")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Split(line, ","); len(fields) > 17 && fields[0] == "nodes" && fields[1] == name {
			return fields[17] == "UP"
		}
	}
	t.Fatalf("HAProxy's list has no %s", name)
	return false
}
