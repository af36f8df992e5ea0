package loopmq

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
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
	entries, bytes int  // since this process began
	draining       bool // a loop hands them to members
	again          bool // something happened meanwhile, so it must start over
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

// add notes that a queue may have entries. REQUIRES: g.mu
func (g *groups) add(topicFilter string) *groupQueue {
	if g.mu.queues == nil {
		g.mu.queues = make(map[string]*groupQueue)
	}
	q := &groupQueue{}
	g.mu.queues[topicFilter] = q
	return q
}

// restored notes that a group had members when the broker started.
func (g *groups) restored(topicFilter string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.queues[topicFilter] == nil {
		g.add(topicFilter)
	}
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
// something in it, and nobody else does.
func (g *groups) beginDrain(topicFilter string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.mu.queues[topicFilter]
	if q == nil {
		return false
	}
	q.again = q.draining
	q.draining = true
	return !q.again
}

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

// mayHaveEntries reports whether a queue may have something.
func (g *groups) mayHaveEntries(topicFilter string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.queues[topicFilter] != nil
}

// sharedFilter is the filter as members subscribe to it.
func sharedFilter(shareName, topicFilter string) string {
	return "$share/" + shareName + "/" + topicFilter
}

// seed makes the hashes of this process hard to foresee.
var seed = maphash.MakeSeed()

func connectedMember(s *Session) bool { return s.client.Load() != nil }

// selectMember picks the member of a group that gets p: a connected one by the
// strategy. If there is none and p is at QoS 1 or 2, it waits for a durable one
// in the group's queue: the delivery has no session then.
func (l *loop) selectMember(g *trie.Group[*Session], p *publication) (delivery, bool) {
	var hash uint64
	switch l.b.opts.SharedSubscriptionStrategy {
	case SharedHashClientID:
		hash = maphash.String(seed, p.publisherID)
	case SharedHashTopic:
		hash = maphash.Bytes(seed, p.topic)
	}
	for range selectTries {
		m, ok := g.Select(l.strategy, hash, connectedMember)
		if !ok {
			break
		}
		c := m.Subscriber.client.Load()
		if c == nil { // it left just now
			continue
		}
		return delivery{
			session: m.Subscriber,
			client:  c,
			group:   g,
			qos:     min(p.qos, m.Options.QoS),
			retain:  p.retain && m.Options.RetainAsPublished,
			id:      m.Options.SubscriptionIdentifier,
		}, true
	}
	return delivery{group: g, qos: p.qos, retain: p.retain}, p.qos == 0 || hasDurable(g)
}

// selectTries bounds how often a member is chosen that leaves in that moment.
const selectTries = 8

func hasDurable(g *trie.Group[*Session]) (durable bool) {
	g.Each(func(m trie.Match[*Session]) bool {
		durable = m.Subscriber.durable
		return !durable
	})
	return durable
}

// redistribute gives what a durable session that goes offline has of shared
// subscriptions back to their groups: QoS 1 that is not acknowledged, and QoS 2
// that was not sent [MQTT-4.8.2-4, MQTT-4.8.2-5]. What follows the end of the
// connection waits for it, see afterLeaving.
func (l *loop) redistribute(s *Session, epoch uint64) {
	if l.leaving == nil {
		l.leaving = make(map[*Session][]func())
	}
	l.leaving[s] = nil
	l.redistributePage(s, epoch, store.Number{})
}

// redistributePage goes on behind a number.
func (l *loop) redistributePage(s *Session, epoch uint64, after store.Number) {
	b, id := l.b, store.QueueOf(s.id)
	begun := b.workers.do(func() {
		entries, err := b.store.Messages().Read(context.Background(), id, after, readEntries, readBytes)
		l.el.Post(func() {
			if err != nil || len(entries) == 0 {
				l.left(s)
				return
			}
			l.backToGroups(s, epoch, entries)
			l.commits.after(func() { l.redistributePage(s, epoch, entries[len(entries)-1].Number) })
		})
	})
	if !begun { // the broker stops
		l.left(s)
	}
}

// left ends redistribute.
func (l *loop) left(s *Session) {
	waiting := l.leaving[s]
	delete(l.leaving, s)
	for _, f := range waiting {
		f()
	}
	l.checkDrained()
}

// afterLeaving calls f when nothing of s goes back to groups any more; at once if
// nothing does.
func (l *loop) afterLeaving(s *Session, f func()) {
	if waiting, ok := l.leaving[s]; ok {
		l.leaving[s] = append(waiting, f)
		return
	}
	f()
}

// comesBack is for a message of a shared subscription that went into the queue of
// a member who has left meanwhile.
func (l *loop) comesBack(s *Session, entries []store.Entry) {
	owner := s.owner.Load()
	if owner != l {
		owner.el.Post(func() { owner.comesBack(s, entries) })
		return
	}
	// In this order: who sees the epoch of a connection sees that it is there.
	epoch := s.epoch.Load()
	if s.client.Load() != nil { // connected again: it reads them
		return
	}
	l.backToGroups(s, epoch, entries)
}

// backToGroups moves those of a session's entries to the queues of their groups
// that belong there, and on from there.
func (l *loop) backToGroups(s *Session, epoch uint64, entries []store.Entry) {
	lastSent := s.sent()
	byGroup := make(map[string][]store.Entry)
	for i := range entries {
		e := &entries[i]
		neverSent := s.known && lastSent.Less(e.Number)
		if e.ShareName == "" || e.QoS == 2 && !neverSent {
			continue
		}
		f := sharedFilter(e.ShareName, e.TopicFilter)
		if l.b.groups.reserve(f, e.Message.Size(), &l.b.opts.Limits) {
			byGroup[f] = append(byGroup[f], *e)
		}
	}
	for f, entries := range byGroup {
		op := store.Op{Kind: store.OpMove, Session: s.id, Epoch: epoch, From: store.QueueOf(s.id)}
		for i := range entries {
			op.Numbers = append(op.Numbers, entries[i].Number)
		}
		e := &entries[0]
		op.Targets = []store.Target{{
			Queue: store.GroupQueue(e.ShareName, e.TopicFilter), QoS: 2, Retain: true, ShareName: e.ShareName, TopicFilter: e.TopicFilter,
		}}
		l.commits.add(op, func(op *store.Op, err error) {
			var moved []store.Entry
			if err == nil {
				moved = op.Targets[0].Moved
			}
			for i := range entries {
				if i >= len(moved) {
					l.b.groups.release(f, entries[i].Message.Size())
					continue
				}
				if lastSent.Less(entries[i].Number) {
					l.m.QueueDelivered[entries[i].QoS].Inc()
				}
				l.m.MessagesMatched[moved[i].QoS].Inc()
				l.m.MessagesQueued[moved[i].QoS].Inc()
			}
			if len(moved) > 0 {
				l.groupHas(&entries[0])
			}
		})
	}
}

// groupHas is called when e is in the queue of its group. A member that has come
// since it was decided to put it there gets it.
func (l *loop) groupHas(e *store.Entry) {
	if d, ok := l.memberFor(e); !ok || d.session != nil {
		l.drainGroup(sharedFilter(e.ShareName, e.TopicFilter))
	}
}

// memberFor picks a connected member for an entry of a group; the delivery has no
// session if none is connected. false: the group has gone, or has nobody left to
// wait for.
func (l *loop) memberFor(e *store.Entry) (delivery, bool) {
	var m trie.Matches[*Session]
	l.b.subscriptions.Match(e.Message.TopicName, &m)
	for _, g := range m.Groups {
		if g.ShareName() == e.ShareName && g.TopicFilter() == e.TopicFilter {
			var p publication
			p.set(e.Message)
			return l.selectMember(g, &p)
		}
	}
	return delivery{qos: e.QoS}, false
}

// passToGroup gives a message that a member in memory left to another member.
func (l *loop) passToGroup(e *store.Entry) {
	var p publication
	p.set(e.Message)
	l.serial++
	p.serial = l.serial
	d, ok := l.memberFor(e)
	if !ok {
		l.m.MessagesMatched[d.qos].Inc()
		l.drop(&p, &d, metrics.DropSessionGone)
		return
	}
	l.targets, l.routed = l.targets[:0], l.routed[:0]
	r := routed{op: store.Op{Kind: store.OpPublish}}
	l.routeOne(&p, &d, &r)
	if r.commit {
		r.op.Message, r.op.Targets = e.Message, l.targets
		l.commit(&p, &r, nil)
	}
}

// drainGroup gives what waits in a group's queue to its connected members, or
// gives it up if the group has gone.
func (l *loop) drainGroup(topicFilter string) {
	if l.b.groups.beginDrain(topicFilter) {
		l.drainPage(topicFilter, store.Number{})
	}
}

// groupLost sees to what waits for a group whose last member may just have left.
func (b *Broker) groupLost(topicFilter string) {
	if b.groups.mayHaveEntries(topicFilter) {
		l := b.loops[0]
		l.el.Post(func() { l.drainGroup(topicFilter) })
	}
}

// drainPage goes on behind a number.
func (l *loop) drainPage(topicFilter string, after store.Number) {
	name, filter, _ := codec.SplitShare([]byte(topicFilter))
	b, id := l.b, store.GroupQueue(string(name), string(filter))
	b.workers.do(func() {
		entries, err := b.store.Messages().Read(context.Background(), id, after, readEntries, readBytes)
		l.el.Post(func() {
			switch {
			case err != nil && !errors.Is(err, store.ErrGone):
				b.storeAnswered(err)
				l.drainEnded(topicFilter)
				l.drainLater(topicFilter)
			case len(entries) == 0:
				l.drainEnded(topicFilter)
			default:
				l.drainEntries(topicFilter, id, entries)
			}
		})
	})
}

func (l *loop) drainEnded(topicFilter string) {
	if l.b.groups.endDrain(topicFilter) {
		l.drainGroup(topicFilter)
	}
}

// drainLater drains a group again after a while: a member that is to get
// something has no room, or the store failed.
func (l *loop) drainLater(topicFilter string) {
	if slices.Contains(l.drainRetries, topicFilter) {
		return
	}
	l.drainRetries = append(l.drainRetries, topicFilter)
	l.scheduleRetries()
}

func (l *loop) drainEntries(topicFilter string, id store.QueueID, entries []store.Entry) {
	for i := range entries {
		if !l.drainEntry(topicFilter, id, &entries[i]) {
			l.commits.after(func() { l.drainEnded(topicFilter) })
			return
		}
	}
	l.commits.after(func() { l.drainPage(topicFilter, entries[len(entries)-1].Number) })
}

// drainEntry takes one entry out of a group's queue, for a member's queue or for
// its client, and reports false if no member is connected.
func (l *loop) drainEntry(topicFilter string, id store.QueueID, e *store.Entry) bool {
	d, ok := l.memberFor(e)
	if ok && d.session == nil {
		return false
	}
	op := store.Op{Kind: store.OpMove, From: id, Numbers: []store.Number{e.Number}}
	if ok && d.stored() {
		op.Targets = []store.Target{d.target()}
	}
	l.commits.add(op, func(op *store.Op, err error) {
		stored := len(op.Targets) > 0
		if err != nil || op.Result != store.Done || stored && op.Targets[0].Result != store.Done {
			l.drainLater(topicFilter)
			return
		}
		if stored && len(op.Targets[0].Moved) == 0 {
			return
		}
		l.b.groups.release(topicFilter, e.Message.Size())
		var p publication
		p.set(e.Message)
		l.serial++
		p.serial = l.serial
		if !ok {
			l.dropQueued(&p, &d, metrics.DropSessionGone)
			return
		}
		l.m.QueueDelivered[e.QoS].Inc()
		l.m.MessagesMatched[d.qos].Inc()
		if stored {
			d.numbered(op.Targets[0].Moved[0].Number)
			l.announce(&p, &d)
		} else {
			l.dispatch(&p, &d)
		}
	})
	return true
}
