package loopmq

import (
	"bytes"
	"time"

	"loopmq/codec"
)

// V5Handler handles MQTT 5.0.
type V5Handler struct{ b *Broker }

// v5State is what only some 5.0 clients have.
type v5State struct {
	aliases    [][]byte          // Topic Aliases that the client set, by alias
	aliasesOut map[string]uint16 // those that the server set
	aliasMax   int               // the client's Topic Alias Maximum
	authMethod string            // the Authentication Method of its CONNECT
	authState  any               // of a re-authentication under way
	authBusy   bool

	noReasonStrings bool // Request Problem Information was 0
}

// v5s returns c's v5State, which comes when it is first needed.
func (c *Client) v5s() *v5State {
	if c.v5 == nil {
		c.v5 = &v5State{}
	}
	return c.v5
}

// aliasTopicMin is the length from which a Topic Name is worth a Topic Alias.
const aliasTopicMin = 4

// alias replaces the topic of a PUBLISH to the client by the alias that was set
// for it, or picks the one to set with it. Only what setAlias notes is set.
func (s *v5State) alias(h *codec.PublishHeader, topic []byte) []byte {
	if s.aliasMax == 0 || len(topic) < aliasTopicMin {
		return topic
	}
	if a, ok := s.aliasesOut[string(topic)]; ok {
		h.TopicAlias = a
		return nil
	}
	if len(s.aliasesOut) < s.aliasMax {
		h.TopicAlias = uint16(len(s.aliasesOut) + 1)
	}
	return topic
}

func (s *v5State) setAlias(alias uint16, topic []byte) {
	if s.aliasesOut == nil {
		s.aliasesOut = make(map[string]uint16)
	}
	s.aliasesOut[string(topic)] = alias
}

// Connect implements Handler.
func (v *V5Handler) Connect(c *Client, p *codec.Connect) error {
	limits, props := &c.settings.limits, &p.Properties
	k := newConnecting(c, p)
	k.sessionExpiryInterval = min(props.SessionExpiryInterval*has(props, codec.PropSessionExpiryInterval), limits.SessionExpiryInterval)
	k.expiryChanged = k.sessionExpiryInterval != props.SessionExpiryInterval*has(props, codec.PropSessionExpiryInterval)
	if limits.KeepAlive > 0 && (k.keepAlive == 0 || k.keepAlive > limits.KeepAlive) {
		k.keepAlive, k.serverKeepAlive = limits.KeepAlive, true
	}
	k.requestResponseInformation = props.Has(codec.PropRequestResponseInformation) && props.RequestResponseInformation == 1
	if props.Has(codec.PropAuthenticationMethod) {
		k.request.AuthenticationMethod = string(props.AuthenticationMethod)
		k.request.AuthenticationData = append([]byte(nil), props.AuthenticationData...)
		c.v5s().authMethod = k.request.AuthenticationMethod
	}
	if props.Has(codec.PropReceiveMaximum) {
		c.receiveMaximum = uint16(min(int(props.ReceiveMaximum), limits.inflight()))
	}
	if props.Has(codec.PropMaximumPacketSize) {
		c.maximumPacketSize = props.MaximumPacketSize
		if c.maximumPacketSize < connackSizeMin { // [MQTT-3.1.2-24]
			c.close(errPacketTooLarge)
			return nil
		}
	}
	if props.Has(codec.PropTopicAliasMaximum) && props.TopicAliasMaximum > 0 {
		c.v5s().aliasMax = min(int(props.TopicAliasMaximum), serverAliasMax)
	}
	if props.Has(codec.PropRequestProblemInformation) && props.RequestProblemInformation == 0 {
		c.v5s().noReasonStrings = true
	}
	c.begin(k)
	return nil
}

// connackSizeMin is the size of a CONNACK without properties.
const connackSizeMin = 5

// serverAliasMax is how many Topic Aliases the server sets for one client.
const serverAliasMax = 64

// has is 1 if a property is there, else 0.
func has(p *codec.Properties, id codec.PropertyID) uint32 {
	if p.Has(id) {
		return 1
	}
	return 0
}

// Packet implements Handler.
func (v *V5Handler) Packet(c *Client, h codec.FixedHeader, body []byte) error {
	if handled, err := c.handshake(h, body); handled {
		return err
	}
	l := c.loop
	switch h.Type {
	case codec.TypePublish:
		p := &l.packets.publish
		if err := p.Decode(codec.V5, h.Flags, body); err != nil {
			return err
		}
		return v.publish(c, p)
	case codec.TypeSubscribe:
		p := &l.packets.subscribe
		if err := p.Decode(codec.V5, h.Flags, body); err != nil {
			return err
		}
		c.subscribe(p)
		return nil
	case codec.TypeUnsubscribe:
		p := &l.packets.unsubscribe
		if err := p.Decode(codec.V5, h.Flags, body); err != nil {
			return err
		}
		c.unsubscribe(p)
		return nil
	case codec.TypeDisconnect:
		p := &l.packets.disconnect
		if err := p.Decode(codec.V5, h.Flags, body); err != nil {
			return err
		}
		return v.disconnect(c, p)
	case codec.TypeAuth:
		p := &l.packets.auth
		if err := p.Decode(codec.V5, h.Flags, body); err != nil {
			return err
		}
		return c.auth(p)
	}
	return errUnexpectedPacket
}

