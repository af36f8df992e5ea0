package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

type messagesView struct{ *Store }

const (
	// readFirst and readMost bound how many entries are read at once: only what was
	// read shows how large they are.
	readFirst = 16
	readMost  = 1024
)

func (v messagesView) Read(ctx context.Context, q store.QueueID, after store.Number, limit, maxBytes int) ([]store.Entry, error) {
	var entries []store.Entry
	err := v.call("read a queue", func() (err error) {
		entries, err = v.read(ctx, q, after, limit, maxBytes)
		return err
	})
	return entries, err
}

func (v messagesView) read(ctx context.Context, q store.QueueID, after store.Number, limit, maxBytes int) ([]store.Entry, error) {
	var (
		entries []store.Entry
		key     = v.keys.queue(q)
		from    = "-"
		page    = readMost
		bytes   int
	)
	switch {
	case after.Seq > 0:
		from = "(" + idOf(after)
	case after.Generation > 0:
		from = streamID(after)
	}
	if maxBytes > 0 {
		page = readFirst
	}
	for {
		n := min(page, limit-len(entries))
		pipe := v.redis.Pipeline()
		exists := pipe.Exists(ctx, key)
		read := pipe.Do(ctx, "XRANGE", key, from, "+", "COUNT", max(n, 0))
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		if exists.Val() == 0 && len(entries) == 0 {
			return nil, store.ErrGone
		}
		raw, err := parseEntries(read.Val())
		if err != nil {
			return nil, err
		}
		for _, r := range raw {
			e, err := decodeEntry(r)
			if err != nil {
				return nil, err
			}
			bytes += e.Message.Size()
			if maxBytes > 0 && bytes > maxBytes && len(entries) > 0 {
				return entries, nil
			}
			entries = append(entries, e)
		}
		if len(raw) < n || len(entries) >= limit {
			return entries, nil
		}
		from = "(" + streamID(raw[len(raw)-1].id)
		page = min(2*page, readMost)
	}
}

// Len reads the queue to sum up its bytes, in parts: what is appended or removed
// meanwhile may count or not.
func (v messagesView) Len(ctx context.Context, q store.QueueID) (entries, bytes int, last store.Number, err error) {
	err = v.call("measure a queue", func() error {
		key := v.keys.queue(q)
		info, err := v.redis.XInfoStream(ctx, key).Result()
		if err != nil {
			if strings.HasPrefix(err.Error(), "ERR no such key") {
				return store.ErrGone
			}
			return err
		}
		if last, err = parseNumber(info.LastGeneratedID); err != nil {
			return err
		}
		for from := "-"; ; {
			reply, err := sizeScript.Run(ctx, v.redis, []string{key}, from, readMost).Slice()
			if err != nil {
				return err
			}
			if len(reply) != 3 {
				return fmt.Errorf("%w: size of a queue", errFormat)
			}
			n, _ := reply[0].(int64)
			size, _ := reply[1].(int64)
			entries, bytes = entries+int(n), bytes+int(size)
			if n < readMost {
				return nil
			}
			id, _ := reply[2].(string)
			from = "(" + id
		}
	})
	return entries, bytes, last, err
}

// entriesAt returns those of n entries of a queue, from first on, that are still
// there.
func (s *Store) entriesAt(ctx context.Context, q store.QueueID, first store.Number, n int) ([]store.Entry, error) {
	last := first
	last.Seq += uint64(n) - 1
	reply, err := s.redis.Do(ctx, "XRANGE", s.keys.queue(q), idOf(first), idOf(last)).Result()
	if err != nil {
		return nil, err
	}
	raw, err := parseEntries(reply)
	if err != nil {
		return nil, err
	}
	entries := make([]store.Entry, len(raw))
	for i := range raw {
		if entries[i], err = decodeEntry(raw[i]); err != nil {
			return nil, err
		}
	}
	return entries, nil
}
