// Package capacity finds the highest rate of messages at which a broker still meets a service level objective: by doubling until it doesn't, and
// by halving the gap. It knows nothing of sockets: a Search is handed a function that runs one trial.
package capacity

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"loopmq/loadtest"
)

// What a Search uses where it has zero.
const (
	DefaultStart     = 1000
	DefaultMax       = 100_000_000
	DefaultPrecision = 0.05
	DefaultTrials    = 40
)

// ErrSearch is what a Search that makes no sense is refused with.
var ErrSearch = errors.New("capacity search")

// A Search says how the highest rate is looked for. Its Run and Progress are called by the goroutine of Find, one at a time.
type Search struct {
	SLO SLO
	// Run measures at rate, in messages/s of all publishers, and returns what came of it. An error ends the search: a broker that only is too
	// slow is a Result, not an error.
	Run func(ctx context.Context, rate float64) (*loadtest.Result, error)
	// Progress hears of each trial; nil means nobody does.
	Progress func(Trial)

	Start float64 // first rate, messages/s; 0: DefaultStart
	Max   float64 // highest rate that is tried, messages/s; 0: DefaultMax
	// Precision is by which part the lowest rate that failed may be above the highest that held, when the search ends; 0: DefaultPrecision.
	Precision float64
	// Trials bounds how many there are in all; 0: DefaultTrials.
	Trials int
	// Pause is how long the broker is left alone between two trials, so that one that was overloaded doesn't spoil the next.
	Pause time.Duration
}

// A Trial is one run of a Search.
type Trial struct {
	Number     int              `json:"number"` // from 1
	Rate       float64          `json:"rate"`   // asked for, messages/s
	Violations []string         `json:"violations,omitempty"`
	Result     *loadtest.Result `json:"-"`
}

// Holds says whether the trial met the objectives.
func (t Trial) Holds() bool { return len(t.Violations) == 0 }

// An Answer is what a Search found.
type Answer struct {
	// Rate is the highest rate that held below Failed, in messages/s; 0 if none did. It has held twice, unless the search was cut short.
	Rate float64 `json:"rate"`
	// Failed is the lowest rate that failed, and did so each time; 0 if none did, and Rate is a lower bound.
	Failed float64 `json:"failed"`
	// Why says why the search ended.
	Why    string  `json:"why"`
	Trials []Trial `json:"trials"`
	// Result is that of the last trial that held at Rate; nil without one.
	Result *loadtest.Result `json:"-"`
}

// Find searches. It ends by itself, after at most Trials trials. The end of ctx is not an error: the Answer is what is known by then. A rate fails
// only if it fails twice in a row, since one stumble of a shared machine says little about the broker. In the end the rate that failed has
// to fail again, or the search goes on above it, and the rate that is answered has to hold again.
func (s Search) Find(ctx context.Context) (Answer, error) {
	s.defaults()
	if err := s.check(); err != nil {
		return Answer{}, err
	}
	f := finder{Search: s, ctx: ctx}
	err := f.find()
	f.conclude()
	if errors.Is(err, errEnd) {
		err = nil
	}
	return f.answer, err
}

func (s *Search) defaults() {
	if s.Start == 0 {
		s.Start = DefaultStart
	}
	if s.Max == 0 {
		s.Max = max(DefaultMax, s.Start)
	}
	if s.Precision == 0 {
		s.Precision = DefaultPrecision
	}
	if s.Trials == 0 {
		s.Trials = DefaultTrials
	}
}

func (s *Search) check() error {
	switch {
	case s.Run == nil:
		return fmt.Errorf("%w: nothing to run", ErrSearch)
	case len(s.SLO) == 0:
		return fmt.Errorf("%w: no objective", ErrSearch)
	case !(s.Start >= 1) || math.IsInf(s.Start, 0):
		return fmt.Errorf("%w: start %v: allowed: 1 and above", ErrSearch, s.Start)
	case !(s.Max >= s.Start) || math.IsInf(s.Max, 0):
		return fmt.Errorf("%w: max %v: allowed: the start, %v, and above", ErrSearch, s.Max, s.Start)
	case !(s.Precision >= 0.001 && s.Precision <= 1):
		return fmt.Errorf("%w: precision %v: allowed: 0.001 to 1", ErrSearch, s.Precision)
	case s.Trials < 1:
		return fmt.Errorf("%w: trials %d: allowed: 1 and above", ErrSearch, s.Trials)
	case s.Pause < 0:
		return fmt.Errorf("%w: pause %v: allowed: 0 and above", ErrSearch, s.Pause)
	}
	return nil
}

