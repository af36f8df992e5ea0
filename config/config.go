package config

import (
	"log/slog"
	"math"
	"time"
)

// Config is what an operator says of a broker. It does not change once it is
// loaded.
type Config struct {
	Listeners      []Listener
	Admin          Admin
	AllowAnonymous *bool // nil: nothing was said
	Authentication []Method
	Authorization  []Rule
	AllowByDefault bool
	Bans           *Bans
	Store          string
	NodeID         string
	Engine         Engine
	Limits         Limits
	MQTT           MQTT
	Drain          Drain
	Log            Log

	sources  map[string]Source // of values that were set, and of sections and lists
	problems Problems
}

// nodes is the table of all keys.
func (c *Config) nodes() []*node {
	return append([]*node{
		listOf("listeners", &c.Listeners, (*Listener).keys, "where clients connect. A list here replaces the default, which is one listener for MQTT at 127.0.0.1:1883"),
		keys("admin", &c.Admin, (*Admin).keys, "the listener for operators: metrics, health, clients"),
		maybe("allow_anonymous", &c.AllowAnonymous, "true on loopback addresses and unix sockets, else false", boolean,
			"whether clients may connect that don't say who they are. It holds for each listener that doesn't say otherwise, and for the admin listener, which authenticates nobody"),
		listOf("authentication", &c.Authentication, (*Method).keys,
			"the ways of knowing clients, asked in this order: each accepts a client, rejects it, or leaves it to the next one; whom none knows is refused. An empty list authenticates nobody"),
		listOf("authorization", &c.Authorization, (*Rule).keys,
			"the ways of knowing what clients may publish, subscribe to and be sent, asked in this order: each allows it, denies it, or leaves it to the next one. With an empty list everything is allowed"),
		key("allow_by_default", &c.AllowByDefault, false, boolean, "whether what no element of authorization decides on is allowed"),
		optional("bans", &c.Bans, (*Bans).keys, "clients that are kept out by Client Identifier, user name or address. With {} they can be made by /bans of the admin listener"),
		key("store", &c.Store, "pebble:./loopmq-data", storeURL,
			"where sessions and messages are kept: pebble:DIR, a directory; memory, gone when the process ends; redis://HOST:PORT/DB (rediss://, redis+sentinel://, redis+cluster://), "+
				"which several nodes may share. Parameters behind a question mark: docs/cli.md, docs/cluster.md"),
		key("node_id", &c.NodeID, "", text, "the name of this node in a store that several share; empty: a random one for each start"),
		keys("engine", &c.Engine, (*Engine).keys, "event loops"),
		keys("limits", &c.Limits, (*Limits).keys, "what clients may cost; docs/limits.md says what happens beyond each limit"),
		keys("mqtt", &c.MQTT, (*MQTT).keys, "where the standards leave a choice"),
		keys("drain", &c.Drain, (*Drain).keys, "shutting down"),
	}, keys("log", &c.Log, (*Log).keys, "the log, one event a line on standard error"))
}

// Engine is how connections are carried.
type Engine struct {
	Loops int // 0: one per core
}

const loopsMax = 1024

func (e *Engine) keys() []*node {
	k := whole(0, loopsMax)
	k.allowed = "0 (one per core) to 1024"
	return []*node{
		key("loops", &e.Loops, 0, k, "number of event loops; 0: one per core"),
	}
}

// Log is how much is logged, and how.
type Log struct {
	Level  slog.Level
	Format string // text, json
}

func (l *Log) keys() []*node {
	return []*node{
		reloads(key("level", &l.Level, slog.LevelInfo, level, "how much is logged; debug is one event per packet"))[0],
		key("format", &l.Format, "text", oneOf("text", "json"), "how it looks"),
	}
}

var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

var level = kind[slog.Level]{
	name: "word", allowed: "debug, info, warn, error", takes: takesText,
	parse: func(s string) (slog.Level, bool) {
		l, ok := levels[s]
		return l, ok
	},
	format: func(l slog.Level) string {
		for name, v := range levels {
			if v == l {
				return name
			}
		}
		return l.String()
	},
}

// Drain is how a broker shuts down.
type Drain struct {
	Wait            time.Duration
	Rate            int // clients a second; 0: all at once
	ServerReference string
	Grace           time.Duration
}

func (d *Drain) keys() []*node {
	rate := whole(0, 1_000_000)
	rate.allowed = "0 (all at once) to 1000000"
	reference := text
	reference.allowed = "up to 65535 bytes of UTF-8"
	reference.parse = func(s string) (string, bool) { return s, isText(s) && len(s) <= 65535 }
	return reloads(
		key("wait", &d.Wait, 0, span(0, time.Hour), "how long to go on after SIGTERM while /readyz fails already, so that load balancers notice"),
		key("rate", &d.Rate, 0, rate, "clients to disconnect per second then; 0: all at once"),
		key("server_reference", &d.ServerReference, "", reference,
			"where 5.0 clients are told to go, with Use another server (0x9C); empty: Server shutting down (0x8B)"),
		key("grace", &d.Grace, 10*time.Second, span(0, time.Hour), "time allowed for shutting down when the clients are gone; what isn't done then is cut off, and the exit code is 1"),
	)
}

