package redisstore

import (
	"context"
	_ "embed"
	"time"
)

//go:embed lua/acquire.lua
var acquireLua string

var acquireScript = newScript(plainLua, acquireLua)

type leasesView struct{ *Store }

func (v leasesView) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (fence uint64, ok bool, err error) {
	reply, err := outboxView(v).tell(ctx, "acquire a lease", acquireScript, name, holder, max(1, ttl.Milliseconds()))
	if err != nil || len(reply) == 0 {
		return 0, false, err
	}
	text, _ := reply[0].(string)
	fence = parseDecimal(text)
	return fence, fence != 0, nil
}

func (v leasesView) Release(ctx context.Context, name, holder string) error {
	_, err := outboxView(v).tell(ctx, "release a lease", acquireScript, name, holder, 0)
	return err
}
