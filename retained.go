package loopmq

import (
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

// replayRetained sends the retained messages that match a new subscription, with
// RETAIN 1 [MQTT-3.3.1-8]. It runs after the SUBACK was written. Those for the
// queue of a durable session go there first.
func (c *Client) replayRetained(topicFilter string, sub *store.Subscription) {
	l := c.loop
	now := l.now()
	var p publication
	l.b.retained.Match(topicFilter, func(_ string, m *store.Message) bool {
		if m.Expired(now) {
			return true
		}
		p.set(m)
		p.retain = true
		d := delivery{
			session: c.session, client: c, qos: min(m.QoS, sub.Options.QoS), retain: true, id: sub.SubscriptionIdentifier,
		}
		l.m.MessagesMatched[d.qos].Inc()
		if d.qos == 0 || !c.session.durable {
			l.dispatch(&p, &d)
			return true
		}
		l.targets, l.routed = l.targets[:0], l.routed[:0]
		l.addTarget(&d)
		r := routed{op: store.Op{Kind: store.OpPublish, Message: m, Targets: l.targets}}
		l.commit(&p, &r, nil)
		return true
	})
}
