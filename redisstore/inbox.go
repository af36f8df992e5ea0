package redisstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

// A stream is read in parts of this many entries and, if they are large, about this
// many bytes.
const (
	readEntries = 512
	readBytes   = 4 << 20
)

// readBlock is how long a read waits for something to come. It bounds how long a
// connection that has died unnoticed is waited for.
const readBlock = time.Second

// readInbox hands what comes into the inbox to the Node. What it takes its time for
// stays in the stream, whose length is the measure for others.
func (m *member) readInbox() {
	m.followOwn(m.keys.inbox(m.instance), func(entries []streamEntry) {
		defer m.delivered.reach(entries[len(entries)-1].id)
		var (
			news []store.News
			lost bool
		)
		for i := range entries {
			value := entries[i].fields[len(entries[i].fields)-1]
			n, overflow, err := decodeNews(value)
			if err != nil {
				m.log.Error("read_inbox", "instance", m.instance, "error", err)
				overflow = true
			}
			news = append(news, n...)
			lost = lost || overflow
		}
		if len(news) > 0 {
			m.node.Deliver(news)
		}
		if lost {
			m.node.Reread()
		}
	})
}

// CaughtUp implements [store.Member].
func (m *member) CaughtUp(ctx context.Context) error {
	// What was read and delivered is removed.
	reply, err := m.client.Do(ctx, "XREVRANGE", m.keys.inbox(m.instance), "+", "-", "COUNT", 1).Result()
	if err != nil {
		return failed("read the inbox", err)
	}
	last, err := parseEntries(reply)
	if err != nil || len(last) == 0 {
		return err
	}
	return m.delivered.wait(ctx, last[0].id)
}

// progress is how far a stream has been handed over, and who waits for more.
type progress struct {
	mu      sync.Mutex
	last    store.Number
	changed chan struct{} // closed, and made anew, whenever last grows; nil: nobody waits
}

func (p *progress) reach(n store.Number) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = n
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// wait returns when n has been reached, or ctx ends.
func (p *progress) wait(ctx context.Context, n store.Number) error {
	for {
		p.mu.Lock()
		if !p.last.Less(n) {
			p.mu.Unlock()
			return nil
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readFeed applies the feed where no commit brings it.
func (m *member) readFeed() { m.follow(m.keys.feed(), m.feed.position, m.feed.advance) }

// followOwn reads one of the instance's own streams, and removes what it has handed
// over.
func (m *member) followOwn(key string, handle func([]streamEntry)) {
	position := streamID(store.Number{})
	m.follow(key, func() string { return position }, func(entries []streamEntry) {
		handle(entries)
		last := entries[len(entries)-1].id
		position = streamID(last)
		last.Seq++
		// What can't be removed now goes with what comes next.
		_ = m.client.Do(m.ctx, "XTRIM", key, "MINID", "=", streamID(last)).Err()
	})
}

// follow reads a stream on a connection of its own and hands over what comes behind
// position, until the membership ends.
func (m *member) follow(key string, position func() string, handle func([]streamEntry)) {
	count, failures := readEntries, 0
	for m.ctx.Err() == nil {
		entries, err := m.read(key, position(), count)
		switch {
		case m.ctx.Err() != nil:
			return
		case err != nil:
			if failures++; failures == 1 {
				m.log.Warn("read_stream", "instance", m.instance, "key", key, "error", err)
			}
			if !m.pause(failures) {
				return
			}
		case len(entries) > 0:
			count, failures = nextCount(count, entries), 0
			handle(entries)
		default:
			failures = 0
		}
	}
}

// read waits a while for entries behind an id.
func (m *member) read(key, position string, count int) ([]streamEntry, error) {
	ctx, cancel := context.WithTimeout(m.ctx, readBlock+m.lease)
	defer cancel()
	reply, err := m.readers.Do(ctx, "XREAD", "COUNT", count, "BLOCK", readBlock.Milliseconds(), "STREAMS", key, position).Slice()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stream := replyOf(replyOf(reply).list())
	_, entries := stream.text(), stream.list()
	if stream.err != nil {
		return nil, stream.err
	}
	return parseEntries(entries)
}

// nextCount is how many entries to read next, so that they are about readBytes.
func nextCount(count int, entries []streamEntry) int {
	size := 0
	for i := range entries {
		for _, field := range entries[i].fields {
			size += len(field)
		}
	}
	if size > readBytes {
		return max(1, count/2)
	}
	return min(readEntries, count*2)
}
