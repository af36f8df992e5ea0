package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"loopmq/internal/chaos"
	"loopmq/internal/child"
	"loopmq/internal/redistest"
)

// await returns when cond holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for late := time.After(patience); !cond(); {
		select {
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitLine reads the log up to a line with a part.
func (p *process) awaitLine(t *testing.T, part string) string {
	t.Helper()
	for late := time.After(patience); ; {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("the log ended before %s", part)
			}
			if strings.Contains(line, part) {
				return line
			}
		case <-late:
			t.Fatalf("waited in vain for a line with %s", part)
		}
	}
}

// mustServeOn starts the program with a Redis that is there, and waits until it listens.
func mustServeOn(t *testing.T, url string) *process {
	t.Helper()
	p := mustServe(t, "--store", url)
	if p.first["msg"] != "listening" { // there was something to warn of, or who has joined
		if err := json.Unmarshal([]byte(p.awaitLine(t, `"msg":"listening"`)), &p.first); err != nil {
			t.Fatal(err)
		}
	}
	p.tcp, p.admin = p.first["tcp"].(string), p.first["admin"].(string)
	return p
}

// A node that is started before its Redis says so, and serves once Redis is there.
func TestServeWaitsForRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	r.Kill()
	admin := fmt.Sprintf("127.0.0.1:%d", child.FreePort())
	p := mustServe(t, "--store", r.URL(), "--admin", admin)
	p.admin = admin
	if line := fmt.Sprint(p.first); p.first["msg"] != "waiting_for_redis" || !strings.Contains(line, "look whether Redis runs") {
		t.Errorf("first line: %s", line)
	}
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/readyz":         {503, "waiting for Redis: "},
		"/health":         {503, `"status":"stopped","reason":"waiting for Redis: `},
		"/livez":          {200, "ok"},
		"/api/v1/clients": {503, "waiting for Redis: "},
		"/metrics":        {200, "loopmq_"},
	} {
		if status, body := p.get(t, path); status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s, want %d and %s", path, status, body, want.status, want.body)
		}
	}
	if err := p.Process.Signal(syscall.SIGHUP); err != nil { // reads the configuration again, later
		t.Fatal(err)
	}
	r.Restart()
	if line := p.awaitLine(t, `"msg":"listening"`); !strings.Contains(line, admin) {
		t.Errorf("got %s, want the address of the admin listener in it", line)
	}
	await(t, "the node to be ready", func() bool { status, _ := p.get(t, "/readyz"); return status == 200 })
	p.awaitLine(t, `"msg":"reload"`)
}

func TestServeIsStoppedWhileItWaits(t *testing.T) {
	p := mustServe(t, "--store", fmt.Sprintf("redis://127.0.0.1:%d", child.FreePort()))
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.awaitLine(t, `"msg":"shutdown"`)
	if err := p.Wait(); err != nil {
		t.Errorf("%v, want exit code 0", err)
	}
}

// What waiting doesn't cure ends the command at once.
func TestServeGivesUpOnRedis(t *testing.T) {
	closed, node := redistest.Start(t), redistest.Start(t, "cluster-enabled yes")
	if err := closed.Client().ConfigSet(t.Context(), "requirepass", "secret").Err(); err != nil {
		t.Fatal(err)
	}
	if err := node.Client().ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "a Redis Cluster of one", func() bool { return node.Client().Exists(t.Context(), "k").Err() == nil })
	for _, tt := range []struct{ url, want string }{
		{strings.Replace(closed.URL(), "://", "://:wrong@", 1), "look at user and password in the URL"},
		{closed.URL(), "put user and password into the URL"},
		{strings.Replace(closed.URL(), "://", "://:secret@", 1) + "999", "fewer databases"},
		{strings.Replace(closed.URL(), "redis://", "redis+cluster://:secret@", 1), "no node of a Redis Cluster"},
		{node.URL(), "redis+cluster"},
	} {
		code, _, stderr := call(t, "serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "127.0.0.1:0", "--coap", "off", "--admin", "127.0.0.1:0", "--store", tt.url)
		if code != exitFailed || !strings.HasPrefix(stderr, "loopmq: --store: ") || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, want 1 and %q", tt.url, code, stderr, tt.want)
		}
	}
}

// A node that is cut off from Redis is taken out of the load balancer once its lease
// has lapsed, and comes back.
func TestReadyFollowsTheLease(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	link, err := chaos.NewLink(r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	p := mustServeOn(t, "redis://"+link.Addr()+"/0?lease=1s&timeout=500ms")
	ready := func(want int, part string) func() bool {
		return func() bool {
			status, body := p.get(t, "/readyz")
			return status == want && strings.Contains(body, part)
		}
	}
	await(t, "the node to be ready", ready(200, "ok"))
	for range 2 {
		link.Cut()
		await(t, "the node not to be ready", ready(503, "out of touch"))
		if status, body := p.get(t, "/health"); status != 503 || !strings.Contains(body, `"status":"degraded"`) {
			t.Errorf("/health: %d %s", status, body)
		}
		if status, body := p.get(t, "/livez"); status != 200 {
			t.Errorf("/livez: %d %s; a restart wouldn't help", status, body)
		}
		link.Heal()
		await(t, "the node to be ready again", ready(200, "ok"))
	}
	await(t, "a client to be let in", func() bool { return publish(t, p.tcp, "-t", "x") })
}

// With ack=store+replicas:1 a message isn't acknowledged before the replica has it.
func TestAcknowledgementWaitsForTheReplica(t *testing.T) {
	t.Parallel()
	master, replica := redistest.Start(t, "repl-diskless-sync-delay 0"), redistest.Start(t)
	ctx := t.Context()
	if err := replica.Client().ReplicaOf(ctx, "127.0.0.1", fmt.Sprint(master.Port())).Err(); err != nil {
		t.Fatal(err)
	}
	master.Replicated()
	p := mustServeOn(t, master.URL()+"?ack=store+replicas:1&timeout=2s") // each WAIT takes half of that
	c := mustConnect(t, p.tcp)
	puback := make([]byte, 5)        // with 0x10, No matching subscribers
	publish := func(packetID byte) { // a retained message of QoS 1, which is stored
		t.Helper()
		if _, err := c.Write([]byte{0x33, 7, 0, 1, '0' + packetID, 0, packetID, 0, 'm'}); err != nil {
			t.Fatal(err)
		}
	}
	acknowledged := func(packetID byte) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c, puback); err != nil || puback[0] != 0x40 || puback[3] != packetID {
			t.Fatalf("got % x, %v, want PUBACK of %d", puback, err, packetID)
		}
	}
	publish(1)
	acknowledged(1)
	stored := func(r *redistest.Server) bool { return len(r.Client().Keys(ctx, "*:r:2").Val()) == 1 }
	replica.Stop()
	publish(2)
	await(t, "the message at the master", func() bool { return stored(master) })
	_ = c.SetReadDeadline(time.Now().Add(2500 * time.Millisecond))
	var late net.Error
	if n, err := c.Read(puback); !errors.As(err, &late) || !late.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("while the replica stands still: got % x, %v, want nothing", puback[:n], err)
	}
	replica.Cont()
	acknowledged(2)
	if !stored(replica) {
		t.Error("acknowledged, and the replica doesn't have the message")
	}
}
