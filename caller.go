package loopmq

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// Caller is somebody who uses a Broker without an MQTT connection, such as the sender
// of an HTTP request: who it is was decided by the Authenticator, what it may do is by
// the Authorizer, and limits, events and metrics are those of MQTT clients. To make one
// costs what a CONNECT costs, so it is kept for the next request with the same
// credentials, for as long as Err returns nil.
//
// Its methods are safe for concurrent use.
type Caller struct {
	b         *Broker
	settings  *settings
	info      ClientInfo // it doesn't change
	loop      *loop      // its messages keep their order
	expiresAt time.Time  // zero: never
	prefix    netip.Addr // what its address counts as; invalid: it has none
	received  received
	ended     atomic.Pointer[codec.Error]

	mu struct {
		sync.Mutex
		decisions
	}
}

// Published is what became of a message that was published.
type Published struct {
	// Matched is the number of sessions and shared-subscription groups that it went to.
	Matched int
}

// Outcome is what became of one of several messages.
type Outcome struct {
	Published
	Err error
}

// RateError says that a Caller has to wait: more messages or bytes came than are
// allowed in the time. It is a *codec.Error too (Message rate too high, 0x96).
type RateError struct {
	// Scope is whose limit it was.
	Scope metrics.Scope
	// RetryAfter is when it may try again.
	RetryAfter time.Duration
}

// Error says whose limit it was, and for how long to wait.
func (e *RateError) Error() string {
	return fmt.Sprintf("more messages or bytes than are allowed in the time, by the limit of the %s: try again in %v", e.Scope, e.RetryAfter.Round(time.Millisecond))
}

// Unwrap returns the error with the reason code.
func (e *RateError) Unwrap() error { return errRateTooHigh }

// NonePublishedError says that of several messages none was published, since some
// can't be.
type NonePublishedError struct {
	// Errors are why, by the index of the message; nil: nothing is wrong with it.
	Errors []error
}

// Error returns the errors, a line each.
func (e *NonePublishedError) Error() string {
	return "loopmq: none of the messages was published: " + errors.Join(e.Errors...).Error()
}

// remoteAddr is the address of who has no connection of the Broker's, and what its TLS
// handshake agreed on, if there was one.
type remoteAddr struct {
	net.Addr
	tls *tls.ConnectionState
}

// RemoteAddr returns it.
func (a remoteAddr) RemoteAddr() net.Addr { return a.Addr }

// TLSState returns nil if there was no handshake.
func (a remoteAddr) TLSState() *tls.ConnectionState { return a.tls }

// Authenticate decides who a Caller is, as it is decided for a CONNECT: by the
// Authenticator of s, or else of Options, within the limit on CONNECTs under decision.
// s may be nil. It blocks for as long as that takes, and 10 s at most.
//
// An error that is a *codec.Error has the reason code that a CONNACK would have. An
// Authentication Method that asks for more than one step is refused (0x8C).
func (b *Broker) Authenticate(ctx context.Context, r *ConnectRequest, s *Settings) (*Caller, error) {
	set := b.settings
	if s != nil {
		var err error
		if set, err = b.opts.resolve(s); err != nil {
			return nil, err
		}
	}
	switch {
	case !b.running.Load() || b.rejoining.Load():
		return nil, ErrNotRunning
	case b.shuttingDown.Load():
		return nil, b.farewell()
	case r.ClientID == "" && set.RefuseEmptyClientID && !set.UsernameAsClientID:
		return nil, errClientIDNotValid
	}
	if limit := b.limits.Load().Connects; limit > 0 && b.connecting.Load() >= int64(limit) {
		b.refusedConnects[metrics.RefuseConnects].Add(1)
		return nil, errTooManyConnects
	}
	b.connecting.Add(1)
	defer b.connecting.Add(-1)
	id, err := b.judgeCaller(ctx, r, set)
	if err != nil {
		return nil, b.refuseCaller(r, authError(err))
	}
	c, err := b.newCaller(r, set, &id)
	if err != nil {
		return nil, b.refuseCaller(r, authError(err))
	}
	return c, nil
}

