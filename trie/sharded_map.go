package trie

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	bucketSlots     = 8
	bucketCapacity  = 7  // slots in use on average, at most: a search ends at a bucket with an empty slot, so there must be one
	shardBucketsMax = 16 // a shard that needs more splits in two
	mergeEntriesMax = 56 // two shards that have no more than this together become one; half of what fits one, so it won't split soon
	mergeInterval   = 8  // a shard looks for something to merge with at every 8th removal
	directoryBits   = 64

	tagEmpty   = 0x00 // never used since the shard was built
	tagDeleted = 0x01 // used once, in a bucket that was full
	tagFull    = 0x80 // | 7 bits of the hash
	tagBits    = 7

	everyByte = 0x0101010101010101
	highBits  = 0x8080808080808080
)

// seed makes hashes unpredictable from outside, so that no client can choose topics that collide.
var seed = maphash.MakeSeed()

func hashString(s string) uint64 { return maphash.String(seed, s) }

// keyed is what a shardedMap[K, E, P] must know of its entries. An entry's key never changes.
type keyed[K, E any] interface {
	*E
	hash() uint64
	hasKey(key K) bool
}

// shardedMap is a hash map of entries that carry their own keys. Readers take no lock; writers lock one shard. The zero value is an
// empty map of 24 bytes.
//
// It is an extendible hash table. The directory has 2^d pointers and is indexed by the first d bits of the hash; a shard of depth s <= d
// holds the entries whose hashes begin with its s bits of prefix, and so stands in 2^(d-s) neighbouring directory slots. A shard that is
// full is rebuilt larger up to shardBucketsMax buckets, then split. Every change costs a bounded number of steps except for doubling
// and halving the directory, which copies one pointer per shard (some 16,000 for a million entries).
//
//	directory        shards               bucket
//	[00] ----------> 00… (depth 2)        tags   [8]uint8 as one word: empty, deleted, or 7 bits of hash
//	[01] ----------> 01… (depth 2)        slots  [8]*E
//	[10] ---\
//	[11] ----+-----> 1…  (depth 1)
//
// Why readers need no lock:
//   - An entry stays in its slot for the shard's life, and a slot's tag is published after its entry. A replaced entry is one store.
//   - A bucket that was full once never has an empty slot again, so a search that went on beyond it at insertion does so ever after.
//   - A shard that is replaced (rebuilt, split, merged) gets no more changes: it is marked as retired while it is locked, and its lock is
//     released after its successors are in the directory. Who reads it late sees the map as it was at a time after the call began.
//   - A directory that is replaced isn't written to again either.
//
// Writers that locked a retired shard look up its successor. Replacing shards holds the lock of the old ones (two when merging, the
// lower prefix first), then mu for the directory.
//
// Go's map under an RWMutex per shard was considered: it takes 38 bytes per entry in place of 15, never shrinks, and its readers write
// to the lock's cache line.
type shardedMap[K, E any, P keyed[K, E]] struct {
	directory atomic.Pointer[[]atomic.Pointer[shard[E]]] // nil until the first entry; elements are written under mu

	mu      sync.Mutex
	deepest int // shards whose depth is the directory's; at 0 the directory can be halved
}

type shard[E any] struct {
	prefix  uint64 // hash of the first entry that could be here
	buckets []bucket[E]
	depth   uint8 // leading bits of prefix that count

	retired bool
	used    uint16 // slots that are not empty
	live    uint16 // entries

	mu sync.Mutex // guards the three above and all writes to buckets
}

type bucket[E any] struct {
	tags  atomic.Uint64
	slots [bucketSlots]atomic.Pointer[E]
}

// get returns the entry with this key, or nil.
func (m *shardedMap[K, E, P]) get(hash uint64, key K) *E {
	s := m.shardOf(hash)
	if s == nil {
		return nil
	}
	b, i := m.find(s, hash, key)
	if b == nil {
		return nil
	}
	return b.slots[i].Load() // nil, if it was removed just now
}

