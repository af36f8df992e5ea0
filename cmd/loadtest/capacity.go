package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"loopmq/loadtest"
	"loopmq/loadtest/capacity"
	"loopmq/loadtest/plan"
	"loopmq/loadtest/report"
)

// capacityWarmUp is how long a trial goes on before it counts, unless the scenario says so itself.
const capacityWarmUp = 2 * time.Second

// runCapacity is loadtest capacity.
func runCapacity(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	search := capacity.Search{Pause: time.Second}
	o, err := parseRun("capacity", args, stderr, func(flags *flag.FlagSet) {
		flags.Func("slo", "`objectives` that have to hold, such as 'p99<20ms,loss=0'; docs/loadtest.md lists them", func(text string) (err error) {
			search.SLO, err = capacity.ParseSLO(text)
			return err
		})
		rate := func(to *float64, name, usage string) {
			flags.Func(name, usage, func(text string) (err error) {
				*to, err = plan.ParseCount(text)
				return err
			})
		}
		rate(&search.Start, "start", fmt.Sprintf("first `rate` that is tried, messages a second (default %d)", capacity.DefaultStart))
		rate(&search.Max, "max", "highest `rate` that is tried")
		flags.Func("precision", fmt.Sprintf("by which `share` the answer may be too low (default %v)", capacity.DefaultPrecision), func(text string) (err error) {
			search.Precision, err = share(text)
			return err
		})
		flags.IntVar(&search.Trials, "trials", capacity.DefaultTrials, "most trials")
		flags.DurationVar(&search.Pause, "pause", search.Pause, "time between two trials")
	})
	if errors.Is(err, flag.ErrHelp) {
		return nil // parseRun has said it
	}
	if err != nil {
		return &usageError{err}
	}
	defer o.close()
	if len(search.SLO) == 0 {
		return wrong("--slo is missing: allowed: objectives such as 'p99<20ms,loss=0'")
	}
	if o.scenario.WarmUp == 0 {
		o.scenario.WarmUp = capacityWarmUp
	}
	if _, err := atRate(o.scenario, 1); err != nil {
		return &usageError{err}
	}
	if err := writable(o.json, o.html); err != nil {
		return err
	}
	width := terminalWidth(stderr)
	search.Run = func(ctx context.Context, rate float64) (*loadtest.Result, error) {
		s, err := atRate(o.scenario, rate)
		if err != nil {
			return nil, err
		}
		if width == nil {
			return o.measure(ctx, s, nil) // a line for each trial is enough
		}
		live := report.NewLive(stderr, width, s.Duration)
		defer live.End()
		return o.measure(ctx, s, live.Second)
	}
	search.Progress = func(t capacity.Trial) {
		verdict := "holds"
		if !t.Holds() {
			verdict = strings.Join(t.Violations, ", ")
		}
		fmt.Fprintf(stderr, "%3d  %12s/s  %s\n", t.Number, humanize.CommafWithDigits(t.Rate, 0), verdict)
	}
	answer, err := search.Find(ctx)
	if errors.Is(err, capacity.ErrSearch) {
		return &usageError{err}
	}
	if err != nil {
		return err
	}
	if answer.Result != nil {
		if err := o.write(stdout, answer.Result); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "\n%s\n", conclusion(search, answer))
	if answer.Rate == 0 {
		return errors.New("no rate meets the objectives: " + answer.Why)
	}
	return nil
}

// conclusion is the answer in a sentence.
func conclusion(search capacity.Search, a capacity.Answer) string {
	rate := func(v float64) string { return humanize.CommafWithDigits(v, 0) }
	if a.Rate == 0 {
		return fmt.Sprintf("CAPACITY: none within %s (%s, %d trials)", search.SLO, a.Why, len(a.Trials))
	}
	text := fmt.Sprintf("CAPACITY: %s a second within %s", rate(a.Rate), search.SLO)
	if a.Failed > 0 {
		text += fmt.Sprintf("; %s a second is too much", rate(a.Failed))
	}
	return fmt.Sprintf("%s (%s, %d trials)", text, a.Why, len(a.Trials))
}

// atRate returns the scenario with a rate of messages, or if it has none, of connects. The parts of a mixed scenario keep their proportion.
func atRate(s *loadtest.Scenario, rate float64) (*loadtest.Scenario, error) {
	s = s.Clone()
	switch s.Shape {
	case loadtest.Connects:
		s.ConnectRate = rate
	case loadtest.Mixed:
		of := capacity.Asked(s)
		if of <= 0 {
			return nil, errors.New("no part of the mixed scenario has a rate, so there is none to look for")
		}
		for _, part := range s.Parts {
			part.Rate *= rate / of
		}
	case loadtest.P2P, loadtest.FanIn, loadtest.FanOut, loadtest.Shared, loadtest.Offline:
		s.Rate = rate
		s.Window = 0 // a window of a closed loop would hold the open one up
	default:
		return nil, fmt.Errorf("%s has no rate to look for: allowed: p2p, fan-in, fan-out, shared, offline, connects, mixed", s.Shape)
	}
	return s, nil
}
