package config

import (
	"maps"
	"slices"
)

// Change is a key whose value differs between two configurations.
type Change struct {
	Path   string
	Reload bool // it can be applied to a running broker
}

// Changes returns what differs between two configurations, in the order of their
// paths.
func Changes(before, after *Config) []Change {
	type value struct {
		texts  []string
		reload bool
	}
	all := func(c *Config) map[string]value {
		m := map[string]value{}
		walk(c.nodes(), "", func(path string, n *node) {
			m[path] = value{n.leaf.values(), n.reload}
		})
		return m
	}
	a, b := all(before), all(after)
	paths := maps.Clone(a)
	maps.Copy(paths, b)
	var changes []Change
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if !slices.Equal(a[path].texts, b[path].texts) {
			changes = append(changes, Change{path, paths[path].reload})
		}
	}
	return changes
}
