package redisstore

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"time"

	"loopmq/store"
)

//go:embed lua/ban.lua
var banLua string

var banScript = newScript(generationLua, changeLua, banLua)

type bansView struct{ *Store }

func (v bansView) Put(ctx context.Context, b store.Ban, limit int) error {
	if !b.Fits() {
		return store.ErrBanTooLarge
	}
	done, err := v.change(ctx, "put a ban", b.Name(), encodeBan(&b), int64(limit))
	if err == nil && !done {
		return store.ErrTooManyBans
	}
	return err
}

func (v bansView) Remove(ctx context.Context, name string, endedBy time.Time) (bool, error) {
	return v.change(ctx, "remove a ban", name, "", millis(endedBy))
}

func (v bansView) change(ctx context.Context, what, name, ban string, limit int64) (done bool, err error) {
	err = v.call(what, func() (err error) {
		done, err = banScript.Run(ctx, v.redis, v.declared, v.keys.prefix, name, ban, limit).Bool()
		return err
	})
	return done, err
}

func (v bansView) List(ctx context.Context, afterName string, limit int) ([]store.Ban, error) {
	var list []store.Ban
	err := v.call("list bans", func() error {
		return pages(ctx, v.redis, v.keys.bans(), afterName, limit, func(names []string) (int, error) {
			values, err := v.redis.HMGet(ctx, v.keys.ban(), names...).Result()
			if err != nil {
				return 0, err
			}
			before := len(list)
			for i, value := range values {
				text, there := value.(string)
				if !there { // it has just been removed
					continue
				}
				b, err := decodeBan(names[i], text)
				if err != nil {
					return 0, err
				}
				list = append(list, b)
			}
			return len(list) - before, nil
		})
	})
	return list, err
}

// A ban is ms when it ends, 0 for never, its source, and the reason.
func encodeBan(b *store.Ban) string {
	return strconv.FormatInt(millis(b.Until), 10) + " " + b.Source + " " + b.Reason
}

func decodeBan(name, s string) (b store.Ban, err error) {
	b.Named(name)
	part := strings.SplitN(s, " ", 3)
	if len(part) < 3 {
		return b, fmt.Errorf("%w: ban", errFormat)
	}
	ms, err := strconv.ParseInt(part[0], 10, 64)
	if err != nil {
		return b, fmt.Errorf("%w: ban: %w", errFormat, err)
	}
	b.Until, b.Source, b.Reason = fromMillis(ms), part[1], part[2]
	return b, nil
}
