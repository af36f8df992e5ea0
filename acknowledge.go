package loopmq

import (
	"loopmq/codec"
	"loopmq/session"
	"loopmq/store"
)

// owedAcks are the PUBACKs and PUBRECs that a client is owed, in the order of
// its PUBLISH packets: one that needs no commit waits behind one that does
// [MQTT-4.6.0-2, MQTT-4.6.0-3].
type owedAcks struct {
	acks    []owedAck // from first on; before it are those that were sent
	first   int
	pubacks int    // how many of them are PUBACKs
	head    uint64 // the number of acks[first]
}

// owedKept is how much room for acknowledgements a client keeps that is owed none.
const owedKept = 64

type owedAck struct {
	t        codec.PacketType
	reason   codec.ReasonCode
	ready    bool
	packetID uint16
}

// Len returns how many are owed.
func (o *owedAcks) Len() int { return len(o.acks) - o.first }

// add appends an acknowledgement, and returns its number.
func (o *owedAcks) add(a owedAck) (n uint64) {
	n = o.head + uint64(o.Len())
	if len(o.acks) == cap(o.acks) && o.first > len(o.acks)/2 {
		o.acks, o.first = o.acks[:copy(o.acks, o.acks[o.first:])], 0
	}
	o.acks = append(o.acks, a)
	if a.t == codec.TypePuback {
		o.pubacks++
	}
	return n
}

// number returns the acknowledgement with number n.
func (o *owedAcks) number(n uint64) *owedAck { return &o.acks[o.first+int(n-o.head)] }

// next takes the first acknowledgement out if it is ready.
func (o *owedAcks) next() (a owedAck, ok bool) {
	if o.Len() == 0 || !o.acks[o.first].ready {
		return owedAck{}, false
	}
	a = o.acks[o.first]
	o.first++
	o.head++
	if a.t == codec.TypePuback {
		o.pubacks--
	}
	if o.Len() == 0 {
		o.acks, o.first = o.acks[:0], 0
		if cap(o.acks) > owedKept {
			o.acks = nil
		}
	}
	return a, true
}

// acknowledge answers a PUBLISH that needs no commit.
func (c *Client) acknowledge(t codec.PacketType, packetID uint16, reason codec.ReasonCode) {
	if c.flow == nil || c.flow.owed.Len() == 0 {
		c.sendAck(t, packetID, reason)
		return
	}
	c.owe(owedAck{t: t, packetID: packetID, reason: reason, ready: true})
}

// owe adds an acknowledgement to those that are owed, and returns its number. A
// client is not read any more while it is owed too many; a 5.0 client that goes
// that far is disconnected, see exceedsReceiveMaximum.
func (c *Client) owe(a owedAck) (n uint64) {
	o := &c.flows().owed
	n = o.add(a)
	limit := c.settings.limits.ReceiveMaximum
	if c.info.ProtocolVersion == codec.V5 {
		limit++
	}
	if o.Len() >= limit {
		c.wait(waitAcks)
	}
	return n
}

// stored ends the wait of the acknowledgement with number n.
func (c *Client) stored(n uint64, op *store.Op, err error) {
	if c.state == stateClosed {
		return
	}
	if err == nil && op.Result == store.Fenced {
		c.disconnect(codec.SessionTakenOver, errTakenOver)
		return
	}
	a := c.flow.owed.number(n)
	if err != nil && a.t == codec.TypePubrec && c.session.durable {
		// The store may hold the Packet Identifier, so it isn't free for another message:
		// the client has to send this one again.
		c.disconnect(codec.ServerBusy, errStoreUnavailable)
		return
	}
	a.ready = true
	if reason := reasonFor(op, err); reason != codec.Success {
		if c.info.ProtocolVersion != codec.V5 { // 3.x has no way to say so but to close
			c.close(errQuota)
			return
		}
		a.reason = reason
		if a.t == codec.TypePubrec { // the handshake ends here
			c.flow.in.Release(a.packetID)
		}
	}
	c.sendOwed()
}

