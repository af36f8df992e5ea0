package loopmq

import (
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// subscribing is a SUBSCRIBE while it is decided on. Its bytes are its own.
type subscribing struct {
	packetID      uint16
	subscriptions []store.Subscription
	reasons       []codec.ReasonCode
	// existed says of each subscription whether it replaced one; granted, whether
	// it takes effect.
	existed, granted []bool
	// serial is that of the retained messages when the subscriptions began.
	serial uint64
}

// subscribe handles a SUBSCRIBE: SUBACK goes out when the subscriptions are in
// the trie and, for a durable session, in the store; then the retained messages.
func (c *Client) subscribe(p *codec.Subscribe) {
	n := len(p.Subscriptions)
	if c.tooManyFilters(n) {
		*p = codec.Subscribe{} // the loop doesn't keep that much
		return
	}
	s := &subscribing{
		packetID: p.PacketID, subscriptions: make([]store.Subscription, n), reasons: make([]codec.ReasonCode, n),
		existed: make([]bool, n), granted: make([]bool, n),
	}
	var id uint32
	if ids := p.Properties.SubscriptionIdentifiers; len(ids) > 0 {
		id = ids[0]
	}
	for i := range p.Subscriptions {
		sub := &p.Subscriptions[i]
		s.subscriptions[i] = store.Subscription{TopicFilter: string(sub.TopicFilter), Options: sub.Options, SubscriptionIdentifier: id}
		if c.info.bridge { // it wants RETAIN as it was published, and nothing back
			s.subscriptions[i].Options.RetainAsPublished = true
			s.subscriptions[i].Options.NoLocal = !isShared(s.subscriptions[i].TopicFilter)
		}
		o := &s.subscriptions[i].Options
		o.QoS = min(o.QoS, c.settings.maximumQoS) // [MQTT-3.2.2-10]
		s.reasons[i] = codec.ReasonCode(o.QoS)
		mounted, ok := c.settings.mountFilter(s.subscriptions[i].TopicFilter)
		s.subscriptions[i].TopicFilter = mounted
		switch {
		case sub.Invalid, !ok:
			s.reasons[i] = codec.TopicFilterInvalid
		case c.loop.b.tooManyLevels(sub.TopicFilter):
			c.fail(errTopicLevels)
			return
		}
	}
	c.authorizeSubscribe(s)
}

// filtersAlways is how many Topic Filters a packet may have whatever the limits.
const filtersAlways = 1024

// tooManyFilters ends the connection if a packet has more filters than make
// sense: they would hold up the loop.
func (c *Client) tooManyFilters(n int) bool {
	limit := c.settings.limits.Subscriptions
	if limit < 0 || n <= max(limit, filtersAlways) {
		return false
	}
	c.disconnect(codec.QuotaExceeded, errTooManyFilters)
	return true
}

// authorizeSubscribe goes on with what the Authorizer allows. While it is asked
// nothing more is read from c.
func (c *Client) authorizeSubscribe(s *subscribing) {
	var ask []question
	var asked []int // the subscription that each of them is about
	for i := range s.subscriptions {
		sub := &s.subscriptions[i]
		if s.reasons[i].IsError() {
			continue
		}
		_, filter, _ := codec.SplitShare([]byte(sub.TopicFilter))
		switch c.decide(ActionSubscribe, filter, sub.Options.QoS, false) {
		case denied:
			s.reasons[i] = codec.NotAuthorized
		case undecided:
			ask = append(ask, question{topic: string(filter), action: ActionSubscribe, qos: sub.Options.QoS})
			asked = append(asked, i)
		}
	}
	if len(ask) == 0 {
		c.subscribeAllowed(s)
		return
	}
	c.wait(waitDecision)
	c.ask(ask, func(answers []bool) {
		if c.state != stateConnected {
			return
		}
		for i, ok := range answers {
			if !ok {
				s.reasons[asked[i]] = codec.NotAuthorized
			}
		}
		c.subscribeAllowed(s)
		c.resume(waitDecision)
	})
}

// subscribeAllowed registers what is granted.
func (c *Client) subscribeAllowed(s *subscribing) {
	b, l := c.loop.b, c.loop
	limit, total := c.settings.limits.Subscriptions, b.limits.Load().TotalSubscriptions
	op := c.op(store.OpSubscribe)
	for i := range s.subscriptions {
		sub := &s.subscriptions[i]
		if s.reasons[i].IsError() {
			continue
		}
		full := total >= 0 && b.subscriptions.Len() >= total
		if full {
			s.existed[i] = c.session.has(sub.TopicFilter)
		}
		if full && !s.existed[i] {
			s.reasons[i] = codec.QuotaExceeded
			b.metrics.SubscriptionsRefused[metrics.ScopeNode].Inc()
			continue
		}
		if s.existed[i], s.granted[i] = c.session.subscribe(b, *sub, limit); !s.granted[i] {
			s.reasons[i] = codec.QuotaExceeded
			b.metrics.SubscriptionsRefused[metrics.ScopeClient].Inc()
			continue
		}
		op.Subscriptions = append(op.Subscriptions, *sub)
	}
	s.serial = b.retainedSerial.Load()
	switch {
	case len(op.Subscriptions) == 0 || !c.session.durable && b.cluster == nil:
		c.subscribed(s)
		return
	case !c.session.durable:
		filters := make([]string, len(op.Subscriptions))
		for i := range filters {
			filters[i] = op.Subscriptions[i].TopicFilter
		}
		if b.withoutStore() {
			l.routesLater(filters)
			c.subscribed(s)
			return
		}
		b.cluster.confirmRoutes(l, filters, func(err error) {
			switch {
			case c.state != stateConnected:
			case err != nil:
				c.disconnect(codec.ServerBusy, errStoreUnavailable)
			default:
				c.subscribed(s)
			}
		})
		return
	}
	l.commits.add(op, func(op *store.Op, err error) {
		switch {
		case c.state != stateConnected:
			if err != nil || op.Result != store.Done {
				b.resync(c.loop, c.session.id)
			} else {
				c.recordSubscribed(s)
			}
		case err != nil:
			b.resync(c.loop, c.session.id)
			c.disconnect(codec.ServerBusy, errStoreUnavailable)
		case op.Result == store.Fenced:
			b.resync(c.loop, c.session.id)
			c.disconnect(codec.SessionTakenOver, errTakenOver)
		default:
			c.subscribed(s)
		}
	})
}

// subscribed answers a SUBSCRIBE and sends the retained messages.
func (c *Client) subscribed(s *subscribing) {
	c.recordSubscribed(s)
	p := codec.Suback{PacketID: s.packetID, ReasonCodes: s.reasons}
	if c.info.ProtocolVersion != codec.V5 {
		for i, r := range s.reasons {
			if r.IsError() {
				s.reasons[i] = codec.UnspecifiedError // 0x80 is the one failure code of 3.1.1
			}
			if r.IsError() && c.info.ProtocolVersion == codec.V31 {
				s.reasons[i] = 0 // 3.1 has none at all
			}
		}
	}
	switch {
	case c.local != nil:
		c.local.answer(p.ReasonCodes)
	case !c.accepts(p.Size(c.info.ProtocolVersion)): // [MQTT-3.1.2-24]
		c.disconnect(codec.PacketTooLarge, errAnswerTooLarge)
		return
	default:
		c.conn.EndWrite(p.Append(c.conn.BeginWrite(), c.info.ProtocolVersion))
		c.loop.m.PacketsSent[codec.TypeSuback].Inc()
	}
	for i := range s.subscriptions {
		sub := &s.subscriptions[i]
		if !s.granted[i] {
			continue
		}
		if c.settings.RetainUnavailable && !isShared(sub.TopicFilter) {
			continue
		}
		if isShared(sub.TopicFilter) { // no retained messages (section 4.8.2)
			c.loop.memberCame(sub.TopicFilter)
			continue
		}
		switch sub.Options.RetainHandling {
		case 0:
			c.replayRetained(sub, s.serial)
		case 1:
			if !s.existed[i] {
				c.replayRetained(sub, s.serial)
			}
		}
	}
}

// unsubscribe handles an UNSUBSCRIBE.
func (c *Client) unsubscribe(p *codec.Unsubscribe) {
	b := c.loop.b
	if c.tooManyFilters(len(p.TopicFilters)) {
		*p = codec.Unsubscribe{}
		return
	}
	ack := codec.Unsuback{PacketID: p.PacketID, ReasonCodes: make([]codec.ReasonCode, len(p.TopicFilters))}
	op := c.op(store.OpUnsubscribe)
	for i, filter := range p.TopicFilters {
		f, ok := c.settings.mountFilter(string(filter))
		if !ok || !c.session.unsubscribe(b, f) {
			ack.ReasonCodes[i] = codec.NoSubscriptionExisted // [MQTT-3.11.3-2]
			continue
		}
		c.endReplay(f)
		op.Subscriptions = append(op.Subscriptions, store.Subscription{TopicFilter: f})
	}
	if !c.session.durable || len(op.Subscriptions) == 0 {
		c.recordUnsubscribed(op.Subscriptions)
		c.unsubscribed(&ack)
		return
	}
	c.loop.commits.add(op, func(op *store.Op, err error) {
		switch {
		case c.state != stateConnected:
			if err != nil || op.Result != store.Done {
				b.resync(c.loop, c.session.id)
			} else {
				c.recordUnsubscribed(op.Subscriptions)
			}
		case err != nil:
			b.resync(c.loop, c.session.id)
			c.disconnect(codec.ServerBusy, errStoreUnavailable)
		case op.Result == store.Fenced:
			b.resync(c.loop, c.session.id)
			c.disconnect(codec.SessionTakenOver, errTakenOver)
		default:
			c.recordUnsubscribed(op.Subscriptions)
			c.unsubscribed(&ack)
		}
	})
}

func (c *Client) unsubscribed(p *codec.Unsuback) {
	if c.local != nil {
		c.local.answer(p.ReasonCodes)
		return
	}
	if !c.accepts(p.Size(c.info.ProtocolVersion)) { // [MQTT-3.1.2-24]
		c.disconnect(codec.PacketTooLarge, errAnswerTooLarge)
		return
	}
	c.conn.EndWrite(p.Append(c.conn.BeginWrite(), c.info.ProtocolVersion))
	c.loop.m.PacketsSent[codec.TypeUnsuback].Inc()
}
