package trie_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"loopmq/trie"
)

// TestTrie_Match has the cases of the standard's section 4.7, and those at the edges of the tree's form.
func TestTrie_Match(t *testing.T) {
	cases := []struct {
		filters string // separated by spaces
		topic   string
		want    string // those that match
	}{
		{"sport/# sport/tennis/# sport/+ # + +/#", "sport", "sport/# # + +/#"},
		{"sport/tennis/player1/#", "sport/tennis/player1", "sport/tennis/player1/#"},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", "sport/tennis/player1/#"},
		{"sport/tennis/player1/#", "sport/tennis/player10", ""},
		{"sport/+ sport/", "sport/", "sport/+ sport/"}, // MQTT-4.7.1-3
		{"sport/+", "sport", ""},
		{"+/+ /+ + #", "/finance", "+/+ /+ #"},
		{"sport/tennis/+ +/tennis/#", "sport/tennis/player1", "sport/tennis/+ +/tennis/#"},
		{"sport/tennis/+", "sport/tennis/player1/ranking", ""},
		{"# + +/# +/monitor/Clients $SYS/# $SYS/monitor/+", "$SYS/monitor/Clients", "$SYS/# $SYS/monitor/+"}, // MQTT-4.7.2-1
		{"a/+ a/#", "a/$SYS", "a/+ a/#"},
		{"$SYS/#", "$SYS", "$SYS/#"},
		{"+/b/c +/b/d +/b", "$a/b/c", ""},
		{"/ // /// +/ /+ +/+ +/+/+", "/", "/ +/ /+ +/+"},
		{"/ // /// +/ /+ +/+ +/+/+ /+/ //#", "//", "// +/+/+ /+/ //#"},
		{"ACCOUNTS Accounts", "ACCOUNTS", "ACCOUNTS"}, // MQTT-4.7.3-4
		{"a/b/c/+ a/b/+/d a/+/c/d +/b/c/d a/b/c/# a/b/x/+", "a/b/c/d", "a/b/c/+ a/b/+/d a/+/c/d +/b/c/d a/b/c/#"},
		{"ab/+ a/+ abc/+", "ab/x", "ab/+"},
		{"ä/+/ü ä/#", "ä/ö/ü", "ä/+/ü ä/#"},
	}
	for _, c := range cases {
		tr := trie.New[string]()
		for f := range strings.FieldsSeq(c.filters) {
			tr.Subscribe(f, f, trie.Options{})
			tr.Subscribe("$share/s/"+f, f, trie.Options{})
		}
		var m trie.Matches[string]
		tr.Match([]byte(c.topic), &m)
		want := strings.Fields(c.want)
		slices.Sort(want)
		var subscribers, groups []string
		for _, match := range m.Subscribers {
			subscribers = append(subscribers, match.Subscriber)
		}
		for _, g := range m.Groups {
			groups = append(groups, g.TopicFilter())
		}
		slices.Sort(subscribers)
		slices.Sort(groups)
		if !slices.Equal(subscribers, want) || !slices.Equal(groups, want) || m.Filters != len(want) {
			t.Errorf("Match(%q) among %s: got %q, groups %q, Filters %d, want %q", c.topic, c.filters, subscribers, groups, m.Filters, want)
		}
	}
}

// TestTrie_invalid has input that a caller should have refused: it need not match, but must not do harm.
func TestTrie_invalid(t *testing.T) {
	filters := []string{"", "a/#/b", "a+/b", "a/b#", "+a", "#a/+", "$share", "$share/", "$share/a", "$share/a/", "a/+b/+", "##", "++", "\x00/+"}
	tr := trie.New[*int]()
	for i, f := range filters {
		tr.Subscribe(f, &i, trie.Options{})
	}
	var m trie.Matches[*int]
	for _, topic := range append(filters, "a", "a/b", "a/#", "a/+", "/", "$") {
		tr.Match([]byte(topic), &m)
		for _, match := range m.Subscribers {
			if match.Subscriber == nil {
				t.Errorf("Match(%q) has a subscriber that never subscribed", topic)
			}
		}
	}
	for i, f := range filters {
		tr.Unsubscribe(f, &i)
	}
}

