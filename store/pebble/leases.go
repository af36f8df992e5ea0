package pebble

import (
	"context"
	"time"
)

type leasesView struct{ *Store }

func (v leasesView) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (uint64, bool, error) {
	if err := v.enter(); err != nil {
		return 0, false, err
	}
	defer v.leave()
	return v.leases.Acquire(ctx, name, holder, ttl)
}

func (v leasesView) Release(ctx context.Context, name, holder string) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	return v.leases.Release(ctx, name, holder)
}
