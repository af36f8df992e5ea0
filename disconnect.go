package loopmq

import (
	"context"
	"errors"
	"time"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/session"
	"loopmq/store"
)

// disconnected ends what a connected client had: its session goes offline or
// ends, its Will is published, cancelled or put off, and what it leaves of shared
// subscriptions goes to others.
func (b *Broker) disconnected(c *Client, err error) {
	s := c.session
	s.client.CompareAndSwap(c, nil)
	reason := codec.UnspecifiedError
	var e *codec.Error
	if errors.As(err, &e) {
		reason = e.ReasonCode
	}
	c.goOffline(errors.Is(err, errNormal))
	if f := b.opts.Events.OnDisconnected; f != nil {
		f(&c.info, reason, err)
	}
}

// goOffline commits the end of a connection. clean: the client asked for its
// Will to be dropped [MQTT-3.14.4-3].
func (c *Client) goOffline(clean bool) {
	s, l, b := c.session, c.loop, c.loop.b
	now := l.now()
	ends := !s.durable || c.sessionExpiryInterval == 0 || c.takenOver != nil && c.takenOver.cleanStart
	op := c.op(store.OpOffline)
	op.SessionExpiryInterval = c.sessionExpiryInterval
	op.WillRemoved = true
	if !ends {
		op.Due = session.ExpiryDue(now, c.sessionExpiryInterval)
	}
	if c.will != nil && !clean {
		switch delay := c.will.DelayInterval; {
		case ends || delay == 0: // [MQTT-3.1.2-8]
			l.publishWill(c.will)
			op.WillRemoved = false
			op.WillDue = now
		case c.takenOver != nil: // [MQTT-3.1.3-9]: the session goes on in time
		default:
			op.WillRemoved = false
			op.WillDue = session.WillDue(now, delay, c.sessionExpiryInterval)
		}
	}
	c.leaveFlow(ends)
	if ends {
		s.leaveTrie(b)
	}
	// A session that ends has its queue until others have what they are to get.
	l.afterLeaving(s, func() {
		l.commits.add(op, func(*store.Op, error) {
			switch {
			case ends && !s.durable:
				s.end(b)
			case !op.Due.IsZero() || !op.WillDue.IsZero():
				b.scheduler.nudge()
			}
		})
		if ends && s.durable {
			l.endSession(s, c.epoch, nil)
		}
	})
}

// leaveFlow gives up what was under way: the store has what a durable session
// needs, the rest ends with the connection.
func (c *Client) leaveFlow(ends bool) {
	f, s, l := c.flow, c.session, c.loop
	if f != nil {
		l.m.Inflight.Add(-uint64(f.out.Len()))
	}
	if s.durable {
		if f != nil {
			s.sentUpTo(f.cursor)
		}
		_, shared := s.subscriptionCount()
		stays := c.takenOver != nil || l.b.shuttingDown.Load() // with its client, or until the broker is back
		if shared > 0 && (ends || !stays) {
			l.redistribute(s, c.epoch)
		}
		return
	}
	if f == nil {
		return
	}
	var entries []*store.Entry
	f.out.Each(func(st session.State, e *store.Entry) {
		if e != nil && st == session.AwaitingPuback { // QoS 2 that was sent stays [MQTT-4.8.2-5]
			entries = append(entries, e)
		}
	})
	var p publication
	for e := f.queue.Pop(); e != nil; e = f.queue.Pop() {
		p.set(e.Message)
		d := deliveryOf(c, e)
		if e.ShareName != "" {
			l.m.QueueDelivered[e.QoS].Inc()
			entries = append(entries, e)
			continue
		}
		l.dropQueued(&p, &d, metrics.DropSessionGone)
	}
	// The session leaves the trie in this turn; only then another member is
	// chosen.
	if len(entries) > 0 {
		l.el.Post(func() {
			for _, e := range entries {
				l.passToGroup(e)
			}
		})
	}
}

// endSession deletes a durable session in the store, unless it was claimed
// again, and then in this process. ended may be nil.
func (l *loop) endSession(s *Session, epoch uint64, ended func()) {
	op := store.Op{Kind: store.OpEndSession, Session: s.id, Epoch: epoch}
	l.commits.add(op, func(op *store.Op, err error) {
		if err == nil && op.Result != store.Fenced {
			s.end(l.b)
			if ended != nil {
				ended()
			}
		}
	})
}

// publishWill publishes a Will and removes it from the store in one step. Nobody
// gets it before: should the store fail, or have published it already, nobody
// does.
func (l *loop) publishWill(w *store.Will) {
	var p publication
	p.set(&w.Message)
	p.kept = nil
	if w.ExpirySeconds >= 0 {
		p.expiry = l.now().Add(time.Duration(w.ExpirySeconds) * time.Second)
	}
	p.received = l.el.Nanotime()
	p.afterCommit = true
	r := l.route(&p, true)
	r.op.WillOf = w
	l.commit(&p, &r, func(op *store.Op, err error) {
		if err != nil || op.Result != store.Done {
			return
		}
		l.m.MessagesReceived[p.qos].Inc()
		l.b.metrics.WillsPublished.Inc()
		if f := l.b.opts.Events.OnWillPublished; f != nil {
			f(w.ClientID, p.view())
		}
		if f := l.b.opts.Events.OnPublished; f != nil {
			f(nil, p.view())
		}
	})
}

// Kick disconnects a client (5.0: Administrative action, 0x98). Its session stays
// if it is durable. ErrNoClient: it is not connected.
func (b *Broker) Kick(ctx context.Context, clientID string) error {
	s := b.registry.session(clientID)
	if s == nil {
		return ErrNoClient
	}
	c := s.client.Load()
	if c == nil {
		return ErrNoClient
	}
	done := make(chan struct{})
	c.loop.el.Post(func() {
		c.disconnect(codec.AdministrativeAction, errAdministrative)
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.stopped:
		return ErrNoClient
	}
}