func TestMatches_Reset(t *testing.T) {
	tr := trie.New[*int]()
	tr.Subscribe("a", new(int), trie.Options{})
	tr.Subscribe("$share/s/a", new(int), trie.Options{})
	var m trie.Matches[*int]
	tr.Match([]byte("a"), &m)
	if len(m.Subscribers) != 1 || len(m.Groups) != 1 || m.Filters != 1 {
		t.Fatalf("Match: got %+v", m)
	}
	m.Reset()
	if len(m.Subscribers) != 0 || len(m.Groups) != 0 || m.Filters != 0 {
		t.Fatalf("Reset: got %+v", m)
	}
	if m.Subscribers[:1][0].Subscriber != nil || m.Groups[:1][0] != nil {
		t.Error("Reset keeps references")
	}
}

func TestMatch_allocatesNothing(t *testing.T) {
	tr := trie.New[int]()
	x := trie.NewIndex[int]()
	for i := range 1000 {
		for _, f := range []string{"dev/%d/x", "dev/%d/+", "dev/%d/#", "+/%d/x", "$share/s/dev/%d/x", "$share/t/dev/%d/+"} {
			tr.Subscribe(fmt.Sprintf(f, i), i, trie.Options{})
		}
		tr.Subscribe("#", i, trie.Options{})
		x.Set(fmt.Sprintf("dev/%d/x", i), i)
	}
	var m trie.Matches[int]
	topic := []byte("dev/77/x")
	usable := func(s int) bool { return s == 77 }
	for name, f := range map[string]func(){
		"Trie.Match": func() { tr.Match(topic, &m) },
		"Select": func() {
			for _, strategy := range strategies {
				for _, g := range m.Groups {
					g.Select(strategy, 42, usable)
				}
			}
		},
		"Index.Get": func() { x.Get(topic) },
	} {
		tr.Match(topic, &m)
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if len(m.Subscribers) != 1004 || m.Filters != 5 || len(m.Groups) != 2 {
		t.Errorf("got %d subscribers, %d filters, %d groups", len(m.Subscribers), m.Filters, len(m.Groups))
	}
}

// TestTrie_memory holds the budget for a subscription with a filter of its own, and that memory comes back.
func TestTrie_memory(t *testing.T) {
	const n, budget, leftover = 20_000, 100, 4
	for _, wildcards := range []bool{false, true} {
		if got := bytesEach(n, func() any { tr, _ := devices(n, wildcards); return tr }); got > budget {
			t.Errorf("wildcards=%v: %.1f bytes per subscription, want at most %d", wildcards, got, budget)
		}
	}
	if got := bytesEach(n, func() any {
		tr := trie.New[int]()
		filters := func(i int) []string {
			return []string{
				"one/+", "one", "$share/s/one", fmt.Sprintf("$share/s%d/many", i),
				filterOf(i, true), filterOf(i, false), fmt.Sprintf("a/%d/b/#", i%100),
				fmt.Sprintf("$share/s/own/%d", i), fmt.Sprintf("two/%d/+/a", i), fmt.Sprintf("two/%d/+/b", i),
			}
		}
		for i := range n {
			for _, f := range filters(i) {
				tr.Subscribe(f, i, trie.Options{})
			}
		}
		for i := 1; i < n; i++ { // one stays, so that nothing goes as a whole
			for _, f := range filters(i) {
				if !tr.Unsubscribe(f, i) {
					t.Fatalf("Unsubscribe(%q, %d): got false", f, i)
				}
			}
		}
		return tr
	}); got > leftover {
		t.Errorf("%.1f bytes per subscription left after all were unsubscribed", got)
	}
	const nameBytes, nameBudget = 128, 220
	if got := bytesEach(n, func() any {
		x := trie.NewIndex[int]()
		for i := range 2 * n { // the second value must not add a second name
			x.Set(fmt.Sprintf("dev/%0*d", nameBytes-len("dev/"), i%n), i)
		}
		return x
	}); got > nameBudget {
		t.Errorf("%.1f bytes per topic with a name of %d, want at most %d", got, nameBytes, nameBudget)
	}
	if got := bytesEach(1, func() any { return trie.New[int]() }); got > 1024 {
		t.Errorf("an empty Trie has %.0f bytes", got)
	}
}

// TestTrie_adversarial has the longest topics and filters, and a tree in which each level matches twice.
func TestTrie_adversarial(t *testing.T) {
	const n = 65534
	slashes := strings.Repeat("/", n)
	tr := trie.New[int]()
	filters := []string{
		slashes, slashes + "+", slashes + "a", slashes[1:] + "+/", slashes[1:] + "#",
		strings.Repeat("+/", n/2) + "+", strings.Repeat("+/", n/2) + "#",
	}
	want := []int{0, 1, 3, 4, 6}
	for i, f := range filters {
		tr.Subscribe(f, i, trie.Options{})
	}
	var m trie.Matches[int]
	tr.Match([]byte(slashes), &m)
	var got []int
	for _, match := range m.Subscribers {
		got = append(got, match.Subscriber)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("long topic: got %v, want %v", got, want)
	}
	for i, f := range filters {
		if !tr.Unsubscribe(f, i) {
			t.Errorf("Unsubscribe of filter %d: got false", i)
		}
	}

	// 2^12 filters of 'a' and '+' all match one topic.
	const depth = 12
	for i := range 1 << depth {
		f := make([]string, depth)
		for j := range f {
			f[j] = "a+"[i>>j&1:][:1]
		}
		tr.Subscribe(strings.Join(f, "/"), i, trie.Options{})
	}
	tr.Match([]byte(strings.Repeat("a/", depth-1)+"a"), &m)
	if len(m.Subscribers) != 1<<depth {
		t.Errorf("got %d subscribers, want %d", len(m.Subscribers), 1<<depth)
	}
}

// TestTrie_concurrent has everything at once: goroutines that own some subscribers each and subscribe and unsubscribe them by filters
// that all goroutines use, while others match. Subscriptions that stay must be matched every time, exactly once.
func TestTrie_concurrent(t *testing.T) {
	const writers, steps, stay = 4, 4000, 50
	tr, x := trie.New[int](), trie.NewIndex[int]()
	staying := []string{"a/b", "a/+", "a/#", "+/b", "#", "$share/s/a/b", "$share/s/a/+"}
	for _, f := range staying {
		for s := range stay {
			tr.Subscribe(f, -1-s, trie.Options{})
		}
	}
	x.Set("a/b", -1)
	x.Set("a/b/c/d", -1)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var writing, reading sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			type subscription struct {
				filter string
				s      int
			}
			mine := map[subscription]bool{}
			deleteMine := func(topic string, _ int) bool {
				if strings.HasSuffix(topic, fmt.Sprint("/", w)) {
					x.Delete(topic)
				}
				return true
			}
			set := func(sub subscription, on bool) {
				existed := false
				if on {
					existed = tr.Subscribe(sub.filter, sub.s, trie.Options{QoS: 1})
				} else {
					existed = tr.Unsubscribe(sub.filter, sub.s)
				}
				if existed != mine[sub] {
					t.Errorf("%v to %v: got existed %v, want %v", sub, on, existed, mine[sub])
				}
				mine[sub] = on
			}
			for i := range steps {
				f := randomSubscription(r)
				if r.IntN(3) == 0 {
					f = staying[r.IntN(len(staying))]
				}
				set(subscription{f, w*100 + r.IntN(20)}, i%400 < 200)
				topic := fmt.Sprint(randomTopic(r), "/", w)
				switch r.IntN(3) {
				case 0:
					x.Set(topic, i)
				case 1:
					x.Delete(topic)
				}
			}
			for sub, on := range mine {
				if on {
					set(sub, false)
				}
			}
			x.Match("#", deleteMine)
			x.Match("$/#", deleteMine)
			x.Match("$a/#", deleteMine)
		})
	}
	var done atomic.Bool
	for range 2 {
		reading.Go(func() {
			var m trie.Matches[int]
			for !done.Load() {
				tr.Match([]byte("a/b"), &m)
				n, groups := 0, 0
				for _, match := range m.Subscribers {
					if match.Subscriber < 0 {
						n++
					}
				}
				for _, g := range m.Groups {
					for _, strategy := range strategies {
						g.Select(strategy, 1, func(s int) bool { return s >= 0 })
					}
					if f := g.TopicFilter(); g.ShareName() == "s" && (f == "a/b" || f == "a/+") {
						groups++
						if match, ok := g.Select(trie.Random, 0, func(s int) bool { return s == -1 }); !ok || match.Subscriber != -1 {
							t.Errorf("Select: got %v, %v", match, ok)
						}
					}
				}
				if n != 5*stay || groups != 2 {
					t.Errorf("matched %d of the subscriptions that stay, %d groups, want %d, 2", n, groups, 5*stay)
					return
				}
				topics := 0
				x.Match("a/#", func(_ string, v int) bool {
					if v < 0 {
						topics++
					}
					return true
				})
				if _, ok := x.Get([]byte("a/b")); topics != 2 || !ok {
					t.Errorf("index has %d of the topics that stay, Get %v", topics, ok)
					return
				}
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	if got, want := tr.Len(), len(staying)*stay; got != want {
		t.Errorf("Len at the end: got %d, want %d", got, want)
	}
	if x.Len() != 2 {
		t.Errorf("Index.Len at the end: got %d, want 2", x.Len())
	}
	for _, f := range staying {
		for s := range stay {
			tr.Unsubscribe(f, -1-s)
		}
	}
	var m trie.Matches[int]
	if tr.Match([]byte("a/b"), &m); tr.Len() != 0 || len(m.Subscribers)+len(m.Groups) != 0 {
		t.Errorf("after all are gone: Len %d, matched %v", tr.Len(), m)
	}
}

// FuzzMatch subscribes to filters that are the lines of the input, and compares with the model for a topic.
func FuzzMatch(f *testing.F) {
	f.Add("a/b", "a/+\na/#\n#\n+/b\n$share/s/a/+", uint64(0))
	f.Add("$SYS/a", "#\n+/a\n$SYS/#\n$SYS/+", uint64(5))
	f.Add("//", "/\n//\n+/+/+\n//#\n/+/", uint64(9))
	f.Fuzz(func(t *testing.T, topic, lines string, unsubscribed uint64) {
		if topic == "" || strings.ContainsAny(topic, "+#") {
			return
		}
		tr, m := trie.New[int](), newModel()
		filters := strings.Split(lines, "\n")
		for i, filter := range filters {
			if !valid(filter) {
				continue
			}
			o := trie.Options{SubscriptionIdentifier: uint32(i)}
			if got, want := tr.Subscribe(filter, i%3, o), m.Subscribe(filter, i%3, o); got != want {
				t.Fatalf("Subscribe(%q, %d): got %v, want %v", filter, i%3, got, want)
			}
		}
		for i, filter := range filters {
			if unsubscribed>>(i%64)&1 == 0 || !valid(filter) {
				continue
			}
			if got, want := tr.Unsubscribe(filter, i%3), m.Unsubscribe(filter, i%3); got != want {
				t.Fatalf("Unsubscribe(%q, %d): got %v, want %v", filter, i%3, got, want)
			}
		}
		var got trie.Matches[int]
		tr.Match([]byte(topic), &got)
		if got, want := describe(&got), m.describe(topic); !slices.Equal(got, want) {
			t.Fatalf("Match(%q) among %q:\ngot  %q\nwant %q", topic, filters, got, want)
		}
		x, visited := trie.NewIndex[int](), 0
		x.Set(topic, 1)
		x.Set(topic+"/x", 2)
		for _, filter := range filters {
			if !valid(filter) || strings.HasPrefix(filter, "$share/") {
				continue
			}
			visited = 0
			x.Match(filter, func(_ string, v int) bool { visited |= v; return true })
			want := 0
			if modelMatches(filter, topic) {
				want |= 1
			}
			if modelMatches(filter, topic+"/x") {
				want |= 2
			}
			if visited != want {
				t.Fatalf("Index.Match(%q) for %q: got %b, want %b", filter, topic, visited, want)
			}
		}
	})
}

// valid is what the broker checks before it subscribes.
func valid(filter string) bool {
	if strings.HasPrefix(filter, "$share") {
		parts := strings.SplitN(filter, "/", 3)
		if len(parts) < 3 || parts[0] != "$share" || parts[1] == "" || strings.ContainsAny(parts[1], "+#") {
			return false
		}
		filter = parts[2]
	}
	if filter == "" {
		return false
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if strings.Contains(level, "+") && level != "+" || strings.Contains(level, "#") && (level != "#" || i < len(levels)-1) {
			return false
		}
	}
	return true
}
