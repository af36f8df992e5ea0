package capacity

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"loopmq/loadtest"
)

// sloBytesMax bounds the text of an SLO.
const sloBytesMax = 4096

// An SLO is a service level objective: what has to hold of a run, all of it. The zero value holds of none but an empty one is refused by Search.
type SLO []Objective

// An Objective is a condition on one figure of a Result.
type Objective struct {
	text   string
	figure figure
	op     string
	value  float64 // in the figure's unit; of shares a part of 1
	share  bool    // value is a share of the figure's whole
}

// A figure is something of a Result that an Objective can be about.
type figure struct {
	name string
	kind kind
	// of returns the figure and what it is a part of, 0 if it is a part of nothing; ok is false if it wasn't measured.
	of func(*loadtest.Result) (value, whole float64, ok bool)
}

// A kind is how values of a figure are written.
type kind int

const (
	duration kind = iota // microseconds
	count
	bytes
)

// reached is required of every rate that counts as held: the broker has taken what it was to be sent.
var reached = Objective{text: "rate>=99%", figure: *figureNamed("rate"), op: ">=", value: 0.99, share: true}

var percentiles = []struct {
	name string
	of   func(*loadtest.Latency) float64
}{
	{"p50", func(l *loadtest.Latency) float64 { return l.P50 }},
	{"p90", func(l *loadtest.Latency) float64 { return l.P90 }},
	{"p99", func(l *loadtest.Latency) float64 { return l.P99 }},
	{"p99.9", func(l *loadtest.Latency) float64 { return l.P999 }},
	{"max", func(l *loadtest.Latency) float64 { return l.Max }},
	{"mean", func(l *loadtest.Latency) float64 { return l.Mean }},
}

// latencies are the names that may stand before a percentile; without one it is that of deliveries.
var latencies = []struct{ prefix, name string }{
	{"", loadtest.Deliver},
	{"deliver.", loadtest.Deliver},
	{"ack.", loadtest.PublishAck},
	{"connect.", loadtest.Connect},
}

var figures = func() (all []figure) {
	for _, l := range latencies {
		for _, p := range percentiles {
			all = append(all, figure{l.prefix + p.name, duration, func(r *loadtest.Result) (float64, float64, bool) {
				latency := r.Latencies[l.name]
				if latency == nil || latency.Count == 0 {
					return 0, 0, false
				}
				return p.of(latency), 0, true
			}})
		}
	}
	tally := func(name string, of func(loadtest.Tally) uint64) figure {
		return figure{name, count, func(r *loadtest.Result) (float64, float64, bool) {
			promised, may := r.Audit.Promised(), r.Audit.MayDrop()
			return float64(of(promised) + of(may)), float64(promised.Expected + may.Expected), true
		}}
	}
	return append(all,
		tally("loss", func(t loadtest.Tally) uint64 { return t.Lost }),
		tally("duplicates", func(t loadtest.Tally) uint64 { return t.Duplicated }),
		tally("reordered", func(t loadtest.Tally) uint64 { return t.Reordered }),
		figure{"errors", count, func(r *loadtest.Result) (n, _ float64, _ bool) {
			for _, e := range r.Errors {
				n += float64(e.Count)
			}
			return n, 0, true
		}},
		figure{"rate", count, func(r *loadtest.Result) (float64, float64, bool) {
			if whole := Asked(r.Scenario); whole > 0 || r.Scenario == nil {
				return r.Rates.Sent, whole, r.Seconds > 0
			}
			return r.Rates.Connects, r.Scenario.ConnectRate, r.Seconds > 0
		}},
		figure{"cpu", count, func(r *loadtest.Result) (float64, float64, bool) {
			if r.Broker == nil || r.Seconds <= 0 {
				return 0, 0, false
			}
			return r.Broker.CPUSeconds / r.Seconds, 0, true
		}},
		figure{"memory", bytes, func(r *loadtest.Result) (float64, float64, bool) {
			if r.Broker == nil {
				return 0, 0, false
			}
			return float64(r.Broker.ResidentBytesMax), 0, true
		}},
	)
}()

// Asked is how many messages a second a scenario is to send, with all of its parts; 0 if as many as windows allow, or none.
func Asked(s *loadtest.Scenario) float64 {
	if s == nil {
		return 0
	}
	rate := s.Rate
	for _, part := range s.Parts {
		rate += part.Rate
	}
	return rate
}