// disconnectIfFenced is stored for a message that was acknowledged before.
func (c *Client) disconnectIfFenced(op *store.Op, err error) {
	if c.state != stateClosed && err == nil && op.Result == store.Fenced {
		c.disconnect(codec.SessionTakenOver, errTakenOver)
	}
}

// sendOwed sends what is ready, in order.
func (c *Client) sendOwed() {
	o := &c.flow.owed
	for a, ok := o.next(); ok; a, ok = o.next() {
		c.sendAck(a.t, a.packetID, a.reason)
	}
	if c.waits&waitAcks != 0 && o.Len() < c.settings.limits.ReceiveMaximum {
		// Not from here: what is acknowledged may still have to be delivered, and
		// must not be overtaken by what comes next.
		c.loop.el.Post(func() { c.resume(waitAcks) })
	}
}

// exceedsReceiveMaximum reports whether a 5.0 client sent more than it was told
// it may [MQTT-3.3.4-9]. A QoS 2 message counts from its PUBLISH, which is noted
// already, to its PUBREL, a QoS 1 message while its PUBACK is owed.
func (c *Client) exceedsReceiveMaximum(qos byte) bool {
	if c.info.ProtocolVersion != codec.V5 || c.flow == nil {
		return false
	}
	n := c.flow.owed.pubacks + c.flow.in.Len()
	if qos == 1 {
		n++
	}
	return n > c.settings.limits.ReceiveMaximum
}

// outState returns how far the delivery with a Packet Identifier is.
func (c *Client) outState(packetID uint16) session.State {
	if c.flow == nil {
		return session.Unknown
	}
	return c.flow.out.State(packetID)
}

// puback handles the end of a QoS 1 delivery. An unknown Packet Identifier is of
// before a new start, here and in the other acknowledgements; the one of a
// delivery with another QoS is an error.
func (c *Client) puback(a *codec.Ack) error {
	switch c.outState(a.PacketID) {
	case session.Unknown:
		return nil
	case session.AwaitingPuback:
		n, e := c.finishOutbound(a.PacketID)
		c.recordAcked(e, 1, a)
		c.delivered(n)
		return nil
	}
	return errAckOfOtherQoS
}

// unknownPacketID is the answer to a PUBREC or PUBREL with a Packet Identifier
// that nothing is known of: after a reconnect that is no error (sections 3.6.2.1,
// 3.7.2.1), so only who asked for explanations hears of it.
func (c *Client) unknownPacketID() codec.ReasonCode {
	if c.loop.b.opts.ReasonStrings {
		return codec.PacketIdentifierNotFound
	}
	return codec.Success
}

// finishOutbound takes a message out of the window.
func (c *Client) finishOutbound(packetID uint16) (store.Number, *store.Entry) {
	n, e := c.flow.out.Finish(packetID)
	c.loop.m.Inflight.Add(^uint64(0))
	return n, e
}

// delivered ends a delivery: the client has the message, or has refused it.
func (c *Client) delivered(n store.Number) {
	c.loop.m.MessagesAcked.Inc()
	if c.session.durable {
		c.loop.commits.finish(c.session, n, c.flow.out.Unfinished())
	}
	c.advance()
}

