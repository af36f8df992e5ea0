package auth

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// tallyMax bounds the names that one tally keeps. Beyond it the one that was longest
// without a hit is forgotten: whoever has more names or addresses than this to use
// within a window isn't caught by counting.
const tallyMax = 65536

// tally finds names that are hit too often within a window.
type tally struct {
	rule BanRule

	mu   sync.Mutex
	hits *simplelru.LRU[string, []int64] // guarded by mu; when, at most rule.Times-1 each, the oldest first
}

func newTally(r BanRule) *tally {
	hits, _ := simplelru.NewLRU[string, []int64](tallyMax, nil) // It fails for sizes below 1 only.
	return &tally{rule: r, hits: hits}
}

// hit counts one, and reports whether that makes too many: then it begins anew. It does
// not block.
func (t *tally) hit(name string, now time.Time) bool {
	if t.rule.Times == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	times, _ := t.hits.Get(name)
	began := now.Add(-t.rule.Window).UnixNano()
	times = slices.DeleteFunc(times, func(at int64) bool { return at <= began })
	if len(times)+1 >= t.rule.Times {
		t.hits.Remove(name)
		return true
	}
	t.hits.Add(name, append(times, now.UnixNano()))
	return false
}
