package report

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"loopmq/loadtest"
)

// Text writes a result for a terminal. The errors are those of w.
func Text(w io.Writer, r *loadtest.Result) error {
	var b bytes.Buffer
	name := ""
	if r.Scenario != nil {
		name = clean(r.Scenario.Name) + ": "
	}
	fmt.Fprintf(&b, "%s%s\n", name, Scenario(r.Scenario))
	fmt.Fprintf(&b, "%s\n", measured(r))
	for _, m := range hosts(r) {
		fmt.Fprintf(&b, "%s\n", machine(m))
	}
	for _, t := range tables(r) {
		b.WriteByte('\n')
		t.text(&b)
	}
	if len(r.Errors) > 0 {
		fmt.Fprint(&b, "\nerrors\n")
		for _, e := range r.Errors {
			fmt.Fprintf(&b, "  %s × %s: %s\n", counted(e.Count), clean(e.What), clean(e.Example))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", Verdict(r))
	_, err := w.Write(b.Bytes())
	return err
}

// measured says when and for how long.
func measured(r *loadtest.Result) string {
	text := fmt.Sprintf("measured %s from %s", seconds(r.Seconds), at(r.Started))
	if r.Processes > 1 {
		text += fmt.Sprintf(" by %d processes", r.Processes)
	}
	if r.Interrupted {
		text += "; INTERRUPTED before its time"
	}
	return text
}

func hosts(r *loadtest.Result) []loadtest.Machine {
	if len(r.Hosts) > 0 {
		return r.Hosts
	}
	return []loadtest.Machine{r.Machine}
}

// A table is a part of a report, as text and as HTML.
type table struct {
	Head []string
	Rows [][]string
}

func (t table) text(b *bytes.Buffer) {
	var aligned bytes.Buffer
	tw := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		// The first column begins at the left: what comes before a tab is aligned to the right.
		cells := append([]string{fmt.Sprintf("%-*s", t.width(), row[0])}, row[1:]...)
		fmt.Fprintln(tw, strings.Join(cells, "\t")+"\t")
	}
	_ = tw.Flush()
	for line := range strings.Lines(aligned.String()) {
		b.WriteString(strings.TrimPrefix(line, "  "))
	}
}

// width is that of the first column.
func (t table) width() (widest int) {
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		widest = max(widest, len([]rune(row[0])))
	}
	return widest
}

// tables are the figures of a result.
func tables(r *loadtest.Result) []table {
	all := []table{flows(r)}
	if l := latencies(r); len(l) > 0 {
		t := table{Head: []string{"latency", "count", "p50", "p90", "p99", "p99.9", "max"}}
		for _, n := range l {
			t.Rows = append(t.Rows, []string{
				n.name, number(float64(n.latency.Count)), micros(n.latency.P50), micros(n.latency.P90), micros(n.latency.P99),
				micros(n.latency.P999), micros(n.latency.Max),
			})
		}
		all = append(all, t)
	}
	return append(all, audit(r), cost(r))
}

func flows(r *loadtest.Result) table {
	t := table{Head: []string{"messages", "in all", "a second"}}
	row := func(name string, n uint64, rate float64) {
		if n > 0 {
			t.Rows = append(t.Rows, []string{name, counted(n), number(rate)})
		}
	}
	per := func(n uint64) float64 {
		if r.Seconds <= 0 {
			return 0
		}
		return float64(n) / r.Seconds
	}
	row("sent", r.Totals.Sent, r.Rates.Sent)
	row("acknowledged", r.Totals.Acknowledged, r.Rates.Acknowledged)
	row("to be delivered", r.Totals.Expected, per(r.Totals.Expected))
	row("delivered", r.Totals.Delivered, r.Rates.Delivered)
	row("due and never sent", r.Totals.Unsent, per(r.Totals.Unsent))
	row("connects", r.Totals.Connects, r.Rates.Connects)
	row("reconnects", r.Totals.Reconnects, per(r.Totals.Reconnects))
	row("connections that ended", r.Totals.Disconnects, per(r.Totals.Disconnects))
	row("retained sets received", r.Totals.Retained, per(r.Totals.Retained))
	row("bytes out", r.Totals.BytesOut, per(r.Totals.BytesOut))
	row("bytes in", r.Totals.BytesIn, per(r.Totals.BytesIn))
	return t
}

func audit(r *loadtest.Result) table {
	t := table{Head: []string{"audit", "expected", "lost", "duplicated", "reordered", "corrupted"}}
	for qos, q := range r.Audit.QoS {
		for _, part := range []struct {
			name string
			of   loadtest.Tally
		}{{"promised", q.Promised}, {"may be dropped", q.MayDrop}} {
			if part.of != (loadtest.Tally{}) {
				t.Rows = append(t.Rows, []string{
					fmt.Sprintf("QoS %d, %s", qos, part.name), counted(part.of.Expected), counted(part.of.Lost), counted(part.of.Duplicated),
					counted(part.of.Reordered), counted(part.of.Corrupted),
				})
			}
		}
	}
	if len(t.Rows) == 0 {
		t.Rows = [][]string{{"no messages", "0", "0", "0", "0", "0"}}
	}
	return t
}

func cost(r *loadtest.Result) table {
	of := "message"
	if r.Totals.Expected == 0 {
		of = "connect" // as in Cost
	}
	t := table{Head: []string{"cost", "cores", "CPU per " + of, "calls per " + of, "memory before", "at most", "per connection"}}
	cores := func(cpu float64) string {
		if r.Seconds <= 0 {
			return "-"
		}
		return number(cpu / r.Seconds)
	}
	t.Rows = append(t.Rows, []string{
		"generator", cores(r.Cost.CPUSeconds), micros(r.Cost.MicrosPerMessage), number(r.Cost.CallsPerMessage), "-", "-", "-",
	})
	if b := r.Broker; b != nil {
		t.Rows = append(t.Rows, []string{
			"broker", cores(r.Cost.BrokerCPUSeconds), micros(r.Cost.BrokerMicrosPerMessage), "-",
			size(b.ResidentBytesBefore), size(b.ResidentBytesMax), perConnection(b),
		})
		if r.Cost.BrokerMicrosPerMessage > 0 {
			t.Rows = append(t.Rows, []string{
				"generator ÷ broker", "-", number(r.Cost.MicrosPerMessage / r.Cost.BrokerMicrosPerMessage), "-", "-", "-", "-",
			})
		}
	}
	return t
}

// perConnection is by how much memory grew. A broker that had more before has grown by nothing that could be told.
func perConnection(b *loadtest.BrokerUse) string {
	if b.BytesPerConnection <= 0 {
		return "-"
	}
	return number(b.BytesPerConnection) + " B"
}
