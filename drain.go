package loopmq

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"loopmq/codec"
)

// drainTick is how often Drain disconnects some clients.
const drainTick = 20 * time.Millisecond

// DrainOptions say how Drain sends the clients away. The zero value does it at
// once and names no other server.
type DrainOptions struct {
	// Wait is how long everything goes on at first, new connections too, while Ready
	// fails already: load balancers need that long to notice. 0: not at all.
	Wait time.Duration
	// Rate bounds how many clients are disconnected per second, so that those who
	// take them in aren't overrun. 0: all at once.
	Rate int
	// ServerReference tells 5.0 clients where to go: they get Use another server
	// (0x9C) with it. Empty: Server shutting down (0x8B). At most 65,535 bytes of
	// UTF-8 [MQTT-1.5.4-1].
	ServerReference string
}

// Drain sends the clients of this node elsewhere, and is followed by Shutdown. Ready
// fails from the beginning on. After DrainOptions.Wait no connection is accepted any
// more, and the clients are disconnected, DrainOptions.Rate of them per second: 5.0
// with a DISCONNECT (0x9C or 0x8B), 3.x by closing. That is a disconnection by the
// server, so a Will is published, or left to its delay, which a client that comes
// back in time ends [MQTT-3.1.3-9]. Messages that clients haven't acknowledged stay
// in the store, for where they connect next.
//
// It returns when no client is connected, or with ctx's error, and then the rest is
// left to Shutdown. It may be called once, after Start and before Shutdown.
func (b *Broker) Drain(ctx context.Context, o DrainOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	switch {
	case !b.running.Load() || b.stopping.Load():
		return ErrNotRunning
	case b.draining.Swap(true):
		return errors.New("loopmq: Drain was called before")
	}
	b.parking.end()
	if o.ServerReference != "" {
		b.elsewhere.Store(&o.ServerReference)
	}
	b.log.Info("drain", "wait", o.Wait, "rate", o.Rate, "clients", b.connected())
	if !sleep(ctx, o.Wait) {
		return fmt.Errorf("loopmq: drain: %w", ctx.Err())
	}
	b.shuttingDown.Store(true)
	b.engine.CloseListeners()
	return b.disconnectAtRate(ctx, o.Rate)
}

func (o *DrainOptions) check() error {
	switch {
	case o.Wait < 0:
		return fmt.Errorf("loopmq: DrainOptions.Wait is %v; allowed: 0 or more", o.Wait)
	case o.Rate < 0:
		return fmt.Errorf("loopmq: DrainOptions.Rate is %d; allowed: 0 (all at once) or more", o.Rate)
	case len(o.ServerReference) > math.MaxUint16 || !codec.ValidUTF8String([]byte(o.ServerReference)):
		return errors.New("loopmq: DrainOptions.ServerReference: allowed: at most 65,535 bytes of UTF-8 without U+0000")
	}
	return nil
}

// sleep waits, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// disconnectAtRate disconnects all clients, rate of them per second.
func (b *Broker) disconnectAtRate(ctx context.Context, rate int) error {
	ticker := time.NewTicker(drainTick)
	defer ticker.Stop()
	begin, gone := time.Now(), 0
	for round := 0; ; round++ {
		due := math.MaxInt32
		if rate > 0 {
			due = 1 + int(time.Since(begin).Seconds()*float64(rate)) - gone
		}
		left := 0
		for i := range b.loops { // each in turn is the first, and gets what can't be divided
			share := (due + len(b.loops) - i - 1) / (len(b.loops) - i)
			n, more, err := b.disconnectSome(ctx, b.loops[(round+i)%len(b.loops)], share)
			if err != nil {
				return err
			}
			gone, due, left = gone+n, due-n, left+more
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("loopmq: drain: %w", ctx.Err())
		}
	}
}

// disconnectSome disconnects up to n clients of a loop, whichever, and says how many
// it did and how many are left.
func (b *Broker) disconnectSome(ctx context.Context, l *loop, n int) (int, int, error) {
	done := make(chan struct{})
	gone, left := 0, 0
	l.el.Post(func() {
		defer close(done)
		for c := range l.clients {
			if gone == n {
				break
			}
			c.sendAway()
			gone++
		}
		left = len(l.clients)
	})
	select {
	case <-done:
		return gone, left, nil
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("loopmq: drain: %w", ctx.Err())
	}
}

// disconnectAll ends every connection because the broker stops, or starts over.
func (b *Broker) disconnectAll() {
	for _, l := range b.loops {
		l.el.Post(func() {
			for c := range l.clients {
				c.sendAway()
			}
		})
	}
}

// farewell is why connections end when the broker stops.
func (b *Broker) farewell() *codec.Error {
	if b.elsewhere.Load() != nil || b.parking.refuses() && !b.shuttingDown.Load() {
		return errUseAnotherServer
	}
	return errShutdown
}

// sendAway disconnects a client because the broker stops.
func (c *Client) sendAway() {
	e := c.loop.b.farewell()
	c.disconnect(e.ReasonCode, e)
}

// Shutdown stops accepting, disconnects the clients that are left (5.0: Server
// shutting down, 0x8B, or what Drain was to tell them), publishes the Wills that are
// due, commits what is pending, and stops the loops. It returns ctx's error if that
// ended first. The store stays open. Whoever wants clients to leave at a bounded rate
// calls Drain before.
func (b *Broker) Shutdown(ctx context.Context) error {
	if b.stopping.Swap(true) {
		return errors.New("loopmq: Shutdown was called before")
	}
	b.shuttingDown.Store(true)
	b.parking.end()
	defer close(b.stopped)
	b.engine.CloseListeners()
	if !b.running.Load() {
		return b.engine.Stop(ctx)
	}
	b.sys.stop()
	b.disconnectAll()
	err := b.drained(ctx)
	b.scheduler.stop()
	err = errors.Join(err, waitFor(ctx, func() {
		b.authenticating.stop()
		b.authorizing.stop()
		b.workers.stop()
	}))
	b.recordNode(EventNodeDown, b.node(), "shutdown")
	for _, l := range b.loops { // events that still wait get a last chance
		l.el.Post(l.commits.retryHeld)
	}
	// A claim that has returned since is given up, which is a commit.
	err = errors.Join(err, b.drained(ctx))
	for _, l := range b.loops {
		l.el.Post(l.commits.stop)
	}
	err = errors.Join(err, waitFor(ctx, b.commitGroup.Wait))
	if b.cluster != nil {
		err = errors.Join(err, b.cluster.leave(ctx))
	}
	b.running.Store(false)
	return errors.Join(err, b.engine.Stop(ctx))
}

// waitFor calls f, but does not wait for it longer than for ctx.
func waitFor(ctx context.Context, f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("loopmq: shutdown: %w", ctx.Err())
	}
}

// drained waits until no client is connected and no commit is under way.
func (b *Broker) drained(ctx context.Context) error {
	for _, l := range b.loops {
		done := make(chan struct{})
		l.el.Post(func() { l.whenDrained(func() { close(done) }) })
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("loopmq: shutdown: %w", ctx.Err())
		}
	}
	return nil
}
