package trie_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"loopmq/trie"
)

// modelMatches is the standard's section 4.7 word by word, one level at a time.
func modelMatches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (filter[:1] == "+" || filter == "#") {
		return false
	}
	for {
		f, moreFilter, filterGoesOn := strings.Cut(filter, "/")
		t, moreTopic, topicGoesOn := strings.Cut(topic, "/")
		switch {
		case f == "#":
			return true
		case f != "+" && f != t:
			return false
		case !topicGoesOn:
			return !filterGoesOn || moreFilter == "#"
		case !filterGoesOn:
			return false
		}
		filter, topic = moreFilter, moreTopic
	}
}

// model is a Trie that tries every filter.
type model struct {
	filters map[string]map[int]trie.Options    // filter -> subscriber
	shares  map[[2]string]map[int]trie.Options // {ShareName, filter} -> subscriber
}

func newModel() *model {
	return &model{map[string]map[int]trie.Options{}, map[[2]string]map[int]trie.Options{}}
}

func subscribe[K comparable](m map[K]map[int]trie.Options, k K, s int, o trie.Options) bool {
	if m[k] == nil {
		m[k] = map[int]trie.Options{}
	}
	_, existed := m[k][s]
	m[k][s] = o
	return existed
}

func unsubscribe[K comparable](m map[K]map[int]trie.Options, k K, s int) bool {
	_, existed := m[k][s]
	delete(m[k], s)
	if len(m[k]) == 0 {
		delete(m, k)
	}
	return existed
}

func share(topicFilter string) ([2]string, bool) {
	parts := strings.SplitN(topicFilter, "/", 3)
	if parts[0] != "$share" {
		return [2]string{}, false
	}
	return [2]string{parts[1], parts[2]}, true
}

func (m *model) Subscribe(topicFilter string, s int, o trie.Options) bool {
	if k, ok := share(topicFilter); ok {
		return subscribe(m.shares, k, s, o)
	}
	return subscribe(m.filters, topicFilter, s, o)
}

func (m *model) Unsubscribe(topicFilter string, s int) bool {
	if k, ok := share(topicFilter); ok {
		return unsubscribe(m.shares, k, s)
	}
	return unsubscribe(m.filters, topicFilter, s)
}

func (m *model) Len() int {
	n := 0
	for _, subs := range m.filters {
		n += len(subs)
	}
	return n + m.SharedLen()
}

func (m *model) SharedLen() int {
	n := 0
	for _, subs := range m.shares {
		n += len(subs)
	}
	return n
}

// describe gives what matches topic in a form that can be compared.
func (m *model) describe(topic string) []string {
	var lines []string
	filters := 0
	for filter, subs := range m.filters {
		if !modelMatches(filter, topic) {
			continue
		}
		filters++
		for s, o := range subs {
			lines = append(lines, fmt.Sprint("sub ", s, o))
		}
	}
	for k, subs := range m.shares {
		if !modelMatches(k[1], topic) {
			continue
		}
		for s, o := range subs {
			lines = append(lines, fmt.Sprint("share ", k[0], " ", k[1], " ", s, o))
		}
	}
	slices.Sort(lines)
	return append(lines, fmt.Sprint("filters ", filters))
}

func describe(m *trie.Matches[int]) []string {
	var lines []string
	for _, match := range m.Subscribers {
		lines = append(lines, fmt.Sprint("sub ", match.Subscriber, match.Options))
	}
	for _, g := range m.Groups {
		n := 0
		g.Each(func(match trie.Match[int]) bool {
			n++
			lines = append(lines, fmt.Sprint("share ", g.ShareName(), " ", g.TopicFilter(), " ", match.Subscriber, match.Options))
			return true
		})
		if n != g.Len() {
			lines = append(lines, fmt.Sprintf("Len is %d, Each visited %d", g.Len(), n))
		}
	}
	slices.Sort(lines)
	return append(lines, fmt.Sprint("filters ", m.Filters))
}

// alphabet has few levels, so that random filters meet, empty ones and '$' among them.
var alphabet = []string{"", "a", "b", "ab", "$", "$a"}

func randomTopic(r *rand.Rand) string {
	levels := make([]string, 1+r.IntN(5))
	for i := range levels {
		levels[i] = alphabet[r.IntN(len(alphabet))]
	}
	if topic := strings.Join(levels, "/"); topic != "" {
		return topic
	}
	return "/"
}

func randomFilter(r *rand.Rand) string {
	levels := strings.Split(randomTopic(r), "/")
	for i := range levels {
		switch r.IntN(8) {
		case 0, 1:
			levels[i] = "+"
		case 2:
			levels[i] = "#"
			return strings.Join(levels[:i+1], "/")
		}
	}
	return strings.Join(levels, "/")
}

func randomSubscription(r *rand.Rand) string {
	if r.IntN(4) == 0 {
		return "$share/" + alphabet[1+r.IntN(3)] + "/" + randomFilter(r)
	}
	return randomFilter(r)
}

