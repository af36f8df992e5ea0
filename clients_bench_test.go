package loopmq_test

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/redisstore"
	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/pebble"
)

// BenchmarkClients lists 100,000 sessions, half of them durable and offline, by pages of 1000: one op is one page. With a filter that matches
// none one op is one call, which looks at 5000. Meanwhile a client publishes to a durable session, one message after the other: how long
// each takes until its PUBACK says whether listing holds up the loops or the store.
func BenchmarkClients(b *testing.B) {
	const sessions = 100_000
	quiet := slog.New(slog.DiscardHandler)
	for name, open := range map[string]func(b *testing.B) (store.Store, error){
		"memory": func(*testing.B) (store.Store, error) { return memory.New(memory.Options{}), nil },
		"pebble": func(b *testing.B) (store.Store, error) {
			return pebble.Open(pebble.Options{Dir: b.TempDir(), Sync: pebble.SyncInterval, Logger: quiet})
		},
		"redis": func(b *testing.B) (store.Store, error) {
			return redisstore.NewStore(b.Context(), redistest.Start(b).URL(), redisstore.Options{Logger: quiet})
		},
	} {
		b.Run(fmt.Sprintf("store=%s/sessions=%d", name, sessions), func(b *testing.B) {
			st, err := open(b)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = st.Close() })
			var claims sync.WaitGroup
			for w := range 8 {
				claims.Go(func() {
					writer := st.NewWriter(fmt.Sprint("w", w))
					for i := w; i < sessions; i += 8 {
						durable := i%2 == 0
						claimed, err := st.Sessions().Claim(b.Context(), store.Claim{
							ClientID: fmt.Sprintf("client-%06d", i), Owner: "elsewhere", Durable: durable, SessionExpiryInterval: 3600,
							Connection: store.Connection{Username: fmt.Sprint("user-", i), Address: "192.0.2.1:12345", Listener: "tcp"},
						})
						if err == nil && durable {
							op := store.Op{Kind: store.OpOffline, Session: claimed.Session.ID, Epoch: claimed.Session.Epoch, SessionExpiryInterval: 3600}
							err = writer.Commit(b.Context(), &store.Batch{Ops: []store.Op{op}})
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			claims.Wait()
			s, err := brokertest.Run(func(o *loopmq.Options) { o.Store = st })
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = s.Close() })
			sub := brokertest.Connect(b, s.Addr, codec.V5, brokertest.Durable("subscriber"))
			sub.Subscribe("t", 1)
			sub.Close()
			p := brokertest.Connect(b, s.Addr, codec.V5)
			trips := func(until func() bool) time.Duration {
				var took []time.Duration
				for !until() {
					began := time.Now()
					p.Publish("t", "m", 1)
					took = append(took, time.Since(began))
				}
				slices.Sort(took)
				return took[len(took)*99/100]
			}
			for what, f := range map[string]loopmq.ClientFilter{"all": {}, "none": {Username: "nobody"}, "connected": {Connected: true}} {
				b.Run("filter="+what, func(b *testing.B) {
					rounds := 0
					quiet := trips(func() bool { rounds++; return rounds > 300 })
					stop, done := make(chan struct{}), make(chan time.Duration)
					go func() {
						done <- trips(func() bool {
							select {
							case <-stop:
								return true
							default:
								return false
							}
						})
					}()
					after, found := "", 0
					for b.Loop() {
						page, err := s.Broker.Clients(b.Context(), f, after, 1000)
						if err != nil {
							b.Fatal(err)
						}
						found += len(page.Clients)
						after = page.Next
					}
					close(stop)
					b.ReportMetric(float64(quiet.Microseconds()), "quiet-p99-µs/publish")
					b.ReportMetric(float64((<-done).Microseconds()), "p99-µs/publish")
					b.ReportMetric(float64(found)/float64(b.N), "clients/op")
				})
			}
		})
	}
}
