package loopmq

import (
	"time"

	"loopmq/session"
	"loopmq/store"
	"loopmq/trie"
)

// publication is a message on its way through the broker. Its bytes are views,
// of a read buffer or an outbox, and valid until the call that has it returns;
// keep makes a copy that lasts.
type publication struct {
	topic, payload, properties []byte
	qos                        byte
	retain                     bool
	expiry                     time.Time // zero: never
	from                       *Session  // for No Local; nil: not from a client
	publisherID                string
	publisherName              string         // the user name, for retained messages if their source is checked
	received                   int64          // nanoseconds of a loop's clock; 0: not measured
	kept                       *store.Message // the copy, once it was made
	serial                     uint64         // tells publications of a loop apart
	publisher                  *Client        // of a QoS 2 PUBLISH, for its PUBREC
	packetID                   uint16         // of a QoS 2 PUBLISH
	// afterCommit: nothing goes out, or counts, before the commit. So is a Will, which
	// is tried again if that fails.
	afterCommit bool
	sys         bool // the broker's own, about this process

	client   *ClientInfo // of its publisher, for events; nil: not known
	will     bool        // a Will Message
	awaited  bool        // somebody waits until it is stored what ever its QoS is
	recorded bool        // its events were told
}

// smallMessage is the size up to which a kept message is one object with its bytes.
const smallMessage = 128

type smallKept struct {
	store.Message
	bytes [smallMessage]byte
}

// keep returns the message as a copy that lasts. It is made once.
func (p *publication) keep() *store.Message {
	if p.kept != nil {
		return p.kept
	}
	var b []byte
	if size := p.size(); size <= smallMessage {
		k := new(smallKept)
		p.kept, b = &k.Message, k.bytes[:0]
	} else {
		p.kept, b = new(store.Message), make([]byte, 0, size)
	}
	b = append(append(append(b, p.topic...), p.properties...), p.payload...)
	t, q := len(p.topic), len(p.topic)+len(p.properties)
	m := p.kept
	m.TopicName, m.Properties, m.Payload = b[:t:t], b[t:q:q], b[q:]
	m.QoS, m.Retain, m.Expiry, m.PublisherID, m.PublisherName = p.qos, p.retain, p.expiry, p.publisherID, p.publisherName
	return m
}

// set makes p the publication of a kept message.
func (p *publication) set(m *store.Message) {
	*p = publication{
		topic: m.TopicName, payload: m.Payload, properties: m.Properties,
		qos: m.QoS, retain: m.Retain, expiry: m.Expiry, publisherID: m.PublisherID, publisherName: m.PublisherName, kept: m,
	}
}

// size is what the message counts against a limit in bytes.
func (p *publication) size() int { return len(p.topic) + len(p.payload) + len(p.properties) }

func (p *publication) view() *MessageView {
	v := p.asView()
	return &v
}

func (p *publication) asView() MessageView {
	return MessageView{
		TopicName: p.topic, Payload: p.payload, QoS: p.qos, Retain: p.retain, Expiry: p.expiry, PublisherID: p.publisherID,
		properties: p.properties,
	}
}

// delivery is one message for one client: which, and how. A fan-out makes many of
// them, so what only some have hangs off more.
type delivery struct {
	session *Session
	client  *Client // nil: offline
	group   *trie.Group[*Session]
	ids     *[]uint32    // the Subscription Identifiers, if there are several; not changed once it is shared
	number  store.Number // in the queue of a durable session
	id      uint32       // the only Subscription Identifier, 0: none
	qos     byte
	retain  bool
	kept    bool // at QoS 0, in the queue of a durable session that is offline, see Settings.QueueQoS0
}

// identifiers returns the Subscription Identifiers of d; one holds a single one.
func (d *delivery) identifiers(one *[1]uint32) []uint32 {
	if d.ids != nil {
		return *d.ids
	}
	if d.id == 0 {
		return nil
	}
	one[0] = d.id
	return one[:]
}

// stored reports whether d goes by way of the store: through the queue of a durable
// session, or that of a group without a connected member, or to another instance.
func (d *delivery) stored() bool {
	return (d.qos > 0 || d.kept) && (d.session == nil || d.session.durable) || d.instance() != ""
}

// deliveryQoS is the QoS at which a message goes to a subscription [MQTT-3.8.4-8].
func (b *Broker) deliveryQoS(published, granted byte) byte {
	if b.opts.UpgradeOutgoingQoS {
		return granted
	}
	return min(published, granted)
}

// merge adds another subscription of the same session to d: the message goes out
// once, with the maximum QoS and all Subscription Identifiers [MQTT-3.3.4-2, -3, -4].
func (d *delivery) merge(o *delivery) {
	d.qos = max(d.qos, o.qos)
	d.retain = d.retain || o.retain
	if o.id == 0 {
		return
	}
	if d.id == 0 {
		d.id = o.id
		return
	}
	if d.ids == nil {
		d.ids = &[]uint32{d.id}
	}
	*d.ids = append(*d.ids, o.id)
}

// target is the queue that d goes through.
func (d *delivery) target() store.Target {
	t := store.Target{QoS: d.qos, Retain: d.retain}
	var one [1]uint32
	t.SubscriptionIdentifiers = append([]uint32(nil), d.identifiers(&one)...)
	if d.group != nil {
		t.ShareName, t.TopicFilter = d.group.ShareName(), d.group.TopicFilter()
	}
	if d.session == nil {
		t.Queue = store.GroupQueue(t.ShareName, t.TopicFilter)
	} else {
		t.Queue = store.QueueOf(d.session.id)
	}
	return t
}

// sharedFilter is the shared subscription that d is for.
func (d *delivery) sharedFilter() string {
	return sharedFilter(d.group.ShareName(), d.group.TopicFilter())
}

// remaining returns the Message Expiry Interval to send; ok is false if p has
// expired [MQTT-3.3.2-5].
func (l *loop) remaining(p *publication) (seconds uint32, has, ok bool) {
	if p.expiry.IsZero() {
		return 0, false, true
	}
	seconds, ok = session.RemainingExpiry(l.now(), p.expiry)
	return seconds, true, ok
}
