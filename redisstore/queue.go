package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

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
		atOnce  = readMost
		bytes   int
	)
	switch {
	case after.Seq > 0:
		from = "(" + idOf(after)
	case after.Generation > 0:
		from = streamID(after)
	}
	if maxBytes > 0 {
		atOnce = readFirst
	}
	for {
		n := min(atOnce, limit-len(entries))
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
		page, err := v.decodeEntries(ctx, raw)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
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
		atOnce = min(2*atOnce, readMost)
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
	return s.decodeEntries(ctx, raw)
}

// decodeEntries returns entries with their messages, which may be stored elsewhere. An
// entry whose message is gone has gone meanwhile too, and is left out.
func (s *Store) decodeEntries(ctx context.Context, raw []streamEntry) ([]store.Entry, error) {
	shared := map[string]*redis.StringCmd{}
	pipe := s.redis.Pipeline()
	for _, r := range raw {
		if number, is := sharedMessage(r); is && shared[number] == nil {
			shared[number] = pipe.HGet(ctx, s.keys.shared(number), "message")
		}
	}
	if len(shared) > 0 {
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
	}
	messages := map[string]*store.Message{}
	entries := make([]store.Entry, 0, len(raw))
	for _, r := range raw {
		number, is := sharedMessage(r)
		if !is {
			e, err := decodeEntry(r)
			if err != nil {
				return nil, err
			}
			entries = append(entries, e)
			continue
		}
		m := messages[number]
		if m == nil {
			encoded, err := shared[number].Result()
			if errors.Is(err, redis.Nil) {
				continue
			}
			if err == nil {
				m, err = decodeMessage(encoded)
			}
			if err != nil {
				return nil, err
			}
			messages[number] = m
		}
		e := store.Entry{Number: numberOf(r.id), Message: m}
		if err := decodeDelivery(&e, r.fields[0]); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// sharedMessage returns the number of the message that an entry stands for, if it
// doesn't hold one itself.
func sharedMessage(raw streamEntry) (number string, is bool) {
	if len(raw.fields) != 2 || !strings.HasPrefix(raw.fields[1], "@") {
		return "", false
	}
	_, number, is = strings.Cut(raw.fields[1], " ")
	return number, is
}

// sweep deletes messages that were stored once for many queues and that are in none
// any more.
func (s *Store) sweep(ctx context.Context, now time.Time) error {
	const messages, entries, rounds = 10, 200, 50
	for range rounds {
		n, err := sweepScript.Run(ctx, s.redis, s.declared, s.keys.prefix, millis(now), messages, entries).Int()
		if err != nil || n < messages {
			return err
		}
	}
	return nil
}
