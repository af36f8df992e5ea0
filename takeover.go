package loopmq

import "loopmq/codec"

// takeTurn waits for other CONNECTs with the same ClientID. Of those that wait
// the latest goes on.
func (c *Client) takeTurn() {
	now, replaced := c.loop.b.registry.begin(c)
	if replaced != nil {
		replaced.loop.el.Post(func() { replaced.refuseReplaced() })
	}
	if now {
		c.replaceOld()
	}
}

// refuseReplaced ends a CONNECT whose turn did not come before a later one's.
func (c *Client) refuseReplaced() {
	if c.deletes() {
		c.notDeleted(errTooManyDeletions)
		return
	}
	if c.state == stateConnecting {
		c.refuse(codec.ServerBusy, errTakenOver.Error()) // CONNACK has no code of its own for it
	}
}

// replaceOld ends the connection that has the session, if there is one, and
// waits until all that it committed is in the store.
func (c *Client) replaceOld() {
	if c.state == stateClosed && !c.deletes() { // it left while it waited, and must not end who is connected
		c.loop.b.turnEnded(c.info.ClientID)
		return
	}
	s := c.loop.b.registry.session(c.info.ClientID)
	if s == nil {
		c.claim()
		return
	}
	l := s.owner.Load()
	if l == nil { // no connection of this process had it
		c.claim()
		return
	}
	cleanStart, why := c.connect.cleanStart, errTakenOver
	if c.deletes() {
		why = errAdministrative
	}
	l.el.Post(func() {
		if old := s.client.Load(); old != nil {
			old.readNow() // a DISCONNECT may be there already
		}
		if old := s.client.Load(); old != nil {
			old.takenOver = takeoverBy(cleanStart)
			old.disconnect(why.ReasonCode, why)
			if why == errTakenOver {
				l.recordClient(EventSessionTakenOver, &old.info, codec.SessionTakenOver, "")
			}
		}
		l.afterLeaving(s, func(bool) {
			l.commits.after(func() { c.loop.el.Post(c.claim) })
		})
	})
}

// takeover says whether another connection has the session now, and how it came to.
type takeover uint8

const (
	notTakenOver takeover = iota
	takenOver
	takenOverClean // with Clean Start
)

func takeoverBy(cleanStart bool) takeover {
	if cleanStart {
		return takenOverClean
	}
	return takenOver
}

// turnEnded lets the next CONNECT with a ClientID go on.
func (b *Broker) turnEnded(clientID string) {
	if b.cluster != nil {
		b.cluster.turnEnded(clientID)
	}
	if next := b.registry.end(clientID); next != nil {
		next.loop.el.Post(next.replaceOld)
	}
}