// judgeCaller asks the Authenticator.
func (b *Broker) judgeCaller(ctx context.Context, r *ConnectRequest, s *settings) (Identity, error) {
	switch {
	case s.Authenticator != nil && !s.anonymous(r):
		ctx, cancel := context.WithTimeout(ctx, authTimeout)
		defer cancel()
		id, challenge, err := s.Authenticator.Authenticate(ctx, r)
		if err == nil && challenge != nil {
			err = errBadAuthMethod
		}
		return id, err
	case r.AuthenticationMethod != "":
		return Identity{}, errBadAuthMethod
	}
	return Identity{Username: r.Username}, nil
}

// refuseCaller counts and reports a refusal as that of a CONNECT.
func (b *Broker) refuseCaller(r *ConnectRequest, e *codec.Error) error {
	if isAuthFailure(e.ReasonCode) {
		b.metrics.AuthFailures.Inc()
		if b.wants(EventClientAuthFailed) {
			info := ClientInfo{ClientID: r.ClientID, Username: r.Username, Listener: r.Listener, ProtocolVersion: codec.V5}
			if r.RemoteAddr != nil {
				info.conn = remoteAddr{r.RemoteAddr, r.TLS}
			}
			l := b.loops[0]
			l.el.Post(func() { l.recordClient(EventClientAuthFailed, &info, e.ReasonCode, e.Error()) })
		}
	}
	return e
}

// newCaller is what follows from an Identity, as it does in Client.authenticated.
func (b *Broker) newCaller(r *ConnectRequest, s *settings, id *Identity) (*Caller, error) {
	if s.UsernameAsClientID && id.ClientID == "" {
		if id.Username == "" {
			return nil, errNoUsername
		}
		id.ClientID = id.Username
	}
	clientID := cmp.Or(id.ClientID, r.ClientID)
	if clientID == "" {
		clientID = newClientID(s)
	}
	c := &Caller{
		b: b, settings: s, expiresAt: id.ExpiresAt, prefix: prefixOf(r.RemoteAddr),
		info: ClientInfo{ClientID: clientID, Username: id.Username, ACL: id.ACL, Listener: r.Listener, ProtocolVersion: codec.V5},
	}
	if r.RemoteAddr != nil {
		c.info.conn = remoteAddr{r.RemoteAddr, r.TLS}
	}
	c.loop = b.loopOf([]byte(clientID))
	c.mu.authorizer = s.Authorizer
	c.mu.forget(b)
	switch {
	case !validStringField(clientID):
		return nil, errClientIDNotValid
	case s.Anonymous == AnonymousRefused && id.Username == "":
		return nil, errNotAuthorized
	case c.expired():
		return nil, errIdentityExpired
	}
	b.callers.add(c)
	return c, nil
}

// callers are those in use, so that DisconnectWhere finds them.
type callers struct {
	mu  sync.Mutex
	all map[*Caller]struct{}
}

func (s *callers) add(c *Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*Caller]struct{})
	}
	s.all[c] = struct{}{}
}

func (s *callers) remove(c *Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
}

// endWhere ends those for which f returns true.
func (s *callers) endWhere(f func(*ClientInfo) bool, e *codec.Error) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.all {
		if f(&c.info) {
			c.ended.Store(e)
			delete(s.all, c)
			n++
		}
	}
	return n
}

// Info describes the Caller. CleanStart and KeepAlive say nothing.
func (c *Caller) Info() ClientInfo { return c.info }

// ExpiresAt is when the identity ends; zero: never.
func (c *Caller) ExpiresAt() time.Time { return c.expiresAt }

// Err returns nil, or why the Caller can't be used any more: its identity has expired,
// or Broker.DisconnectWhere has chosen it. Whoever it was may be authenticated again.
func (c *Caller) Err() error {
	if e := c.ended.Load(); e != nil {
		return e
	}
	if c.expired() {
		return errIdentityExpired
	}
	return nil
}

