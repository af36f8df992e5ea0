package loopmq

import (
	"context"
	"errors"
	"hash/maphash"
	"time"

	"loopmq/codec"
	"loopmq/eventloop"
	"loopmq/metrics"
	"loopmq/session"
	"loopmq/store"
)

// flow is what a client has under way at QoS 1 and 2, in both directions. It
// comes with the first such message.
type flow struct {
	out  session.Outbound
	in   session.Inbound
	owed owedAcks

	repeated repeat // the last one

	// queue holds what waits for a session that is not durable.
	queue session.Queue

	replays     *replays // retained messages that are not sent yet; nil: none
	replayWaits bool     // the client is in loop.replaying
	storing     int      // how many of them are on their way to the session's queue

	// The rest is for durable sessions, whose queue is in the store. Entries are
	// sent in the order of their numbers, up to cursor so far. A message that was
	// just stored goes out from memory if its number is the next one; else, and
	// whenever the window was full, the session is behind, and goes on by reading
	// the store.
	cursor   store.Number
	behind   bool
	reading  bool
	heard    store.Number   // the largest number there was news of
	missed   bool           // while reading there was news without a number: the read may have come before it
	lastSent store.Number   // the last one that an earlier connection of this process sent
	possibly int            // how many of the next entries may have been sent by an earlier process
	released []store.Number // whose PUBREL must be sent again
	ahead    []*store.Entry // read and not sent yet
}

// readEntries and readBytes bound one read of a queue, and so what a session
// that is behind holds in memory.
const (
	readEntries = 200
	readBytes   = 1 << 20
)

// retryInterval is when a read of the store that failed is tried again.
const retryInterval = 100 * time.Millisecond

// repeat is a PUBLISH at QoS 2 without DUP whose Packet Identifier was in use.
type repeat struct {
	hash     uint64 // of topic and payload
	packetID uint16 // 0: none
}

// repeats notes such a PUBLISH, and reports whether the last one was the same: it
// is then sent again without need [MQTT-4.4.0-1] and not as it should be
// [MQTT-3.3.1-1]. The first is forgiven for what MQTT-4.3.3-10 says.
func (f *flow) repeats(p *publication, packetID uint16) bool {
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.Write(p.topic)
	_ = h.WriteByte(0)
	_, _ = h.Write(p.payload)
	last := f.repeated
	f.repeated = repeat{h.Sum64(), packetID}
	return last == f.repeated
}

func (c *Client) flows() *flow {
	if c.flow == nil {
		c.flow = &flow{out: session.NewOutbound(int(c.receiveMaximum), c.settings.InflightBytes)}
	}
	return c.flow
}

// deliver sends p to the client or queues it. It runs on the client's loop.
func (c *Client) deliver(p *publication, d *delivery) {
	switch {
	case (d.qos > 0 || !d.number.IsZero()) && d.session.durable:
		c.deliverStored(p, d)
	case c.state != stateConnected || c.session != d.session:
		c.loop.dropGone(p, d)
	case c.taps():
		v := p.view()
		v.Retain = d.retain
		c.local.handler.OnMessage(v, DeliveryID{}, false)
		c.loop.m.MessagesDelivered[d.qos].Inc()
	case d.qos == 0:
		c.deliverQoS0(p, d)
	default:
		c.deliverLive(p, d)
	}
}

func (c *Client) deliverQoS0(p *publication, d *delivery) {
	if c.access != nil && len(c.access.held) > 0 {
		c.hold(p, d)
		return
	}
	c.sendQoS0(p, d, nil)
}

// sendQoS0 sends a QoS 0 message, which was kept as e if that isn't nil.
func (c *Client) sendQoS0(p *publication, d *delivery, e *store.Entry) {
	switch reason, ok := c.send(p, d, 0, false); {
	case ok:
		c.loop.m.MessagesDelivered[0].Inc()
	case reason == metrics.DropOutputFull && c.mayGet(p, d) == undecided:
		c.hold(p, d)
	default:
		c.loop.drop(p, d, reason)
		if reason != metrics.DropNotAuthorized {
			return
		}
		if d.group != nil {
			e = entryOf(p, d)
		}
		if e != nil && e.ShareName != "" {
			c.passOn(e)
		}
	}
}

