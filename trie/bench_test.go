package trie_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"loopmq/trie"
)

type session struct{ _ [64]byte }

var sizes = []struct {
	name string
	n    int
}{{"1e1", 1e1}, {"1e3", 1e3}, {"1e4", 1e4}, {"1e6", 1e6}}

const benchTopics = 4096 // a power of two

// filterOf is the own filter of the i-th device, and topicOf a topic that it matches.
func filterOf(i int, wildcards bool) string {
	if wildcards {
		return fmt.Sprintf("dev/%d/+/x", i)
	}
	return fmt.Sprintf("dev/%d/s/x", i)
}

func topicOf(i int) []byte { return fmt.Appendf(nil, "dev/%d/s/x", i) }

func devices(n int, wildcards bool) (*trie.Trie[*session], []string) {
	t, filters := trie.New[*session](), make([]string, n)
	s := &session{}
	for i := range n {
		filters[i] = filterOf(i, wildcards)
		t.Subscribe(filters[i], s, trie.Options{QoS: 1})
	}
	return t, filters
}

func randomTopics(n int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	topics := make([][]byte, benchTopics)
	for i := range topics {
		topics[i] = topicOf(r.IntN(n))
	}
	return topics
}

// BenchmarkMatch matches topics with one subscriber each, among so many filters.
func BenchmarkMatch(b *testing.B) {
	for _, size := range sizes {
		for _, wildcards := range []bool{false, true} {
			b.Run(fmt.Sprintf("filters=%s/wildcards=%v", size.name, wildcards), func(b *testing.B) {
				t, _ := devices(size.n, wildcards)
				topics := randomTopics(size.n)
				var m trie.Matches[*session]
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					t.Match(topics[i%benchTopics], &m)
					if len(m.Subscribers) != 1 {
						b.Fatal(len(m.Subscribers))
					}
				}
			})
		}
	}
}

// BenchmarkMatch_parallel is BenchmarkMatch on all cores, with filters of both kinds, while nobody and while one goroutine subscribes.
func BenchmarkMatch_parallel(b *testing.B) {
	for _, writing := range []bool{false, true} {
		b.Run(fmt.Sprintf("filters=1e4/writing=%v", writing), func(b *testing.B) {
			t, _ := devices(1e4, true)
			var stop atomic.Bool
			done := make(chan struct{})
			go func() {
				defer close(done)
				filters := make([]string, 1000)
				for i := range filters {
					filters[i] = fmt.Sprintf("dev/%d/+/y", i)
				}
				for i := 0; writing && !stop.Load(); i++ {
					t.Subscribe(filters[i%1000], nil, trie.Options{})
					t.Unsubscribe(filters[i%1000], nil)
				}
			}()
			topics := randomTopics(1e4)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var m trie.Matches[*session]
				for i := 0; pb.Next(); i++ {
					t.Match(topics[i%benchTopics], &m)
				}
			})
			stop.Store(true)
			<-done
		})
	}
}

// BenchmarkMatch_fanOut matches a topic that all subscribers share.
func BenchmarkMatch_fanOut(b *testing.B) {
	for _, size := range sizes {
		b.Run("subscribers="+size.name, func(b *testing.B) {
			t := trie.New[*session]()
			for range size.n {
				t.Subscribe("all/+", &session{}, trie.Options{})
			}
			var m trie.Matches[*session]
			b.ReportAllocs()
			for b.Loop() {
				t.Match([]byte("all/devices"), &m)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size.n), "ns/subscriber")
		})
	}
}

// BenchmarkMatch_none matches a topic that nobody subscribed to.
func BenchmarkMatch_none(b *testing.B) {
	for _, size := range sizes {
		for _, wildcards := range []bool{false, true} {
			b.Run(fmt.Sprintf("filters=%s/wildcards=%v", size.name, wildcards), func(b *testing.B) {
				t, _ := devices(size.n, wildcards)
				var m trie.Matches[*session]
				for b.Loop() {
					t.Match([]byte("dev/none/s/y"), &m)
				}
			})
		}
	}
}

