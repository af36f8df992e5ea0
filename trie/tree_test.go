package trie

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

// checkBranch verifies the invariants of a branch that is at rest, and returns how many leaves and nodes are below it.
func checkBranch[V any](t *testing.T, b *branch[V], isRoot bool) (leaves, nodes int) {
	t.Helper()
	children := 0
	visit := func(n *node[V]) bool {
		children++
		nodes++
		if n.branch == nil {
			leaves++
			return true
		}
		l, more := checkBranch(t, n.branch, false)
		leaves += l
		nodes += more
		return true
	}
	for _, n := range []*node[V]{b.end.Load(), b.plus.Load(), b.hash.Load()} {
		if n != nil {
			visit(n)
		}
	}
	b.kids.each(visit)
	want := children
	if isRoot {
		want++
	}
	if int(b.refs.Load()) != want || want == 0 {
		t.Fatalf("a branch with %d children has refs %d", children, b.refs.Load())
	}
	return leaves, nodes
}

// TestTree_form adds and removes random paths, and looks at the form of the tree.
func TestTree_form(t *testing.T) {
	s := rand.Uint64()
	t.Logf("seed %d", s)
	r := rand.New(rand.NewPCG(s, 0))
	var tr tree[int]
	tr.init()
	paths := map[string]bool{}
	for i := range 20_000 {
		levels := make([]string, 1+r.IntN(5))
		for j := range levels {
			levels[j] = []string{"", "a", "b", "+"}[r.IntN(4)]
		}
		if path := strings.Join(levels, "/"); i%4000 < 2000 {
			paths[path] = true
			tr.update(path, func(int, bool) (int, change) { return i, put })
		} else {
			delete(paths, path)
			tr.update(path, func(int, bool) (int, change) { return 0, remove })
		}
		if i%100 == 0 {
			if leaves, _ := checkBranch(t, &tr.root, true); leaves != len(paths) {
				t.Fatalf("leaves: got %d, want %d", leaves, len(paths))
			}
		}
	}
	for path := range paths {
		if tr.get(path) == nil {
			t.Fatalf("get(%q): got nil", path)
		}
		tr.update(path, func(v int, _ bool) (int, change) { return v, keep })
		tr.update(path, func(int, bool) (int, change) { return 0, remove })
	}
	if _, nodes := checkBranch(t, &tr.root, true); nodes != 0 {
		t.Fatalf("empty tree has %d nodes", nodes)
	}
}

// TestTree_deepPathsInCommon holds the number of nodes: levels in common are one branch, however many they are, with levels of its own.
func TestTree_deepPathsInCommon(t *testing.T) {
	var tr tree[int]
	tr.init()
	long := strings.Repeat("level/", 10_000)
	for i := range 100 {
		tr.update(fmt.Sprint(long, i), func(int, bool) (int, change) { return i, put })
	}
	if leaves, nodes := checkBranch(t, &tr.root, true); leaves != 100 || nodes != 101 {
		t.Errorf("got %d leaves, %d nodes, want 100, 101", leaves, nodes)
	}
	n := tr.root.child("level", 0)
	if n.path != strings.TrimSuffix(long, "/") {
		t.Errorf("branch has %d bytes of path", len(n.path))
	}
	tr.root.kids.each(func(n *node[int]) bool {
		leaf := n.branch.child("0", 0)
		if start, end := unsafe.StringData(leaf.path), unsafe.StringData(n.path); uintptr(unsafe.Pointer(start))-uintptr(unsafe.Pointer(end)) == uintptr(len(long)) {
			t.Error("branch keeps the path of a leaf alive")
		}
		return true
	})
}

func TestNode_hasKey(t *testing.T) {
	for _, c := range []struct {
		path, level string
		want        bool
	}{{"a/b", "a", true}, {"a", "a", true}, {"ab", "a", false}, {"ab/a", "a", false}, {"a", "ab", false}, {"", "", true}, {"/", "", true}, {"a", "", false}} {
		n := &node[int]{path: c.path}
		if got := n.hasKey(c.level); got != c.want {
			t.Errorf("%q, level %q: got %v", c.path, c.level, got)
		}
		if c.want && n.hash() != hashString(c.level) {
			t.Errorf("%q: hash isn't that of %q", c.path, c.level)
		}
	}
}

