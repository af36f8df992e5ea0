package loopmq

import (
	"bytes"
	"unicode/utf8"

	"loopmq/codec"
)

// judge judges a PUBLISH of a client beyond its syntax.
func (c *Client) judge(p *publication) *codec.Error {
	switch limit := c.settings.PayloadSize; {
	case limit > 0 && len(p.payload) > limit:
		return errPayloadTooLarge
	case reserved(p.topic):
		return errNotAuthorized
	case c.loop.b.opts.CheckPayloadFormat && declaresUTF8(p.properties) && !utf8.Valid(p.payload):
		return errPayloadFormat
	}
	return nil
}

// reserved reports whether clients may not publish to a topic: what the broker
// says about itself, but for the state of bridges, which they say themselves, and
// what nobody can subscribe to.
func reserved(topic []byte) bool {
	if state, ok := bytes.CutPrefix(topic, []byte("$SYS/")); ok {
		return !bytes.HasPrefix(state, []byte("broker/connection/")) || !bytes.HasSuffix(state, []byte("/state"))
	}
	return bytes.HasPrefix(topic, []byte("$share/"))
}

func (b *Broker) tooManyLevels(topic []byte) bool {
	limit := b.opts.Limits.TopicLevels
	if limit < 0 || len(topic) < limit {
		return false
	}
	levels := 1
	for _, ch := range topic {
		if ch == '/' {
			levels++
		}
	}
	return levels > limit
}

// declaresUTF8 reports whether the Payload Format Indicator says UTF-8.
func declaresUTF8(properties []byte) bool {
	var p codec.Properties
	return codec.DecodeForward(properties, &p) == nil && p.PayloadFormatIndicator == 1
}

// publishFrom is the way of a PUBLISH that a client sent: it is judged, passed
// on, and acknowledged when everything that must be stored is.
func (l *loop) publishFrom(c *Client, p *publication, packetID uint16, dup bool) error {
	s := c.settings
	switch {
	case l.b.tooManyLevels(p.topic):
		return errTopicLevels
	case p.qos > s.maximumQoS:
		return errQoSNotSupported
	case p.retain && s.RetainUnavailable:
		return errRetainNotSupported
	}
	if p.qos == 2 && !c.flows().in.Hold(packetID) {
		if !dup && c.flow.repeats(p, packetID) {
			return errRepeatedWithoutDup
		}
		// Its message is on its way, or was passed on. Its PUBREC waits behind that
		// of the first copy, should that still wait for a commit [MQTT-4.3.3-10].
		c.acknowledge(codec.TypePubrec, packetID, codec.Success)
		return nil
	}
	if p.qos > 0 && c.exceedsReceiveMaximum(p.qos) {
		return errReceiveMaximum
	}
	l.m.MessagesReceived[p.qos].Inc()
	if e := c.judge(p); e != nil {
		c.refusePublish(p.qos, packetID, e)
		return nil
	}
	var err error
	if p.topic, err = l.mount(s, p.topic); err != nil {
		return err
	}
	if p.retain && l.b.opts.CheckRetainSource {
		p.publisherName = c.info.Username
	}
	switch c.decide(ActionPublish, p.topic, p.qos, p.retain) {
	case allowed:
		l.publishAllowed(c, p, packetID)
	case denied:
		c.refusePublish(p.qos, packetID, errNotAuthorized)
	default:
		c.authorizePublish(p, packetID)
	}
	return nil
}

// ackType is the packet that acknowledges a PUBLISH.
func ackType(qos byte) codec.PacketType {
	if qos == 2 {
		return codec.TypePubrec
	}
	return codec.TypePuback
}

// publishAllowed passes on what a client may publish.
func (l *loop) publishAllowed(c *Client, p *publication, packetID uint16) {
	p.client = &c.info
	hold := p.qos == 2 && c.session.durable
	if p.qos == 2 {
		p.publisher, p.packetID = c, packetID
	}
	r := l.route(p, hold || p.qos == 2 && c.flow.owed.Len() > 0)
	reason := codec.Success
	if r.matched == 0 && p.qos == 1 { // a PUBREC only says that the message is here
		reason = codec.NoMatchingSubscribers
	}
	switch {
	case r.commit:
		if hold {
			r.op.Session, r.op.Epoch, r.op.PacketID = c.session.id, c.epoch, packetID
		}
		if l.b.opts.AcknowledgeEarly && !r.waits {
			l.commit(p, &r, c.disconnectIfFenced)
			c.acknowledge(ackType(p.qos), packetID, reason)
			break
		}
		owed := c.owe(owedAck{t: ackType(p.qos), packetID: packetID, reason: reason})
		l.commitFor(p, &r, waiter{client: c, owed: owed})
	case p.qos == 1:
		c.acknowledge(codec.TypePuback, packetID, reason)
	}
	if !r.commit && (r.op.Retain || r.forward) { // QoS 0: it is stored, but nobody waits for that
		l.commit(p, &r, nil)
	}
	if l.commits.full() {
		l.block(c, waitCommit)
	}
	if l.outboxFull && p.qos > 0 {
		l.block(c, waitMailbox)
	}
}

// authorizePublish asks the Authorizer, and reads nothing more from c meanwhile.
func (c *Client) authorizePublish(p *publication, packetID uint16) {
	l, q := c.loop, *p
	m := q.keep()
	c.wait(waitDecision)
	c.ask([]question{{string(m.TopicName), ActionPublish, m.QoS, m.Retain}}, func(answers []bool) {
		if c.state != stateConnected {
			return
		}
		from, received := q.from, q.received
		q.set(m)
		q.from, q.received = from, received
		if answers[0] {
			l.publishAllowed(c, &q, packetID)
		} else {
			c.refusePublish(q.qos, packetID, errNotAuthorized)
		}
		c.resume(waitDecision)
	})
}

// refusePublish answers a PUBLISH that is not passed on. 3.x has no negative
// acknowledgement: there it is acknowledged and dropped [MQTT-3.3.5-2 of 3.1.1].
func (c *Client) refusePublish(qos byte, packetID uint16, e *codec.Error) {
	c.loop.b.metrics.ProtocolErrors[e.ReasonCode].Inc()
	reason := e.ReasonCode
	if c.info.ProtocolVersion != codec.V5 {
		reason = codec.Success
	}
	if qos == 2 && reason.IsError() {
		c.flow.in.Release(packetID) // the handshake ends with this PUBREC
	}
	if qos > 0 {
		c.acknowledge(ackType(qos), packetID, reason)
	}
}
