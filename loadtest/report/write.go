package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"

	"loopmq/loadtest"
)

// number writes a count, or a rate that is large enough to be one.
func number(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v != 0 && math.Abs(v) < 100:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return humanize.CommafWithDigits(math.Round(v), 0)
}

func counted(n uint64) string { return humanize.Comma(int64(min(n, math.MaxInt64))) }

// micros writes microseconds in the unit that suits them, with three digits.
func micros(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v < 999.5:
		return strconv.FormatFloat(round3(v), 'f', -1, 64) + " µs"
	case v < 999_500:
		return strconv.FormatFloat(round3(v/1e3), 'f', -1, 64) + " ms"
	}
	return strconv.FormatFloat(round3(v/1e6), 'f', -1, 64) + " s"
}

// round3 keeps three digits of a number below 1000, and whole ones above.
func round3(v float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 3, 64), 64)
	if math.Abs(v) >= 1000 {
		return math.Round(v)
	}
	return rounded
}

func size(n uint64) string { return humanize.IBytes(n) }

func seconds(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) + " s" }

// clean replaces what a terminal would obey.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) && r != ' ' {
			return '?'
		}
		return r
	}, text)
}

// plural writes a count of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return humanize.Comma(int64(n)) + " " + thing + "s"
}

// Scenario says in one line what was run, without the name.
func Scenario(s *loadtest.Scenario) string {
	if s == nil {
		return "an unknown scenario"
	}
	parts := []string{clients(s)}
	if s.Shape == loadtest.Mixed {
		for _, part := range s.Parts {
			parts = append(parts, part.Name+" ("+clients(part)+", "+what(part)+")")
		}
	} else {
		parts = append(parts, what(s))
	}
	if len(s.Targets) > 0 {
		parts = append(parts, "at "+strings.Join(s.Targets, ", "))
	}
	return clean(strings.Join(parts, ", "))
}

// what is a scenario without its clients and targets.
func what(s *loadtest.Scenario) string {
	var parts []string
	if s.Shape != loadtest.Idle && s.Shape != loadtest.Connects && s.Shape != loadtest.Takeover {
		parts = append(parts, fmt.Sprintf("QoS %d", s.QoS), plural(s.Payload, "byte"))
		if s.Rate > 0 {
			parts = append(parts, number(s.Rate)+" messages/s")
		} else {
			parts = append(parts, fmt.Sprintf("%d in flight each", s.Window))
		}
	}
	parts = append(parts, "MQTT "+version(s.Version))
	if s.PublishURL != "" {
		parts = append(parts, "published to "+s.PublishURL)
	}
	if s.Webhook != "" {
		parts = append(parts, "delivered by webhooks to "+s.Webhook)
	}
	if s.Durable || s.DurablePublishers {
		parts = append(parts, "durable sessions")
	}
	if s.ConnectRate > 0 {
		parts = append(parts, number(s.ConnectRate)+" connects/s")
	}
	return strings.Join(parts, ", ")
}

func version(v byte) string {
	switch v {
	case 3:
		return "3.1"
	case 5:
		return "5.0"
	}
	return "3.1.1"
}

// clients says who takes part.
func clients(s *loadtest.Scenario) string {
	switch s.Shape {
	case loadtest.P2P, loadtest.Offline:
		return plural(s.Pairs, "pair")
	case loadtest.FanIn, loadtest.FanOut:
		return plural(s.Publishers, "publisher") + " to " + plural(s.Subscribers, "subscriber")
	case loadtest.Shared:
		return plural(s.Publishers, "publisher") + " to " + plural(s.Subscribers, "subscriber") + " of " + plural(s.Groups, "shared subscription")
	case loadtest.Retained:
		return plural(s.Topics, "retained message") + " to " + plural(s.Subscribers, "subscriber")
	case loadtest.Idle:
		return plural(s.Connections, "idle connection")
	case loadtest.Connects, loadtest.Takeover:
		return plural(s.Connections, "connection") + " over and over"
	case loadtest.Mixed:
		return plural(len(s.Parts), "scenario") + " at once"
	}
	return string(s.Shape)
}

// machine says in one line where the generator ran.
func machine(m loadtest.Machine) string {
	return clean(fmt.Sprintf("%s: %s, %s, %s, Linux %s, load average %s", m.Host, m.CPU, plural(m.Cores, "core"), size(m.Memory), m.Kernel, m.Load))
}

// at writes the time of a run.
func at(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// A named is a latency under the name that people read.
type named struct {
	name    string
	latency *loadtest.Latency
}

// latencies are those of a result that have anything, in the order in which they are shown.
func latencies(r *loadtest.Result) (found []named) {
	for _, n := range []struct{ key, name string }{
		{loadtest.Deliver, "publish to deliver"},
		{loadtest.PublishAck, "publish to acknowledgement"},
		{loadtest.Connect, "connect"},
		{loadtest.RetainedReply, "subscribe to last retained"},
		{loadtest.SendDelay, "sent after it was due"},
	} {
		if l := r.Latencies[n.key]; l != nil && l.Count > 0 {
			found = append(found, named{n.name, l})
		}
	}
	return found
}

// Verdict says in one line whether the broker kept its promises, and the run was what was asked for.
func Verdict(r *loadtest.Result) string {
	p := r.Audit.Promised()
	if failures := r.Failures(); !r.Broken() && len(failures) > 0 {
		return "FAILED: " + strings.Join(failures, ", ")
	}
	if !r.Broken() {
		if p.Expected == 0 {
			return "ok: nothing was promised, so nothing broken"
		}
		return "ok: " + counted(p.Expected) + " promised messages, none lost, duplicated, reordered or corrupted"
	}
	var broken []string
	for _, b := range []struct {
		n    uint64
		what string
	}{{p.Lost, "lost"}, {p.Duplicated, "duplicated"}, {p.Reordered, "reordered"}, {p.Corrupted, "corrupted"}} {
		if b.n > 0 {
			broken = append(broken, counted(b.n)+" "+b.what)
		}
	}
	return "BROKEN: of " + counted(p.Expected) + " promised messages " + strings.Join(broken, ", ")
}
