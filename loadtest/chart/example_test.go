package chart_test

import (
	"fmt"
	"strings"

	"loopmq/loadtest/chart"
)

func Example() {
	c := chart.Chart{
		Title: "CPU per message",
		X:     chart.Axis{Label: "connections", Log: true},
		Y:     chart.Axis{Label: "µs", Zero: true},
		Lines: []chart.Line{{Name: "QoS 1", Points: []chart.Point{{X: 100, Y: 1.1}, {X: 1000, Y: 1.2}, {X: 10_000, Y: 1.5}}}},
	}
	fmt.Println(strings.HasPrefix(c.SVG(), "<svg"))
	// Output: true
}
