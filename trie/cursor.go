package trie

import "strings"

// Cursor goes through the topics that a Topic Filter matches, in parts: between two calls of Next the Index may change. It holds no lock,
// and needs no end. One goroutine at a time may use it.
type Cursor[V any] struct {
	filter string
	frames []frame[V] // the branches from the root to the one it is in
}

// frame is what a Cursor has still to look at in a branch: each may be nil.
type frame[V any] struct {
	end  *branch[topic[V]] // its end
	only *node[topic[V]]   // the one child that a level without a wildcard names
	kids walk[string, node[topic[V]], *node[topic[V]]]
	at   int // the index of the children's level in the filter
}

// Cursor returns a Cursor that visits what Match visits: topics that are set or deleted before it has come to its end may or may not be
// among them.
func (x *Index[V]) Cursor(topicFilter string) *Cursor[V] {
	c := &Cursor[V]{filter: topicFilter}
	c.enter(&x.topics.root, 0)
	return c
}

// Done reports whether there is nothing left.
func (c *Cursor[V]) Done() bool { return len(c.frames) == 0 }

// Next returns the next topic and its value. It takes a step for each place that it looks at, counts it off steps, and returns false when
// they are used up, or when it is done.
func (c *Cursor[V]) Next(steps *int) (topicName string, v V, ok bool) {
	for len(c.frames) > 0 && *steps > 0 {
		*steps--
		if n := c.step(); n != nil {
			return n.value.name, n.value.value, true
		}
	}
	return "", v, false
}

// step looks at one more place, and returns the topic there if it matches.
func (c *Cursor[V]) step() *node[topic[V]] {
	f := &c.frames[len(c.frames)-1]
	if b := f.end; b != nil {
		f.end = nil
		return b.end.Load()
	}
	n := f.only
	f.only = nil
	if n == nil {
		if n = f.kids.next(); n != nil && len(c.frames) == 1 && strings.HasPrefix(n.path, "$") {
			return nil // leading wildcards don't match topics that begin with '$' [MQTT-4.7.2-1]
		}
	}
	if n == nil {
		c.frames = c.frames[:len(c.frames)-1]
		return nil
	}
	if n.branch == nil {
		if matches(c.filter, f.at, n.path, 0) {
			return n
		}
		return nil
	}
	at, t, ok := advance(c.filter, f.at, n.path, 0)
	if ok && (t > len(n.path) || isMultiLevel(c.filter, at)) {
		c.enter(n.branch, at)
	}
	return nil
}

// enter begins with a branch, whose children's level begins at index at of the filter.
func (c *Cursor[V]) enter(b *branch[topic[V]], at int) {
	f := frame[V]{at: at}
	all := isMultiLevel(c.filter, at)
	if at > len(c.filter) || all {
		f.end = b
	}
	switch {
	case all || at <= len(c.filter) && firstLevel(c.filter[at:]) == "+":
		f.kids.begin(&b.kids)
	case at <= len(c.filter):
		f.only = b.child(c.filter, at)
	}
	c.frames = append(c.frames, f)
}
