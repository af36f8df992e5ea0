package loopmq

import (
	"context"
	"errors"
	"strings"
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
	c.goOffline(err)
	if b.wants(EventClientDisconnected) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		c.loop.recordClient(EventClientDisconnected, &c.info, reason, text)
	}
}

// goOffline commits the end of a connection, and why it came. With errNormal the
// client asked for its Will to be dropped [MQTT-3.14.4-3].
func (c *Client) goOffline(why error) {
	s, l, b := c.session, c.loop, c.loop.b
	now, clean := l.now(), errors.Is(why, errNormal)
	ends := !s.durable || c.sessionExpiryInterval == 0 || c.takenOver == takenOverClean
	op := c.op(store.OpOffline)
	op.SessionExpiryInterval = c.sessionExpiryInterval
	op.Disconnected = disconnectedFor(why, now)
	op.WillRemoved = true
	if !ends {
		op.Due = session.ExpiryDue(now, c.sessionExpiryInterval)
	}
	if c.will != nil && !clean {
		switch delay := c.will.DelayInterval; {
		case ends || delay == 0: // [MQTT-3.1.2-8]
			l.publishWill(c.will, &c.info, nil)
			op.WillRemoved = false
			op.WillDue = now // for the scheduler, if it could not be published
		default: // a claim before it is due drops it [MQTT-3.1.3-9]
			op.WillRemoved = false
			op.WillDue = session.WillDue(now, delay, c.sessionExpiryInterval)
		}
	}
	gives := c.leaveFlow(ends)
	if ends {
		s.leaveTrie(b)
	}
	op.Sent, _ = s.sent()
	var ending *ClientInfo // whose session ends with that
	if ends && !s.durable {
		ending = &c.info
	}
	offline := func() {
		l.commitOffline(&op, ending, func() {
			if ends && !s.durable || s.over.Load() {
				s.forget(b)
			}
			if !op.Due.IsZero() || !op.WillDue.IsZero() {
				b.scheduler.nudge()
			}
		})
	}
	if gives && b.cluster != nil {
		// First the others have to know, so that no more comes for it. Should this
		// instance die meanwhile, another ends the session.
		if ends {
			op.Due = now.Add(givingTime)
		}
		op.Gives = true
		offline()
	}
	if gives {
		l.redistribute(s, c.epoch, allOfThem)
	}
	// A session that ends has its queue until others have what they are to get.
	l.afterLeaving(s, func(done bool) {
		op.Gives, op.Gave = false, op.Gives
		if done || !op.Gave {
			offline()
		}
		if ends && s.durable {
			l.endSession(s, c.epoch, &c.info)
		}
	})
}

// disconnectedFor says how a connection has ended.
func disconnectedFor(why error, at time.Time) store.Disconnected {
	switch {
	case why == nil:
		return store.Disconnected{At: at, Reason: "connection closed by the client"}
	case errors.Is(why, errNormal), errors.Is(why, errDisconnectWithWill):
		return store.Disconnected{At: at}
	}
	text := why.Error()
	if len(text) > reasonMax {
		text = strings.ToValidUTF8(text[:reasonMax], "")
	}
	return store.Disconnected{At: at, Reason: text}
}

// reasonMax is how much is kept of the text of why a connection ended.
const reasonMax = 200

// givingTime is how long a session that has ended stays in a store that several nodes
// share, should the one that gives away its messages die.
const givingTime = time.Minute

// commitOffline commits the end of a connection, and again while the store fails:
// nobody else would end it there, or see to its Will. done is called after the
// first try. The epoch keeps a late one from a newer connection. op is read for each.
// ending is whose session ends with it, nil: it doesn't.
func (l *loop) commitOffline(op *store.Op, ending *ClientInfo, done func()) {
	l.commits.add(*op, func(committed *store.Op, err error) {
		if err != nil {
			l.repeat(func() { l.commitOffline(op, ending, l.b.scheduler.nudge) })
		} else {
			l.wentWithSession(committed.Dropped)
			if ending != nil && (committed.Result == store.Done || op.Epoch == epochUnclaimed) { // else who claimed it has told
				l.recordClient(EventSessionTerminated, ending, codec.Success, "")
			}
		}
		done()
	})
}

// wentWithSession counts queued messages that were deleted with their session.
func (l *loop) wentWithSession(byQoS [3]int) {
	for qos, n := range byQoS {
		l.m.QueueDropped[qos][metrics.DropSessionGone].Add(uint64(n))
	}
}

