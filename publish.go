package loopmq

import (
	"bytes"
	"time"
	"unicode/utf8"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/session"
	"loopmq/store"
	"loopmq/trie"
)

// publication is a message on its way through the broker. Its bytes are views,
// of a read buffer or an outbox, and valid until the call that has it returns;
// keep makes a copy that lasts.
type publication struct {
	topic, payload, properties []byte
	qos                        byte
	retain                     bool
	expiry                     time.Time // zero: never
	from                       *Session  // for No Local; nil: not from a client
	publisherID                string
	received                   int64          // nanoseconds of a loop's clock; 0: not measured
	kept                       *store.Message // the copy, once it was made
	serial                     uint64         // tells publications of a loop apart
	publisher                  *Client        // of a QoS 2 PUBLISH, for its PUBREC
	packetID                   uint16         // of a QoS 2 PUBLISH
	// afterCommit: nothing goes out, or counts, before the commit. So is a Will, which
	// is tried again if that fails.
	afterCommit bool
	sys         bool // the broker's own, about this process
}

// smallMessage is the size up to which a kept message is one object with its bytes.
const smallMessage = 128

type smallKept struct {
	store.Message
	bytes [smallMessage]byte
}

// keep returns the message as a copy that lasts. It is made once.
func (p *publication) keep() *store.Message {
	if p.kept != nil {
		return p.kept
	}
	var b []byte
	if size := p.size(); size <= smallMessage {
		k := new(smallKept)
		p.kept, b = &k.Message, k.bytes[:0]
	} else {
		p.kept, b = new(store.Message), make([]byte, 0, size)
	}
	b = append(append(append(b, p.topic...), p.properties...), p.payload...)
	t, q := len(p.topic), len(p.topic)+len(p.properties)
	m := p.kept
	m.TopicName, m.Properties, m.Payload = b[:t:t], b[t:q:q], b[q:]
	m.QoS, m.Retain, m.Expiry, m.PublisherID = p.qos, p.retain, p.expiry, p.publisherID
	return m
}

// set makes p the publication of a kept message.
func (p *publication) set(m *store.Message) {
	*p = publication{
		topic: m.TopicName, payload: m.Payload, properties: m.Properties,
		qos: m.QoS, retain: m.Retain, expiry: m.Expiry, publisherID: m.PublisherID, kept: m,
	}
}

// size is what the message counts against a limit in bytes.
func (p *publication) size() int { return len(p.topic) + len(p.payload) + len(p.properties) }

func (p *publication) view() *MessageView {
	return &MessageView{TopicName: p.topic, Payload: p.payload, QoS: p.qos, Retain: p.retain, properties: p.properties}
}

// delivery is one message for one client: which, and how. A fan-out makes many of
// them, so what only some have hangs off more.
type delivery struct {
	session *Session
	client  *Client // nil: offline
	group   *trie.Group[*Session]
	ids     *[]uint32    // the Subscription Identifiers, if there are several; not changed once it is shared
	number  store.Number // in the queue of a durable session
	id      uint32       // the only Subscription Identifier, 0: none
	qos     byte
	retain  bool
}

// identifiers returns the Subscription Identifiers of d; one holds a single one.
func (d *delivery) identifiers(one *[1]uint32) []uint32 {
	if d.ids != nil {
		return *d.ids
	}
	if d.id == 0 {
		return nil
	}
	one[0] = d.id
	return one[:]
}

// routed is the outcome of route: what must be committed before the message may
// be acknowledged.
type routed struct {
	matched int
	// commit says that op must be committed before the message may be acknowledged,
	// forward that it must be, but nobody waits for it. Its Targets are the loop's
	// scratch.
	commit, forward bool
	op              store.Op
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
			qos:     min(p.qos, o.QoS), // [MQTT-3.8.4-8]
			retain:  p.retain && o.RetainAsPublished,
			id:      o.SubscriptionIdentifier,
		}
		if p.sys && d.client == nil {
			continue
		}
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