// deliverLive sends a QoS 1 or 2 message of a session that ends with its
// connection, or queues it in memory.
func (c *Client) deliverLive(p *publication, d *delivery) {
	f := c.flows()
	if f.queue.Len() == 0 && f.out.CanSend() {
		var e *store.Entry
		if d.group != nil || c.loop.wantsOf(EventMessageAcked, p.topic) {
			e = entryOf(p, d)
		}
		packetID := f.out.Send(d.qos, e)
		f.out.Weigh(len(p.payload))
		reason, ok := c.send(p, d, packetID, false)
		if ok {
			c.loop.m.MessagesDelivered[d.qos].Inc()
			c.loop.m.Inflight.Inc()
			return
		}
		if reason != metrics.DropOutputFull {
			f.out.Finish(packetID) // it has had its Packet Identifier
			c.loop.drop(p, d, reason)
			if reason == metrics.DropNotAuthorized && d.group != nil {
				c.passOn(e)
			}
			return
		}
		f.out.Unsend()
	}
	limits := c.settings.limits.queueLimits(0)
	limits.Protected = 0
	fits := f.queue.Push(entryOf(p, d), limits, func(e *store.Entry) {
		var old publication
		old.set(e.Message)
		o := deliveryOf(c, e)
		c.loop.dropQueued(&old, &o, metrics.DropQueueFull)
	})
	if !fits {
		c.loop.drop(p, d, metrics.DropQueueFull)
		return
	}
	c.loop.m.MessagesQueued[d.qos].Inc()
	if !f.out.CanSend() {
		c.windowIsFull()
	}
}

// entryOf makes a delivery an entry of a queue.
func entryOf(p *publication, d *delivery) *store.Entry {
	e := &store.Entry{Number: d.number, Message: p.keep(), QoS: d.qos, Retain: d.retain}
	var one [1]uint32
	e.SubscriptionIdentifiers = append(e.SubscriptionIdentifiers, d.identifiers(&one)...)
	if d.group != nil {
		e.ShareName, e.TopicFilter = d.group.ShareName(), d.group.TopicFilter()
	}
	return e
}

// deliverStored handles the news that a message is in the session's queue.
func (c *Client) deliverStored(p *publication, d *delivery) {
	m := c.loop.m
	if c.state != stateConnected || c.session != d.session {
		m.MessagesQueued[d.qos].Inc() // whoever has the session next reads it
		return
	}
	f := c.flows()
	n := d.number
	next := n.Generation == f.cursor.Generation && n.Seq == f.cursor.Seq+1 || f.cursor.IsZero() && n.Seq == 1
	switch {
	case !f.cursor.Less(n):
		// It was read from the store before the news came.
		m.MessagesQueued[d.qos].Inc()
		return
	case next && !f.behind && d.qos > 0 && d.qos <= c.settings.maximumQoS && f.out.CanSendNumber(n):
		var e *store.Entry
		if c.loop.wantsOf(EventMessageAcked, p.topic) {
			e = entryOf(p, d)
		}
		packetID := f.out.SendNumber(n, d.qos, e)
		f.out.Weigh(len(p.payload))
		reason, ok := c.send(p, d, packetID, false)
		if ok {
			f.cursor = n
			m.MessagesDelivered[d.qos].Inc()
			m.Inflight.Inc()
			return
		}
		f.out.Unsend()
		if reason != metrics.DropOutputFull {
			f.cursor = n
			if reason == metrics.DropNotAuthorized && d.group != nil && c.returnToGroup(entryOf(p, d), false) {
				m.MessagesQueued[d.qos].Inc()
				return
			}
			c.loop.commits.finish(c.session, n, f.out.Unfinished())
			c.loop.drop(p, d, reason)
			return
		}
	}
	m.MessagesQueued[d.qos].Inc()
	if f.heard.Less(n) {
		f.heard = n
	}
	f.behind = true
	c.advance()
}