// edit calls change with the entry that has this key, or nil, and puts in its place what change returns: nil removes it. The shard is
// locked meanwhile.
func (m *shardedMap[K, E, P]) edit(hash uint64, key K, change func(entry *E) *E) {
	s := m.lockShardOf(hash)
	b, i := m.find(s, hash, key)
	var old *E
	if b != nil {
		old = b.slots[i].Load()
	}
	entry := change(old)

	merge := false
	switch {
	case entry == old:
	case old == nil:
		if int(s.used) == len(s.buckets)*bucketCapacity {
			m.rebuild(s, entry)
		} else {
			s.insert(hash, entry)
		}
	case entry != nil:
		b.slots[i].Store(entry)
	default:
		s.remove(b, i)
		if len(s.buckets) > 1 && int(s.live) < len(s.buckets)*bucketSlots/8 {
			m.rebuild(s, nil)
		}
		merge = s.depth > 0 && s.live <= mergeEntriesMax && s.live%mergeInterval == 0
	}
	s.mu.Unlock()
	if merge {
		m.merge(hash)
	}
}

// each calls visit for every entry until it returns false, and reports whether it never did. Entries that were there during the whole
// call are visited once.
func (m *shardedMap[K, E, P]) each(visit func(entry *E) bool) bool {
	return m.eachShard(func(s *shard[E], from uint64) bool {
		for i := range s.buckets {
			for j := range s.buckets[i].slots {
				entry := s.buckets[i].slots[j].Load()
				if entry == nil || from > s.prefix && P(entry).hash() < from {
					continue
				}
				if !visit(entry) {
					return false
				}
			}
		}
		return true
	})
}

// walk goes through a map's entries, one by one: those that are there all the time are visited once. It holds no lock. The zero value is
// at its end.
type walk[K, E any, P keyed[K, E]] struct {
	m     *shardedMap[K, E, P] // nil at the end
	shard *shard[E]            // nil before its first entry
	from  uint64               // hashes that are lower were in the shards before
	slot  int
}

func (w *walk[K, E, P]) begin(m *shardedMap[K, E, P]) {
	if !m.empty() {
		w.m = m
	}
}

// next returns the next entry, nil at the end.
func (w *walk[K, E, P]) next() *E {
	for w.m != nil {
		if w.shard == nil {
			w.shard, w.slot = w.m.shardOf(w.from), 0
		}
		s := w.shard
		for w.slot < len(s.buckets)*bucketSlots {
			entry := s.buckets[w.slot/bucketSlots].slots[w.slot%bucketSlots].Load()
			w.slot++
			if entry == nil || w.from > s.prefix && P(entry).hash() < w.from { // two shards were merged since
				continue
			}
			return entry
		}
		w.shard = nil
		if w.from = s.prefix + 1<<(directoryBits-s.depth); w.from == 0 { // a shift by 64 yields 0 too
			w.m = nil
		}
	}
	return nil
}

// appendTo appends copies of all entries, as each visits them, without a call for each.
func (m *shardedMap[K, E, P]) appendTo(entries []E) []E {
	m.eachShard(func(s *shard[E], from uint64) bool {
		all := entries
		for i := range s.buckets {
			for j := range s.buckets[i].slots {
				entry := s.buckets[i].slots[j].Load()
				if entry == nil || from > s.prefix && P(entry).hash() < from {
					continue
				}
				all = append(all, *entry)
			}
		}
		entries = all
		return true
	})
	return entries
}

// eachShard calls visit for shards that together hold all entries, until it returns false, and reports whether it never did. Entries
// whose hashes are lower than from were in the shards before: two were merged since.
func (m *shardedMap[K, E, P]) eachShard(visit func(s *shard[E], from uint64) bool) bool {
	directory := m.directory.Load()
	if directory == nil {
		return true
	}
	shift := directoryShift(len(*directory))
	for at := 0; at < len(*directory); {
		s := (*directory)[at].Load()
		if !visit(s, uint64(at)<<shift) {
			return false
		}
		at = int(s.prefix>>shift) + len(*directory)>>s.depth
	}
	return true
}

// empty reports whether the map never had an entry: it saves the hash.
func (m *shardedMap[K, E, P]) empty() bool { return m.directory.Load() == nil }

// directoryShift is by how much a hash is shifted to index a directory of this length, a power of two. Go defines a shift by 64 as 0.
func directoryShift(length int) int { return directoryBits + 1 - bits.Len(uint(length)) }

