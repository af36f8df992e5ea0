package loopmq

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"loopmq/metrics"
	"loopmq/rate"
	"loopmq/store"
	"loopmq/trie"
)

// Options configure a Broker. The zero value of each field means its default.
type Options struct {
	// Engine carries connections: "gnet", or "netpoll", of which benchmarks/RESULTS.md
	// says what it costs; default: gnet.
	Engine string
	// Loops is the number of event loops; default: one per core.
	Loops int
	// Logger gets events as names with attributes; default: slog.Default(). If it
	// takes debug messages when the Broker is made, each packet is one.
	Logger *slog.Logger
	// Store keeps what outlives a connection. Required. The caller closes it
	// after Shutdown.
	Store store.Store
	// Metrics is the set that the broker counts in; default: one of its own.
	Metrics *metrics.Set
	// Version is what $SYS/broker/version says.
	Version string
	// NodeID names this instance in the store; default: random.
	NodeID string

	// AdminAddress is where this node can be administered, for Nodes: it is shown, not
	// used.
	AdminAddress string
	// Drain is how DrainNode drains this node if nothing else is said. SetDrain changes
	// it.
	Drain DrainOptions

	// AcknowledgeEarly sends PUBACK and PUBREC as soon as a message is in this
	// process's memory, and stores it behind that. What a crash then loses is in
	// docs/durability.md. Default: they wait for the store.
	AcknowledgeEarly bool
	// ServeWithoutStore lets what needs no durable state go on while a store that
	// several nodes share can't be reached, on what this node knows: QoS 1 and 2
	// messages for its own subscribers whose sessions end with their connections, and
	// such connections without a Will. They end when the store is back, since another
	// node may have their clients by then. Default: all of it is refused meanwhile.
	ServeWithoutStore bool

	// RefuseAddress says from which addresses no connection is accepted: it is closed
	// before a TLS handshake. Behind a PROXY header it is the client's address. It is
	// called on the event loops and must not block. auth.Bans.Banned is one; nil: none.
	RefuseAddress func(a netip.Addr) bool
	// Authenticator decides on CONNECT; nil: everybody may connect.
	Authenticator Authenticator
	// Authorizer decides on PUBLISH and SUBSCRIBE; nil: everything is allowed.
	Authorizer Authorizer
	// Settings are what the clients of listeners may do that have none of their own.
	Settings Settings
	// Recorder learns of events as they happen; nil: nobody does.
	Recorder *Recorder

	Limits Limits

	// SharedSubscriptionStrategy picks the member of a shared subscription that
	// gets a message; default: trie.RoundRobin.
	SharedSubscriptionStrategy SharedSubscriptionStrategy
	// CheckPayloadFormat makes the broker refuse a PUBLISH whose Payload Format
	// Indicator says UTF-8 and whose payload is not [MQTT-3.3.2-4].
	CheckPayloadFormat bool
	// CheckRetainSource has a retained message sent only if its publisher may still
	// publish it: the Authorizer of the subscriber's listener is asked, with a ClientInfo
	// that has ClientID and Username only. Messages that were retained without this
	// option have no Username.
	CheckRetainSource bool
	// UpgradeOutgoingQoS delivers at the QoS of the subscription also what was published
	// at a lower one. It is not what the standard says [MQTT-3.8.4-8].
	UpgradeOutgoingQoS bool
	// ReasonStrings adds Reason Strings to PUBACK, PUBREC, PUBREL and PUBCOMP
	// with an error too, where the client allows it, and lets PUBREL and PUBCOMP
	// tell of an unknown Packet Identifier (0x92). CONNACK and DISCONNECT have them
	// in any case, SUBACK and UNSUBACK never.
	ReasonStrings bool
	// ResponseInformation is the prefix that a client which asks for Response
	// Information gets, with its ClientID appended: "{prefix}{ClientID}/".
	// Empty: none is sent.
	ResponseInformation string
	// SysInterval is how often $SYS topics are published; default 10 s; negative:
	// never.
	SysInterval time.Duration
	// ConnectTimeout is how long a new connection may take to send its CONNECT;
	// default 10 s.
	ConnectTimeout time.Duration
}

// SharedSubscriptionStrategy says how a member of a shared subscription is chosen.
type SharedSubscriptionStrategy uint8

// The strategies. A hash gives the same key to the same member as long as the
// group's members stay the same.
const (
	SharedRoundRobin SharedSubscriptionStrategy = iota
	SharedRandom
	SharedSticky
	SharedHashClientID
	SharedHashTopic
)

