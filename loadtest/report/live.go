package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"loopmq/loadtest"
)

// Live shows a run while it goes on. Its methods are called by one goroutine at a time; what w refuses is left out, since the run matters more.
type Live struct {
	w        io.Writer
	terminal bool
	width    func() int
	measure  time.Duration

	measured float64   // seconds of the measured time so far
	rates    []float64 // of the last seconds
	drawn    int       // lines on the screen that the next picture replaces
}

// sparks is how many seconds the small curve of a terminal goes back.
const sparks = 30

// NewLive shows a run whose measured time is measure. At a terminal, whose width in columns is asked for each time, one picture replaces the last;
// elsewhere, with a nil width, there is a line for each second.
func NewLive(w io.Writer, width func() int, measure time.Duration) *Live {
	return &Live{w: w, terminal: width != nil, width: width, measure: measure}
}

// Second shows a second that is over.
func (l *Live) Second(s loadtest.Second) {
	if s.Phase == "measure" {
		l.measured += s.Seconds
	}
	if !l.terminal {
		_, _ = io.WriteString(l.w, line(s)+"\n")
		return
	}
	rate := max(s.Delivered, s.Sent, s.Connects)
	if l.rates = append(l.rates, rate); len(l.rates) > sparks {
		l.rates = l.rates[1:]
	}
	l.draw(s)
}

// End removes the picture, so that what comes next stands in its place.
func (l *Live) End() {
	_, _ = io.WriteString(l.w, l.erase())
	l.drawn = 0
}

// erase goes back to the first line of the picture and clears what is below.
func (l *Live) erase() string {
	if l.drawn == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", l.drawn)
}

func (l *Live) draw(s loadtest.Second) {
	lines := []string{
		fmt.Sprintf("%s %s", seconds(s.At), clean(s.Phase)) + l.bar(s),
		fmt.Sprintf("%s  %s", spark(l.rates), strings.Join(rates(s), "  ")),
		strings.Join(state(s), "  "),
	}
	if u := use(s); len(u) > 0 {
		lines = append(lines, strings.Join(u, "  "))
	}
	var b strings.Builder
	b.WriteString(l.erase())
	for _, text := range lines {
		// A line that wraps would be two to erase.
		if r, width := []rune(text), l.width(); width > 0 && len(r) >= width {
			text = string(r[:width-1])
		}
		b.WriteString(text + "\n")
	}
	l.drawn = len(lines)
	_, _ = io.WriteString(l.w, b.String())
}

// bar is how much of the measured time is over.
func (l *Live) bar(s loadtest.Second) string {
	if s.Phase != "measure" || l.measure <= 0 {
		return ""
	}
	const length = 24
	full := min(int(l.measured/l.measure.Seconds()*length+0.5), length)
	return fmt.Sprintf("  %s%s %.0f of %.0f s", strings.Repeat("█", full), strings.Repeat("░", length-full), l.measured, l.measure.Seconds())
}

// spark is a curve of one line.
func spark(values []float64) string {
	highest := 0.0
	for _, v := range values {
		highest = max(highest, v)
	}
	levels := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, v := range values {
		level := 0
		if highest > 0 {
			level = int(v / highest * float64(len(levels)-1))
		}
		b.WriteRune(levels[min(max(level, 0), len(levels)-1)])
	}
	return b.String()
}

// line is a second in one line.
func line(s loadtest.Second) string {
	parts := append([]string{fmt.Sprintf("%7s %-8s", seconds(s.At), clean(s.Phase))}, rates(s)...)
	return strings.Join(append(append(parts, state(s)...), use(s)...), "  ")
}

func rates(s loadtest.Second) (parts []string) {
	if s.Connects > 0 {
		parts = append(parts, "connects "+number(s.Connects)+"/s")
	}
	return append(parts, "sent "+number(s.Sent)+"/s", "delivered "+number(s.Delivered)+"/s")
}

func state(s loadtest.Second) (parts []string) {
	for _, p := range []struct {
		name   string
		micros float64
	}{{"deliver p99", s.DeliverP99}, {"ack p99", s.PublishAckP99}, {"connect p99", s.ConnectP99}} {
		if p.micros > 0 {
			parts = append(parts, p.name+" "+micros(p.micros))
		}
	}
	return append(parts, "errors "+number(s.Errors)+"/s", "connections "+number(float64(s.Connections)))
}

func use(s loadtest.Second) (parts []string) {
	if s.BrokerMemory > 0 {
		parts = append(parts, "broker "+number(s.BrokerCPU)+" cores "+size(s.BrokerMemory))
	}
	if s.GeneratorCPU > 0 {
		parts = append(parts, "generator "+number(s.GeneratorCPU)+" cores")
	}
	return parts
}
