package trie

import (
	"math"
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

// Update gives a topic the value that edit returns for the one it has, or removes it if edit returns false. The name is kept, as by Set.
//
// edit runs under a lock that other writers wait for, and may run more than once: what it did last counts.
func (x *Index[V]) Update(topicName string, edit func(v V, exists bool) (V, bool)) {
	var existed, exists bool
	x.topics.update(topicName, func(t topic[V], there bool) (topic[V], change) {
		existed = there
		if t.value, exists = edit(t.value, there); exists {
			t.name = topicName
			return t, put
		}
		if existed {
			return t, remove
		}
		return t, keep
	})
	switch {
	case exists && !existed:
		x.len.Add(1)
	case existed && !exists:
		x.len.Add(-1)
	}
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
	c := x.Cursor(topicFilter)
	for steps := math.MaxInt; ; {
		name, v, ok := c.Next(&steps)
		if !ok || !visit(name, v) {
			return
		}
	}
}
