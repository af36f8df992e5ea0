package loopmq

import (
	"crypto/rand"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/session"
	"loopmq/store"
)

// connecting is what a CONNECT asks for, while it is decided on. Its bytes are
// its own.
type connecting struct {
	request               ConnectRequest
	will                  *store.Will
	sessionExpiryInterval uint32
	keepAlive             uint16

	challenge any // the authenticator's state of an enhanced authentication

	name                       string // of this CONNECT among all, for the store
	cleanStart                 bool
	assigned                   bool     // the ClientID is the server's
	claimBegan                 int64    // when the first claim failed, by the loop's clock; 0: none has
	yields, afterTurn          []func() // claims at other instances: to be looked at when this one has returned, or is over
	expiryChanged              bool
	serverKeepAlive            bool
	requestResponseInformation bool
	counted                    bool        // in Broker.connecting
	challenged                 bool        // AUTH was sent, and the client's is awaited
	deleted                    func(error) // called at the end of what only deletes a session, see DeleteSession
	authenticationData         []byte
}

// newConnecting copies what both versions have in CONNECT.
func newConnecting(c *Client, p *codec.Connect) *connecting {
	k := &connecting{
		name:       rand.Text(),
		cleanStart: p.CleanStart,
		keepAlive:  p.KeepAlive,
		request: ConnectRequest{
			ClientID:        string(p.ClientID),
			Username:        string(p.Username),
			HasUsername:     p.UsernameFlag,
			RemoteAddr:      c.conn.RemoteAddr(),
			Listener:        c.info.Listener,
			ProtocolVersion: p.Version,
		},
	}
	if p.PasswordFlag {
		k.request.Password = append([]byte{}, p.Password...)
	}
	if k.request.ClientID == "" {
		k.request.ClientID, k.assigned = newClientID(c.settings), true
	}
	if p.WillFlag {
		k.will = newWill(k.request.ClientID, &p.Will)
	}
	c.receiveMaximum = uint16(c.settings.limits.inflight())
	return k
}

// newClientID makes up a ClientID for who has none.
func newClientID(s *settings) string { return s.AutoIDPrefix + rand.Text() }

// newWill copies a Will.
func newWill(clientID string, p *codec.Will) *store.Will {
	w := &store.Will{ClientID: clientID, ExpirySeconds: -1}
	m := publication{
		topic: p.TopicName, payload: p.Payload, properties: p.Properties.AppendForward(nil),
		qos: p.QoS, retain: p.Retain, publisherID: clientID,
	}
	w.Message = *m.keep()
	if p.Properties.Has(codec.PropMessageExpiryInterval) {
		w.ExpirySeconds = int64(p.Properties.MessageExpiryInterval)
	}
	if p.Properties.Has(codec.PropWillDelayInterval) {
		w.DelayInterval = p.Properties.WillDelayInterval
	}
	return w
}

// begin starts the decision on a CONNECT: authentication, authorization of the
// Will, the end of an earlier connection with the same ClientID, the claim of the
// session. Nothing more of c's input is handled until it is made.
func (c *Client) begin(k *connecting) {
	c.state = stateConnecting
	c.connect = k
	c.info.ClientID, c.info.CleanStart, c.info.KeepAlive = k.request.ClientID, k.cleanStart, k.keepAlive
	c.wait(waitDecision)
	b, s := c.loop.b, c.settings
	refusal := s.refusal(k)
	if s.Authenticator != nil && c.local == nil {
		k.request.TLS = c.conn.TLSState()
	}
	switch {
	case b.shuttingDown.Load() || b.rejoining.Load() || b.parking.refuses():
		if e := b.farewell(); e == errUseAnotherServer {
			c.refuse(e.ReasonCode, e.Error())
		} else { // CONNACK has no Server shutting down
			c.refuse(codec.ServerUnavailable, e.Error())
		}
	case c.meter != nil && c.meter.refused != nil:
		c.refuse(c.meter.refused.ReasonCode, c.meter.refused.Error())
	case !c.mayBeDecided():
		b.refusedConnects[metrics.RefuseConnects].Add(1)
		c.refuse(codec.ServerBusy, errTooManyConnects.Error())
	case b.tooManyLevelsIn(k.will):
		c.refuse(codec.TopicNameInvalid, errTopicLevels.Error())
	case k.will != nil && reserved(k.will.Message.TopicName):
		c.refuse(codec.NotAuthorized, errNotAuthorized.Error())
	case refusal != nil:
		c.refuse(refusal.ReasonCode, refusal.Error())
	case c.local != nil:
		c.authenticated(c.local.identity)
	case s.Authenticator != nil && !s.anonymous(&k.request):
		c.authenticate()
	case k.request.AuthenticationMethod != "":
		c.refuse(codec.BadAuthenticationMethod, errBadAuthMethod.Error())
	default:
		c.authenticated(Identity{Username: k.request.Username})
	}
}

