package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"loopmq/loadtest"
)

// Compare writes several results beside each other, with what each is of the first. It says if they are not of the same scenario, or not from the
// same machine, since then ratios mean little. The errors are those of w.
func Compare(w io.Writer, names []string, results []*loadtest.Result) error {
	var b bytes.Buffer
	t := table{Head: []string{""}}
	for i, r := range results {
		label := string(rune('A' + i%26))
		scenario := "an unknown scenario"
		if r.Scenario != nil {
			scenario = clean(r.Scenario.Name) + ": " + Scenario(r.Scenario)
		}
		fmt.Fprintf(&b, "%s = %s\n    %s\n    %s\n", label, clean(names[i]), scenario, Verdict(r))
		t.Head = append(t.Head, label)
		if i > 0 {
			t.Head = append(t.Head, label+" ÷ A")
		}
	}
	for _, note := range differences(results) {
		fmt.Fprintf(&b, "NOTE: %s\n", note)
	}
	for _, f := range compared(results) {
		row, some := []string{f.name}, false
		first := 0.0
		for i, r := range results {
			v, ok := f.of(r)
			some = some || ok
			text := "-"
			if ok {
				text = f.format(v)
			}
			row = append(row, text)
			if i == 0 {
				if first = v; !ok {
					first = 0
				}
				continue
			}
			ratio := "-"
			if ok && first > 0 {
				ratio = fmt.Sprintf("%.3f", v/first)
			}
			row = append(row, ratio)
		}
		if some {
			t.Rows = append(t.Rows, row)
		}
	}
	b.WriteByte('\n')
	t.text(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// A comparison is one row.
type comparison struct {
	name   string
	format func(float64) string
	of     func(*loadtest.Result) (v float64, ok bool)
}

// compared are the rows that may be there.
func compared(results []*loadtest.Result) []comparison {
	nonzero := func(name string, format func(float64) string, of func(*loadtest.Result) float64) comparison {
		return comparison{name, format, func(r *loadtest.Result) (float64, bool) { v := of(r); return v, v != 0 }}
	}
	rows := []comparison{
		nonzero("sent/s", number, func(r *loadtest.Result) float64 { return r.Rates.Sent }),
		nonzero("acknowledged/s", number, func(r *loadtest.Result) float64 { return r.Rates.Acknowledged }),
		nonzero("delivered/s", number, func(r *loadtest.Result) float64 { return r.Rates.Delivered }),
		nonzero("connects/s", number, func(r *loadtest.Result) float64 { return r.Rates.Connects }),
	}
	seen := map[string]bool{}
	for _, r := range results {
		for _, n := range latencies(r) {
			seen[n.name] = true
		}
	}
	for _, name := range []string{"publish to deliver", "publish to acknowledgement", "connect", "subscribe to last retained"} {
		if !seen[name] {
			continue
		}
		for _, p := range []struct {
			name string
			of   func(*loadtest.Latency) float64
		}{
			{"p50", func(l *loadtest.Latency) float64 { return l.P50 }},
			{"p99", func(l *loadtest.Latency) float64 { return l.P99 }},
			{"p99.9", func(l *loadtest.Latency) float64 { return l.P999 }},
			{"max", func(l *loadtest.Latency) float64 { return l.Max }},
		} {
			rows = append(rows, comparison{name + ", " + p.name, micros, func(r *loadtest.Result) (float64, bool) {
				for _, n := range latencies(r) {
					if n.name == name {
						return p.of(n.latency), true
					}
				}
				return 0, false
			}})
		}
	}
	tally := func(name string, of func(loadtest.Tally) uint64) comparison {
		return comparison{name, number, func(r *loadtest.Result) (float64, bool) { return float64(of(r.Audit.Promised())), true }}
	}
	return append(rows,
		nonzero("broker CPU per message", micros, func(r *loadtest.Result) float64 { return r.Cost.BrokerMicrosPerMessage }),
		nonzero("generator CPU per message", micros, func(r *loadtest.Result) float64 { return r.Cost.MicrosPerMessage }),
		nonzero("broker memory at most", bytesOf, func(r *loadtest.Result) float64 {
			if r.Broker == nil {
				return 0
			}
			return float64(r.Broker.ResidentBytesMax)
		}),
		nonzero("broker bytes per connection", number, func(r *loadtest.Result) float64 {
			if r.Broker == nil {
				return 0
			}
			return max(0, r.Broker.BytesPerConnection)
		}),
		tally("promised and lost", func(t loadtest.Tally) uint64 { return t.Lost }),
		tally("promised and duplicated", func(t loadtest.Tally) uint64 { return t.Duplicated }),
		tally("promised and reordered", func(t loadtest.Tally) uint64 { return t.Reordered }),
		comparison{"errors", number, func(r *loadtest.Result) (n float64, ok bool) {
			for _, e := range r.Errors {
				n += float64(e.Count)
			}
			return n, true
		}},
	)
}

func bytesOf(v float64) string { return size(uint64(max(v, 0))) }

// differences says why the results may not be comparable.
func differences(results []*loadtest.Result) (notes []string) {
	scenario := func(r *loadtest.Result) string {
		if r.Scenario == nil {
			return ""
		}
		s := r.Scenario.Clone()
		// What may differ between two runs of the same: where, under which name, and how long.
		s.Name, s.Targets, s.Share, s.Password, s.Duration, s.WarmUp, s.Drain = "", nil, loadtest.Share{}, "", 0, 0, 0
		text, _ := json.Marshal(s)
		return string(text)
	}
	for i, r := range results {
		label := string(rune('A' + i%26))
		if scenario(r) != scenario(results[0]) {
			notes = append(notes, label+" is not of A's scenario")
		}
		if m, first := r.Machine, results[0].Machine; m.CPU != first.CPU || m.Cores != first.Cores || m.Kernel != first.Kernel {
			notes = append(notes, label+" was measured from another machine than A")
		}
		if r.Interrupted {
			notes = append(notes, label+" was interrupted")
		}
	}
	return notes
}
