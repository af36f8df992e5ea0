package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// node is a key: of a value or list of values, of a section of keys, or of a
// list of such sections. It is bound to the field that it fills, until that field
// moves: nodes are made anew for each walk.
type node struct {
	name   string
	doc    string
	secret bool
	reload bool

	leaf    *leaf
	section *section
	list    *sectionList
}

// leaf is how the value of a key is read and written.
type leaf struct {
	kind     string // what the reference calls it
	allowed  string
	standard string // the default, as the reference shows it
	takes    scalars
	many     bool // a list of values
	set      func(values []string) bool
	values   func() []string // nil: not set
	reset    func()          // to the default
	mask     func(value string) string
}

// section is a mapping.
type section struct {
	present  func() bool
	open     func() []*node // makes it present
	drop     func()
	template func() []*node // of one by itself, for the reference
	optional bool
}

// sectionList is a sequence of mappings.
type sectionList struct {
	len      func() int
	resize   func(n int) // what is added has its defaults
	at       func(i int) []*node
	template func() []*node
}

// scalars are the sorts of YAML scalar that a key takes.
type scalars uint8

const (
	takesText scalars = 1 << iota
	takesInteger
	takesBool
	takesFraction
)

// kind is a type of value.
type kind[T any] struct {
	name    string
	allowed string
	takes   scalars
	parse   func(string) (T, bool)
	format  func(T) string
	mask    func(string) string // what is shown of it where it may not be seen whole
}

// key declares a key with a value and its default.
func key[T any](name string, field *T, standard T, k kind[T], doc string) *node {
	return &node{name: name, doc: doc, leaf: &leaf{
		kind: k.name, allowed: k.allowed, takes: k.takes, mask: k.mask,
		standard: k.format(standard),
		set: func(values []string) bool {
			v, ok := k.parse(values[0])
			if ok {
				*field = v
			}
			return ok
		},
		values: func() []string { return []string{k.format(*field)} },
		reset:  func() { *field = standard },
	}}
}

// maybe declares a key that has no value unless it is given one; standard says
// what holds then.
func maybe[T any](name string, field **T, standard string, k kind[T], doc string) *node {
	return &node{name: name, doc: doc, leaf: &leaf{
		kind: k.name, allowed: k.allowed, takes: k.takes, mask: k.mask,
		standard: standard,
		set: func(values []string) bool {
			v, ok := k.parse(values[0])
			if ok {
				*field = &v
			}
			return ok
		},
		values: func() []string {
			if *field == nil {
				return nil
			}
			return []string{k.format(**field)}
		},
		reset: func() { *field = nil },
	}}
}

// keyList declares a key with a list of values, which is empty by default.
func keyList[T any](name string, field *[]T, k kind[T], doc string) *node {
	return &node{name: name, doc: doc, leaf: &leaf{
		kind: "list: " + k.name, allowed: k.allowed, takes: k.takes, mask: k.mask, many: true,
		set: func(values []string) bool {
			list := make([]T, 0, len(values))
			for _, text := range values {
				v, ok := k.parse(text)
				if !ok {
					return false
				}
				list = append(list, v)
			}
			*field = list
			return true
		},
		values: func() []string {
			var list []string
			for _, v := range *field {
				list = append(list, k.format(v))
			}
			return list
		},
		reset: func() { *field = nil },
	}}
}

// keys declares a section that is always there.
func keys[T any](name string, field *T, of func(*T) []*node, doc string) *node {
	return &node{name: name, doc: doc, section: &section{
		present:  func() bool { return true },
		open:     func() []*node { return of(field) },
		drop:     func() { *field = *fresh(of) },
		template: func() []*node { return of(fresh(of)) },
	}}
}

// optional declares a section that isn't there unless it is mentioned.
func optional[T any](name string, field **T, of func(*T) []*node, doc string) *node {
	return &node{name: name, doc: doc, section: &section{
		present: func() bool { return *field != nil },
		open: func() []*node {
			if *field == nil {
				*field = fresh(of)
			}
			return of(*field)
		},
		drop:     func() { *field = nil },
		template: func() []*node { return of(fresh(of)) },
		optional: true,
	}}
}

// listOf declares a list of sections.
func listOf[T any](name string, field *[]T, of func(*T) []*node, doc string) *node {
	return &node{name: name, doc: doc, list: &sectionList{
		len: func() int { return len(*field) },
		resize: func(n int) {
			for len(*field) < n {
				*field = append(*field, *fresh(of))
			}
			*field = (*field)[:n]
		},
		at:       func(i int) []*node { return of(&(*field)[i]) },
		template: func() []*node { return of(fresh(of)) },
	}}
}

