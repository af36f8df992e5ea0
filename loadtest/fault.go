package loadtest

import (
	"cmp"
	"maps"
	"slices"
)

// kindsMax bounds how many kinds of errors are told apart.
const kindsMax = 200

// faults are errors by kind, each with its first example.
type faults map[string]*ErrorGroup

// add counts an error.
func (f faults) add(what, example string, n uint64) {
	g := f[what]
	if g == nil {
		if len(f) >= kindsMax {
			what, example = "other errors", what
		}
		if g = f[what]; g == nil {
			g = &ErrorGroup{What: what, Example: example}
			f[what] = g
		}
	}
	g.Count += n
}

// groups returns them, the most frequent first.
func (f faults) groups() []ErrorGroup {
	var all []ErrorGroup
	for _, g := range slices.Collect(maps.Values(f)) {
		all = append(all, *g)
	}
	slices.SortFunc(all, func(a, b ErrorGroup) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.What, b.What)) })
	return all
}
