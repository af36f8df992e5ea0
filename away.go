package loopmq

import (
	"errors"

	"loopmq/codec"
	"loopmq/store"
)

// errUnclaimed ends a connection that began while the store was away.
var errUnclaimed = errors.New("the store is back, and has to know who is connected")

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
	c.epoch = 1 // below any that the store gives
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

// routesLater has the other instances told of filters as soon as the store is back.
func (l *loop) routesLater(topicFilters []string) {
	l.b.cluster.confirmRoutes(l, topicFilters, func(err error) {
		if err != nil {
			l.repeat(func() { l.routesLater(topicFilters) })
		}
	})
}
