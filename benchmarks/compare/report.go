//go:build linux

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"golang.org/x/sys/unix"
)

// A report is everything that a comparison found, as --json writes it.
type report struct {
	Machine   machine           `json:"machine"`
	Arguments []string          `json:"arguments"`
	Commands  map[string]string `json:"commands"` // broker -> command, and configuration where there is one
	Rows      []*row            `json:"rows"`
}

// A row is one scenario with one broker.
type row struct {
	Scenario string   `json:"scenario"`
	Figure   figure   `json:"figure"`
	Broker   string   `json:"broker"`
	Rounds   []sample `json:"rounds"`
	Failures []string `json:"failures,omitempty"` // of the rounds that don't count
	Median   sample   `json:"median"`             // field by field
	Lowest   float64  `json:"lowest"`             // value of any round
	Highest  float64  `json:"highest"`
	// Ratio is the first broker's median divided by this one's; 0 for the first, and where one has none.
	Ratio float64 `json:"ratio,omitempty"`
}

// A machine is what figures depend on besides the brokers.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Load   string `json:"load_average_at_start"`
	Files  uint64 `json:"open_files_limit"`
}

func thisMachine() machine {
	m := machine{CPU: "unknown", Cores: runtime.NumCPU(), Kernel: "unknown", Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			m.CPU = strings.Trim(line, " \t:")
		}
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.Files = limit.Cur
	}
	return m
}

// row returns the row of s with the broker, which it adds the first time.
func (r *report) row(s scenario, broker string) *row {
	for _, w := range r.Rows {
		if w.Scenario == s.name && w.Broker == broker {
			return w
		}
	}
	w := &row{Scenario: s.name, Figure: s.figure, Broker: broker}
	r.Rows = append(r.Rows, w)
	return w
}

// failed says whether a round of any row didn't count.
func (r *report) failed() bool {
	return slices.ContainsFunc(r.Rows, func(w *row) bool { return len(w.Failures) > 0 })
}

// summarize computes medians and ratios.
func (r *report) summarize() {
	var first *row // of the scenario
	for _, w := range r.Rows {
		if first == nil || first.Scenario != w.Scenario {
			first = w
		}
		if len(w.Rounds) == 0 {
			continue
		}
		w.Median = medians(w.Rounds)
		w.Lowest = slices.MinFunc(w.Rounds, byValue).Value
		w.Highest = slices.MaxFunc(w.Rounds, byValue).Value
		if w != first && w.Median.Value > 0 {
			w.Ratio = first.Median.Value / w.Median.Value
		}
	}
}

func byValue(a, b sample) int { return cmp.Compare(a.Value, b.Value) }

// medians returns the median of each field; counts are summed.
func medians(rounds []sample) sample {
	of := func(field func(*sample) *float64) float64 {
		values := make([]float64, len(rounds))
		for i := range rounds {
			values[i] = *field(&rounds[i])
		}
		return median(values)
	}
	var m sample
	for _, field := range []func(*sample) *float64{
		func(s *sample) *float64 { return &s.Value },
		func(s *sample) *float64 { return &s.Rate },
		func(s *sample) *float64 { return &s.BrokerMicros },
		func(s *sample) *float64 { return &s.GenMicros },
		func(s *sample) *float64 { return &s.GenCalls },
		func(s *sample) *float64 { return &s.P50Micros },
		func(s *sample) *float64 { return &s.P99Micros },
		func(s *sample) *float64 { return &s.P999Micros },
		func(s *sample) *float64 { return &s.BytesPerClient },
	} {
		*field(&m) = of(field)
	}
	for _, s := range rounds {
		m.Expected += s.Expected
		m.Delivered += s.Delivered
	}
	return m
}

// median sorts values, which must not be empty.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

var header = []string{
	"scenario", "broker", "median", "unit", "first ÷ this", "lowest–highest", "per second", "broker CPU µs", "generator CPU µs",
	"generator calls", "deliveries", "check",
}

func (w *row) cells() []string {
	check := fmt.Sprintf("ok ×%d", len(w.Rounds))
	if len(w.Failures) > 0 {
		check = fmt.Sprintf("FAILED ×%d", len(w.Failures))
	}
	if len(w.Rounds) == 0 {
		return []string{w.Scenario, w.Broker, "-", string(w.Figure), "-", "-", "-", "-", "-", "-", "-", check}
	}
	ratio := "-"
	if w.Ratio > 0 {
		ratio = fmt.Sprintf("%.3f", w.Ratio)
	}
	m := w.Median
	return []string{
		w.Scenario, w.Broker, short(m.Value), string(w.Figure), ratio, short(w.Lowest) + "–" + short(w.Highest),
		fmt.Sprintf("%.0f", m.Rate), fmt.Sprintf("%.2f", m.BrokerMicros), fmt.Sprintf("%.2f", m.GenMicros),
		fmt.Sprintf("%.3f", m.GenCalls), fmt.Sprint(m.Delivered), check,
	}
}

// short prints three significant digits or all those before the point.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// table prints the rows for a terminal.
func (r *report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, row := range r.Rows {
		fmt.Fprintln(t, strings.Join(row.cells(), "\t"))
	}
	_ = t.Flush()
	r.failures(w, "")
}

// markdown prints the rows and all that is needed to judge and to repeat them.
func (r *report) markdown(w io.Writer) {
	m := r.Machine
	fmt.Fprint(w, `# Comparison with other brokers

Medians of interleaved rounds, 64-byte payloads, all brokers with the same clients. Costs and calls are per delivered message (per
connection in connect and idle). "First ÷ this" divides the first broker's median by this row's: below 1 the first one needs less, and
of messages/s has less. The command's package comment says how it is measured, its table of scenarios with which clients.

`)
	fmt.Fprintf(w, "%s, %d cores shared by broker and generator, Linux %s, %s, load average at start %s, open files limit %d.\n\n",
		m.CPU, m.Cores, m.Kernel, m.Go, m.Load, m.Files)
	fmt.Fprint(w, "    go run ./benchmarks/compare")
	for _, argument := range r.Arguments {
		if strings.ContainsFunc(argument, func(c rune) bool { return unicode.IsSpace(c) || strings.ContainsRune("$|;&*?'\"", c) }) {
			argument = quote(argument)
		}
		fmt.Fprint(w, " ", argument)
	}
	fmt.Fprint(w, "\n\n")
	for _, row := range r.Rows {
		if row.Scenario == r.Rows[0].Scenario {
			fmt.Fprintf(w, "- %s: `%s`\n", row.Broker, strings.ReplaceAll(r.Commands[row.Broker], "\n", "; "))
		}
	}
	fmt.Fprintf(w, "\n| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat("---|", len(header)))
	for _, row := range r.Rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row.cells(), " | "))
	}
	r.failures(w, "\n- ")
}

func (r *report) failures(w io.Writer, prefix string) {
	for _, row := range r.Rows {
		for _, failure := range row.Failures {
			fmt.Fprintf(w, "%sFAILED %s %s: %s\n", prefix, row.Scenario, row.Broker, failure)
		}
	}
}

func (r *report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
