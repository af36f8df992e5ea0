package loopmq

import (
	"context"
	"time"

	"loopmq/codec"
	"loopmq/store"
)

// node is the broker as its membership in the store sees it.
type node struct{ *cluster }

var _ store.Node = node{}

// Apply implements [store.Node].
func (n node) Apply(changes []store.Change) {
	for i := range changes {
		n.apply(&changes[i])
	}
}

func (n node) apply(ch *store.Change) {
	b := n.b
	own := n.joined.Load() != nil && ch.Instance == n.member().Instance()
	switch ch.Kind {
	case store.ChangeSubscribed:
		if own {
			return // it was in the trie before it was committed
		}
		s := b.durableSession(ch.Session)
		s.movedTo(ch.Instance, 0)
		for _, sub := range ch.Subscriptions {
			s.subscribe(b, sub, -1)
		}
	case store.ChangeUnsubscribed:
		if s := b.registry.session(ch.Session.ClientID); s != nil && s.id == ch.Session && !own {
			for _, f := range ch.TopicFilters {
				s.unsubscribe(b, f)
			}
		}
	case store.ChangeOwner:
		if s := b.registry.session(ch.Session.ClientID); s != nil && s.id == ch.Session && !own {
			s.movedTo(ch.Instance, ch.Epoch)
		}
	case store.ChangeEnded:
		if s := b.registry.session(ch.Session.ClientID); s != nil && s.id == ch.Session && s.client.Load() == nil {
			s.forget(b)
		}
	case store.ChangeRouted:
		if own {
			return
		}
		p := n.peer(ch.Instance)
		for _, f := range ch.TopicFilters {
			p.subscribe(b, store.Subscription{TopicFilter: f, Options: peerOptions}, -1)
		}
	case store.ChangeUnrouted:
		if own {
			return
		}
		p := n.peer(ch.Instance)
		for _, f := range ch.TopicFilters {
			p.unsubscribe(b, f)
		}
	case store.ChangeDead:
		n.mu.Lock()
		p := n.mu.peers[ch.Instance]
		delete(n.mu.peers, ch.Instance)
		n.mu.Unlock()
		if p != nil {
			p.leaveTrie(b)
		}
	case store.ChangeRetained:
		for _, topic := range ch.TopicFilters {
			b.changeRetained(topic, func(m retainedMessage, exists bool) (retainedMessage, bool) {
				if exists {
					return m, true
				}
				return retainedMessage{Message: &store.Message{TopicName: []byte(topic)}}, true
			})
		}
	case store.ChangeNotRetained:
		for _, topic := range ch.TopicFilters {
			b.changeRetained(topic, func(retainedMessage, bool) (retainedMessage, bool) { return retainedMessage{}, false })
		}
	}
}

// peerOptions let everything through: what its sessions asked for is applied by the
// instance itself.
var peerOptions = codec.SubscriptionOptions{QoS: 2, RetainAsPublished: true}

// durableSession returns the session, which may be new here.
func (b *Broker) durableSession(id store.SessionID) *Session {
	s := b.registry.session(id.ClientID)
	if s != nil && s.id == id {
		return s
	}
	if s != nil && s.client.Load() == nil {
		s.forget(b)
	}
	s = &Session{id: id, durable: true}
	b.registry.put(s)
	return s
}

// movedTo notes who has the session's connection since the claim with an epoch.
// What another instance has sent of its queue is not known here.
func (s *Session) movedTo(instance string, epoch uint64) {
	if instance == "" {
		s.remote.Store(nil)
	} else {
		s.remote.Store(&remote{instance: instance})
		s.unknown()
	}
	if epoch > s.epoch.Load() {
		s.epoch.Store(epoch)
	}
}

// Reread implements [store.Node].
func (n node) Reread() {
	for _, l := range n.b.loops {
		l.el.Post(func() {
			for c := range l.clients {
				if c.state == stateConnected && c.session.durable {
					l.rereads(c.session)
				}
			}
		})
	}
}

// Yield implements [store.Node].
func (n node) Yield(clientID string, epoch uint64, cleanStart bool, to string) {
	c := n.b.registry.attempt(clientID)
	if c == nil {
		n.yield(clientID, epoch, cleanStart, to)
		return
	}
	c.loop.el.Post(func() {
		c.yieldAttempt(epoch)
		n.yield(clientID, epoch, cleanStart, to)
	})
}

// yieldAttempt refuses a CONNECT whose claim was followed by one at another
// instance. One whose claim is under way learns of it when that returns.
func (c *Client) yieldAttempt(epoch uint64) {
	switch {
	case c.state != stateConnecting:
	case c.epoch == 0:
		c.connect.yieldedTo = max(c.connect.yieldedTo, epoch)
	case c.epoch < epoch:
		c.refuse(codec.ServerBusy, errTakenOver.Error())
	}
}

// yield ends the connection that has a session, and answers when all that it
// committed is in the store.
func (n node) yield(clientID string, epoch uint64, cleanStart bool, to string) {
	b := n.b
	answer := func() { n.member().Released(clientID, epoch, to) }
	s := b.registry.session(clientID)
	if s == nil || s.owner.Load() == nil {
		answer()
		return
	}
	l := s.owner.Load()
	l.el.Post(func() {
		if old := s.client.Load(); old != nil && old.epoch < epoch {
			old.takenOver = &takeover{cleanStart: cleanStart}
			old.disconnect(codec.SessionTakenOver, errTakenOver)
			if f := b.opts.Events.OnSessionTakenOver; f != nil {
				f(clientID)
			}
			if s.durable && !cleanStart {
				s.movedTo(to, epoch)
			}
		}
		l.afterLeaving(s, func() { l.commits.after(answer) })
	})
}

// Kicked implements [store.Node].
func (n node) Kicked(clientID string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = n.b.kickHere(ctx, clientID) // who isn't here needs no kick
}

// Released implements [store.Node].
func (n node) Released(clientID string, epoch uint64) {
	n.mu.Lock()
	w := n.mu.waiting[clientID]
	switch {
	case w != nil && w.released != nil && w.epoch <= epoch:
		delete(n.mu.waiting, clientID)
	case w == nil && n.b.registry.busy(clientID): // before the claim has returned
		n.mu.waiting[clientID] = &releaseWait{epoch: epoch}
		w = nil
	default:
		w = nil
	}
	n.mu.Unlock()
	if w != nil {
		w.released()
	}
}

// Dead implements [store.Node].
func (n node) Dead(instance string) {
	n.releasedBy(func(_ string, w *releaseWait) bool { return w.instance == instance })
	n.b.scheduler.nudge()
}

// Orphaned implements [store.Node].
func (n node) Orphaned(sessions []store.Session) {
	b := n.b
	for i := range sessions {
		se := &sessions[i]
		s := b.registry.session(se.ID.ClientID)
		if s == nil || s.id != se.ID {
			continue
		}
		s.movedTo("", se.Epoch)
		s.unknown()
		b.giveBack(s, se.Epoch)
	}
}

// giveBack lets go to others what an offline session, which no loop has, holds of
// shared subscriptions.
func (b *Broker) giveBack(s *Session, epoch uint64) {
	if _, shared := s.subscriptionCount(); shared == 0 {
		return
	}
	l := b.loops[0]
	s.owner.CompareAndSwap(nil, l)
	l = s.owner.Load()
	l.el.Post(func() {
		if s.client.Load() == nil {
			l.redistribute(s, epoch)
		}
	})
}

// Expelled implements [store.Node].
func (n node) Expelled() { go n.b.rejoin() }