// pubrec handles the first half of a QoS 2 delivery: the client has the message,
// and PUBREL goes out once the store knows [MQTT-4.3.3-4].
func (c *Client) pubrec(a *codec.Ack) error {
	switch c.outState(a.PacketID) {
	case session.AwaitingPubrec:
	case session.AwaitingPubcomp: // the PUBREL was lost in a reconnect, or the PUBREC came twice
		if !a.ReasonCode.IsError() {
			c.resendPubrel(a.PacketID)
		}
		return nil
	case session.Releasing:
		return nil
	case session.Unknown:
		if !a.ReasonCode.IsError() {
			c.sendAck(codec.TypePubrel, a.PacketID, c.unknownPacketID())
		}
		return nil
	default:
		return errAckOfOtherQoS
	}
	if a.ReasonCode.IsError() { // refused: the Packet Identifier is free again
		n, e := c.finishOutbound(a.PacketID)
		c.recordAcked(e, 2, a)
		c.delivered(n)
		return nil
	}
	c.recordAcked(c.flow.out.Entry(a.PacketID), 2, a)
	if !c.session.durable {
		c.flow.out.SetState(a.PacketID, session.AwaitingPubcomp)
		c.sendAck(codec.TypePubrel, a.PacketID, codec.Success)
		return nil
	}
	packetID := a.PacketID
	n := c.flow.out.SetState(packetID, session.Releasing)
	c.loop.commits.add(c.op(store.OpRelease, n), func(op *store.Op, err error) {
		switch {
		case c.state == stateClosed:
		case err != nil:
			c.disconnect(codec.ServerBusy, errStoreUnavailable)
		case op.Result == store.Fenced:
			c.disconnect(codec.SessionTakenOver, errTakenOver)
		default:
			c.flow.out.SetState(packetID, session.AwaitingPubcomp)
			c.sendAck(codec.TypePubrel, packetID, codec.Success)
		}
	})
	return nil
}

// resendPubrel sends a PUBREL again. 3.1 marks that with DUP (its section 2.1),
// the later versions don't.
func (c *Client) resendPubrel(packetID uint16) {
	if c.local != nil {
		c.handler().Ack(c, codec.TypePubrel, packetID, codec.Success)
		return
	}
	const dup = 0x08
	b := codec.AppendAck(c.conn.BeginWrite(), codec.TypePubrel, packetID)
	if c.info.ProtocolVersion == codec.V31 {
		b[len(b)-4] |= dup
	}
	c.conn.EndWrite(b)
	c.loop.m.PacketsSent[codec.TypePubrel].Inc()
}

// op is an operation on the client's own session.
func (c *Client) op(k store.OpKind, numbers ...store.Number) store.Op {
	return store.Op{Kind: k, Session: c.session.id, Epoch: c.epoch, Numbers: numbers}
}

// pubcomp handles the end of a QoS 2 delivery.
func (c *Client) pubcomp(a *codec.Ack) error {
	switch c.outState(a.PacketID) {
	case session.Unknown:
		return nil
	case session.AwaitingPubcomp:
	default:
		return errAckOfOtherQoS
	}
	n, _ := c.finishOutbound(a.PacketID)
	c.loop.m.MessagesAcked.Inc()
	if c.session.durable {
		c.loop.commits.add(c.op(store.OpComplete, n), nil)
	}
	c.advance()
	return nil
}

// pubrel handles the second half of a QoS 2 PUBLISH of the client: its Packet
// Identifier is free again. PUBCOMP waits until the store knows, else the
// client's next message under it would be taken for a duplicate.
func (c *Client) pubrel(a *codec.Ack) {
	packetID := a.PacketID
	if c.flow == nil || !c.flow.in.Release(packetID) {
		c.sendAck(codec.TypePubcomp, packetID, c.unknownPacketID())
		return
	}
	if c.flow.repeated.packetID == packetID {
		c.flow.repeated = repeat{}
	}
	if !c.session.durable {
		c.sendAck(codec.TypePubcomp, packetID, codec.Success)
		return
	}
	op := c.op(store.OpUnhold)
	op.PacketID = packetID
	c.loop.commits.add(op, func(op *store.Op, err error) {
		switch {
		case c.state == stateClosed:
		case err != nil:
			c.disconnect(codec.ServerBusy, errStoreUnavailable)
		case op.Result == store.Fenced:
			c.disconnect(codec.SessionTakenOver, errTakenOver)
		default:
			c.sendAck(codec.TypePubcomp, packetID, codec.Success)
		}
	})
}
