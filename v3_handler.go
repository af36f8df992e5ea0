package loopmq

import (
	"loopmq/codec"
)

// V3Handler handles MQTT 3.1 and 3.1.1.
type V3Handler struct{ b *Broker }

// Connect implements Handler.
func (v *V3Handler) Connect(c *Client, p *codec.Connect) error {
	if p.Version == codec.V31 && len(p.ClientID) == 0 || // section 3.1 of 3.1, whose limit of 23 no client keeps to any more
		len(p.ClientID) == 0 && !p.CleanStart { // [MQTT-3.1.3-8 of 3.1.1]
		v.Connack(c, false, codec.ClientIdentifierNotValid, "")
		c.close(errClientIDNotValid)
		return nil
	}
	k := newConnecting(c, p)
	if !p.CleanStart {
		k.sessionExpiryInterval = c.settings.limits.SessionExpiryInterval
	}
	c.info.bridge = p.Bridge
	c.begin(k)
	return nil
}

// Packet implements Handler.
func (v *V3Handler) Packet(c *Client, h codec.FixedHeader, body []byte) error {
	if handled, err := c.handshake(h, body); handled {
		return err
	}
	l, version := c.loop, c.info.ProtocolVersion
	switch h.Type {
	case codec.TypePublish:
		p := &l.packets.publish
		if err := p.Decode(version, h.Flags, body); err != nil {
			return err
		}
		m := &l.message
		*m = publication{
			topic: p.TopicName, payload: p.Payload, qos: p.QoS, retain: p.Retain,
			from: c.session, publisherID: c.info.ClientID, received: l.el.Nanotime(),
		}
		return l.publishFrom(c, m, p.PacketID, p.Dup)
	case codec.TypeSubscribe:
		p := &l.packets.subscribe
		if err := p.Decode(version, h.Flags, body); err != nil {
			return err
		}
		c.subscribe(p)
		return nil
	case codec.TypeUnsubscribe:
		p := &l.packets.unsubscribe
		if err := p.Decode(version, h.Flags, body); err != nil {
			return err
		}
		c.unsubscribe(p)
		return nil
	case codec.TypeDisconnect:
		if err := l.packets.disconnect.Decode(version, h.Flags, body); err != nil {
			return err
		}
		c.close(errNormal)
		return nil
	}
	return errUnexpectedPacket
}

// Connack implements Handler. Where no return code says why a CONNECT is refused,
// there is no CONNACK [MQTT-3.2.2-6 of 3.1.1].
func (v *V3Handler) Connack(c *Client, sessionPresent bool, reason codec.ReasonCode, _ string) {
	code, ok := returnCode(reason)
	if !ok {
		return
	}
	if c.info.ProtocolVersion == codec.V31 {
		sessionPresent = false // 3.1 has no such flag
	}
	p := codec.Connack{SessionPresent: sessionPresent, ReasonCode: codec.ReasonCode(code)}
	c.conn.EndWrite(p.Append(c.conn.BeginWrite(), codec.V311))
	c.loop.m.PacketsSent[codec.TypeConnack].Inc()
}

// returnCode is the Connect Return Code that says the same as a reason code
// (section 3.2.2.3 of 3.1.1); ok is false if none does.
func returnCode(reason codec.ReasonCode) (code byte, ok bool) {
	switch reason {
	case codec.Success:
		return 0, true
	case codec.UnsupportedProtocolVersion:
		return 1, true
	case codec.ClientIdentifierNotValid:
		return 2, true
	case codec.ServerUnavailable, codec.ServerBusy, codec.QuotaExceeded, codec.ServerShuttingDown, codec.ConnectionRateExceeded, codec.UseAnotherServer:
		return 3, true
	case codec.BadUserNameOrPassword:
		return 4, true
	case codec.NotAuthorized, codec.BadAuthenticationMethod, codec.Banned:
		return 5, true
	}
	return 0, false
}

// Ack implements Handler: 3.x has no reason codes.
func (v *V3Handler) Ack(c *Client, t codec.PacketType, packetID uint16, _ codec.ReasonCode) {
	c.conn.EndWrite(codec.AppendAck(c.conn.BeginWrite(), t, packetID))
}

// Disconnect implements Handler: a 3.x server sends no DISCONNECT.
func (v *V3Handler) Disconnect(*Client, codec.ReasonCode, string) {}

// Refuse implements Handler: only a CONNECT gets an answer, and only if its
// protocol version is the fault.
func (v *V3Handler) Refuse(c *Client, e *codec.Error) {
	if c.state == stateNew && e.ReasonCode == codec.UnsupportedProtocolVersion {
		v.Connack(c, false, e.ReasonCode, "")
	}
}
