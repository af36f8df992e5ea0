package loopmq

import (
	"hash/maphash"

	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

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
			qos:     l.b.deliveryQoS(p.qos, m.Options.QoS),
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
