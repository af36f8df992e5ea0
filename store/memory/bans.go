package memory

import (
	"context"
	"time"

	"loopmq/store"
)

type bansView struct{ *Store }

func (v bansView) Put(_ context.Context, b store.Ban, limit int) error {
	if !b.Fits() {
		return store.ErrBanTooLarge
	}
	if err := v.lock(); err != nil {
		return err
	}
	defer v.mu.Unlock()
	if _, there := v.bans[b.Name()]; !there && len(v.bans) >= limit {
		return store.ErrTooManyBans
	}
	v.bans[b.Name()] = b
	return nil
}

func (v bansView) Remove(_ context.Context, name string, endedBy time.Time) (bool, error) {
	if err := v.lock(); err != nil {
		return false, err
	}
	defer v.mu.Unlock()
	b, there := v.bans[name]
	if !there || !endedBy.IsZero() && !hasCome(b.Until, endedBy) {
		return false, nil
	}
	delete(v.bans, name)
	return true, nil
}

func (v bansView) List(_ context.Context, afterName string, limit int) ([]store.Ban, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	names := page(v.bans, afterName, limit, func(store.Ban) bool { return true })
	list := make([]store.Ban, len(names))
	for i, name := range names {
		list[i] = v.bans[name]
	}
	return list, nil
}

// hubBans are the bans of all views, whose changes are in the feed.
type hubBans struct {
	store.Bans
	h *Hub
}

func (v hubBans) Put(ctx context.Context, b store.Ban, limit int) error {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	err := v.Bans.Put(ctx, b, limit)
	if err == nil {
		v.h.append(store.Change{Kind: store.ChangeBanned, Ban: b})
	}
	return err
}

func (v hubBans) Remove(ctx context.Context, name string, endedBy time.Time) (bool, error) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	removed, err := v.Bans.Remove(ctx, name, endedBy)
	if removed {
		var b store.Ban
		b.Named(name)
		v.h.append(store.Change{Kind: store.ChangeUnbanned, Ban: b})
	}
	return removed, err
}
