package redisstore

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

type willsView struct{ *Store }

func (v willsView) Due(ctx context.Context, now time.Time, limit int) ([]store.Will, error) {
	var list []store.Will
	err := v.call("list Wills", func() error {
		if limit <= 0 {
			return nil
		}
		members, err := v.redis.ZRangeByScoreWithScores(ctx, v.keys.wills(), &redis.ZRangeBy{
			Min: "-inf", Max: strconv.FormatInt(millis(now), 10), Count: int64(limit),
		}).Result()
		if err != nil || len(members) == 0 {
			return err
		}
		pipe := v.redis.Pipeline()
		clientIDs, epochs, cmds := make([]string, len(members)), make([]string, len(members)), make([]*redis.StringCmd, len(members))
		for i, m := range members {
			member, _ := m.Member.(string)
			epochs[i], clientIDs[i], _ = strings.Cut(member, ":")
			cmds[i] = pipe.HGet(ctx, v.keys.will(clientIDs[i]), epochs[i])
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		for i, m := range members {
			encoded, err := cmds[i].Result()
			if errors.Is(err, redis.Nil) { // published meanwhile
				continue
			}
			if err != nil {
				return err
			}
			w, err := decodeWill(clientIDs[i], parseDecimal(epochs[i]), fromMillis(int64(m.Score)), encoded)
			if err != nil {
				return err
			}
			list = append(list, w)
		}
		return nil
	})
	return list, err
}

func (v willsView) NextDue(ctx context.Context) (time.Time, bool, error) {
	return v.nextDue(ctx, v.keys.wills())
}
