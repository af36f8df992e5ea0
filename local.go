package loopmq

import (
	"errors"
	"fmt"

	"loopmq/codec"
	"loopmq/store"
)

// ErrTopicFilter is returned for what is not a valid Topic Filter.
var ErrTopicFilter = errors.New("loopmq: not a valid Topic Filter")

// Subscribe calls f for each message that matches a Topic Filter, the retained
// ones first, until cancel is called. The filter may be a shared subscription.
//
// f is called on an event loop, one call at a time: it must not block, and what
// it is given is valid during the call only. Nothing is queued for it, so every
// message counts as delivered, whatever its QoS. It is no client: who wants a session,
// acknowledgements and limits connects a [LocalClient].
func (b *Broker) Subscribe(topicFilter string, f func(m *MessageView)) (cancel func(), err error) {
	if !b.validFilter(topicFilter) {
		return nil, ErrTopicFilter
	}
	if !b.running.Load() {
		return nil, ErrNotRunning
	}
	l := b.someLoop()
	s := &Session{}
	lc := &LocalClient{tap: true, handler: LocalHandler{OnMessage: func(m *MessageView, _ DeliveryID, _ bool) bool {
		f(m)
		return true
	}}}
	lc.client = Client{loop: l, settings: b.settings, session: s, state: stateConnected, local: lc}
	c := &lc.client
	s.client.Store(c)
	done := make(chan struct{})
	l.el.Post(func() {
		sub := store.Subscription{TopicFilter: topicFilter, Options: codec.SubscriptionOptions{QoS: 2, RetainAsPublished: true}}
		s.subscribe(b, sub, -1)
		serial := b.retainedSerial.Load()
		subscribed := func(e error) {
			defer close(done)
			switch err = e; {
			case err != nil:
				err = fmt.Errorf("%w: %w", ErrNotStored, err)
			case isShared(topicFilter):
				l.memberCame(topicFilter)
			default:
				c.replayRetained(&sub, serial)
			}
		}
		if b.cluster == nil {
			subscribed(nil)
		} else {
			b.cluster.confirmRoutes(l, []string{topicFilter}, subscribed)
		}
	})
	select {
	case <-done:
	case <-b.stopped:
		return nil, ErrNotRunning
	}
	cancel = func() {
		s.leaveTrie(b)
		s.client.Store(nil)
		l.el.Post(func() { c.state = stateClosed })
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return cancel, nil
}

// validFilter reports whether the broker takes subscriptions to a Topic Filter.
func (b *Broker) validFilter(topicFilter string) bool {
	return codec.ValidTopicFilter([]byte(topicFilter)) && !b.tooManyLevels([]byte(topicFilter))
}

// someLoop returns the loops in turn, for what belongs to no connection.
func (b *Broker) someLoop() *loop { return b.loops[b.nextLoop.Add(1)%uint64(len(b.loops))] }

// taps reports whether c is one of Broker.Subscribe.
func (c *Client) taps() bool { return c.local != nil && c.local.tap }

// readNow handles what c has sent and was not read yet.
func (c *Client) readNow() {
	if c.conn != nil {
		c.conn.ReadNow()
	}
}
