package httpbridge_test

import (
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/redisstore"
	"loopmq/store/pebble"
)

// once publishes "x" to the topic t under a key, and returns the answer, and whether it was one that was given before.
func (b *bridge) once(key string) (text string, replayed bool) {
	b.t.Helper()
	resp, err := b.do("POST", "/publish", strings.NewReader(`{"topic":"t","payload":"x","qos":1}`), "Content-Type", "application/json", "Idempotency-Key", key)
	if err != nil {
		b.t.Error(err)
		return "", false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		b.t.Errorf("key %s: %d %s (%v)", key, resp.StatusCode, body, err)
	}
	return string(body), resp.Header.Get("Idempotency-Replayed") == "true"
}

// A key is one request at all nodes that share a store, one after the other and at the same time.
func TestIdempotencyKey_AnotherNode(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var bridges [2]*bridge
	var sub *brokertest.Client
	for i := range bridges {
		s, err := redisstore.NewStore(t.Context(), server.URL()+"?prefix=lmq:", redisstore.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		broker := brokertest.Start(t, func(o *loopmq.Options) { o.Store = s })
		bridges[i] = mustBridge(t, broker)
		if i == 0 {
			sub = brokertest.Connect(t, broker.Addr, codec.V5)
			sub.SetTimeout(patience)
			sub.Subscribe("t", 1)
		}
	}
	first, replayed := bridges[0].once("k")
	again, replayedThere := bridges[1].once("k")
	if first != again || replayed || !replayedThere {
		t.Errorf("got %s (replayed %t), then at the other node %s (replayed %t), want the same answer, and only the second to be replayed", first, replayed, again, replayedThere)
	}
	sub.Acknowledge(sub.ExpectPublish("t", "x"))

	const keys = 20
	for k := range keys {
		key := "both" + string(rune('a'+k))
		var answers [2]string
		var replays [2]bool
		var both sync.WaitGroup
		for i, b := range bridges {
			both.Go(func() { answers[i], replays[i] = b.once(key) })
		}
		both.Wait()
		if answers[0] != answers[1] || replays[0] == replays[1] {
			t.Errorf("%s, at the same time: got %q, replayed %v, want one answer, and one of them to be replayed", key, answers, replays)
		}
		sub.Acknowledge(sub.ExpectPublish("t", "x"))
	}
	sub.ExpectNothing()
}

// A key outlives the broker, as what was published does.
func TestIdempotencyKey_Restart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	life := func(name string, live func(t *testing.T, b *bridge, sub *brokertest.Client)) {
		t.Run(name, func(t *testing.T) { // its end is that of the broker
			s, err := pebble.Open(pebble.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			broker := brokertest.Start(t, func(o *loopmq.Options) { o.Store = s })
			sub := brokertest.Connect(t, broker.Addr, codec.V5)
			sub.Subscribe("t", 1)
			live(t, mustBridge(t, broker), sub)
		})
	}
	var first string
	life("first", func(t *testing.T, b *bridge, sub *brokertest.Client) {
		var replayed bool
		if first, replayed = b.once("k"); replayed {
			t.Error("the first request was replayed")
		}
		sub.Acknowledge(sub.ExpectPublish("t", "x"))
	})
	life("second", func(t *testing.T, b *bridge, sub *brokertest.Client) {
		if again, replayed := b.once("k"); again != first || !replayed {
			t.Errorf("got %s (replayed %t), want %s, replayed", again, replayed, first)
		}
		sub.ExpectNothing()
		if other, replayed := b.once("another"); other == first || replayed {
			t.Errorf("another key: got %s (replayed %t)", other, replayed)
		}
		sub.Acknowledge(sub.ExpectPublish("t", "x"))
	})
}
