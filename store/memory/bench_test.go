package memory

import (
	"context"
	"fmt"
	"testing"

	"loopmq/store"
)

// sessionsFor claims n durable sessions.
func sessionsFor(b *testing.B, s *Store, n int) []store.Session {
	sessions := make([]store.Session, n)
	for i := range sessions {
		sessions[i] = claim(b, s, store.Claim{ClientID: fmt.Sprint("client", i), Durable: true})
	}
	return sessions
}

// BenchmarkCommit has one message of 64 bytes per operation, each to one of
// 1000 queues, which holds one other.
func BenchmarkCommit(b *testing.B) {
	for _, ops := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("ops=%d", ops), func(b *testing.B) {
			s := New(Options{})
			sessions := sessionsFor(b, s, 1000)
			var (
				w        = s.NewWriter("bench")
				batch    store.Batch
				payload  = make([]byte, 64)
				targets  = make([]store.Target, ops)
				numbers  = make([]store.Number, ops)
				finished = make([]store.SessionID, ops)
				next     int
			)
			b.ReportAllocs()
			for b.Loop() {
				batch.Reset()
				for i := range ops {
					if finished[i] != (store.SessionID{}) {
						batch.Add(store.Op{Kind: store.OpFinish, Session: finished[i], Numbers: numbers[i : i+1]})
					}
				}
				for i := range ops {
					id := sessions[next%len(sessions)].ID
					next++
					targets[i] = store.Target{Queue: store.QueueOf(id), QoS: 1}
					finished[i] = id
					batch.Add(store.Op{
						Kind:    store.OpPublish,
						Message: &store.Message{TopicName: payload[:8], Payload: payload},
						Targets: targets[i : i+1],
					})
				}
				if err := w.Commit(context.Background(), &batch); err != nil {
					b.Fatal(err)
				}
				for i := range ops {
					numbers[i] = targets[i].Number
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*ops), "ns/message")
		})
	}
}

// BenchmarkFanOut has one message to 1000 queues, and the 1000 operations that
// finish it.
func BenchmarkFanOut(b *testing.B) {
	for _, queues := range []int{1000} {
		b.Run(fmt.Sprintf("queues=%d", queues), func(b *testing.B) {
			s := New(Options{})
			var (
				w       = s.NewWriter("bench")
				publish store.Batch
				finish  store.Batch
				payload = make([]byte, 64)
				targets = make([]store.Target, queues)
				numbers = make([]store.Number, queues)
			)
			sessions := sessionsFor(b, s, queues)
			b.ReportAllocs()
			for b.Loop() {
				publish.Reset()
				for i, se := range sessions {
					targets[i] = store.Target{Queue: store.QueueOf(se.ID), QoS: 1}
				}
				publish.Add(store.Op{
					Kind:    store.OpPublish,
					Message: &store.Message{TopicName: payload[:8], Payload: payload},
					Targets: targets,
				})
				if err := w.Commit(context.Background(), &publish); err != nil {
					b.Fatal(err)
				}
				finish.Reset()
				for i, se := range sessions {
					numbers[i] = targets[i].Number
					finish.Add(store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: numbers[i : i+1]})
				}
				if err := w.Commit(context.Background(), &finish); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*queues), "ns/delivery")
		})
	}
}

// BenchmarkQueue appends and finishes in a queue that has some entries always.
func BenchmarkQueue(b *testing.B) {
	for _, live := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			m := &message{Message: &store.Message{}}
			q := queue{generation: 1}
			for range live {
				q.append(slot{message: m})
			}
			b.ReportAllocs()
			for b.Loop() {
				n := q.append(slot{message: m})
				n.Seq -= uint64(live)
				q.remove(q.find(n))
			}
		})
	}
}

// BenchmarkEnqueue is what an event costs in batches of publications of which each has
// one, and the same batches without.
func BenchmarkEnqueue(b *testing.B) {
	for _, events := range []bool{false, true} {
		b.Run(fmt.Sprintf("events=%t", events), func(b *testing.B) {
			const ops = 100
			s := New(Options{})
			se := claim(b, s, store.Claim{ClientID: "c", Durable: true})
			w := s.NewWriter("w")
			data := make([]byte, 300)
			var batch store.Batch
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += ops {
				batch.Reset()
				for range ops {
					batch.Add(publish("message", se))
					if events {
						batch.Add(store.Op{Kind: store.OpEnqueue, IfPublished: true, Event: &store.Event{Endpoint: "e", Data: data, MaxEntries: 1 << 30}})
					}
				}
				if err := w.Commit(b.Context(), &batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
