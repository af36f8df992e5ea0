//go:build linux

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNumbers(t *testing.T) {
	n := numbers{7}
	if err := n.Set("100,1e4,25"); err != nil || !slices.Equal(n, numbers{100, 10_000, 25}) {
		t.Errorf("got %v, %v", n, err)
	}
	for _, wrong := range []string{"", "0", "-1", "1.5", "1e9", "x", "1,,2"} {
		if err := n.Set(wrong); err == nil {
			t.Errorf("%q: got no error", wrong)
		}
	}
}

// The load is in one scenario with as many subscriptions as are asked for, spread over sessions that may have so many.
func TestSubscribed(t *testing.T) {
	c := config{rate: 100, seconds: 1}
	for _, n := range []int{100, 5_000, 1e5, 1e7} {
		s := c.subscribed(n)
		s.Targets = []string{"tcp://127.0.0.1:1883"}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		if idle := s.Parts[0]; idle.Connections*idle.Filters != n || idle.Filters > filtersMax {
			t.Errorf("%d subscriptions: %d connections with %d filters", n, idle.Connections, idle.Filters)
		}
	}
}

func TestPlot(t *testing.T) {
	c := config{out: t.TempDir()}
	if err := c.plot("nodes", []point{{n: 1, micros: 10, redis: 2, memory: 1 << 25}, {n: 2, micros: 11, redis: 3, memory: 1 << 26}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nodes-cpu.svg", "nodes-memory.svg"} {
		text, err := os.ReadFile(filepath.Join(c.out, name))
		if err != nil || !strings.HasPrefix(string(text), "<svg") {
			t.Errorf("%s: %.20s, %v", name, text, err)
		}
	}
}