// TestTree_dyingBranches has goroutines that add and remove one path each under branches that nothing else keeps alive, so that one
// often adds to what another is about to remove. A path must be there from its addition until its removal.
func TestTree_dyingBranches(t *testing.T) {
	const goroutines, rounds = 4, 20_000
	var tr tree[int]
	tr.init()
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			paths := []string{fmt.Sprint("a/b/", g), fmt.Sprint("a/b/c/", g), fmt.Sprint("a/", g), fmt.Sprint("+/+/", g, "/x")}
			for i := range rounds {
				path := paths[i%len(paths)]
				tr.update(path, func(_ int, exists bool) (int, change) {
					if exists {
						t.Errorf("%s is there already", path)
					}
					return g, put
				})
				if n := tr.get(path); n == nil || n.value != g {
					t.Errorf("get(%q): got %v", path, n)
					return
				}
				tr.update(path, func(_ int, exists bool) (int, change) {
					if !exists {
						t.Errorf("%s is gone", path)
					}
					return 0, remove
				})
				if n := tr.get(path); n != nil {
					t.Errorf("get(%q) after removal: got %v", path, n)
					return
				}
			}
		})
	}
	wg.Wait()
	if _, nodes := checkBranch(t, &tr.root, true); nodes != 0 {
		t.Errorf("empty tree has %d nodes", nodes)
	}
}

// TestTree_deadBranch takes the steps of such a meeting one by one: a path is removed and its branch is dead, but not yet pruned, when
// another is added there, and when the dead branch itself is moved down by a split.
func TestTree_deadBranch(t *testing.T) {
	for _, path := range []string{"a/b/3", "a/c/1", "a/b", "a/b/1"} {
		var tr tree[int]
		tr.init()
		store := func(path string) { tr.update(path, func(int, bool) (int, change) { return 1, put }) }
		store("a/b/1")
		store("a/b/2")
		b := tr.root.child("a/b", 0).branch
		b.edit("1", 0, func(*node[int]) *node[int] { return nil })
		b.edit("2", 0, func(*node[int]) *node[int] { return nil })
		b.refs.Store(0)
		store(path)
		if tr.get(path) == nil {
			t.Errorf("get(%q): got nil", path)
		}
		tr.prune("a/b/1")
		if leaves, nodes := checkBranch(t, &tr.root, true); leaves != 1 || nodes > 2 {
			t.Errorf("%s: got %d leaves, %d nodes", path, leaves, nodes)
		}
	}
}

// TestSubscribers_immutable holds that a reader that has one version isn't disturbed by the making of the next.
func TestSubscribers_immutable(t *testing.T) {
	match := func(v subscribers[int]) []Match[int] {
		var m Matches[int]
		v.appendTo(&m)
		return m.Subscribers
	}
	v, _, _ := subscribers[int]{}.add(false, Match[int]{Subscriber: 0})
	for s := range copiedSubscribersMax - 1 {
		before := match(v)
		added, _, _ := v.add(true, Match[int]{Subscriber: s + 1})
		also, _, _ := v.add(true, Match[int]{Subscriber: s + 100})
		changed, _, _ := added.add(true, Match[int]{s, Options{QoS: 1}})
		dropped, _, _ := added.drop(s)
		if !slices.Equal(match(v), before) || match(also)[len(before)].Subscriber != s+100 {
			t.Fatalf("with %d: got %v, %v, want %v", s+1, match(v), match(also), before)
		}
		if len(match(added)) != s+2 || len(match(changed)) != s+2 || len(match(dropped)) != s+1 {
			t.Fatalf("with %d: got %v, %v, %v", s+1, match(added), match(changed), match(dropped))
		}
		if slices.ContainsFunc(match(added), func(m Match[int]) bool { return m.Options.QoS == 1 }) {
			t.Fatalf("with %d: options changed in place", s+1)
		}
		v = added
	}
	if v, _, _ = v.add(true, Match[int]{Subscriber: copiedSubscribersMax}); v.many.crowd == nil {
		t.Fatal("no crowd")
	}
	for s := copiedSubscribersMax; s >= crowdSubscribersMin; s-- {
		v, _, _ = v.drop(s)
	}
	if v.many.crowd != nil || len(match(v)) != crowdSubscribersMin {
		t.Fatalf("still a crowd, or %v", match(v))
	}
}