// MQTT are choices that the standards leave to a server.
type MQTT struct {
	SharedSubscriptionStrategy string
	CheckPayloadFormat         bool
	ReasonStrings              bool
	ResponseInformation        string
	SysInterval                time.Duration // negative: never
}

// Strategies are the words for MQTT.SharedSubscriptionStrategy, in the order of the
// Broker's constants.
var Strategies = []string{"round_robin", "random", "sticky", "hash_client_id", "hash_topic"}

func (m *MQTT) keys() []*node {
	return []*node{
		key("shared_subscription_strategy", &m.SharedSubscriptionStrategy, Strategies[0], oneOf(Strategies...), "which member of a shared subscription gets a message"),
		key("check_payload_format", &m.CheckPayloadFormat, false, boolean, "refuse a PUBLISH whose Payload Format Indicator says UTF-8 and whose payload is not"),
		key("reason_strings", &m.ReasonStrings, false, boolean, "add Reason Strings to PUBACK, PUBREC, PUBREL and PUBCOMP with an error; CONNACK and DISCONNECT have them in any case"),
		key("response_information", &m.ResponseInformation, "", text, "prefix of the Response Information for clients that ask for it: {prefix}{ClientID}/; empty: none"),
		key("sys_interval", &m.SysInterval, 10*time.Second, span(100*time.Millisecond, day, word{Off, -1}), "how often $SYS topics are published"),
	}
}

// Limits bound what clients may cost.
type Limits struct {
	Connections           int // 0: what open files allow
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
	seconds := func(most time.Duration, words ...word) kind[time.Duration] {
		k := span(time.Second, most, words...)
		parse := k.parse
		k.parse = func(s string) (time.Duration, bool) {
			d, ok := parse(s)
			return d, ok && d%time.Second == 0
		}
		return k
	}
	return []*node{
		key("connections", &l.Connections, 0, whole(1, 100_000_000, automatic), "connections at one time; auto: what the limit of open files leaves after a reserve"),
		key("connect_timeout", &l.ConnectTimeout, 10*time.Second, span(100*time.Millisecond, time.Hour), "from accept to CONNACK"),
		key("packet_size", &l.PacketSize, 4<<20, size(64, 268435460), "the largest packet that is taken, announced as Maximum Packet Size"),
		key("receive_maximum", &l.ReceiveMaximum, 1024, whole(1, 65535), "QoS 1 and 2 messages of one client that may wait for their acknowledgement"),
		key("topic_alias_maximum", &l.TopicAliasMaximum, 10, whole(1, 65535, none, word{"0", -1}), "Topic Aliases that a client may set"),
		key("inflight", &l.Inflight, 65535, whole(1, 65535), "unacknowledged messages to one client, within its own Receive Maximum"),
		key("queue_messages", &l.QueueMessages, 10_000, whole(1, math.MaxInt, unlimited), "messages that wait for one session"),
		key("queue_bytes", &l.QueueBytes, 64<<20, size(1, math.MaxInt, unlimited), "their size"),
		key("queue_policy", &l.QueuePolicy, DropNewest, oneOf(DropNewest, DropOldest), "which message goes when a queue is full"),
		key("output_bytes", &l.OutputBytes, 1<<20, size(1024, 1<<40), "what one connection has not yet taken; beyond it QoS 0 is dropped and the rest waits in its queue"),
		key("keep_alive", &l.KeepAlive, 0, seconds(65535*time.Second, word{"unlimited", 0}), "the largest Keep Alive: a 5.0 client that asks for more, or for none, is told this one"),
		key("session_expiry_interval", &l.SessionExpiryInterval, 0, seconds(expiryMax, word{"unlimited", 0}), "the largest Session Expiry Interval; a 3.x session with Clean Session 0 gets it"),
		key("subscriptions", &l.Subscriptions, 10_000, whole(1, math.MaxInt, unlimited), "Topic Filters of one session"),
		key("retained_messages", &l.RetainedMessages, 1_000_000, whole(1, math.MaxInt, unlimited), "retained messages; more are passed on, and not retained"),
		key("retained_bytes", &l.RetainedBytes, 1<<30, size(1, math.MaxInt, unlimited), "their size"),
		key("topic_levels", &l.TopicLevels, 201, whole(1, 65535, unlimited), "levels of a Topic Name or Topic Filter"),
		key("mailbox_messages", &l.MailboxMessages, 16384, whole(1, 1<<30), "messages that wait at one event loop for another"),
	}
}