// Close has the Broker forget the Caller. Call it for each that isn't kept any more. Calls
// under way go on, but Broker.DisconnectWhere doesn't find it.
func (c *Caller) Close() { c.b.callers.remove(c) }

func (c *Caller) expired() bool {
	return !c.expiresAt.IsZero() && !time.Now().Before(c.expiresAt)
}

// Publish passes a message on, as if a client had sent it, and returns when it is
// stored as its QoS demands. PublisherID is the Caller's ClientID, whatever m says. An
// error that is a *codec.Error has the reason code that a PUBACK or DISCONNECT would
// have; one that is a *RateError says how long to wait. If ctx ends before the answer
// is there, the message may have been published.
func (c *Caller) Publish(ctx context.Context, m *Message) (Published, error) {
	p, err := c.admit(ctx, m)
	if err != nil {
		return Published{}, err
	}
	if err := c.take(1, p.size()); err != nil {
		return Published{}, err
	}
	var o Outcome
	err = c.run(ctx, func(done func()) {
		c.loop.publishOwn(&c.info, p, func(matched int, err error) {
			o = Outcome{Published{matched}, err}
			done()
		})
	})
	if err != nil {
		return Published{}, err
	}
	return o.Published, o.Err
}

// PublishAll is Publish for several messages, in their order. All are checked before
// any is published: if one can't be, none is, and the error is a *NonePublishedError.
// Another error says why nothing is known of them. Else each Outcome says what became
// of its message.
func (c *Caller) PublishAll(ctx context.Context, messages []Message) ([]Outcome, error) {
	publications, size, err := c.admitAll(ctx, messages)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	if err := c.take(len(messages), size); err != nil {
		return nil, err
	}
	result := make([]Outcome, len(messages)) // the loop's, should ctx end before
	err = c.run(ctx, func(done func()) {
		left := len(publications)
		for i, p := range publications {
			c.loop.publishOwn(&c.info, p, func(matched int, err error) {
				result[i] = Outcome{Published{matched}, err}
				if left--; left == 0 {
					done()
				}
			})
		}
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// PublishOnce is Publish, unless a message was published by the same user under the
// same key within the window: at whichever node, and though that one has died since.
// answer says what is to be noted with the message, at most 4,088 bytes; it is
// called on an event loop, and must not block. PublishOnce returns what was noted, and
// whether this call did. The user is the identity's Username; who has none shares the
// keys with all others who have none.
func (c *Caller) PublishOnce(ctx context.Context, m *Message, key string, window time.Duration, answer func(Published) []byte) (noted []byte, first bool, err error) {
	p, err := c.admit(ctx, m)
	if err != nil {
		return nil, false, err
	}
	if err := c.take(1, p.size()); err != nil {
		return nil, false, err
	}
	return c.publishOnce(ctx, p, key, window, answer)
}

func (c *Caller) publishOnce(ctx context.Context, p *publication, key string, window time.Duration, answer func(Published) []byte) (noted []byte, first bool, err error) {
	var result struct { // the loop's, should ctx end before
		noted []byte
		first bool
		err   error
	}
	err = c.run(ctx, func(done func()) {
		c.loop.publishOnce(&c.info, p, c.onceKey(key), window, answer, func(noted []byte, first bool, err error) {
			result.noted, result.first, result.err = noted, first, err
			done()
		})
	})
	if err != nil {
		return nil, false, err
	}
	return result.noted, result.first, result.err
}

// PublishAllOnce is PublishAll as PublishOnce is Publish: each message is published once,
// so that a call which died halfway is finished by the next with the same key. answer
// says what is to be noted with message i. What is noted with the first is known before
// any other is published: if that was another call, and same says that it wasn't the
// same one, nothing is published, and all that is returned is that.
func (c *Caller) PublishAllOnce(ctx context.Context, messages []Message, key string, window time.Duration, answer func(i int, p Published) []byte, same func(noted []byte) bool) (noted [][]byte, first bool, err error) {
	publications, size, err := c.admitAll(ctx, messages)
	if err != nil || len(messages) == 0 {
		return nil, false, err
	}
	if err := c.take(len(messages), size); err != nil {
		return nil, false, err
	}
	head, first, err := c.publishOnce(ctx, publications[0], key, window, func(p Published) []byte { return answer(0, p) })
	if err != nil || !first && !same(head) || len(messages) == 1 {
		return [][]byte{head}, first, err
	}
	result, errs := make([][]byte, len(messages)), make([]error, len(messages)) // the loop's, should ctx end before
	result[0] = head
	err = c.run(ctx, func(done func()) {
		left := len(messages) - 1
		for i, p := range publications[1:] {
			i++
			c.loop.publishOnce(&c.info, p, c.onceKey(key+"/"+strconv.Itoa(i)), window, func(p Published) []byte { return answer(i, p) }, func(noted []byte, _ bool, err error) {
				result[i], errs[i] = noted, err
				if left--; left == 0 {
					done()
				}
			})
		}
	})
	if err == nil {
		err = errors.Join(errs...)
	}
	if err != nil {
		return nil, false, err
	}
	return result, first, nil
}

// onceKey is what the store knows a key as.
func (c *Caller) onceKey(key string) string {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(c.info.Username))))
	h.Write([]byte(c.info.Username))
	h.Write([]byte(key))
	return "publish/" + hex.EncodeToString(h.Sum(nil))
}

