package memory

import (
	"context"
	"time"
)

type leasesView struct{ *Store }

func (v leasesView) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (uint64, bool, error) {
	if err := v.lock(); err != nil {
		return 0, false, err
	}
	defer v.mu.Unlock()
	return v.leases.Acquire(ctx, name, holder, ttl)
}

func (v leasesView) Release(ctx context.Context, name, holder string) error {
	if err := v.lock(); err != nil {
		return err
	}
	defer v.mu.Unlock()
	return v.leases.Release(ctx, name, holder)
}
