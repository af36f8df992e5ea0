package peers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/child"
	"loopmq/internal/opcuatest"
	"loopmq/metrics"
)

// beOPCUAServer has the test binary be the process of the OPC UA server.
const beOPCUAServer = "be-the-opcua-server"

// opcuaClient is a client of node-opcua.
type opcuaClient struct {
	t       testing.TB
	stdin   io.WriteCloser
	answers chan string
	changes chan map[string]any
}

func startOPCUAClient(t testing.TB) *opcuaClient {
	t.Helper()
	cmd := exec.Command("node", "nodeopcua/client.js")
	c := &opcuaClient{t: t, answers: make(chan string, 16), changes: make(chan map[string]any, 1000)}
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	cmd.Stdout = w
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	process, err := child.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Kill() })
	go func() {
		<-process.Ended
		_ = w.Close()
	}()
	go func() {
		defer close(c.answers)
		in := bufio.NewScanner(r)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var event map[string]any
			if !strings.HasPrefix(in.Text(), `{"`) || json.Unmarshal(in.Bytes(), &event) != nil { // it has warnings of its own
				continue
			}
			if event["event"] != nil {
				c.changes <- event
			} else {
				c.answers <- in.Text()
			}
		}
	}()
	if _, ok := <-c.answers; !ok {
		t.Fatalf("node-opcua ended: %s", stderr.String())
	}
	return c
}

// try has the client execute a command.
func (c *opcuaClient) try(command string, arguments map[string]any) (any, string) {
	c.t.Helper()
	q := map[string]any{"do": command}
	for k, v := range arguments {
		q[k] = v
	}
	b, err := json.Marshal(q)
	if err == nil {
		_, err = c.stdin.Write(append(b, '\n'))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	var answer struct {
		Value any
		Error string
	}
	line := wait(c.t, c.answers, "node-opcua: "+command)
	if err := json.Unmarshal([]byte(line), &answer); err != nil {
		c.t.Fatalf("node-opcua: %s: %q: %v", command, line, err)
	}
	return answer.Value, answer.Error
}

func (c *opcuaClient) do(command string, arguments map[string]any) any {
	c.t.Helper()
	v, err := c.try(command, arguments)
	if err != "" {
		c.t.Fatalf("node-opcua: %s: %s", command, err)
	}
	return v
}

type args = map[string]any

// value reads the value of a node.
func (c *opcuaClient) value(node string) args {
	c.t.Helper()
	return c.do("read", args{"nodes": []string{node}}).([]any)[0].(args)
}

// awaitValue reads a node until it has a value.
func (c *opcuaClient) awaitValue(node string, want any) args {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		v := c.value(node)
		if v["value"] == want {
			return v
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s is %v, want %v", node, v, want)
		}
	}
}

// awaitChange waits for a change to a value.
func (c *opcuaClient) awaitChange(node string, want any) args {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e := <-c.changes:
			if e["node"] == node && e["value"] == want {
				return e
			}
		case <-deadline:
			c.t.Fatalf("no change of %s to %v", node, want)
		}
	}
}

func mustOPCUAServer(t testing.TB, o opcuaserver.Options, options ...func(*loopmq.Options)) (*brokertest.Server, string) {
	t.Helper()
	s := brokertest.Start(t, options...)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Broker, o.Command, o.Logger, o.Metrics = s.Broker, []string{own, beOPCUAServer}, slog.New(slog.DiscardHandler), metrics.New(1)
	server, err := opcuaserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	at, err := server.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		server.Close(ctx)
	})
	return s, "opc.tcp://" + at.String()
}

