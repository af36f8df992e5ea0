package deploy_test

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"loopmq"
	"loopmq/internal/brokertest"
	"loopmq/internal/child"
)

// nginx with nginx.conf, and HAProxy in mode http, bring clients by TCP and by WebSocket to nodes, which know the clients' addresses
// from them; those of a node that is gone are brought to the other.
func TestProxiesTellAddresses(t *testing.T) {
	type arrival struct{ node, address string }
	arrivals := make(chan arrival, 16)
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	var mqtt, web []string
	var nodes []*brokertest.Server
	for _, name := range []string{"one", "two"} {
		s := brokertest.Start(t, func(o *loopmq.Options) {
			o.Recorder = loopmq.OnEvent(func(e *loopmq.Event) { arrivals <- arrival{name, e.Client.RemoteAddr().String()} }, loopmq.EventClientConnected)
		})
		for _, l := range []loopmq.Listener{
			{Name: "tcp", Address: "127.0.0.1:0", ProxyProtocol: trusted},
			{Name: "ws", Address: "127.0.0.1:0", WebSocket: &loopmq.WebSocket{Forwarders: trusted}},
		} {
			addr, err := s.Broker.Listen(l)
			if err != nil {
				t.Fatal(err)
			}
			if l.Name == "ws" {
				web = append(web, addr.String())
			} else {
				mqtt = append(mqtt, addr.String())
			}
		}
		nodes = append(nodes, s)
	}

	dir := t.TempDir()
	text, err := os.ReadFile("nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	tcpFront, webFront, haproxyFront := freePort(), freePort(), freePort()
	config := regexp.MustCompile(`(?m)^.*server node3:.*\n`).ReplaceAllString(string(text), "")
	config = strings.NewReplacer(
		"node1:1883", mqtt[0], "node2:1883", mqtt[1], "node1:8083", web[0], "node2:8083", web[1],
		"listen 1883", "listen "+tcpFront, "listen 8083", "listen "+webFront, "32768", "64",
	).Replace(config)
	config += fmt.Sprintf("daemon off;\nmaster_process off;\npid %[1]s/pid;\n", dir)
	haproxy := "global\n maxconn 100\ndefaults\n mode http\n timeout connect 3s\n timeout client 60s\n timeout server 60s\n timeout tunnel 1h\n" +
		" option forwardfor\nlisten web\n bind " + haproxyFront + "\n server one " + web[0] + "\n server two " + web[1] + "\n option redispatch 1\n"
	for name, text := range map[string]string{"nginx.conf": config, "haproxy.cfg": haproxy} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "error.log")),
		exec.Command("haproxy", "-f", filepath.Join(dir, "haproxy.cfg")),
	} {
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		process, err := child.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			process.Kill()
			if t.Failed() {
				t.Logf("%s: %s", cmd.Path, out.String())
			}
		})
	}

	const from = "127.0.0.9"
	byTCP := func() error {
		host, port, _ := net.SplitHostPort(tcpFront)
		out, err := exec.Command("mosquitto_pub", "-h", host, "-A", from, "-p", port, "-t", "t", "-m", "x", "-q", "1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	byWeb := func(front string) func() error {
		dialer := websocket.Dialer{
			NetDial:      (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial,
			Subprotocols: []string{"mqtt"}, HandshakeTimeout: patience,
		}
		// What the client says of itself counts for nothing, and the page is one of the host that the proxy passes on.
		header := http.Header{"X-Forwarded-For": {"203.0.113.7"}, "Origin": {"http://" + front}}
		return func() error {
			c, _, err := dialer.Dial("ws://"+front+"/mqtt", header)
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if err := c.WriteMessage(websocket.BinaryMessage, []byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01w")); err != nil {
				return err
			}
			_, b, err := c.ReadMessage()
			if err == nil && (len(b) != 4 || b[0] != 0x20 || b[3] != 0) {
				err = fmt.Errorf("CONNACK % x", b)
			}
			return err
		}
	}
	ways := map[string]func() error{"nginx, TCP": byTCP, "nginx, WebSocket": byWeb(webFront), "HAProxy, WebSocket": byWeb(haproxyFront)}
	visit := func(name string, way func() error) (at string) {
		t.Helper()
		for late := time.Now().Add(patience); ; { // at first the proxy may be starting
			err := way()
			if err == nil {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		a := <-arrivals
		if !strings.HasPrefix(a.address, from) {
			t.Errorf("%s: the client's address is %s, want %s", name, a.address, from)
		}
		return a.node
	}
	for name, way := range ways {
		seen := map[string]bool{}
		for range 4 {
			seen[visit(name, way)] = true
		}
		if len(seen) != 2 {
			t.Errorf("%s: only %v was visited", name, seen)
		}
	}
	if err := nodes[0].Close(); err != nil {
		t.Fatal(err)
	}
	for name, way := range ways {
		for range 2 {
			if at := visit(name, way); at != "two" {
				t.Errorf("%s: brought to node %s, which is gone", name, at)
			}
		}
	}
}
