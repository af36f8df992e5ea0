package trie

import (
	"strings"
	"sync"
	"sync/atomic"
)

// tree maps paths to values, where a path is a Topic Filter or a Topic Name taken as a sequence of levels, and can be walked level by
// level. Readers take no lock.
//
// It is a radix tree of levels: a node stands for as many levels as all paths below it have in common, so that there are never more
// nodes than twice the paths, and a path that shares little costs one node and no copy of any of its levels. A node is immutable, except
// for what is in its branch: a change puts another node into the slot that it is in.
//
//	root -- "dev" -- kids["1"]: leaf "1/+/x"
//	              \  kids["2"]: branch "2/+" -- kids["x"]: leaf "x"
//	               \ hash: leaf "#"          \- end: leaf ""
//
// That is dev/1/+/x, dev/2/+/x, dev/2/+ and dev/#.
//
// Invariants:
//   - A node is in the slot of its first level: plus, hash or kids; a leaf whose path ends at a branch is in end.
//   - A branch is born with two children. Its refs are at least its children (it is raised before one is stored, lowered after one is
//     gone); at 0 it is dead, for good. The root never dies.
//   - A slot changes only under its lock, and so do the value of a leaf and whether a new path starts here. Going down needs no lock:
//     a branch that a writer reached may be moved down by a split or may die, but then the writer notices at its next child.
//   - Who finds a dead branch in its way removes it (prune) and begins again at the root.
//
// A branch that has one child left isn't joined with it: that costs a lock on both and saves little.
type tree[V any] struct {
	root branch[V]
}

type node[V any] struct {
	path   string // the levels from here to the end (leaf) or to the branch
	value  V      // of a leaf
	branch *branch[V]
}

type branch[V any] struct {
	end  atomic.Pointer[node[V]]
	plus atomic.Pointer[node[V]]
	hash atomic.Pointer[node[V]]
	kids shardedMap[string, node[V], *node[V]]
	refs atomic.Int32
	mu   sync.Mutex // guards writes to end, plus and hash
}

func (n *node[V]) hash() uint64 { return hashString(firstLevel(n.path)) }

// hasKey compares the first level; a key has no '/'.
func (n *node[V]) hasKey(level string) bool {
	return strings.HasPrefix(n.path, level) && (len(n.path) == len(level) || n.path[len(level)] == '/')
}

// change says what becomes of a value.
type change uint8

const (
	keep change = iota
	put
	remove
)

func (t *tree[V]) init() { t.root.refs.Store(1) }

// get returns the leaf of this path, or nil.
func (t *tree[V]) get(path string) *node[V] {
	b, at := &t.root, 0
	for {
		n := b.child(path, at)
		switch {
		case n == nil:
			return nil
		case n.branch == nil:
			if n.path == tail(path, at) {
				return n
			}
			return nil
		case !n.leads(path, at):
			return nil
		}
		b, at = n.branch, at+len(n.path)+1
	}
}

// update calls edit with the value of path, if it exists, and does what that says. edit runs under the lock of the path's slot, and may
// run more than once.
func (t *tree[V]) update(path string, edit func(value V, exists bool) (V, change)) {
	b, at := &t.root, 0
	for {
		if n := b.child(path, at); n != nil && n.leads(path, at) {
			b, at = n.branch, at+len(n.path)+1
			continue
		}
		var next *branch[V]
		var dead, last bool
		b.edit(path, at, func(n *node[V]) *node[V] {
			if n != nil && n.leads(path, at) { // became a branch just now
				next, at = n.branch, at+len(n.path)+1
				return n
			}
			if n != nil && n.branch == nil && n.path == tail(path, at) {
				value, todo := edit(n.value, true)
				switch todo {
				case put:
					return &node[V]{path: n.path, value: value}
				case remove:
					last = b.refs.Add(-1) == 0
					return nil
				}
				return n
			}
			var zero V
			value, todo := edit(zero, false)
			if todo != put {
				return n
			}
			leaf := &node[V]{path: tail(path, at), value: value}
			if n != nil {
				return fork(n, leaf)
			}
			if dead = !b.retain(); dead {
				return nil
			}
			return leaf
		})
		switch {
		case next != nil:
			b = next
		case dead:
			t.prune(path)
			b, at = &t.root, 0
		case last:
			t.prune(path)
			return
		default:
			return
		}
	}
}

