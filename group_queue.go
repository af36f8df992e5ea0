package loopmq

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"loopmq/codec"
	"loopmq/store"
)

// groups knows the queues of shared-subscription groups: messages that came, or
// came back, while no member was connected. They are in the store; what is here
// bounds them, and sees to it that one drain of a queue runs at a time.
type groups struct {
	mu struct {
		sync.Mutex
		queues map[string]*groupQueue // by $share/{ShareName}/{filter}; those that may have entries
	}
}

type groupQueue struct {
	entries, bytes int
	draining       bool           // a loop hands them to members
	again          bool           // something happened meanwhile, so it must start over
	refusals       int            // how many drains in a row no member had room for
	gauging        bool           // entries and bytes are being read from the store
	uncertain      []uncertainOut // what a commit that failed may have taken out
}

// uncertainOut is an entry that may have been taken out of a group's queue: the
// next read of the queue tells. If it has, taken goes on with it, on the loop that
// read.
type uncertainOut struct {
	number store.Number
	taken  func(l *loop)
}

// reserve makes room for an entry, and reports false if the limits, which are
// those of a session, don't let it in.
func (g *groups) reserve(topicFilter string, size int, l *Limits) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.mu.queues[topicFilter]
	if q == nil {
		q = g.add(topicFilter)
	} else if l.QueueMessages >= 0 && q.entries >= l.QueueMessages || l.QueueBytes >= 0 && q.bytes+size > l.QueueBytes {
		return false
	}
	q.entries++
	q.bytes += size
	return true
}

// regauge reads how much a group's queue holds that seems full, because other
// instances may have emptied it.
func (b *Broker) regauge(topicFilter string) {
	g := &b.groups
	g.mu.Lock()
	q := g.mu.queues[topicFilter]
	begun := q != nil && !q.gauging
	if begun {
		q.gauging = true
	}
	g.mu.Unlock()
	if !begun {
		return
	}
	b.workers.do(func() {
		name, filter, _ := codec.SplitShare([]byte(topicFilter))
		entries, bytes, _, err := b.store.Messages().Len(context.Background(), store.GroupQueue(string(name), string(filter)))
		g.mu.Lock()
		defer g.mu.Unlock()
		q.gauging = false
		if err == nil || errors.Is(err, store.ErrGone) {
			q.entries, q.bytes = entries, bytes
		}
	})
}

// add notes that a queue may have entries. REQUIRES: g.mu
func (g *groups) add(topicFilter string) *groupQueue {
	if g.mu.queues == nil {
		g.mu.queues = make(map[string]*groupQueue)
	}
	q := &groupQueue{}
	g.mu.queues[topicFilter] = q
	return q
}

// restore notes what the queue of a group holds, unless the group is known, and
// returns how many entries these are.
func (g *groups) restore(ctx context.Context, st store.Store, topicFilter string) (entries int, err error) {
	if g.mayHaveEntries(topicFilter) {
		return 0, nil
	}
	name, filter, _ := codec.SplitShare([]byte(topicFilter))
	entries, bytes, _, err := st.Messages().Len(ctx, store.GroupQueue(string(name), string(filter)))
	if errors.Is(err, store.ErrGone) {
		return 0, nil
	}
	if err != nil || entries == 0 {
		return 0, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.queues[topicFilter] == nil {
		q := g.add(topicFilter)
		q.entries, q.bytes = entries, bytes
	}
	return entries, nil
}

// release gives the room of an entry back.
func (g *groups) release(topicFilter string, size int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if q := g.mu.queues[topicFilter]; q != nil {
		q.entries = max(0, q.entries-1)
		q.bytes = max(0, q.bytes-size)
		g.forgetIfEmpty(topicFilter, q)
	}
}

// forgetIfEmpty REQUIRES: g.mu
func (g *groups) forgetIfEmpty(topicFilter string, q *groupQueue) {
	if q.entries == 0 && !q.draining {
		delete(g.mu.queues, topicFilter)
	}
}

// beginDrain reports whether the caller is to drain a queue: there may be
// something in it, and nobody else does. After one that got nowhere it begins with
// a single entry.
func (g *groups) beginDrain(topicFilter string) (limit int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.mu.queues[topicFilter]
	if q == nil {
		return 0, false
	}
	q.again = q.draining
	q.draining = true
	limit = readEntries
	if q.refusals > 0 {
		limit = 1
	}
	return limit, !q.again
}

// progress notes whether the members had room, and returns how long to wait
// before the next try if they had none.
func (g *groups) progress(topicFilter string, moved bool) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.mu.queues[topicFilter]
	if moved {
		q.refusals = 0
		return retryInterval
	}
	wait := min(retryInterval<<q.refusals, drainPauseMax)
	q.refusals = min(q.refusals+1, 10)
	return wait
}

// drainPauseMax is the longest that a group whose members have no room waits.
const drainPauseMax = time.Second

// endDrain ends a drain, and reports whether another is due.
func (g *groups) endDrain(topicFilter string) (again bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.mu.queues[topicFilter]
	again = q.again
	q.draining, q.again = false, false
	g.forgetIfEmpty(topicFilter, q)
	return again
}

// addUncertain notes an entry that may have been taken out.
func (g *groups) addUncertain(topicFilter string, u uncertainOut) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if q := g.mu.queues[topicFilter]; q != nil { // always: the entry counts until that is settled
		q.uncertain = append(q.uncertain, u)
	}
}

// settle returns those uncertain entries that a read behind a number shows to
// have been taken out, and forgets those that it shows to be there.
func (g *groups) settle(topicFilter string, after store.Number, read []store.Entry) (taken []uncertainOut) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.mu.queues[topicFilter]
	if q == nil || len(q.uncertain) == 0 {
		return nil
	}
	q.uncertain = slices.DeleteFunc(q.uncertain, func(u uncertainOut) bool {
		if !after.Less(u.number) || len(read) > 0 && read[len(read)-1].Number.Less(u.number) {
			return false // the read doesn't reach it
		}
		there := slices.ContainsFunc(read, func(e store.Entry) bool { return e.Number == u.number })
		if !there {
			taken = append(taken, u)
		}
		return true
	})
	return taken
}

// forget forgets all queues.
func (g *groups) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for f, q := range g.mu.queues {
		q.entries, q.bytes, q.uncertain = 0, 0, nil
		g.forgetIfEmpty(f, q)
	}
}

// mayHaveEntries reports whether a queue may have something.
func (g *groups) mayHaveEntries(topicFilter string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.queues[topicFilter] != nil
}
