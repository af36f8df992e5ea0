package loopmq

import (
	"slices"

	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// commitAgain is for a message that must reach all subscribers in one step, and was
// matched before subscriptions were added at other instances: it is matched again.
func (l *loop) commitAgain(p *publication, stale *store.Op, u *commitUnderWay) {
	for i := range u.deliveries {
		if d := &u.deliveries[i]; d.session == nil && i < len(stale.Targets) {
			l.b.groups.release(d.sharedFilter(), p.size())
		}
	}
	p.recorded = true
	r := l.route(p, true)
	r.events = u.events
	r.op.Session, r.op.Epoch, r.op.PacketID, r.op.WillOf = stale.Session, stale.Epoch, stale.PacketID, stale.WillOf
	r.op.Once = stale.Once
	if !r.op.Retain {
		// It has been matched with all that was there after it had arrived, and must not
		// wait for ever when many subscribe.
		r.op.Additions = 0
	}
	l.commitFirst(p, &r, u.done)
}

// commitRest is for a message that has been stored, but not for all: what has still
// to be stored for is, and only then done is called.
//
// added: a QoS 1 message was matched before subscriptions were added at other
// instances; groups are those that it matched then. left: members of groups that have
// ended at other instances; another member gets what they were to get.
func (l *loop) commitRest(p *publication, op *store.Op, added bool, groups []store.GroupID, left []delivery, done waiter) {
	l.targets, l.routed = l.targets[:0], l.routed[:0]
	p.afterCommit, p.publisher = false, nil
	r := routed{op: store.Op{Kind: store.OpPublish, Message: p.keep()}}
	l.deliveries = l.deliveries[:0]
	if added {
		l.matchAdded(p, op, groups)
	}
	for i := range left {
		if d, ok := l.memberFor(entryOf(p, &left[i])); ok {
			l.deliveries = append(l.deliveries, d)
		}
	}
	for i := range l.deliveries {
		l.routeOne(p, &l.deliveries[i], &r)
	}
	if len(l.targets) == 0 {
		done.call(op, nil)
		return
	}
	r.op.Targets = l.targets
	l.commitFirst(p, &r, done)
}

// matchAdded makes l.deliveries what p matches by now, and op has no target for.
func (l *loop) matchAdded(p *publication, op *store.Op, groups []store.GroupID) {
	l.b.subscriptions.Match(p.topic, &l.matches)
	clear(l.merged)
	for i := range l.matches.Subscribers {
		s, o := l.matches.Subscribers[i].Subscriber, &l.matches.Subscribers[i].Options
		d := delivery{
			session: s, client: s.client.Load(), qos: min(p.qos, o.QoS), retain: p.retain && o.RetainAsPublished, id: o.SubscriptionIdentifier,
		}
		if o.NoLocal && s == p.from || !d.stored() || had(op, &d) {
			continue
		}
		l.merge(&d)
	}
	for _, g := range l.matches.Groups {
		if slices.Contains(groups, groupID(g)) {
			continue
		}
		if d, ok := l.selectMember(g, p); ok {
			l.deliveries = append(l.deliveries, d)
		}
	}
}

// groupID names a group.
func groupID(g *trie.Group[*Session]) store.GroupID {
	return store.GroupID{ShareName: g.ShareName(), TopicFilter: g.TopicFilter()}
}

// had reports whether the queue or instance of d was a target of op, apart from
// shared subscriptions.
func had(op *store.Op, d *delivery) bool {
	instance := d.instance()
	for i := range op.Targets {
		t := &op.Targets[i]
		if t.ShareName == "" && t.Instance == instance && (instance != "" || t.Queue.Session == d.session.id) {
			return true
		}
	}
	return false
}

// forwarded handles one instance that a message was handed to.
func (l *loop) forwarded(p *publication, d *delivery, t *store.Target, stored bool) {
	switch {
	case !stored && p.afterCommit: // it is tried again
	case stored && (t.Result == store.Done || t.Result == store.Duplicate):
		l.m.MessagesForwarded[d.qos].Inc()
	case stored && t.Result == store.Refused:
		l.drop(p, d, metrics.DropMailboxFull)
	case stored:
		l.dropGone(p, d)
	default:
		l.drop(p, d, metrics.DropStoreUnavailable)
	}
}
