package loopmq

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

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

// authTimeout bounds one call of an Authenticator or Authorizer.
const authTimeout = 10 * time.Second

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

// authenticate asks the Authenticator, off the loop.
func (c *Client) authenticate() {
	k := c.connect
	c.askAuthenticator(&k.request, k.challenge, k.challenged, func(id Identity, ch *Challenge, err error) {
		switch {
		case c.state == stateClosed:
		case err != nil:
			e := authError(err)
			c.refuse(e.ReasonCode, e.Error())
		case ch != nil:
			k.challenge, k.challenged = ch.State, true
			c.decided() // it is the client's turn, which may take its time
			c.sendAuth(codec.ContinueAuthentication, ch.AuthenticationData)
			c.resume(waitDecision) // for the client's AUTH
		default:
			c.authenticated(id)
		}
	})
}

// askAuthenticator calls the Authenticator off the loop, and done on it.
func (c *Client) askAuthenticator(r *ConnectRequest, state any, goOn bool, done func(Identity, *Challenge, error)) {
	l, a := c.loop, c.settings.Authenticator
	l.b.authenticating.do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), authTimeout)
		defer cancel()
		var id Identity
		var ch *Challenge
		var err error
		if goOn {
			id, ch, err = a.Continue(ctx, r, state, r.AuthenticationData)
		} else {
			id, ch, err = a.Authenticate(ctx, r)
		}
		l.el.Post(func() { done(id, ch, err) })
	})
}

// authError is the protocol error for what an Authenticator returned.
func authError(err error) *codec.Error {
	var e *codec.Error
	if errors.As(err, &e) {
		return e
	}
	return errNotAuthorized
}

// authenticated goes on with a client whose identity is known.
func (c *Client) authenticated(id Identity) {
	b, k, s := c.loop.b, c.connect, c.settings
	k.authenticationData = id.AuthenticationData
	if s.UsernameAsClientID && id.ClientID == "" {
		if id.Username == "" {
			c.refuse(codec.BadUserNameOrPassword, errNoUsername.Error())
			return
		}
		id.ClientID = id.Username
	}
	if id.ClientID != "" {
		if !validStringField(id.ClientID) {
			c.refuse(codec.ClientIdentifierNotValid, errClientIDNotValid.Error())
			return
		}
		c.rename(id.ClientID)
	}
	c.identify(&id)
	switch {
	case c.local == nil && strings.HasPrefix(c.info.ClientID, LocalClientIDs):
		c.refuse(codec.ClientIdentifierNotValid, errClientIDReserved.Error())
		return
	case s.Anonymous == AnonymousRefused && id.Username == "":
		c.refuse(codec.NotAuthorized, errNotAuthorized.Error())
		return
	case c.expired():
		c.refuse(codec.NotAuthorized, errIdentityExpired.Error())
		return
	case c.info.ProtocolVersion == codec.V5 && !b.v5.connackFits(c):
		c.refuse(codec.PacketTooLarge, errAnswerTooLarge.Error())
		return
	case k.will == nil:
		c.takeTurn()
		return
	}
	m := &k.will.Message
	if b.opts.CheckRetainSource {
		m.PublisherName = id.Username
	}
	if s.MountPoint != "" {
		m.TopicName = append([]byte(s.MountPoint), m.TopicName...)
	}
	will := func(ok bool) {
		switch {
		case c.state == stateClosed:
		case !ok:
			c.refuse(codec.NotAuthorized, "not authorized to publish the Will Message")
		default:
			c.takeTurn()
		}
	}
	if d := c.decide(ActionPublish, m.TopicName, m.QoS, m.Retain); d != undecided {
		will(d == allowed)
		return
	}
	c.ask([]question{{string(m.TopicName), ActionPublish, m.QoS, m.Retain}}, func(answers []bool) { will(answers[0]) })
}

// rename gives a client another ClientID than it sent, before it has a session.
func (c *Client) rename(clientID string) {
	k := c.connect
	c.info.ClientID, k.request.ClientID = clientID, clientID
	if k.will != nil {
		k.will.ClientID, k.will.Message.PublisherID = clientID, clientID
	}
}

// takeTurn waits for other CONNECTs with the same ClientID. Of those that wait
// the latest goes on.
func (c *Client) takeTurn() {
	now, replaced := c.loop.b.registry.begin(c)
	if replaced != nil {
		replaced.loop.el.Post(func() { replaced.refuseReplaced() })
	}
	if now {
		c.replaceOld()
	}
}

