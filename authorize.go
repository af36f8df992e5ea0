package loopmq

import (
	"context"
	"math"
	"slices"
	"time"

	"loopmq/codec"
	"loopmq/eventloop"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// access is what the broker knows of who a client is and what it may do. It belongs
// to the client's loop, and is nil if there is neither an Authorizer nor an end of
// the identity.
type access struct {
	decisions
	fast FastAuthorizer // authorizer, if it is one

	asking    []question     // about deliveries
	held      []*store.Entry // QoS 0 that waits for a decision
	heldBytes int

	expiresAt time.Time
	expiry    eventloop.Timer
}

// decisions are what an Authorizer has said. They are bounded, and hold for a time.
type decisions struct {
	authorizer Authorizer // nil: everything is allowed

	// What follows holds for rules, the value of Broker.rules when it was found out.
	rules      uint64
	deliveries bool          // they are asked about too
	generation uint32        // counts how often this was found out
	ttl        time.Duration // of decisions; 0: they aren't kept, negative: no limit
	oldest     int64         // when the first of known came, by the loops' clock
	known      map[question]bool
}

// question is what an Authorizer is asked.
type question struct {
	topic  string
	action Action
	qos    byte
	retain bool
}

// decision is what it answers.
type decision uint8

const (
	undecided decision = iota
	allowed
	denied
)

func decided(ok bool) decision {
	if ok {
		return allowed
	}
	return denied
}

const (
	// decisionsMax is how many decisions a connection keeps, decisionTopicMax the
	// longest topic of one.
	decisionsMax     = 256
	decisionTopicMax = 256
	// askingMax is how many questions about deliveries to one client are under way.
	askingMax = 8
	// heldMax is how many QoS 0 messages wait for decisions about them; their bytes
	// are bounded as the output is.
	heldMax = 1024
	// deniedMax is how many topics a session notes that it may not get of shared
	// subscriptions, deniedFor how long it does so at least.
	deniedMax = 64
	deniedFor = time.Second
)

// DropDecisions forgets the decisions of Authorizers that were kept, for instance
// because their rules have changed: from when it returns each is asked for again.
// What was decided before, subscriptions above all, stays.
func (b *Broker) DropDecisions() { b.rules.Add(1) }

// identify makes id the identity of the client, at CONNECT and when it
// authenticates again.
func (c *Client) identify(id *Identity) {
	c.info.Username, c.info.ACL = id.Username, id.ACL
	authorizer := c.settings.Authorizer
	a := c.access
	if a == nil {
		if authorizer == nil && id.ExpiresAt.IsZero() {
			return
		}
		a = &access{decisions: decisions{authorizer: authorizer}, fast: c.settings.fast}
		a.expiry.Init(eventloop.TimerFunc(func(*eventloop.Timer) { c.checkExpiry() }))
		c.access = a
	}
	a.expiresAt = id.ExpiresAt
	a.forget(c.loop.b)
}

// forget drops all decisions.
func (d *decisions) forget(b *Broker) {
	d.rules, d.known, d.deliveries, d.ttl = b.rules.Load(), nil, false, -1
	d.generation++
	if a, ok := d.authorizer.(DeliveryAuthorizer); ok {
		d.deliveries = a.AuthorizesDeliveries()
	}
	if t, ok := d.authorizer.(DecisionTTL); ok {
		d.ttl = t.DecisionTTL()
	}
}

// renew drops all decisions if they don't hold any more.
func (d *decisions) renew(b *Broker, now int64) {
	if d.rules != b.rules.Load() || d.ttl > 0 && len(d.known) > 0 && now-d.oldest >= int64(d.ttl) {
		d.forget(b)
	}
}

// expired reports whether the client's identity has ended.
func (c *Client) expired() bool {
	return c.access != nil && !c.access.expiresAt.IsZero() && !time.Now().Before(c.access.expiresAt)
}

// checkExpiry ends the connection if the identity has ended, or looks again when it
// does. The wall clock may be set, so it looks now and then in any case.
func (c *Client) checkExpiry() {
	switch {
	case c.access == nil:
	case c.access.expiresAt.IsZero():
		c.access.expiry.Stop()
	case c.expired():
		c.disconnect(codec.NotAuthorized, errIdentityExpired)
	default:
		c.loop.el.Schedule(&c.access.expiry, min(time.Until(c.access.expiresAt), expiryCheck))
	}
}

// expiryCheck is how often the end of an identity is compared with the clock.
const expiryCheck = time.Minute

// decide says what the Authorizer has decided, or does at once. A decision that is
// known costs no allocation.
func (c *Client) decide(action Action, topic []byte, qos byte, retain bool) decision {
	a := c.access
	if a == nil || a.authorizer == nil {
		return allowed
	}
	a.renew(c.loop.b, c.loop.el.Nanotime())
	if action == ActionDeliver && !a.deliveries {
		return allowed
	}
	if ok, known := a.known[question{string(topic), action, qos, retain}]; known {
		return decided(ok)
	}
	if a.fast == nil {
		return undecided
	}
	q := question{string(topic), action, qos, retain}
	ok, known := a.fast.AuthorizeFast(&c.info, action, q.topic, qos, retain)
	if !known {
		return undecided
	}
	a.keep(q, ok, a.generation, c.loop.b, c.loop.el.Nanotime())
	return decided(ok)
}

// keep notes a decision, unless it is one of an earlier generation.
func (d *decisions) keep(q question, ok bool, generation uint32, b *Broker, now int64) {
	if generation != d.generation || d.rules != b.rules.Load() || d.ttl == 0 || len(q.topic) > decisionTopicMax {
		return
	}
	if len(d.known) == 0 {
		d.oldest = now
		d.known = make(map[question]bool)
	}
	if len(d.known) >= decisionsMax {
		for other := range d.known { // any
			delete(d.known, other)
			break
		}
	}
	d.known[q] = ok
}

// ask asks the Authorizer off the loop, one question after the other, and calls done
// on it.
func (c *Client) ask(questions []question, done func(answers []bool)) {
	l, a, info := c.loop, c.access, c.info
	generation := a.generation
	l.b.authorizing.do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), authTimeout)
		defer cancel()
		answers := make([]bool, len(questions))
		for i, q := range questions {
			answers[i] = a.authorizer.Authorize(ctx, &info, q.action, q.topic, q.qos, q.retain)
		}
		l.el.Post(func() {
			for i, q := range questions {
				a.keep(q, answers[i], generation, l.b, l.el.Nanotime())
			}
			done(answers)
		})
	})
}

