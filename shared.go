package loopmq

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

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

// sharedFilter is the filter as members subscribe to it.
func sharedFilter(shareName, topicFilter string) string {
	return "$share/" + shareName + "/" + topicFilter
}

// seed makes the hashes of this process hard to foresee.
var seed = maphash.MakeSeed()

// connectedHere and connectedMember say which members are to get messages: those
// that are connected, at this instance or at any.
func connectedHere(s *Session) bool { return s.client.Load() != nil }

func connectedMember(s *Session) bool { return s.client.Load() != nil || s.remote.Load() != nil }

// selectMember picks the member of a group that gets p: a connected one by the
// strategy. If there is none and p is at QoS 1 or 2, it waits for a durable one
// in the group's queue: the delivery has no session then.
func (l *loop) selectMember(g *trie.Group[*Session], p *publication) (delivery, bool) {
	if d, ok := l.selectAmong(g, p, l.unlessDenied(connectedMember, p.topic)); ok {
		return d, true
	}
	waits := p.qos > 0 && l.hasDurable(g, p.topic)
	if !waits && l.b.denies.Load() { // nobody is to get it: one drops it, and counts it
		if d, ok := l.selectAmong(g, p, connectedMember); ok {
			return d, true
		}
	}
	return delivery{group: g, qos: p.qos, retain: p.retain}, p.qos == 0 || waits
}