// refuseReplaced ends a CONNECT whose turn did not come before a later one's.
func (c *Client) refuseReplaced() {
	if c.deletes() {
		c.notDeleted(errTooManyDeletions)
		return
	}
	if c.state == stateConnecting {
		c.refuse(codec.ServerBusy, errTakenOver.Error()) // CONNACK has no code of its own for it
	}
}

// replaceOld ends the connection that has the session, if there is one, and
// waits until all that it committed is in the store.
func (c *Client) replaceOld() {
	if c.state == stateClosed && !c.deletes() { // it left while it waited, and must not end who is connected
		c.loop.b.turnEnded(c.info.ClientID)
		return
	}
	s := c.loop.b.registry.session(c.info.ClientID)
	if s == nil {
		c.claim()
		return
	}
	l := s.owner.Load()
	if l == nil { // no connection of this process had it
		c.claim()
		return
	}
	cleanStart, why := c.connect.cleanStart, errTakenOver
	if c.deletes() {
		why = errAdministrative
	}
	l.el.Post(func() {
		if old := s.client.Load(); old != nil {
			old.readNow() // a DISCONNECT may be there already
		}
		if old := s.client.Load(); old != nil {
			old.takenOver = takeoverBy(cleanStart)
			old.disconnect(why.ReasonCode, why)
			if why == errTakenOver {
				l.recordClient(EventSessionTakenOver, &old.info, codec.SessionTakenOver, "")
			}
		}
		l.afterLeaving(s, func(bool) {
			l.commits.after(func() { c.loop.el.Post(c.claim) })
		})
	})
}

// takeover says whether another connection has the session now, and how it came to.
type takeover uint8

const (
	notTakenOver takeover = iota
	takenOver
	takenOverClean // with Clean Start
)

func takeoverBy(cleanStart bool) takeover {
	if cleanStart {
		return takenOverClean
	}
	return takenOver
}

// claim makes this node and connection the owner of the session in the store, also
// if the connection has gone meanwhile: the one that it replaced left everything to
// it, and what belongs to groups would wait for a client that isn't there.
func (c *Client) claim() {
	b, k, l := c.loop.b, c.connect, c.loop
	claim := store.Claim{
		ClientID:              c.info.ClientID,
		Connect:               k.name,
		Owner:                 b.owner(),
		CleanStart:            k.cleanStart,
		Durable:               k.sessionExpiryInterval > 0,
		SessionExpiryInterval: k.sessionExpiryInterval,
		Limits:                c.settings.limits.queueLimits(int(c.receiveMaximum)),
		Will:                  k.will,
		Connection: store.Connection{
			Username: c.info.Username, Address: c.info.address(), Listener: c.info.Listener,
			ProtocolVersion: c.info.ProtocolVersion, KeepAlive: k.keepAlive, CleanStart: k.cleanStart, Since: c.loop.now(),
		},
	}
	if s := b.registry.session(claim.ClientID); s != nil {
		claim.Sent, _ = s.sent()
	}
	b.workers.do(func() {
		claimed, err := b.store.Sessions().Claim(context.Background(), claim)
		l.el.Post(func() { c.claimed(&claimed, err) })
	})
}

// turnEnded lets the next CONNECT with a ClientID go on.
func (b *Broker) turnEnded(clientID string) {
	if b.cluster != nil {
		b.cluster.turnEnded(clientID)
	}
	if next := b.registry.end(clientID); next != nil {
		next.loop.el.Post(next.replaceOld)
	}
}

// claimed goes on with the answer to the claim.
func (c *Client) claimed(res *store.Claimed, err error) {
	b := c.loop.b
	yields := c.connect.yields
	c.connect.yields = nil
	if err != nil {
		b.storeAnswered(err)
		if c.claimAgain(err) {
			c.connect.yields = yields
			return
		}
		if c.mayGoUnclaimed() {
			c.yieldsAfter(yields)
			c.owned(c.unclaimed())
			return
		}
		defer c.yieldsAfter(yields)
		defer b.turnEnded(c.info.ClientID)
		c.loop.undoClaim(c.info.ClientID)
		if c.deletes() {
			c.notDeleted(err)
		}
		if c.state != stateClosed {
			c.refuse(codec.ServerUnavailable, errStoreUnavailable.Error())
		}
		return
	}
	c.epoch = res.Session.Epoch
	c.yieldsAfter(yields)
	switch {
	case b.cluster == nil || b.cluster.member().Alone():
		c.owned(res)
	case res.OldOwner == "" || res.OldOwner == b.owner():
		c.catchUp(res)
	default: // the other instance ends that connection first
		b.cluster.awaitRelease(c.info.ClientID, res.OldOwner, c.epoch, func() { c.catchUp(res) })
	}
}

