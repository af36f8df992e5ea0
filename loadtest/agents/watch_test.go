package agents

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"loopmq/loadtest"
)

func TestTogetherSeconds(t *testing.T) {
	t.Parallel()
	got := together([][]loadtest.Second{
		{{Seconds: 1, Phase: "measure", Sent: 100, Delivered: 100, DeliverP50: 10, DeliverP99: 50, Connections: 5, GeneratorCPU: 0.5}},
		{
			{Seconds: 1, Phase: "warm_up", Sent: 100, Delivered: 100, DeliverP50: 20, DeliverP99: 90, Connections: 6, GeneratorCPU: 0.1},
			{Seconds: 1, Phase: "measure", Sent: 300, Delivered: 500, DeliverP50: 20, DeliverP99: 30, Connections: 7, GeneratorCPU: 0.3},
		},
	})
	want := loadtest.Second{
		Seconds: 2, Phase: "measure", Sent: 300, Delivered: 400, DeliverP50: 17.5, DeliverP99: 90, Connections: 12, GeneratorCPU: 0.7,
	}
	if got.GeneratorCPU = math.Round(got.GeneratorCPU*1e6) / 1e6; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestWatch: a broker uses half a core, is restarted, and can't be looked at meanwhile.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var restarted time.Duration
		broker := func(context.Context) (loadtest.BrokerSample, error) {
			at := time.Since(began)
			if at == 5*time.Second {
				restarted = at
				return loadtest.BrokerSample{}, errors.New("connection refused")
			}
			return loadtest.BrokerSample{CPUSeconds: (at - restarted).Seconds() / 2, ResidentBytes: 1000 + uint64(at.Seconds())}, nil
		}
		crew, _ := crewOf(t.Context(), t, func(ctx context.Context, s *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
			r, err := play(ctx, s, o)
			r.Phases = []loadtest.Phase{{Name: "measure", At: 0, Seconds: 10}}
			r.Timeline = []loadtest.Second{{At: 1.5}, {At: 2}, {At: 9}}
			r.Totals.Delivered = 4
			return r, err
		})
		var seen []loadtest.Second
		r, err := conduct(t.Context(), scenario(t, func(s *loadtest.Scenario) { s.Duration = 10 * time.Second }), crew,
			Options{Logger: quiet, Broker: broker, Progress: func(s loadtest.Second) { seen = append(seen, s) }})
		if err != nil {
			t.Fatal(err)
		}
		if r.Broker == nil || r.Broker.ResidentBytesBefore != 1000 || r.Broker.ResidentBytesMax < 1009 {
			t.Fatalf("broker: %+v", r.Broker)
		}
		// 4 s at half a core, then from 5 s to 10 s; what it used between the last look and its end nobody knows.
		if got := r.Broker.CPUSeconds; got < 3.5 || got > 4.5 || r.Cost.BrokerCPUSeconds != got || r.Cost.BrokerMicrosPerMessage != got*1e6/4 {
			t.Errorf("%v CPU seconds, %+v", got, r.Cost)
		}
		for _, s := range r.Timeline {
			if s.At == 5 || s.At == 6 { // the restart
				continue
			}
			if s.BrokerCPU != 0.5 || s.BrokerMemory < 1000 {
				t.Errorf("timeline: %+v", s)
			}
		}
		if len(seen) == 0 || seen[2].BrokerCPU != 0.5 {
			t.Errorf("progress: %+v", seen)
		}
		if want := "look at the broker: connection refused\n"; groups(r) != want {
			t.Errorf("errors %q, want %q", groups(r), want)
		}
	})
}