func randomOptions(r *rand.Rand) trie.Options {
	return trie.Options{
		QoS:                    byte(r.IntN(3)),
		NoLocal:                r.IntN(2) == 0,
		RetainAsPublished:      r.IntN(2) == 0,
		RetainHandling:         byte(r.IntN(3)),
		SubscriptionIdentifier: r.Uint32N(1000),
	}
}

func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	s := rand.Uint64()
	t.Logf("seed %d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// TestTrie_model does random operations on a Trie and on the model. Each round first grows, then shrinks to nothing; subscribers are few
// or many, so that all forms of a subscriber set are passed in both directions.
func TestTrie_model(t *testing.T) {
	for _, subscribers := range []int{1, 3, 40} {
		t.Run(fmt.Sprint("subscribers=", subscribers), func(t *testing.T) {
			r := newRand(t)
			tr, m := trie.New[int](), newModel()
			var got trie.Matches[int]
			checks := 0
			check := func(op string) {
				t.Helper()
				if checks++; checks%5 > 0 && len(m.filters) > 100 { // the model is slow
					return
				}
				topic := randomTopic(r)
				tr.Match([]byte(topic), &got)
				if got, want := describe(&got), m.describe(topic); !slices.Equal(got, want) {
					t.Fatalf("%s: Match(%q):\ngot  %q\nwant %q", op, topic, got, want)
				}
				if tr.Len() != m.Len() || tr.SharedLen() != m.SharedLen() {
					t.Fatalf("%s: Len: got %d, %d, want %d, %d", op, tr.Len(), tr.SharedLen(), m.Len(), m.SharedLen())
				}
			}
			var known []string
			for i := range 6000 {
				filter, s := randomSubscription(r), r.IntN(subscribers)
				if len(known) > 0 && r.IntN(3) > 0 {
					filter = known[r.IntN(len(known))]
				}
				if growing := i%2000 < 1000; r.IntN(4) > 0 == growing {
					o := randomOptions(r)
					known = append(known, filter)
					if got, want := tr.Subscribe(filter, s, o), m.Subscribe(filter, s, o); got != want {
						t.Fatalf("Subscribe(%q, %d): got %v, want %v", filter, s, got, want)
					}
					check(fmt.Sprintf("Subscribe(%q, %d)", filter, s))
				} else {
					if got, want := tr.Unsubscribe(filter, s), m.Unsubscribe(filter, s); got != want {
						t.Fatalf("Unsubscribe(%q, %d): got %v, want %v", filter, s, got, want)
					}
					check(fmt.Sprintf("Unsubscribe(%q, %d)", filter, s))
				}
			}
			for _, filter := range known {
				for s := range subscribers {
					if got, want := tr.Unsubscribe(filter, s), m.Unsubscribe(filter, s); got != want {
						t.Fatalf("Unsubscribe(%q, %d): got %v, want %v", filter, s, got, want)
					}
				}
				check("Unsubscribe all of " + filter)
			}
			if tr.Len() != 0 {
				t.Fatalf("Len at the end: got %d", tr.Len())
			}
		})
	}
}

func TestIndex_model(t *testing.T) {
	r := newRand(t)
	x, m := trie.NewIndex[int](), map[string]int{}
	for i := range 20_000 {
		topic := randomTopic(r)
		want, exists := m[topic]
		if growing := i%4000 < 2000; r.IntN(4) > 0 == growing {
			m[topic] = i
			if got, existed := x.Set(topic, i); got != want || existed != exists {
				t.Fatalf("Set(%q): got %d, %v, want %d, %v", topic, got, existed, want, exists)
			}
		} else if r.IntN(4) == 0 {
			if exists = r.IntN(2) == 0; exists {
				m[topic] = i
			} else {
				delete(m, topic)
			}
			x.Update(topic, func(v int, there bool) (int, bool) {
				if _, was := x.Get([]byte(topic)); v != want || there != was {
					t.Fatalf("Update(%q): got %d, %v, want %d, %v", topic, v, there, want, was)
				}
				return i, exists
			})
		} else {
			delete(m, topic)
			if got, existed := x.Delete(topic); got != want || existed != exists {
				t.Fatalf("Delete(%q): got %d, %v, want %d, %v", topic, got, existed, want, exists)
			}
		}
		topic = randomTopic(r)
		want, exists = m[topic]
		if got, existed := x.Get([]byte(topic)); got != want || existed != exists {
			t.Fatalf("Get(%q): got %d, %v, want %d, %v", topic, got, existed, want, exists)
		}
		if x.Len() != len(m) {
			t.Fatalf("Len: got %d, want %d", x.Len(), len(m))
		}
		if i%20 > 0 { // the model is slow
			continue
		}
		filter := randomFilter(r)
		var got, parts, wanted []string
		x.Match(filter, func(topic string, v int) bool {
			got = append(got, fmt.Sprint(topic, "=", v))
			return true
		})
		for c := x.Cursor(filter); !c.Done(); {
			steps := 1 + r.IntN(3)
			if topic, v, ok := c.Next(&steps); ok {
				parts = append(parts, fmt.Sprint(topic, "=", v))
			}
		}
		for topic, v := range m {
			if modelMatches(filter, topic) {
				wanted = append(wanted, fmt.Sprint(topic, "=", v))
			}
		}
		slices.Sort(got)
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Fatalf("Match(%q):\ngot  %q\nwant %q", filter, got, wanted)
		}
		if slices.Sort(parts); !slices.Equal(parts, wanted) {
			t.Fatalf("Cursor(%q):\ngot  %q\nwant %q", filter, parts, wanted)
		}
	}
	for _, topic := range slices.SortedFunc(maps.Keys(m), cmp.Compare) {
		x.Delete(topic)
	}
	if x.Len() != 0 {
		t.Fatalf("Len at the end: got %d", x.Len())
	}
}