// advance sends what waits, as far as the window and the output allow. It is
// called whenever one of them may have opened: an acknowledgement came, or the
// output was drained.
func (c *Client) advance() {
	if c.state != stateConnected || c.flow == nil {
		return
	}
	if c.session.durable {
		c.advanceStored()
	} else {
		c.advanceLive()
	}
	if c.flow.replays != nil {
		c.replayOn()
	}
}

// advanceStored is advance for the queue in the store.
func (c *Client) advanceStored() {
	f := c.flow
	if !f.behind && !c.sendReleased(store.Number{}) {
		c.windowIsFull()
		return
	}
	for f.behind && !f.reading {
		if len(f.ahead) == 0 {
			if f.out.Len() < int(c.receiveMaximum) {
				c.readQueue()
			} else {
				c.windowIsFull()
			}
			return
		}
		e := f.ahead[0]
		if !c.sendEntry(e) {
			return
		}
		f.ahead[0] = nil
		f.ahead = f.ahead[1:]
	}
}

// advanceLive is advance for the queue in memory.
func (c *Client) advanceLive() {
	f := c.flow
	var p publication
	if !f.out.CanSend() && f.queue.Len() > 0 {
		c.windowIsFull()
	}
	for f.out.CanSend() {
		e := f.queue.Peek()
		if e == nil {
			return
		}
		p.set(e.Message)
		packetID := f.out.Send(e.QoS, c.keeps(e))
		f.out.Weigh(len(p.payload))
		d := deliveryOf(c, e)
		reason, ok := c.send(&p, &d, packetID, false)
		if !ok {
			if reason == metrics.DropOutputFull {
				f.out.Unsend()
				return
			}
			f.out.Finish(packetID)
			c.loop.dropQueued(&p, &d, reason)
			if reason == metrics.DropNotAuthorized && e.ShareName != "" {
				c.passOn(e)
			}
		} else {
			c.loop.m.QueueDelivered[e.QoS].Inc()
			c.loop.m.Inflight.Inc()
		}
		f.queue.Pop()
	}
}

// keeps returns what the window must keep of e: all of a message of a shared
// subscription, since another member may have to get it, and of those whose
// acknowledgement is to be told of.
func (c *Client) keeps(e *store.Entry) *store.Entry {
	if e.ShareName != "" && !c.session.durable || c.loop.wantsOf(EventMessageAcked, e.Message.TopicName) {
		return e
	}
	return nil
}

func deliveryOf(c *Client, e *store.Entry) delivery {
	return delivery{
		session: c.session, client: c, qos: e.QoS, retain: e.Retain,
		ids: &e.SubscriptionIdentifiers, number: e.Number,
	}
}

