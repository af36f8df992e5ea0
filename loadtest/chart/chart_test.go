package chart

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// elements parses an SVG, which must be well-formed XML, and returns its elements by name.
func elements(t *testing.T, svg string) map[string][]map[string]string {
	t.Helper()
	found := map[string][]map[string]string{}
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			attributes := map[string]string{}
			for _, a := range e.Attr {
				attributes[a.Name.Local] = a.Value
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s has %s=%q", e.Name.Local, a.Name.Local, a.Value)
				}
			}
			found[e.Name.Local] = append(found[e.Name.Local], attributes)
		}
	}
}

// lines are the paths of lines, without those of axes.
func lines(t *testing.T, c Chart) (paths []string) {
	t.Helper()
	for _, p := range elements(t, c.SVG())["path"] {
		if p["fill"] == "none" {
			paths = append(paths, p["d"])
		}
	}
	return paths
}

func TestChartLinesFitTheirAxes(t *testing.T) {
	c := Chart{
		Title: "a < b & c", X: Axis{Label: "s"}, Y: Axis{Label: "messages/s", Zero: true}, Width: 500, Height: 200,
		Lines: []Line{
			{Name: "sent", Points: []Point{{0, 0}, {10, 1000}}},
			{Name: "delivered", Points: []Point{{0, 0}, {10, 500}}, Dashed: true},
		},
		Marks: []Tick{{5, "half"}, {11, "beyond"}},
	}
	got := lines(t, c)
	want := []string{"M70.0 156.0L70.0 156.0L484.0 54.0", "M70.0 156.0L70.0 156.0L484.0 105.0"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	svg := c.SVG()
	for _, text := range []string{"a &lt; b &amp; c", ">sent<", ">delivered<", ">1k<", ">half<", "10 s&#xA;sent 1k&#xA;delivered 500", "stroke-dasharray"} {
		if !strings.Contains(svg, text) {
			t.Errorf("no %q in %s", text, svg)
		}
	}
	if strings.Contains(svg, "beyond") {
		t.Error("there is a mark where no axis is")
	}
	if strings.Contains(strings.ReplaceAll(svg, "http://www.w3.org/2000/svg", ""), "http") {
		t.Error("it refers to another address")
	}
}

func TestChartGapsAndDots(t *testing.T) {
	nan := math.NaN()
	c := Chart{Points: true, Lines: []Line{{Points: []Point{{1, 1}, {2, nan}, {3, 3}, {4, 4}, {5, math.Inf(1)}}}}}
	got := lines(t, c)
	if len(got) != 1 || strings.Count(got[0], "M") != 2 {
		t.Errorf("got %q, want one path of two parts", got)
	}
	if n := len(elements(t, c.SVG())["circle"]); n != 3 {
		t.Errorf("%d dots, want 3", n)
	}
	c.Y.Log = true
	c.Lines[0].Points = []Point{{1, 0}, {2, -1}, {3, 10}, {4, 100}}
	if got := lines(t, c); len(got) != 1 || strings.Count(got[0], "L") != 2 {
		t.Errorf("got %q, want what a logarithmic axis has", got)
	}
}

func TestChartWithoutPoints(t *testing.T) {
	for _, c := range []Chart{{}, {Lines: []Line{{Name: "x"}}}, {Lines: []Line{{Points: []Point{{1, math.NaN()}}}}}} {
		svg := c.SVG()
		elements(t, svg)
		if !strings.Contains(svg, "no data") {
			t.Errorf("%s doesn't say that there is no data", svg)
		}
	}
}

func TestChartLongLineIsThinned(t *testing.T) {
	const n = 86_400
	points := make([]Point, n)
	for i := range points {
		points[i] = Point{float64(i), 10}
	}
	points[12_345].Y, points[54_321].Y = 99, 1
	thinned := thin(points, drawnPointsMax)
	if len(thinned) > drawnPointsMax {
		t.Errorf("%d points are left", len(thinned))
	}
	for _, p := range []Point{points[12_345], points[54_321]} {
		if !slices.Contains(thinned, p) {
			t.Errorf("the peak %v is gone", p)
		}
	}
	if !slices.IsSortedFunc(thinned, func(a, b Point) int { return int(a.X - b.X) }) {
		t.Error("the order is gone")
	}
	if size := len(Chart{Lines: []Line{{Points: points}}}.SVG()); size > 64<<10 {
		t.Errorf("%d bytes", size)
	}
}

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		axis   Axis
		values []float64
		want   string
	}{
		{Axis{}, []float64{0, 9.7}, "0 2 4 6 8 10"},
		{Axis{Zero: true}, []float64{870_000}, "0 200k 400k 600k 800k 1M"},
		{Axis{}, []float64{5}, "0 2 4 6 8 10"},
		{Axis{}, []float64{0}, "0 0.2 0.4 0.6 0.8 1"},
		{Axis{}, []float64{-3}, "-6 -4 -2 0"},
		{Axis{}, []float64{0.1, 0.3}, "0.1 0.15 0.2 0.25 0.3"},
		{Axis{Log: true}, []float64{0.1, 1000}, "0.1 1 10 100 1k"},
		{Axis{Log: true}, []float64{1, 60}, "1 2 5 10 20 50 100"},
		{Axis{Log: true}, []float64{3}, "1 2 5 10"},
		{Axis{Log: true}, []float64{3, 4}, "2 5"},
		{Axis{Log: true}, []float64{5e-324, 4e-320}, "0 0"},
		{Axis{Bytes: true, Format: func(v float64) string { return fmt.Sprintf("%.0fMi", v/(1<<20)) }}, []float64{20 << 20, 53 << 20}, "20Mi 30Mi 40Mi 50Mi 60Mi"},
		{Axis{Bytes: true, Zero: true, Format: func(v float64) string { return fmt.Sprintf("%.0fKi", v/(1<<10)) }}, []float64{3000}, "0Ki 1Ki 2Ki 3Ki"},
		{Axis{Ticks: []Tick{{1, "one"}, {9, "nine"}}}, []float64{2, 3}, "one nine"},
		{Axis{Format: func(v float64) string { return fmt.Sprintf("%.0fms", v) }}, []float64{0, 2}, "0ms 0ms 1ms 2ms 2ms"},
	} {
		s := newScale(test.axis, test.values, 100, 0, 5)
		var labels []string
		for _, tick := range s.ticks {
			labels = append(labels, tick.Label)
		}
		if got := strings.Join(labels, " "); got != test.want {
			t.Errorf("%+v of %v: got %q, want %q", test.axis, test.values, got, test.want)
		}
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.1234: "0.123", 12.34: "12.3", 123.4: "123", 1234: "1.23k", 999_999: "1000k", 1_500_000: "1.5M",
		2e9: "2G", 3e12: "3T", -1500: "-1.5k", 5e-324: "0",
	} {
		if got := Short(v); got != want {
			t.Errorf("Short(%v) is %q, want %q", v, got, want)
		}
	}
}

// FuzzChart holds any points and names to well-formed XML without numbers that aren't.
func FuzzChart(f *testing.F) {
	f.Add("a", 0.0, 1.0, 2.0, 3.0, false)
	f.Add("\x00]]>", 1e308, -1e308, 1e-308, 4.0, true)
	f.Add("é\xff", 0.0, 0.0, 0.0, 0.0, true)
	f.Fuzz(func(t *testing.T, name string, a, b, c, d float64, log bool) {
		elements(t, Chart{
			Title: name, X: Axis{Label: name, Log: log}, Y: Axis{Log: log, Bytes: true}, Points: true, Marks: []Tick{{a, name}, {c, name}},
			Lines: []Line{{Name: name, Points: []Point{{a, b}, {c, d}}}, {Points: []Point{{d, c}}}},
		}.SVG())
	})
}
