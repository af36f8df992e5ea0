package opcuabridge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"loopmq"
	opcuabridge "loopmq/bridges/opcua"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
	"loopmq/store/memory"
)

// patience is how long tests wait for what must come.
const patience = time.Minute

// nowhere returns the URL of a server that refuses connections.
func nowhere(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return "opc.tcp://" + l.Addr().String()
}

func mustBridge(t testing.TB, s *brokertest.Server, st *memory.Store, endpoints ...*opcuabridge.Endpoint) (*opcuabridge.Bridge, *metrics.Set) {
	t.Helper()
	set := metrics.New(1)
	b, err := opcuabridge.New(opcuabridge.Options{Broker: s.Broker, Store: st, Endpoints: endpoints, Logger: slog.New(slog.DiscardHandler), TTL: 4 * time.Second, Metrics: set})
	if err != nil {
		t.Fatal(err)
	}
	b.Start()
	t.Cleanup(func() { closeBridge(b) })
	return b, set
}

func closeBridge(b *opcuabridge.Bridge) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b.Close(ctx)
}

// awaitState receives statuses until there is one with a state, and returns its fence.
func awaitState(t testing.TB, c *brokertest.Client, topic, state string) uint64 {
	t.Helper()
	for {
		p := brokertest.Expect[*codec.Publish](c)
		c.Acknowledge(p)
		var s struct {
			State string `json:"state"`
			Fence uint64 `json:"fence"`
		}
		if err := json.Unmarshal(p.Payload, &s); err != nil {
			t.Fatalf("%s: %v", p.Payload, err)
		}
		if string(p.TopicName) == topic && s.State == state {
			return s.Fence
		}
	}
}

// One of two bridges has an endpoint; another one gets it when the first gives it up, with a larger fence.
func TestOneHolds(t *testing.T) {
	if brokertest.Outside() {
		t.Skip("needs a broker in this process")
	}
	t.Parallel()
	st := memory.New(memory.Options{})
	t.Cleanup(func() { _ = st.Close() })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = st })
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.SetTimeout(patience)
	c.Subscribe("opcua/#", 1)
	// A holder that has died, so far as anybody can tell.
	if _, ok, err := st.Leases().Acquire(t.Context(), "opcua/e", "dead", time.Second); !ok || err != nil {
		t.Fatalf("the lease: %v %v", ok, err)
	}
	endpoint := func() *opcuabridge.Endpoint {
		return &opcuabridge.Endpoint{Name: "e", URL: nowhere(t), RetryMin: 10 * time.Millisecond, Mappings: []opcuabridge.Mapping{{Node: "i=1", WriteTopic: "set/x"}}}
	}
	one, _ := mustBridge(t, s, st, endpoint())
	first := awaitState(t, c, "opcua/e/status", "disconnected")
	if first < 2 {
		t.Errorf("fence %d after a dead holder's", first)
	}
	two, set := mustBridge(t, s, st, endpoint())
	// Who asks for a write learns that there is no connection, from one of them.
	c.Subscribe("reply", 1)
	c.Publish("set/x", "1", 1, func(p *codec.Publish) { p.Properties = brokertest.Properties(codec.PropResponseTopic, "reply") })
	for {
		p := brokertest.Expect[*codec.Publish](c)
		c.Acknowledge(p)
		if string(p.TopicName) == "reply" {
			if !strings.Contains(string(p.Payload), "BadServerNotConnected") {
				t.Errorf("the reply: %s", p.Payload)
			}
			break
		}
	}
	closeBridge(one)
	if f := awaitState(t, c, "opcua/e/status", "stopped"); f != first {
		t.Errorf("fence %d at the end, want %d", f, first)
	}
	if f := awaitState(t, c, "opcua/e/status", "disconnected"); f <= first {
		t.Errorf("fence %d of the second holder, want more than %d", f, first)
	}
	// An operator's kick ends the term, and the next begins.
	if err := s.Broker.Kick(t.Context(), opcuabridge.ClientID("e")); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, "opcua/e/status", "connecting")
	// Reload: what is the same goes on, what is new begins, what is gone ends.
	other := endpoint()
	other.Name = "f"
	if err := two.Reload(t.Context(), []*opcuabridge.Endpoint{other}); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, "opcua/f/status", "disconnected")
	var text bytes.Buffer
	set.WritePrometheus(&text)
	if got := text.String(); strings.Contains(got, `{endpoint="e"`) || !strings.Contains(got, `loopmq_opcua_connected{endpoint="f"} 0`) {
		t.Errorf("metrics after Reload:\n%s", got)
	}
	other = endpoint()
	other.Name = "a b"
	if err := two.Reload(t.Context(), []*opcuabridge.Endpoint{other}); !errors.Is(err, opcuabridge.ErrEndpoint) {
		t.Errorf("Reload of what is wrong: %v", err)
	}
	if _, err := opcuabridge.New(opcuabridge.Options{Broker: s.Broker, Store: st, Endpoints: []*opcuabridge.Endpoint{endpoint(), endpoint()}}); !errors.Is(err, opcuabridge.ErrEndpoint) {
		t.Errorf("New with two of a name: %v", err)
	}
}