// onceMark is how many bytes before what is noted tell one call from others: a batch
// that the store has already, and is sent again, answers as if it were another's. They
// count towards store.MaxOnceAnswer.
const onceMark = 8

// publishOnce is publishOwn for a message that happens once under a key. As with a Will,
// nothing goes out before it is stored.
func (l *loop) publishOnce(by *ClientInfo, p *publication, key string, window time.Duration, answer func(Published) []byte, done func(noted []byte, first bool, err error)) {
	p.received = l.el.Nanotime()
	p.client, p.awaited, p.afterCommit = by, true, true
	r := l.route(p, true)
	own := binary.BigEndian.AppendUint64(nil, rand.Uint64())
	own = append(own, answer(Published{r.matched})...)
	r.op.Once = &store.Once{Key: key, Answer: own, Expires: l.now().Add(window)}
	l.commit(p, &r, func(op *store.Op, err error) {
		switch {
		case err != nil || op.Result == store.Full || op.Result == store.Refused:
			done(nil, false, ErrNotStored)
		case op.Result == store.Duplicate && !bytes.Equal(op.Once.Answer, own):
			done(op.Once.Answer[min(onceMark, len(op.Once.Answer)):], false, nil)
		default:
			op.Result = store.Done // also if it was there: it is this one's
			l.m.MessagesReceived[op.Message.QoS].Inc()
			done(own[onceMark:], true, nil)
		}
	})
}

// run calls f on the Caller's loop, and returns when done has been called there.
func (c *Caller) run(ctx context.Context, f func(done func())) error {
	b := c.b
	answered := make(chan error, 1)
	c.loop.el.Post(func() {
		if b.rejoining.Load() {
			answered <- ErrNotRunning
			return
		}
		f(func() { answered <- nil })
	})
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.stopped:
	}
	select { // it may have been answered before
	case err := <-answered:
		return err
	default:
		return ErrNotRunning
	}
}

// admitAll is admit for several messages. size is that of all.
func (c *Caller) admitAll(ctx context.Context, messages []Message) (publications []*publication, size int, err error) {
	publications = make([]*publication, len(messages))
	var none *NonePublishedError
	for i := range messages {
		p, err := c.admit(ctx, &messages[i])
		if err != nil {
			if none == nil {
				none = &NonePublishedError{make([]error, len(messages))}
			}
			none.Errors[i] = err
			continue
		}
		publications[i] = p
		size += p.size()
	}
	if none != nil {
		return nil, 0, none
	}
	return publications, size, nil
}

