package redisstore

import (
	"context"
	"errors"
	"fmt"

	"loopmq/store"
)

// writer commits batches, each by one script. It remembers for which instance a
// batch was committed first: under another one Redis would not know it again.
type writer struct {
	s    *Store
	name string
	seq  uint64
	of   *membership // of the batch seq; nil: none
	args batchArgs
}

func newWriter(s *Store, name string) *writer { return &writer{s: s, name: name} }

// Commit applies b. A batch whose answer was lost is known again by its number.
// store.ErrDead: the instance that b was committed for first is dead.
func (w *writer) Commit(ctx context.Context, b *store.Batch) error {
	if err := w.s.enter(); err != nil {
		return err
	}
	defer w.s.leave()
	m := w.s.joined.Load()
	if b.Seq == 0 {
		w.seq++
		b.Seq, w.of = w.seq, m
	}
	if m != w.of {
		return store.ErrDead
	}
	bytes := bytesOf(b)
	room := w.s.room.begin(ctx, w.s.redis, bytes)
	if room {
		defer w.s.room.end(bytes)
	}
	reply, err := w.s.run(ctx, commitScript, w.args.encode(w, b, !room))
	if err == nil {
		err = w.answered(ctx, b, reply)
	}
	err = failed("commit", err)
	if m != nil && errors.Is(err, store.ErrDead) {
		m.died()
	}
	return err
}

// answered takes a reply of lua/commit.lua.
func (w *writer) answered(ctx context.Context, b *store.Batch, reply []any) error {
	if len(reply) != 6 {
		return fmt.Errorf("%w: answer of a commit", errFormat)
	}
	if w.of != nil {
		w.of.committed.note(w.name, b.Seq)
		news, err := parseEntries(reply[3])
		if err != nil {
			return err
		}
		w.of.feed.advance(news)
		for position := ""; len(news) == newsPage && position != w.of.feed.position(); { // as many as a commit reads: there may be more
			position = w.of.feed.position()
			if news, err = w.s.readNews(ctx, position); err != nil {
				return err
			}
			w.of.feed.advance(news)
		}
	}
	return w.args.decode(ctx, w.s, b, reply)
}

// newsPage is how many records of the feed a commit reads, see lua/commit.lua.
const newsPage = 1000

// readNews returns what the feed has behind a position, up to a page.
func (s *Store) readNews(ctx context.Context, position string) ([]streamEntry, error) {
	reply, err := s.redis.Do(ctx, "XRANGE", s.keys.feed(), "("+position, "+", "COUNT", newsPage).Result()
	if err != nil {
		return nil, err
	}
	return parseEntries(reply)
}