func (m *shardedMap[K, E, P]) shardOf(hash uint64) *shard[E] {
	directory := m.directory.Load()
	if directory == nil {
		return nil
	}
	return (*directory)[hash>>directoryShift(len(*directory))].Load()
}

func (m *shardedMap[K, E, P]) lockShardOf(hash uint64) *shard[E] {
	for {
		s := m.shardOf(hash)
		if s == nil {
			m.init()
			continue
		}
		s.mu.Lock()
		if !s.retired {
			return s
		}
		s.mu.Unlock()
	}
}

func (m *shardedMap[K, E, P]) init() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.directory.Load() != nil {
		return
	}
	directory := make([]atomic.Pointer[shard[E]], 1)
	directory[0].Store(newShard[E](0, 0, 0))
	m.directory.Store(&directory)
	m.deepest = 1
}

// find returns where the entry with this key is, or nil.
func (m *shardedMap[K, E, P]) find(s *shard[E], hash uint64, key K) (*bucket[E], int) {
	mask := uint64(len(s.buckets) - 1)
	at := hash >> tagBits
	for range s.buckets {
		b := &s.buckets[at&mask]
		tags := b.tags.Load()
		for hits := zeroBytes(tags ^ everyByte*uint64(tagOf(hash))); hits != 0; hits &= hits - 1 {
			i := bits.TrailingZeros64(hits) / 8
			if entry := b.slots[i].Load(); entry != nil && P(entry).hasKey(key) {
				return b, i
			}
		}
		if zeroBytes(tags) != 0 {
			return nil, 0
		}
		at++
	}
	return nil, 0
}

// rebuild replaces s by a shard that has room, or by two, which hold its entries and the added one, if not nil. REQUIRES: s.mu.
func (m *shardedMap[K, E, P]) rebuild(s *shard[E], added *E) {
	entries := make([]hashed[E], 0, s.live+1)
	entries = m.appendEntries(entries, s)
	if added != nil {
		entries = append(entries, hashed[E]{P(added).hash(), added})
	}
	s.retired = true
	if bucketsFor(len(entries)) <= shardBucketsMax {
		m.publish(s.depth, fill(s.prefix, s.depth, entries))
		return
	}
	half := uint64(1) << (directoryBits - 1 - s.depth)
	low := 0 // entries before this belong to the lower half
	for i := range entries {
		if entries[i].hash&half == 0 {
			entries[low], entries[i] = entries[i], entries[low]
			low++
		}
	}
	m.publish(s.depth, fill(s.prefix, s.depth+1, entries[:low]), fill(s.prefix|half, s.depth+1, entries[low:]))
}

// merge replaces the shard of this hash and the one it once was split from by one shard, if they are small, and goes on with that.
func (m *shardedMap[K, E, P]) merge(hash uint64) {
	for m.mergeOnce(hash) {
	}
}

func (m *shardedMap[K, E, P]) mergeOnce(hash uint64) bool {
	s := m.shardOf(hash)
	if s.depth == 0 {
		return false
	}
	half := uint64(1) << (directoryBits - s.depth)
	low, high := m.shardOf(s.prefix&^half), m.shardOf(s.prefix|half)
	if low.depth != s.depth || high.depth != s.depth {
		return false
	}
	return m.join(low, high)
}

// join replaces two shards that were one by one, if they are still in use and small.
func (m *shardedMap[K, E, P]) join(low, high *shard[E]) bool {
	low.mu.Lock()
	defer low.mu.Unlock()
	high.mu.Lock()
	defer high.mu.Unlock()
	if low.retired || high.retired || low.live+high.live > mergeEntriesMax {
		return false
	}
	entries := m.appendEntries(m.appendEntries(make([]hashed[E], 0, mergeEntriesMax), low), high)
	low.retired, high.retired = true, true
	m.publish(low.depth, fill(low.prefix, low.depth-1, entries))
	return true
}

