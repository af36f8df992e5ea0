package trie

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// item is an entry whose hash the test chooses.
type item struct {
	key  int
	h    uint64
	body int
}

func (i *item) hash() uint64        { return i.h }
func (i *item) hasKey(key int) bool { return i.key == key }

type itemMap = shardedMap[int, item, *item]

func set(m *itemMap, i *item)              { m.edit(i.h, i.key, func(*item) *item { return i }) }
func unset(m *itemMap, hash uint64, k int) { m.edit(hash, k, func(*item) *item { return nil }) }

// check verifies the invariants of a map that is at rest, and returns how many entries and slots it has.
func check(t *testing.T, m *itemMap) (entries, slots int) {
	t.Helper()
	directory := *m.directory.Load()
	depth := bits.Len(uint(len(directory))) - 1
	if len(directory) != 1<<depth {
		t.Fatalf("directory has %d slots", len(directory))
	}
	deepest := 0
	for at := 0; at < len(directory); {
		s := directory[at].Load()
		if s.retired {
			t.Fatalf("retired shard at %d", at)
		}
		if int(s.prefix>>directoryShift(len(directory))) != at {
			t.Fatalf("shard with prefix %x at %d of %d", s.prefix, at, len(directory))
		}
		if int(s.depth) == depth {
			deepest++
		}
		span := len(directory) >> s.depth
		for i := range span {
			if directory[at+i].Load() != s {
				t.Fatalf("shard of depth %d isn't in slot %d", s.depth, at+i)
			}
		}
		at += span
		live, used := 0, 0
		for i := range s.buckets {
			b := &s.buckets[i]
			for j := range b.slots {
				tag := b.tags.Load() >> (8 * j) & 0xff
				entry := b.slots[j].Load()
				if (entry != nil) != (tag&tagFull != 0) {
					t.Fatalf("slot with tag %x has %v", tag, entry)
				}
				if tag != tagEmpty {
					used++
				}
				if entry != nil {
					live++
				}
			}
		}
		if live != int(s.live) || used != int(s.used) || used > len(s.buckets)*bucketCapacity {
			t.Fatalf("shard counts %d live, %d used, has %d, %d in %d buckets", s.live, s.used, live, used, len(s.buckets))
		}
		entries += live
		slots += len(s.buckets) * bucketSlots
	}
	if deepest != m.deepest {
		t.Fatalf("deepest: got %d, want %d", m.deepest, deepest)
	}
	return entries, slots
}

// TestShardedMap_model compares with a Go map, for hashes of all kinds of poor quality: those that agree in the bits that choose the shard,
// the bucket, the tag, or in all.
func TestShardedMap_model(t *testing.T) {
	hashes := map[string]func(k int) uint64{
		"good":         func(k int) uint64 { return mix(uint64(k)) },
		"low bits":     func(k int) uint64 { return mix(uint64(k)) >> 40 },
		"high bits":    func(k int) uint64 { return mix(uint64(k)) << 40 },
		"one tag":      func(k int) uint64 { return mix(uint64(k)) << 7 },
		"few":          func(k int) uint64 { return mix(uint64(k % 500)) },
		"all the same": func(int) uint64 { return 42 },
	}
	for name, hash := range hashes {
		t.Run(name, func(t *testing.T) {
			s := rand.Uint64()
			t.Logf("seed %d", s)
			r := rand.New(rand.NewPCG(s, 0))
			keys := 4000
			if name == "all the same" || name == "low bits" || name == "high bits" {
				keys = 300 // each search goes through all of them
			}
			var m itemMap
			model := map[int]*item{}
			known := map[*shard[item]]bool{}
			for i := range 12 * keys {
				k := r.IntN(keys)
				if growing := i/(3*keys)%2 == 0; r.IntN(5) > 0 == growing {
					model[k] = &item{k, hash(k), i}
					set(&m, model[k])
				} else {
					delete(model, k)
					unset(&m, hash(k), k)
				}
				k = r.IntN(keys)
				if got, want := m.get(hash(k), k), model[k]; got != want {
					t.Fatalf("get(%d): got %v, want %v", k, got, want)
				}
				if i%10 == 0 { // a shard that is out of the directory must say so to writers that wait for it
					current := map[*shard[item]]bool{}
					for j := range *m.directory.Load() {
						current[(*m.directory.Load())[j].Load()] = true
					}
					for s := range known {
						if !current[s] && !s.retired {
							t.Fatal("a shard was replaced and isn't retired")
						}
					}
					known = current
				}
				if i%keys == 0 {
					if n, _ := check(t, &m); n != len(model) {
						t.Fatalf("entries: got %d, want %d", n, len(model))
					}
				}
			}
			seen := map[int]*item{}
			m.each(func(i *item) bool {
				if seen[i.key] != nil {
					t.Fatalf("each visited %d twice", i.key)
				}
				seen[i.key] = i
				return true
			})
			if len(seen) != len(model) || len(m.appendTo(nil)) != len(model) {
				t.Fatalf("each visited %d, want %d", len(seen), len(model))
			}
			for k := range model {
				unset(&m, hash(k), k)
			}
			if n, slots := check(t, &m); n != 0 || slots > 8*bucketSlots || len(*m.directory.Load()) > 8 {
				t.Fatalf("empty map has %d entries, %d slots, directory of %d", n, slots, len(*m.directory.Load()))
			}
		})
	}
}

