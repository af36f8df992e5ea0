package loopmq

import (
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// routed is the outcome of route: what must be committed before the message may
// be acknowledged.
type routed struct {
	matched int
	// commit says that op must be committed before the message may be acknowledged,
	// forward that it must be, but nobody waits for it. Its Targets are the loop's
	// scratch.
	commit, forward bool
	op              store.Op
	// events go into outboxes in the step of op. They are the loop's scratch.
	events []store.Event
	// waits: the acknowledgement waits for that, also with Options.AcknowledgeEarly.
	waits bool
	// groups are the shared subscriptions that matched. Only with a cluster.
	groups []store.GroupID
	// retained is the serial of the change of the retained message, if op.Retain.
	retained uint64
}

// route passes p on to whatever matches: it delivers at once what needs no
// commit, and returns what does.
//
// At once go QoS 0, and QoS 1 to sessions that end with their connection. A QoS 2
// message goes to such sessions after the commit if there is one (durable targets,
// a retained message, or force), and after its PUBREC in any case: so its order is
// that of the PUBRECs, and a client that subscribes to what it publishes gets the
// PUBREC first.
func (l *loop) route(p *publication, force bool) (r routed) {
	l.serial++
	p.serial = l.serial
	r.waits = l.recordPublished(p)
	force = force || r.waits && (p.qos > 0 || p.awaited)
	if l.b.cluster != nil && p.qos > 0 && !p.sys && !l.b.cluster.member().Alone() && !l.b.withoutStore() {
		// What other instances subscribed to shows in the commit.
		force = true
		p.afterCommit = p.afterCommit || p.qos == 2
		r.op.Additions = l.b.additions()
	}
	if p.retain { // first: who subscribes now gets it as retained or as a match, if not as both
		r.retained, r.op.Retain = l.retain(p)
	}
	m := &l.matches
	l.b.subscriptions.Match(p.topic, m)
	l.deliveries, l.targets, l.routed = l.deliveries[:0], l.targets[:0], l.routed[:0]
	r.op.Kind = store.OpPublish
	r.commit = force || r.op.Retain && p.qos > 0
	// A session that two filters match gets the message once, so all must be seen
	// before the first goes out; so they must if some may have to wait.
	wait := p.qos == 2 || p.afterCommit || m.Filters > 1 && len(m.Subscribers) > 1
	if wait {
		clear(l.merged)
	}
	var d delivery
	for i := range m.Subscribers {
		s, o := m.Subscribers[i].Subscriber, &m.Subscribers[i].Options
		if o.NoLocal && s == p.from { // [MQTT-3.8.3-3]
			r.matched++ // it is a subscriber nevertheless
			continue
		}
		d = delivery{
			session: s,
			client:  s.client.Load(),
			qos:     l.b.deliveryQoS(p.qos, o.QoS),
			retain:  p.retain && o.RetainAsPublished,
			id:      o.SubscriptionIdentifier,
		}
		if p.sys && d.client == nil {
			continue
		}
		d.kept = d.qos == 0 && d.client == nil && s.keepsQoS0()
		switch {
		case !wait:
			l.routeOne(p, &d, &r)
		case m.Filters > 1:
			l.merge(&d)
		default:
			l.deliveries = append(l.deliveries, d)
		}
	}
	for _, g := range m.Groups {
		var ok bool
		if d, ok = l.selectMember(g, p); !ok {
			continue
		}
		if wait {
			l.deliveries = append(l.deliveries, d)
		} else {
			l.routeOne(p, &d, &r)
		}
	}
	if wait {
		l.routeAll(p, &r)
	}
	if r.op.Additions != 0 && p.qos == 1 {
		for _, g := range m.Groups {
			r.groups = append(r.groups, groupID(g))
		}
	}
	if r.commit || r.forward || r.op.Retain {
		r.op.Message = p.keep()
		r.op.Targets = l.targets
	}
	if r.commit {
		r.events = l.recording.published
	} else {
		l.commits.enqueue(l.recording.published)
	}
	l.scratchUsed()
	return r
}

// routeOne makes d a target of the commit, or dispatches it.
func (l *loop) routeOne(p *publication, d *delivery, r *routed) {
	r.matched++
	l.m.MessagesMatched[d.qos].Inc()
	if d.stored() {
		l.addTarget(p, d, r)
		return
	}
	l.dispatch(p, d)
}

// routeAll is routeOne for l.deliveries: first those that must be stored, then
// the others, which wait for the commit, if there is one, of a QoS 2 message or a
// deferred one. The matches of the latter count when it is stored.
func (l *loop) routeAll(p *publication, r *routed) {
	r.matched += len(l.deliveries)
	for i := range l.deliveries {
		d := &l.deliveries[i]
		target := d.stored() && l.addTarget(p, d, r)
		if !p.afterCommit || d.stored() && !target { // the latter was dropped
			l.m.MessagesMatched[d.qos].Inc()
		}
	}
	if p.publisher != nil && !r.commit {
		p.publisher.acknowledge(codec.TypePubrec, p.packetID, codec.Success)
	}
	for i := range l.deliveries {
		switch d := &l.deliveries[i]; {
		case d.stored():
		case (p.qos == 2 || p.afterCommit) && r.commit:
			l.routed = append(l.routed, *d) // behind the targets: it has none
		default:
			l.dispatch(p, d)
		}
	}
}

// merge adds d to l.deliveries, or to the one of the same session.
func (l *loop) merge(d *delivery) {
	if j, again := l.merged[d.session]; again {
		l.deliveries[j].merge(d)
		return
	}
	l.merged[d.session] = len(l.deliveries)
	l.deliveries = append(l.deliveries, *d)
}

// addTarget makes d a target of the commit, and reports false if it was dropped
// because the group's queue, where it was to wait, is full.
func (l *loop) addTarget(p *publication, d *delivery, r *routed) bool {
	if inst := d.instance(); inst != "" {
		if l.b.withoutStore() {
			l.drop(p, d, metrics.DropStoreUnavailable)
			return false
		}
		l.addForward(p, d, inst)
		r.forward = true
		r.commit = r.commit || p.qos > 0
		return true
	}
	if d.qos == 0 && !d.kept { // its client left the other instance just now
		l.drop(p, d, metrics.DropOffline)
		return false
	}
	if p.qos > 0 {
		r.commit = true
	} else {
		r.forward = true
	}
	if d.session == nil && !l.b.groups.reserve(d.sharedFilter(), p.size(), &l.b.opts.Limits) {
		l.drop(p, d, metrics.DropQueueFull)
		if l.b.cluster != nil {
			l.b.regauge(d.sharedFilter())
		}
		return false
	}
	l.targets = append(l.targets, d.target())
	l.routed = append(l.routed, *d)
	return true
}

// addForward makes another instance a target of the commit, once however many of
// its sessions match, and once for each group.
func (l *loop) addForward(p *publication, d *delivery, instance string) {
	t := store.Target{Instance: instance, QoS: d.qos, Retain: d.retain}
	if d.group != nil {
		t.ShareName, t.TopicFilter = d.group.ShareName(), d.group.TopicFilter()
	} else {
		for i := range l.targets {
			if l.targets[i].Instance == instance && l.targets[i].ShareName == "" {
				if !p.afterCommit {
					l.m.MessagesForwarded[d.qos].Inc()
				}
				return
			}
		}
	}
	l.targets = append(l.targets, t)
	l.routed = append(l.routed, *d)
}

// dispatch brings p to the client of d, on this loop or on its own.
func (l *loop) dispatch(p *publication, d *delivery) {
	c := d.client
	switch {
	case c == nil && d.qos == 0:
		l.drop(p, d, metrics.DropOffline)
	case c == nil:
		l.dropGone(p, d)
	case c.loop == l:
		c.deliver(p, d)
	default:
		l.outbox(c.loop).add(p, d)
	}
}

// drop counts a delivery that does not take place.
func (l *loop) drop(p *publication, d *delivery, reason metrics.DropReason) {
	l.m.MessagesDropped[d.qos][reason].Inc()
	l.recordDropped(p, d, reason)
}

// dropGone drops a delivery to a client that has left. One of a shared
// subscription goes to another member.
func (l *loop) dropGone(p *publication, d *delivery) {
	l.drop(p, d, metrics.DropSessionGone)
	if d.group != nil && d.qos > 0 {
		e := entryOf(p, d)
		l.el.Post(func() { l.passToGroup(e) })
	}
}
