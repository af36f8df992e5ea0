package loopmq

import (
	"testing"

	"loopmq/store"
	"loopmq/trie"
)

// The scratch of a large fan-out keeps nothing alive, and its memory only if that is not much.
func TestScratchIsCleared(t *testing.T) {
	for _, n := range []int{scratchQuiet + 1, scratchKept, scratchKept + 1} {
		l := &loop{merged: make(map[*Session]int), scratchHigh: n}
		s := &Session{}
		for i := range n {
			l.matches.Subscribers = append(l.matches.Subscribers, trie.Match[*Session]{Subscriber: s})
			l.deliveries = append(l.deliveries, delivery{session: s})
			l.targets = append(l.targets, store.Target{ShareName: "g"})
			l.routed = append(l.routed, delivery{session: s})
			l.merged[&Session{}] = i
		}
		l.deliveries = l.deliveries[:1] // a smaller one came after it in the same turn
		l.clearScratch()
		if len(l.merged) != 0 || l.scratchHigh != 0 || len(l.deliveries) != 0 || cap(l.deliveries) > 2*scratchKept {
			t.Errorf("after %d: %d merged, high %d, room for %d deliveries", n, len(l.merged), l.scratchHigh, cap(l.deliveries))
		}
		for i := range cap(l.deliveries) {
			if l.deliveries[:cap(l.deliveries)][i].session != nil {
				t.Fatalf("after %d, delivery %d is still there", n, i)
			}
		}
		for i := range cap(l.matches.Subscribers) {
			if l.matches.Subscribers[:cap(l.matches.Subscribers)][i].Subscriber != nil {
				t.Fatalf("after %d, match %d is still there", n, i)
			}
		}
	}
}