func figureNamed(name string) *figure {
	i := slices.IndexFunc(figures, func(f figure) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &figures[i]
}

// ParseSLO reads objectives that are separated by commas, as in "p99<20ms,loss=0": a figure, one of < <= = >= >, and a value.
//
//   - p50, p90, p99, p99.9, max and mean are of the latency from publishing to delivery, or behind "ack." to the acknowledgement, or behind
//     "connect." of connects; values are durations: 20ms.
//   - loss, duplicates and reordered are numbers of messages, promised or not, or shares of those that were expected: loss<0.1%.
//   - errors is their number; rate what was sent in a second, or its share of what was to be sent, which has to be rate>=99% unless the SLO says
//     otherwise. Without messages it is that of connects.
//   - cpu is how many cores the broker used, memory what it held at most: memory<2GiB. Both need the broker's metrics.
func ParseSLO(text string) (SLO, error) {
	if len(text) > sloBytesMax {
		return nil, fmt.Errorf("%w: an SLO has at most %d bytes", ErrSearch, sloBytesMax)
	}
	var slo SLO
	for part := range strings.SplitSeq(text, ",") {
		o, err := parseObjective(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		slo = append(slo, o)
	}
	if !slices.ContainsFunc(slo, func(o Objective) bool { return o.figure.name == "rate" }) {
		slo = append(slo, reached)
	}
	return slo, nil
}

func parseObjective(text string) (Objective, error) {
	at := strings.IndexAny(text, "<=>")
	if at < 0 {
		return Objective{}, fmt.Errorf("%w: objective %q: allowed: FIGURE<VALUE, with <, <=, =, >= or >", ErrSearch, text)
	}
	name, rest := strings.TrimSpace(text[:at]), text[at:]
	value := strings.TrimLeft(rest, "<=>")
	o := Objective{text: text, op: rest[:len(rest)-len(value)]}
	if o.op == "==" {
		o.op = "="
	}
	if !slices.Contains([]string{"<", "<=", "=", ">=", ">"}, o.op) {
		return o, fmt.Errorf("%w: objective %q: %q: allowed: <, <=, =, >=, >", ErrSearch, text, o.op)
	}
	f := figureNamed(name)
	if f == nil {
		return o, fmt.Errorf("%w: objective %q: figure %q: allowed: %s", ErrSearch, text, name, allowed())
	}
	o.figure = *f
	if err := o.parse(strings.TrimSpace(value)); err != nil {
		return o, fmt.Errorf("%w: objective %q: %w", ErrSearch, text, err)
	}
	return o, nil
}

// allowed lists the names of figures.
func allowed() string {
	names := make([]string, len(figures))
	for i, f := range figures {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// parse reads the value.
func (o *Objective) parse(text string) error {
	if o.figure.kind == duration {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return fmt.Errorf("%q: allowed: a duration, such as 20ms", text)
		}
		o.value = float64(d) / float64(time.Microsecond)
		return nil
	}
	if o.figure.kind == bytes {
		n, err := humanize.ParseBytes(text)
		if err != nil {
			return fmt.Errorf("%q: allowed: a size, such as 512MiB", text)
		}
		o.value = float64(n)
		return nil
	}
	number, percent := strings.CutSuffix(text, "%")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n < 1e18) {
		return fmt.Errorf("%q: allowed: a number from 0, or a share such as 0.1%%", text)
	}
	if o.value = n; percent {
		o.value, o.share = n/100, true
		if !slices.Contains([]string{"loss", "duplicates", "reordered", "rate"}, o.figure.name) {
			return fmt.Errorf("%q: %s is no share of anything: allowed: a number", text, o.figure.name)
		}
	}
	return nil
}

// Violations says which objectives the run missed, each with what was measured; none means that it held. A figure that wasn't measured is a
// violation, and so is a run that was interrupted or failed.
func (s SLO) Violations(r *loadtest.Result) (missed []string) {
	if r == nil {
		return []string{"nothing was measured"}
	}
	if r.Interrupted {
		missed = append(missed, "the run was interrupted")
	}
	missed = append(missed, r.Failures()...)
	for _, o := range s {
		if m := o.missed(r); m != "" {
			missed = append(missed, m)
		}
	}
	return missed
}

// missed is what was measured instead of the objective, "" if it is met.
func (o Objective) missed(r *loadtest.Result) string {
	value, whole, ok := o.figure.of(r)
	if !ok || o.share && whole <= 0 {
		return o.text + ": not measured"
	}
	if o.share {
		value /= whole
	}
	var met bool
	switch o.op {
	case "<":
		met = value < o.value
	case "<=":
		met = value <= o.value
	case "=":
		met = value == o.value
	case ">=":
		met = value >= o.value
	case ">":
		met = value > o.value
	}
	if met {
		return ""
	}
	return fmt.Sprintf("%s: %s", o.text, o.write(value))
}

func (o Objective) write(value float64) string {
	switch {
	case o.share:
		return strconv.FormatFloat(value*100, 'g', 4, 64) + "%"
	case o.figure.kind == duration:
		d := time.Duration(value * float64(time.Microsecond))
		for digit := time.Microsecond; digit <= time.Second; digit *= 10 {
			if d >= 1000*digit {
				d = d.Round(10 * digit) // three digits stay
			}
		}
		return d.String()
	case o.figure.kind == bytes:
		return humanize.IBytes(uint64(value))
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

// String returns the SLO as ParseSLO reads it.
func (s SLO) String() string {
	texts := make([]string, len(s))
	for i, o := range s {
		texts[i] = o.text
	}
	return strings.Join(texts, ",")
}
