package loopmq

import (
	"errors"
	"time"

	"loopmq/codec"
	"loopmq/store"
)

// errUnclaimed ends a connection that began while the store was away.
var errUnclaimed = errors.New("the store is back, and has to know who is connected")

// errOutOfTouch is why a node whose lease may have lapsed isn't ready.
var errOutOfTouch = errors.New("out of touch with the store, and so with the other nodes, for longer than its lease")

// awayPatience is how long messages and CONNECTs wait for a store that several nodes
// share before they are refused. A Redis that starts again, or fails over, is back
// by then more often than not.
const awayPatience = 5 * time.Second

// patience is how long what needs the store waits for it, beyond some tries.
func (b *Broker) patience() time.Duration {
	if b.cluster == nil || b.opts.ServeWithoutStore || b.shuttingDown.Load() {
		return 0
	}
	return awayPatience
}

// claimAgain tries a claim that failed again after a while, and reports false if it
// has waited long enough.
func (c *Client) claimAgain(err error) bool {
	k, b := c.connect, c.loop.b
	now := c.loop.el.Nanotime()
	if k.claimBegan == 0 {
		k.claimBegan = now
	}
	if !errors.Is(err, store.ErrUnavailable) || c.state == stateClosed || b.rejoining.Load() || now-k.claimBegan >= int64(b.patience()) {
		return false
	}
	c.loop.repeat(c.claim)
	return true
}

// withoutStore reports whether the broker goes on, on what it knows, because the
// store can't be reached.
func (b *Broker) withoutStore() bool { return b.opts.ServeWithoutStore && b.degraded.Load() != nil }

// mayGoUnclaimed reports whether a CONNECT may go on though the store can't be asked
// for its session: it leaves nothing behind.
func (c *Client) mayGoUnclaimed() bool {
	return c.loop.b.withoutStore() && c.loop.b.cluster != nil && c.state == stateConnecting &&
		c.connect.sessionExpiryInterval == 0 && c.connect.will == nil
}

// unclaimed is what a claim would have said of a session that is new and not durable.
func (c *Client) unclaimed() *store.Claimed {
	c.loop.b.metrics.ConnectionsUnclaimed.Inc()
	c.unclaimedSession = true
	c.epoch = epochUnclaimed
	c.loop.undoClaim(c.info.ClientID)
	return &store.Claimed{Session: store.Session{ID: store.SessionID{ClientID: c.info.ClientID}, Epoch: c.epoch, Owner: c.loop.b.owner()}}
}

// endUnclaimed ends the connections that the store doesn't know of.
func (b *Broker) endUnclaimed() {
	if !b.opts.ServeWithoutStore {
		return
	}
	for _, l := range b.loops {
		l.el.Post(func() {
			for c := range l.clients {
				if c.unclaimedSession {
					c.disconnect(codec.ServerBusy, errUnclaimed)
				}
			}
		})
	}
}

// epochUnclaimed is the epoch of a connection that the store doesn't know of: below any
// that it gives.
const epochUnclaimed = 1

// routesLater has the other instances told of filters as soon as the store is back.
func (l *loop) routesLater(topicFilters []string) {
	l.b.cluster.confirmRoutes(l, topicFilters, func(err error) {
		if err != nil {
			l.repeat(func() { l.routesLater(topicFilters) })
		}
	})
}