// TestNodeOPCUAClient browses, reads, monitors and writes topics by a client that others wrote.
func TestNodeOPCUAClient(t *testing.T) {
	t.Parallel()
	s, url := mustOPCUAServer(t, opcuaserver.Options{Filters: []string{"plant/#", "set/point"}, None: true, Anonymous: true, WriteQoS: 1})
	p := brokertest.Connect(t, s.Addr, codec.V5)
	p.Publish("plant/press/temperature", "21.5", 1, brokertest.Retained)
	p.Publish("plant/press/count", "7", 1, brokertest.Retained)
	p.Publish("plant/press", `{"state":"on"}`, 1, brokertest.Retained)
	p.Subscribe("set/#", 1)
	c := startOPCUAClient(t)
	c.do("connect", args{"url": url, "pki": filepath.Join(t.TempDir(), "pki")})

	v := c.awaitValue("ns=2;s=plant/press/temperature", 21.5)
	if v["type"] != "Double" || v["status"] != "Good" || v["source"] == nil || v["server"] == nil {
		t.Errorf("got %v", v)
	}
	if v := c.awaitValue("ns=2;s=plant/press/count", 7.0); v["type"] != "Int64" {
		t.Errorf("got %v", v)
	}
	if v := c.awaitValue("ns=2;s=plant/press", `{"state":"on"}`); v["type"] != "String" {
		t.Errorf("got %v", v)
	}
	if v := c.value("ns=2;s=set/point"); v["status"] != "BadWaitingForInitialData" {
		t.Errorf("got %v", v)
	}
	if v := c.value("ns=2;s=plant/none"); v["status"] != "BadNodeIdUnknown" {
		t.Errorf("got %v", v)
	}
	for node, want := range map[string][]any{
		"i=85":                {"ns=0;i=2253 Server", "ns=1;i=1 1:Topics"},
		"ns=1;i=1":            {"ns=3;s=plant 3:plant", "ns=3;s=set 3:set"},
		"ns=3;s=plant":        {"ns=2;s=plant/press 2:press", "ns=3;s=plant/press 3:press"},
		"ns=3;s=plant/press":  {"ns=2;s=plant/press/count 2:count", "ns=2;s=plant/press/temperature 2:temperature"},
		"ns=2;s=plant/press":  {},
		"ns=2;s=plant/press/": {},
	} {
		if got, _ := c.try("browse", args{"node": node}); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s has %v, want %v", node, got, want)
		}
	}
	if got := c.do("translate", args{"path": "/Objects/1:Topics/3:plant/3:press/2:count"}); got != "ns=2;s=plant/press/count" {
		t.Errorf("the path leads to %v", got)
	}

	if got := c.do("monitor", args{"node": "ns=2;s=plant/press/count", "queue": 5}); got != "Good" {
		t.Errorf("monitor: %v", got)
	}
	c.awaitChange("ns=2;s=plant/press/count", 7.0)
	for i := range 5 {
		p.Publish("plant/press/count", fmt.Sprint(10+i), 1)
	}
	c.awaitChange("ns=2;s=plant/press/count", 14.0)
	if got := c.do("modify", args{"index": 0, "queue": 10}); got != "Good" {
		t.Errorf("modify: %v", got)
	}
	c.do("mode", args{"index": 0, "mode": "Disabled"})
	c.do("mode", args{"index": 0, "mode": "Reporting"})
	c.awaitChange("ns=2;s=plant/press/count", 14.0)

	if got := c.do("write", args{"node": "ns=2;s=set/point", "type": "Double", "value": 3.5}); got != "Good" {
		t.Errorf("write: %v", got)
	}
	p.Acknowledge(p.ExpectPublish("set/point", "3.5"))
	c.awaitValue("ns=2;s=set/point", 3.5)
	if got := c.do("write", args{"node": "ns=2;s=set/point", "type": "DateTime", "value": 0}); got != "BadTypeMismatch" {
		t.Errorf("write of a time: %v", got)
	}
	if _, err := c.try("call", nil); !strings.Contains(err, "BadServiceUnsupported") {
		t.Errorf("call: %v", err)
	}
	if got := c.do("endpoints", nil); fmt.Sprint(got) != "[None None]" {
		t.Errorf("endpoints: %v", got)
	}
	c.do("unmonitor", args{"index": 0})
	c.do("close", nil)
}

// passwords is an Authenticator with one user.
type passwords struct{}

func (passwords) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if r.Listener != opcuaserver.Listener || r.Username == "operator" && string(r.Password) == "secret" {
		return loopmq.Identity{Username: r.Username}, nil, nil
	}
	return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong")
}

func (passwords) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, io.EOF
}

// TestNodeOPCUAClientSecurity connects with Basic256Sha256, a user and a password, and is refused with wrong ones.
func TestNodeOPCUAClientSecurity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := opcuatest.MustCertificate(t, dir, "server", "urn:test:loopmq")
	trusted, _ := opcuatest.MustCertificate(t, dir, "client", "urn:test:client")
	opcuatest.MustCertificate(t, dir, "stranger", "urn:test:client")
	s, url := mustOPCUAServer(t, opcuaserver.Options{
		Filters: []string{"plant/#"}, Basic256Sha256: true, Certificate: cert, Key: key, Trusted: []*x509.Certificate{trusted},
	}, func(o *loopmq.Options) { o.Authenticator = passwords{} })
	p := brokertest.Connect(t, s.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	with := func(change args) args {
		all := args{
			"url": url, "pki": filepath.Join(dir, "pki"), "mode": "SignAndEncrypt", "policy": "Basic256Sha256",
			"certificate": filepath.Join(dir, "client.pem"), "key": filepath.Join(dir, "client.key"), "username": "operator", "password": "secret",
		}
		for k, v := range change {
			all[k] = v
		}
		return all
	}
	c := startOPCUAClient(t)
	c.do("connect", with(args{"lifetime": 10_000}))
	c.awaitValue("ns=2;s=plant/a", 1.0)
	if got := c.do("endpoints", nil); !slices.Equal(got.([]any), []any{"Basic256Sha256 SignAndEncrypt"}) {
		t.Errorf("endpoints: %v", got)
	}
	c.do("close", nil)
	for name, change := range map[string]args{
		"nothing":     nil, // so that what follows isn't refused for another reason
		"password":    {"password": "wrong"},
		"user":        {"username": "nobody"},
		"anonymous":   {"username": ""},
		"certificate": {"certificate": filepath.Join(dir, "stranger.pem"), "key": filepath.Join(dir, "stranger.key")},
		"policy":      {"policy": "None", "mode": "None"},
		"mode":        {"mode": "Sign"},
	} {
		if _, err := c.try("connect", with(change)); (err == "") != (change == nil) {
			t.Errorf("with another %s: %q", name, err)
		} else if err == "" {
			c.do("close", nil)
		}
	}
}