// admit judges a message, asks the Authorizer, and makes it a publication that lasts.
func (c *Caller) admit(ctx context.Context, m *Message) (*publication, error) {
	b, s := c.b, c.settings
	if err := c.Err(); err != nil {
		return nil, err
	}
	if !b.running.Load() || b.rejoining.Load() {
		return nil, ErrNotRunning
	}
	own := *m
	own.PublisherID = c.info.ClientID
	switch {
	case own.QoS <= 2 && own.QoS > s.maximumQoS:
		return nil, errQoSNotSupported
	case own.Retain && s.RetainUnavailable:
		return nil, errRetainNotSupported
	case s.PayloadSize > 0 && len(own.Payload) > s.PayloadSize:
		return nil, ErrTooLarge
	case reserved([]byte(own.TopicName)):
		return nil, errNotAuthorized
	case b.opts.CheckPayloadFormat && own.PayloadFormatIndicator == 1 && !utf8.Valid(own.Payload):
		return nil, errPayloadFormat
	}
	own.TopicName = s.MountPoint + own.TopicName
	p, err := b.publicationOf(&own, s.limits.PacketSize)
	if err != nil {
		return nil, err
	}
	if p.retain && b.opts.CheckRetainSource {
		p.publisherName, p.kept.PublisherName = c.info.Username, c.info.Username
	}
	if !c.decide(ctx, question{own.TopicName, ActionPublish, own.QoS, own.Retain}) {
		return nil, errNotAuthorized
	}
	return p, nil
}

// Authorize reports whether the Caller may do something with a topic: a Topic Filter
// for ActionSubscribe, which may be a shared subscription, else a Topic Name.
func (c *Caller) Authorize(ctx context.Context, a Action, topic string, qos byte, retain bool) bool {
	topic, ok := c.settings.mountFilter(topic)
	if !ok || c.Err() != nil {
		return false
	}
	if a == ActionSubscribe {
		if _, filter, shared := codec.SplitShare([]byte(topic)); shared {
			topic = string(filter)
		}
	}
	return c.decide(ctx, question{topic, a, qos, retain})
}

// MayGet reports whether a LocalClient of the Caller that has a ClientID may be sent the
// messages of a Topic Name. Without a DeliveryAuthorizer it may: its subscriptions decide.
func (c *Caller) MayGet(ctx context.Context, clientID, topicName string, qos byte) bool {
	topic, ok := c.settings.mountFilter(topicName)
	if !ok || c.Err() != nil {
		return false
	}
	a, ok := c.settings.Authorizer.(DeliveryAuthorizer)
	if !ok || !a.AuthorizesDeliveries() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	info := c.info // decisions that are kept are those on another ClientID
	info.ClientID = clientID
	return a.Authorize(ctx, &info, ActionDeliver, topic, qos, false) && ctx.Err() == nil
}

