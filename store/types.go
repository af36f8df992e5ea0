package store

import (
	"strings"
	"time"

	"loopmq/codec"
)

// Message is one Application Message as it is stored and delivered. It is
// immutable once it is handed to a store or to another goroutine.
type Message struct {
	TopicName []byte
	Payload   []byte
	// Properties are the PUBLISH properties that a server forwards unaltered, as
	// codec.Properties.AppendForward writes them.
	Properties []byte
	// QoS and Retain are those of the PUBLISH as it was received. QoS is also
	// the QoS of a retained message.
	QoS    byte
	Retain bool
	// Expiry is when the message expires [MQTT-3.3.2-5]; zero: never. It is
	// absolute, on the store's clock.
	Expiry time.Time
	// PublisherID is the ClientID of the publisher, empty for the broker itself.
	PublisherID string
	// PublisherName is its user name, if that is to be kept.
	PublisherName string
}

// Publisher returns PublisherID and PublisherName as one string, for stores that
// write them: neither has a U+0000, which stands between them.
func (m *Message) Publisher() string {
	if m.PublisherName == "" {
		return m.PublisherID
	}
	return m.PublisherID + "\x00" + m.PublisherName
}

// SetPublisher sets both to what Publisher returned.
func (m *Message) SetPublisher(s string) {
	m.PublisherID, m.PublisherName, _ = strings.Cut(s, "\x00")
}

// Size is what a message counts against a limit in bytes.
func (m *Message) Size() int { return len(m.TopicName) + len(m.Payload) + len(m.Properties) }

// Expired reports whether m had expired at now.
func (m *Message) Expired(now time.Time) bool { return !m.Expiry.IsZero() && !now.Before(m.Expiry) }

// Number is the place of an entry in its queue. Within a Generation the Seq of
// a queue is contiguous and starts at 1; a Generation changes whenever the
// store may have lost the tail of a queue, so that a Number never names two
// messages.
type Number struct {
	Generation uint64
	Seq        uint64
}

// Less orders the Numbers of one queue.
func (n Number) Less(o Number) bool {
	return n.Generation < o.Generation || n.Generation == o.Generation && n.Seq < o.Seq
}

// IsZero reports whether n is the Number before the first entry.
func (n Number) IsZero() bool { return n == Number{} }

// SessionID names one incarnation of a session: a session that ended and began
// anew under the same ClientID has another Incarnation.
type SessionID struct {
	ClientID    string
	Incarnation uint64
}

// QueueID names a queue: that of a durable session, or, when ShareName is
// set, that of a shared-subscription group.
type QueueID struct {
	Session     SessionID
	ShareName   string
	TopicFilter string
}

// QueueOf returns the queue of a session.
func QueueOf(s SessionID) QueueID { return QueueID{Session: s} }

// GroupQueue returns the queue of a shared-subscription group. It comes into
// being with its first entry and goes with its last; when it comes again, none
// of its former Numbers does.
func GroupQueue(shareName, topicFilter string) QueueID {
	return QueueID{ShareName: shareName, TopicFilter: topicFilter}
}

// IsGroup reports whether q is the queue of a shared-subscription group.
func (q QueueID) IsGroup() bool { return q.ShareName != "" }

// Entry is one message in a queue.
type Entry struct {
	Number  Number
	Message *Message
	// QoS, Retain and SubscriptionIdentifiers are those of the delivery: the
	// effective QoS (1 or 2), the RETAIN bit to send, and the identifiers of all
	// subscriptions that matched.
	QoS                     byte
	Retain                  bool
	SubscriptionIdentifiers []uint32
	// ShareName and TopicFilter name the group that a message of a shared
	// subscription belongs to; both are empty for others.
	ShareName   string
	TopicFilter string
}

// Policy says what happens to a message that does not fit a queue.
type Policy uint8

const (
	// DropNewest refuses the message that does not fit.
	DropNewest Policy = iota
	// DropOldest removes entries from the front to make room, but none of the
	// first Limits.Protected, which may have been sent already.
	DropOldest
)

// Limits bound the queue of one session. Zero means no limit. They are soft: a
// store may check the length every 64th number only. Bytes counts
// Message.Size. The queue of a group has none.
type Limits struct {
	Messages int
	Bytes    int
	Policy   Policy
	// Protected is how many entries a connection can have under way. In a Shared
	// store a session that goes on keeps the larger one while its queue isn't empty.
	Protected int
}

// Subscription is one subscription of a session. TopicFilter is as the client
// sent it, with $share/{ShareName}/ if it is shared.
type Subscription struct {
	TopicFilter            string
	Options                codec.SubscriptionOptions
	SubscriptionIdentifier uint32
}

