package capacity_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"loopmq/loadtest"
	"loopmq/loadtest/capacity"
)

// objective is met by measured(true).
func objective(t *testing.T) capacity.SLO {
	t.Helper()
	slo, err := capacity.ParseSLO("p99<20ms,loss=0")
	if err != nil {
		t.Fatal(err)
	}
	return slo
}

// measured is the Result of a broker that is up to the rate, or isn't.
func measured(rate float64, well bool) *loadtest.Result {
	p99 := 1000.0
	if !well {
		p99 = 50_000
	}
	return &loadtest.Result{
		Scenario:  &loadtest.Scenario{Rate: rate},
		Seconds:   10,
		Rates:     loadtest.Rates{Sent: rate},
		Latencies: map[string]*loadtest.Latency{loadtest.Deliver: {Count: 1, P99: p99}},
	}
}

// upTo is a broker that carries limit messages/s.
func upTo(limit float64) func(context.Context, float64) (*loadtest.Result, error) {
	return func(_ context.Context, rate float64) (*loadtest.Result, error) {
		return measured(rate, rate <= limit), nil
	}
}

func TestSearchFindsTheLimit(t *testing.T) {
	for _, limit := range []float64{1, 3, 999, 1000, 1001, 54_321, 2_000_000} {
		for _, start := range []float64{0, 1, 700, 1e6} {
			t.Run(fmt.Sprintf("limit=%v/start=%v", limit, start), func(t *testing.T) {
				seen := 0
				s := capacity.Search{
					SLO: objective(t), Run: upTo(limit), Start: start, Trials: 100,
					Progress: func(trial capacity.Trial) {
						if seen++; trial.Number != seen || trial.Holds() != (trial.Rate <= limit) || trial.Result.Rates.Sent != trial.Rate {
							t.Errorf("trial %d is %+v", seen, trial)
						}
					},
				}
				a, err := s.Find(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if a.Why != "found" || a.Rate > limit || a.Rate < limit/1.05 || a.Failed <= limit || a.Failed > a.Rate*1.05*(1+1e-9) {
					t.Errorf("got %v, failed %v, %s", a.Rate, a.Failed, a.Why)
				}
				if a.Result == nil || a.Result.Rates.Sent != a.Rate {
					t.Errorf("the result is %+v", a.Result)
				}
				if len(a.Trials) != seen || seen > 60 {
					t.Errorf("%d trials, %d seen", len(a.Trials), seen)
				}
				held := 0
				for _, trial := range a.Trials {
					if trial.Rate == a.Rate && trial.Holds() {
						held++
					}
				}
				if held < 2 {
					t.Errorf("the answer held %d times", held)
				}
			})
		}
	}
}

// What is between the two is halved as a ratio, so that as many trials are needed at low rates as at high ones.
func TestSearchHalvesTheRatio(t *testing.T) {
	s := capacity.Search{SLO: objective(t), Run: upTo(5000), Start: 1000}
	a, err := s.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []float64{1000, 2000, 4000, 8000, 8000, 5656.85, 5656.85, 4756.83, 5187.36, 5187.36, 4967.43, 5187.36, 5187.36, 4967.43}
	for i, trial := range a.Trials {
		if len(a.Trials) != len(want) || math.Abs(trial.Rate-want[i]) > 0.01 {
			t.Fatalf("trial %d of %d is at %v, want %v", i+1, len(a.Trials), trial.Rate, want)
		}
	}
}

// Answers agree though one trial in ten stumbles, and though near the limit it is a matter of luck whether a rate holds. The seeds are fixed:
// this is about the search, and no machine has a part in it.
func TestSearchOfANoisyBrokerAgrees(t *testing.T) {
	const limit, runs = 100_000, 500
	near := 0
	for run := range uint64(runs) {
		random := rand.New(rand.NewPCG(run, 0))
		s := capacity.Search{SLO: objective(t), Trials: 60, Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
			stumbles := random.Float64() < 0.1
			return measured(rate, !stumbles && rate <= limit*(1+0.03*random.NormFloat64())), nil
		}}
		a, err := s.Find(t.Context())
		if err != nil || len(a.Trials) > 60 {
			t.Fatalf("run %d: %d trials (%v)", run, len(a.Trials), err)
		}
		if a.Rate > limit/1.075 && a.Rate < limit*1.075 {
			near++
		}
	}
	if t.Logf("%d of %d answers are within 15 %% of each other", near, runs); near < runs*97/100 {
		t.Errorf("only %d of %d answers are within 15 %% of each other", near, runs)
	}
}

// A rate that stumbled twice in a row, far below what the broker can do, isn't the end.
func TestSearchGoesOnAboveAStumble(t *testing.T) {
	stumbles := 2
	s := capacity.Search{SLO: objective(t), Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
		if rate >= 2000 && stumbles > 0 {
			stumbles--
			return measured(rate, false), nil
		}
		return measured(rate, rate <= 50_000), nil
	}}
	a, err := s.Find(t.Context())
	if err != nil || a.Rate > 50_000 || a.Rate < 50_000/1.05 || a.Failed <= 50_000 {
		t.Errorf("got %v, failed %v, %s (%v)", a.Rate, a.Failed, a.Why, err)
	}
}