func TestIndex_visitStops(t *testing.T) {
	x := trie.NewIndex[int]()
	for i := range 100 {
		x.Set(fmt.Sprintf("a/%d", i), i)
		x.Set(fmt.Sprintf("a/%d/b", i), i)
		x.Set("a", 1)
	}
	for _, filter := range []string{"#", "a/#", "+/+", "a/+/b", "a/5/#", "a", "+"} {
		visits := 0
		x.Match(filter, func(string, int) bool { visits++; return false })
		if visits != 1 {
			t.Errorf("Match(%q) went on after false: %d visits", filter, visits)
		}
	}
}

// TestCursor_changes changes the Index while a Cursor is under way: shards split and merge, branches come and go, and what was there all
// the time is visited once nevertheless.
func TestCursor_changes(t *testing.T) {
	r := newRand(t)
	for round := range 12 {
		x := trie.NewIndex[int]()
		stays := map[string]int{}
		for i := range 2000 {
			topic := fmt.Sprintf("%d/%d/%d", r.IntN(200), r.IntN(10), i)
			if stays[topic] = i; i%4 > 0 {
				delete(stays, topic)
			}
			x.Set(topic, i)
		}
		filter := []string{"#", "+/+/+", "+/5/#"}[round%3]
		seen := map[string]int{}
		c := x.Cursor(filter)
		for !c.Done() {
			steps := 1 + r.IntN(100)
			topic, _, ok := c.Next(&steps)
			if ok {
				if seen[topic]++; seen[topic] > 1 {
					t.Fatalf("round %d: %q was visited twice", round, topic)
				}
			}
			if r.IntN(20) > 0 {
				continue
			}
			for range 100 {
				topic := fmt.Sprintf("%d/%d/%d", r.IntN(200), r.IntN(10), r.IntN(2000))
				if round < 6 {
					topic = fmt.Sprintf("%d/%d/%d", r.IntN(1000), r.IntN(10), r.IntN(100_000))
				}
				if _, kept := stays[topic]; kept {
					continue
				}
				if round < 6 == (r.IntN(4) > 0) {
					x.Set(topic, 1)
				} else {
					x.Delete(topic)
				}
			}
		}
		for topic := range stays {
			if modelMatches(filter, topic) != (seen[topic] == 1) {
				t.Fatalf("round %d: %q was visited %d times by %q", round, topic, seen[topic], filter)
			}
		}
	}
}

// TestCursor_merge lets shards become one that a Cursor has seen half of.
func TestCursor_merge(t *testing.T) {
	const topics = 5000
	for at := 0; at < topics; at += 1000 {
		x := trie.NewIndex[int]()
		for i := range topics {
			x.Set(strconv.Itoa(i), i)
		}
		seen := map[string]int{}
		c := x.Cursor("+")
		for !c.Done() {
			if len(seen) == at {
				for i := range topics {
					if i%100 > 0 {
						x.Delete(strconv.Itoa(i))
					}
				}
			}
			steps := 1
			if topic, _, ok := c.Next(&steps); ok {
				seen[topic]++
			}
		}
		for i := 0; i < topics; i += 100 {
			if topic := strconv.Itoa(i); seen[topic] != 1 {
				t.Fatalf("deleted after %d: %q was visited %d times", at, topic, seen[topic])
			}
		}
	}
}

// TestCursor_steps holds each call to the steps that it was given, also where nothing matches.
func TestCursor_steps(t *testing.T) {
	x := trie.NewIndex[int]()
	for i := range 1000 {
		x.Set(fmt.Sprintf("%d/x", i), i)
	}
	calls := 0
	for c := x.Cursor("+/y"); !c.Done(); calls++ {
		steps := 10
		if topic, _, ok := c.Next(&steps); ok {
			t.Fatalf("%q matches", topic)
		}
		if steps != 0 && !c.Done() {
			t.Fatalf("%d steps are left, and it isn't done", steps)
		}
	}
	if calls < 100 {
		t.Errorf("got %d calls for 1000 topics, want at least 100", calls)
	}
}
