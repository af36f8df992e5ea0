package loopmq

import (
	"slices"
	"time"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// recording is what a loop needs to tell of events.
type recording struct {
	event     Event
	view      MessageView
	client    ClientInfo    // of events about somebody who has no connection here
	out       []store.Event // of the event that was just told
	published []store.Event // of the message that is just being routed

	clock      time.Time // what the store's clock was
	clockNanos int64     // when, by the loop's clock
}

// clockKept is how long the loop's clock stands for the store's: reading that costs as
// much as all else of an event that nobody has stored.
const clockKept = int64(100 * time.Millisecond)

// wants reports whether somebody wants events of a kind.
func (b *Broker) wants(k EventKind) bool {
	r := b.opts.Recorder
	return r != nil && r.Wants(k)
}

// event begins an event, to be filled in and recorded. There is one of each loop.
func (l *loop) event(k EventKind, c *ClientInfo) *Event {
	r := &l.recording
	if now := l.el.Nanotime(); r.clock.IsZero() || now-r.clockNanos > clockKept {
		r.clock, r.clockNanos = l.now(), now
	}
	r.event = Event{Kind: k, At: r.clock.Add(time.Duration(l.el.Nanotime() - r.clockNanos)), Node: l.b.node(), Client: c}
	return &r.event
}

// somebody is the Client of an event about a client that this loop has no connection of.
func (l *loop) somebody(clientID, username string) *ClientInfo {
	l.recording.client = ClientInfo{ClientID: clientID, Username: username}
	return &l.recording.client
}

// viewOf is the Message of an event.
func (l *loop) viewOf(p *publication) *MessageView {
	v := &l.recording.view
	*v = p.asView()
	return v
}

// record tells of an event, and has what the Recorder returns stored with the next
// commit.
func (l *loop) record(e *Event) {
	r := &l.recording
	kind := e.Kind
	r.out, _ = l.b.opts.Recorder.Record(e, r.out[:0])
	r.forget()
	l.m.EventsRecorded[kind].Add(uint64(len(r.out)))
	l.commits.enqueue(r.out)
	clear(r.out)
}

// forget drops what the last event pointed to.
func (r *recording) forget() { r.event, r.view, r.client = Event{}, MessageView{}, ClientInfo{} }

// recordPublished tells that p is published. What is to be stored with it is in
// recording.published until the next one; wait: its acknowledgement waits for that.
func (l *loop) recordPublished(p *publication) (wait bool) {
	r := &l.recording
	r.published = r.published[:0]
	if p.recorded || p.sys || l.b.opts.Recorder == nil {
		return false
	}
	if p.will {
		wait = l.recordOf(EventWillPublished, p)
	}
	return l.recordOf(EventMessagePublished, p) || wait
}

func (l *loop) recordOf(k EventKind, p *publication) (wait bool) {
	if !l.b.wants(k) {
		return false
	}
	r := &l.recording
	c := p.client
	if c == nil && p.publisherID != "" {
		c = l.somebody(p.publisherID, p.publisherName)
	}
	e := l.event(k, c)
	e.Message = l.viewOf(p)
	before := len(r.published)
	r.published, wait = l.b.opts.Recorder.Record(e, r.published)
	r.forget()
	n := len(r.published) - before
	l.m.EventsRecorded[k].Add(uint64(n))
	return wait && n > 0
}

// recordClient tells of something that happened to a client or its session, and why.
func (l *loop) recordClient(k EventKind, c *ClientInfo, reason codec.ReasonCode, text string) {
	if l.b.wants(k) {
		e := l.event(k, c)
		e.ReasonCode, e.Reason = reason, text
		l.record(e)
	}
}

// recordRefused tells of credentials that were refused.
func (c *Client) recordRefused(r *ConnectRequest, e *codec.Error) {
	if l := c.loop; l.b.wants(EventClientAuthFailed) {
		info := c.info
		info.ClientID, info.Username = r.ClientID, r.Username
		l.recordClient(EventClientAuthFailed, &info, e.ReasonCode, e.Error())
	}
}

// recordSubscribed tells of the subscriptions that took effect.
func (c *Client) recordSubscribed(s *subscribing) {
	l := c.loop
	if !l.b.wants(EventSessionSubscribed) {
		return
	}
	for i := range s.subscriptions {
		if s.granted[i] {
			e := l.event(EventSessionSubscribed, &c.info)
			e.TopicFilter, e.Options = s.subscriptions[i].TopicFilter, s.subscriptions[i].Options
			l.record(e)
		}
	}
}

// recordUnsubscribed tells of subscriptions that there were.
func (c *Client) recordUnsubscribed(subscriptions []store.Subscription) {
	l := c.loop
	if !l.b.wants(EventSessionUnsubscribed) {
		return
	}
	for i := range subscriptions {
		e := l.event(EventSessionUnsubscribed, &c.info)
		e.TopicFilter = subscriptions[i].TopicFilter
		l.record(e)
	}
}

// recordDelivered tells that p was written to the client's output.
func (c *Client) recordDelivered(p *publication, d *delivery, packetID uint16, again bool) {
	l := c.loop
	e := l.event(EventMessageDelivered, &c.info)
	e.Message, e.QoS, e.PacketID, e.Dup = l.viewOf(p), d.qos, packetID, again
	l.record(e)
}

// recordAcked tells that the client has answered a delivery. m is nil if it wasn't kept.
func (c *Client) recordAcked(m *store.Entry, qos byte, a *codec.Ack) {
	l := c.loop
	if !l.b.wants(EventMessageAcked) {
		return
	}
	e := l.event(EventMessageAcked, &c.info)
	if m != nil {
		var p publication
		p.set(m.Message)
		e.Message = l.viewOf(&p)
	}
	e.QoS, e.PacketID, e.ReasonCode = qos, a.PacketID, a.ReasonCode
	l.record(e)
}

// recordDropped tells that a message for somebody was given up.
func (l *loop) recordDropped(p *publication, d *delivery, reason metrics.DropReason) {
	if !l.b.wants(EventMessageDropped) {
		return
	}
	var c *ClientInfo
	switch {
	case d.client != nil && d.client.taps():
		return
	case d.client != nil && d.client.loop == l && d.client.session == d.session:
		c = &d.client.info
	case d.session != nil:
		c = l.somebody(d.session.id.ClientID, "")
	}
	e := l.event(EventMessageDropped, c)
	e.Message, e.QoS, e.Reason = l.viewOf(p), d.qos, reason.String()
	l.record(e)
}

// recordNode tells that a node is up or down, from any goroutine. That one is down
// several may find at a time: the first commit tells it.
func (b *Broker) recordNode(k EventKind, node, reason string) {
	if !b.wants(k) {
		return
	}
	l := b.loops[0]
	l.el.Post(func() {
		e := l.event(k, nil)
		e.Node, e.Reason = node, reason
		if k == EventNodeUp || b.cluster == nil {
			l.record(e)
			return
		}
		r := &l.recording
		r.published, _ = b.opts.Recorder.Record(e, r.published[:0])
		r.forget()
		if len(r.published) == 0 {
			return
		}
		l.m.EventsRecorded[k].Add(uint64(len(r.published)))
		l.onceDown(node, slices.Clone(r.published))
	})
}

// nodeDownKept is how long it is known that an instance's end was told.
const nodeDownKept = 24 * time.Hour

// onceDown has events stored, unless another node has told already that this one is
// down.
func (l *loop) onceDown(node string, events []store.Event) {
	var p publication
	r := routed{events: events, op: store.Op{
		Kind: store.OpPublish, Message: p.keep(),
		Once: &store.Once{Key: "node.down/" + node, Expires: l.now().Add(nodeDownKept)},
	}}
	l.routed = l.routed[:0]
	l.commit(&p, &r, func(_ *store.Op, err error) {
		if err != nil {
			l.repeat(func() { l.onceDown(node, events) })
		}
	})
}
