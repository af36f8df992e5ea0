package loopmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"loopmq/codec"
	"loopmq/session"
	"loopmq/store"
)

// LocalClient is a client of this process that has functions in place of a Network
// Connection. All else is as with others: one connection per ClientID in the cluster,
// a session that outlives it if it is to, a window of unacknowledged messages, the
// Authorizer, events, limits, metrics, Kick and Drain.
//
// Its methods are safe for concurrent use. It lives until [LocalHandler.OnClosed] is
// called.
type LocalClient struct {
	// Immutable after the connect.
	client   Client
	handler  LocalHandler
	identity Identity
	tap      bool // of Broker.Subscribe: it gets everything at once

	answers        chan localAnswer
	sessionPresent bool // written before the CONNACK's answer

	requests sync.Mutex // one SUBSCRIBE or UNSUBSCRIBE at a time

	// acknowledged belongs to the loop: all entries of the queue up to it are.
	acknowledged DeliveryID
}

// LocalClientIDs begins the ClientIDs that only LocalClients may have, so that nobody
// takes their sessions over by a Network Connection. They may have others too.
const LocalClientIDs = "$local/"

// localAnswer is what a LocalClient gets in place of a CONNACK, SUBACK or UNSUBACK.
type localAnswer struct {
	reasons []codec.ReasonCode
	err     error
}

// LocalOptions are what a LocalClient connects with. They mean what the fields of a
// CONNECT of MQTT 5.0 do.
type LocalOptions struct {
	// ClientID: required.
	ClientID   string
	CleanStart bool
	// SessionExpiryInterval in seconds, within Limits.SessionExpiryInterval; 0: the session
	// ends with the connection.
	SessionExpiryInterval uint32
	// ReceiveMaximum is how many messages may be unacknowledged at one time, within
	// Limits.Inflight; 0: as many as that.
	ReceiveMaximum uint16
	// Acknowledged is the last message that the session was given by an earlier
	// connection, at whichever node: it and all before it count as acknowledged. Zero, or of
	// a session that has ended: none.
	Acknowledged DeliveryID
}

// LocalHandler are the functions that a LocalClient calls. All but OnAcknowledge are called
// on an event loop, one call at a time, and must not block.
type LocalHandler struct {
	// OnMessage is given a message. What m points to stays valid and may be shared with
	// others: it must not be changed. m's QoS and Retain are those of the delivery. A
	// message whose id isn't zero is to be acknowledged; dup: it may have been given to
	// the client before.
	//
	// It returns false if it has no room: at QoS 0 the message is dropped and counted then
	// (output_full), else it comes again after Ready.
	OnMessage func(m *MessageView, id DeliveryID, dup bool) bool
	// OnWindowFull is called when something waits for acknowledgements of what was given, now
	// and then while it does: the window is at ReceiveMaximum or Settings.InflightBytes, or
	// the store has begun a new generation of the queue, which goes out when all of the one
	// before is acknowledged. It may be nil.
	OnWindowFull func()
	// OnAcknowledge is called by Broker.AcknowledgeUpTo, at any time and by any goroutine:
	// it is to acknowledge a message and all before it, and reports whether it has. nil: it
	// never does.
	OnAcknowledge func(id DeliveryID) bool
	// OnClosed is called once, at the end of a connection that was accepted. reason is why;
	// of a DISCONNECT that the server would send a client it is a *codec.Error.
	OnClosed func(reason error)
}

// DeliveryID names a message at QoS 1 or 2 that a LocalClient was given, within its
// session. IDs are comparable; the zero value is no message.
type DeliveryID struct {
	incarnation uint64
	number      store.Number
}

// IsZero reports whether id is no message's.
func (id DeliveryID) IsZero() bool { return id == DeliveryID{} }

// String returns id as ParseDeliveryID reads it.
func (id DeliveryID) String() string {
	return fmt.Sprintf("%x-%x-%x", id.incarnation, id.number.Generation, id.number.Seq)
}

// Append appends what String returns.
func (id DeliveryID) Append(b []byte) []byte {
	b = append(strconv.AppendUint(b, id.incarnation, 16), '-')
	b = append(strconv.AppendUint(b, id.number.Generation, 16), '-')
	return strconv.AppendUint(b, id.number.Seq, 16)
}

// ErrDeliveryID is returned for a text that is not a DeliveryID.
var ErrDeliveryID = errors.New("loopmq: not a DeliveryID")

