package trie

import (
	"strings"
	"sync/atomic"
	"unsafe"
)

const sharePrefix = "$share/"

// Options are the subscription options of one subscription, MQTT 5.0 section 3.8.3.1, and its Subscription Identifier. The zero value
// is that of an MQTT 3.1.1 subscription with QoS 0.
type Options struct {
	QoS                    byte // maximum QoS: 0, 1 or 2
	NoLocal                bool
	RetainAsPublished      bool
	RetainHandling         byte   // 0, 1 or 2; the trie only keeps it
	SubscriptionIdentifier uint32 // 1 to 268,435,455; 0 means none
}

// Match is one subscription that matched: who, and how they subscribed. For a subscriber whose several filters match one topic there
// is one Match per filter.
type Match[S comparable] struct {
	Subscriber S
	Options    Options
}

// Matches is what a Topic Name matched. The zero value is ready for use; using it again for the next topic saves allocations. It belongs
// to one goroutine at a time.
type Matches[S comparable] struct {
	// Subscribers has one element for each non-shared subscription. The order is not defined.
	Subscribers []Match[S]
	// Groups has each shared subscription: one member of each is to get the message [MQTT-4.8.2-4].
	Groups []*Group[S]
	// Filters is the number of distinct non-shared Topic Filters in Subscribers. With 1 no subscriber is there twice.
	Filters int
}

// Reset empties m, and drops its references to subscribers and groups, but keeps its memory.
func (m *Matches[S]) Reset() {
	clear(m.Subscribers)
	clear(m.Groups)
	m.Subscribers, m.Groups, m.Filters = m.Subscribers[:0], m.Groups[:0], 0
}

// Trie maps Topic Filters to subscribers of type S, which are compared with ==: pointers to sessions, say. All methods may be called
// from all goroutines, and Match never waits for any.
//
// Filters without wildcards are in one hash map by their whole text, so that a topic finds them with a single lookup, however deep
// it is. Filters with wildcards are in a tree of levels. What a filter has is a value (subscribers), which starts as one inline Match and
// becomes a copied slice and then a hash map as it grows. So one subscription with a filter of its own is one object of 48 bytes (for S
// a pointer) and some 15 bytes of hash map, on top of the filter's string, which is kept and not copied.
//
// Subscribe and Unsubscribe cost O(levels), whatever else is subscribed. Match costs one lookup and, in the tree, at most two
// lookups for each node that is reached. Those are nodes whose levels all match the topic's first ones, each is reached once, and
// there are at most twice as many as filters that share these levels. A topic of n levels can thus reach up to 2^n nodes, but only if as
// many filters were subscribed ("+/a", "a/+", "+/+", …): it is never more than there are wildcard filters, and never repeats work.
type Trie[S comparable] struct {
	exact     shardedMap[string, exactFilter[S], *exactFilter[S]]
	wildcards tree[subscribers[S]]

	_             [64]byte // the counters change with every subscription: not on the cache line that Match reads
	subscriptions atomic.Int64
	shared        atomic.Int64
}

type exactFilter[S comparable] struct {
	topicFilter string
	subscribers subscribers[S]
}

func (f *exactFilter[S]) hash() uint64            { return hashString(f.topicFilter) }
func (f *exactFilter[S]) hasKey(name string) bool { return f.topicFilter == name }

// New returns an empty Trie. It takes less than 300 bytes.
func New[S comparable]() *Trie[S] {
	t := &Trie[S]{}
	t.wildcards.init()
	return t
}

// Subscribe adds a subscription, or gives it other options if it existed [MQTT-3.8.4-3]. The filter may be a shared subscription,
// $share/{ShareName}/{filter}. It must be valid, and is kept: it must not be part of a buffer that is used again, nor keep a much
// larger string alive. A Match that begins after Subscribe returned sees the subscription.
func (t *Trie[S]) Subscribe(topicFilter string, s S, o Options) (existed bool) {
	shareName, filter, isShared := splitShared(topicFilter)
	t.update(filter, func(v subscribers[S], exists bool) (subscribers[S], change) {
		var todo change
		if isShared {
			v, existed, todo = v.join(exists, shareName, filter, Match[S]{s, o})
		} else {
			v, existed, todo = v.add(exists, Match[S]{s, o})
		}
		return v, todo
	})
	if !existed {
		t.count(isShared, 1)
	}
	return existed
}

// Unsubscribe removes a subscription, if there is one with exactly this filter [MQTT-3.10.4-1], and frees what it took. A Match that
// begins after Unsubscribe returned doesn't see it [MQTT-3.10.4-2].
func (t *Trie[S]) Unsubscribe(topicFilter string, s S) (existed bool) {
	shareName, filter, isShared := splitShared(topicFilter)
	t.update(filter, func(v subscribers[S], exists bool) (subscribers[S], change) {
		existed = false
		if !exists {
			return v, keep
		}
		var todo change
		if isShared {
			v, existed, todo = v.leave(shareName, s)
		} else {
			v, existed, todo = v.drop(s)
		}
		return v, todo
	})
	if existed {
		t.count(isShared, -1)
	}
	return existed
}

