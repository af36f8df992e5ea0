package loopmq

import (
	"context"
	"fmt"
	"hash/maphash"
	"time"

	"loopmq/codec"
	"loopmq/session"
	"loopmq/store"
)

// Message is what Broker.Publish takes.
type Message struct {
	TopicName string
	Payload   []byte
	QoS       byte
	Retain    bool
	// MessageExpiryInterval in seconds; 0: none.
	MessageExpiryInterval  uint32
	PayloadFormatIndicator byte
	ContentType            string
	ResponseTopic          string
	CorrelationData        []byte
	UserProperties         []UserProperty
	// PublisherID is the ClientID it counts as coming from, for No Local, for the
	// hash of shared subscriptions, and for events.
	PublisherID string
}

// UserProperty is one name and value.
type UserProperty struct{ Key, Value string }

// Publish passes a message on as if a client had sent it, and returns when it is
// stored as its QoS demands. matched is the number of sessions and
// shared-subscription groups that it went to.
func (b *Broker) Publish(ctx context.Context, m Message) (matched int, err error) {
	p, err := b.publicationOf(&m, b.opts.Limits.PacketSize)
	if err != nil {
		return 0, err
	}
	if !b.running.Load() || b.rejoining.Load() {
		return 0, ErrNotRunning
	}
	type answer struct {
		matched int
		err     error
	}
	answers := make(chan answer, 1)
	l := b.loopFor(p) // the messages of one publisher keep their order
	l.el.Post(func() {
		if b.rejoining.Load() {
			answers <- answer{0, ErrNotRunning}
			return
		}
		l.publishOwn(nil, p, func(matched int, err error) { answers <- answer{matched, err} })
	})
	select {
	case a := <-answers:
		return a.matched, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-b.stopped:
	}
	select { // it may have been answered before
	case a := <-answers:
		return a.matched, a.err
	default:
		return 0, ErrNotRunning
	}
}

// loopFor picks the loop that a message of no connection starts from.
func (b *Broker) loopFor(p *publication) *loop {
	key := p.topic
	if p.publisherID != "" {
		key = []byte(p.publisherID)
	}
	return b.loopOf(key)
}

// loopOf picks a loop for all that has this key.
func (b *Broker) loopOf(key []byte) *loop {
	return b.loops[maphash.Bytes(seed, key)%uint64(len(b.loops))]
}

// publishOwn is the way of a message that no client's packet brought. by is the Caller
// that sent it; nil: the application did. done may be nil.
func (l *loop) publishOwn(by *ClientInfo, p *publication, done func(matched int, err error)) {
	l.m.MessagesReceived[p.qos].Inc()
	p.received = l.el.Nanotime()
	p.client, p.awaited = by, done != nil
	r := l.route(p, false)
	if !r.commit && !r.forward && !r.op.Retain {
		if done != nil {
			done(r.matched, nil)
		}
		return
	}
	matched := r.matched
	l.commit(p, &r, func(op *store.Op, err error) {
		if done == nil {
			return
		}
		if err != nil || reasonFor(op, err) != codec.Success {
			done(matched, ErrNotStored)
			return
		}
		done(matched, nil)
	})
}

// publicationOf checks a Message and makes it a publication that lasts.
func (b *Broker) publicationOf(m *Message, packetSize int) (*publication, error) {
	topic := []byte(m.TopicName)
	switch {
	case !codec.ValidTopicName(topic) || b.tooManyLevels(topic):
		return nil, ErrTopicName
	case m.QoS > 2:
		return nil, ErrQoS
	}
	properties, err := m.properties()
	if err != nil {
		return nil, err
	}
	h := codec.PublishHeader{QoS: m.QoS, HasMessageExpiry: m.MessageExpiryInterval > 0}
	if codec.PublishSize(codec.V5, &h, len(topic), len(properties), len(m.Payload)) > packetSize {
		return nil, ErrTooLarge
	}
	view := publication{
		topic:       topic,
		payload:     m.Payload,
		properties:  properties,
		qos:         m.QoS,
		retain:      m.Retain,
		publisherID: m.PublisherID,
	}
	if m.MessageExpiryInterval > 0 {
		view.expiry = b.store.Now().Add(time.Duration(m.MessageExpiryInterval) * time.Second)
	}
	p := new(publication)
	p.set(view.keep())
	p.from = b.publisher(m.PublisherID)
	return p, nil
}

// publisher returns the session that a message which no packet brought counts as
// coming from, nil if there is none.
func (b *Broker) publisher(clientID string) *Session {
	if clientID == "" {
		return nil
	}
	return b.registry.session(clientID)
}

// properties returns the properties as they stand in a packet, checked as those of
// a client's PUBLISH are.
func (m *Message) properties() ([]byte, error) {
	var p codec.Properties
	if m.PayloadFormatIndicator != 0 {
		p.PayloadFormatIndicator = m.PayloadFormatIndicator
		p.Set(codec.PropPayloadFormatIndicator)
	}
	if m.ContentType != "" {
		p.ContentType = []byte(m.ContentType)
		p.Set(codec.PropContentType)
	}
	if m.ResponseTopic != "" {
		p.ResponseTopic = []byte(m.ResponseTopic)
		p.Set(codec.PropResponseTopic)
	}
	if m.CorrelationData != nil {
		p.CorrelationData = m.CorrelationData
		p.Set(codec.PropCorrelationData)
	}
	longest := max(len(m.ContentType), len(m.ResponseTopic), len(m.CorrelationData))
	for _, u := range m.UserProperties {
		p.UserProperties = append(p.UserProperties, codec.UserProperty{Key: []byte(u.Key), Value: []byte(u.Value)})
		p.Set(codec.PropUserProperty)
		longest = max(longest, len(u.Key), len(u.Value))
	}
	if longest > propertyMax {
		return nil, fmt.Errorf("%w: %d bytes in one, allowed: %d", ErrProperty, longest, propertyMax)
	}
	b := p.AppendForward(nil)
	if err := codec.DecodeForward(b, &p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProperty, err)
	}
	return b, nil
}

// propertyMax is the length of a string or of binary data in a packet (section 1.5).
const propertyMax = 65_535

// messageOf returns a stored message as an application sees it. Its bytes are those of
// the store.
func messageOf(topicName string, m *store.Message, now time.Time) (*Message, error) {
	var p codec.Properties
	if err := codec.DecodeForward(m.Properties, &p); err != nil {
		return nil, fmt.Errorf("read the properties of a message: %w", err)
	}
	r := &Message{
		TopicName: topicName, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, PublisherID: m.PublisherID,
		PayloadFormatIndicator: p.PayloadFormatIndicator, ContentType: string(p.ContentType), ResponseTopic: string(p.ResponseTopic),
		CorrelationData: p.CorrelationData,
	}
	for _, u := range p.UserProperties {
		r.UserProperties = append(r.UserProperties, UserProperty{string(u.Key), string(u.Value)})
	}
	if !m.Expiry.IsZero() {
		r.MessageExpiryInterval, _ = session.RemainingExpiry(now, m.Expiry)
	}
	return r, nil
}
