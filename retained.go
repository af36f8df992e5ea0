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
	sub      store.Subscription
	matched  bool // messages has been filled
	messages []*store.Message
	storing  int // how many are on their way to the session's queue
}

const (
	// replayTurn is how many retained messages one client gets before others have
	// their turn.
	replayTurn = 4096
	// replayAhead is how many may be under way to a durable session: the others
	// wait here rather than fill its queue.
	replayAhead = 256
)

// replayRetained starts to send the retained messages that match a new
// subscription, with RETAIN 1 [MQTT-3.3.1-8]. It runs after the SUBACK was written.
//
// Subscriptions are served one after the other, and what matches is looked up
// when it is a subscription's turn: a client that subscribes to much and reads
// nothing makes the broker collect it once.
func (c *Client) replayRetained(sub *store.Subscription) {
	r := &replay{sub: *sub}
	if c.flow == nil || len(c.flow.replays) == 0 {
		if c.matchRetained(r); len(r.messages) == 0 {
			return
		}
	}
	f := c.flows()
	f.replays = append(f.replays, r)
	if len(f.replays) == 1 {
		c.replayOn()
	}
}

func (c *Client) matchRetained(r *replay) {
	r.matched = true
	c.loop.b.retained.Match(r.sub.TopicFilter, func(_ string, m *store.Message) bool {
		r.messages = append(r.messages, m)
		return true
	})
}

// replayOn sends retained messages as far as the client takes them: they wait for
// its output and its window, and are not dropped for want of room. A topic whose
// retained message has changed since is skipped: the subscription was there when
// the new one came, so an old value never follows a new one.
func (c *Client) replayOn() {
	f, l := c.flow, c.loop
	now := l.now()
	for turn := 0; len(f.replays) > 0; {
		r := f.replays[0]
		if !r.matched {
			c.matchRetained(r)
			turn += len(r.messages) / 8 // that was some work as well
		}
		for ; len(r.messages) > 0; turn++ {
			if turn >= replayTurn && c.local == nil {
				if !f.replayPosted {
					f.replayPosted = true
					l.el.Post(func() {
						f.replayPosted = false
						c.advance()
					})
				}
				return
			}
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
		if f.behind || r.storing+f.out.Len() >= c.replayAhead(m.Size()) {
			return false // a commit or an acknowledgement goes on with it
		}
		if l.commits.full() {
			r.storing++
			l.commits.after(func() {
				r.storing--
				c.advance()
			})
			return false
		}
		l.targets, l.routed = l.targets[:0], l.routed[:0]
		l.addTarget(&p, &d)
		r.storing++
		l.commit(&p, &routed{op: store.Op{Kind: store.OpPublish, Message: m, Targets: l.targets}}, func(*store.Op, error) {
			r.storing--
			c.advance()
		})
	case f.queue.Len() > 0 || !f.out.CanSend():
		return false // an acknowledgement goes on with it
	default:
		c.deliverLive(&p, &d)
	}
	l.m.MessagesMatched[d.qos].Inc()
	return true
}

// replayAhead is how many retained messages of a size may be under way to a
// durable session, within what its queue holds.
func (c *Client) replayAhead(size int) int {
	limits, n := &c.loop.b.opts.Limits, replayAhead
	if limits.QueueMessages > 0 {
		n = min(n, limits.QueueMessages/4)
	}
	if limits.QueueBytes > 0 {
		n = min(n, limits.QueueBytes/4/max(1, size))
	}
	return max(1, n)
}