// mayGet says whether d may go to the client. If that isn't known it is asked for, and
// what waits for it goes on with the answer.
func (c *Client) mayGet(p *publication, d *delivery) decision {
	dec := c.decide(ActionDeliver, p.topic, d.qos, d.retain)
	if dec != undecided {
		return dec
	}
	a := c.access
	q, generation := question{string(p.topic), ActionDeliver, d.qos, d.retain}, a.generation
	if len(a.asking) >= askingMax || slices.Contains(a.asking, q) {
		return undecided
	}
	a.asking = append(a.asking, q)
	c.ask([]question{q}, func(answers []bool) {
		a.asking = slices.DeleteFunc(a.asking, func(o question) bool { return o == q })
		if c.state != stateConnected {
			return
		}
		if _, kept := a.known[q]; !kept && generation == a.generation && a.rules == c.loop.b.rules.Load() { // for what waits for it
			if a.known == nil {
				a.known = make(map[question]bool)
			}
			a.known[q] = answers[0]
			defer delete(a.known, q)
		}
		c.deliverHeld()
		c.advance()
	})
	return undecided
}

// hold keeps a QoS 0 message that waits for a decision, or for one that does.
func (c *Client) hold(p *publication, d *delivery) {
	a := c.access
	if len(a.held) >= heldMax || a.heldBytes+p.size() > c.loop.b.opts.Limits.OutputBytes {
		c.loop.drop(p, d, metrics.DropOutputFull)
		return
	}
	a.held = append(a.held, entryOf(p, d))
	a.heldBytes += p.size()
}