// publish handles a PUBLISH.
func (v *V5Handler) publish(c *Client, p *codec.Publish) error {
	l, props := c.loop, &p.Properties
	m := &l.message
	*m = publication{
		topic: p.TopicName, payload: p.Payload, qos: p.QoS, retain: p.Retain,
		from: c.session, publisherID: c.info.ClientID, received: l.el.Nanotime(),
	}
	if len(props.SubscriptionIdentifiers) > 0 {
		return errSubscriptionIDInbound
	}
	if props.Has(codec.PropTopicAlias) {
		if err := c.resolveAlias(m, props.TopicAlias); err != nil {
			return err
		}
	}
	if props.Has(codec.PropMessageExpiryInterval) {
		m.expiry = l.now().Add(time.Duration(props.MessageExpiryInterval) * time.Second)
	}
	l.forward = props.AppendForward(l.forward[:0])
	m.properties = l.forward
	return l.publishFrom(c, m, p.PacketID, p.Dup)
}

// resolveAlias sets or uses a Topic Alias of the client [MQTT-3.3.2-8 to -12].
func (c *Client) resolveAlias(m *publication, alias uint16) error {
	if int(alias) > c.settings.limits.TopicAliasMaximum {
		return errTopicAliasTooLarge
	}
	s := c.v5s()
	if len(m.topic) > 0 {
		for len(s.aliases) < int(alias) {
			s.aliases = append(s.aliases, nil)
		}
		if !bytes.Equal(s.aliases[alias-1], m.topic) { // a copy, which is not changed: a message may have it
			s.aliases[alias-1] = append([]byte(nil), m.topic...)
		}
		return nil
	}
	if int(alias) > len(s.aliases) || s.aliases[alias-1] == nil {
		return errTopicAliasUnknown
	}
	m.topic = s.aliases[alias-1]
	return nil
}

// disconnect handles a DISCONNECT.
func (v *V5Handler) disconnect(c *Client, p *codec.Disconnect) error {
	if p.Properties.Has(codec.PropSessionExpiryInterval) {
		interval := p.Properties.SessionExpiryInterval
		if c.sessionExpiryInterval == 0 && interval > 0 {
			return errSessionExpiryZero
		}
		c.sessionExpiryInterval = min(interval, c.settings.limits.SessionExpiryInterval)
	}
	switch p.ReasonCode {
	case codec.NormalDisconnection:
		c.close(errNormal)
	case codec.DisconnectWithWill:
		c.close(errDisconnectWithWill)
	default:
		c.close(codec.NewError(p.ReasonCode, "client sent DISCONNECT with "+p.ReasonCode.String()))
	}
	return nil
}

// Connack implements Handler.
func (v *V5Handler) Connack(c *Client, sessionPresent bool, reason codec.ReasonCode, text string) {
	if !reason.AllowedIn(codec.TypeConnack) { // an Authenticator may return any
		reason = codec.UnspecifiedError
	}
	p := codec.Connack{SessionPresent: sessionPresent, ReasonCode: reason}
	if reason == codec.Success {
		v.connackChanges(c, &p.Properties)
		v.connackOffers(c, &p.Properties)
	} else {
		c.reasonString(&p.Properties, text)
		v.serverReference(&p.Properties, reason)
	}
	if !c.accepts(p.Size(codec.V5)) {
		p.Properties.Reset() // [MQTT-3.2.2-19]
		if reason == codec.Success {
			v.connackChanges(c, &p.Properties)
		}
	}
	c.conn.EndWrite(p.Append(c.conn.BeginWrite(), codec.V5))
	c.loop.m.PacketsSent[codec.TypeConnack].Inc()
}

// connackFits reports whether the client's Maximum Packet Size lets it be told what
// it must know [MQTT-3.1.2-24].
func (v *V5Handler) connackFits(c *Client) bool {
	var p codec.Connack
	v.connackChanges(c, &p.Properties)
	return c.accepts(p.Size(codec.V5))
}

