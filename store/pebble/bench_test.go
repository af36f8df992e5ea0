package pebble_test

import (
	"fmt"
	"testing"

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
