package loopmq

import (
	"loopmq/metrics"
	"loopmq/store"
)

// commitUnderWay is a publication that waits for its commit: what of it is not in
// the operation.
type commitUnderWay struct {
	index       int // of the operation in its batch
	from        *Session
	publisher   *Client
	received    int64
	deliveries  []delivery // part of the commit's
	groups      []store.GroupID
	events      []store.Event // part of the commit's
	retained    uint64
	afterCommit bool
	packetID    uint16
	done        waiter
}

// waiter is who learns what became of a publication: a client that is owed an
// acknowledgement, or a function, or nobody.
type waiter struct {
	client *Client
	owed   uint64 // the number of the acknowledgement
	done   doneFunc
}

func (w *waiter) isNobody() bool { return w.client == nil && w.done == nil }

// call tells the waiter.
func (w *waiter) call(op *store.Op, err error) {
	switch {
	case w.client != nil:
		w.client.stored(w.owed, op, err)
	case w.done != nil:
		w.done(op, err)
	}
}

// commit adds what route returned to the next batch. done, which may be nil, learns
// on this loop whether it was stored. It reports what became of each target before,
// of a client's QoS 2 message and of a deferred one after.
func (l *loop) commit(p *publication, r *routed, done doneFunc) {
	l.commitFor(p, r, waiter{done: done})
}

// commitFor is commit for any waiter.
func (l *loop) commitFor(p *publication, r *routed, done waiter) {
	l.commits.publications(r.op.Additions).publish(l, p, r, done)
	l.commits.schedule()
}

// commitFirst is commitFor for the rest of what a batch that has just returned
// began: it is committed before all that collects already.
func (l *loop) commitFirst(p *publication, r *routed, done waiter) {
	front := &l.commits.front
	front.additions = max(front.additions, r.op.Additions)
	front.publish(l, p, r, done)
}

// publish adds a publication.
func (c *commit) publish(l *loop, p *publication, r *routed, done waiter) {
	index, targets, deliveries := len(c.batch.Ops), len(c.targets), len(c.deliveries)
	c.targets = append(c.targets, r.op.Targets...)
	c.deliveries = append(c.deliveries, l.routed...)
	op := c.add(&r.op, nil)
	op.Targets = c.targets[targets:len(c.targets):len(c.targets)]
	events := c.enqueue(r.events, l.eventDone, true)
	c.publications = append(c.publications, commitUnderWay{
		index: index, from: p.from, publisher: p.publisher, received: p.received,
		deliveries: c.deliveries[deliveries:len(c.deliveries):len(c.deliveries)],
		groups:     r.groups, events: events, retained: r.retained,
		afterCommit: p.afterCommit, packetID: p.packetID, done: done,
	})
}

// publicationCommitted handles the outcome of a publication's commit.
func (l *loop) publicationCommitted(u *commitUnderWay, op *store.Op, err error) {
	p := &l.committing
	p.set(op.Message)
	p.from, p.received, p.afterCommit, p.publisher, p.packetID = u.from, u.received, u.afterCommit, u.publisher, u.packetID
	if err == nil && op.Result == store.Stale {
		l.commitAgain(p, op, u)
		return
	}
	left := l.membersLeft(op, u.deliveries, err)
	first := (p.afterCommit || p.publisher != nil) && len(left) == 0
	if first {
		u.done.call(op, err)
	}
	l.serial++
	p.serial = l.serial
	l.committed(p, op, u.deliveries, err)
	if op.Retain {
		l.retainedCommitted(op, u.retained, err)
	}
	added := p.qos == 1 && !p.afterCommit && err == nil && op.Result == store.Done && op.Additions != 0 && l.b.additions() > op.Additions
	switch {
	case len(left) > 0 || added && !u.done.isNobody():
		l.commitRest(p, op, added, u.groups, left, u.done)
	case first || u.done.isNobody():
	default:
		u.done.call(op, err)
	}
}

