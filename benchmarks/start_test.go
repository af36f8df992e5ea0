package benchmarks_test

import (
	"fmt"
	"log/slog"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/redistest"
	"loopmq/redisstore"
	"loopmq/store"
	"loopmq/store/pebble"
)

// BenchmarkStart measures how long it takes until a broker serves on a store that holds durable sessions with a subscription and ten queued
// messages each: opening the store, reading the sessions, and starting.
func BenchmarkStart(b *testing.B) {
	quiet := slog.New(slog.DiscardHandler)
	for _, kind := range []struct {
		name string
		open func(b *testing.B) func() store.Store
	}{
		{"pebble", func(b *testing.B) func() store.Store {
			o := pebble.Options{Dir: b.TempDir(), Logger: quiet}
			return func() store.Store {
				s, err := pebble.Open(o)
				if err != nil {
					b.Fatal(err)
				}
				return s
			}
		}},
		{"redis", func(b *testing.B) func() store.Store {
			server := redistest.Start(b, "appendfsync everysec")
			return func() store.Store {
				s, err := redisstore.NewStore(b.Context(), server.URL(), redisstore.Options{Logger: quiet})
				if err != nil {
					b.Fatal(err)
				}
				return s
			}
		}},
	} {
		for _, sessions := range []int{1_000, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/sessions=%d", kind.name, sessions), func(b *testing.B) {
				open := kind.open(b)
				fill(b, open(), sessions)
				for b.Loop() {
					st := open()
					broker, err := loopmq.New(loopmq.Options{Store: st, Logger: quiet, SysInterval: -1})
					if err != nil {
						b.Fatal(err)
					}
					if err := broker.Start(); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if got := broker.Health().Subscriptions; got != sessions {
						b.Fatalf("%d subscriptions, want %d", got, sessions)
					}
					if err := broker.Shutdown(b.Context()); err != nil {
						b.Fatal(err)
					}
					if err := st.Close(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}

// fill puts sessions with a subscription and ten messages each into a store, and closes it.
func fill(b *testing.B, st store.Store, sessions int) {
	b.Helper()
	w := st.NewWriter("fill")
	var batch store.Batch
	commit := func() {
		if err := w.Commit(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
		batch.Reset()
	}
	message := &store.Message{TopicName: []byte("t"), Payload: make([]byte, 64), QoS: 1}
	for i := range sessions {
		claimed, err := st.Sessions().Claim(b.Context(), store.Claim{
			ClientID: fmt.Sprintf("session-%06d", i), Owner: "fill", Durable: true, SessionExpiryInterval: 0xFFFFFFFF,
		})
		if err != nil {
			b.Fatal(err)
		}
		se := claimed.Session
		batch.Add(store.Op{Kind: store.OpSubscribe, Session: se.ID, Epoch: se.Epoch, Subscriptions: []store.Subscription{
			{TopicFilter: fmt.Sprintf("t/%06d", i), Options: codec.SubscriptionOptions{QoS: 1}},
		}})
		for range 10 {
			batch.Add(store.Op{Kind: store.OpPublish, Message: message, Targets: []store.Target{{Queue: store.QueueOf(se.ID), QoS: 1}}})
		}
		batch.Add(store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, SessionExpiryInterval: 0xFFFFFFFF})
		if len(batch.Ops) >= 2000 {
			commit()
		}
	}
	commit()
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
}