// Session is what the store knows of a session.
type Session struct {
	ID SessionID
	// Epoch is the fencing token of the last claim.
	Epoch uint64
	// Owner is the instance that holds the connection, empty when offline.
	Owner string
	// Durable: the session outlives its connection. It has stored state, that is,
	// a queue, subscriptions and QoS 2 handshakes. Of a session that was never
	// durable only this Session and its Will are stored.
	Durable bool
	// SessionExpiryInterval in seconds; 0xFFFFFFFF: never.
	SessionExpiryInterval uint32
	// Due is when an offline session expires; zero: it is connected, or never.
	Due    time.Time
	Limits Limits
	// Connection is what the last claim said of its connection. Disconnected is how a
	// connection of the session ended last, nil if none did; it isn't written to.
	Connection   Connection
	Disconnected *Disconnected
}

// Connection describes a connection for people: no rule looks at it.
type Connection struct {
	Username        string
	Address         string // host:port
	Listener        string
	ProtocolVersion codec.Version
	KeepAlive       uint16 // seconds
	CleanStart      bool
	Since           time.Time // on the store's clock
}

// Disconnected is how a connection ended: when, and if it wasn't as it should be, why.
type Disconnected struct {
	At     time.Time
	Reason string
}

// NodeEnded is the Reason of connections that ended with the process that had them.
const NodeEnded = "the node has ended"

// SessionQuery says which sessions a list is to have.
type SessionQuery struct {
	// After: those whose ClientIDs are behind it. Prefix: those that begin with it.
	After, Prefix string
	// Connected leaves out the sessions that no client has.
	Connected bool
	// Limit is how many sessions are looked at at most, also those that Connected leaves
	// out.
	Limit int
}

// SessionPage is one page of a list of sessions.
type SessionPage struct {
	Sessions []Session
	// Next is the After of the next page, empty behind the last one.
	Next string
}

// Claim is what a CONNECT asks for.
type Claim struct {
	ClientID string
	// Connect names the CONNECT, at any instance: without spaces, and empty if it has
	// no name. A Claim that failed may have been made all the same; made again under
	// its name it takes the place of the first one, with all that one had brought.
	Connect string
	// Owner is the claiming instance.
	Owner string
	// CleanStart ends a stored session first [MQTT-3.1.2-4].
	CleanStart bool
	// Durable: the session outlives this connection.
	Durable               bool
	SessionExpiryInterval uint32
	Limits                Limits
	// Sent is the last entry of the session's queue that the claimer knows to have
	// been sent.
	Sent Number
	// Will is the Will of this connection, nil if it has none. The store copies
	// it and sets ClientID, Epoch and Due of the copy.
	Will *Will
	// Connection is what Session.Connection is to say.
	Connection Connection
}

// Claimed is the answer to a Claim.
type Claimed struct {
	Session Session
	// Present: the session existed before and goes on [MQTT-3.2.2-3].
	Present bool
	// Ended is the former session that did not go on, durable or not, nil if
	// there was none: its subscriptions are to be taken out of the trie.
	Ended *Session
	// Dropped is how many entries behind Claim.Sent were deleted with the session
	// that ended, by their QoS.
	Dropped [3]int
	// GivenBack are the groups into whose queues a Shared store has put messages of
	// shared subscriptions that the session had which did not go on: QoS 1, and QoS 2
	// that can't have been sent.
	GivenBack []GroupID
	// OldOwner is the instance that held the connection until now, empty if
	// none. OldEpoch is the Epoch of the claim before, 0 if there was no session. A
	// Shared store has asked another instance to end that connection (Node.Yield):
	// Node.Released, or Node.Dead, says that it has.
	OldOwner string
	OldEpoch uint64
	// OldWill is the Will of the connection before, nil if it had none or it was
	// published or dropped already. With a zero Due it is cancelled and removed:
	// the session goes on and the Will Delay Interval had not passed
	// [MQTT-3.1.3-9]. Otherwise it is due, and is stored until an OpPublish
	// removes it [MQTT-3.1.2-8]: the claimer's, or, if the claimer fails, that of
	// whoever asks for the Wills that are due.
	OldWill *Will
	// Subscriptions, Released and Held are the state of a session that is
	// present. Subscriptions are ordered by TopicFilter. Released: numbers whose
	// PUBREC came and whose PUBCOMP has not, in order. Held: Packet Identifiers
	// of QoS 2 messages that were received and are not released, in order.
	Subscriptions []Subscription
	Released      []Number
	Held          []uint16
	// Last is the Number that was last given out in the session's queue.
	Last Number
}

// Subscribed is a durable session with its subscriptions.
type Subscribed struct {
	Session       Session
	Subscriptions []Subscription // ordered by TopicFilter
	Queued        int            // entries in its queue
}

// Will is a stored Will. It belongs to the claim with the same Epoch.
type Will struct {
	ClientID string
	Epoch    uint64
	Message  Message
	// DelayInterval is the Will Delay Interval in seconds. The message's own
	// expiry, in seconds, counts from its publication; -1: none.
	DelayInterval uint32
	ExpirySeconds int64
	// Due is when to publish it; zero while the client is connected.
	Due time.Time
}
