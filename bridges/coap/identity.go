package coapbridge

import (
	"crypto/rand"
	"errors"
	"net"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// credentialNames are the parameters of the query that say who sends a request.
var credentialNames = []string{"clientid", "username", "password", "token"}

// credentials are what a request says of its sender.
type credentials struct {
	clientID, username, password string
	hasUsername, hasPassword     bool
}

func credentialsOf(q *request) (c credentials) {
	c.clientID = q.query["clientid"]
	c.username, c.hasUsername = q.query["username"]
	c.password, c.hasPassword = q.query["password"]
	return c
}

// known is who a peer is.
type known struct {
	credentials
	caller     *loopmq.Caller
	until      time.Time
	generation int64
}

// close may be called for nil.
func (k *known) close() {
	if k != nil {
		k.caller.Close()
	}
}

func randomName() string { return rand.Text()[:16] }

// authenticate finds out who sends a request: the holder of a connection's token, who the
// DTLS handshake showed, or who the query says.
func (b *Bridge) authenticate(c *call) error {
	if token := c.query["token"]; token != "" {
		conn, err := b.connectionOf(c, token)
		if err != nil {
			return err
		}
		c.connection, c.caller = conn, conn.caller
		return nil
	}
	p, show := c.p, credentialsOf(c.request)
	p.mu.Lock()
	k := p.mu.known
	p.mu.Unlock()
	if k != nil && k.credentials == show && k.caller.Err() == nil && time.Now().Before(k.until) && k.generation == b.generation.Load() {
		c.caller = k.caller
		return nil
	}
	if k != nil && p.user() != "" && k.caller.Err() != nil { // whom the handshake showed may not go on
		p.end(metrics.CoAPDisconnected)
		return faultOf(k.caller.Err())
	}
	k = &known{credentials: show, until: time.Now().Add(b.opts.IdentityTTL), generation: b.generation.Load()}
	var err error
	if k.caller, err = b.identify(c, &show); err != nil {
		return err
	}
	p.mu.Lock()
	old := p.mu.known
	over := p.mu.over
	if !over {
		p.mu.known = k
	}
	p.mu.Unlock()
	if over {
		k.close()
		return errStopping
	}
	old.close()
	c.caller = k.caller
	return nil
}

// identify asks the Authenticator.
func (b *Bridge) identify(c *call, show *credentials) (*loopmq.Caller, error) {
	r := &loopmq.ConnectRequest{
		ClientID: show.clientID, Username: show.username, HasUsername: show.hasUsername, Listener: b.opts.Listener, ProtocolVersion: codec.V5,
		RemoteAddr: net.UDPAddrFromAddrPort(unmapped(c.p.addr)),
	}
	if r.ClientID == "" {
		r.ClientID = c.p.name
	}
	if show.hasPassword {
		r.Password = []byte(show.password)
	}
	settings := b.opts.Settings
	if s := c.p.secured; s != nil {
		settings = s.apply(b, r)
	}
	caller, err := b.broker.Authenticate(c.ctx, r, settings)
	if err != nil {
		return nil, unauthenticated(err)
	}
	return caller, nil
}

// unauthenticated is the answer to who can't be authenticated.
func unauthenticated(err error) error {
	var e *codec.Error
	if errors.As(err, &e) {
		switch e.ReasonCode {
		case codec.BadUserNameOrPassword, codec.NotAuthorized, codec.BadAuthenticationMethod:
			return faulty(codes.Unauthorized, metrics.CoAPCredentials, "not authenticated: %s", detailOf(err))
		}
	}
	return err
}
