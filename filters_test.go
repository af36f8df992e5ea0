package loopmq

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestFilterSet does random things to a filterSet and to a map; the set is small and large in turn.
func TestFilterSet(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var s filterSet
	model := make(map[string]bool)
	for i := range 20_000 {
		filter := fmt.Sprintf("filter/%d", r.IntN(60))
		grows := i%2000 < 1000
		if _, ok := s.find(filter); ok != model[filter] {
			t.Fatalf("step %d: find(%q): got %t", i, filter, ok)
		}
		switch remove := r.IntN(4) == 0 == grows; {
		case remove:
			if got := s.remove(filter); got != model[filter] {
				t.Fatalf("step %d: remove(%q): got %t", i, filter, got)
			}
			delete(model, filter)
		case !model[filter]:
			s.add(filter)
			model[filter] = true
		}
		if len(s.all) != len(model) || s.index != nil && len(s.index) != len(model) {
			t.Fatalf("step %d: got %d filters, index of %d, want %d", i, len(s.all), len(s.index), len(model))
		}
	}
	for _, filter := range slices.Clone(s.all) {
		s.remove(filter)
	}
	if s.all != nil || s.index != nil {
		t.Errorf("an empty set keeps %d and %d", cap(s.all), len(s.index))
	}
}

// TestFilterSet_one keeps what most sessions have small: no index, and a list of one.
func TestFilterSet_one(t *testing.T) {
	var s filterSet
	if n := testing.AllocsPerRun(10, func() {
		s.add("a")
		s.remove("a")
	}); n != 1 {
		t.Errorf("one filter costs %v allocations, want 1", n)
	}
}

// BenchmarkFilterSet adds and removes a filter among others.
func BenchmarkFilterSet(b *testing.B) {
	for _, n := range []int{0, filtersSearched - 1, 10_000} {
		b.Run(fmt.Sprintf("filters=%d", n), func(b *testing.B) {
			var s filterSet
			for i := range n {
				s.add(fmt.Sprintf("dev/%08d", i))
			}
			b.ReportAllocs()
			for b.Loop() {
				s.add("dev/a0000000")
				s.remove("dev/a0000000")
			}
		})
	}
}