// ParseDeliveryID reads what DeliveryID.String returned, also that of another process.
// Of whom it comes from it can be any ID: one of another session is ignored where it is
// used, one of a message that was not given yet acknowledges that too.
func ParseDeliveryID(text string) (id DeliveryID, err error) {
	parts := strings.Split(text, "-")
	if len(parts) != 3 {
		return DeliveryID{}, ErrDeliveryID
	}
	for i, field := range []*uint64{&id.incarnation, &id.number.Generation, &id.number.Seq} {
		if *field, err = strconv.ParseUint(parts[i], 16, 64); err != nil || parts[i][0] == '+' {
			return DeliveryID{}, ErrDeliveryID
		}
	}
	return id, nil
}

// Connect makes the Caller an MQTT client, with a session of its own for each ClientID.
// An error that is a *codec.Error has the reason code that a CONNACK would have. h may
// be called before Connect returns, and, if ctx ends, OnClosed after it.
//
// The client lives on when the Caller is closed, and ends when the identity does.
func (c *Caller) Connect(ctx context.Context, o LocalOptions, h LocalHandler) (*LocalClient, error) {
	b := c.b
	switch err := c.Err(); {
	case err != nil:
		return nil, err
	case o.ClientID == "" || !validStringField(o.ClientID):
		return nil, errClientIDNotValid
	case !b.running.Load():
		return nil, ErrNotRunning
	}
	lc := &LocalClient{
		handler: h, acknowledged: o.Acknowledged, answers: make(chan localAnswer, 1),
		// The ClientID of its publishing is another.
		identity: Identity{Username: c.info.Username, ClientID: o.ClientID, ACL: c.info.ACL, ExpiresAt: c.expiresAt},
	}
	lc.client = Client{info: c.info, loop: b.someLoop(), settings: c.settings, speaks: speaksCalls, local: lc}
	lc.client.info.ClientID = o.ClientID
	if err := lc.connect(ctx, &o); err != nil {
		lc.Close()
		return nil, err
	}
	return lc, nil
}

// connect is what a CONNECT packet starts.
func (lc *LocalClient) connect(ctx context.Context, o *LocalOptions) error {
	c := &lc.client
	limits := &c.settings.limits
	c.receiveMaximum = uint16(limits.inflight())
	if o.ReceiveMaximum > 0 {
		c.receiveMaximum = min(c.receiveMaximum, o.ReceiveMaximum)
	}
	k := &connecting{
		name: rand.Text(), cleanStart: o.CleanStart,
		sessionExpiryInterval: min(o.SessionExpiryInterval, limits.SessionExpiryInterval),
		request: ConnectRequest{
			ClientID: o.ClientID, Username: c.info.Username, HasUsername: c.info.Username != "",
			RemoteAddr: c.info.RemoteAddr(), Listener: c.info.Listener, ProtocolVersion: codec.V5,
		},
	}
	c.loop.el.Post(func() {
		c.timer.Init(c)
		c.loop.clients[c] = struct{}{}
		c.loop.b.metrics.ConnectionsOpened.Inc()
		c.begin(k)
	})
	_, err := lc.await(ctx)
	return err
}

// await waits for an answer.
func (lc *LocalClient) await(ctx context.Context) ([]codec.ReasonCode, error) {
	select {
	case a := <-lc.answers:
		return a.reasons, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-lc.client.loop.b.stopped:
		return nil, ErrNotRunning
	}
}

// ClientID returns the Client Identifier.
func (lc *LocalClient) ClientID() string { return lc.client.info.ClientID }

// Now returns the time by the store's clock, which MessageView.Expiry is on.
func (lc *LocalClient) Now() time.Time { return lc.client.loop.now() }

// SessionPresent reports whether the connect found a session.
func (lc *LocalClient) SessionPresent() bool { return lc.sessionPresent }

// ReceiveMaximum returns how many messages may be unacknowledged at one time.
func (lc *LocalClient) ReceiveMaximum() int { return int(lc.client.receiveMaximum) }

// TopicFilters returns what the session subscribes to, in no order, as the client sees it.
func (lc *LocalClient) TopicFilters() []string {
	s := lc.client.session
	s.mu.Lock()
	defer s.mu.Unlock()
	filters := make([]string, 0, len(s.mu.filters.all))
	for _, f := range s.mu.filters.all {
		filters = append(filters, lc.client.settings.unmountFilter(f))
	}
	return filters
}

// Subscribe subscribes the session, and returns a reason code for each subscription, as
// a SUBACK does, when they take effect and are stored if the session is durable. A filter
// that isn't valid is refused as a whole, with ErrTopicFilter. If ctx ends before the
// answer is there, the client is disconnected.
func (lc *LocalClient) Subscribe(ctx context.Context, subscriptions []store.Subscription) ([]codec.ReasonCode, error) {
	p := &codec.Subscribe{Subscriptions: make([]codec.Subscription, len(subscriptions))}
	for i := range subscriptions {
		s := &subscriptions[i]
		if !lc.client.loop.b.validFilter(s.TopicFilter) {
			return nil, fmt.Errorf("%w: %q", ErrTopicFilter, s.TopicFilter)
		}
		p.Subscriptions[i] = codec.Subscription{TopicFilter: []byte(s.TopicFilter), Options: s.Options}
		if s.SubscriptionIdentifier > 0 { // the packet has one for all, or none
			p.Properties.SubscriptionIdentifiers = []uint32{s.SubscriptionIdentifier}
		}
	}
	return lc.request(ctx, func(c *Client) { c.subscribe(p) })
}

