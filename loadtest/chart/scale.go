package chart

import (
	"math"
	"slices"
	"strconv"
)

// A scale is an Axis that was fitted to values and to pixels.
type scale struct {
	log      bool
	bytes    bool
	low      float64 // values at the two ends
	high     float64
	from, to float64 // their pixels
	ticks    []Tick
}

// newScale fits the axis to values, of which there is at least one, and to the pixels from and to, with about that many ticks.
func newScale(a Axis, values []float64, from, to float64, ticks int) scale {
	s := scale{log: a.Log, bytes: a.Bytes, low: slices.Min(values), high: slices.Max(values), from: from, to: to}
	if a.Zero && !a.Log {
		s.low, s.high = min(s.low, 0), max(s.high, 0)
	}
	for _, t := range a.Ticks {
		s.low, s.high = min(s.low, t.At), max(s.high, t.At)
	}
	if s.low == s.high {
		s.widen()
	}
	places := s.places(ticks)
	if a.Ticks != nil {
		s.ticks = a.Ticks
		return s
	}
	for _, at := range places {
		s.ticks = append(s.ticks, Tick{at, a.format(at)})
	}
	return s
}

// widen makes room around a single value.
func (s *scale) widen() {
	switch {
	case s.log:
		s.low, s.high = s.low/2, s.high*2
	case s.low == 0:
		s.high = 1
	case s.low > 0:
		s.low, s.high = 0, s.high*2
	default:
		s.low, s.high = s.low*2, 0
	}
}

// at is the pixel of a value.
func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		v, low, high = math.Log10(v), math.Log10(low), math.Log10(high)
	}
	// Halves, since the difference of two large values need not be a number.
	return s.from + (v/2-low/2)/(high/2-low/2)*(s.to-s.from)
}

// places are round values between both ends. A linear axis that is nearly as long as a round one becomes that.
func (s *scale) places(about int) (at []float64) {
	if s.log {
		return s.logPlaces(about)
	}
	unit := 1.0
	for s.bytes && unit < 1<<50 && unit*1024 <= (s.high-s.low)/float64(about) {
		unit *= 1024
	}
	step := unit * roundStep((s.high/2-s.low/2)/float64(about)/unit*2)
	if step == 0 || math.IsInf(step, 0) {
		return []float64{s.low, s.high}
	}
	if s.from > s.to { // a vertical axis ends with a tick
		s.high = math.Ceil(s.high/step) * step
	}
	for i := math.Ceil(s.low / step); i*step <= s.high*(1+1e-9) && len(at) < 4*about; i++ {
		at = append(at, i*step)
	}
	return at
}

// logPlaces are powers of ten; also their double and fivefold if there are few of them.
func (s *scale) logPlaces(about int) (at []float64) {
	first, last := math.Floor(math.Log10(s.low)), math.Ceil(math.Log10(s.high))
	factors := []float64{1}
	if last-first <= float64(about)/2 {
		factors = []float64{1, 2, 5}
		if s.from > s.to { // a vertical axis ends with ticks
			if low, high := 1/roundStep(1/s.low), roundStep(s.high); low > 0 && finite(high) {
				s.low, s.high = low, high
			}
		}
	}
	skip := math.Max(1, math.Ceil((last-first)/float64(2*about)))
	for e := first; e <= last; e += skip {
		for _, f := range factors {
			if v := f * math.Pow(10, e); v >= s.low*(1-1e-9) && v <= s.high*(1+1e-9) {
				at = append(at, v)
			}
		}
	}
	if len(at) < 2 {
		return []float64{s.low, s.high}
	}
	return at
}

// roundStep is the next of 1, 2, 5, 10, … times a power of ten.
func roundStep(v float64) float64 {
	if v <= 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if v <= f*unit*(1+1e-9) {
			return f * unit
		}
	}
	return 10 * unit
}

func (a Axis) format(v float64) string {
	if a.Format != nil {
		return a.Format(v)
	}
	return Short(v)
}

// Short writes three significant digits, of thousands with k, M, G or T: 1234 is 1.23k.
func Short(v float64) string {
	for i, unit := range []string{"T", "G", "M", "k"} {
		if size := math.Pow(1000, float64(4-i)); math.Abs(v) >= size {
			return strconv.FormatFloat(round3(v/size), 'f', -1, 64) + unit
		}
	}
	return strconv.FormatFloat(round3(v), 'f', -1, 64)
}

// round3 keeps three significant digits, or all before the point.
func round3(v float64) float64 {
	if v == 0 || !finite(v) {
		return v
	}
	digits := 2 - math.Floor(math.Log10(math.Abs(v)))
	if digits <= 0 {
		return math.Round(v)
	}
	unit := math.Pow(10, digits)
	if math.IsInf(unit, 0) {
		return 0
	}
	return math.Round(v*unit) / unit
}
