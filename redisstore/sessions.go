package redisstore

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

// listPage is how many sessions or topics are read at once.
const listPage = 500

func (v sessionsView) Lookup(ctx context.Context, clientID string) (store.Session, error) {
	var se store.Session
	err := v.call("look up a session", func() error {
		values, err := v.redis.HMGet(ctx, v.keys.session(clientID), sessionFields...).Result()
		if err != nil {
			return err
		}
		se, err = decodeSession(clientID, values)
		return err
	})
	return se, err
}

func (v sessionsView) List(ctx context.Context, q store.SessionQuery) (page store.SessionPage, err error) {
	limit := min(q.Limit, listPage)
	if limit <= 0 {
		return page, v.call("list sessions", func() error { return nil })
	}
	err = v.call("list sessions", func() error {
		by := &redis.ZRangeBy{Min: "-", Max: "+", Count: int64(limit)}
		if q.Prefix != "" {
			by.Min, by.Max = "["+q.Prefix, "("+q.Prefix+"\xff" // behind all UTF-8
		}
		if q.After != "" && q.After >= q.Prefix {
			by.Min = "(" + q.After
		}
		pipe := v.redis.Pipeline()
		lists := []*redis.StringSliceCmd{pipe.ZRangeByLex(ctx, v.keys.clients(), by)}
		if !q.Connected {
			lists = append(lists, pipe.ZRangeByLex(ctx, v.keys.sessions(), by))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		var clientIDs []string
		for _, list := range lists {
			clientIDs = append(clientIDs, list.Val()...)
		}
		slices.Sort(clientIDs)
		clientIDs = slices.Compact(clientIDs)
		if len(clientIDs) >= limit {
			clientIDs = clientIDs[:limit]
			page.Next = clientIDs[limit-1]
		}
		if len(clientIDs) == 0 {
			return nil
		}
		page.Sessions, err = sessionsOf(ctx, v.redis, v.keys, clientIDs)
		if q.Connected { // who has just disconnected
			page.Sessions = slices.DeleteFunc(page.Sessions, func(se store.Session) bool { return se.Owner == "" })
		}
		return err
	})
	return page, err
}

// pages calls f with members of a sorted set, in the order of their names and
// behind after, until f has taken limit or there are no more.
func pages(ctx context.Context, client redis.UniversalClient, key, after string, limit int, f func(members []string) (taken int, err error)) error {
	for limit > 0 {
		from := "-"
		if after != "" {
			from = "(" + after
		}
		n := min(limit, listPage)
		members, err := client.ZRangeByLex(ctx, key, &redis.ZRangeBy{Min: from, Max: "+", Count: int64(n)}).Result()
		if err != nil || len(members) == 0 {
			return err
		}
		taken, err := f(members)
		if err != nil {
			return err
		}
		if len(members) < n {
			return nil
		}
		after, limit = members[len(members)-1], limit-taken
	}
	return nil
}

// sessionsOf returns the sessions of some clients. One that has ended meanwhile is
// left out.
func sessionsOf(ctx context.Context, client redis.UniversalClient, k keys, clientIDs []string) ([]store.Session, error) {
	pipe := client.Pipeline()
	cmds := make([]*redis.SliceCmd, len(clientIDs))
	for i, clientID := range clientIDs {
		cmds[i] = pipe.HMGet(ctx, k.session(clientID), sessionFields...)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	sessions := make([]store.Session, 0, len(clientIDs))
	for i, clientID := range clientIDs {
		se, err := decodeSession(clientID, cmds[i].Val())
		if errors.Is(err, store.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sessions = append(sessions, se)
	}
	return sessions, nil
}

func (v sessionsView) Expired(ctx context.Context, now time.Time, limit int) ([]store.Session, error) {
	var list []store.Session
	err := v.call("list expired sessions", func() error {
		clientIDs, err := v.due(ctx, v.keys.expiry(), now, limit)
		if err != nil || len(clientIDs) == 0 {
			return err
		}
		list, err = sessionsOf(ctx, v.redis, v.keys, clientIDs)
		return err
	})
	return list, err
}

// due returns the members of a sorted set whose time has come, the longest overdue
// first.
func (s *Store) due(ctx context.Context, key string, now time.Time, limit int) ([]string, error) {
	if limit <= 0 {
		return nil, nil
	}
	return s.redis.ZRangeByScore(ctx, key, &redis.ZRangeBy{
		Min: "-inf", Max: strconv.FormatInt(millis(now), 10), Count: int64(limit),
	}).Result()
}

func (v sessionsView) NextExpiry(ctx context.Context) (time.Time, bool, error) {
	return v.nextDue(ctx, v.keys.expiry())
}

// nextDue returns the time that comes first in a sorted set.
func (s *Store) nextDue(ctx context.Context, key string) (at time.Time, ok bool, err error) {
	err = s.call("see what is due", func() error {
		first, err := s.redis.ZRangeWithScores(ctx, key, 0, 0).Result()
		if err != nil || len(first) == 0 {
			return err
		}
		at, ok = fromMillis(int64(first[0].Score)), true
		return nil
	})
	return at, ok, err
}

type subscriptionsView struct{ *Store }

func (v subscriptionsView) Of(ctx context.Context, id store.SessionID) ([]store.Subscription, error) {
	var subscriptions []store.Subscription
	err := v.call("read subscriptions", func() error {
		pipe := v.redis.Pipeline()
		queue := pipe.Exists(ctx, v.keys.queue(store.QueueOf(id)))
		pairs := pipe.Do(ctx, "HGETALL", v.keys.subscriptions(id.ClientID))
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		if queue.Val() == 0 {
			return store.ErrGone
		}
		values, err := pairs.Slice()
		if err != nil {
			return err
		}
		subscriptions, err = decodeSubscriptions(values)
		return err
	})
	return subscriptions, err
}

func (v subscriptionsView) List(ctx context.Context, afterClientID string, limit int) ([]store.Subscribed, error) {
	var list []store.Subscribed
	err := v.call("list subscriptions", func() error {
		return pages(ctx, v.redis, v.keys.sessions(), afterClientID, limit, func(clientIDs []string) (int, error) {
			sessions, err := sessionsOf(ctx, v.redis, v.keys, clientIDs)
			if err != nil || len(sessions) == 0 {
				return 0, err
			}
			pipe := v.redis.Pipeline()
			lengths, pairs := make([]*redis.IntCmd, len(sessions)), make([]*redis.Cmd, len(sessions))
			for i := range sessions {
				lengths[i] = pipe.XLen(ctx, v.keys.queue(store.QueueOf(sessions[i].ID)))
				pairs[i] = pipe.Do(ctx, "HGETALL", v.keys.subscriptions(sessions[i].ID.ClientID))
			}
			if _, err := pipe.Exec(ctx); err != nil {
				return 0, err
			}
			for i := range sessions {
				values, err := pairs[i].Slice()
				if err != nil {
					return 0, err
				}
				subscriptions, err := decodeSubscriptions(values)
				if err != nil {
					return 0, err
				}
				list = append(list, store.Subscribed{Session: sessions[i], Subscriptions: subscriptions, Queued: int(lengths[i].Val())})
			}
			return len(sessions), nil
		})
	})
	return list, err
}