// Unsubscribe is the opposite of Subscribe.
func (lc *LocalClient) Unsubscribe(ctx context.Context, topicFilters ...string) ([]codec.ReasonCode, error) {
	p := &codec.Unsubscribe{}
	for _, f := range topicFilters {
		p.TopicFilters = append(p.TopicFilters, []byte(f))
	}
	return lc.request(ctx, func(c *Client) { c.unsubscribe(p) })
}

// request has f run on the loop and waits for its answer.
func (lc *LocalClient) request(ctx context.Context, f func(*Client)) ([]codec.ReasonCode, error) {
	lc.requests.Lock()
	defer lc.requests.Unlock()
	lc.client.loop.el.Post(func() {
		if c := &lc.client; c.state == stateConnected {
			f(c)
		} else {
			lc.give(localAnswer{err: errLocalClosed})
		}
	})
	reasons, err := lc.await(ctx)
	if err != nil {
		lc.Close()
	}
	return reasons, err
}

// onLoop calls f on the loop, if the client is connected then.
func (lc *LocalClient) onLoop(f func(*Client)) {
	c := &lc.client
	c.loop.el.Post(func() {
		if c.state == stateConnected {
			f(c)
		}
	})
}

// errLocalClosed is what who asks a client gets that isn't connected any more.
var errLocalClosed = codec.NewError(codec.UnspecifiedError, "the client is not connected any more")

// give answers who waits, if anybody does.
func (lc *LocalClient) give(a localAnswer) {
	select {
	case lc.answers <- a:
	default:
	}
}

// answer is a SUBACK or UNSUBACK.
func (lc *LocalClient) answer(reasons []codec.ReasonCode) { lc.give(localAnswer{reasons: reasons}) }

// Acknowledge acknowledges messages. Those that need no acknowledgement, or had it, are
// ignored.
func (lc *LocalClient) Acknowledge(ids ...DeliveryID) {
	lc.onLoop(func(c *Client) {
		for _, id := range ids {
			if c.flow != nil && id.incarnation == c.session.id.Incarnation {
				c.acknowledgeLocal(c.flow.out.PacketID(id.number))
			}
		}
	})
}

// AcknowledgeUpTo acknowledges a message and all that the session has before it, whether
// this connection was given them yet or an earlier one was.
func (lc *LocalClient) AcknowledgeUpTo(id DeliveryID) {
	lc.onLoop(func(c *Client) {
		if c.flow == nil || id.incarnation != c.session.id.Incarnation {
			return
		}
		if lc.acknowledged.incarnation != id.incarnation || lc.acknowledged.number.Less(id.number) {
			lc.acknowledged = id
		}
		for _, packetID := range c.flow.out.UpTo(id.number) {
			c.acknowledgeLocal(packetID)
		}
		c.advance()
	})
}

// acknowledgeQuestion asks a node for what Broker.AcknowledgeUpTo does.
type acknowledgeQuestion struct {
	ClientID string `json:"client_id"`
	ID       string `json:"id"`
}

type acknowledgeAnswer struct {
	Done bool `json:"done"`
}

// AcknowledgeUpTo has the LocalClient with a ClientID acknowledge a message and all before
// it, at whichever node it is connected, by its LocalHandler.OnAcknowledge. It returns what
// that did, or false if there is no such LocalClient. store.ErrUnavailable: another node
// may have it, and can't be asked. It is safe for concurrent use.
func (b *Broker) AcknowledgeUpTo(ctx context.Context, clientID string, id DeliveryID) (bool, error) {
	q := &acknowledgeQuestion{clientID, id.String()}
	if b.localClient(clientID) != nil || b.cluster == nil || b.cluster.joined.Load() == nil {
		return b.acknowledgeHere(q), nil
	}
	stored, err := b.store.Sessions().Lookup(ctx, clientID)
	switch {
	case errors.Is(err, store.ErrGone):
		return false, nil
	case err != nil:
		return false, err
	case stored.Owner == "" || stored.Owner == b.owner():
		return false, nil
	}
	var answer acknowledgeAnswer
	err = b.ask(ctx, stored.Owner, inquiry{Acknowledge: q}, &answer)
	if errors.Is(err, store.ErrGone) { // it has died, and the connection with it
		return false, nil
	}
	return answer.Done, err
}

