package trie

import (
	"hash/maphash"
	"slices"
)

const (
	copiedSubscribersMax = 16 // more than this are a crowd; copying so many costs about as much as a hash map's insertion
	crowdSubscribersMin  = 8  // a crowd of this many is a slice again
)

// subscribers is what one Topic Filter has. It is a value that is never changed: a change makes another, under the lock of the filter's
// slot, and readers see either. The maps inside are changed in place, but they allow that.
type subscribers[S comparable] struct {
	one  Match[S] // if many is nil
	many *many[S]
}

type many[S comparable] struct {
	subs   []Match[S] // if crowd is nil
	crowd  *crowd[S]
	groups *groups[S]
}

type crowd[S comparable] struct {
	bySubscriber shardedMap[S, Match[S], *Match[S]]
	len          int // guarded by the lock of the filter's slot
}

type groups[S comparable] struct {
	byShareName shardedMap[string, Group[S], *Group[S]]
	len         int // guarded by the lock of the filter's slot
}

func hashOf[S comparable](s S) uint64 { return maphash.Comparable(seed, s) }

func (m *Match[S]) hash() uint64    { return hashOf(m.Subscriber) }
func (m *Match[S]) hasKey(s S) bool { return m.Subscriber == s }

// appendTo is the reader's side.
func (v *subscribers[S]) appendTo(m *Matches[S]) {
	if v.many == nil {
		m.Subscribers = append(m.Subscribers, v.one)
		m.Filters++
		return
	}
	before := len(m.Subscribers)
	m.Subscribers = append(m.Subscribers, v.many.subs...)
	if v.many.crowd != nil {
		m.Subscribers = v.many.crowd.bySubscriber.appendTo(m.Subscribers)
	}
	if len(m.Subscribers) > before {
		m.Filters++
	}
	if v.many.groups != nil {
		v.many.groups.byShareName.each(func(g *Group[S]) bool {
			m.Groups = append(m.Groups, g)
			return true
		})
	}
}

// add adds or replaces a non-shared subscription. exists is false if the filter has no subscription at all.
// options returns how s has subscribed, by itself or in a group.
func (v subscribers[S]) options(isShared bool, shareName string, s S) (o Options, ok bool) {
	m := &v.one
	switch {
	case v.many == nil:
		ok = !isShared && m.Subscriber == s
	case isShared:
		if v.many.groups == nil {
			return o, false
		}
		g := v.many.groups.byShareName.get(hashString(shareName), shareName)
		if g == nil {
			return o, false
		}
		g.mu.RLock()
		defer g.mu.RUnlock()
		in := g.index.get(hashOf(s), s)
		if ok = in != nil; ok {
			m = &in.match
		}
	case v.many.crowd != nil:
		m = v.many.crowd.bySubscriber.get(hashOf(s), s)
		ok = m != nil
	default:
		i := indexOf(v.many.subs, s)
		if ok = i >= 0; ok {
			m = &v.many.subs[i]
		}
	}
	if !ok {
		return o, false
	}
	return m.Options, true
}

func (v subscribers[S]) add(exists bool, match Match[S]) (_ subscribers[S], existed bool, _ change) {
	if !exists {
		return subscribers[S]{one: match}, false, put
	}
	if v.many == nil {
		if v.one.Subscriber == match.Subscriber {
			return subscribers[S]{one: match}, true, put
		}
		return subscribers[S]{many: &many[S]{subs: []Match[S]{v.one, match}}}, false, put
	}
	next := *v.many
	if next.crowd != nil {
		return v, next.crowd.put(match), keep
	}
	i := indexOf(next.subs, match.Subscriber)
	switch {
	case i >= 0:
		next.subs = slices.Clone(next.subs)
		next.subs[i] = match
	case len(next.subs) == copiedSubscribersMax:
		next.crowd = &crowd[S]{}
		for _, m := range next.subs {
			next.crowd.put(m)
		}
		next.crowd.put(match)
		next.subs = nil
	default:
		next.subs = append(slices.Clip(next.subs), match)
	}
	return subscribers[S]{many: &next}, i >= 0, put
}

