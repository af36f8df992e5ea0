package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

const (
	// fullPercent of Redis's maxmemory is where messages are refused, before it
	// refuses everything.
	fullPercent = 90
	// roomShare: once a store has written this part of the room that was left, it looks
	// how much is left now. So as many nodes may write at the same time.
	roomShare = 8
	// lookPause is how long at least is between two looks because of what was written.
	lookPause = 5 * time.Millisecond
	// entryBytes is what an entry takes besides its message, about.
	entryBytes = 64
)

// room is the memory that Redis has left for messages. Its scripts may exceed
// maxmemory, so what is to be refused has to be known before.
//
// Redis says how much it uses when it is asked, each second and whenever much was
// written since. In between, what batches add is counted: those that had not been
// answered when Redis was asked may or may not have been in what it said, and count.
//
// Its methods are safe for concurrent use.
type room struct {
	maxBytes int64 // of the URL; 0: Redis's maxmemory

	used, limit atomic.Int64 // at the last look; limit 0: none
	begun       atomic.Int64 // bytes of all batches so far
	ended       atomic.Int64 // of those that were answered, or given up
	counted     atomic.Int64 // ended, before the last look
	refused     atomic.Bool  // a batch, since the last settle
	full        atomic.Bool  // what settle said last

	mu struct {
		sync.Mutex
		looked time.Time // when the last look ended
		err    error     // what it failed with
	}
}

// begin counts a batch that stores so many bytes, and reports whether they have room.
// If they have, end has to follow.
func (r *room) begin(ctx context.Context, client redis.UniversalClient, bytes int64) bool {
	if bytes == 0 {
		return true
	}
	r.begun.Add(bytes)
	var err error
	if left := r.limit.Load() - r.used.Load(); left > 0 && r.unseen() > left/roomShare {
		err = r.lookAgain(ctx, client)
	}
	limit, used := r.limit.Load(), r.used.Load()
	// Where Redis can't be asked the commit will find out.
	if limit == 0 || used < limit && (err != nil || used+r.unseen() <= limit) {
		return true
	}
	r.begun.Add(-bytes) // nothing of it will be stored
	r.refused.Store(true)
	return false
}

// unseen is how much may have been added to what Redis used at the last look.
func (r *room) unseen() int64 { return r.begun.Load() - r.counted.Load() }

// end counts a batch that begin had room for as done.
func (r *room) end(bytes int64) { r.ended.Add(bytes) }

// look asks Redis.
func (r *room) look(ctx context.Context, client redis.UniversalClient) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lookLocked(ctx, client)
}

// lookAgain is look, unless that was done just now: then it is what came of it.
func (r *room) lookAgain(ctx context.Context, client redis.UniversalClient) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.mu.looked) < lookPause {
		return r.mu.err
	}
	ctx, cancel := context.WithTimeout(ctx, watchInterval)
	defer cancel()
	return r.lookLocked(ctx, client)
}

// lookLocked asks Redis. REQUIRES: r.mu.
func (r *room) lookLocked(ctx context.Context, client redis.UniversalClient) error {
	ended := r.ended.Load()
	text, err := client.Info(ctx, "memory").Result()
	r.mu.looked, r.mu.err = time.Now(), err
	if err != nil {
		return err
	}
	info := parseInfo(text)
	limit := r.maxBytes
	if limit == 0 {
		limit = atoi(info["maxmemory"]) / 100 * fullPercent
	}
	r.used.Store(atoi(info["used_memory"]))
	r.limit.Store(limit)
	r.counted.Store(ended)
	return nil
}

// settle reports whether messages are refused: by the last look, or since the last
// call. changed: that was otherwise then.
func (r *room) settle() (full, changed bool) {
	limit := r.limit.Load()
	full = limit > 0 && r.used.Load() >= limit || r.refused.Swap(false)
	return full, r.full.Swap(full) != full
}

// bytesOf is how much memory a batch takes that is done, about.
func bytesOf(b *store.Batch) int64 {
	total := 0
	for i := range b.Ops {
		op := &b.Ops[i]
		copies := 0
		if op.Once != nil {
			total += len(op.Once.Key) + len(op.Once.Answer) + entryBytes
		}
		switch {
		case op.Kind == store.OpEnqueue:
			total += len(op.Event.Data) + entryBytes
			continue
		case op.Kind == store.OpRetain, op.Kind == store.OpPublish && op.Retain:
			if len(op.Message.Payload) > 0 {
				copies = 1
			}
		case op.Kind != store.OpPublish:
			continue
		}
		if storedOnce(op) {
			copies++
		} else {
			copies += len(op.Targets)
		}
		total += copies*op.Message.Size() + len(op.Targets)*entryBytes
	}
	return int64(total)
}