// fresh returns a section with its defaults.
func fresh[T any](of func(*T) []*node) *T {
	v := new(T)
	reset(of(v))
	return v
}

func reset(nodes []*node) {
	for _, n := range nodes {
		switch {
		case n.leaf != nil:
			n.leaf.reset()
		case n.section != nil && n.section.optional:
			n.section.drop()
		case n.section != nil:
			reset(n.section.open())
		default:
			n.list.resize(0)
		}
	}
}

// secrets marks a value that is not to be shown.
func (n *node) secrets() *node {
	n.secret = true
	return n
}

// reloads marks keys that SIGHUP applies to the running broker.
func reloads(nodes ...*node) []*node {
	for _, n := range nodes {
		n.reload = true
	}
	return nodes
}

// show returns a value as it may be shown.
func (n *node) show(value string) string {
	switch {
	case value == "":
	case n.secret:
		return "***"
	case n.leaf.mask != nil:
		return n.leaf.mask(value)
	}
	return value
}

// wrong returns the text of a problem with a value.
func (n *node) wrong(value string) string {
	return fmt.Sprintf("%s: allowed: %s", shown(n.show(value)), n.leaf.allowed)
}

// byName returns the node with a name, or nil.
func byName(nodes []*node, name string) *node {
	for _, n := range nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// walk calls f for each value that is there, with its path.
func walk(nodes []*node, path string, f func(path string, n *node)) {
	for _, n := range nodes {
		at := join(path, n.name)
		switch {
		case n.leaf != nil:
			f(at, n)
		case n.section != nil:
			if n.section.present() {
				walk(n.section.open(), at, f)
			}
		default:
			for i := range n.list.len() {
				walk(n.list.at(i), element(at, i), f)
			}
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

var step = regexp.MustCompile(`^([a-z0-9_]+)(?:\[([0-9]{1,4})\])?$`)

// find returns the value at a path such as listeners[0].tls.require, making the
// optional sections on the way, and the next element of a list.
func find(nodes []*node, path string) (*node, error) {
	name, rest, deeper := strings.Cut(path, ".")
	m := step.FindStringSubmatch(name)
	if m == nil {
		return nil, fmt.Errorf("no key %s%s", shown(name), suggest(name, names(nodes)))
	}
	n := byName(nodes, m[1])
	switch {
	case n == nil:
		return nil, fmt.Errorf("no key %s%s", shown(m[1]), suggest(m[1], names(nodes)))
	case n.leaf != nil && !deeper && m[2] == "":
		return n, nil
	case n.section != nil && deeper && m[2] == "":
		return find(n.section.open(), rest)
	case n.list != nil && deeper && m[2] != "":
		i, err := strconv.Atoi(m[2])
		if err != nil || i > n.list.len() {
			return nil, fmt.Errorf("%s has %d elements: allowed: an index from 0 to %[2]d", n.name, n.list.len())
		}
		if i == n.list.len() {
			n.list.resize(i + 1)
		}
		return find(n.list.at(i), rest)
	case n.leaf != nil:
		return nil, fmt.Errorf("%s has no keys below it", n.name)
	case n.list != nil:
		return nil, fmt.Errorf("%s is a list: allowed: a key of an element, such as %s[0].%s", n.name, n.name, n.list.template()[0].name)
	}
	return nil, fmt.Errorf("%s is a section: allowed: a key of it%s", n.name, such(n.name+".", n.section.template()))
}

// such names a key of a section as an example, if it has any.
func such(before string, nodes []*node) string {
	if len(nodes) == 0 {
		return ""
	}
	return ", such as " + before + nodes[0].name
}

func names(nodes []*node) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.name)
	}
	return all
}

// suggest returns "; did you mean …?" if one of the names is close to what was
// written, else nothing.
func suggest(wrong string, names []string) string {
	if len(wrong) > 64 {
		return ""
	}
	best, least := "", min(4, 2+len(wrong)/5)
	for _, name := range names {
		if d := distance(strings.ToLower(wrong), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// distance is how many letters have to be put in, taken out or changed to make b
// of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// walkTemplate calls f for each value that there could be, with [] for the index
// of an element.
func walkTemplate(nodes []*node, path string, f func(path string, n *node)) {
	for _, n := range nodes {
		at := join(path, n.name)
		switch {
		case n.leaf != nil:
			f(at, n)
		case n.section != nil:
			walkTemplate(n.section.template(), at, f)
		default:
			walkTemplate(n.list.template(), at+"[]", f)
		}
	}
}