// drop removes a non-shared subscription.
func (v subscribers[S]) drop(s S) (_ subscribers[S], existed bool, _ change) {
	if v.many == nil {
		if v.one.Subscriber != s {
			return v, false, keep
		}
		return subscribers[S]{}, true, remove
	}
	next := *v.many
	if next.crowd != nil {
		if !next.crowd.remove(s) {
			return v, false, keep
		}
		if next.crowd.len > crowdSubscribersMin {
			return v, true, keep
		}
		next.subs = next.crowd.all()
		next.crowd = nil
		return subscribers[S]{many: &next}, true, put
	}
	i := indexOf(next.subs, s)
	if i < 0 {
		return v, false, keep
	}
	next.subs = slices.Delete(slices.Clone(next.subs), i, i+1)
	v, todo := next.shrink()
	return v, true, todo
}

// join adds a member to a shared subscription, or replaces its options.
func (v subscribers[S]) join(exists bool, shareName, topicFilter string, match Match[S]) (_ subscribers[S], existed bool, _ change) {
	if v.many != nil && v.many.groups != nil {
		return v, v.many.groups.join(shareName, topicFilter, match), keep
	}
	next := many[S]{}
	switch {
	case v.many != nil:
		next = *v.many
	case exists:
		next.subs = []Match[S]{v.one}
	}
	next.groups = &groups[S]{}
	next.groups.join(shareName, topicFilter, match)
	return subscribers[S]{many: &next}, false, put
}

// leave removes a member from a shared subscription.
func (v subscribers[S]) leave(shareName string, s S) (_ subscribers[S], existed bool, _ change) {
	if v.many == nil || v.many.groups == nil || !v.many.groups.leave(shareName, s) {
		return v, false, keep
	}
	if v.many.groups.len > 0 {
		return v, true, keep
	}
	next := *v.many
	next.groups = nil
	v, todo := next.shrink()
	return v, true, todo
}

// shrink returns the smallest form of what is left.
func (m *many[S]) shrink() (subscribers[S], change) {
	if m.crowd != nil || m.groups != nil || len(m.subs) > 1 {
		return subscribers[S]{many: m}, put
	}
	if len(m.subs) == 1 {
		return subscribers[S]{one: m.subs[0]}, put
	}
	return subscribers[S]{}, remove
}

func indexOf[S comparable](subs []Match[S], s S) int {
	return slices.IndexFunc(subs, func(m Match[S]) bool { return m.Subscriber == s })
}

func (c *crowd[S]) put(match Match[S]) (existed bool) {
	c.bySubscriber.edit(match.hash(), match.Subscriber, func(old *Match[S]) *Match[S] {
		existed = old != nil
		return &match
	})
	if !existed {
		c.len++
	}
	return existed
}

func (c *crowd[S]) remove(s S) (existed bool) {
	c.bySubscriber.edit(hashOf(s), s, func(old *Match[S]) *Match[S] {
		existed = old != nil
		return nil
	})
	if existed {
		c.len--
	}
	return existed
}

func (c *crowd[S]) all() []Match[S] {
	return c.bySubscriber.appendTo(make([]Match[S], 0, c.len))
}

func (gs *groups[S]) join(shareName, topicFilter string, match Match[S]) (existed bool) {
	gs.byShareName.edit(hashString(shareName), shareName, func(g *Group[S]) *Group[S] {
		if g == nil {
			g = &Group[S]{shareName: shareName, topicFilter: topicFilter}
			gs.len++
		}
		existed = g.put(match)
		return g
	})
	return existed
}

func (gs *groups[S]) leave(shareName string, s S) (existed bool) {
	gs.byShareName.edit(hashString(shareName), shareName, func(g *Group[S]) *Group[S] {
		if g == nil {
			return nil
		}
		existed = g.remove(s)
		if g.Len() > 0 {
			return g
		}
		gs.len--
		return nil
	})
	return existed
}
