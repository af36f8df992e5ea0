package pebble_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"loopmq/store"
	"loopmq/store/pebble"
)

// BenchmarkCommit is what a loop with durable subscribers does: batches of
// publications, each to the queue of one of 500 sessions, and of the
// acknowledgements of what the batch before brought.
func BenchmarkCommit(b *testing.B) {
	for _, ops := range []int{1, 64, 2048} {
		b.Run(fmt.Sprintf("ops=%d", ops), func(b *testing.B) {
			s := mustOpen(b, pebble.Options{Dir: b.TempDir()})
			const sessions = 500
			var queues [sessions]store.QueueID
			for i := range queues {
				claimed, err := s.Sessions().Claim(b.Context(), store.Claim{ClientID: fmt.Sprint("client", i), Owner: "node", Durable: true, SessionExpiryInterval: 3600})
				if err != nil {
					b.Fatal(err)
				}
				queues[i] = store.QueueOf(claimed.Session.ID)
			}
			w := s.NewWriter("bench")
			var batch, finish store.Batch
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += ops {
				batch.Reset()
				batch.Ops = append(batch.Ops, finish.Ops...)
				finish.Reset()
				for i := range ops {
					batch.Add(store.Op{
						Kind:    store.OpPublish,
						Message: &store.Message{TopicName: []byte("compare/p2p/00001"), Payload: make([]byte, 64), QoS: 1, PublisherID: "compare-pub-00001"},
						Targets: []store.Target{{Queue: queues[(n+i)%sessions], QoS: 1}},
					})
				}
				if err := w.Commit(b.Context(), &batch); err != nil {
					b.Fatal(err)
				}
				for i := range batch.Ops {
					if op := &batch.Ops[i]; op.Kind == store.OpPublish {
						finish.Add(store.Op{Kind: store.OpFinish, Session: op.Targets[0].Queue.Session, Numbers: []store.Number{op.Targets[0].Number}})
					}
				}
			}
		})
	}
}

// fill makes sessions with one subscription and perSession queued messages each.
func fill(b *testing.B, s store.Store, sessions, perSession int) {
	b.Helper()
	w := s.NewWriter("fill")
	for i := range sessions {
		claimed, err := s.Sessions().Claim(b.Context(), store.Claim{ClientID: fmt.Sprintf("client-%08d", i), Owner: "node", Durable: true, SessionExpiryInterval: 3600})
		if err != nil {
			b.Fatal(err)
		}
		se := claimed.Session
		batch := store.Batch{Ops: []store.Op{{
			Kind: store.OpSubscribe, Session: se.ID, Epoch: se.Epoch,
			Subscriptions: []store.Subscription{{TopicFilter: fmt.Sprintf("devices/%08d/#", i)}},
		}}}
		for range perSession {
			batch.Add(store.Op{
				Kind:    store.OpPublish,
				Message: &store.Message{TopicName: []byte("devices/command"), Payload: make([]byte, 64), QoS: 1},
				Targets: []store.Target{{Queue: store.QueueOf(se.ID), QoS: 1}},
			})
		}
		batch.Add(store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, SessionExpiryInterval: 3600, Due: s.Now().Add(3600e9)})
		if err := w.Commit(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen opens a store and reads what a broker reads when it starts, after
// a clean stop and after a crash, where each queue has to be counted.
func BenchmarkOpen(b *testing.B) {
	for _, sessions := range []int{1000, 10_000, 100_000} {
		for _, crash := range []bool{false, true} {
			b.Run(fmt.Sprintf("sessions=%d/messages=%d/crash=%v", sessions, 10*sessions, crash), func(b *testing.B) {
				fs := vfs.NewCrashableMem()
				o := pebble.Options{Dir: "data", FS: fs, Sync: pebble.SyncOff, Logger: quiet()}
				s := mustOpen(b, o)
				fill(b, s, sessions, 10)
				if crash {
					o.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					s := mustOpen(b, o)
					n, queued := 0, 0
					for after := ""; ; {
						list, err := s.Subscriptions().List(b.Context(), after, 1000)
						if err != nil {
							b.Fatal(err)
						}
						for i := range list {
							queued += list[i].Queued
							after = list[i].Session.ID.ClientID
						}
						if n += len(list); len(list) < 1000 {
							break
						}
					}
					if n < sessions*97/100 || queued < 9*n { // the last block of the log goes with a crash
						b.Fatalf("%d sessions, %d messages", n, queued)
					}
					if !crash {
						if err := s.Close(); err != nil {
							b.Fatal(err)
						}
						continue
					}
					b.StopTimer()
					o.FS = o.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
					_ = s.Close()
					b.StartTimer()
				}
			})
		}
	}
}
