package loopmq

import (
	"time"

	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// EventKind says what has happened.
type EventKind uint8

// The kinds of events. Each is told once, by the node where it happened.
const (
	// EventClientConnected: a CONNECT was accepted. Event.SessionPresent says whether
	// the session goes on.
	EventClientConnected EventKind = iota
	// EventClientDisconnected: that connection has ended. ReasonCode and Reason say why.
	EventClientDisconnected
	// EventClientAuthFailed: the credentials of a CONNECT, or of a client that
	// authenticated again, were refused. Client is who it said it is.
	EventClientAuthFailed
	// EventSessionCreated: a session began.
	EventSessionCreated
	// EventSessionTakenOver: another connection has the session now. Client is the one
	// that had it.
	EventSessionTakenOver
	// EventSessionTerminated: a session ended: with its connection, by a Clean Start, or
	// by expiry. Of Client only the ClientID is set where no connection had it.
	EventSessionTerminated
	// EventSessionSubscribed: a subscription was made or replaced, and is stored.
	EventSessionSubscribed
	// EventSessionUnsubscribed: one was removed, other than with its session.
	EventSessionUnsubscribed
	// EventMessagePublished: a message was accepted, from whatever source. It is in one
	// step with the message, see Recorder. $SYS topics have none.
	EventMessagePublished
	// EventMessageDelivered: a message was written to a client's output; with Dup set it
	// may have been before.
	EventMessageDelivered
	// EventMessageAcked: the client has a message: its PUBACK or PUBREC came, with
	// ReasonCode.
	EventMessageAcked
	// EventMessageDropped: a message for a client was given up. Reason is the label that
	// loopmq_messages_dropped_total has for it. Client is nil for the queue of a shared
	// subscription. What a store removes unseen, the oldest of a full queue and what was
	// queued for a session that ended, is not told of.
	EventMessageDropped
	// EventWillPublished: a Will Message was published. It is in one step with the
	// message, for which there is an EventMessagePublished too.
	EventWillPublished
	// EventNodeUp: a node serves clients.
	EventNodeUp
	// EventNodeDown: a node has left, or was declared dead. A node that has its store for
	// itself tells only when it stops in good order.
	EventNodeDown

	// NumEventKinds is the number of kinds.
	NumEventKinds = int(iota)
)

// String returns the name of the kind, such as "client.connected". It doesn't allocate.
func (k EventKind) String() string { return metrics.EventName(uint8(k)) }

// Event is something that has happened. It and what it points to are valid during the
// call that it is given to only.
type Event struct {
	Kind EventKind
	At   time.Time // the store's clock
	// Node names the node that tells it, or which is up or down.
	Node string
	// Client is whom it is about: the publisher, or the subscriber of what was
	// delivered, acknowledged or dropped. Nil: nobody. Where no connection of this loop
	// is behind it only ClientID is set, and Username if it is known.
	Client *ClientInfo

	ReasonCode     codec.ReasonCode
	Reason         string
	SessionPresent bool

	TopicFilter string                    // of EventSessionSubscribed and EventSessionUnsubscribed
	Options     codec.SubscriptionOptions // of EventSessionSubscribed

	// Message is what was published, delivered, acknowledged or dropped, with the QoS
	// and RETAIN that it was published with. It is nil for an EventMessageAcked of a
	// message that was sent before somebody wanted these events.
	Message *MessageView
	// QoS and PacketID are those of a delivery; so is QoS of one that was dropped.
	QoS      byte
	PacketID uint16
	Dup      bool
}

// MessageView is a message as an event sees it. Its bytes are valid during the
// call only.
type MessageView struct {
	TopicName []byte
	Payload   []byte
	QoS       byte
	Retain    bool
	// Expiry is when the message expires, on the store's clock; zero: never.
	Expiry time.Time
	// PublisherID is the ClientID of its publisher, empty if it has none.
	PublisherID string

	properties []byte
}

// Properties decodes the properties that a server passes on: Payload Format
// Indicator, Content Type, Response Topic, Correlation Data and User Properties.
// What p points to is valid as long as the message.
func (m *MessageView) Properties(p *codec.Properties) error {
	return codec.DecodeForward(m.properties, p)
}

// ForwardProperties returns these properties as they stand in a PUBLISH, for
// codec.DecodeForward.
func (m *MessageView) ForwardProperties() []byte { return m.properties }

// Recorder learns what happens in a Broker, and may have it stored on its way to other
// systems. Its functions are called on the event loops, several at a time: they must
// not block, nor call the Broker.
type Recorder struct {
	// Wants reports whether Record is to be called for events of a kind. It is asked
	// again and again, so the answer may change.
	Wants func(k EventKind) bool
	// Topics, if there is such a function, says for which Topic Names Record is to be
	// called, of events of a kind that have a Message; nil: for all. It is asked as often
	// as Wants, and what is found out of a set is kept until it returns another.
	Topics func(k EventKind) *TopicSet
	// Record appends to `to` what is to go into outboxes of the store because of e, and
	// returns that.
	//
	// Of an EventMessagePublished and an EventWillPublished it is stored in one step with
	// the message, if that is stored: so it is there if and only if the message was
	// accepted. With wait the message's acknowledgement, or the return of
	// Broker.Publish, waits for that step, also if nothing else of it has to be stored,
	// and with Options.AcknowledgeEarly; wait means nothing for QoS 0 of a client. If a Will can't be
	// published, and is tried again, Record is called again too. All else goes into the
	// loop's next commit, for which it waits up to 40 ms where events come often; while
	// the store can't be reached some of it is kept, within a bound, then it is dropped
	// and counted.
	Record func(e *Event, to []store.Event) (out []store.Event, wait bool)
}

// TopicSet is a set of Topic Filters, for Recorder.Topics. It doesn't change.
type TopicSet struct{ filters *trie.Trie[struct{}] }

// NewTopicSet returns a set of what matches one of the filters, which must be valid.
func NewTopicSet(topicFilters ...string) *TopicSet {
	s := &TopicSet{filters: trie.New[struct{}]()}
	for _, f := range topicFilters {
		s.filters.Subscribe(f, struct{}{}, trie.Options{})
	}
	return s
}

// OnEvent returns a Recorder that calls f for events of the given kinds, or of all if
// none is given, and has nothing stored.
func OnEvent(f func(e *Event), kinds ...EventKind) *Recorder {
	var wanted [NumEventKinds]bool
	for k := range wanted {
		wanted[k] = len(kinds) == 0
	}
	for _, k := range kinds {
		wanted[k] = true
	}
	return &Recorder{
		Wants: func(k EventKind) bool { return wanted[k] },
		Record: func(e *Event, to []store.Event) ([]store.Event, bool) {
			f(e)
			return to, false
		},
	}
}

// Recorders returns a Recorder that stands for several, called in their order; nil
// ones are left out, and it is nil if there is none.
func Recorders(all ...*Recorder) *Recorder {
	var rs []*Recorder
	for _, r := range all {
		if r != nil {
			rs = append(rs, r)
		}
	}
	if len(rs) < 2 {
		return append(rs, nil)[0]
	}
	return &Recorder{
		Wants: func(k EventKind) bool {
			for _, r := range rs {
				if r.Wants(k) {
					return true
				}
			}
			return false
		},
		Topics: func(k EventKind) (set *TopicSet) {
			for _, r := range rs {
				switch {
				case !r.Wants(k):
				case set != nil || r.Topics == nil: // several: each looks for itself
					return nil
				default:
					if set = r.Topics(k); set == nil {
						return nil
					}
				}
			}
			return set
		},
		Record: func(e *Event, to []store.Event) (out []store.Event, wait bool) {
			for _, r := range rs {
				if r.Wants(e.Kind) {
					var w bool
					to, w = r.Record(e, to)
					wait = wait || w
				}
			}
			return to, wait
		},
	}
}
