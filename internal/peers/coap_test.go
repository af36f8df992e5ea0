package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	coapbridge "loopmq/bridges/coap"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/child"
	"loopmq/metrics"
)

// coapLine is a line that the process of npm's coap prints.
type coapLine struct {
	N        int    `json:"n"`
	Error    string `json:"error"`
	Code     string `json:"code"`
	Payload  []byte `json:"payload"`
	Location string `json:"location"`
	Format   string `json:"format"`
}

// nodeCoAP is a process with a client of npm's coap, for one test.
type nodeCoAP struct {
	t     testing.TB
	stdin io.Writer
	lines chan coapLine
	last  int
	host  string
	port  int
}

// startCoAP starts a broker that CoAP clients reach, and a client.
func startCoAP(t testing.TB) (*nodeCoAP, *brokertest.Server) {
	t.Helper()
	if brokertest.Outside() {
		t.Skip("needs a bridge of its own")
	}
	s := brokertest.Start(t)
	bridge := coapbridge.New(coapbridge.Options{Broker: s.Broker, Logger: slog.New(slog.DiscardHandler)})
	addr, err := bridge.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(addr.String())
	c := &nodeCoAP{t: t, host: host, lines: make(chan coapLine, 100)}
	c.port, _ = strconv.Atoi(port)
	cmd := exec.Command("node", "nodecoap/peer.js")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = stdin
	r, w := io.Pipe()
	cmd.Stdout = w
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	process, err := child.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		in := bufio.NewReader(r)
		for {
			b, err := in.ReadBytes('\n')
			if err != nil {
				return
			}
			var l coapLine
			if err := json.Unmarshal(b, &l); err != nil {
				t.Errorf("coap of npm printed %.200q: %v", b, err)
			}
			c.lines <- l
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		process.Kill()
		_ = w.Close()
		<-read
		if t.Failed() {
			t.Logf("coap of npm: %s", stderr.String())
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := bridge.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return c, s
}

// send sends a line, and returns its number.
func (c *nodeCoAP) send(r map[string]any) int {
	c.t.Helper()
	c.last++
	r["n"], r["host"], r["port"] = c.last, c.host, c.port
	b, err := json.Marshal(r)
	if err == nil {
		_, err = c.stdin.Write(append(b, '\n'))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return c.last
}

// next returns the next line, which has to be about request n.
func (c *nodeCoAP) next(n int) coapLine {
	c.t.Helper()
	l := wait(c.t, c.lines, "an answer to coap of npm")
	if l.N != n || l.Error != "" {
		c.t.Fatalf("got %d %s %q %s, want one of %d", l.N, l.Code, l.Payload, l.Error, n)
	}
	return l
}

// ask sends a confirmable request and returns the answer, whose code has to be the one.
func (c *nodeCoAP) ask(method, path, query string, payload []byte, code string, options map[string]any) coapLine {
	c.t.Helper()
	l := c.next(c.send(map[string]any{"op": "request", "method": method, "path": path, "query": query, "payload": payload, "options": options, "confirmable": true}))
	if l.Code != code {
		c.t.Fatalf("%s %s: got %s %q, want %s", method, path, l.Code, l.Payload, code)
	}
	return l
}

// observe returns the number of an observation, and the payload that came first.
func (c *nodeCoAP) observe(path, query string) (n int, first coapLine) {
	c.t.Helper()
	n = c.send(map[string]any{"op": "request", "method": "GET", "path": path, "query": query, "observe": true, "confirmable": true})
	return n, c.next(n)
}

func TestNodeCoAP(t *testing.T) {
	t.Parallel()
	c, s := startCoAP(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	c.ask("PUT", "/ps/t/a", "retain=true", []byte(`{"v":1}`), "2.04", map[string]any{"Content-Format": "application/json"})
	p := sub.ExpectPublish("t/a", `{"v":1}`)
	if p.QoS != 1 || string(p.Properties.ContentType) != "application/json" {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	sub.Acknowledge(p)
	if l := c.ask("GET", "/ps/t/a", "", nil, "2.05", nil); string(l.Payload) != `{"v":1}` || l.Format != "application/json" {
		t.Errorf("got %+v", l)
	}
	c.ask("GET", "/ps/t/none", "", nil, "4.04", nil)
	c.ask("POST", "/mqtt/publish/t/b", "qos=0", []byte("plain"), "2.04", nil)
	if p := sub.ExpectPublish("t/b", "plain"); p.QoS != 0 {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	c.ask("DELETE", "/ps/t/a", "", nil, "2.02", nil)
	c.ask("GET", "/ps/t/a", "", nil, "4.04", nil)
	sub.Acknowledge(sub.ExpectPublish("t/a", ""))

	// A non-confirmable request is answered by a non-confirmable one.
	if l := c.next(c.send(map[string]any{"op": "request", "method": "PUT", "path": "/ps/t/c", "payload": []byte("non"), "confirmable": false})); l.Code != "2.04" {
		t.Errorf("got %+v", l)
	}
	if p := sub.ExpectPublish("t/c", "non"); p.QoS != 0 {
		t.Errorf("got %s", brokertest.Describe(p))
	}
}

func TestNodeCoAPBlocks(t *testing.T) {
	t.Parallel()
	c, s := startCoAP(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	body := []byte(strings.Repeat("0123456789abcde\n", 100<<10/16))
	c.ask("PUT", "/ps/t/big", "retain=true", body, "2.04", map[string]any{"Block1": 6})
	sub.Acknowledge(sub.ExpectPublish("t/big", string(body)))
	if l := c.ask("GET", "/ps/t/big", "", nil, "2.05", nil); !bytes.Equal(l.Payload, body) {
		t.Errorf("got %d bytes", len(l.Payload))
	}
	if l := c.ask("GET", "/ps/t/big", "", nil, "2.05", map[string]any{"Block2": 2}); !bytes.Equal(l.Payload, body) { // blocks of 64 bytes
		t.Errorf("got %d bytes", len(l.Payload))
	}
}

func TestNodeCoAPObserve(t *testing.T) {
	t.Parallel()
	c, s := startCoAP(t)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("t/1/x", "retained", 1, brokertest.Retained)
	exact, first := c.observe("/ps/t/1/x", "")
	if string(first.Payload) != "retained" {
		t.Errorf("got %+v", first)
	}
	pub.Publish("t/1/x", "one", 1)
	if l := c.next(exact); string(l.Payload) != "one" {
		t.Errorf("got %+v", l)
	}
	c.next(c.send(map[string]any{"op": "cancel", "observation": exact}))
	ended := func(why metrics.CoAPEnd) {
		t.Helper()
		look := time.NewTicker(5 * time.Millisecond)
		defer look.Stop()
		for end := time.Now().Add(patience); s.Broker.Metrics().CoAPEnded[why].Get() != 1; <-look.C {
			if time.Now().After(end) {
				t.Fatalf("no observation has ended: %v", why)
			}
		}
	}
	ended(metrics.CoAPCancelled)

	wild, first := c.observe("/ps/t/+/y", "")
	if string(first.Payload) != "" {
		t.Errorf("got %+v", first)
	}
	for _, qos := range []byte{0, 1, 2} {
		text := "qos" + strconv.Itoa(int(qos))
		pub.Publish("t/7/y", text, qos)
		if l := c.next(wild); string(l.Payload) != text || l.Location != "/ps/t/7/y" {
			t.Errorf("got %+v", l)
		}
	}
	c.next(c.send(map[string]any{"op": "forget", "observation": wild}))
	pub.Publish("t/8/y", "reset", 1)
	ended(metrics.CoAPReset)
}