// sendEntry sends an entry of the session's queue, and before it the PUBRELs
// whose numbers come first. It reports false if it has to wait.
func (c *Client) sendEntry(e *store.Entry) bool {
	f := c.flow
	if !c.sendReleased(e.Number) {
		c.windowIsFull()
		return false
	}
	if !f.cursor.Less(e.Number) {
		return true
	}
	var p publication
	p.set(e.Message)
	d := deliveryOf(c, e)
	sent := !f.lastSent.Less(e.Number)
	acked := c.local != nil && c.local.hasAcknowledged(e.Number)
	again := (sent || f.possibly > 0) && e.QoS > 0 && !acked
	switch {
	case acked: // by another connection of the client, which was given it
		d.qos = 0
	case !again: // else the handshake has begun
		d.qos = min(e.QoS, c.settings.maximumQoS)
	}
	var packetID uint16
	if d.qos > 0 {
		if !f.out.CanSendNumber(e.Number) {
			c.windowIsFull()
			return false
		}
		packetID = f.out.SendNumber(e.Number, d.qos, c.keeps(e))
		f.out.Weigh(len(p.payload))
	}
	reason, ok := metrics.DropReason(0), true
	if again || !sent && !acked { // QoS 0 goes out once
		reason, ok = c.send(&p, &d, packetID, again)
	}
	returned := false
	if !ok {
		if d.qos > 0 {
			f.out.Unsend()
		}
		if reason == metrics.DropOutputFull {
			return false
		}
		returned = reason == metrics.DropNotAuthorized && e.ShareName != "" && c.returnToGroup(e, again)
		if !returned {
			c.loop.commits.finish(c.session, e.Number, f.out.Unfinished())
		}
	} else if d.qos == 0 {
		if acked && e.QoS > 0 {
			c.loop.m.MessagesAcked.Inc()
		}
		c.loop.commits.finish(c.session, e.Number, f.out.Unfinished())
	} else {
		c.loop.m.Inflight.Inc()
	}
	d.qos = e.QoS // as it was counted
	f.cursor = e.Number
	if f.possibly > 0 {
		f.possibly--
		if f.possibly == 0 {
			c.session.becomesKnown()
		}
	}
	switch {
	case sent, returned: // counted when it was sent first, or is in its group's queue
	case ok:
		c.loop.m.QueueDelivered[e.QoS].Inc()
	default:
		c.loop.dropQueued(&p, &d, reason)
	}
	return true
}

// sendReleased sends the PUBRELs again whose numbers are below limit (zero: all)
// [MQTT-4.4.0-1].
func (c *Client) sendReleased(limit store.Number) bool {
	f := c.flow
	for len(f.released) > 0 && (limit.IsZero() || f.released[0].Less(limit)) {
		packetID, ok := f.out.Resume(f.released[0])
		if !ok {
			return false
		}
		f.released = f.released[1:]
		c.loop.m.Inflight.Inc()
		c.resendPubrel(packetID)
	}
	return true
}

// readQueue reads on in the store, off the loop.
func (c *Client) readQueue() {
	f, l, b := c.flow, c.loop, c.loop.b
	f.reading, f.missed = true, false
	id, after := store.QueueOf(c.session.id), f.cursor
	limit, heard := min(readEntries, int(c.receiveMaximum)), f.heard
	b.workers.do(func() {
		entries, err := b.store.Messages().Read(context.Background(), id, after, limit, readBytes)
		l.el.Post(func() { c.queueRead(entries, heard, err) })
	})
}

// queueRead goes on with what was read. heard is the news there had been when the
// read began.
func (c *Client) queueRead(entries []store.Entry, heard store.Number, err error) {
	if c.state != stateConnected {
		return
	}
	f := c.flow
	f.reading = false
	if err != nil && !errors.Is(err, store.ErrGone) {
		c.loop.b.storeAnswered(err)
		c.retrySoon()
		return
	}
	for i := range entries {
		f.ahead = append(f.ahead, &entries[i])
	}
	if len(entries) == 0 && !heard.Less(f.heard) && !f.missed {
		// The end of the queue: what is stored from now on comes as news.
		f.behind = false
		f.possibly = 0
		c.session.becomesKnown()
		if f.cursor.Less(heard) {
			f.cursor = heard
		}
	}
	c.advance()
}

// retrySoon tries again to read the session's queue.
func (c *Client) retrySoon() {
	if c.retrying {
		return
	}
	c.retrying = true
	c.loop.retries = append(c.loop.retries, c)
	c.loop.scheduleRetries()
}

func (l *loop) scheduleRetries() {
	if !l.retryTimer.Armed() {
		l.el.Schedule(&l.retryTimer, retryInterval)
	}
}