// prune removes the dead branches on the way to path.
func (t *tree[V]) prune(path string) {
	b, at := &t.root, 0
	for {
		n := b.child(path, at)
		if n == nil || !n.leads(path, at) {
			return
		}
		if n.branch.refs.Load() > 0 {
			b, at = n.branch, at+len(n.path)+1
			continue
		}
		b.edit(path, at, func(now *node[V]) *node[V] {
			if now != n {
				return now
			}
			b.refs.Add(-1)
			return nil
		})
		b, at = &t.root, 0 // b may be dead now, or n may have been moved
	}
}

// child returns the node in the slot of the level of path that begins at index at, or nil. at == len(path)+1 stands for the end.
func (b *branch[V]) child(path string, at int) *node[V] {
	if slot := b.slot(path, at); slot != nil {
		return slot.Load()
	}
	if b.kids.empty() {
		return nil
	}
	level := firstLevel(path[at:])
	return b.kids.get(hashString(level), level)
}

// edit puts what change returns into the slot of that level, under its lock.
func (b *branch[V]) edit(path string, at int, change func(n *node[V]) *node[V]) {
	slot := b.slot(path, at)
	if slot == nil {
		level := firstLevel(path[at:])
		b.kids.edit(hashString(level), level, change)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	slot.Store(change(slot.Load()))
}

// slot returns the slot of that level, or nil if it is in kids.
func (b *branch[V]) slot(path string, at int) *atomic.Pointer[node[V]] {
	if at > len(path) {
		return &b.end
	}
	switch rest := path[at:]; {
	case rest == "#":
		return &b.hash
	case rest == "+" || strings.HasPrefix(rest, "+/"):
		return &b.plus
	}
	return nil
}

// retain counts one more child, unless b is dead.
func (b *branch[V]) retain() bool {
	for {
		refs := b.refs.Load()
		if refs == 0 {
			return false
		}
		if b.refs.CompareAndSwap(refs, refs+1) {
			return true
		}
	}
}

// leads reports whether n is a branch that path, from index at on, goes through.
func (n *node[V]) leads(path string, at int) bool {
	if n.branch == nil || at > len(path) {
		return false
	}
	rest := path[at:]
	return strings.HasPrefix(rest, n.path) && (len(rest) == len(n.path) || rest[len(n.path)] == '/')
}

// fork returns a branch node that has n and leaf below it, which differ but begin with the same level.
func fork[V any](n, leaf *node[V]) *node[V] {
	common := commonLevels(n.path, leaf.path)
	b := &branch[V]{}
	b.refs.Store(2)
	for _, child := range [2]*node[V]{n, leaf} {
		at := common + 1
		moved := &node[V]{path: tail(child.path, at), value: child.value, branch: child.branch}
		b.edit(child.path, at, func(*node[V]) *node[V] { return moved })
	}
	// A branch may outlive the path it got its levels from, which may be 65,535 bytes long.
	return &node[V]{path: strings.Clone(n.path[:common]), branch: b}
}

// commonLevels returns the length of the whole levels with which both begin; their first levels are equal.
func commonLevels(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	if (i == len(a) || a[i] == '/') && (i == len(b) || b[i] == '/') {
		return i
	}
	return strings.LastIndexByte(a[:i], '/')
}

func firstLevel(path string) string {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return path
}

func tail(path string, at int) string {
	if at > len(path) {
		return ""
	}
	return path[at:]
}

// advance goes through the levels of a Topic Filter and of a Topic Name, or of parts of both, as long as the filter's match. It stops
// where either ends (its index is then its length + 1) and at a '#', and returns the indices; ok is false if a level doesn't match.
func advance(filter string, f int, topic string, t int) (int, int, bool) {
	for f <= len(filter) {
		if t > len(topic) || isMultiLevel(filter, f) {
			break
		}
		if f < len(filter) && filter[f] == '+' {
			f++
			for t < len(topic) && topic[t] != '/' {
				t++
			}
		} else {
			for f < len(filter) && filter[f] != '/' && t < len(topic) && topic[t] == filter[f] {
				f++
				t++
			}
		}
		if f < len(filter) && filter[f] != '/' || t < len(topic) && topic[t] != '/' {
			return f, t, false
		}
		f++
		t++
	}
	return f, t, true
}

// matches reports whether the filter from index f on matches the topic from index t on. "sport/#" matches "sport".
func matches(filter string, f int, topic string, t int) bool {
	f, t, ok := advance(filter, f, topic, t)
	return ok && (f > len(filter) && t > len(topic) || isMultiLevel(filter, f))
}

// isMultiLevel reports whether the level that begins at f is the wildcard '#'.
func isMultiLevel(filter string, f int) bool { return f == len(filter)-1 && filter[f] == '#' }
