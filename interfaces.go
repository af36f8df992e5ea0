package loopmq

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"loopmq/codec"
)

// Authenticator decides who may connect. Its methods may block: the broker
// calls them off its loops, several at a time.
type Authenticator interface {
	// Authenticate judges a CONNECT. An error that is a *codec.Error gives the
	// reason code to answer with, any other means codec.NotAuthorized. The
	// returned Identity is the client's from then on.
	//
	// With an Authentication Method in the request it may ask for more by
	// returning a Challenge, which the broker sends in an AUTH packet and
	// answers by calling Continue [MQTT-4.12.0-2].
	Authenticate(ctx context.Context, r *ConnectRequest) (Identity, *Challenge, error)
	// Continue carries an enhanced authentication on with the client's
	// Authentication Data, during CONNECT or a re-authentication.
	Continue(ctx context.Context, r *ConnectRequest, state any, data []byte) (Identity, *Challenge, error)
}

// ConnectRequest is what an Authenticator gets to see of a CONNECT. Its bytes
// are its own.
type ConnectRequest struct {
	ClientID    string
	Username    string
	Password    []byte // nil: none was sent
	HasUsername bool
	RemoteAddr  net.Addr
	// Listener is the name of the listener that the connection came by.
	Listener string
	// TLS is the state of the connection's TLS, with the certificates of the client;
	// nil: it has none. It must not be changed.
	TLS                  *tls.ConnectionState
	ProtocolVersion      codec.Version
	AuthenticationMethod string
	AuthenticationData   []byte
	// Reauthentication: the client is connected and sent AUTH with 0x19.
	Reauthentication bool
}

// Identity is who a client is.
type Identity struct {
	// Username is what the Authorizer, events and logs see.
	Username string
	// ClientID replaces the one that the client sent; empty: it stays. It does nothing
	// in a re-authentication.
	ClientID string
	// ExpiresAt is when the identity ends: the client is disconnected then (5.0: Not
	// authorized, 0x87), unless it has authenticated again. Zero: never.
	ExpiresAt time.Time
	// ACL is for the Authorizer, which finds it in ClientInfo.ACL. The broker doesn't
	// look at it.
	ACL any
	// AuthenticationData goes into the CONNACK, or the final AUTH, of an enhanced
	// authentication.
	AuthenticationData []byte
}

// Challenge asks the client of an enhanced authentication for more.
type Challenge struct {
	AuthenticationData []byte
	// State comes back in the next call of Continue.
	State any
}

// Action is what an Authorizer is asked about.
type Action uint8

// The actions.
const (
	// ActionPublish: to publish to a Topic Name, also as a Will, which is judged at
	// CONNECT.
	ActionPublish Action = iota
	// ActionSubscribe: to subscribe to a Topic Filter, without $share/{ShareName}/.
	ActionSubscribe
	// ActionDeliver: to be sent a message with a Topic Name, retained ones too. See
	// DeliveryAuthorizer.
	ActionDeliver
)

// Authorizer decides what a client may do. Its methods are called from several
// goroutines at a time.
//
// A decision is kept with the connection, and not asked for again, until
// Broker.DropDecisions is called, the client authenticates again, or a DecisionTTL
// passes; how many are kept is bounded.
type Authorizer interface {
	// Authorize decides on an action. It may block: the broker calls it off its loops,
	// and does not read on from the connection, or does not send to it, meanwhile. c
	// is valid during the call only. ctx ends after 10 s, and then false is the answer
	// whatever is returned.
	Authorize(ctx context.Context, c *ClientInfo, a Action, topic string, qos byte, retain bool) bool
}

// FastAuthorizer is an Authorizer that has answers which it needn't wait for, such
// as rules in memory.
type FastAuthorizer interface {
	Authorizer
	// AuthorizeFast is Authorize on an event loop: it must not block, take a lock that
	// is held for long, or keep c. known is false if it takes longer to find out: then
	// Authorize is called.
	AuthorizeFast(c *ClientInfo, a Action, topic string, qos byte, retain bool) (allowed, known bool)
}

// DeliveryAuthorizer is an Authorizer that wants to be asked about each delivery
// too (ActionDeliver). Of others, what a client may subscribe to it may get.
//
// A message that a client may not get is dropped and counted (not_authorized), and
// one of a shared subscription goes to another member. What Broker.Subscribe gets
// is not asked about.
type DeliveryAuthorizer interface {
	Authorizer
	// AuthorizesDeliveries is asked when a client connects, and again after
	// Broker.DropDecisions. It is called on an event loop, and must not block.
	AuthorizesDeliveries() bool
}

// DecisionTTL is an Authorizer whose decisions hold for a limited time.
type DecisionTTL interface {
	Authorizer
	// DecisionTTL is how long a decision may be kept; 0: not at all; negative: until
	// Broker.DropDecisions. It is asked as AuthorizesDeliveries is.
	DecisionTTL() time.Duration
}

// ClientInfo describes a connection. It changes when the client authenticates again,
// so it is not to be kept, nor used by another goroutine than the one it is given to.
type ClientInfo struct {
	ClientID string
	Username string
	// ACL is what the Authenticator put into Identity.ACL.
	ACL any
	// Listener is the name of the listener that the connection came by.
	Listener        string
	conn            interface{ RemoteAddr() net.Addr } // nil: it isn't connected
	ProtocolVersion codec.Version
	CleanStart      bool
	bridge          bool   // the CONNECT said it is one, see subscribe
	KeepAlive       uint16 // seconds
}

// RemoteAddr returns the address of the client, nil if it isn't connected: see
// Options.CheckRetainSource.
func (c *ClientInfo) RemoteAddr() net.Addr {
	if c.conn == nil {
		return nil
	}
	return c.conn.RemoteAddr()
}

// address is RemoteAddr as text, empty if there is none.
func (c *ClientInfo) address() string {
	if a := c.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

// TLSState returns what the TLS handshake of the client's connection agreed on, with its
// certificates, or nil if there was none. It makes a new one each time.
func (c *ClientInfo) TLSState() *tls.ConnectionState {
	if conn, ok := c.conn.(interface{ TLSState() *tls.ConnectionState }); ok {
		return conn.TLSState()
	}
	return nil
}
