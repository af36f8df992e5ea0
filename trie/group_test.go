package trie_test

import (
	"maps"
	"slices"
	"testing"

	"loopmq/trie"
)

var strategies = map[string]trie.Strategy{
	"RoundRobin": trie.RoundRobin, "Random": trie.Random, "Sticky": trie.Sticky, "Hash": trie.Hash,
}

func mustGroup(t testing.TB, tr *trie.Trie[int], members ...int) *trie.Group[int] {
	t.Helper()
	for _, s := range members {
		tr.Subscribe("$share/g/a/+", s, trie.Options{QoS: 1, SubscriptionIdentifier: uint32(s)})
	}
	var m trie.Matches[int]
	tr.Match([]byte("a/b"), &m)
	if len(m.Groups) != 1 || len(m.Subscribers) != 0 || m.Filters != 0 {
		t.Fatalf("Match: got %+v", m)
	}
	return m.Groups[0]
}

// turns selects n times and counts who was taken.
func turns(t testing.TB, g *trie.Group[int], n int, strategy trie.Strategy, usable func(int) bool) map[int]int {
	t.Helper()
	counts := map[int]int{}
	for i := range n {
		match, ok := g.Select(strategy, uint64(i), usable)
		if !ok {
			t.Fatalf("Select: nobody")
		}
		if match.Options.SubscriptionIdentifier != uint32(match.Subscriber) {
			t.Fatalf("Select: got the options of another: %+v", match)
		}
		counts[match.Subscriber]++
	}
	return counts
}

func TestGroup_RoundRobin(t *testing.T) {
	g := mustGroup(t, trie.New[int](), 1, 2, 3, 4)
	if got, want := turns(t, g, 40, trie.RoundRobin, nil), map[int]int{1: 10, 2: 10, 3: 10, 4: 10}; !maps.Equal(got, want) {
		t.Errorf("all usable: got %v, want %v", got, want)
	}
	even := func(s int) bool { return s > 2 }
	if got, want := turns(t, g, 40, trie.RoundRobin, even), map[int]int{3: 20, 4: 20}; !maps.Equal(got, want) {
		t.Errorf("two usable: got %v, want %v", got, want)
	}
}

func TestGroup_Random(t *testing.T) {
	g := mustGroup(t, trie.New[int](), 1, 2, 3, 4)
	for s, n := range turns(t, g, 4000, trie.Random, nil) {
		if n < 800 || n > 1200 { // 7 standard deviations
			t.Errorf("%d was taken %d times of 4000", s, n)
		}
	}
}

func TestGroup_Sticky(t *testing.T) {
	tr := trie.New[int]()
	g := mustGroup(t, tr, 1, 2, 3, 4)
	not := func(out ...int) func(int) bool {
		return func(s int) bool { return !slices.Contains(out, s) }
	}
	for _, step := range []struct {
		usable func(int) bool
		want   int
	}{{nil, 1}, {not(1, 2, 3), 4}, {not(), 4}, {nil, 4}} {
		if got := turns(t, g, 10, trie.Sticky, step.usable); got[step.want] != 10 {
			t.Fatalf("got %v, want %d", got, step.want)
		}
	}
	tr.Unsubscribe("$share/g/a/+", 2) // 4, the last one, moves into its place
	if got := turns(t, g, 10, trie.Sticky, nil); got[4] != 10 {
		t.Errorf("another left: got %v, want 4", got)
	}
	tr.Unsubscribe("$share/g/a/+", 4)
	if got := turns(t, g, 10, trie.Sticky, nil); len(got) != 1 || got[4] != 0 {
		t.Errorf("it left: got %v, want one of the others", got)
	}
}

func TestGroup_Hash(t *testing.T) {
	tr := trie.New[int]()
	g := mustGroup(t, tr, 1, 2, 3, 4)
	taken := map[uint64]int{}
	for round := range 3 {
		for h := range uint64(1000) {
			match, _ := g.Select(trie.Hash, h, nil)
			if s, ok := taken[h]; ok && s != match.Subscriber {
				t.Fatalf("round %d, hash %d: got %d, was %d", round, h, match.Subscriber, s)
			}
			taken[h] = match.Subscriber
		}
		tr.Subscribe("$share/g/a/+", 3, trie.Options{QoS: 2, SubscriptionIdentifier: 3}) // other options: the same members
	}
	for s, n := range turns(t, g, 1000, trie.Hash, nil) {
		if n < 150 || n > 350 {
			t.Errorf("%d got %d hashes of 1000", s, n)
		}
	}
}

// TestGroup_usable checks for each strategy that the only usable member is found, and that each is asked once.
func TestGroup_usable(t *testing.T) {
	members := make([]int, 50)
	for i := range members {
		members[i] = i
	}
	g := mustGroup(t, trie.New[int](), members...)
	for name, strategy := range strategies {
		for want := range members {
			match, ok := g.Select(strategy, uint64(want), func(s int) bool { return s == want })
			if !ok || match.Subscriber != want {
				t.Errorf("%s: got %v, %v, want %d", name, match, ok, want)
			}
		}
		var asked []int
		if match, ok := g.Select(strategy, 7, func(s int) bool { asked = append(asked, s); return false }); ok {
			t.Errorf("%s: got %v, though none is usable", name, match)
		}
		slices.Sort(asked)
		if !slices.Equal(asked, members) {
			t.Errorf("%s: asked %v", name, asked)
		}
	}
}

func TestGroup_membership(t *testing.T) {
	tr := trie.New[int]()
	const n = 1000
	members := make([]int, n)
	for i := range members {
		members[i] = i
	}
	g := mustGroup(t, tr, members...)
	if g.Len() != n || tr.Len() != n || tr.SharedLen() != n || g.ShareName() != "g" || g.TopicFilter() != "a/+" {
		t.Fatalf("got Len %d, %d, %d, %q, %q", g.Len(), tr.Len(), tr.SharedLen(), g.ShareName(), g.TopicFilter())
	}
	if !tr.Subscribe("$share/g/a/+", 7, trie.Options{QoS: 2}) || g.Len() != n {
		t.Error("Subscribe again: didn't exist")
	}
	g.Each(func(match trie.Match[int]) bool {
		if match.Subscriber == 7 && match.Options.QoS != 2 {
			t.Errorf("options weren't replaced: %+v", match)
		}
		return true
	})
	visits := 0
	g.Each(func(trie.Match[int]) bool { visits++; return visits < 3 })
	if visits != 3 {
		t.Errorf("Each went on after false: %d visits", visits)
	}
	if tr.Unsubscribe("$share/g/a/+", n) || tr.Unsubscribe("$share/h/a/+", 1) || tr.Unsubscribe("a/+", 1) {
		t.Error("Unsubscribe of what isn't there: existed")
	}
	for i := range members {
		if !tr.Unsubscribe("$share/g/a/+", i) || g.Len() != n-1-i {
			t.Fatalf("Unsubscribe %d: Len %d", i, g.Len())
		}
		if i%100 == 50 {
			if got := turns(t, g, n, trie.RoundRobin, func(s int) bool { return s > i && s != 7 }); got[i] > 0 {
				t.Errorf("%d was taken after it left", i)
			}
		}
	}
	if _, ok := g.Select(trie.RoundRobin, 0, nil); ok || tr.Len() != 0 {
		t.Errorf("empty group: Select %v, Len %d", ok, tr.Len())
	}
	if again := mustGroup(t, tr, 1); again == g {
		t.Error("a group that died is back")
	}
}