// stored reports whether d goes by way of the store: through the queue of a durable
// session, or that of a group without a connected member, or to another instance.
func (d *delivery) stored() bool {
	return d.qos > 0 && (d.session == nil || d.session.durable) || d.instance() != ""
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

// merge adds another subscription of the same session to d: the message goes out
// once, with the maximum QoS and all Subscription Identifiers [MQTT-3.3.4-2, -3, -4].
func (d *delivery) merge(o *delivery) {
	d.qos = max(d.qos, o.qos)
	d.retain = d.retain || o.retain
	if o.id == 0 {
		return
	}
	if d.id == 0 {
		d.id = o.id
		return
	}
	if d.ids == nil {
		d.ids = &[]uint32{d.id}
	}
	*d.ids = append(*d.ids, o.id)
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
	if d.qos == 0 { // its client left the other instance just now
		l.drop(p, d, metrics.DropOffline)
		return false
	}
	r.commit = true
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

// target is the queue that d goes through.
func (d *delivery) target() store.Target {
	t := store.Target{QoS: d.qos, Retain: d.retain}
	var one [1]uint32
	t.SubscriptionIdentifiers = append([]uint32(nil), d.identifiers(&one)...)
	if d.group != nil {
		t.ShareName, t.TopicFilter = d.group.ShareName(), d.group.TopicFilter()
	}
	if d.session == nil {
		t.Queue = store.GroupQueue(t.ShareName, t.TopicFilter)
	} else {
		t.Queue = store.QueueOf(d.session.id)
	}
	return t
}

// sharedFilter is the shared subscription that d is for.
func (d *delivery) sharedFilter() string {
	return sharedFilter(d.group.ShareName(), d.group.TopicFilter())
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
	if f := l.b.opts.Events.OnDropped; f != nil && d.session != nil {
		f(d.session.id.ClientID, p.view(), reason.String())
	}
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

// commitUnderWay is a publication that waits for its commit: what of it is not in
// the operation.
type commitUnderWay struct {
	index       int // of the operation in its batch
	from        *Session
	publisher   *Client
	received    int64
	deliveries  []delivery // part of the commit's
	groups      []store.GroupID
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
	c.publications = append(c.publications, commitUnderWay{
		index: index, from: p.from, publisher: p.publisher, received: p.received,
		deliveries: c.deliveries[deliveries:len(c.deliveries):len(c.deliveries)],
		groups:     r.groups, retained: r.retained,
		afterCommit: p.afterCommit, packetID: p.packetID, done: done,
	})
}

// publicationCommitted handles the outcome of a publication's commit.
func (l *loop) publicationCommitted(u *commitUnderWay, op *store.Op, err error) {
	p := &l.committing
	p.set(op.Message)
	p.from, p.received, p.afterCommit, p.publisher, p.packetID = u.from, u.received, u.afterCommit, u.publisher, u.packetID
	if err == nil && op.Result == store.Stale {
		l.commitAgain(p, op, u.deliveries, u.done)
		return
	}
	first := p.afterCommit || p.publisher != nil
	if first {
		u.done.call(op, err)
	}
	l.serial++
	p.serial = l.serial
	l.committed(p, op, u.deliveries, err)
	if op.Retain {
		l.retainedCommitted(op, u.retained, err)
	}
	switch {
	case first || u.done.isNobody():
	case err == nil && op.Result == store.Done && op.Additions != 0 && l.b.additions() > op.Additions:
		l.commitAdded(p, op, u.groups, u.done)
	default:
		u.done.call(op, err)
	}
}

// committed passes on what has been stored: the owner of each queue that got the
// message learns of it, and QoS 2 for sessions that are not durable goes out.
func (l *loop) committed(p *publication, op *store.Op, deliveries []delivery, err error) {
	// Of a duplicate the first commit went unanswered: whoever is to get the message
	// has not had it.
	stored := err == nil && (op.Result == store.Done || op.Result == store.Duplicate)
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
	default:
		if d.group != nil && l.b.cluster != nil { // it ended at another instance
			l.dropGone(p, d)
		} else {
			l.drop(p, d, metrics.DropSessionGone)
		}
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

// judge judges a PUBLISH of a client beyond its syntax.
func (c *Client) judge(p *publication) *codec.Error {
	switch {
	case reserved(p.topic):
		return errNotAuthorized
	case c.loop.b.opts.CheckPayloadFormat && declaresUTF8(p.properties) && !utf8.Valid(p.payload):
		return errPayloadFormat
	}
	return nil
}

// reserved reports whether clients may not publish to a topic: what the broker
// says about itself, but for the state of bridges, which they say themselves, and
// what nobody can subscribe to.
func reserved(topic []byte) bool {
	if state, ok := bytes.CutPrefix(topic, []byte("$SYS/")); ok {
		return !bytes.HasPrefix(state, []byte("broker/connection/")) || !bytes.HasSuffix(state, []byte("/state"))
	}
	return bytes.HasPrefix(topic, []byte("$share/"))
}

func (b *Broker) tooManyLevels(topic []byte) bool {
	limit := b.opts.Limits.TopicLevels
	if limit < 0 || len(topic) < limit {
		return false
	}
	levels := 1
	for _, ch := range topic {
		if ch == '/' {
			levels++
		}
	}
	return levels > limit
}

// declaresUTF8 reports whether the Payload Format Indicator says UTF-8.
func declaresUTF8(properties []byte) bool {
	var p codec.Properties
	return codec.DecodeForward(properties, &p) == nil && p.PayloadFormatIndicator == 1
}

// publishFrom is the way of a PUBLISH that a client sent: it is judged, passed
// on, and acknowledged when everything that must be stored is.
func (l *loop) publishFrom(c *Client, p *publication, packetID uint16, dup bool) error {
	if l.b.tooManyLevels(p.topic) {
		return errTopicLevels
	}
	if p.qos == 2 && !c.flows().in.Hold(packetID) {
		if !dup && c.flow.repeats(p, packetID) {
			return errRepeatedWithoutDup
		}
		// Its message is on its way, or was passed on. Its PUBREC waits behind that
		// of the first copy, should that still wait for a commit [MQTT-4.3.3-10].
		c.acknowledge(codec.TypePubrec, packetID, codec.Success)
		return nil
	}
	if p.qos > 0 && c.exceedsReceiveMaximum(p.qos) {
		return errReceiveMaximum
	}
	l.m.MessagesReceived[p.qos].Inc()
	if e := c.judge(p); e != nil {
		c.refusePublish(p.qos, packetID, e)
		return nil
	}
	switch c.decide(ActionPublish, p.topic, p.qos, p.retain) {
	case allowed:
		l.publishAllowed(c, p, packetID)
	case denied:
		c.refusePublish(p.qos, packetID, errNotAuthorized)
	default:
		c.authorizePublish(p, packetID)
	}
	return nil
}

// ackType is the packet that acknowledges a PUBLISH.
func ackType(qos byte) codec.PacketType {
	if qos == 2 {
		return codec.TypePubrec
	}
	return codec.TypePuback
}

// publishAllowed passes on what a client may publish.
func (l *loop) publishAllowed(c *Client, p *publication, packetID uint16) {
	if f := l.b.opts.Events.OnPublished; f != nil {
		f(&c.info, p.view())
	}
	hold := p.qos == 2 && c.session.durable
	if p.qos == 2 {
		p.publisher, p.packetID = c, packetID
	}
	r := l.route(p, hold || p.qos == 2 && c.flow.owed.Len() > 0)
	reason := codec.Success
	if r.matched == 0 && p.qos == 1 { // a PUBREC only says that the message is here
		reason = codec.NoMatchingSubscribers
	}
	switch {
	case r.commit:
		if hold {
			r.op.Session, r.op.Epoch, r.op.PacketID = c.session.id, c.epoch, packetID
		}
		if l.b.opts.AcknowledgeEarly {
			l.commit(p, &r, c.disconnectIfFenced)
			c.acknowledge(ackType(p.qos), packetID, reason)
			break
		}
		owed := c.owe(owedAck{t: ackType(p.qos), packetID: packetID, reason: reason})
		l.commitFor(p, &r, waiter{client: c, owed: owed})
	case p.qos == 1:
		c.acknowledge(codec.TypePuback, packetID, reason)
	}
	if !r.commit && (r.op.Retain || r.forward) { // QoS 0: it is stored, but nobody waits for that
		l.commit(p, &r, nil)
	}
	if l.commits.full() {
		l.block(c, waitCommit)
	}
	if l.outboxFull && p.qos > 0 {
		l.block(c, waitMailbox)
	}
}

// authorizePublish asks the Authorizer, and reads nothing more from c meanwhile.
func (c *Client) authorizePublish(p *publication, packetID uint16) {
	l, q := c.loop, *p
	m := q.keep()
	c.wait(waitDecision)
	c.ask([]question{{string(m.TopicName), ActionPublish, m.QoS, m.Retain}}, func(answers []bool) {
		if c.state != stateConnected {
			return
		}
		from, received := q.from, q.received
		q.set(m)
		q.from, q.received = from, received
		if answers[0] {
			l.publishAllowed(c, &q, packetID)
		} else {
			c.refusePublish(q.qos, packetID, errNotAuthorized)
		}
		c.resume(waitDecision)
	})
}

// refusePublish answers a PUBLISH that is not passed on. 3.x has no negative
// acknowledgement: there it is acknowledged and dropped [MQTT-3.3.5-2 of 3.1.1].
func (c *Client) refusePublish(qos byte, packetID uint16, e *codec.Error) {
	c.loop.b.metrics.ProtocolErrors[e.ReasonCode].Inc()
	reason := e.ReasonCode
	if c.info.ProtocolVersion != codec.V5 {
		reason = codec.Success
	}
	if qos == 2 && reason.IsError() {
		c.flow.in.Release(packetID) // the handshake ends with this PUBREC
	}
	if qos > 0 {
		c.acknowledge(ackType(qos), packetID, reason)
	}
}

// remaining returns the Message Expiry Interval to send; ok is false if p has
// expired [MQTT-3.3.2-5].
func (l *loop) remaining(p *publication) (seconds uint32, has, ok bool) {
	if p.expiry.IsZero() {
		return 0, false, true
	}
	seconds, ok = session.RemainingExpiry(l.now(), p.expiry)
	return seconds, true, ok
}
