package loopmq

import (
	"context"
	"errors"
	"time"

	"loopmq/codec"
	"loopmq/session"
	"loopmq/store"
)

// claim makes this node and connection the owner of the session in the store, also
// if the connection has gone meanwhile: the one that it replaced left everything to
// it, and what belongs to groups would wait for a client that isn't there.
func (c *Client) claim() {
	b, k, l := c.loop.b, c.connect, c.loop
	claim := store.Claim{
		ClientID:              c.info.ClientID,
		Connect:               k.name,
		Owner:                 b.owner(),
		CleanStart:            k.cleanStart,
		Durable:               k.sessionExpiryInterval > 0,
		SessionExpiryInterval: k.sessionExpiryInterval,
		Limits:                c.settings.limits.queueLimits(int(c.receiveMaximum)),
		Will:                  k.will,
		Connection: store.Connection{
			Username: c.info.Username, Address: c.info.address(), Listener: c.info.Listener,
			ProtocolVersion: c.info.ProtocolVersion, KeepAlive: k.keepAlive, CleanStart: k.cleanStart, Since: c.loop.now(),
		},
	}
	if s := b.registry.session(claim.ClientID); s != nil {
		claim.Sent, _ = s.sent()
	}
	b.workers.do(func() {
		claimed, err := b.store.Sessions().Claim(context.Background(), claim)
		l.el.Post(func() { c.claimed(&claimed, err) })
	})
}

// claimed goes on with the answer to the claim.
func (c *Client) claimed(res *store.Claimed, err error) {
	b := c.loop.b
	yields := c.connect.yields
	c.connect.yields = nil
	if err != nil {
		b.storeAnswered(err)
		if c.claimAgain(err) {
			c.connect.yields = yields
			return
		}
		if c.mayGoUnclaimed() {
			c.yieldsAfter(yields)
			c.owned(c.unclaimed())
			return
		}
		defer c.yieldsAfter(yields)
		defer b.turnEnded(c.info.ClientID)
		c.loop.undoClaim(c.info.ClientID)
		if c.deletes() {
			c.notDeleted(err)
		}
		if c.state != stateClosed {
			c.refuse(codec.ServerUnavailable, errStoreUnavailable.Error())
		}
		return
	}
	c.epoch = res.Session.Epoch
	c.yieldsAfter(yields)
	switch {
	case b.cluster == nil || b.cluster.member().Alone():
		c.owned(res)
	case res.OldOwner == "" || res.OldOwner == b.owner():
		c.catchUp(res)
	default: // the other instance ends that connection first
		b.cluster.awaitRelease(c.info.ClientID, res.OldOwner, c.epoch, func() { c.catchUp(res) })
	}
}

// catchUp waits until what the client has published at another instance, and is on
// its way to subscribers at this one, is there: what it publishes here must not come
// before. It may be called on any goroutine.
func (c *Client) catchUp(res *store.Claimed) {
	b := c.loop.b
	goOn := func() { c.loop.el.Post(func() { c.owned(res) }) }
	b.workers.doOr(func() {
		ctx, cancel := context.WithTimeout(context.Background(), catchUpTimeout)
		defer cancel()
		// What a slow subscriber holds up, or a store that is away, doesn't keep clients from connecting.
		_ = b.cluster.member().CaughtUp(ctx)
		goOn()
	}, goOn) // the broker stops
}

// catchUpTimeout is how long a CONNECT waits for its client's own messages at most.
const catchUpTimeout = time.Second

// yieldsAfter looks at the claims that other instances made while ours was under way.
func (c *Client) yieldsAfter(yields []func()) {
	for _, f := range yields {
		f()
	}
}