// deliverHeld sends the QoS 0 messages that waited for decisions.
func (c *Client) deliverHeld() {
	a := c.access
	var p publication
	for len(a.held) > 0 {
		e := a.held[0]
		p.set(e.Message)
		d := deliveryOf(c, e)
		if c.mayGet(&p, &d) == undecided {
			return
		}
		a.held[0] = nil
		a.held = a.held[1:]
		a.heldBytes -= p.size()
		c.sendQoS0(&p, &d, e)
	}
	a.held = nil
}

// leave ends what belongs to the identity of a client that is gone.
func (a *access) leave(c *Client) {
	a.expiry.Stop()
	var p publication
	for _, e := range a.held {
		p.set(e.Message)
		d := deliveryOf(c, e)
		c.loop.drop(&p, &d, metrics.DropSessionGone)
	}
	a.held, a.heldBytes = nil, 0
}

// passOn gives a message of a shared subscription that the client was denied, and
// nobody has queued, to another member, if there is one.
func (c *Client) passOn(e *store.Entry) {
	c.deny(e.Message.TopicName)
	l := c.loop
	l.el.Post(func() {
		if l.othersMayGet(e) {
			l.passToGroup(e)
		}
	})
}

// returnToGroup is passOn for an entry of the session's queue, and reports false if
// nobody else is to get it. again: it may have been sent.
func (c *Client) returnToGroup(e *store.Entry, again bool) bool {
	c.deny(e.Message.TopicName)
	if !c.loop.othersMayGet(e) {
		return false
	}
	return c.loop.backToGroups(c.session, c.epoch, []store.Entry{*e}, !again, func() {
		c.disconnect(codec.ServerBusy, errStoreUnavailable) // what follows the end of the connection tries again
	}) > 0
}

// denials are topics of shared subscriptions that a session may not get. They keep
// such messages from being offered to it again and again.
type denials struct {
	rules  uint64
	until  int64 // by the loops' clock
	topics []string
}

// mayNotGet reports whether s was denied a topic of a shared subscription.
func (l *loop) mayNotGet(s *Session, topic []byte) bool {
	d := s.denied.Load()
	return d != nil && d.rules == l.b.rules.Load() && l.el.Nanotime() < d.until && slices.Contains(d.topics, string(topic))
}

// unlessDenied restricts usable to sessions that may get a topic, as far as is known.
func (l *loop) unlessDenied(usable func(*Session) bool, topic []byte) func(*Session) bool {
	if !l.b.denies.Load() {
		return usable
	}
	return func(s *Session) bool { return usable(s) && !l.mayNotGet(s, topic) }
}

// othersMayGet reports whether a member of e's group is to get it that wasn't denied
// it: a connected one, or else a durable one that e can wait for.
func (l *loop) othersMayGet(e *store.Entry) (may bool) {
	usable := l.unlessDenied(func(s *Session) bool { return connectedMember(s) || e.QoS > 0 && s.durable }, e.Message.TopicName)
	if g := l.groupOf(e); g != nil {
		g.Each(func(m trie.Match[*Session]) bool {
			may = usable(m.Subscriber)
			return !may
		})
	}
	return may
}

// deny notes that the client's session may not get a topic of a shared subscription.
func (c *Client) deny(topic []byte) {
	l, a := c.loop, c.access
	l.b.denies.Store(true)
	if l.mayNotGet(c.session, topic) {
		return
	}
	d := &denials{rules: a.rules, until: math.MaxInt64}
	if old := c.session.denied.Load(); old != nil && old.rules == a.rules && len(old.topics) < deniedMax && l.el.Nanotime() < old.until {
		d.until, d.topics = old.until, slices.Clip(old.topics)
	} else if a.ttl >= 0 {
		d.until = l.el.Nanotime() + int64(max(a.ttl, deniedFor))
	}
	d.topics = append(d.topics, string(topic))
	c.session.denied.Store(d)
}
