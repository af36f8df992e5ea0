package trie

import (
	"strings"
	"sync/atomic"
	"unsafe"
)

// Index maps Topic Names to values, and finds the topics that a Topic Filter matches; it serves the retained messages. All methods may
// be called from all goroutines, and Get and Match never wait for any.
type Index[V any] struct {
	topics tree[topic[V]]

	_   [64]byte // len changes with every topic: not on the cache line that readers read
	len atomic.Int64
}

type topic[V any] struct {
	name  string
	value V
}

// NewIndex returns an empty Index.
func NewIndex[V any]() *Index[V] {
	x := &Index[V]{}
	x.topics.init()
	return x
}

// Set gives a topic a value, and returns the one it had. The name is kept, not copied: it must not be part of a buffer that is used again.
func (x *Index[V]) Set(topicName string, v V) (old V, existed bool) {
	x.topics.update(topicName, func(t topic[V], exists bool) (topic[V], change) {
		old, existed = t.value, exists
		if !exists {
			t.name = topicName
		}
		t.value = v
		return t, put
	})
	if !existed {
		x.len.Add(1)
	}
	return old, existed
}

// Delete removes a topic, and returns the value it had.
func (x *Index[V]) Delete(topicName string) (old V, existed bool) {
	x.topics.update(topicName, func(t topic[V], exists bool) (topic[V], change) {
		old, existed = t.value, exists
		return t, remove
	})
	if existed {
		x.len.Add(-1)
	}
	return old, existed
}

// Get returns a topic's value. It doesn't allocate, and keeps no reference to topicName.
func (x *Index[V]) Get(topicName []byte) (v V, exists bool) {
	n := x.topics.get(unsafe.String(unsafe.SliceData(topicName), len(topicName)))
	if n == nil {
		return v, false
	}
	return n.value.value, true
}

// Len returns the number of topics.
func (x *Index[V]) Len() int { return int(x.len.Load()) }

// Match calls visit for each topic that the filter matches, until it returns false. The filter is without $share. The order is not defined.
//
// No lock is held: visit may take its time, and may call Set and Delete. Topics that are set or deleted during the call may or may not be
// visited, all others are visited once.
//
// The cost is that of the part of the tree that the filter reaches: '#' visits what it matches, '+' each child of a level, any other
// level does one lookup.
func (x *Index[V]) Match(topicFilter string, visit func(topicName string, v V) bool) {
	// Leading wildcards don't match topics that begin with '$' [MQTT-4.7.2-1].
	hidden := strings.HasPrefix(topicFilter, "+") || topicFilter == "#"
	visitBranch(&x.topics.root, topicFilter, 0, hidden, visit)
}

// visitBranch visits what is below b and matches filter from index at on. hidden leaves out children that begin with '$'.
func visitBranch[V any](b *branch[topic[V]], filter string, at int, hidden bool, visit func(string, V) bool) bool {
	all := isMultiLevel(filter, at)
	if at > len(filter) || all {
		if n := b.end.Load(); n != nil && !visit(n.value.name, n.value.value) {
			return false
		}
		if !all {
			return true
		}
	}
	if all || firstLevel(filter[at:]) == "+" {
		return b.kids.each(func(n *node[topic[V]]) bool {
			return hidden && strings.HasPrefix(n.path, "$") || visitNode(n, filter, at, visit)
		})
	}
	n := b.child(filter, at)
	return n == nil || visitNode(n, filter, at, visit)
}

func visitNode[V any](n *node[topic[V]], filter string, at int, visit func(string, V) bool) bool {
	if n.branch == nil {
		return !matches(filter, at, n.path, 0) || visit(n.value.name, n.value.value)
	}
	f, t, ok := advance(filter, at, n.path, 0)
	if !ok || t <= len(n.path) && !isMultiLevel(filter, f) {
		return true
	}
	return visitBranch(n.branch, filter, f, false, visit)
}
