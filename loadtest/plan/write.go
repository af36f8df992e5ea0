package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
)

// assume says what the answer rests on besides the costs.
func (a *Answer) assume() {
	q := a.Question
	say := func(format string, args ...any) { a.Assumptions = append(a.Assumptions, fmt.Sprintf(format, args...)) }
	say("A core of the nodes is as fast as one of the machine where CPU was measured, and %s of each node and Redis stay free for peaks: the rates "+
		"of the question are those of the busiest minutes, not of the average.", percent(q.Free))
	say("Devices and messages are spread evenly over nodes, and each device sends a PINGREQ every %s s.", short(q.KeepAlive.Seconds()))
	if q.FanOut == 1 {
		say("Each message has one subscriber.")
	} else {
		say("Each message has %s on average, and each delivery costs the same.", subscribers(q.FanOut))
	}
	say("Each packet travels alone, with %d bytes of Ethernet, IP and TCP. The payload's size changes the network's load, not the CPU's.", segmentBytes)
	if q.TLS {
		say("Devices connect over TLS 1.3 with a full handshake.")
	}
	if q.Spare > 0 {
		say("Up to %s of a cluster may die at once: the others carry on, and take the devices back within %s s. They do if clients wait a random "+
			"time before they reconnect.", nodes(q.Spare), short(q.Reconnect.Seconds()))
	}
	if a.Nodes > 1 {
		say("Publisher and subscriber are at different nodes as often as chance has it.")
		say("A Redis uses one core for commands, and its network and its disk are no bound. It has a replica of its own size, which isn't counted.")
	} else {
		say("A single node keeps durable sessions on its disk, which is no bound: look at its writes with durable sessions.")
	}
	if a.Clusters > 1 {
		say("A cluster of loopmq has one Redis (docs/cluster.md), so there are %d clusters: publisher and subscriber of a message are in the same one.", a.Clusters)
	}
	say("The load balancer in front isn't counted.")
	measured := 0
	for _, c := range a.Costs.list() {
		if c.Measured {
			measured++
		}
	}
	if measured == 0 {
		a.Warnings = append(a.Warnings, "nothing was measured: all costs are assumed. Measure on a node of the kind that you will have")
	}
}

// WriteJSON writes the answer, indented.
func (a Answer) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(a)
}

// WriteText writes the answer for people: the question, the answer, what is used of each node, the costs and every assumption.
func (a Answer) WriteText(w io.Writer) error {
	var b bytes.Buffer
	q := a.Question
	fmt.Fprintf(&b, "%s devices publish %s messages/s of %d bytes at QoS %d, each for %s; %s of deliveries are for durable sessions",
		comma(q.Devices), comma(q.Rate), q.Payload, q.QoS, subscribers(q.FanOut), percent(q.Durable))
	if q.Queued > 0 {
		fmt.Fprintf(&b, "; %s messages are queued", comma(q.Queued))
	}
	fmt.Fprintf(&b, ".\n\n%s\n\n", a.Summary())
	table := func(title string, rows [][]string) {
		fmt.Fprintf(&b, "%s\n", title)
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range rows {
			fmt.Fprintf(t, "  %s\n", strings.Join(row, "\t"))
		}
		_ = t.Flush()
		b.WriteByte('\n')
	}
	state := "Each node uses:"
	if q.Spare > 0 {
		state = fmt.Sprintf("Each node uses, with %s of its cluster gone and the devices coming back:", nodes(q.Spare))
	}
	table(state, rows(a.Node))
	if a.Nodes > 1 {
		table("Each Redis uses:", rows(a.Redis))
	}
	var costs [][]string
	for _, c := range a.Costs.list() {
		value := short(c.Value) + " " + c.Unit
		if c.Unit == "bytes" {
			value = humanize.IBytes(uint64(c.Value))
		}
		costs = append(costs, []string{c.Name, value, c.Source})
	}
	table("What that is computed from:", costs)
	list := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "%s\n", title)
		}
		for _, line := range lines {
			fmt.Fprintf(&b, "  - %s\n", line)
		}
	}
	list("Assumptions:", a.Assumptions)
	list("\nWARNING:", a.Warnings)
	_, err := w.Write(b.Bytes())
	return err
}

// Summary is the answer in some lines.
func (a Answer) Summary() string {
	q := a.Question
	var b strings.Builder
	fmt.Fprintf(&b, "ANSWER: %s of %s cores, %s and %s", nodes(a.NodesInAll()), short(q.Cores), humanize.IBytes(uint64(q.Memory)), bits(q.Network))
	if a.Clusters > 1 {
		fmt.Fprintf(&b, ", in %d clusters of %d", a.Clusters, a.Nodes)
	}
	switch {
	case a.Nodes == 1:
		b.WriteString(", without Redis\n")
	case a.Clusters == 1:
		b.WriteString(", and one Redis (1 shard)\n")
	default:
		fmt.Fprintf(&b, ", and a Redis for each (%d shards)\n", a.Clusters)
	}
	fmt.Fprintf(&b, "  in all: %s cores, %s of memory; %s of each node and Redis stay free",
		short(float64(a.NodesInAll())*q.Cores), humanize.IBytes(uint64(float64(a.NodesInAll())*q.Memory)), percent(q.Free))
	if q.Spare > 0 {
		fmt.Fprintf(&b, ", with %s of a cluster gone too", nodes(q.Spare))
	}
	fmt.Fprintf(&b, "\n  what decides: %s", a.Decides)
	return b.String()
}

func rows(parts []Part) (rows [][]string) {
	for _, p := range parts {
		rows = append(rows, []string{p.Name, amount(p.Used, p.Unit), "of " + amount(p.Of, p.Unit), percent(p.Use())})
		for _, s := range p.Parts {
			if len(p.Parts) > 1 && s.Used > 0 {
				rows = append(rows, []string{"  " + s.Name, amount(s.Used, p.Unit)})
			}
		}
	}
	return rows
}

func amount(v float64, unit Unit) string {
	switch unit {
	case Bytes:
		return humanize.IBytes(uint64(v))
	case Bits:
		return bits(v)
	case Connections:
		return comma(v)
	}
	return short(v) + " cores"
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return strconv.Itoa(n) + " nodes"
}

func subscribers(n float64) string {
	if n == 1 {
		return "1 subscriber"
	}
	return short(n) + " subscribers"
}

func comma(v float64) string {
	if v < 10 {
		return short(v)
	}
	return humanize.CommafWithDigits(v, 0)
}

func bits(v float64) string {
	n, prefix := humanize.ComputeSI(v)
	return short(n) + " " + prefix + "bit/s"
}

func percent(v float64) string { return strconv.FormatFloat(v*100, 'f', 0, 64) + " %" }

// short writes three digits.
func short(v float64) string {
	if v >= 1000 {
		return humanize.CommafWithDigits(v, 0)
	}
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 3, 64), 64)
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

// ParseCount reads a number as people write it: 3M, 200k, 1.5G, 128.
func ParseCount(text string) (float64, error) {
	number, factor := text, 1.0
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'k', 'K':
			factor = 1e3
		case 'M':
			factor = 1e6
		case 'G', 'B':
			factor = 1e9
		}
		if factor > 1 {
			number = text[:n-1]
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v >= 0 && v*factor <= 1e15) {
		return 0, fmt.Errorf("%w: %q: allowed: a number from 0, such as 500, 200k or 3M", ErrQuestion, text)
	}
	return v * factor, nil
}