// connackChanges says what is other than the client asked for, and ends an enhanced
// authentication.
func (v *V5Handler) connackChanges(c *Client, p *codec.Properties) {
	k := c.connect
	if k.expiryChanged {
		p.SessionExpiryInterval = k.sessionExpiryInterval
		p.Set(codec.PropSessionExpiryInterval)
	}
	if k.assigned {
		p.AssignedClientIdentifier = []byte(c.info.ClientID) // [MQTT-3.2.2-16]
		p.Set(codec.PropAssignedClientIdentifier)
	}
	if c.settings.maximumQoS < 2 { // [MQTT-3.2.2-9]
		p.MaximumQoS = c.settings.maximumQoS
		p.Set(codec.PropMaximumQoS)
	}
	if c.settings.RetainUnavailable {
		p.RetainAvailable = 0
		p.Set(codec.PropRetainAvailable)
	}
	if k.serverKeepAlive {
		p.ServerKeepAlive = k.keepAlive // [MQTT-3.2.2-21]
		p.Set(codec.PropServerKeepAlive)
	}
	if k.request.AuthenticationMethod != "" { // [MQTT-4.12.0-5]
		p.AuthenticationMethod = []byte(k.request.AuthenticationMethod)
		p.Set(codec.PropAuthenticationMethod)
		if k.authenticationData != nil {
			p.AuthenticationData = k.authenticationData
			p.Set(codec.PropAuthenticationData)
		}
	}
}

// connackOffers says what the server allows.
func (v *V5Handler) connackOffers(c *Client, p *codec.Properties) {
	limits := &c.settings.limits
	p.ReceiveMaximum = uint16(limits.ReceiveMaximum)
	p.Set(codec.PropReceiveMaximum)
	p.MaximumPacketSize = uint32(limits.PacketSize)
	p.Set(codec.PropMaximumPacketSize)
	if limits.TopicAliasMaximum > 0 {
		p.TopicAliasMaximum = uint16(limits.TopicAliasMaximum)
		p.Set(codec.PropTopicAliasMaximum)
	}
	if prefix := v.b.opts.ResponseInformation; prefix != "" && c.connect.requestResponseInformation { // [MQTT-3.1.2-28]
		p.ResponseInformation = []byte(prefix + c.info.ClientID + "/")
		p.Set(codec.PropResponseInformation)
	}
}

// reasonString sets the Reason String.
func (c *Client) reasonString(p *codec.Properties, text string) {
	if text != "" {
		p.ReasonString = []byte(text)
		p.Set(codec.PropReasonString)
	}
}

// serverReference says where to go, where that is known.
func (v *V5Handler) serverReference(p *codec.Properties, reason codec.ReasonCode) {
	if ref := v.b.elsewhere.Load(); ref != nil && reason == codec.UseAnotherServer {
		p.ServerReference = []byte(*ref)
		p.Set(codec.PropServerReference)
	}
}

// Ack implements Handler.
func (v *V5Handler) Ack(c *Client, t codec.PacketType, packetID uint16, reason codec.ReasonCode) {
	b := c.conn.BeginWrite()
	if v.b.opts.ReasonStrings && reason.IsError() && (c.v5 == nil || !c.v5.noReasonStrings) { // [MQTT-3.1.2-29]
		a := codec.Ack{Type: t, PacketID: packetID, ReasonCode: reason}
		c.reasonString(&a.Properties, reason.String())
		if c.accepts(a.Size(codec.V5)) { // [MQTT-3.4.2-2]
			c.conn.EndWrite(a.Append(b, codec.V5))
			return
		}
	}
	c.conn.EndWrite(codec.AppendAckReason(b, codec.V5, t, packetID, reason))
}

// Disconnect implements Handler.
func (v *V5Handler) Disconnect(c *Client, reason codec.ReasonCode, text string) {
	if !reason.AllowedIn(codec.TypeDisconnect) {
		reason = codec.UnspecifiedError
	}
	p := codec.Disconnect{ReasonCode: reason}
	c.reasonString(&p.Properties, text)
	v.serverReference(&p.Properties, reason)
	if !c.accepts(p.Size(codec.V5)) { // [MQTT-3.14.2-3]
		p.Properties.Reset()
	}
	c.conn.EndWrite(p.Append(c.conn.BeginWrite(), codec.V5))
	c.loop.m.PacketsSent[codec.TypeDisconnect].Inc()
}

// Refuse implements Handler.
func (v *V5Handler) Refuse(c *Client, e *codec.Error) {
	switch {
	case e.Silent():
	case e.ReasonCode == codec.UnsupportedProtocolVersion: // who knows what it can read
		v.Connack(c, false, e.ReasonCode, "")
	case c.state == stateConnected:
		v.Disconnect(c, e.ReasonCode, e.Error())
	default:
		v.Connack(c, false, e.ReasonCode, e.Error())
	}
}