func TestSearchOneStumbleIsNone(t *testing.T) {
	stumbled := map[float64]bool{}
	s := capacity.Search{SLO: objective(t), Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
		first := !stumbled[rate]
		stumbled[rate] = true
		return measured(rate, !first && rate <= 50_000), nil
	}, Trials: 100}
	a, err := s.Find(t.Context())
	if err != nil || a.Rate > 50_000 || a.Rate < 50_000/1.05 {
		t.Errorf("got %v, %s (%v)", a.Rate, a.Why, err)
	}
}

// A rate that held once, and then never again, isn't the answer: a lower one is.
func TestSearchConfirms(t *testing.T) {
	tried := map[float64]int{}
	s := capacity.Search{SLO: objective(t), Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
		tried[rate]++
		return measured(rate, rate <= 10_000 || tried[rate] == 1 && rate <= 20_000), nil
	}, Trials: 200}
	a, err := s.Find(t.Context())
	if err != nil || a.Rate > 10_000 || a.Rate < 10_000/1.05 || a.Failed <= a.Rate || a.Why != "found" {
		t.Errorf("got %v, failed %v, %s (%v)", a.Rate, a.Failed, a.Why, err)
	}
}

func TestSearchEnds(t *testing.T) {
	run := func(s capacity.Search, limit float64) capacity.Answer {
		t.Helper()
		s.SLO, s.Run = objective(t), upTo(limit)
		a, err := s.Find(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := run(capacity.Search{}, 0); a.Rate != 0 || a.Result != nil || a.Failed != 1 || a.Why != "no rate holds" {
		t.Errorf("of a broker that carries nothing: %v, failed %v, %s", a.Rate, a.Failed, a.Why)
	}
	if a := run(capacity.Search{Max: 3000}, math.Inf(1)); a.Rate != 3000 || a.Failed != 0 || a.Why != "the highest rate that may be tried holds" {
		t.Errorf("of a broker that carries everything: %v, failed %v, %s", a.Rate, a.Failed, a.Why)
	}
	if a := run(capacity.Search{Trials: 4}, 5000); a.Rate != 4000 || a.Why != "the bound of 4 trials was reached" {
		t.Errorf("within 4 trials: %v, %s", a.Rate, a.Why)
	}
	flaky := 0
	s := capacity.Search{SLO: objective(t), Start: 1, Max: 1, Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
		flaky++
		return measured(rate, flaky == 1), nil
	}}
	if a, err := s.Find(t.Context()); err != nil || a.Rate != 0 || a.Why != "no rate holds" {
		t.Errorf("of one message/s that held once: %v, %s (%v)", a.Rate, a.Why, err)
	}
}

func TestSearchPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		s := capacity.Search{SLO: objective(t), Pause: 3 * time.Second, Max: 2000, Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
			at = append(at, time.Since(begin))
			time.Sleep(10 * time.Second)
			return measured(rate, true), nil
		}}
		if _, err := s.Find(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{0, 13 * time.Second, 26 * time.Second}; !reflect.DeepEqual(at, want) {
			t.Errorf("trials began at %v, want %v", at, want)
		}
	})
}

func TestSearchInterrupted(t *testing.T) {
	for _, during := range []string{"trial", "pause"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			trials := 0
			s := capacity.Search{SLO: objective(t), Pause: time.Hour, Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
				if trials++; trials == 3 && during == "trial" {
					cancel()
				}
				return measured(rate, true), nil
			}, Progress: func(trial capacity.Trial) {
				if trial.Number == 2 && during == "pause" {
					time.AfterFunc(time.Minute, cancel)
				}
			}}
			a, err := s.Find(ctx)
			if err != nil || a.Rate != 2000 || len(a.Trials) != 2 || a.Why != "interrupted" {
				t.Errorf("in a %s: %v after %d trials, %s (%v)", during, a.Rate, len(a.Trials), a.Why, err)
			}
		})
	}
}

var errDown = errors.New("connection refused")

func TestSearchErrors(t *testing.T) {
	s := capacity.Search{SLO: objective(t), Run: func(_ context.Context, rate float64) (*loadtest.Result, error) {
		if rate > 1000 {
			return nil, errDown
		}
		return measured(rate, true), nil
	}}
	if a, err := s.Find(t.Context()); !errors.Is(err, errDown) || !strings.Contains(err.Error(), "2000 messages/s") || a.Rate != 1000 {
		t.Errorf("got %v (%v)", a.Rate, err)
	}
	for want, s := range map[string]capacity.Search{
		"nothing to run": {SLO: objective(t)},
		"no objective":   {Run: upTo(1)},
		"start":          {SLO: objective(t), Run: upTo(1), Start: math.NaN()},
		"max":            {SLO: objective(t), Run: upTo(1), Start: 100, Max: 10},
		"precision":      {SLO: objective(t), Run: upTo(1), Precision: 2},
		"trials":         {SLO: objective(t), Run: upTo(1), Trials: -1},
		"pause":          {SLO: objective(t), Run: upTo(1), Pause: -1},
	} {
		if _, err := s.Find(t.Context()); !errors.Is(err, capacity.ErrSearch) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error about %s", err, want)
		}
	}
}
