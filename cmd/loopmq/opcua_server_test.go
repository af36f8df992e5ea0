package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	gopcua "github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
)

// The server of OPC UA clients is served by a process of its own, which ends with the broker, however that ends.
func TestOPCUAServer(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		p := mustServe(t, "--set", "opcua.server.address=127.0.0.1:0", "--set", "opcua.server.topics=plant/#,set", "--set", "opcua.server.policies=none")
		addr, _ := p.first["opcua"].(string)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := gopcua.NewClient("opc.tcp://"+addr, gopcua.SecurityMode(ua.MessageSecurityModeNone), gopcua.AutoReconnect(false))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		v, err := c.Node(ua.NewStringNodeID(2, "set")).Attribute(ctx, ua.AttributeIDBrowseName)
		if err != nil || v.Value().(*ua.QualifiedName).Name != "set" {
			t.Errorf("got %v, %v", v, err)
		}
		if err := p.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		for { // the listener is closed once nobody has it
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				break
			}
			_ = conn.Close()
			if ctx.Err() != nil {
				t.Fatal("the listener is open")
			}
			<-time.After(20 * time.Millisecond)
		}
		_ = c.Close(context.Background())
	}
}

func TestOPCUAServerThatCantBe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	on := []string{"opcua.server.address=127.0.0.1:0", "opcua.server.topics=a"}
	secure := append([]string{"opcua.server.trusted=" + junk}, on...)
	for want, set := range map[string][]string{
		"opcua.server.topics: none is given":                 {"opcua.server.address=127.0.0.1:0", "opcua.server.policies=none"},
		"opcua.server.policies: basic256sha256 needs":        on,
		"opcua.server.certificate: certificate and key need": append([]string{"opcua.server.key=" + junk}, secure...),
		"junk: it has no":                  append([]string{"opcua.server.key=" + junk, "opcua.server.certificate=" + junk}, secure...),
		"no such file":                     append([]string{"opcua.server.key=/none", "opcua.server.certificate=/none"}, secure...),
		"is no Topic Filter":               {on[0], "opcua.server.topics=a/#/b", "opcua.server.policies=none"},
		"anybody who reaches this address": {"opcua.server.address=0.0.0.0:0", "opcua.server.topics=a", "opcua.server.policies=none"},
		"address already in use":           {"opcua.server.address=" + l.Addr().String(), "opcua.server.topics=a", "opcua.server.policies=none"},
	} {
		args := []string{"serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "off", "--coap", "off", "--admin", "off", "--store", "memory", "--log-level", "error"}
		for _, s := range set {
			args = append(args, "--set", s)
		}
		if code, _, stderr := call(t, args...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d, %q, want %q", set, code, stderr, want)
		}
	}
}