// catchUp waits until what the client has published at another instance, and is on
// its way to subscribers at this one, is there: what it publishes here must not come
// before. It may be called on any goroutine.
func (c *Client) catchUp(res *store.Claimed) {
	b := c.loop.b
	goOn := func() { c.loop.el.Post(func() { c.owned(res) }) }
	b.workers.doOr(func() {
		ctx, cancel := context.WithTimeout(context.Background(), catchUpTimeout)
		defer cancel()
		// What a slow subscriber holds up, or a store that is away, doesn't keep clients from connecting.
		_ = b.cluster.member().CaughtUp(ctx)
		goOn()
	}, goOn) // the broker stops
}

// catchUpTimeout is how long a CONNECT waits for its client's own messages at most.
const catchUpTimeout = time.Second

// yieldsAfter looks at the claims that other instances made while ours was under way.
func (c *Client) yieldsAfter(yields []func()) {
	for _, f := range yields {
		f()
	}
}

// owned goes on when nobody else has the session any more.
func (c *Client) owned(res *store.Claimed) {
	b := c.loop.b
	k := c.connect
	if c.deletes() {
		c.deleteClaimed(res)
		return
	}
	defer func() {
		b.turnEnded(c.info.ClientID)
		c.yieldsAfter(k.afterTurn)
	}()
	c.loop.wentWithSession(res.Dropped)
	if res.Ended != nil {
		c.loop.recordClient(EventSessionTerminated, &ClientInfo{ClientID: res.Ended.ID.ClientID}, codec.Success, "")
	}
	s := b.sessionFor(res)
	if !res.Present {
		b.metrics.SessionsCreated.Inc()
		c.loop.recordClient(EventSessionCreated, &c.info, codec.Success, "")
	}
	for _, g := range res.GivenBack {
		c.loop.memberCame(sharedFilter(g.ShareName, g.TopicFilter))
	}
	c.session, c.epoch = s, res.Session.Epoch
	s.owner.Store(c.loop)
	if c.state == stateClosed { // it left before it was accepted: nothing of it stays
		s.epoch.Store(c.epoch)
		c.connect.will = nil
		c.sessionExpiryInterval = c.connect.sessionExpiryInterval
		c.goOffline(nil)
		return
	}
	if c.info.ClientID = s.id.ClientID; res.OldWill != nil {
		b.scheduler.nudge() // a clean start made it due
	}
	c.attach(s, res)
}

// undoClaim looks after a while whether a claim that failed was made all the same,
// and gives it up then: nobody else would end its session, ever.
func (l *loop) undoClaim(clientID string) {
	b := l.b
	l.repeat(func() {
		b.workers.do(func() {
			se, err := b.store.Sessions().Lookup(context.Background(), clientID)
			l.el.Post(func() {
				switch {
				case errors.Is(err, store.ErrGone):
				case err != nil || b.registry.busy(clientID):
					l.undoClaim(clientID)
				default:
					l.giveUp(&se)
				}
			})
		})
	})
}

// giveUp takes a session offline that this node owns in the store and that no
// connection has. Its Will goes: the client was refused.
func (l *loop) giveUp(se *store.Session) {
	b := l.b
	s := b.registry.session(se.ID.ClientID)
	if se.Owner != b.owner() || s != nil && s.epoch.Load() >= se.Epoch {
		return
	}
	if s != nil && s.id != se.ID { // the claim ended it
		if s.forget(b) {
			l.recordClient(EventSessionTerminated, &ClientInfo{ClientID: s.id.ClientID}, codec.Success, "")
		}
		s = nil
	}
	op := store.Op{
		Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, SessionExpiryInterval: se.SessionExpiryInterval, WillRemoved: true,
		Disconnected: store.Disconnected{At: l.now(), Reason: errStoreUnavailable.Error()},
	}
	if se.Durable {
		op.Due = session.ExpiryDue(l.now(), se.SessionExpiryInterval)
	}
	if s != nil {
		op.Sent, _ = s.sent()
	}
	l.commitOffline(&op, nil, b.scheduler.nudge)
	if s != nil && !se.Durable {
		l.endSession(s, se.Epoch, &ClientInfo{ClientID: s.id.ClientID})
	}
}

