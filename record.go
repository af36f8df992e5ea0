package loopmq

import (
	"hash/maphash"
	"slices"
	"time"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// recording is what a loop needs to tell of events.
type recording struct {
	event     Event
	view      MessageView
	client    ClientInfo    // of events about somebody who has no connection here
	out       []store.Event // of the event that was just told
	published []store.Event // of the message that is just being routed

	interests [NumEventKinds]interest
	matches   trie.Matches[struct{}]

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

// interest is in events of a kind that have a message, as the Recorder last said.
type interest struct {
	asked  int64 // when, by the loop's clock
	wanted bool
	set    *TopicSet   // nil: whatever the topic is
	topics *topicCache // of set; nil until it is asked
}

// topicCache remembers of some topics whether a TopicSet has them: most publishers have
// few, and to look for one among filters with wildcards costs more than a tenth of all
// that is done for a message.
type topicCache struct {
	last  *topicSlot // that was asked for
	slots [512]topicSlot
}

type topicSlot struct {
	length  uint8 // 0: empty
	matches bool
	topic   [62]byte // so that a slot is a cache line; longer topics aren't remembered
}

func (t *topicSlot) is(topicName []byte) bool {
	return int(t.length) == len(topicName) && string(t.topic[:t.length]) == string(topicName)
}

// wantsOf is Broker.wants for an event about a message. The Recorder is asked once for
// each time that the loop reads.
func (l *loop) wantsOf(k EventKind, topicName []byte) bool {
	r := l.b.opts.Recorder
	if r == nil {
		return false
	}
	i := &l.recording.interests[k]
	if now := l.el.Nanotime(); i.asked != now {
		i.asked, i.wanted = now, r.Wants(k)
		var set *TopicSet
		if i.wanted && r.Topics != nil {
			set = r.Topics(k)
		}
		if i.set != set {
			i.set, i.topics = set, nil
		}
	}
	if !i.wanted || i.set == nil {
		return i.wanted
	}
	if i.topics == nil {
		i.topics = new(topicCache)
		i.topics.last = &i.topics.slots[0]
	}
	if last := i.topics.last; last.is(topicName) {
		return last.matches
	}
	return l.recording.has(i, topicName)
}

// has reports whether the set that is of interest has a topic.
func (r *recording) has(i *interest, topicName []byte) bool {
	c := i.topics
	slot := &c.slots[maphash.Bytes(seed, topicName)%uint64(len(c.slots))]
	if slot.is(topicName) {
		c.last = slot
		return slot.matches
	}
	i.set.filters.Match(topicName, &r.matches)
	matches := len(r.matches.Subscribers) > 0
	if n := len(topicName); n <= len(slot.topic) {
		slot.length, slot.matches = uint8(n), matches
		copy(slot.topic[:], topicName)
		c.last = slot
	}
	return matches
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
	if !l.wantsOf(k, p.topic) {
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
	if !l.b.wants(EventMessageAcked) || m != nil && !l.wantsOf(EventMessageAcked, m.Message.TopicName) {
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
	if !l.wantsOf(EventMessageDropped, p.topic) {
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
