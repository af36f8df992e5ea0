package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Change is a key whose value differs between two configurations.
type Change struct {
	Path   string
	Reload bool // it can be applied to a running broker
}

// Changes returns what differs between two configurations, in the order of their
// paths. Of a list that has become longer or shorter that is the list.
func Changes(before, after *Config) []Change {
	a, b := map[string]value{}, map[string]value{}
	values(before.nodes(), "", a)
	values(after.nodes(), "", b)
	paths := maps.Clone(a)
	maps.Copy(paths, b)
	var changes []Change
	list := "" // that changed
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if list != "" && strings.HasPrefix(path, list+"[") {
			continue
		}
		list = ""
		if !slices.Equal(a[path].texts, b[path].texts) {
			changes = append(changes, Change{path, paths[path].reload})
			if paths[path].list {
				list = path
			}
		}
	}
	return changes
}

// value is a value as text, or how long a list is.
type value struct {
	texts        []string
	reload, list bool
}

func values(nodes []*node, path string, all map[string]value) {
	for _, n := range nodes {
		at := join(path, n.name)
		switch {
		case n.leaf != nil:
			all[at] = value{n.leaf.values(), n.reload, false}
		case n.section != nil:
			if n.section.optional {
				all[at] = value{[]string{strconv.FormatBool(n.section.present())}, n.reload, false}
			}
			if n.section.present() {
				values(n.section.open(), at, all)
			}
		default:
			all[at] = value{[]string{strconv.Itoa(n.list.len())}, n.reload, true}
			for i := range n.list.len() {
				values(n.list.at(i), element(at, i), all)
			}
		}
	}
}
