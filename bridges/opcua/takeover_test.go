package opcuabridge_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"loopmq"
	opcuabridge "loopmq/bridges/opcua"
	"loopmq/internal/brokertest"
	"loopmq/internal/opcuatest"
	"loopmq/internal/redistest"
	"loopmq/metrics"
	"loopmq/redisstore"
)

// mustShare returns a node at a Redis, and a bridge that isn't started.
func mustShare(t *testing.T, redisURL string, e *opcuabridge.Endpoint) (node, *opcuabridge.Bridge, *metrics.Set) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	st, err := redisstore.NewStore(t.Context(), redisURL+"?lease=5s", redisstore.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	n := node{brokertest.Start(t, func(o *loopmq.Options) { o.Store, o.Logger = st, quiet }), st}
	set := metrics.New(1)
	b, err := opcuabridge.New(opcuabridge.Options{
		Broker: n.Broker, Store: st, Endpoints: []*opcuabridge.Endpoint{e}, Logger: quiet, Metrics: set, TTL: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, b, set
}

// A node that loses its way to Redis gives up its endpoint, which it can't give back: the other node takes it, with a
// larger fence, and values go on. When the way is there again the first has nothing to say.
func TestTakeover(t *testing.T) {
	if brokertest.Outside() {
		t.Skip("needs brokers in this process")
	}
	t.Parallel()
	server := opcuatest.Start(t, nil)
	redis := redistest.Start(t)
	way := opcuatest.MustProxy(t, redis.Addr)
	_, one, oneMetrics := mustShare(t, "redis://"+way.Addr()+"/0", endpoint(server.Addr()))
	second, two, twoMetrics := mustShare(t, redis.URL(), endpoint(server.Addr()))
	w := mustWatch(t, second, "plant/#", "opcua/#", "reply")
	connected := func() (fence uint64) {
		t.Helper()
		w.await("opcua/p1/status", func(payload string) bool {
			var s struct{ Fence uint64 }
			if err := json.Unmarshal([]byte(payload), &s); err != nil {
				t.Fatal(err)
			}
			fence = s.Fence
			return allItems(payload)
		})
		return fence
	}
	one.Start()
	t.Cleanup(func() { closeBridge(one) })
	before := connected()
	w.awaitAll("plant/p1/temperature 20.5")
	two.Start()
	t.Cleanup(func() { closeBridge(two) })
	server.Do("set", "name", "Temperature", "value", 30)
	w.await("plant/p1/temperature", is("30"))
	if is := gauge(twoMetrics); is != "0" {
		t.Errorf("the second node has a session too: %s", is)
	}

	way.Cut()
	if after := connected(); after <= before {
		t.Errorf("fence %d of the second holder, want more than %d", after, before)
	}
	server.Do("set", "name", "Temperature", "value", 40)
	w.await("plant/p1/temperature", is("40"))
	if got := w.command("set/Count", "3"); !strings.Contains(got, `"Good"`) {
		t.Errorf("a command after the takeover: %s", got)
	}
	way.Mend()
	eventually(t, "the first node has no session", func() bool { return gauge(oneMetrics) == "0" && server.Do("sessions") == 1.0 })

	// Who once held the lease can't renew it.
	if _, ok, err := second.store.Leases().Acquire(t.Context(), "opcua/p1", "who held it", time.Second); ok || err != nil {
		t.Errorf("the lease is given to another holder: %t (%v)", ok, err)
	}
	server.Do("set", "name", "Temperature", "value", 50)
	w.await("plant/p1/temperature", is("50"))
	if gauge(oneMetrics) != "0" || gauge(twoMetrics) != "1" {
		t.Error("the endpoint went back")
	}
}

// gauge is whether a bridge has a session.
func gauge(set *metrics.Set) string { return metricOf(set, `loopmq_opcua_connected{endpoint="p1"}`) }

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
