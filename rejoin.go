package loopmq

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"
)

// rejoinPause is how long to wait between two tries to join.
const rejoinPause = time.Second

// rejoin is what a broker does that was declared dead: others have its sessions, so
// it ends every connection, forgets what it knew, and joins as a new instance. If
// that one is declared dead too, before it is known to have joined, it does so again.
func (b *Broker) rejoin() {
	if b.shuttingDown.Load() { // there is nothing to join for: whom a drain would still keep has its session elsewhere
		b.disconnectAll()
		return
	}
	for b.expelled.Load() && !b.rejoining.Swap(true) && !b.shuttingDown.Load() {
		if b.expelled.Swap(false) && !b.joinAnew() {
			return
		}
		b.rejoining.Store(false)
		b.lookAtGroups()
	}
}

// joinAnew is one rejoin. It reports false if the broker was stopped meanwhile.
func (b *Broker) joinAnew() bool {
	b.log.Error("instance_expelled", "instance", b.owner())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-b.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	b.cluster.releasedBy(func(string, *releaseWait) bool { return true })
	b.disconnectAll()
	if b.drained(ctx) != nil {
		return false
	}
	b.forgetAll()
	for {
		err := b.cluster.join(ctx)
		if err == nil {
			err = b.load(ctx)
		}
		if err == nil {
			err = b.cluster.member().Start(ctx)
		}
		if err == nil {
			err = b.cluster.routeLocal(ctx)
		}
		if err == nil {
			break
		}
		b.storeAnswered(err)
		select {
		case <-time.After(rejoinPause):
		case <-ctx.Done():
			return false
		}
		b.forgetAll()
	}
	b.storeAnswered(nil)
	if w := b.banWatch.Load(); w != nil {
		w.lost()
	}
	b.recordNode(EventNodeUp, b.owner(), "")
	b.log.Info("instance_joined", "instance", b.owner())
	return true
}

// forgetAll empties what was read from the store and what the feed told. No client
// is connected.
func (b *Broker) forgetAll() {
	b.registry.each(func(s *Session) { s.forget(b) })
	c := b.cluster
	c.mu.Lock()
	peers := c.mu.peers
	c.mu.peers = make(map[string]*Session)
	c.mu.Unlock()
	c.releasedBy(func(string, *releaseWait) bool { return true })
	for _, p := range peers {
		p.leaveTrie(b)
	}
	b.groups.forget()
	steps := math.MaxInt
	topics := b.retained.Cursor("#")
	for topic, _, ok := topics.Next(&steps); ok; topic, _, ok = topics.Next(&steps) {
		b.changeRetained(topic, func(retainedMessage, bool) (retainedMessage, bool) { return retainedMessage{}, false })
	}
	b.queuedBefore.Add(-int64(b.queued()))
}

// routeLocal tells the other instances again what Broker.Subscribe was asked for: its
// subscribers have no connection that could have ended.
func (c *cluster) routeLocal(ctx context.Context) error {
	c.mu.Lock()
	filters := slices.Collect(maps.Keys(c.mu.routes))
	c.mu.Unlock()
	if len(filters) == 0 {
		return nil
	}
	done := make(chan error, 1)
	c.confirmRoutes(c.b.loops[0], filters, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