// selectAmong picks one of those members of a group that are usable.
func (l *loop) selectAmong(g *trie.Group[*Session], p *publication, usable func(*Session) bool) (delivery, bool) {
	var hash uint64
	switch l.b.opts.SharedSubscriptionStrategy {
	case SharedHashClientID:
		hash = maphash.String(seed, p.publisherID)
	case SharedHashTopic:
		hash = maphash.Bytes(seed, p.topic)
	}
	for range selectTries {
		m, ok := g.Select(l.strategy, hash, usable)
		if !ok {
			break
		}
		c := m.Subscriber.client.Load()
		if c == nil && m.Subscriber.remote.Load() == nil { // it left just now
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
	return delivery{}, false
}

// selectTries bounds how often a member is chosen that leaves in that moment.
const selectTries = 8

// hasDurable reports whether a group has a durable member that may get a topic.
func (l *loop) hasDurable(g *trie.Group[*Session], topic []byte) (durable bool) {
	usable := l.unlessDenied(func(s *Session) bool { return s.durable }, topic)
	g.Each(func(m trie.Match[*Session]) bool {
		durable = usable(m.Subscriber)
		return !durable
	})
	return durable
}

// redistribute gives what a durable session that goes offline has of shared
// subscriptions back to their groups: QoS 1 that is not acknowledged, and QoS 2
// that was not sent [MQTT-4.8.2-4, MQTT-4.8.2-5]. What follows the end of the
// connection waits for it, see afterLeaving.
//
// It begins when all that any loop has chosen s for is in its queue. Nobody chooses
// it any more: it has no client.
func (l *loop) redistribute(s *Session, epoch uint64) {
	if waiting, already := l.leaving[s]; already {
		l.leaving[s] = append(waiting, func(bool) { l.redistribute(s, epoch) })
		return
	}
	if l.leaving == nil {
		l.leaving = make(map[*Session][]func(done bool))
	}
	l.leaving[s] = nil
	l.afterCommits(func() { l.redistributePage(s, epoch, store.Number{}) })
}

// redistributePage goes on behind a number.
func (l *loop) redistributePage(s *Session, epoch uint64, after store.Number) {
	b, id := l.b, store.QueueOf(s.id)
	begun := b.workers.do(func() {
		entries, err := b.store.Messages().Read(context.Background(), id, after, readEntries, readBytes)
		l.el.Post(func() {
			again := func() {
				if b.shuttingDown.Load() || b.rejoining.Load() {
					l.left(s, false)
					return
				}
				l.repeat(func() { l.redistributePage(s, epoch, after) })
			}
			switch {
			case err != nil && !errors.Is(err, store.ErrGone):
				again()
				return
			case len(entries) == 0:
				l.left(s, true)
				return
			}
			failed := false
			l.backToGroups(s, epoch, entries, false, func() { failed = true })
			l.commits.after(func() {
				if failed {
					again()
					return
				}
				l.redistributePage(s, epoch, entries[len(entries)-1].Number)
			})
		})
	})
	if !begun { // the broker stops
		l.left(s, false)
	}
}

// left ends redistribute. done: nothing is left that is to go back.
func (l *loop) left(s *Session, done bool) {
	waiting := l.leaving[s]
	delete(l.leaving, s)
	for _, f := range waiting {
		f(done)
	}
	l.checkDrained()
}

// afterLeaving calls f when nothing of s goes back to groups any more, with whether
// all of it has; at once if nothing does.
func (l *loop) afterLeaving(s *Session, f func(done bool)) {
	if waiting, ok := l.leaving[s]; ok {
		l.leaving[s] = append(waiting, f)
		return
	}
	f(true)
}

// handBack is for an entry that came into the queue of a member which had gone
// offline at another instance: that one has handed back what was there before. epoch
// is that of the connection which had left: a later one may have sent the entry, and
// the store refuses it then.
func (l *loop) handBack(s *Session, e *store.Entry, epoch uint64) {
	l.backToGroups(s, epoch, []store.Entry{*e}, true, func() {
		l.repeat(func() { l.handBack(s, e, epoch) })
	})
}

// backToGroups moves those of a session's entries to the queues of their groups
// that belong there, and on from there, and returns how many it tries to. unsent:
// nobody can have sent them. failed is called for each of them for which the store
// failed.
func (l *loop) backToGroups(s *Session, epoch uint64, entries []store.Entry, unsent bool, failed func()) (begun int) {
	lastSent, known := s.sent()
	regained := ""
	for i := range entries {
		e := &entries[i]
		sent := !unsent && !lastSent.Less(e.Number)
		if e.ShareName == "" || e.QoS == 2 && !unsent && (sent || !known) {
			continue
		}
		f := sharedFilter(e.ShareName, e.TopicFilter)
		if !l.b.groups.reserve(f, e.Message.Size(), &l.b.opts.Limits) {
			continue
		}
		begun++
		op := store.Op{
			Kind: store.OpMove, Session: s.id, Epoch: epoch, From: store.QueueOf(s.id), Numbers: []store.Number{e.Number},
			Targets: []store.Target{{
				Queue: store.GroupQueue(e.ShareName, e.TopicFilter), QoS: 2, Retain: true, ShareName: e.ShareName, TopicFilter: e.TopicFilter,
			}},
		}
		l.commits.add(op, func(op *store.Op, err error) {
			switch {
			case err != nil:
				l.b.groups.release(f, e.Message.Size())
				if regained != f {
					regained = f
					l.regain(f)
				}
				failed()
			case len(op.Targets[0].Moved) == 0: // acknowledged, or there already
				l.b.groups.release(f, e.Message.Size())
			default:
				if !sent {
					l.m.QueueDelivered[e.QoS].Inc()
				}
				qos := op.Targets[0].Moved[0].QoS
				l.m.MessagesMatched[qos].Inc()
				l.m.MessagesQueued[qos].Inc()
				l.groupHas(e)
			}
		})
	}
	return begun
}

// regain looks after a while what a group's queue holds, into which a commit that
// failed may have put something.
func (l *loop) regain(topicFilter string) {
	b := l.b
	l.repeat(func() {
		b.workers.do(func() {
			_, err := b.groups.restore(context.Background(), b.store, topicFilter)
			l.el.Post(func() {
				if err != nil {
					l.regain(topicFilter)
					return
				}
				l.drainGroup(topicFilter)
			})
		})
	})
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
	g := l.groupOf(e)
	if g == nil {
		return delivery{qos: e.QoS}, false
	}
	var p publication
	p.set(e.Message)
	return l.selectMember(g, &p)
}

// groupOf returns the group of an entry, nil if it has gone.
func (l *loop) groupOf(e *store.Entry) *trie.Group[*Session] {
	var m trie.Matches[*Session]
	l.b.subscriptions.Match(e.Message.TopicName, &m)
	for _, g := range m.Groups {
		if g.ShareName() == e.ShareName && g.TopicFilter() == e.TopicFilter {
			return g
		}
	}
	return nil
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
	if r.commit || r.forward {
		r.op.Message, r.op.Targets = e.Message, l.targets
		l.commit(&p, &r, nil)
	}
}

// drain is one pass through a group's queue, for what its members can take. It
// goes from page to page; the next is read when what became of this one is known.
type drain struct {
	topicFilter string
	queue       store.QueueID
	moved       bool // something of this page went to a member
	refused     bool // something of this page had to stay
}

// drainGroup gives what waits in a group's queue to its connected members, or
// gives it up if the group has gone.
func (l *loop) drainGroup(topicFilter string) {
	limit, ok := l.b.groups.beginDrain(topicFilter)
	if !ok {
		return
	}
	name, filter, _ := codec.SplitShare([]byte(topicFilter))
	d := &drain{topicFilter: topicFilter, queue: store.GroupQueue(string(name), string(filter))}
	l.drainPage(d, store.Number{}, limit)
}

// memberCame drains a group that has a new connected member. What other instances
// put into its queue only the store knows.
func (l *loop) memberCame(topicFilter string) {
	b := l.b
	if b.cluster == nil {
		l.drainGroup(topicFilter)
		return
	}
	b.workers.do(func() {
		_, err := b.groups.restore(context.Background(), b.store, topicFilter)
		l.el.Post(func() {
			if err != nil {
				l.regain(topicFilter)
				return
			}
			l.drainGroup(topicFilter)
		})
	})
}

// groupLost sees to what waits for a group whose last member may just have left.
func (b *Broker) groupLost(topicFilter string) {
	if b.groups.mayHaveEntries(topicFilter) {
		l := b.loops[0]
		l.el.Post(func() { l.drainGroup(topicFilter) })
	}
}

// drainPage goes on behind a number.
func (l *loop) drainPage(d *drain, after store.Number, limit int) {
	b := l.b
	b.workers.do(func() {
		entries, err := b.store.Messages().Read(context.Background(), d.queue, after, limit, readBytes)
		l.el.Post(func() { l.drainRead(d, after, entries, err) })
	})
}

// drainRead goes on with a page.
func (l *loop) drainRead(d *drain, after store.Number, entries []store.Entry, err error) {
	if err != nil && !errors.Is(err, store.ErrGone) {
		l.b.storeAnswered(err)
		l.drainLater(d.topicFilter, retryInterval)
		l.drainEnded(d)
		return
	}
	for _, u := range l.b.groups.settle(d.topicFilter, after, entries) {
		u.taken(l)
	}
	if len(entries) == 0 {
		l.drainEnded(d)
		return
	}
	d.moved, d.refused = false, false
	for i := range entries {
		if !l.drainEntry(d, &entries[i]) {
			l.commits.after(func() { l.drainEnded(d) })
			return
		}
	}
	l.commits.after(func() { l.pageDrained(d, entries[len(entries)-1].Number) })
}

// pageDrained goes on to the next page, unless no member had room.
func (l *loop) pageDrained(d *drain, last store.Number) {
	wait := l.b.groups.progress(d.topicFilter, d.moved || !d.refused)
	if d.refused {
		l.drainLater(d.topicFilter, wait)
	}
	if d.refused && !d.moved {
		l.drainEnded(d)
		return
	}
	l.drainPage(d, last, readEntries)
}

func (l *loop) drainEnded(d *drain) {
	if l.b.groups.endDrain(d.topicFilter) {
		l.drainGroup(d.topicFilter)
	}
}

// drainRetry is when to drain a group again.
type drainRetry struct {
	topicFilter string
	at          int64 // of the loop's clock
}

// drainLater drains a group again after a while: a member that is to get
// something has no room, or the store failed.
func (l *loop) drainLater(topicFilter string, wait time.Duration) {
	if slices.ContainsFunc(l.drainRetries, func(r drainRetry) bool { return r.topicFilter == topicFilter }) {
		return
	}
	l.drainRetries = append(l.drainRetries, drainRetry{topicFilter, l.el.Nanotime() + int64(wait)})
	l.scheduleRetries()
}

// retryDrains drains the groups whose time has come.
func (l *loop) retryDrains() {
	now := l.el.Nanotime()
	retries := l.drainRetries
	l.drainRetries = nil
	for _, r := range retries {
		if r.at <= now {
			l.drainGroup(r.topicFilter)
			continue
		}
		l.drainRetries = append(l.drainRetries, r)
		l.scheduleRetries()
	}
}

// drainEntry takes one entry out of a group's queue, for a member's queue or for
// its client, and reports false if no member is connected.
func (l *loop) drainEntry(dr *drain, e *store.Entry) bool {
	d, ok := l.memberFor(e)
	if ok && d.session == nil {
		return false
	}
	if ok && d.instance() != "" {
		l.drainAway(dr, e, &d)
		return true
	}
	op := store.Op{Kind: store.OpMove, From: dr.queue, Numbers: []store.Number{e.Number}}
	if ok && d.stored() {
		op.Targets = []store.Target{d.target()}
	}
	l.commits.add(op, func(op *store.Op, err error) {
		stored := len(op.Targets) > 0
		switch {
		case err != nil: // it may have been taken out all the same
			l.b.groups.addUncertain(dr.topicFilter, uncertainOut{e.Number, func(l *loop) {
				l.takenOut(dr.topicFilter, e, &d, ok, store.Number{})
			}})
			l.drainLater(dr.topicFilter, retryInterval)
		case !stored && op.Result == store.Gone: // another instance took it out
			l.b.groups.release(dr.topicFilter, e.Message.Size())
		case op.Result != store.Done || stored && op.Targets[0].Result != store.Done:
			dr.refused = true
		case stored && len(op.Targets[0].Moved) == 0: // somebody else took it out
			l.b.groups.release(dr.topicFilter, e.Message.Size())
		case stored:
			dr.moved = true
			l.takenOut(dr.topicFilter, e, &d, ok, op.Targets[0].Moved[0].Number)
			if epoch := op.Targets[0].Left; epoch != 0 { // it has left meanwhile
				l.handBack(d.session, &op.Targets[0].Moved[0], epoch)
			}
		default:
			dr.moved = true
			l.takenOut(dr.topicFilter, e, &d, ok, store.Number{})
		}
	})
	return true
}

// drainAway hands an entry to a member that isn't durable and is connected at
// another instance, and only then takes it out: twice rather than never.
func (l *loop) drainAway(dr *drain, e *store.Entry, d *delivery) {
	op := store.Op{Kind: store.OpPublish, Message: e.Message, Targets: []store.Target{{
		Instance: d.instance(), QoS: d.qos, Retain: d.retain, ShareName: e.ShareName, TopicFilter: e.TopicFilter,
	}}}
	l.commits.add(op, func(op *store.Op, err error) {
		if err != nil || op.Targets[0].Result != store.Done {
			dr.refused = true
			return
		}
		dr.moved = true
		remove := store.Op{Kind: store.OpMove, From: dr.queue, Numbers: []store.Number{e.Number}}
		l.commits.add(remove, func(_ *store.Op, err error) {
			if err != nil {
				l.drainLater(dr.topicFilter, retryInterval)
				return
			}
			l.b.groups.release(dr.topicFilter, e.Message.Size())
			l.m.QueueDelivered[e.QoS].Inc()
			l.m.MessagesMatched[d.qos].Inc()
			l.m.MessagesForwarded[d.qos].Inc()
		})
	})
}

// takenOut brings an entry that was taken out of a group's queue to the member
// that it was taken out for. n is its number in the member's queue, if it went
// there and that is known. member is false if the group has nobody left.
func (l *loop) takenOut(topicFilter string, e *store.Entry, d *delivery, member bool, n store.Number) {
	l.b.groups.release(topicFilter, e.Message.Size())
	var p publication
	p.set(e.Message)
	l.serial++
	p.serial = l.serial
	if !member {
		l.dropQueued(&p, d, metrics.DropSessionGone)
		return
	}
	l.m.QueueDelivered[e.QoS].Inc()
	l.m.MessagesMatched[d.qos].Inc()
	switch {
	case !d.stored():
		l.dispatch(&p, d)
	case n.IsZero():
		l.m.MessagesQueued[d.qos].Inc()
		l.rereads(d.session)
	default:
		d.number = n
		l.announce(&p, d)
	}
}

// rereads makes the client of a session read its queue, which may hold what there
// was no news of.
func (l *loop) rereads(s *Session) {
	c := s.client.Load()
	if c == nil {
		return
	}
	c.loop.el.Post(func() {
		if c.state == stateConnected && c.session == s {
			c.flows().behind = true
			c.advance()
		}
	})
}
