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
// message counts as delivered, whatever its QoS.
func (b *Broker) Subscribe(topicFilter string, f func(m *MessageView)) (cancel func(), err error) {
	if !codec.ValidTopicFilter([]byte(topicFilter)) || b.tooManyLevels([]byte(topicFilter)) {
		return nil, ErrTopicFilter
	}
	if !b.running.Load() {
		return nil, ErrNotRunning
	}
	l := b.loops[b.nextLoop.Add(1)%uint64(len(b.loops))]
	s := &Session{}
	c := &Client{loop: l, settings: b.settings, session: s, state: stateConnected, local: f}
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
