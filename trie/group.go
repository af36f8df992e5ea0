package trie

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// Strategy says which member of a shared subscription gets a message; MQTT leaves that to the server.
type Strategy uint8

const (
	// RoundRobin takes the members in turn. Those that can't be used don't have their turns taken by the next one only.
	RoundRobin Strategy = iota
	// Random takes any member, all with equal probability.
	Random
	// Sticky stays with one member as long as it can be used.
	Sticky
	// Hash takes the same member for the same hash, for as long as the members stay the same. The hash need not be well mixed.
	Hash
)

const (
	membersShrinkMin = 16
	goldenRatio64    = 0x9e3779b97f4a7c15
)

// Group is a shared subscription: the members that subscribed to one Topic Filter under one ShareName. Members come and go while a caller
// has it, and when the last is gone it is out of the Trie: it then has Len 0, and later members are in another Group. All methods may
// be called from all goroutines.
type Group[S comparable] struct {
	shareName   string
	topicFilter string

	next   atomic.Uint64 // RoundRobin: turns so far
	sticky atomic.Uint64 // Sticky: index into members

	mu      sync.RWMutex
	members []*member[S] // dense, so that one can be picked by number; the last moves into a gap
	index   shardedMap[S, member[S], *member[S]]
}

type member[S comparable] struct {
	match Match[S]
	at    int // in members
}

func (m *member[S]) hash() uint64    { return hashOf(m.match.Subscriber) }
func (m *member[S]) hasKey(s S) bool { return m.match.Subscriber == s }

func (g *Group[S]) hash() uint64                 { return hashString(g.shareName) }
func (g *Group[S]) hasKey(shareName string) bool { return g.shareName == shareName }

// ShareName returns the name between "$share/" and the filter [MQTT-4.8.2-1].
func (g *Group[S]) ShareName() string { return g.shareName }

// TopicFilter returns the filter that follows the ShareName.
func (g *Group[S]) TopicFilter() string { return g.topicFilter }

// Len returns the number of members.
func (g *Group[S]) Len() int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return len(g.members)
}

// Select picks one member for which usable says true; nil means that all are. It returns false if there is none. The hash is for the
// strategy Hash only. usable is asked once per member at most, and only until it says true; a read lock on the group is held
// meanwhile, so it must be quick and must not call the Trie or the Group. Select doesn't allocate.
func (g *Group[S]) Select(strategy Strategy, hash uint64, usable func(S) bool) (Match[S], bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	n := uint64(len(g.members))
	if n == 0 {
		return Match[S]{}, false
	}
	var first uint64
	switch strategy {
	case Random:
		first = rand.Uint64N(n)
	case Sticky:
		first = g.sticky.Load() % n
	case Hash:
		first, _ = bits.Mul64(mix(hash), n)
	default:
		first = (g.next.Add(1) - 1) % n
	}
	for skipped := range n {
		at := (first + skipped) % n
		match := g.members[at].match
		if usable != nil && !usable(match.Subscriber) {
			continue
		}
		if skipped > 0 {
			switch strategy {
			case RoundRobin: // go on after the one that was found: else it would have two turns in each round
				g.next.Add(skipped)
			case Sticky:
				g.sticky.Store(at)
			}
		}
		return match, true
	}
	return Match[S]{}, false
}

// Each calls visit for every member until it returns false. The order is not defined. A read lock on the group is held, as in Select.
func (g *Group[S]) Each(visit func(Match[S]) bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, m := range g.members {
		if !visit(m.match) {
			return
		}
	}
}

func (g *Group[S]) put(match Match[S]) (existed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index.edit(match.hash(), match.Subscriber, func(m *member[S]) *member[S] {
		if existed = m != nil; existed {
			m.match.Options = match.Options
			return m
		}
		m = &member[S]{match: match, at: len(g.members)}
		g.members = append(g.members, m)
		return m
	})
	return existed
}

func (g *Group[S]) remove(s S) (existed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index.edit(hashOf(s), s, func(m *member[S]) *member[S] {
		if existed = m != nil; !existed {
			return nil
		}
		end := len(g.members) - 1
		last := g.members[end]
		g.members[m.at], last.at = last, m.at
		g.members[end] = nil
		g.members = g.members[:end]
		if g.sticky.Load() == uint64(end) { // follow the one that moved
			g.sticky.Store(uint64(m.at))
		}
		if c := cap(g.members); c > membersShrinkMin && end < c/4 {
			g.members = append(make([]*member[S], 0, c/2), g.members...)
		}
		return nil
	})
	return existed
}

// mix spreads the bits of a poor hash over all 64: the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h += goldenRatio64
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