// sessionFor returns the session that a claim gave, in the registry.
func (b *Broker) sessionFor(res *store.Claimed) *Session {
	old := b.registry.session(res.Session.ID.ClientID)
	if old != nil && res.Present && old.id == res.Session.ID {
		if b.cluster != nil {
			if res.OldEpoch != old.epoch.Load() || res.OldOwner != "" && res.OldOwner != b.owner() {
				old.unknown() // another instance had it
			}
			b.cluster.reclaimed(old, res)
		}
		return old
	}
	if old != nil {
		old.forget(b)
	}
	s := &Session{id: res.Session.ID, durable: res.Session.Durable || res.Present}
	s.mu.known = !res.Present
	if b.cluster != nil && s.durable {
		s.claimedHere(res.Session.Epoch)
	}
	b.registry.put(s)
	for _, sub := range res.Subscriptions {
		s.subscribe(b, sub, -1)
	}
	return s
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

// auth handles an AUTH packet: it goes on with an enhanced authentication of
// CONNECT, or with a re-authentication [MQTT-4.12.1-1].
func (c *Client) auth(p *codec.Auth) error {
	method, data := string(p.Properties.AuthenticationMethod), append([]byte(nil), p.Properties.AuthenticationData...)
	if c.v5 == nil || c.v5.authMethod == "" || c.settings.Authenticator == nil {
		return errAuthUnexpected
	}
	if method != c.v5.authMethod {
		return errAuthMethodChanged
	}
	if c.state == stateConnecting {
		if !c.connect.challenged || p.ReasonCode != codec.ContinueAuthentication {
			return errAuthUnexpected
		}
		c.connect.request.AuthenticationData = data
		c.wait(waitDecision)
		c.authenticate()
		return nil
	}
	goOn := p.ReasonCode == codec.ContinueAuthentication
	if goOn != c.v5.authBusy {
		return errAuthUnexpected
	}
	r := &ConnectRequest{
		ClientID: c.info.ClientID, Username: c.info.Username, RemoteAddr: c.conn.RemoteAddr(), Listener: c.info.Listener,
		ProtocolVersion: codec.V5, TLS: c.conn.TLSState(),
		AuthenticationMethod: method, AuthenticationData: data, Reauthentication: true,
	}
	c.wait(waitDecision)
	c.askAuthenticator(r, c.v5.authState, goOn, func(id Identity, ch *Challenge, err error) {
		switch {
		case c.state != stateConnected:
			return
		case err != nil:
			c.loop.b.metrics.AuthFailures.Inc()
			e := authError(err)
			c.recordRefused(r, e)
			c.disconnect(e.ReasonCode, e)
			return
		case ch != nil:
			c.v5.authState, c.v5.authBusy = ch.State, true
			c.sendAuth(codec.ContinueAuthentication, ch.AuthenticationData)
		default:
			c.v5.authState, c.v5.authBusy = nil, false
			c.identify(&id)
			c.sendAuth(codec.Success, id.AuthenticationData)
			c.checkExpiry()
		}
		c.resume(waitDecision)
	})
	return nil
}

// sendAuth sends an AUTH packet.
func (c *Client) sendAuth(reason codec.ReasonCode, data []byte) {
	p := codec.Auth{ReasonCode: reason}
	p.Properties.AuthenticationMethod = []byte(c.v5.authMethod)
	p.Properties.Set(codec.PropAuthenticationMethod)
	if data != nil {
		p.Properties.AuthenticationData = data
		p.Properties.Set(codec.PropAuthenticationData)
	}
	switch {
	case c.accepts(p.Size(codec.V5)):
		c.conn.EndWrite(p.Append(c.conn.BeginWrite(), codec.V5))
		c.loop.m.PacketsSent[codec.TypeAuth].Inc()
	case c.state == stateConnecting: // without it the client would wait for ever [MQTT-3.1.2-24]
		c.refuse(codec.PacketTooLarge, errAnswerTooLarge.Error())
	default:
		c.disconnect(codec.PacketTooLarge, errAnswerTooLarge)
	}
}
