// Package chart draws lines as SVG, for reports and documents that have to open anywhere: no script, no font and no address of others is in
// what it writes. A Chart is a value; drawing it is pure, and any goroutine may.
package chart

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// The size of a drawing and of what surrounds the lines, in pixels.
const (
	defaultWidth  = 760
	defaultHeight = 280
	marginLeft    = 70
	marginRight   = 16
	marginTop     = 54
	marginBottom  = 44
	letterWidth   = 7 // about; nobody knows the font
)

// drawnPointsMax bounds the points of a line that are drawn, and hoversMax the places that tell their values: a run of a day is no larger a
// picture than one of ten minutes.
const (
	drawnPointsMax = 600
	hoversMax      = 200
)

// palette has colours that people who see colours differently tell apart (Okabe and Ito), on white.
var palette = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}

// A Point is a place of a line. A Y that isn't a number, or on a logarithmic axis isn't above 0, is a gap.
type Point struct{ X, Y float64 }

// A Line is drawn from point to point in the order of X, which is that of Points.
type Line struct {
	Name   string
	Points []Point
	Dashed bool
}

// A Tick is a marked place of an axis.
type Tick struct {
	At    float64
	Label string
}

// An Axis is one side of a Chart. Its zero value is linear, from the smallest to the largest value, with round ticks.
type Axis struct {
	Label string
	Log   bool
	// Zero makes a linear axis begin at 0.
	Zero bool
	// Bytes makes ticks of a linear axis round in KiB, MiB and so on.
	Bytes bool
	// Format writes the values of ticks; nil means as short as they can be told apart.
	Format func(float64) string
	// Ticks replaces those that would be chosen.
	Ticks []Tick
}

// A Chart is lines over a common X.
type Chart struct {
	Title string
	X, Y  Axis
	Lines []Line
	// Marks are places of X where something happened.
	Marks []Tick
	// Width and Height are pixels; 0 means 760 by 280.
	Width, Height int
	// Points marks each point with a dot, for few of them.
	Points bool
}