// mayBeDecided counts a CONNECT among those that are decided on, unless there are
// too many. decided takes it back.
func (c *Client) mayBeDecided() bool {
	b := c.loop.b
	if limit := b.limits.Load().Connects; limit > 0 && b.connecting.Load() >= int64(limit) {
		return false
	}
	b.connecting.Add(1)
	c.connect.counted = true
	return true
}

func (c *Client) decided() {
	if k := c.connect; k != nil && k.counted {
		k.counted = false
		c.loop.b.connecting.Add(-1)
	}
}

func (b *Broker) tooManyLevelsIn(w *store.Will) bool {
	return w != nil && b.tooManyLevels(w.Message.TopicName)
}

// refuse answers a CONNECT with a refusal.
func (c *Client) refuse(reason codec.ReasonCode, text string) {
	b, k, e := c.loop.b, c.connect, codec.NewError(reason, text)
	if isAuthFailure(reason) {
		b.metrics.AuthFailures.Inc()
		c.recordRefused(&k.request, e)
	}
	c.handler().Connack(c, false, reason, text)
	c.close(e)
}

// attach makes c the connection of s, and answers the CONNECT.
func (c *Client) attach(s *Session, res *store.Claimed) {
	b, k, l := c.loop.b, c.connect, c.loop
	c.will = k.will
	if c.will != nil {
		c.will.Epoch = c.epoch
	}
	c.info.KeepAlive = k.keepAlive
	c.sessionExpiryInterval = k.sessionExpiryInterval
	c.state = stateConnected
	c.lastSeen = l.el.Nanotime()
	c.timer.Stop()
	if limit := session.KeepAliveLimit(k.keepAlive); limit > 0 {
		l.el.Schedule(&c.timer, limit)
	}
	l.connected.Add(1)
	s.denied.Store(nil)
	s.queuesQoS0.Store(c.settings.QueueQoS0)
	c.handler().Connack(c, res.Present, codec.Success, "")
	c.decided()
	c.connect = nil
	if c.state == stateClosed { // the CONNACK was too large for the client
		return
	}
	b.log.Info(c.connectEvent(), "client_id", c.info.ClientID, "remote_addr", c.info.RemoteAddr(),
		"username", c.info.Username, "clean_start", c.info.CleanStart, "keep_alive", c.info.KeepAlive, "session_present", res.Present)
	if b.wants(EventClientConnected) {
		e := l.event(EventClientConnected, &c.info)
		e.SessionPresent = res.Present
		l.record(e)
	}
	// First the owner, then the queue: what is stored in between comes as news.
	s.client.Store(c)
	if s.over.Load() { // and forgotten: the Yield that follows may not find c
		c.takenOver = takenOverClean
		c.disconnect(codec.SessionTakenOver, errTakenOver)
		l.recordClient(EventSessionTakenOver, &c.info, codec.SessionTakenOver, "")
		return
	}
	if s.epoch.Load() < c.epoch { // else another instance has claimed it, and is about to say so
		s.epoch.Store(c.epoch)
	}
	if s.durable {
		c.restore(res)
	}
	for _, f := range s.sharedFilters() {
		l.memberCame(f)
	}
	c.checkExpiry()
	c.resume(waitDecision)
}

// connectEvents are the log's names of a CONNECT.
var connectEvents = map[codec.Version]string{codec.V31: "v3_connect", codec.V311: "v3_connect", codec.V5: "v5_connect"}

func (c *Client) connectEvent() string {
	if c.local != nil {
		return "local_connect"
	}
	return connectEvents[c.info.ProtocolVersion]
}

// restore takes up the deliveries of a session that goes on.
func (c *Client) restore(res *store.Claimed) {
	f := c.flows()
	f.released = res.Released
	f.heard = res.Last
	var known bool
	f.lastSent, known = c.session.sent()
	for _, packetID := range res.Held {
		f.in.Hold(packetID)
	}
	if !res.Present {
		f.cursor = res.Last
		return
	}
	if !known {
		f.possibly = int(c.receiveMaximum)
	}
	f.behind = true
	c.advance()
}
