package loopmq

import (
	"context"
	"errors"
	"strings"
	"time"

	"loopmq/codec"
)

// authTimeout bounds one call of an Authenticator or Authorizer.
const authTimeout = 10 * time.Second

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
