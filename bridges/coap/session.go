package coapbridge

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// resumeTimeout is how long messages of a durable session wait until somebody observes
// their topics again.
const resumeTimeout = 30 * time.Second

// session is an MQTT client for observations: for one, or for all of a connection. The
// client's event loop gives it messages, which wait with the observations that they are
// for.
type session struct {
	b       *Bridge
	durable bool
	until   time.Time // messages wait for observations that aren't there yet

	client  atomic.Pointer[loopmq.LocalClient] // nil: it connects
	waiting atomic.Bool                        // a message found nobody who observes it
	closed  atomic.Bool

	onClosed func(error) // of a connection; nil: there is none

	// subscribing is held while the client subscribes or unsubscribes, one after the other.
	subscribing sync.Mutex

	mu           sync.Mutex // of changes
	observations atomic.Pointer[[]*observation]
}

// clientID returns the Client Identifier of a user's session. Connections of the network
// can't have it, and names have no slash, so that no user has another's.
func clientID(user, name string) string { return loopmq.LocalClientIDs + "coap/" + user + "/" + name }

// newSession connects a client. An empty name is that of no other.
func (b *Bridge) newSession(ctx context.Context, caller *loopmq.Caller, name string, expiry uint32, onClosed func(error)) (*session, error) {
	s := &session{b: b, durable: expiry > 0, until: time.Now().Add(b.opts.resume), onClosed: onClosed}
	s.observations.Store(new([]*observation))
	o := loopmq.LocalOptions{CleanStart: expiry == 0, SessionExpiryInterval: expiry}
	if name == "" {
		name = "~" + rand.Text()
	}
	o.ClientID = clientID(caller.Info().Username, name)
	client, err := caller.Connect(ctx, o, loopmq.LocalHandler{OnMessage: s.message, OnClosed: s.over})
	if err != nil {
		return nil, err
	}
	s.client.Store(client)
	return s, nil
}

// message is called on an event loop with a message.
func (s *session) message(m *loopmq.MessageView, id loopmq.DeliveryID, _ bool) bool {
	n := &notification{message: m, id: id}
	var all [8]*observation
	to := all[:0]
	for _, o := range *s.observations.Load() {
		if matches(o.filter, m.TopicName) && (!m.Retain || o.wildcard) {
			to = append(to, o)
		}
	}
	if len(to) == 0 {
		if s.durable && !id.IsZero() && time.Now().Before(s.until) {
			s.waiting.Store(true)
			return false
		}
		s.b.metrics.CoAPDropped.Inc()
		s.acknowledge(id)
		return true
	}
	if !id.IsZero() {
		for _, o := range to {
			if !o.hasRoom(n) {
				return false
			}
		}
	}
	n.left.Store(int32(len(to)))
	for _, o := range to {
		o.push(n)
	}
	return true
}

// matches reports whether a Topic Filter, which was subscribed to, matches a Topic Name.
// What begins with $ needs a filter that says so. [MQTT-4.7.2-1]
func matches(filter string, topic []byte) bool {
	if rest, shared := strings.CutPrefix(filter, "$share/"); shared {
		_, filter, _ = strings.Cut(rest, "/")
	}
	name := string(topic)
	if name[0] == '$' && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		level, restOfFilter, moreFilter := strings.Cut(filter, "/")
		if level == "#" {
			return true
		}
		part, restOfName, moreName := strings.Cut(name, "/")
		switch {
		case level != "+" && level != part:
			return false
		case !moreName:
			return !moreFilter || restOfFilter == "#"
		case !moreFilter:
			return false
		}
		filter, name = restOfFilter, restOfName
	}
}

// acknowledge may be called for messages that need none.
func (s *session) acknowledge(id loopmq.DeliveryID) {
	if c := s.client.Load(); c != nil && !id.IsZero() {
		c.Acknowledge(id)
	}
}

// ready has messages come again that found no room, or nobody.
func (s *session) ready() {
	if c := s.client.Load(); c != nil {
		c.Ready()
	}
}

// sweep is called now and then.
func (s *session) sweep(now time.Time) {
	if now.After(s.until) && s.waiting.Swap(false) {
		s.ready()
	}
}

// add makes an observation one of the session.
func (s *session) add(o *observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append(slices.Clone(*s.observations.Load()), o)
	s.observations.Store(&all)
}

// remove takes an observation away, and reports whether it was there, and whether
// others have its filter.
func (s *session) remove(o *observation) (was, shared bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(*s.observations.Load())
	i := slices.Index(all, o)
	if i < 0 {
		return false, false
	}
	all = slices.Delete(all, i, i+1)
	s.observations.Store(&all)
	return true, slices.ContainsFunc(all, func(other *observation) bool { return other.filter == o.filter })
}

// subscribe subscribes to the filter of an observation, which was added before.
func (s *session) subscribe(ctx context.Context, o *observation, options codec.SubscriptionOptions) ([]codec.ReasonCode, error) {
	s.subscribing.Lock()
	defer s.subscribing.Unlock()
	return s.client.Load().Subscribe(ctx, []store.Subscription{{TopicFilter: o.filter, Options: options}})
}

// unsubscribe ends the subscription to a filter, unless it is observed again by now.
func (s *session) unsubscribe(ctx context.Context, c *loopmq.LocalClient, filter string) {
	s.subscribing.Lock()
	defer s.subscribing.Unlock()
	if !slices.ContainsFunc(*s.observations.Load(), func(o *observation) bool { return o.filter == filter }) {
		_, _ = c.Unsubscribe(ctx, filter) // If it fails the client is disconnected.
	}
}

// end ends an observation; it does nothing if it has ended.
func (s *session) end(o *observation, why metrics.CoAPEnd) {
	was, shared := s.remove(o)
	if !was {
		return
	}
	b := s.b
	left := o.leave()
	b.observations.Add(-1)
	b.metrics.CoAPObservations.Dec()
	b.metrics.CoAPEnded[why].Inc()
	b.log.Debug("coap_observation_ended", "filter", o.filter, "reason", why.String(), "notifications", o.sequence.Load(), "dropped", o.dropped.Load())
	switch {
	case s.onClosed == nil:
		s.close()
	case why == metrics.CoAPUnanswered || why == metrics.CoAPDisconnected: // the client will be back
		s.onClosed(errUnanswered)
	case !shared && (why == metrics.CoAPCancelled || why == metrics.CoAPReset):
		for _, n := range left {
			n.finish(s)
		}
		if c := s.client.Load(); c != nil && !s.closed.Load() {
			b.background(func(ctx context.Context) { s.unsubscribe(ctx, c, o.filter) })
		}
	}
}

// close disconnects the client.
func (s *session) close() {
	if c := s.client.Load(); c != nil && !s.closed.Swap(true) {
		c.Close()
	}
}

// over is called on an event loop when the client was disconnected.
func (s *session) over(reason error) {
	if s.closed.Swap(true) { // it was asked for
		return
	}
	s.b.background(func(context.Context) {
		f := faultOf(reason)
		if f.code < 128 {
			f = errStopping
		}
		for _, o := range *s.observations.Load() {
			o.farewell(f)
			s.end(o, metrics.CoAPDisconnected)
		}
		if s.onClosed != nil {
			s.onClosed(reason)
		}
	})
}

// errUnanswered is why a connection is given up whose notifications nobody
// acknowledges.
var errUnanswered = codec.NewError(codec.KeepAliveTimeout, "the client doesn't answer")