// owned goes on when nobody else has the session any more.
func (c *Client) owned(res *store.Claimed) {
	b := c.loop.b
	k := c.connect
	if c.deletes() {
		c.deleteClaimed(res)
		return
	}
	defer func() {
		b.turnEnded(c.info.ClientID)
		c.yieldsAfter(k.afterTurn)
	}()
	c.loop.wentWithSession(res.Dropped)
	if res.Ended != nil {
		c.loop.recordClient(EventSessionTerminated, &ClientInfo{ClientID: res.Ended.ID.ClientID}, codec.Success, "")
	}
	s := b.sessionFor(res)
	if !res.Present {
		b.metrics.SessionsCreated.Inc()
		c.loop.recordClient(EventSessionCreated, &c.info, codec.Success, "")
	}
	for _, g := range res.GivenBack {
		c.loop.memberCame(sharedFilter(g.ShareName, g.TopicFilter))
	}
	c.session, c.epoch = s, res.Session.Epoch
	s.owner.Store(c.loop)
	if c.state == stateClosed { // it left before it was accepted: nothing of it stays
		s.epoch.Store(c.epoch)
		c.connect.will = nil
		c.sessionExpiryInterval = c.connect.sessionExpiryInterval
		c.goOffline(nil)
		return
	}
	if c.info.ClientID = s.id.ClientID; res.OldWill != nil {
		b.scheduler.nudge() // a clean start made it due
	}
	c.attach(s, res)
}

// undoClaim looks after a while whether a claim that failed was made all the same,
// and gives it up then: nobody else would end its session, ever.
func (l *loop) undoClaim(clientID string) {
	b := l.b
	l.repeat(func() {
		b.workers.do(func() {
			se, err := b.store.Sessions().Lookup(context.Background(), clientID)
			l.el.Post(func() {
				switch {
				case errors.Is(err, store.ErrGone):
				case err != nil || b.registry.busy(clientID):
					l.undoClaim(clientID)
				default:
					l.giveUp(&se)
				}
			})
		})
	})
}

// giveUp takes a session offline that this node owns in the store and that no
// connection has. Its Will goes: the client was refused.
func (l *loop) giveUp(se *store.Session) {
	b := l.b
	s := b.registry.session(se.ID.ClientID)
	if se.Owner != b.owner() || s != nil && s.epoch.Load() >= se.Epoch {
		return
	}
	if s != nil && s.id != se.ID { // the claim ended it
		if s.forget(b) {
			l.recordClient(EventSessionTerminated, &ClientInfo{ClientID: s.id.ClientID}, codec.Success, "")
		}
		s = nil
	}
	op := store.Op{
		Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, SessionExpiryInterval: se.SessionExpiryInterval, WillRemoved: true,
		Disconnected: store.Disconnected{At: l.now(), Reason: errStoreUnavailable.Error()},
	}
	if se.Durable {
		op.Due = session.ExpiryDue(l.now(), se.SessionExpiryInterval)
	}
	if s != nil {
		op.Sent, _ = s.sent()
	}
	l.commitOffline(&op, nil, b.scheduler.nudge)
	if s != nil && !se.Durable {
		l.endSession(s, se.Epoch, &ClientInfo{ClientID: s.id.ClientID})
	}
}

// sessionFor returns the session that a claim gave, in the registry.
func (b *Broker) sessionFor(res *store.Claimed) *Session {
	old := b.registry.session(res.Session.ID.ClientID)
	if old != nil && res.Present && old.id == res.Session.ID {
		if b.cluster != nil {
			if res.OldEpoch != old.epoch.Load() || res.OldOwner != "" && res.OldOwner != b.owner() {
				old.unknown() // another instance had it
			}
			b.cluster.reclaimed(old, res)
		}
		return old
	}
	if old != nil {
		old.forget(b)
	}
	s := &Session{id: res.Session.ID, durable: res.Session.Durable || res.Present}
	s.mu.known = !res.Present
	if b.cluster != nil && s.durable {
		s.claimedHere(res.Session.Epoch)
	}
	b.registry.put(s)
	for _, sub := range res.Subscriptions {
		s.subscribe(b, sub, -1)
	}
	return s
}
