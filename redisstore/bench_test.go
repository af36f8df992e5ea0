package redisstore

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"loopmq/internal/redistest"
	"loopmq/store"
)

// BenchmarkCommit has one message of 64 bytes per operation, each to one of 1000
// queues, with the deletion of a former one.
func BenchmarkCommit(b *testing.B) {
	r := redistest.Start(b, "appendfsync everysec")
	for _, ops := range []int{1, 10, 100, 1000} {
		b.Run("ops="+strconv.Itoa(ops), func(b *testing.B) {
			f := newFixture(b, open(b, r, ""))
			f.enlist()
			var sessions []store.Session
			for i := range 1000 {
				sessions = append(sessions, f.session(fmt.Sprint("client", i)))
			}
			payload := strings.Repeat("x", 64)
			var finish []store.Op
			batch := store.Batch{}
			next := 0
			cpu := redisCPU(b, r)
			b.ReportAllocs()
			for b.Loop() {
				batch.Reset()
				for range ops {
					op := publish(payload, sessions[next%1000])
					op.Additions = 1
					next++
					batch.Add(op)
				}
				for _, op := range finish {
					batch.Add(op)
				}
				if err := f.w.Commit(b.Context(), &batch); err != nil {
					b.Fatal(err)
				}
				finish = finish[:0]
				for i := range batch.Ops[:ops] {
					t := &batch.Ops[i].Targets[0]
					next := store.Number{Generation: t.Number.Generation, Seq: t.Number.Seq + 1}
					finish = append(finish, store.Op{
						Kind: store.OpFinish, Session: t.Queue.Session, Numbers: []store.Number{t.Number}, Unfinished: next,
					})
				}
			}
			messages := float64(b.N * ops)
			b.ReportMetric(float64(b.Elapsed().Microseconds())/messages, "us/message")
			b.ReportMetric((redisCPU(b, r)-cpu)*1e6/messages, "redis-us/message")
		})
	}
}

// redisCPU is how many seconds of CPU a server has used.
func redisCPU(b *testing.B, r *redistest.Server) (seconds float64) {
	info := parseInfo(r.Client().Info(b.Context(), "cpu").Val())
	for _, name := range []string{"used_cpu_sys", "used_cpu_user"} {
		n, err := strconv.ParseFloat(info[name], 64)
		if err != nil {
			b.Fatal(err)
		}
		seconds += n
	}
	return seconds
}
