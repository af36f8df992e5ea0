package loopmq

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
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
		s := b.durableSession(ch.Session, ch.Instance)
		if s == nil || s.held.Load() != 0 {
			return
		}
		s.changed()
		for _, sub := range ch.Subscriptions {
			s.subscribe(b, sub, -1)
			n.memberMayHaveCome(sub.TopicFilter)
		}
	case store.ChangeUnsubscribed:
		if s := b.registry.known(ch.Session); s != nil && s.held.Load() == 0 {
			s.changed()
			for _, f := range ch.TopicFilters {
				s.unsubscribe(b, f)
			}
		}
	case store.ChangeOwner:
		if s := b.registry.known(ch.Session); s != nil {
			s.movedTo(ch.Instance, ch.Epoch, own)
			if ch.Instance != "" && !own {
				for _, f := range s.sharedFilters() {
					n.memberMayHaveCome(f)
				}
			}
		}
	case store.ChangeEnded:
		if s := b.registry.ended(ch.Session); s != nil && s.client.Load() == nil { // else that one is about to be told
			s.forget(b)
		}
	case store.ChangeRouted:
		if own {
			return
		}
		p := n.peer(ch.Instance)
		for _, f := range ch.TopicFilters {
			p.subscribe(b, store.Subscription{TopicFilter: f, Options: peerOptions}, -1)
			n.memberMayHaveCome(f)
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
	case store.ChangeBanned, store.ChangeUnbanned:
		if w := b.banWatch.Load(); w != nil {
			w.changed(ch.Ban, ch.Kind == store.ChangeUnbanned)
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

// memberMayHaveCome drains the queue of a group that this instance has put something
// into, if the filter is that of one: a member may be connected elsewhere now.
func (n node) memberMayHaveCome(topicFilter string) {
	if isShared(topicFilter) && n.b.groups.mayHaveEntries(topicFilter) {
		l := n.b.loops[0]
		l.el.Post(func() { l.drainGroup(topicFilter) })
	}
}

// durableSession returns the session, which may be new here and is held by an
// instance then; nil if it is over: the feed may be behind a claim of this instance,
// which has ended it.
func (b *Broker) durableSession(id store.SessionID, instance string) *Session {
	s := b.registry.session(id.ClientID)
	switch {
	case s == nil:
	case s.id == id:
		return s
	case s.id.Incarnation > id.Incarnation:
		return nil
	case s.client.Load() == nil:
		s.forget(b)
	}
	s = &Session{id: id, durable: true}
	if instance != "" && instance != b.owner() {
		s.remote.Store(&remote{instance: instance})
	}
	b.registry.put(s)
	return s
}

// changed counts what the feed changes, see resync.
func (s *Session) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.changes++
}

// movedTo notes who has the session's connection since the claim with an epoch. What
// another instance has sent of its queue is not known here. own: it is this instance.
func (s *Session) movedTo(instance string, epoch uint64, own bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch < s.epoch.Load() || own {
		return // a later claim is known
	}
	s.held.Store(0)
	s.epoch.Store(epoch)
	if instance == "" {
		s.remote.Store(nil)
		return
	}
	s.remote.Store(&remote{instance: instance})
	s.mu.known = false
}

// claimedHere notes that this instance has the session since the claim with an
// epoch, unless a later one is known.
func (s *Session) claimedHere(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch < s.epoch.Load() {
		return
	}
	s.epoch.Store(epoch)
	s.held.Store(epoch)
	s.remote.Store(nil)
}

// resync makes what is known of a session's subscriptions what the store has, after
// a change of them was not taken: another instance has the session, and the feed
// tells of its changes only.
func (b *Broker) resync(l *loop, id store.SessionID) {
	if b.cluster == nil {
		return
	}
	b.workers.do(func() {
		s := b.registry.known(id)
		before := uint32(0)
		if s != nil {
			s.mu.Lock()
			before = s.mu.changes
			s.mu.Unlock()
		}
		subscriptions, err := b.store.Subscriptions().Of(context.Background(), id)
		switch {
		case errors.Is(err, store.ErrGone):
		case err != nil:
			l.el.Post(func() { l.repeat(func() { b.resync(l, id) }) })
		default:
			if s = b.durableSession(id, ""); s != nil && !s.become(b, subscriptions, before) {
				b.resync(l, id)
			}
		}
	})
}

// become makes the subscriptions of s those given, unless the feed has changed them
// since its count was before.
func (s *Session) become(b *Broker, subscriptions []store.Subscription, before uint32) bool {
	s.mu.Lock()
	if s.mu.changes != before {
		s.mu.Unlock()
		return false
	}
	s.mu.left = false
	filters := slices.Clone(s.mu.filters.all)
	s.mu.Unlock()
	for _, f := range filters {
		if !slices.ContainsFunc(subscriptions, func(sub store.Subscription) bool { return sub.TopicFilter == f }) {
			s.unsubscribe(b, f)
		}
	}
	for _, sub := range subscriptions {
		s.subscribe(b, sub, -1)
	}
	return true
}

// Reread implements [store.Node].
func (n node) Reread() { n.b.reread() }

// reread makes every client of a durable session read its queue.
func (b *Broker) reread() {
	for _, l := range b.loops {
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
	yield := func() { n.yield(clientID, epoch, cleanStart, to) }
	c := n.b.registry.attempt(clientID)
	if c == nil {
		yield()
		return
	}
	c.loop.el.Post(func() { c.yieldAttempt(epoch, yield) })
}

// yieldAttempt is for a CONNECT that is being decided on while another instance has
// made a claim. If that was the later one the CONNECT is refused, and the other
// instance answered when it is all over; if it was the earlier one it is answered at
// once, or both would wait for each other. Which one it was may have to be seen.
func (c *Client) yieldAttempt(epoch uint64, yield func()) {
	switch {
	case c.loop.b.registry.attempt(c.info.ClientID) != c || c.epoch > epoch:
		yield()
	case c.epoch == 0:
		c.connect.yields = append(c.connect.yields, func() { c.yieldAttempt(epoch, yield) })
	default:
		if c.state == stateConnecting {
			c.refuse(codec.ServerBusy, errTakenOver.Error())
		}
		c.connect.afterTurn = append(c.connect.afterTurn, yield)
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
		if old := s.client.Load(); old != nil && old.loop == l && old.epoch < epoch {
			old.takenOver = takeoverBy(cleanStart)
			old.disconnect(codec.SessionTakenOver, errTakenOver)
			l.recordClient(EventSessionTakenOver, &old.info, codec.SessionTakenOver, "")
			if s.durable && !cleanStart {
				s.movedTo(to, epoch, false)
			}
		}
		l.afterLeaving(s, func(bool) { l.commits.after(answer) })
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
	case (w == nil || w.released == nil && w.epoch < epoch) && n.b.registry.busy(clientID): // before the claim has returned
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
	n.b.recordNode(EventNodeDown, instance, "dead")
	n.b.scheduler.nudge()
	n.b.lookAtGroups()
}

// Orphaned implements [store.Node].
func (n node) Orphaned(sessions []store.Session) (done bool) {
	b := n.b
	var failed atomic.Bool
	var giving sync.WaitGroup
	for i := range sessions {
		se := &sessions[i]
		s := b.registry.session(se.ID.ClientID)
		if s == nil { // the feed will tell, or tells that it has ended
			failed.Store(true)
			continue
		}
		if s.id != se.ID {
			continue
		}
		if s.epoch.Load() != se.Epoch { // the feed hasn't told yet who had it
			s.unknown()
		}
		s.movedTo("", se.Epoch, false)
		giving.Add(1)
		b.giveBack(s, se.Epoch, cmp.Or(se.Limits.Protected, allOfThem), func(done bool) {
			if !done {
				failed.Store(true)
			}
			giving.Done()
		})
	}
	given := make(chan struct{})
	go func() {
		giving.Wait()
		close(given)
	}()
	select {
	case <-given:
		return !failed.Load()
	case <-b.stopped: // the loops may have ended without it
		return false
	}
}

// giveBack lets go to others what an offline session, which no loop has, holds of
// shared subscriptions, see redistribute, and calls after, on any goroutine, when that
// is done.
func (b *Broker) giveBack(s *Session, epoch uint64, window int, after func(done bool)) {
	if _, shared := s.subscriptionCount(); shared == 0 {
		after(true)
		return
	}
	l := b.loops[0]
	s.owner.CompareAndSwap(nil, l)
	l = s.owner.Load()
	l.el.Post(func() {
		if s.client.Load() == nil && s.held.Load() == 0 {
			l.redistribute(s, epoch, window)
		}
		l.afterLeaving(s, after)
	})
}

// Expelled implements [store.Node].
func (n node) Expelled() {
	n.b.expelled.Store(true)
	go n.b.rejoin()
}