// BenchmarkSubscribe subscribes and unsubscribes one more, where there are so many already: the cost must not grow with them, apart from
// caches that miss. "filters" are distinct ones under one first level, "subscribers" are those of one filter, "members" of one group.
func BenchmarkSubscribe(b *testing.B) {
	shapes := []struct {
		name   string
		filter func(i int) string
	}{
		{"filters/wildcards=false", func(i int) string { return filterOf(i, false) }},
		{"filters/wildcards=true", func(i int) string { return filterOf(i, true) }},
		{"subscribers", func(int) string { return "all/devices" }},
		{"members", func(int) string { return "$share/all/devices" }},
	}
	for _, shape := range shapes {
		for _, size := range sizes[1:] {
			b.Run(shape.name+"="+size.name, func(b *testing.B) {
				t := trie.New[int]()
				filters := make([]string, 2*size.n)
				for i := range filters {
					filters[i] = shape.filter(i)
				}
				for i := range size.n {
					t.Subscribe(filters[i], i, trie.Options{})
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					at := i % size.n
					t.Subscribe(filters[size.n+at], size.n+at, trie.Options{})
					t.Unsubscribe(filters[size.n+at], size.n+at)
				}
			})
		}
	}
}

// BenchmarkSubscribe_parallel is how loops subscribe after a restart: all at once, under one first level.
func BenchmarkSubscribe_parallel(b *testing.B) {
	for _, wildcards := range []bool{false, true} {
		b.Run(fmt.Sprintf("wildcards=%v", wildcards), func(b *testing.B) {
			t := trie.New[*session]()
			s := &session{}
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					t.Subscribe(filterOf(int(next.Add(1)), wildcards), s, trie.Options{})
				}
			})
		})
	}
}

// BenchmarkMemory reports what a subscription with a filter of its own takes, the filter's string included.
func BenchmarkMemory(b *testing.B) {
	for _, wildcards := range []bool{false, true} {
		b.Run(fmt.Sprintf("filters=1e5/wildcards=%v", wildcards), func(b *testing.B) {
			var used float64
			for b.Loop() {
				used = bytesEach(1e5, func() any {
					t, _ := devices(1e5, wildcards)
					return t
				})
			}
			b.ReportMetric(used, "B/subscription")
		})
	}
	b.Run("topics=1e5", func(b *testing.B) {
		var used float64
		for b.Loop() {
			used = bytesEach(1e5, func() any {
				x := trie.NewIndex[*session]()
				for i := range int(1e5) {
					x.Set(string(topicOf(i)), nil)
				}
				return x
			})
		}
		b.ReportMetric(used, "B/topic")
	})
}

// bytesEach returns how much heap what build returns takes, per one of n.
func bytesEach(n int, build func() any) float64 {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	before := heap()
	built := build()
	after := heap()
	runtime.KeepAlive(built)
	return float64(after-before) / float64(n)
}

func BenchmarkSelect(b *testing.B) {
	for name, strategy := range strategies {
		b.Run(name, func(b *testing.B) {
			t := trie.New[int]()
			for i := range 10 {
				t.Subscribe("$share/g/a", i, trie.Options{})
			}
			var m trie.Matches[int]
			t.Match([]byte("a"), &m)
			b.ReportAllocs()
			for b.Loop() {
				m.Groups[0].Select(strategy, 42, nil)
			}
		})
	}
}

// BenchmarkIndexMatch looks up one topic of many by a filter.
func BenchmarkIndexMatch(b *testing.B) {
	for _, size := range sizes {
		x := trie.NewIndex[int]()
		for i := range size.n {
			x.Set(string(topicOf(i)), i)
		}
		for _, filter := range []string{"dev/7/s/x", "dev/7/#", "+/7/+/x"} {
			b.Run(fmt.Sprintf("topics=%s/filter=%s", size.name, filter), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					n := 0
					x.Match(filter, func(string, int) bool { n++; return true })
					if n != 1 {
						b.Fatal(n)
					}
				}
			})
		}
	}
}