// localClient returns the LocalClient that is connected here with a ClientID, or nil.
func (b *Broker) localClient(clientID string) *LocalClient {
	if s := b.registry.session(clientID); s != nil {
		if c := s.client.Load(); c != nil {
			return c.local
		}
	}
	return nil
}

// acknowledgeHere is AcknowledgeUpTo at the node that has the connection.
func (b *Broker) acknowledgeHere(q *acknowledgeQuestion) bool {
	id, err := ParseDeliveryID(q.ID)
	lc := b.localClient(q.ClientID)
	return err == nil && lc != nil && lc.handler.OnAcknowledge != nil && lc.handler.OnAcknowledge(id)
}

// acknowledgeLocal is the PUBACK or PUBREC of a message.
func (c *Client) acknowledgeLocal(packetID uint16) {
	if c.state != stateConnected {
		return
	}
	a := codec.Ack{PacketID: packetID}
	switch c.outState(packetID) { // these can't fail in the states they are for
	case session.AwaitingPuback:
		_ = c.puback(&a)
	case session.AwaitingPubrec:
		_ = c.pubrec(&a)
	}
}

// hasAcknowledged reports whether the client has an entry of its session's queue from
// an earlier connection.
func (lc *LocalClient) hasAcknowledged(n store.Number) bool {
	return lc.acknowledged.incarnation == lc.client.session.id.Incarnation && !lc.acknowledged.number.Less(n)
}

// Ready is called after OnMessage has returned false, when there is room again.
func (lc *LocalClient) Ready() { lc.onLoop((*Client).advance) }

// Close disconnects the client. Its session goes on as its SessionExpiryInterval says.
func (lc *LocalClient) Close() {
	c := &lc.client
	c.loop.el.Post(func() { c.close(errNormal) })
}

// End disconnects the client and ends its session, with what is queued for it.
func (lc *LocalClient) End() {
	c := &lc.client
	c.loop.el.Post(func() {
		c.sessionExpiryInterval = 0
		c.close(errNormal)
	})
}

// hand gives the handler a message, and reports false if it has no room.
func (lc *LocalClient) hand(p *publication, topic []byte, d *delivery, packetID uint16, again bool) bool {
	c, m := &lc.client, p.keep()
	v := &MessageView{
		TopicName: m.TopicName[len(m.TopicName)-len(topic):], // behind the mount point
		Payload:   m.Payload, QoS: d.qos, Retain: d.retain, Expiry: m.Expiry, PublisherID: m.PublisherID,
		properties: m.Properties,
	}
	var id DeliveryID
	if d.qos > 0 {
		id = DeliveryID{c.session.id.Incarnation, c.flow.out.Number(packetID)}
	}
	return lc.handler.OnMessage(v, id, again)
}

// windowIsFull tells a LocalClient that deliveries wait for its acknowledgements.
func (c *Client) windowIsFull() {
	if c.local != nil && c.local.handler.OnWindowFull != nil {
		c.local.handler.OnWindowFull()
	}
}

// closed is called when the client is disconnected.
func (lc *LocalClient) closed(was clientState, err error) {
	lc.give(localAnswer{err: err})
	if was == stateConnected {
		lc.handler.OnClosed(err)
	}
}

// localHandler is the Handler of LocalClients.
type localHandler struct{}

var _ Handler = localHandler{}

// Connect implements Handler.
func (localHandler) Connect(*Client, *codec.Connect) error { return errUnexpectedPacket }

// Packet implements Handler.
func (localHandler) Packet(*Client, codec.FixedHeader, []byte) error { return errUnexpectedPacket }

// Connack implements Handler.
func (localHandler) Connack(c *Client, sessionPresent bool, reason codec.ReasonCode, text string) {
	lc := c.local
	lc.sessionPresent = sessionPresent
	if reason == codec.Success {
		lc.give(localAnswer{})
	} else {
		lc.give(localAnswer{err: codec.NewError(reason, text)})
	}
}

// Ack implements Handler: a PUBREL is answered by its PUBCOMP.
func (localHandler) Ack(c *Client, t codec.PacketType, packetID uint16, _ codec.ReasonCode) {
	if t != codec.TypePubrel {
		return
	}
	c.local.onLoop(func(c *Client) {
		if c.outState(packetID) == session.AwaitingPubcomp {
			_ = c.pubcomp(&codec.Ack{PacketID: packetID}) // it can't fail in that state
		}
	})
}

// Disconnect implements Handler: OnClosed tells.
func (localHandler) Disconnect(*Client, codec.ReasonCode, string) {}

// Refuse implements Handler: OnClosed tells.
func (localHandler) Refuse(*Client, *codec.Error) {}