// errEnd ends a search that isn't at its end with what is known.
var errEnd = errors.New("end")

// A finder is one search under way.
type finder struct {
	Search
	ctx    context.Context
	answer Answer
}

// find doubles Start until that fails, or halves it until that holds, and then bisects. Its error says why it ended, and is never nil.
func (f *finder) find() error {
	low := 0.0 // the highest rate that held; the lowest that failed is answer.Failed
	for {
		rate, high := f.Start, f.answer.Failed
		closed := low > 0 && high > 0 && high <= low*(1+f.Precision)
		switch {
		case closed:
			// Two stumbles in a row far below what the broker can do would be the end of the search: what failed has to fail again.
			rate = high
		case low > 0 && high > 0:
			rate = math.Sqrt(low * high) // equal parts of a ratio, as Precision is one
		case low > 0 && low >= f.Max:
			return f.confirm(low, "the highest rate that may be tried holds")
		case low > 0:
			rate = min(2*low, f.Max)
		case high > 1:
			rate = max(high/2, 1)
		case high > 0:
			return f.end("no rate holds")
		}
		holds, err := f.holds(rate)
		switch {
		case err != nil:
			return err
		case holds && closed:
			low, f.answer.Failed = rate, 0
		case holds:
			low = rate
		case closed:
			return f.confirm(low, "found")
		default:
			f.answer.Failed = rate
		}
	}
}

// confirm tries a rate that held again, and then less and less until one holds twice.
func (f *finder) confirm(rate float64, why string) error {
	for held := 1; held < 2; {
		holds, err := f.holds(rate)
		switch {
		case err != nil:
			return err
		case holds:
			held++
			continue
		}
		if f.answer.Failed = rate; rate <= 1 {
			return f.end("no rate holds")
		}
		held, rate, why = 0, max(rate/(1+f.Precision), 1), "found"
	}
	return f.end(why)
}

// holds tries a rate, once more if it fails.
func (f *finder) holds(rate float64) (bool, error) {
	for range 2 {
		t, err := f.trial(rate)
		if err != nil || t.Holds() {
			return err == nil, err
		}
	}
	return false, nil
}

func (f *finder) trial(rate float64) (Trial, error) {
	if len(f.answer.Trials) == f.Trials {
		return Trial{}, f.end(fmt.Sprintf("the bound of %d trials was reached", f.Trials))
	}
	if len(f.answer.Trials) > 0 {
		pause := time.NewTimer(f.Pause)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-f.ctx.Done():
		}
	}
	if f.ctx.Err() != nil {
		return Trial{}, f.end("interrupted")
	}
	result, err := f.Run(f.ctx, rate)
	if f.ctx.Err() != nil {
		return Trial{}, f.end("interrupted") // a trial that was cut short says nothing
	}
	if err != nil {
		return Trial{}, fmt.Errorf("trial at %.0f messages/s: %w", rate, err)
	}
	t := Trial{Number: len(f.answer.Trials) + 1, Rate: rate, Violations: f.SLO.Violations(result), Result: result}
	f.answer.Trials = append(f.answer.Trials, t)
	if f.Progress != nil {
		f.Progress(t)
	}
	return t, nil
}

// end says why the search is over.
func (f *finder) end(why string) error {
	f.answer.Why = why
	return errEnd
}

// conclude looks for the highest rate that held.
func (f *finder) conclude() {
	a := &f.answer
	for _, t := range a.Trials {
		if t.Holds() && t.Rate >= a.Rate && (a.Failed == 0 || t.Rate < a.Failed) {
			a.Rate, a.Result = t.Rate, t.Result
		}
	}
}
