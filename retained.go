package loopmq

import (
	"loopmq/metrics"
	"loopmq/store"
)

// retain puts p into the index of retained messages, or clears its topic if the
// payload is empty [MQTT-3.3.1-6], and reports whether the store must know. A
// message that exceeds the limits is passed on but not retained.
func (l *loop) retain(p *publication) bool {
	b, limits := l.b, &l.b.opts.Limits
	topic := string(p.topic)
	if len(p.payload) == 0 {
		return b.unindexRetained(topic)
	}
	old, exists := b.retained.Get(p.topic)
	size := int64(len(p.topic) + len(p.payload) + len(p.properties))
	if exists {
		size -= int64(old.Size())
	}
	if !exists && limits.RetainedMessages >= 0 && b.retained.Len() >= limits.RetainedMessages ||
		limits.RetainedBytes >= 0 && b.retainedBytes.Load()+size > int64(limits.RetainedBytes) {
		b.metrics.RetainedRefused.Inc()
		b.log.Debug("retained_refused", "topic", topic)
		return false
	}
	b.indexRetained(topic, p.keep())
	return true
}

// indexRetained makes m the retained message of a topic.
func (b *Broker) indexRetained(topic string, m *store.Message) {
	old, existed := b.retained.Set(topic, m)
	size := int64(m.Size())
	if existed {
		size -= int64(old.Size())
	}
	b.retainedBytes.Add(size)
}

// unindexRetained clears a topic, and reports whether it had a message.
func (b *Broker) unindexRetained(topic string) bool {
	old, existed := b.retained.Delete(topic)
	if existed {
		b.retainedBytes.Add(-int64(old.Size()))
	}
	return existed
}

// replay is the retained messages that a new subscription gets, as far as they
// are not sent.
type replay struct {
	messages []*store.Message
	sub      store.Subscription
	waits    bool // for a commit
}

// replayRetained starts to send the retained messages that match a new
// subscription, with RETAIN 1 [MQTT-3.3.1-8]. It runs after the SUBACK was written.
func (c *Client) replayRetained(topicFilter string, sub *store.Subscription) {
	var messages []*store.Message
	c.loop.b.retained.Match(topicFilter, func(_ string, m *store.Message) bool {
		messages = append(messages, m)
		return true
	})
	if len(messages) == 0 {
		return
	}
	f := c.flows()
	f.replays = append(f.replays, &replay{messages: messages, sub: *sub})
	c.replayOn()
}

// replayOn sends retained messages as far as the client takes them: they wait for
// its output and its window, and are not dropped for want of room. A topic whose
// retained message has changed since is skipped: the subscription was there when
// the new one came, so an old value never follows a new one.
func (c *Client) replayOn() {
	f, l := c.flow, c.loop
	now := l.now()
	for len(f.replays) > 0 {
		r := f.replays[0]
		for len(r.messages) > 0 {
			m := r.messages[0]
			if current, _ := l.b.retained.Get(m.TopicName); current == m && !m.Expired(now) && !c.replayOne(r, m) {
				return
			}
			r.messages[0] = nil
			r.messages = r.messages[1:]
		}
		f.replays[0] = nil
		f.replays = f.replays[1:]
	}
	f.replays = nil
}

// replayOne sends one retained message, and reports false if it has to wait.
func (c *Client) replayOne(r *replay, m *store.Message) bool {
	f, l := c.flow, c.loop
	var p publication
	p.set(m)
	p.retain = true
	d := delivery{session: c.session, client: c, qos: min(m.QoS, r.sub.Options.QoS), retain: true, id: r.sub.SubscriptionIdentifier}
	switch {
	case c.local != nil:
		c.deliver(&p, &d)
	case d.qos == 0:
		reason, ok := c.send(&p, &d, 0, false)
		switch {
		case ok:
			l.m.MessagesDelivered[0].Inc()
		case reason == metrics.DropOutputFull:
			return false
		default:
			l.drop(&p, &d, reason)
		}
	case c.session.durable: // by way of its queue
		if r.waits {
			return false
		}
		if l.commits.full() {
			r.waits = true
			l.commits.after(func() {
				r.waits = false
				c.advance()
			})
			return false
		}
		l.targets, l.routed = l.targets[:0], l.routed[:0]
		l.addTarget(&p, &d)
		l.commit(&p, &routed{op: store.Op{Kind: store.OpPublish, Message: m, Targets: l.targets}}, nil)
	case f.queue.Len() > 0 || !f.out.CanSend():
		return false // an acknowledgement goes on with it
	default:
		c.deliverLive(&p, &d)
	}
	l.m.MessagesMatched[d.qos].Inc()
	return true
}