// WriteSVG writes the chart as an svg element, which is a file of its own as well as a part of an HTML page. A chart without any points says so.
// The errors are those of w.
func (c Chart) WriteSVG(w io.Writer) error {
	c.Width, c.Height = cmp.Or(c.Width, defaultWidth), cmp.Or(c.Height, defaultHeight)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" `+
		`font-family="system-ui,sans-serif" font-size="12" fill="#333">`, c.Width, c.Height)
	fmt.Fprintf(&b, `<title>%s</title><rect width="%d" height="%d" fill="#fff"/>`, escape(c.Title), c.Width, c.Height)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="14" font-weight="600">%s</text>`, marginLeft, escape(c.Title))
	if x, y, ok := c.scales(); ok {
		c.axes(&b, x, y)
		c.marks(&b, x)
		c.lines(&b, x, y)
		c.legend(&b)
		c.hovers(&b, x)
	} else {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" fill="#777">no data</text>`, c.Width/2, c.Height/2)
	}
	b.WriteString("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}

// SVG is what WriteSVG writes.
func (c Chart) SVG() string {
	var b strings.Builder
	_ = c.WriteSVG(&b)
	return b.String()
}

// scales fits both axes to the points; ok is false if there is none to draw.
func (c *Chart) scales() (x, y scale, ok bool) {
	var xs, ys []float64
	for _, l := range c.Lines {
		for _, p := range l.Points {
			if c.drawable(p) {
				xs, ys = append(xs, p.X), append(ys, p.Y)
			}
		}
	}
	if len(xs) == 0 {
		return x, y, false
	}
	x = newScale(c.X, xs, marginLeft, float64(c.Width-marginRight), 8)
	y = newScale(c.Y, ys, float64(c.Height-marginBottom), marginTop, 5)
	return x, y, true
}

func (c *Chart) drawable(p Point) bool {
	return finite(p.X) && finite(p.Y) && (!c.X.Log || p.X > 0) && (!c.Y.Log || p.Y > 0)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func (c *Chart) axes(b *bytes.Buffer, x, y scale) {
	bottom, right := c.Height-marginBottom, c.Width-marginRight
	for _, t := range y.ticks {
		at := y.at(t.At)
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#e4e4e4"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			marginLeft, at, right, marginLeft-8, at+4, escape(t.Label))
	}
	for _, t := range x.ticks {
		at, anchor := x.at(t.At), "middle"
		if half := float64(letterWidth*utf8.RuneCountInString(t.Label)) / 2; at+half > float64(c.Width) {
			anchor = "end"
		}
		fmt.Fprintf(b, `<path d="M%.1f %dv5" stroke="#999"/><text x="%.1f" y="%d" text-anchor="%s">%s</text>`,
			at, bottom, at, bottom+18, anchor, escape(t.Label))
	}
	fmt.Fprintf(b, `<path d="M%d %dH%d" stroke="#999"/>`, marginLeft, bottom, right)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#777">%s</text>`, right, c.Height-8, escape(c.X.Label))
	fmt.Fprintf(b, `<text x="%d" y="20" text-anchor="end" fill="#777">%s</text>`, right, escape(c.Y.Label))
}

// marks draws lines down to the axis. A label that would cover the next one, or the edge, is left out: what comes later lasts longer, as a rule.
func (c *Chart) marks(b *bytes.Buffer, x scale) {
	next := float64(c.Width)
	for _, m := range slices.Backward(c.Marks) {
		if c.X.Log && m.At <= 0 || m.At < x.low || m.At > x.high {
			continue
		}
		at := x.at(m.At)
		fmt.Fprintf(b, `<path d="M%.1f %dV%d" stroke="#bbb" stroke-dasharray="2 3"/>`, at, marginTop, c.Height-marginBottom)
		if width := float64(letterWidth * utf8.RuneCountInString(m.Label)); at+width < next {
			fmt.Fprintf(b, `<text x="%.1f" y="%d" font-size="10" fill="#777">%s</text>`, at+3, marginTop+9, escape(m.Label))
			next = at
		}
	}
}

func (c *Chart) lines(b *bytes.Buffer, x, y scale) {
	for i, l := range c.Lines {
		colour, open := palette[i%len(palette)], false
		var path strings.Builder
		for _, p := range thin(l.Points, drawnPointsMax) {
			if !c.drawable(p) {
				open = false
				continue
			}
			step := 'L'
			if !open {
				// A point between two gaps would be no line: one of no length shows as a dot.
				fmt.Fprintf(&path, "M%.1f %.1f", x.at(p.X), y.at(p.Y))
				open = true
			}
			fmt.Fprintf(&path, "%c%.1f %.1f", step, x.at(p.X), y.at(p.Y))
			if c.Points {
				fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, x.at(p.X), y.at(p.Y), colour)
			}
		}
		if path.Len() == 0 {
			continue
		}
		dash := ""
		if l.Dashed {
			dash = ` stroke-dasharray="6 4"`
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"%s/>`,
			path.String(), colour, dash)
	}
}

func (c *Chart) legend(b *bytes.Buffer) {
	if len(c.Lines) == 1 && c.Lines[0].Name == "" {
		return
	}
	x := marginLeft
	for i, l := range c.Lines {
		fmt.Fprintf(b, `<rect x="%d" y="31" width="14" height="4" fill="%s"/><text x="%d" y="38">%s</text>`,
			x, palette[i%len(palette)], x+20, escape(l.Name))
		x += 36 + letterWidth*utf8.RuneCountInString(l.Name)
	}
}

// hovers lays strips over the lines that tell the values at their place when pointed at, which every browser does without a script.
func (c *Chart) hovers(b *bytes.Buffer, x scale) {
	at := map[float64][]string{}
	for _, l := range c.Lines {
		for _, p := range thin(l.Points, hoversMax) {
			if c.drawable(p) {
				at[p.X] = append(at[p.X], strings.TrimSpace(l.Name+" "+c.Y.format(p.Y)))
			}
		}
	}
	xs := make([]float64, 0, len(at))
	for v := range at {
		xs = append(xs, v)
	}
	slices.Sort(xs)
	left := float64(marginLeft)
	for i, v := range xs {
		right := float64(c.Width - marginRight)
		if i+1 < len(xs) {
			right = (x.at(v) + x.at(xs[i+1])) / 2
		}
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="transparent"><title>%s</title></rect>`,
			left, marginTop, max(right-left, 0), c.Height-marginTop-marginBottom,
			escape(strings.TrimSpace(c.X.format(v)+" "+c.X.Label)+"\n"+strings.Join(at[v], "\n")))
		left = right
	}
}

// thin returns at most about limit of points: of each stretch its lowest and its highest, so that no peak is lost.
func thin(points []Point, limit int) []Point {
	if len(points) <= limit {
		return points
	}
	stretches := max(limit/2, 1)
	thinned := make([]Point, 0, 2*stretches)
	for s := range stretches {
		part := points[s*len(points)/stretches : (s+1)*len(points)/stretches]
		low, high := 0, 0
		for i, p := range part {
			if !(p.Y >= part[low].Y) { // also if that one is no number
				low = i
			}
			if !(p.Y <= part[high].Y) {
				high = i
			}
		}
		thinned = append(thinned, part[min(low, high)])
		if low != high {
			thinned = append(thinned, part[max(low, high)])
		}
	}
	return thinned
}

// escape makes text safe in elements and attributes; what XML can't have becomes U+FFFD.
func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}
