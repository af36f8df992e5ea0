package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"loopmq/loadtest"
	"loopmq/loadtest/chart"
)

//go:embed report.html
var pageText string

var page = template.Must(template.New("report").Parse(pageText))

// HTML writes a result as one page with charts: rates and latencies over time, the percentile curves, memory and CPU. The page needs nothing
// else: it has no script, and refers to no address. The errors are those of w, and of histograms that can't be read.
func HTML(w io.Writer, r *loadtest.Result) error {
	charts, err := charts(r)
	if err != nil {
		return err
	}
	name := "load test"
	if r.Scenario != nil && r.Scenario.Name != "" {
		name = r.Scenario.Name
	}
	var hostsText []string
	for _, m := range hosts(r) {
		hostsText = append(hostsText, machine(m))
	}
	var scenario strings.Builder
	if r.Scenario != nil {
		shown := r.Scenario.Clone()
		for _, s := range append([]*loadtest.Scenario{shown}, shown.Parts...) {
			s.Password = ""
		}
		if err := shown.WriteYAML(&scenario); err != nil {
			return fmt.Errorf("write scenario: %w", err)
		}
	}
	var b bytes.Buffer
	err = page.Execute(&b, map[string]any{
		"Name": name, "Summary": Scenario(r.Scenario), "Measured": measured(r), "Hosts": hostsText, "Go": clean(r.Machine.Go),
		"Verdict": Verdict(r), "Broken": r.Broken() || len(r.Failures()) > 0, "Interrupted": r.Interrupted,
		"Charts": charts, "Tables": tables(r), "Errors": r.Errors, "Scenario": scenario.String(),
	})
	if err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

// charts draws what the result has; what it has nothing of is left out.
func charts(r *loadtest.Result) (drawn []template.HTML, err error) {
	t := timeline(r.Timeline)
	marks := phases(r)
	over := func(title string, y chart.Axis, lines ...chart.Line) {
		y.Zero = !y.Log
		c := chart.Chart{Title: title, X: chart.Axis{Label: "s", Zero: true}, Y: y, Marks: marks}
		for _, l := range lines {
			if something(l.Points) {
				c.Lines = append(c.Lines, l)
			}
		}
		if len(c.Lines) > 0 {
			drawn = append(drawn, template.HTML(c.SVG())) // the chart escapes all text
		}
	}
	second := func(name string, of func(loadtest.Second) float64) chart.Line {
		// An acknowledgement is often as quick as a delivery: dashed, both lines are seen.
		return chart.Line{Name: name, Points: t.points(of), Dashed: strings.HasPrefix(name, "ack")}
	}
	over("Rate", chart.Axis{Label: "messages/s"},
		second("sent", func(s loadtest.Second) float64 { return s.Sent }),
		second("delivered", func(s loadtest.Second) float64 { return s.Delivered }),
		second("acknowledged", func(s loadtest.Second) float64 { return s.Acknowledged }))
	over("Latency", chart.Axis{Log: true, Format: micros},
		second("deliver p99", func(s loadtest.Second) float64 { return s.DeliverP99 }),
		second("deliver p50", func(s loadtest.Second) float64 { return s.DeliverP50 }),
		second("ack p99", func(s loadtest.Second) float64 { return s.PublishAckP99 }),
		second("ack p50", func(s loadtest.Second) float64 { return s.PublishAckP50 }),
		second("connect p99", func(s loadtest.Second) float64 { return s.ConnectP99 }))
	curve, err := percentileChart(r)
	if err != nil {
		return nil, err
	}
	if len(curve.Lines) > 0 {
		drawn = append(drawn, template.HTML(curve.SVG()))
	}
	over("Memory of the broker", chart.Axis{Bytes: true, Format: bytesOf},
		second("", func(s loadtest.Second) float64 { return float64(s.BrokerMemory) }))
	over("CPU", chart.Axis{Label: "cores"},
		second("broker", func(s loadtest.Second) float64 { return s.BrokerCPU }),
		second("generator", func(s loadtest.Second) float64 { return s.GeneratorCPU }))
	over("Connections", chart.Axis{},
		second("open", func(s loadtest.Second) float64 { return float64(s.Connections) }),
		second("established a second", func(s loadtest.Second) float64 { return s.Connects }))
	over("Errors", chart.Axis{Label: "errors/s"},
		second("", func(s loadtest.Second) float64 { return s.Errors }))
	return drawn, nil
}

type timeline []loadtest.Second

func (t timeline) points(of func(loadtest.Second) float64) []chart.Point {
	points := make([]chart.Point, len(t))
	for i, s := range t {
		points[i] = chart.Point{X: s.At, Y: of(s)}
	}
	return points
}

// something says whether a line is about anything.
func something(points []chart.Point) bool {
	for _, p := range points {
		if p.Y != 0 {
			return true
		}
	}
	return false
}

// phases marks where phases began.
func phases(r *loadtest.Result) (marks []chart.Tick) {
	for _, p := range r.Phases {
		if p.Seconds > 0 {
			marks = append(marks, chart.Tick{At: p.At, Label: p.Name})
		}
	}
	return marks
}

// percentileChart has the curve of each latency, drawn so that each further nine has the same width.
func percentileChart(r *loadtest.Result) (chart.Chart, error) {
	c := chart.Chart{
		Title: "Latency by percentile",
		X:     chart.Axis{Label: "percentile", Log: true, Format: percentile},
		Y:     chart.Axis{Log: true, Format: micros},
	}
	last := 2.0
	for _, n := range latencies(r) {
		h, err := n.latency.Histogram()
		if err != nil {
			return c, fmt.Errorf("%s: %w", n.name, err)
		}
		points := curve(h)
		for _, p := range points {
			last = max(last, p.X)
		}
		c.Lines = append(c.Lines, chart.Line{Name: n.name, Points: points})
	}
	for _, at := range []float64{1, 2, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7} {
		if at <= last {
			c.X.Ticks = append(c.X.Ticks, chart.Tick{At: at, Label: percentile(at)})
		}
	}
	return c, nil
}

// curve returns the quantiles of a histogram of nanoseconds, in microseconds: at X there are 1-1/X of the values below.
func curve(h *hdrhistogram.Histogram) (points []chart.Point) {
	const perDecade = 20
	for i := 0; ; i++ {
		x := math.Pow(10, float64(i)/perDecade)
		if x > max(float64(h.TotalCount()), 2) || i > 8*perDecade {
			return points
		}
		points = append(points, chart.Point{X: x, Y: float64(h.ValueAtQuantile(100*(1-1/x))) / 1e3})
	}
}

// percentile writes the place of a percentile curve: 100 is that of 99 %.
func percentile(x float64) string {
	digits := max(0, int(math.Ceil(math.Log10(x)-1e-9))-2)
	if x < 100 && x > 10 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %%", digits, 100*(1-1/x))
}