// OnTimer lets the clients and the groups go on whose read of the store failed,
// and does again what else it failed to do.
func (l *loop) OnTimer(*eventloop.Timer) {
	retries, repeats := l.retries, l.repeats
	l.retries, l.repeats = nil, nil
	for _, c := range retries {
		c.retrying = false
		c.advance()
	}
	l.retryDrains()
	for _, f := range repeats {
		f()
	}
}

// repeat calls f after a while, for what the store failed to do.
func (l *loop) repeat(f func()) {
	l.repeats = append(l.repeats, f)
	l.scheduleRetries()
}

// publishOverhead is about what a PUBLISH has beside topic, payload and what it
// passes on: the bound on output need not be exact.
const publishOverhead = 16

// send writes a PUBLISH. If it can't, the reason says why: with DropOutputFull, which
// is also the reason while the Authorizer thinks about it, it may be tried again, else
// never.
func (c *Client) send(p *publication, d *delivery, packetID uint16, again bool) (metrics.DropReason, bool) {
	l := c.loop
	switch c.mayGet(p, d) {
	case denied:
		return metrics.DropNotAuthorized, false
	case undecided: // who is told that it's full goes on by advance, as with the answer
		return metrics.DropOutputFull, false
	}
	topic, ok := c.settings.unmount(p.topic)
	if !ok {
		return metrics.DropNotAuthorized, false
	}
	h := codec.PublishHeader{Dup: again, QoS: d.qos, Retain: d.retain, PacketID: packetID}
	v := c.info.ProtocolVersion
	if v == codec.V5 {
		var one [1]uint32
		h.SubscriptionIdentifiers = d.identifiers(&one)
		if c.v5 != nil {
			topic = c.v5.alias(&h, topic)
		}
	}
	if !p.expiry.IsZero() && !(again && d.qos == 2) {
		if h.MessageExpiry, h.HasMessageExpiry, ok = l.remaining(p); !ok {
			return metrics.DropExpired, false
		}
	}
	if c.local != nil {
		if !c.local.hand(p, topic, d, packetID, again) {
			return metrics.DropOutputFull, false
		}
		c.sent(p, d, packetID, again)
		return 0, true
	}
	if c.maximumPacketSize > 0 && !c.accepts(codec.PublishSize(v, &h, len(topic), len(p.properties), len(p.payload))) {
		setsAlias := h.TopicAlias != 0 && len(topic) > 0
		h.TopicAlias = 0
		if !setsAlias || !c.accepts(codec.PublishSize(v, &h, len(topic), len(p.properties), len(p.payload))) {
			return metrics.DropTooLarge, false
		}
	}
	if !c.conn.Room(publishOverhead + len(topic) + len(p.properties) + len(p.payload)) {
		return metrics.DropOutputFull, false
	}
	if h.TopicAlias != 0 && len(topic) > 0 {
		c.v5.setAlias(h.TopicAlias, topic)
	}
	b := c.conn.BeginWrite()
	b = codec.AppendPublish(b, v, &h, topic, p.properties, p.payload)
	c.conn.EndWrite(b)
	l.m.PacketsSent[codec.TypePublish].Inc()
	c.sent(p, d, packetID, again)
	return 0, true
}

// sent tells of a message that the client has been sent.
func (c *Client) sent(p *publication, d *delivery, packetID uint16, again bool) {
	l := c.loop
	if l.b.logPackets.Load() {
		l.b.log.Debug("deliver", "client_id", c.info.ClientID, "topic", string(p.topic), "qos", d.qos, "packet_id", packetID, "dup", again)
	}
	if p.received != 0 && l.m.PublishToDeliver.Sample() {
		l.observe(p.received)
	}
	if l.wantsOf(EventMessageDelivered, p.topic) {
		c.recordDelivered(p, d, packetID, again)
	}
}

// dropQueued counts an entry that was queued and is not delivered.
func (l *loop) dropQueued(p *publication, d *delivery, reason metrics.DropReason) {
	l.m.QueueDropped[d.qos][reason].Inc()
	l.recordDropped(p, d, reason)
}