// decide asks the Authorizer, unless the answer is known. It is asked in the
// goroutine that waits for the answer.
func (c *Caller) decide(ctx context.Context, q question) bool {
	a := c.settings.Authorizer
	if a == nil {
		return true
	}
	c.mu.Lock()
	c.mu.renew(c.b, c.b.engine.Nanotime())
	ok, known := c.mu.known[q]
	generation, asked := c.mu.generation, q.action != ActionDeliver || c.mu.deliveries
	c.mu.Unlock()
	if known || !asked {
		return ok || !asked
	}
	if c.settings.fast != nil {
		ok, known = c.settings.fast.AuthorizeFast(&c.info, q.action, q.topic, q.qos, q.retain)
	}
	if !known {
		ctx, cancel := context.WithTimeout(ctx, authTimeout)
		defer cancel()
		info := c.info
		ok = a.Authorize(ctx, &info, q.action, q.topic, q.qos, q.retain) && ctx.Err() == nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.keep(q, ok, generation, c.b, c.b.engine.Nanotime())
	return ok
}

// take counts messages against the limits, unless one of them has been used up.
// Unlike a connection, which isn't read for a while, a request is refused then.
func (c *Caller) take(messages, bytes int) error {
	b, limits := c.b, c.b.limits.Load()
	if !limits.Client.isLimit() && !limits.Address.Traffic.isLimit() && !limits.Node.isLimit() {
		return nil
	}
	now := b.engine.Nanotime()
	var at *received
	if limits.Address.Traffic.isLimit() && c.prefix.IsValid() {
		at = b.addresses.received(c.prefix, now)
	}
	scopes := [...]struct {
		scope metrics.Scope
		limit *Traffic
		taken *received
	}{
		{metrics.ScopeClient, &limits.Client, &c.received},
		{metrics.ScopeAddress, &limits.Address.Traffic, at},
		{metrics.ScopeNode, &limits.Node, &b.received},
	}
	for i := range scopes {
		s := &scopes[i]
		if s.taken == nil {
			continue
		}
		if wait := max(s.taken.messages.Wait(s.limit.MessageRate, now), s.taken.bytes.Wait(s.limit.ByteRate, now)); wait > 0 {
			b.metrics.TrafficExceeded[s.scope].Inc()
			return &RateError{s.scope, wait}
		}
	}
	for i := range scopes {
		if s := &scopes[i]; s.taken != nil {
			s.taken.take(s.limit, messages, bytes, now)
		}
	}
	return nil
}

// MayBeRetained reports whether a topic that a Topic Filter matches may have a retained
// message, as far as this node knows: neither the store nor the Authorizer is asked. If
// there is none for sure, it returns false. It doesn't block.
func (c *Caller) MayBeRetained(topicFilter string) bool {
	filter, ok := c.settings.mountFilter(topicFilter)
	if !ok || isShared(filter) || c.settings.RetainUnavailable || !c.b.validFilter(filter) {
		return false
	}
	steps, topics := replaySteps, c.b.retained.Cursor(filter)
	_, _, found := topics.Next(&steps)
	return found || !topics.Done()
}

// Retained returns the retained message of a topic, whose bytes must not be changed.
// ErrNoRetained: there is none. The Caller needs the right to subscribe to the topic,
// and to be sent its messages if there is a DeliveryAuthorizer.
func (c *Caller) Retained(ctx context.Context, topicName string) (*Message, error) {
	b, s := c.b, c.settings
	if err := c.Err(); err != nil {
		return nil, err
	}
	switch {
	case !b.running.Load() || b.rejoining.Load():
		return nil, ErrNotRunning
	case !codec.ValidTopicName([]byte(topicName)) || b.tooManyLevels([]byte(topicName)):
		return nil, ErrTopicName
	case s.RetainUnavailable:
		return nil, errRetainNotSupported
	}
	topic, ok := s.mountFilter(topicName) // which leaves $SYS alone
	if !ok {
		return nil, ErrTopicName
	}
	if !c.decide(ctx, question{topic, ActionSubscribe, 0, false}) {
		return nil, errNotAuthorized
	}
	m, err := b.retainedNow(ctx, topic)
	if err != nil {
		return nil, err
	}
	if !c.decide(ctx, question{topic, ActionDeliver, m.QoS, true}) {
		return nil, errNotAuthorized
	}
	if b.opts.CheckRetainSource && m.PublisherID != "" && !s.sourceMay(ctx, m) {
		return nil, ErrNoRetained
	}
	return messageOf(topicName, m, b.store.Now())
}

// isAuthFailure reports whether a refusal of a CONNECT with this reason code counts as
// a failed authentication.
func isAuthFailure(reason codec.ReasonCode) bool {
	switch reason {
	case codec.BadUserNameOrPassword, codec.NotAuthorized, codec.BadAuthenticationMethod, codec.Banned:
		return true
	}
	return false
}
