package loopmq

import (
	"context"
	"net"

	"loopmq/codec"
	"loopmq/eventloop"
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
	ClientID             string
	Username             string
	Password             []byte // nil: none was sent
	HasUsername          bool
	RemoteAddr           net.Addr
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
	ActionPublish Action = iota
	ActionSubscribe
)

// Authorizer decides what a client may do. Its method may block: the broker
// calls it off its loops, and does not read on from the connection meanwhile.
type Authorizer interface {
	// Authorize reports whether the client may publish to a Topic Name or
	// subscribe to a Topic Filter (without $share/{ShareName}/). It is asked for
	// Wills too, at CONNECT.
	Authorize(ctx context.Context, c *ClientInfo, a Action, topic string, qos byte, retain bool) bool
}

// ClientInfo describes a connection. It does not change.
type ClientInfo struct {
	ClientID        string
	Username        string
	conn            *eventloop.Conn
	ProtocolVersion codec.Version
	CleanStart      bool
	KeepAlive       uint16 // seconds
}

// RemoteAddr returns the address of the client.
func (c *ClientInfo) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Events are functions that the broker calls as things happen; nil ones cost
// nothing. They are called on the event loops, so they must not block, and what
// they are given is valid during the call only.
type Events struct {
	OnConnected    func(c *ClientInfo, sessionPresent bool)
	OnDisconnected func(c *ClientInfo, reason codec.ReasonCode, err error)
	// OnAuthFailed: a CONNECT was refused.
	OnAuthFailed        func(r *ConnectRequest, reason codec.ReasonCode)
	OnSessionCreated    func(clientID string)
	OnSessionTakenOver  func(clientID string)
	OnSessionTerminated func(clientID string)
	OnSubscribed        func(c *ClientInfo, topicFilter string, o codec.SubscriptionOptions)
	OnUnsubscribed      func(c *ClientInfo, topicFilter string)
	// OnPublished: a message was accepted. c is nil for Broker.Publish and Wills.
	OnPublished func(c *ClientInfo, m *MessageView)
	// OnDelivered: a message was written to a client's output. OnAcked: the
	// client acknowledged it.
	OnDelivered func(c *ClientInfo, m *MessageView)
	OnAcked     func(c *ClientInfo, packetID uint16)
	// OnDropped: a message for a client was dropped; the reason is the label
	// that loopmq_messages_dropped_total has for it.
	OnDropped       func(clientID string, m *MessageView, reason string)
	OnWillPublished func(clientID string, m *MessageView)
}

// MessageView is a message as an event sees it. Its bytes are valid during the
// call only.
type MessageView struct {
	TopicName []byte
	Payload   []byte
	QoS       byte
	Retain    bool

	properties []byte
}

// Properties decodes the properties that a server passes on: Payload Format
// Indicator, Content Type, Response Topic, Correlation Data and User Properties.
// What p points to is valid as long as the message.
func (m *MessageView) Properties(p *codec.Properties) error {
	return codec.DecodeForward(m.properties, p)
}
