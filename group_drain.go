package loopmq

import (
	"context"
	"errors"
	"slices"
	"time"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// drain is one pass through a group's queue, for what its members can take. It
// goes from page to page; the next is read when what became of this one is known.
type drain struct {
	topicFilter string
	queue       store.QueueID
	of          *membership // that it began in; nil: there is no cluster
	moved       bool        // something of this page went to a member
	refused     bool        // something of this page had to stay
}

// drainGroup gives what waits in a group's queue to its connected members, or
// gives it up if the group has gone.
func (l *loop) drainGroup(topicFilter string) {
	if l.b.rejoining.Load() { // it knows too little, and looks at all groups when it has joined
		return
	}
	limit, ok := l.b.groups.beginDrain(topicFilter)
	if !ok {
		return
	}
	name, filter, _ := codec.SplitShare([]byte(topicFilter))
	d := &drain{topicFilter: topicFilter, queue: store.GroupQueue(string(name), string(filter))}
	if c := l.b.cluster; c != nil {
		d.of = c.joined.Load()
	}
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

// lookAtGroups drains the queues of all groups, whoever has put something into them:
// an instance that has died may not have come to it.
func (b *Broker) lookAtGroups() {
	filters := make(map[string]struct{})
	b.registry.each(func(s *Session) {
		for _, f := range s.sharedFilters() {
			filters[f] = struct{}{}
		}
	})
	for f := range filters {
		l := b.loops[0]
		l.el.Post(func() { l.memberCame(f) })
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

// overtaken reports whether the broker has forgotten the group's members since the
// drain began, as one does that was declared dead: a group without members would be
// taken for one that has gone.
func (d *drain) overtaken(b *Broker) bool {
	return d.of != nil && (b.rejoining.Load() || b.cluster.joined.Load() != d.of)
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
// its client, and reports false if no member is connected, or it isn't known who is.
func (l *loop) drainEntry(dr *drain, e *store.Entry) bool {
	d, ok := l.memberFor(e)
	if ok && d.session == nil || !ok && dr.overtaken(l.b) {
		return false
	}
	if ok && d.instance() != "" {
		l.drainAway(dr, e, &d)
		return true
	}
	d.qos = min(d.qos, e.Message.QoS) // as the store has it then
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
			f := c.flows()
			f.behind, f.missed = true, f.reading
			c.advance()
		}
	})
}