// Options returns how s has subscribed with exactly this filter, and whether it has.
func (t *Trie[S]) Options(topicFilter string, s S) (o Options, ok bool) {
	shareName, filter, isShared := splitShared(topicFilter)
	t.update(filter, func(v subscribers[S], exists bool) (subscribers[S], change) {
		if ok = false; exists {
			o, ok = v.options(isShared, shareName, s)
		}
		return v, keep
	})
	return o, ok
}

// MatchesName reports whether a Topic Filter matches a Topic Name [MQTT-4.7.2-1]. Both must be valid; of a shared subscription it is the
// filter behind the ShareName.
func MatchesName(topicFilter, topicName string) bool {
	_, filter, _ := splitShared(topicFilter)
	if strings.HasPrefix(topicName, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false
	}
	return matches(filter, 0, topicName, 0)
}

// Match resets m and fills it with all subscriptions that match a Topic Name. It allocates only to make m's slices larger, and keeps no
// reference to topicName.
func (t *Trie[S]) Match(topicName []byte, m *Matches[S]) {
	m.Reset()
	// A view, gone when Match returns: nothing that a reader does keeps it.
	topic := unsafe.String(unsafe.SliceData(topicName), len(topicName))
	if !t.exact.empty() {
		if f := t.exact.get(hashString(topic), topic); f != nil {
			f.subscribers.appendTo(m)
		}
	}
	b := &t.wildcards.root
	if topic != "" && topic[0] == '$' { // no leading wildcard matches it [MQTT-4.7.2-1]
		if n := b.child(topic, 0); n != nil {
			matchNode(n, topic, 0, m)
		}
		return
	}
	matchBranch(b, topic, 0, m)
}

// Len returns the number of subscriptions, shared ones included.
func (t *Trie[S]) Len() int { return int(t.subscriptions.Load()) }

// SharedLen returns the number of shared subscriptions: a group counts once for each member.
func (t *Trie[S]) SharedLen() int { return int(t.shared.Load()) }

func (t *Trie[S]) count(isShared bool, n int64) {
	t.subscriptions.Add(n)
	if isShared {
		t.shared.Add(n)
	}
}

func (t *Trie[S]) update(filter string, edit func(v subscribers[S], exists bool) (subscribers[S], change)) {
	if strings.IndexByte(filter, '+') >= 0 || strings.HasSuffix(filter, "#") {
		t.wildcards.update(filter, edit)
		return
	}
	t.exact.edit(hashString(filter), filter, func(f *exactFilter[S]) *exactFilter[S] {
		var v subscribers[S]
		name := filter
		if f != nil {
			v, name = f.subscribers, f.topicFilter
		}
		v, todo := edit(v, f != nil)
		switch todo {
		case put:
			return &exactFilter[S]{name, v}
		case remove:
			return nil
		}
		return f
	})
}

// splitShared returns ShareName and Topic Filter of a shared subscription [MQTT-4.8.2-1], or the filter itself.
func splitShared(topicFilter string) (shareName, filter string, isShared bool) {
	rest, isShared := strings.CutPrefix(topicFilter, sharePrefix)
	if !isShared {
		return "", topicFilter, false
	}
	shareName, filter, isShared = strings.Cut(rest, "/")
	if !isShared {
		return "", topicFilter, false
	}
	return shareName, filter, true
}

// matchBranch collects what is below b for the levels of topic from index at on.
func matchBranch[S comparable](b *branch[subscribers[S]], topic string, at int, m *Matches[S]) {
	if n := b.hash.Load(); n != nil { // the parent level too: "sport/#" matches "sport"
		n.value.appendTo(m)
	}
	if at > len(topic) {
		if n := b.end.Load(); n != nil {
			n.value.appendTo(m)
		}
		return
	}
	if n := b.plus.Load(); n != nil {
		matchNode(n, topic, at, m)
	}
	if !b.kids.empty() {
		level := firstLevel(topic[at:])
		if n := b.kids.get(hashString(level), level); n != nil {
			matchNode(n, topic, at, m)
		}
	}
}

func matchNode[S comparable](n *node[subscribers[S]], topic string, at int, m *Matches[S]) {
	if n.branch == nil {
		if matches(n.path, 0, topic, at) {
			n.value.appendTo(m)
		}
		return
	}
	if f, t, ok := advance(n.path, 0, topic, at); ok && f > len(n.path) {
		matchBranch(n.branch, topic, t, m)
	}
}
