package loopmq

import (
	"sync"

	"loopmq/store"
)

// Deliver implements [store.Node]. It waits until all loops concerned have taken
// the news, so that no more is read from the store than they can take.
func (n node) Deliver(news []store.News) {
	b := n.b
	byLoop := make([][]arrival, len(b.loops))
	for i := range news {
		m := &news[i]
		for j := range m.Queued {
			h := &m.Queued[j]
			s := b.registry.session(h.Session.ClientID)
			if s == nil || s.id != h.Session {
				continue
			}
			c := s.client.Load()
			if c == nil { // whoever connects it next reads its queue
				continue
			}
			byLoop[c.loop.index] = append(byLoop[c.loop.index], arrival{message: m.Message, client: c, hint: h})
		}
		if m.Message == nil {
			continue
		}
		var p publication
		p.set(m.Message)
		l := b.loopFor(&p)
		if m.Message.Retain && len(m.Message.Payload) > 0 {
			// Before all else: a replay that is under way must not bring an older one behind it.
			b.changeRetained(string(p.topic), func(old retainedMessage, exists bool) (retainedMessage, bool) {
				return retainedMessage{Message: m.Message, serial: b.retainedSerial.Add(1)}, exists
			})
		}
		if m.Routed {
			byLoop[l.index] = append(byLoop[l.index], arrival{message: m.Message})
		}
		for j := range m.Groups {
			byLoop[l.index] = append(byLoop[l.index], arrival{message: m.Message, group: &m.Groups[j]})
		}
	}
	var wg sync.WaitGroup
	for i, arrivals := range byLoop {
		if len(arrivals) == 0 {
			continue
		}
		l := b.loops[i]
		wg.Add(1)
		l.el.Post(func() {
			for j := range arrivals {
				l.arrived(&arrivals[j])
			}
			l.whenRoom(wg.Done)
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-b.stopped: // the loops may have ended without it
	}
}

// arrival is a message from another instance, for one of its purposes: a client that
// has it in its queue, a group, or else all whom it matches.
type arrival struct {
	message *store.Message
	client  *Client // of the hint
	hint    *store.Hint
	group   *store.GroupID
}

// arrived handles what another instance sent.
func (l *loop) arrived(a *arrival) {
	var p publication
	if a.message != nil {
		p.set(a.message)
		l.serial++
		p.serial = l.serial
	}
	switch {
	case a.hint != nil && a.message == nil:
		l.rereads(a.client.session)
	case a.hint != nil:
		d := delivery{
			session: a.client.session, client: a.client, qos: a.hint.QoS, retain: a.hint.Retain,
			ids: &a.hint.SubscriptionIdentifiers, number: a.hint.Number,
		}
		if a.client.loop == l && a.client.session != nil && a.client.session.id == a.hint.Session {
			l.m.MessagesMatched[d.qos].Inc()
			a.client.deliver(&p, &d)
		}
	case a.group != nil:
		l.arrivedForGroup(&p, a.group)
	default:
		l.routeHere(&p)
	}
}

// routeHere passes a message of another instance on to the sessions here that don't
// get it by way of a queue.
func (l *loop) routeHere(p *publication) {
	m := &l.matches
	l.b.subscriptions.Match(p.topic, m)
	l.deliveries = l.deliveries[:0]
	clear(l.merged)
	for i := range m.Subscribers {
		s, o := m.Subscribers[i].Subscriber, &m.Subscribers[i].Options
		c := s.client.Load()
		if c == nil {
			continue
		}
		d := delivery{
			session: s, client: c, qos: l.b.deliveryQoS(p.qos, o.QoS), retain: p.retain && o.RetainAsPublished, id: o.SubscriptionIdentifier,
		}
		l.merge(&d)
	}
	for i := range l.deliveries {
		if d := &l.deliveries[i]; d.qos == 0 || !d.session.durable {
			l.m.MessagesMatched[d.qos].Inc()
			l.dispatch(p, d)
		}
	}
	l.scratchUsed()
}

// arrivedForGroup gives a message to a member of a group that is connected here, or,
// if none is any more, to another.
func (l *loop) arrivedForGroup(p *publication, id *store.GroupID) {
	e := &store.Entry{Message: p.keep(), QoS: p.qos, Retain: p.retain, ShareName: id.ShareName, TopicFilter: id.TopicFilter}
	l.b.subscriptions.Match(p.topic, &l.matches)
	for _, g := range l.matches.Groups {
		if g.ShareName() != id.ShareName || g.TopicFilter() != id.TopicFilter {
			continue
		}
		if d, ok := l.selectAmong(g, p, l.unlessDenied(connectedHere, p.topic)); ok {
			if p.qos > 0 && d.stored() {
				break // a durable member: by way of its queue
			}
			l.m.MessagesMatched[d.qos].Inc()
			l.dispatch(p, &d)
			return
		}
	}
	if p.qos > 0 {
		l.passToGroup(e)
	}
}
