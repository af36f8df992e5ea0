package meddler_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"loopmq/internal/brokertest"
	"loopmq/internal/meddler"
	"loopmq/loadtest"
)

// TestAudit: the audit of package loadtest finds every message that was spoiled, and nothing else.
func TestAudit(t *testing.T) {
	for _, test := range []struct {
		name  string
		every int
		qos   []byte
		load  loadtest.Scenario
	}{
		{"p2p", 10_000, []byte{1}, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 20, Rate: 50_000}},
		{"p2p, dense", 100, []byte{0, 1, 2}, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 20, Rate: 10_000, Version: 5}},
		{"windows", 100, []byte{2}, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 5, Window: 4}},
		{"fan-in", 100, []byte{1}, loadtest.Scenario{Shape: loadtest.FanIn, Publishers: 10, Subscribers: 2, Rate: 5000}},
		{"fan-out", 100, []byte{0}, loadtest.Scenario{Shape: loadtest.FanOut, Publishers: 2, Subscribers: 20, Rate: 500}},
	} {
		for _, qos := range test.qos {
			t.Run(fmt.Sprintf("%s/qos=%d", test.name, qos), func(t *testing.T) {
				t.Parallel()
				server := brokertest.Start(t)
				p := start(t, server.Addr, meddler.Plan{
					Every:  test.every,
					Faults: []meddler.Fault{meddler.Drop, meddler.Double, meddler.Swap},
					// A payload begins with the number of its publisher.
					Stream: func(_, payload []byte) string { return fmt.Sprint(binary.BigEndian.Uint32(payload)) },
				})
				s := test.load
				s.QoS, s.Targets, s.Drain = qos, []string{"tcp://" + p.Addr()}, 3*time.Second
				// As long as it takes to spoil some, on a slow machine too.
				least := 3
				if test.every > 1000 {
					least = 1
				}
				s.Duration = time.Hour
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				go func() {
					for ctx.Err() == nil && min(p.Count(meddler.Drop), p.Count(meddler.Double), p.Count(meddler.Swap)) < least {
						<-time.After(10 * time.Millisecond)
					}
					stop()
				}()
				r, err := loadtest.Run(ctx, &s, loadtest.Options{})
				if err != nil {
					t.Fatal(err)
				}
				promised, may := r.Audit.Promised(), r.Audit.MayDrop()
				got := [3]uint64{promised.Lost + may.Lost, promised.Duplicated + may.Duplicated, promised.Reordered + may.Reordered}
				want := [3]uint64{uint64(p.Count(meddler.Drop)), uint64(p.Count(meddler.Double)), uint64(p.Count(meddler.Swap))}
				if got != want || promised.Corrupted+may.Corrupted > 0 {
					t.Errorf("lost, duplicated, reordered: %v found, %v made; audit %+v; errors %v", got, want, r.Audit, r.Errors)
				}
				if min(want[0], want[1], want[2]) < uint64(least) {
					t.Errorf("only %v of %d spoiled", want, p.Seen())
				}
				if !r.Broken() {
					t.Error("no promise is broken")
				}
			})
		}
	}
}