// publish puts shards into the directory in place of those of depth oldDepth that they were made of.
func (m *shardedMap[K, E, P]) publish(oldDepth uint8, shards ...*shard[E]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	directory := *m.directory.Load()
	depth := shards[0].depth
	if 1<<depth > len(directory) {
		double := make([]atomic.Pointer[shard[E]], 2*len(directory))
		for i := range double {
			double[i].Store(directory[i/2].Load())
		}
		directory = double
		m.deepest = 0
	}
	atDirectoryDepth := func(depth uint8) bool { return 1<<depth == len(directory) }
	if depth > oldDepth && atDirectoryDepth(depth) {
		m.deepest += 2
	}
	if depth < oldDepth && atDirectoryDepth(oldDepth) {
		m.deepest -= 2
	}
	for _, s := range shards {
		first := int(s.prefix >> directoryShift(len(directory)))
		for i := range len(directory) >> s.depth {
			directory[first+i].Store(s)
		}
	}
	for m.deepest == 0 {
		half := make([]atomic.Pointer[shard[E]], len(directory)/2)
		for i := range half {
			half[i].Store(directory[2*i].Load())
		}
		directory = half
		for i := range half {
			if atDirectoryDepth(half[i].Load().depth) {
				m.deepest++
			}
		}
	}
	if len(directory) != len(*m.directory.Load()) {
		m.directory.Store(&directory)
	}
}

type hashed[E any] struct {
	hash  uint64
	entry *E
}

func (m *shardedMap[K, E, P]) appendEntries(entries []hashed[E], s *shard[E]) []hashed[E] {
	for i := range s.buckets {
		for j := range s.buckets[i].slots {
			if entry := s.buckets[i].slots[j].Load(); entry != nil {
				entries = append(entries, hashed[E]{P(entry).hash(), entry})
			}
		}
	}
	return entries
}

// bucketsFor returns how many buckets hold this many entries and half as many again.
func bucketsFor(entries int) int {
	need := (entries*3/2 + bucketCapacity - 1) / bucketCapacity
	if need <= 1 {
		return 1
	}
	return 1 << bits.Len(uint(need-1))
}

// newShard returns a shard with room for this many entries and half as many again.
func newShard[E any](prefix uint64, depth uint8, entries int) *shard[E] {
	return &shard[E]{prefix: prefix, depth: depth, buckets: make([]bucket[E], bucketsFor(entries))}
}

func fill[E any](prefix uint64, depth uint8, entries []hashed[E]) *shard[E] {
	s := newShard[E](prefix, depth, len(entries))
	for _, e := range entries {
		s.insert(e.hash, e.entry)
	}
	return s
}

// insert adds an entry whose key isn't there; there must be room. REQUIRES: s.mu, or that s isn't published.
func (s *shard[E]) insert(hash uint64, entry *E) {
	mask := uint64(len(s.buckets) - 1)
	for at := hash >> tagBits; ; at++ {
		b := &s.buckets[at&mask]
		tags := b.tags.Load()
		free := ^tags & highBits
		if free == 0 {
			continue
		}
		i := bits.TrailingZeros64(free) / 8
		if tags>>(8*i)&0xff == tagEmpty {
			s.used++
		}
		s.live++
		b.slots[i].Store(entry)
		b.tags.Store(withTag(tags, i, tagOf(hash)))
		return
	}
}

// remove empties a slot. REQUIRES: s.mu.
func (s *shard[E]) remove(b *bucket[E], i int) {
	tags := b.tags.Load()
	tag := uint8(tagDeleted)
	if zeroBytes(tags) != 0 { // not full, so no search ever went on beyond this bucket
		tag = tagEmpty
		s.used--
	}
	s.live--
	b.tags.Store(withTag(tags, i, tag))
	b.slots[i].Store(nil)
}

func tagOf(hash uint64) uint8 { return tagFull | uint8(hash)&(1<<tagBits-1) }

func withTag(tags uint64, i int, tag uint8) uint64 {
	return tags&^(0xff<<(8*i)) | uint64(tag)<<(8*i)
}

// zeroBytes returns a word in which the high bits of those bytes are set that are zero in w. It may also set that of a byte 1 above a
// zero byte: whether there is a zero byte at all is exact.
func zeroBytes(w uint64) uint64 { return (w - everyByte) &^ w & highBits }