// membersLeft returns those deliveries to members of groups whose sessions have ended
// at other instances.
func (l *loop) membersLeft(op *store.Op, deliveries []delivery, err error) (left []delivery) {
	if l.b.cluster == nil || err != nil || op.Result != store.Done {
		return nil
	}
	for i := range op.Targets {
		if t := &op.Targets[i]; t.Result == store.Gone && t.Instance == "" && deliveries[i].group != nil {
			left = append(left, deliveries[i])
		}
	}
	return left
}

// committed passes on what has been stored: the owner of each queue that got the
// message learns of it, and QoS 2 for sessions that are not durable goes out.
func (l *loop) committed(p *publication, op *store.Op, deliveries []delivery, err error) {
	// Of a duplicate the first commit went unanswered: whoever is to get the message
	// has not had it. But of one that happens once, it was another one's.
	stored := err == nil && (op.Result == store.Done || op.Result == store.Duplicate && op.Once == nil)
	for i := range deliveries {
		d := &deliveries[i]
		if stored && p.afterCommit {
			l.m.MessagesMatched[d.qos].Inc()
		}
		switch {
		case i < len(op.Targets) && op.Targets[i].Instance != "":
			l.forwarded(p, d, &op.Targets[i], stored)
		case !stored && p.afterCommit: // it is tried again, or somebody else did it
			if d.session == nil {
				l.b.groups.release(d.sharedFilter(), p.size())
			}
		case !stored:
			reason := metrics.DropStoreUnavailable
			if err == nil && op.Result == store.Full {
				reason = metrics.DropStoreFull
			}
			if d.session == nil {
				l.b.groups.release(d.sharedFilter(), p.size())
			}
			l.drop(p, d, reason)
		case i >= len(op.Targets):
			if d.session != nil { // else QoS 0 for a group with no connected member
				d.client = d.session.client.Load()
			}
			l.dispatch(p, d)
		default:
			l.queued(p, d, &op.Targets[i])
		}
	}
}

// queued handles one queue that a message was to go into.
func (l *loop) queued(p *publication, d *delivery, t *store.Target) {
	for qos, n := range t.Dropped { // the oldest
		l.m.QueueDropped[qos][metrics.DropQueueFull].Add(uint64(n))
	}
	if d.session == nil && t.Result != store.Done && t.Result != store.Duplicate {
		l.b.groups.release(d.sharedFilter(), p.size())
	}
	switch t.Result {
	case store.Done, store.Duplicate:
	case store.Refused:
		l.drop(p, d, metrics.DropQueueFull)
		return
	case store.Full:
		l.drop(p, d, metrics.DropStoreFull)
		return
	default: // of a group it goes to another member, see commitRest
		l.drop(p, d, metrics.DropSessionGone)
		return
	}
	if d.session == nil { // a group with no connected member: it waits there
		l.m.MessagesQueued[d.qos].Inc()
		l.groupHas(&store.Entry{Message: p.keep(), ShareName: t.ShareName, TopicFilter: t.TopicFilter})
		return
	}
	if l.b.cluster != nil && t.Owner != "" && t.Owner != l.b.owner() { // who has been told
		l.m.MessagesForwarded[d.qos].Inc()
		return
	}
	if t.Left != 0 {
		l.m.MessagesQueued[d.qos].Inc()
		d.number = t.Number
		l.handBack(d.session, entryOf(p, d), t.Left)
		return
	}
	if t.Number.IsZero() { // the store has it, but doesn't say where
		l.m.MessagesQueued[d.qos].Inc()
		l.rereads(d.session)
		return
	}
	d.number = t.Number
	l.announce(p, d)
}

// announce brings the news of an entry in a session's queue to its client.
func (l *loop) announce(p *publication, d *delivery) {
	d.client = d.session.client.Load()
	if d.client == nil { // redistribute, or whoever has the session next, reads it
		l.m.MessagesQueued[d.qos].Inc()
		return
	}
	l.dispatch(p, d)
}
