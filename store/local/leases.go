package local

import (
	"context"
	"sync"
	"time"

	"loopmq/store"
)

// Leases are the leases of one process, which end with it. It is safe for concurrent use.
type Leases struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	fence uint64     // that was given out last
	held  map[string]lease
}

var _ store.Leases = (*Leases)(nil)

type lease struct {
	holder string
	fence  uint64
	until  time.Time
}

// NewLeases returns a table without leases. Its fences are larger than fence, which is to
// be larger than those of any process before.
func NewLeases(now func() time.Time, fence uint64) *Leases {
	return &Leases{now: now, fence: fence, held: make(map[string]lease)}
}

// Acquire implements store.Leases.
func (l *Leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (uint64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for other, h := range l.held {
		if !now.Before(h.until) {
			delete(l.held, other)
		}
	}
	h, taken := l.held[name]
	switch {
	case !taken:
		l.fence++
		h = lease{holder: holder, fence: l.fence}
	case h.holder != holder:
		return 0, false, nil
	}
	h.until = now.Add(ttl)
	l.held[name] = h
	return h.fence, true, nil
}

// Release implements store.Leases.
func (l *Leases) Release(ctx context.Context, name, holder string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name].holder == holder {
		delete(l.held, name)
	}
	return nil
}