func TestShardedMap_eachStops(t *testing.T) {
	var m itemMap
	if !m.each(func(*item) bool { return false }) {
		t.Error("each of an empty map: got false")
	}
	for k := range 1000 {
		set(&m, &item{k, mix(uint64(k)), 0})
	}
	n := 0
	if m.each(func(*item) bool { n++; return n < 10 }) || n != 10 {
		t.Errorf("each visited %d, want 10", n)
	}
}

// TestShardedMap_eachWhileMerging changes the map between two visits: what is there throughout is visited once.
func TestShardedMap_eachWhileMerging(t *testing.T) {
	const stay, others = 300, 10_000
	hashOfKey := func(k int) uint64 { return mix(uint64(k)) }
	for _, growing := range []bool{false, true} {
		for _, when := range []int{1, 10, 100, 299} {
			t.Run(fmt.Sprintf("growing=%v/after=%d", growing, when), func(t *testing.T) {
				var m itemMap
				for k := range stay + others {
					if k < stay || !growing {
						set(&m, &item{k, hashOfKey(k), 0})
					}
				}
				seen := map[int]int{}
				m.each(func(i *item) bool {
					if i.key < stay {
						seen[i.key]++
					}
					if len(seen) == when && seen[-1] == 0 {
						seen[-1] = 1
						for k := stay; k < stay+others; k++ {
							if growing {
								set(&m, &item{k, hashOfKey(k), 0})
							} else {
								unset(&m, hashOfKey(k), k)
							}
						}
					}
					return true
				})
				for k := range stay {
					if seen[k] != 1 {
						t.Fatalf("visited %d %d times", k, seen[k])
					}
				}
			})
		}
	}
}

// TestShardedMap_joinRetired has two who want to merge the same shards, and one who comes late.
func TestShardedMap_joinRetired(t *testing.T) {
	var m itemMap
	hashOfKey := func(k int) uint64 { return mix(uint64(k)) }
	for k := range 120 { // two shards
		set(&m, &item{k, hashOfKey(k), 0})
	}
	for _, i := range m.appendTo(nil)[mergeEntriesMax:] {
		s := m.shardOf(i.h)
		b, at := m.find(s, i.h, i.key)
		s.remove(b, at) // which doesn't merge
	}
	low, high := m.shardOf(0), m.shardOf(1<<63)
	if low == high || !m.join(low, high) || m.join(low, high) {
		t.Error("join: want true, then false")
	}
	if n, _ := check(t, &m); n != mergeEntriesMax {
		t.Errorf("got %d entries", n)
	}
}

// TestShardedMap_concurrent has writers that each own some keys, which they set and remove while the map grows and shrinks around them, and
// readers that check keys that stay.
func TestShardedMap_concurrent(t *testing.T) {
	const writers, keys, rounds, stay = 4, 3000, 3, 500
	var m itemMap
	hashOfKey := func(k int) uint64 { return mix(uint64(k)) }
	for k := range stay {
		set(&m, &item{-1 - k, hashOfKey(-1 - k), 0})
	}
	var writing, reading sync.WaitGroup
	var done atomic.Bool
	for w := range writers {
		writing.Go(func() {
			for range rounds {
				for k := w; k < keys*writers; k += writers {
					set(&m, &item{k, hashOfKey(k), 0})
				}
				for k := w; k < keys*writers; k += writers {
					if m.get(hashOfKey(k), k) == nil {
						t.Errorf("get(%d): got nil", k)
					}
					unset(&m, hashOfKey(k), k)
					if m.get(hashOfKey(k), k) != nil {
						t.Errorf("get(%d) after removal: got an entry", k)
					}
				}
			}
		})
	}
	for range 2 {
		reading.Go(func() {
			for !done.Load() {
				for k := -stay; k < 0; k++ {
					if m.get(hashOfKey(k), k) == nil {
						t.Errorf("get(%d): got nil", k)
						return
					}
				}
				n := 0
				for _, i := range m.appendTo(nil) {
					if i.key < 0 {
						n++
					}
				}
				if n != stay {
					t.Errorf("appendTo has %d of the keys that stay, want %d", n, stay)
					return
				}
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	if n, _ := check(t, &m); n != stay {
		t.Errorf("entries at the end: got %d, want %d", n, stay)
	}
}
