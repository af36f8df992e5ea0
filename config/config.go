package config

import (
	"log/slog"
	"time"
)

// Config is what an operator says of a broker. It does not change once it is
// loaded.
type Config struct {
	Listeners      []Listener
	HTTP           HTTPListener
	CoAP           CoAPListener
	Admin          Admin
	AllowAnonymous *bool // nil: nothing was said
	Authentication []Method
	Authorization  []Rule
	AllowByDefault bool
	Bans           *Bans
	Webhooks       []Webhook
	OPCUA          OPCUA
	Store          string
	NodeID         string
	Engine         string // of Engines
	Loops          int    // 0: one per core
	Limits         Limits
	MQTT           MQTT
	Settings       Settings
	Drain          Drain
	Log            Log

	sources  map[string]Source // of values that were set, and of sections and lists
	problems Problems
}

// Engines are the words for Config.Engine, the default first.
var Engines = []string{"gnet", "netpoll"}

const loopsMax = 1024

// nodes is the table of all keys.
func (c *Config) nodes() []*node {
	loops := whole(0, loopsMax)
	loops.allowed = "0 (one per core) to 1024"
	return append([]*node{
		listOf("listeners", &c.Listeners, (*Listener).keys, "where clients connect. A list here replaces the default, which is MQTT at 127.0.0.1:1883, and MQTT over WebSocket at 127.0.0.1:8083 unless another program has that port"),
		keys("http", &c.HTTP, (*HTTPListener).keys, "the listener for HTTP requests that publish: docs/http.md"),
		keys("coap", &c.CoAP, (*CoAPListener).keys, "the listener for CoAP: docs/coap.md"),
		keys("admin", &c.Admin, (*Admin).keys, "the listener for operators: metrics, health, and the API of docs/admin.md"),
		maybe("allow_anonymous", &c.AllowAnonymous, "true on loopback addresses and unix sockets, else false", boolean,
			"whether clients may connect that don't say who they are. It holds for each listener that doesn't say otherwise, and for metrics and health of the admin listener"),
		listOf("authentication", &c.Authentication, (*Method).keys,
			"the ways of knowing clients, asked in this order: each accepts a client, rejects it, or leaves it to the next one; whom none knows is refused. An empty list authenticates nobody"),
		listOf("authorization", &c.Authorization, (*Rule).keys,
			"the ways of knowing what clients may publish, subscribe to and be sent, asked in this order: each allows it, denies it, or leaves it to the next one. With an empty list everything is allowed"),
		key("allow_by_default", &c.AllowByDefault, false, boolean, "whether what no element of authorization decides on is allowed"),
		reloads(listOf("webhooks", &c.Webhooks, (*Webhook).keys, "HTTP endpoints that are told what happens, see docs/webhooks.md"))[0],
		keys("opcua", &c.OPCUA, (*OPCUA).keys, "the client of OPC UA servers, whose values become messages, and the server of OPC UA clients: docs/opcua.md"),
		optional("bans", &c.Bans, (*Bans).keys, "clients that are kept out by Client Identifier, user name or address, beyond those that /api/v1/bans of the admin listener adds"),
		key("store", &c.Store, "pebble:./loopmq-data", storeURL,
			"where sessions and messages are kept: pebble:DIR, a directory; memory, gone when the process ends; redis://HOST:PORT/DB (rediss://, redis+sentinel://, redis+cluster://), "+
				"which several nodes may share. Parameters behind a question mark: docs/cli.md, docs/cluster.md"),
		key("node_id", &c.NodeID, "", text, "the name of this node in a store that several share; empty: a random one for each start"),
		key("engine", &c.Engine, Engines[0], oneOf(Engines...), "what carries connections: gnet, or netpoll, which costs more CPU and memory (benchmarks/RESULTS.md)"),
		key("loops", &c.Loops, 0, loops, "number of event loops; 0: one per core"),
		keys("limits", &c.Limits, (*Limits).keys, "what clients may cost; docs/limits.md says what happens beyond each limit"),
		keys("mqtt", &c.MQTT, (*MQTT).keys, "where the standards leave a choice"),
		keys("settings", &c.Settings, (*Settings).keys, "what clients may do, of all listeners that don't say otherwise"),
		keys("drain", &c.Drain, (*Drain).keys, "shutting down"),
	}, keys("log", &c.Log, (*Log).keys, "the log, one event a line on standard error"))
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
	CheckRetainSource          bool
	UpgradeOutgoingQoS         bool
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
		key("check_retain_source", &m.CheckRetainSource, false, boolean, "send a retained message only if its publisher may still publish it"),
		key("upgrade_outgoing_qos", &m.UpgradeOutgoingQoS, false, boolean, "deliver at the QoS of the subscription, also what was published at a lower one. It is not what the standard says"),
	}
}