// leaveFlow gives up what was under way: the store has what a durable session
// needs, the rest ends with the connection.
//
// It reports whether what the session holds of shared subscriptions is to go to
// others.
func (c *Client) leaveFlow(ends bool) (gives bool) {
	f, s, l := c.flow, c.session, c.loop
	if f != nil {
		l.m.Inflight.Add(-uint64(f.out.Len()))
	}
	if s.durable {
		if f != nil {
			s.sentUpTo(f.cursor)
		}
		_, shared := s.subscriptionCount()
		stays := c.takenOver != notTakenOver || l.b.shuttingDown.Load() && l.b.cluster == nil // with its client, or until the broker is back
		return shared > 0 && (ends || !stays)
	}
	if f == nil {
		return false
	}
	var entries []*store.Entry
	f.out.Each(func(st session.State, e *store.Entry) {
		if e != nil && e.ShareName != "" && st == session.AwaitingPuback { // QoS 2 that was sent stays [MQTT-4.8.2-5]
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
	return false
}

// endSession deletes a durable session in the store, unless it was claimed
// again, and then in this process. It goes on while the store fails. of is whose it was.
func (l *loop) endSession(s *Session, epoch uint64, of *ClientInfo) {
	l.tryEndSession(s, epoch, of, func(_ *store.Op, err error) {
		if err != nil {
			l.repeat(func() { l.endSession(s, epoch, of) })
		}
	})
}

// tryEndSession is endSession, but tries once.
func (l *loop) tryEndSession(s *Session, epoch uint64, of *ClientInfo, done doneFunc) {
	op := store.Op{Kind: store.OpEndSession, Session: s.id, Epoch: epoch}
	op.Sent, _ = s.sent()
	l.commits.add(op, func(op *store.Op, err error) {
		switch {
		case err != nil:
		case op.Result == store.Fenced:
			l.b.resync(l, s.id) // it lives on at another instance
		default:
			l.wentWithSession(op.Dropped)
			s.forget(l.b)
			if op.Result == store.Done { // else who ended it has told
				l.recordClient(EventSessionTerminated, of, codec.Success, "")
			}
		}
		done(op, err)
	})
}

// publishWill publishes a Will and removes it from the store in one step. Unless
// that step was Done nobody has seen it: the Will is still in the store, or
// somebody else has published it. of is whose it is, nil if it has no connection any
// more; done may be nil.
func (l *loop) publishWill(w *store.Will, of *ClientInfo, done doneFunc) {
	var p publication
	p.set(&w.Message)
	p.kept, p.afterCommit, p.will, p.client = nil, true, true, of
	p.from = l.b.publisher(w.ClientID)
	if w.ExpirySeconds >= 0 {
		p.expiry = l.now().Add(time.Duration(w.ExpirySeconds) * time.Second)
	}
	p.received = l.el.Nanotime()
	r := l.route(&p, true)
	r.op.WillOf = w
	l.commit(&p, &r, func(op *store.Op, err error) {
		if err == nil && op.Result == store.Done {
			l.m.MessagesReceived[w.Message.QoS].Inc()
			l.b.metrics.WillsPublished.Inc()
		}
		if done != nil {
			done(op, err)
		}
	})
}

// Kick disconnects a client (5.0: Administrative action, 0x98). Its session stays
// if it is durable. ErrNoClient: it is not connected.
//
// With a store that several nodes share it may be connected at any of them, and
// Kick returns when that one has been asked to.
func (b *Broker) Kick(ctx context.Context, clientID string) error {
	err := b.kickHere(ctx, clientID)
	if errors.Is(err, ErrNoClient) && b.cluster != nil && b.cluster.joined.Load() != nil {
		if err = b.cluster.member().Kick(ctx, clientID); errors.Is(err, store.ErrGone) {
			return ErrNoClient
		}
	}
	return err
}

// kickHere is Kick for a client of this process.
func (b *Broker) kickHere(ctx context.Context, clientID string) error {
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

// DisconnectWhere disconnects the clients of this node for which f returns true, for
// instance those that a new ban or other rules no longer allow, with a reason that
// 5.0 clients are told. It returns how many they were. Their sessions stay as after
// any loss of a connection, and their Wills are published.
//
// f is called on the event loops, several at a time, and must not block. It is not
// called for a CONNECT that is being decided on.
func (b *Broker) DisconnectWhere(f func(c *ClientInfo) bool, reason codec.ReasonCode) int {
	if !b.running.Load() {
		return 0
	}
	err := codec.NewError(reason, "disconnected: "+reason.String())
	counts := make(chan int, len(b.loops))
	for _, l := range b.loops {
		l.el.Post(func() {
			n := 0
			for c := range l.clients {
				if c.state == stateConnected && f(&c.info) {
					c.disconnect(reason, err)
					n++
				}
			}
			counts <- n
		})
	}
	total := b.callers.endWhere(f, err)
	for range b.loops {
		select {
		case n := <-counts:
			total += n
		case <-b.stopped:
			return total
		}
	}
	return total
}