// Limits bound what a client may cost. Zero means the default given here; for
// those that say so, a negative value means no limit.
type Limits struct {
	// Connections at one time. Default: what the process's limit of open files
	// leaves after a reserve.
	Connections int
	// ConnectionRate bounds how many connections are accepted in a second, and at once.
	// What comes faster waits in the kernel's queue, and at the clients. Default 2000 for
	// each event loop; negative: no limit.
	ConnectionRate rate.Limit
	// Connects is how many CONNECT packets may be under decision at one time; the next
	// is refused (5.0: Server busy, 0x89; 3.x: 3). Default 1024; negative: no limit.
	Connects int
	// Client is what one connection may send. Default: no limit.
	Client Traffic
	// Address bounds what comes from one address: of IPv6, from one network of 64 bits.
	// Default: no limit, since many clients may share one.
	Address Quota
	// Node is what all connections together may send. Default: no limit.
	Node Traffic
	// PacketSize is the largest packet accepted, in bytes, announced as Maximum
	// Packet Size. Default 4 MiB.
	PacketSize int
	// ReceiveMaximum is how many QoS 1 and 2 messages of one client may wait for
	// their acknowledgement, announced in CONNACK. A 3.x client beyond it is not
	// read until some are done. Default 1024.
	ReceiveMaximum int
	// TopicAliasMaximum is how many Topic Aliases a client may set. Default 10;
	// negative: none.
	TopicAliasMaximum int
	// Inflight bounds the unacknowledged messages sent to one client, within the
	// client's own Receive Maximum. Default 65535.
	Inflight int
	// QueueMessages and QueueBytes bound what waits for one session, beyond what
	// is in flight. Default 10,000 messages and 64 MiB; negative: no limit.
	QueueMessages int
	QueueBytes    int
	// QueuePolicy says what goes when the queue is full. Default: drop newest.
	// Drop oldest leaves alone as many as may have been sent already; so that this
	// isn't all, at most half of QueueMessages are in flight then.
	QueuePolicy store.Policy
	// OutputBytes bounds what one connection has not yet taken. Beyond it QoS 0
	// messages for it are dropped, and QoS 1 and 2 wait in its queue. Default 1 MiB.
	OutputBytes int
	// KeepAlive is the largest Keep Alive in seconds: a 5.0 client that asks for
	// more, or for none, is told this one as Server Keep Alive. Default: no limit.
	KeepAlive uint16
	// SessionExpiryInterval is the largest, in seconds. Default: no limit. A 3.x
	// session with Clean Session 0 gets it.
	SessionExpiryInterval uint32
	// Subscriptions of one session. Default 10,000; negative: no limit.
	Subscriptions int
	// TotalSubscriptions of all sessions. Default 10,000,000; negative: no limit.
	TotalSubscriptions int
	// RetainedMessages and RetainedBytes bound the retained messages. Default
	// 1,000,000 and 1 GiB; negative: no limit.
	RetainedMessages int
	RetainedBytes    int
	// TopicLevels is the largest number of levels in a Topic Name or Topic
	// Filter: a client that exceeds it is disconnected. Default 201, which are
	// 200 separators; negative: no limit.
	TopicLevels int
	// MailboxMessages bounds the messages that wait at one event loop for another
	// that does not keep up: QoS 0 beyond it is dropped, and publishers of QoS 1
	// and 2 are not read for a while. Default 16384.
	MailboxMessages int
}

// errNoStore and the like are what New says of Options it can't use.
var errNoStore = errors.New("loopmq: Options.Store is required (store/memory keeps everything in memory)")

func (o *Options) setDefaults() error {
	if o.Store == nil {
		return errNoStore
	}
	if o.Loops < 0 {
		return fmt.Errorf("loopmq: Options.Loops is %d; allowed: 0 (one per core) or more", o.Loops)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	o.SysInterval = cmp.Or(o.SysInterval, 10*time.Second)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 10*time.Second)
	loops := o.Loops
	if loops == 0 {
		loops = runtime.GOMAXPROCS(0)
	}
	return o.Limits.setDefaults(loops)
}

