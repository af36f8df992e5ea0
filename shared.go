package loopmq

import (
	"context"
	"hash/maphash"
	"sync"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// groups knows which shared-subscription groups have entries in a queue of
// their own: messages that came, or came back, while no member was connected.
type groups struct {
	mu struct {
		sync.Mutex
		waiting map[string]struct{} // by $share/{ShareName}/{filter}
	}
}

// groupGotEntry notes that a group's queue has something.
func (b *Broker) groupGotEntry(shareName, topicFilter string) {
	b.groups.mu.Lock()
	defer b.groups.mu.Unlock()
	if b.groups.mu.waiting == nil {
		b.groups.mu.waiting = make(map[string]struct{})
	}
	b.groups.mu.waiting["$share/"+shareName+"/"+topicFilter] = struct{}{}
}

// take reports whether a group's queue may have something, and forgets it: who
// takes drains it.
func (g *groups) take(topicFilter string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.mu.waiting[topicFilter]
	delete(g.mu.waiting, topicFilter)
	return ok
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
	m, ok := g.Select(l.strategy, hash, connectedMember)
	if !ok {
		d := delivery{group: g, qos: min(p.qos, 2)}
		if p.qos > 0 && !hasDurable(g) {
			return d, false
		}
		return d, true
	}
	return delivery{
		session: m.Subscriber,
		client:  m.Subscriber.client.Load(),
		group:   g,
		qos:     min(p.qos, m.Options.QoS),
		retain:  p.retain && m.Options.RetainAsPublished,
		id:      m.Options.SubscriptionIdentifier,
	}, true
}

func hasDurable(g *trie.Group[*Session]) (durable bool) {
	g.Each(func(m trie.Match[*Session]) bool {
		durable = m.Subscriber.durable
		return !durable
	})
	return durable
}

// redistribute passes on what a durable session that went offline has of shared
// subscriptions: QoS 1 that is not acknowledged, and QoS 2 that was not sent
// [MQTT-4.8.2-4, MQTT-4.8.2-5].
func (l *loop) redistribute(s *Session) {
	b, id, lastSent := l.b, store.QueueOf(s.id), s.lastSent
	b.workers.do(func() {
		for after := (store.Number{}); ; {
			entries, err := b.store.Messages().Read(context.Background(), id, after, readEntries, readBytes)
			if err != nil || len(entries) == 0 {
				return
			}
			after = entries[len(entries)-1].Number
			l.el.Post(func() {
				for i := range entries {
					e := &entries[i]
					if e.ShareName != "" && (e.QoS == 1 || lastSent.Less(e.Number)) && s.client.Load() == nil {
						l.moveToGroup(id, e)
					}
				}
			})
		}
	})
}

// moveToGroup moves an entry from a queue to that of another member of its
// group, or of the group itself.
func (l *loop) moveToGroup(from store.QueueID, e *store.Entry) {
	d, ok := l.memberFor(e)
	if !ok {
		return
	}
	if d.session != nil && !d.session.durable {
		// To a session in memory: it is delivered there, then taken out here.
		var p publication
		p.set(e.Message)
		l.serial++
		p.serial = l.serial
		l.m.MessagesMatched[d.qos].Inc()
		l.dispatch(&p, &d)
		l.commits.add(store.Op{Kind: store.OpMove, From: from, Numbers: []store.Number{e.Number}}, nil)
		return
	}
	to := store.GroupQueue(e.ShareName, e.TopicFilter)
	if d.session != nil {
		to = store.QueueOf(d.session.id)
	}
	if to == from {
		return
	}
	t := store.Target{Queue: to, QoS: d.qos, ShareName: e.ShareName, TopicFilter: e.TopicFilter}
	op := store.Op{Kind: store.OpMove, From: from, Numbers: []store.Number{e.Number}, Targets: []store.Target{t}}
	l.commits.add(op, func(op *store.Op, err error) {
		t := &op.Targets[0]
		if err != nil || t.Result != store.Done || len(t.Moved) == 0 {
			return
		}
		if d.session == nil {
			l.b.groupGotEntry(e.ShareName, e.TopicFilter)
			return
		}
		d.numbered(t.Moved[0].Number)
		if d.client = d.session.client.Load(); d.client != nil {
			var p publication
			p.set(e.Message)
			l.serial++
			p.serial = l.serial
			l.dispatch(&p, &d)
		}
	})
}

// memberFor picks a connected member for an entry that comes back to its group;
// the delivery has no session if it is to wait in the group's queue. false: the
// group has gone.
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
	return delivery{}, false
}

// passToGroup gives a message that a member in memory left to another member.
func (l *loop) passToGroup(e *store.Entry) {
	d, ok := l.memberFor(e)
	if !ok {
		return
	}
	var p publication
	p.set(e.Message)
	l.serial++
	p.serial = l.serial
	l.m.MessagesMatched[d.qos].Inc()
	if d.qos > 0 && (d.session == nil || d.session.durable) {
		l.targets, l.routed = l.targets[:0], l.routed[:0]
		l.addTarget(&d)
		r := routed{op: store.Op{Kind: store.OpPublish, Message: e.Message, Targets: l.targets}}
		l.commit(&p, &r, nil)
		return
	}
	if d.session == nil {
		l.drop(&p, &d, metrics.DropOffline)
		return
	}
	l.dispatch(&p, &d)
}

// drainGroups gives what waits for the groups of c's session to their members.
func (c *Client) drainGroups() {
	for _, f := range c.session.sharedFilters() {
		c.drainGroup(f)
	}
}

// drainGroup gives what waits in a group's queue to its connected members.
func (c *Client) drainGroup(topicFilter string) {
	b, l := c.loop.b, c.loop
	if !b.groups.take(topicFilter) {
		return
	}
	name, filter, _ := codec.SplitShare([]byte(topicFilter))
	id := store.GroupQueue(string(name), string(filter))
	b.workers.do(func() {
		for after := (store.Number{}); ; {
			entries, err := b.store.Messages().Read(context.Background(), id, after, readEntries, readBytes)
			if err != nil || len(entries) == 0 {
				return
			}
			after = entries[len(entries)-1].Number
			l.el.Post(func() {
				for i := range entries {
					l.moveToGroup(id, &entries[i])
				}
				if c.state != stateConnected { // the next member goes on
					b.groupGotEntry(string(name), string(filter))
				}
			})
		}
	})
}
