package config

import (
	"math"
	"time"
)

// Limits bound what clients may cost.
type Limits struct {
	Connections           int // 0: what open files allow
	ConnectionRate        int // 0: 2000 for each event loop; -1: unlimited
	ConnectionBurst       int // 0: as much as in a second
	Connects              int // -1: unlimited
	Client                Traffic
	Address               Quota
	Node                  Traffic
	TotalSubscriptions    int // -1: unlimited
	ConnectTimeout        time.Duration
	PacketSize            int
	ReceiveMaximum        int
	TopicAliasMaximum     int // -1: none
	Inflight              int
	QueueMessages         int // -1: unlimited
	QueueBytes            int // -1: unlimited
	QueuePolicy           string
	OutputBytes           int
	KeepAlive             time.Duration // 0: as the client asks
	SessionExpiryInterval time.Duration // 0: never
	Subscriptions         int           // -1: unlimited
	RetainedMessages      int           // -1: unlimited
	RetainedBytes         int           // -1: unlimited
	TopicLevels           int           // -1: unlimited
	MailboxMessages       int
}

const (
	// DropNewest and DropOldest are the words for Limits.QueuePolicy.
	DropNewest, DropOldest = "drop_newest", "drop_oldest"

	expiryMax = (math.MaxUint32 - 1) * time.Second
)

func (l *Limits) keys() []*node {
	return append(reloads(
		key("connections", &l.Connections, 0, whole(1, 100_000_000, automatic), "connections at one time; auto: what the limit of open files leaves after a reserve"),
		key("connection_rate", &l.ConnectionRate, 0, whole(1, 100_000_000, automatic, unlimited), "connections that are accepted in a second, the others wait; auto: 2000 for each event loop"),
		key("connection_burst", &l.ConnectionBurst, 0, burst, "how many of them at once"),
		key("connects", &l.Connects, 1024, amount, "CONNECT packets under decision at one time; the next is refused with Server busy"),
		key("total_subscriptions", &l.TotalSubscriptions, 10_000_000, amount, "Topic Filters of all sessions"),
		key("retained_messages", &l.RetainedMessages, 1_000_000, amount, "retained messages; more are passed on, and not retained"),
		key("retained_bytes", &l.RetainedBytes, 1<<30, amountOfBytes, "their size"),
		keys("client", &l.Client, (*Traffic).keys, "what one connection may send"),
		keys("address", &l.Address, (*Quota).keys, "what comes from one address; of IPv6, from one network of 64 bits"),
		keys("node", &l.Node, (*Traffic).keys, "what all connections together may send"),
	),
		key("connect_timeout", &l.ConnectTimeout, 10*time.Second, span(100*time.Millisecond, time.Hour), "from accept to CONNACK"),
		key("packet_size", &l.PacketSize, 4<<20, packetSize, "the largest packet that is taken, announced as Maximum Packet Size"),
		key("receive_maximum", &l.ReceiveMaximum, 1024, whole(1, 65535), "QoS 1 and 2 messages of one client that may wait for their acknowledgement"),
		key("topic_alias_maximum", &l.TopicAliasMaximum, 10, topicAliases, "Topic Aliases that a client may set"),
		key("inflight", &l.Inflight, 65535, whole(1, 65535), "unacknowledged messages to one client, within its own Receive Maximum"),
		key("queue_messages", &l.QueueMessages, 10_000, amount, "messages that wait for one session"),
		key("queue_bytes", &l.QueueBytes, 64<<20, amountOfBytes, "their size"),
		key("queue_policy", &l.QueuePolicy, DropNewest, queuePolicy, "which message goes when a queue is full"),
		key("output_bytes", &l.OutputBytes, 1<<20, size(1024, 1<<40), "what one connection has not yet taken; beyond it QoS 0 is dropped and the rest waits in its queue"),
		key("keep_alive", &l.KeepAlive, 0, keepAlive, "the largest Keep Alive: a 5.0 client that asks for more, or for none, is told this one"),
		key("session_expiry_interval", &l.SessionExpiryInterval, 0, sessionExpiry, "the largest Session Expiry Interval; a 3.x session with Clean Session 0 gets it"),
		key("subscriptions", &l.Subscriptions, 10_000, amount, "Topic Filters of one session"),
		key("topic_levels", &l.TopicLevels, 201, whole(1, 65535, unlimited), "levels of a Topic Name or Topic Filter"),
		key("mailbox_messages", &l.MailboxMessages, 16384, whole(1, 1<<30), "messages that wait at one event loop for another"),
	)
}

// Traffic bounds what clients send. Zero is no limit.
type Traffic struct {
	MessageRate, MessageBurst int // PUBLISH packets in a second, and at once
	ByteRate, ByteBurst       int // bytes of all packets
	Policy                    string
}

// The words for Traffic.Policy.
const (
	SlowDown   = "slow_down"
	Disconnect = "disconnect"
)

func (t *Traffic) keys() []*node {
	return reloads(
		key("message_rate", &t.MessageRate, 0, perSecond, "PUBLISH packets in a second"),
		key("message_burst", &t.MessageBurst, 0, burst, "how many at once, after a rest"),
		key("byte_rate", &t.ByteRate, 0, bytesPerSecond, "bytes of all packets in a second"),
		key("byte_burst", &t.ByteBurst, 0, byteBurst, "how many at once, after a rest"),
		key("policy", &t.Policy, SlowDown, oneOf(SlowDown, Disconnect), "what happens beyond it: the client isn't read for a while, or is disconnected with Message rate too high"),
	)
}

// Quota bounds the connections of one address, or of a listener, together. Zero is
// no limit.
type Quota struct {
	Connections                     int
	ConnectionRate, ConnectionBurst int
	Traffic                         Traffic
}

func (q *Quota) keys() []*node {
	return append(reloads(
		key("connections", &q.Connections, 0, whole(1, 100_000_000, word{"unlimited", 0}), "connections at one time"),
		key("connection_rate", &q.ConnectionRate, 0, perSecond, "new connections in a second"),
		key("connection_burst", &q.ConnectionBurst, 0, burst, "how many of them at once, after a rest"),
	), q.Traffic.keys()...)
}

var (
	perSecond      = whole(1, 1_000_000_000, word{"unlimited", 0})
	burst          = whole(1, 1_000_000_000, automatic)
	bytesPerSecond = size(1, 1<<40, word{"unlimited", 0})
	byteBurst      = size(1, 1<<40, automatic)
)

var (
	packetSize    = size(20, 268435460)
	topicAliases  = whole(1, 65535, none, word{"0", -1})
	amount        = whole(1, math.MaxInt, unlimited)
	amountOfBytes = size(1, math.MaxInt, unlimited)
	queuePolicy   = oneOf(DropNewest, DropOldest)
	keepAlive     = seconds(65535*time.Second, word{"unlimited", 0})
	sessionExpiry = seconds(expiryMax, word{"unlimited", 0})
)

// seconds is a duration of whole seconds.
func seconds(most time.Duration, words ...word) kind[time.Duration] {
	k := span(time.Second, most, words...)
	parse := k.parse
	k.parse = func(s string) (time.Duration, bool) {
		d, ok := parse(s)
		return d, ok && d%time.Second == 0
	}
	return k
}