func (l *Limits) setDefaults(loops int) error {
	if l.ConnectionRate.PerSecond == 0 {
		l.ConnectionRate.PerSecond = connectionRate * loops
	}
	l.Connects = cmp.Or(l.Connects, 1024)
	l.TotalSubscriptions = cmp.Or(l.TotalSubscriptions, 10_000_000)
	if err := errors.Join(l.Client.check("Options.Limits.Client"), l.Address.check("Options.Limits.Address"), l.Node.check("Options.Limits.Node")); err != nil {
		return err
	}
	l.PacketSize = cmp.Or(l.PacketSize, 4<<20)
	l.ReceiveMaximum = cmp.Or(l.ReceiveMaximum, 1024)
	l.TopicAliasMaximum = cmp.Or(l.TopicAliasMaximum, 10)
	l.Inflight = cmp.Or(l.Inflight, 65535)
	l.QueueMessages = cmp.Or(l.QueueMessages, 10_000)
	l.QueueBytes = cmp.Or(l.QueueBytes, 64<<20)
	l.OutputBytes = cmp.Or(l.OutputBytes, 1<<20)
	l.SessionExpiryInterval = cmp.Or(l.SessionExpiryInterval, 0xFFFFFFFF)
	l.Subscriptions = cmp.Or(l.Subscriptions, 10_000)
	l.RetainedMessages = cmp.Or(l.RetainedMessages, 1_000_000)
	l.RetainedBytes = cmp.Or(l.RetainedBytes, 1<<30)
	l.TopicLevels = cmp.Or(l.TopicLevels, 201)
	l.MailboxMessages = cmp.Or(l.MailboxMessages, 16384)
	for _, c := range []struct {
		name       string
		value      int
		low, limit int
	}{
		{"PacketSize", l.PacketSize, 20, 268435460},
		{"ReceiveMaximum", l.ReceiveMaximum, 1, 65535},
		{"Inflight", l.Inflight, 1, 65535},
		{"TopicAliasMaximum", l.TopicAliasMaximum, -1 << 31, 65535},
		{"OutputBytes", l.OutputBytes, 1024, 1 << 40},
		{"MailboxMessages", l.MailboxMessages, 1, 1 << 30},
	} {
		if c.value < c.low || c.value > c.limit {
			return fmt.Errorf("loopmq: Options.Limits.%s is %d; allowed: %d to %d", c.name, c.value, c.low, c.limit)
		}
	}
	l.TopicAliasMaximum = max(0, l.TopicAliasMaximum)
	return nil
}

// connectionRate is how many connections one event loop takes in per second unless
// told otherwise: what leaves most of its time to those that are there.
const connectionRate = 2000

func (t *Traffic) check(name string) error {
	if t.MessageRate.PerSecond < 0 || t.ByteRate.PerSecond < 0 || t.MessageRate.Burst < 0 || t.ByteRate.Burst < 0 || t.Policy > DisconnectSender {
		return fmt.Errorf("loopmq: %s is %+v; allowed: rates and bursts of 0 or more, and a policy that there is", name, *t)
	}
	return nil
}

func (q *Quota) check(name string) error {
	if q.Connections < 0 || q.ConnectionRate.PerSecond < 0 || q.ConnectionRate.Burst < 0 {
		return fmt.Errorf("loopmq: %s has %d Connections and a ConnectionRate of %+v; allowed: 0 or more", name, q.Connections, q.ConnectionRate)
	}
	return q.Traffic.check(name + ".Traffic")
}

// fixed returns the limits that can't be changed by SetLimits.
func (l Limits) fixed() Limits {
	l.Connections, l.ConnectionRate, l.Connects, l.Client, l.Address, l.Node = 0, rate.Limit{}, 0, Traffic{}, Quota{}, Traffic{}
	l.RetainedMessages, l.RetainedBytes, l.TotalSubscriptions = 0, 0, 0
	return l
}

// inflight bounds the unacknowledged messages sent to one client.
func (l *Limits) inflight() int {
	if l.QueuePolicy == store.DropOldest && l.QueueMessages > 0 {
		return min(l.Inflight, max(1, l.QueueMessages/2))
	}
	return l.Inflight
}

// queueLimits are the limits of a session's queue, of which the first
// inflight entries may have been sent.
func (l *Limits) queueLimits(inflight int) store.Limits {
	return store.Limits{
		Messages:  max(0, l.QueueMessages),
		Bytes:     max(0, l.QueueBytes),
		Policy:    l.QueuePolicy,
		Protected: inflight,
	}
}

func (s SharedSubscriptionStrategy) trie() trie.Strategy {
	switch s {
	case SharedRandom:
		return trie.Random
	case SharedSticky:
		return trie.Sticky
	case SharedHashClientID, SharedHashTopic:
		return trie.Hash
	default:
		return trie.RoundRobin
	}
}
