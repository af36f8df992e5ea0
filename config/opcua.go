package config

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

// OPCUA is the client of OPC UA servers, and the server of OPC UA clients.
type OPCUA struct {
	Username  string
	Endpoints []OPCUAEndpoint
	Server    OPCUAServer
}

func (o *OPCUA) keys() []*node {
	return []*node{
		key("username", &o.Username, "", text, "the user name as which endpoints publish, and get commands, which authorization at the top decides on; empty: none. Their Client Identifiers are $local/opcua/NAME"),
		reloads(listOf("endpoints", &o.Endpoints, (*OPCUAEndpoint).keys, "servers. Of nodes that share a store one serves each of them"))[0],
		keys("server", &o.Server, (*OPCUAServer).keys, "the server for OPC UA clients, which see topics as variables: docs/opcua.md"),
	}
}

// OPCUAEndpoint is a server.
type OPCUAEndpoint struct {
	Name               string
	URL                string
	Namespaces         []string
	Security           OPCUASecurity
	Mappings           []OPCUAMapping
	Calls              []OPCUACall
	PublishingInterval time.Duration
	SessionTimeout     time.Duration
	RequestTimeout     time.Duration
	RetryMin           time.Duration
	RetryMax           time.Duration
	Rescan             time.Duration // negative: at each connect only
	StatusTopic        string
	ResponseTopics     []string
	MaxItems           int
	MessageSize        int
}

const (
	intervalLeast = 10 * time.Millisecond
	itemsMax      = 1_000_000
)

func (e *OPCUAEndpoint) keys() []*node {
	return append(reloads(
		key("name", &e.Name, "", listenerName, "what topics ({endpoint}), logs, metrics and the lease call it; each endpoint needs one of its own"),
		key("url", &e.URL, "", opcURL, "where the server is"),
		keyList("namespaces", &e.Namespaces, prefixed, "short names of namespaces' URIs, for node ids (ns=PREFIX;s=NAME) and paths (/Objects/PREFIX:NAME)"),
		key("publishing_interval", &e.PublishingInterval, time.Second, span(intervalLeast, day), "how often the server tells of changes, unless the mapping says otherwise"),
		key("session_timeout", &e.SessionTimeout, time.Minute, span(time.Second, day), "how long the server keeps the session, and what happens meanwhile, when the connection is cut"),
		key("request_timeout", &e.RequestTimeout, 10*time.Second, span(100*time.Millisecond, 10*time.Minute), "bound of a request, and of silence of the server"),
		key("retry_min", &e.RetryMin, time.Second, span(intervalLeast, day), "the wait before the second attempt to connect; it doubles"),
		key("retry_max", &e.RetryMax, 30*time.Second, span(intervalLeast, day), "up to this; the wait is a random part of it, half at least"),
		key("rescan", &e.Rescan, 10*time.Minute, span(time.Second, 365*day, word{Off, -1}), "how often mappings are looked up again, for nodes that weren't there before; off: at each connect only"),
		key("status_topic", &e.StatusTopic, "opcua/{endpoint}/status", text, "gets a retained message with each change of the connection's state"),
		keyList("response_topics", &e.ResponseTopics, text, "Topic Filters that Response Topics of commands have to match. None given: any topic that authorization allows"),
		key("max_items", &e.MaxItems, 100_000, whole(1, itemsMax), "monitored items; nodes beyond that are left out, and the status topic says so"),
		key("message_size", &e.MessageSize, 16<<20, size(64<<10, 256<<20), "what the server may send at once"),
	),
		keys("security", &e.Security, (*OPCUASecurity).keys, "how the connection is secured, and who this client is"),
		reloads(listOf("mappings", &e.Mappings, (*OPCUAMapping).keys, "nodes and their topics"))[0],
		reloads(listOf("calls", &e.Calls, (*OPCUACall).keys, "methods and their topics"))[0],
	)
}

// OPCUASecurity is how a connection is secured.
type OPCUASecurity struct {
	Policy             string
	SignOnly           bool
	Certificate        string
	Key                string
	Trusted            []string
	Username           string
	PasswordFile       string
	UserCertificate    string
	UserKey            string
	AllowPlainPassword bool
}

func (s *OPCUASecurity) keys() []*node {
	return reloads(
		key("policy", &s.Policy, "none", oneOf("none", "basic256sha256", "aes128_sha256_rsaoaep", "aes256_sha256_rsapss"), "the security policy"),
		key("sign_only", &s.SignOnly, false, boolean, "sign messages without encrypting them"),
		key("certificate", &s.Certificate, "", maybeFile, "this client's certificate, as PEM or DER, with its application URI; needed with a policy"),
		key("key", &s.Key, "", maybeFile, "its RSA key, as PEM"),
		keyList("trusted", &s.Trusted, file, "certificates of servers, or of the CAs that sign them, as PEM or DER; needed with a policy. Of a server that a CA signed the URL has the name"),
		key("username", &s.Username, "", text, "the user at the server; empty: anonymous, or that of user_certificate"),
		key("password_file", &s.PasswordFile, "", maybeFile, "the file with its password; a line break at the end isn't part of it"),
		key("user_certificate", &s.UserCertificate, "", maybeFile, "the certificate of the user, as PEM or DER"),
		key("user_key", &s.UserKey, "", maybeFile, "its RSA key, as PEM"),
		key("allow_plain_password", &s.AllowPlainPassword, false, boolean, "a password without a policy: whoever answers in place of the server gets it"),
	)
}

// OPCUAMapping is a node, or all variables below one, and its topics.
type OPCUAMapping struct {
	Node               string
	Path               string
	Tree               string
	Topic              string
	WriteTopic         string
	PublishingInterval time.Duration
	SamplingInterval   time.Duration
	Queue              int
	Deadband           float64
	PercentDeadband    float64
	QoS                int
	Retain             bool
	Format             string
	Type               string
}

func (m *OPCUAMapping) keys() []*node {
	return reloads(
		key("node", &m.Node, "", text, "a node id: nsu=URI;s=NAME, ns=PREFIX;i=NUMBER, i=NUMBER; g= and b= likewise. Either this, path or tree"),
		key("path", &m.Path, "", text, "a browse path from the root, such as /Objects/PREFIX:NAME; & takes the meaning from the slash or colon behind it"),
		key("tree", &m.Tree, "", text, "a node id or a path: all variables below it, without properties"),
		key("topic", &m.Topic, "", text, "gets the values: a Topic Name with {endpoint}, {browse_path}, {browse_name}, {node_id}"),
		key("write_topic", &m.WriteTopic, "", text, "messages of this topic write the node; the same variables"),
		key("publishing_interval", &m.PublishingInterval, 0, span(0, day), "how often the server tells of changes; 0: as the endpoint says"),
		key("sampling_interval", &m.SamplingInterval, 0, span(0, day), "how often the server looks for them; 0: as often"),
		key("queue", &m.Queue, 10, whole(1, 1_000_000), "values that the server keeps between; beyond that the oldest go, and the next one says so"),
		key("deadband", &m.Deadband, 0, fraction(0, 1e300), "what a number has to change by to count"),
		key("percent_deadband", &m.PercentDeadband, 0, fraction(0, 100), "the same in percent of the node's EURange"),
		key("qos", &m.QoS, 0, whole(0, 2), "of the messages"),
		key("retain", &m.Retain, false, boolean, "the last value is a retained message"),
		key("format", &m.Format, "json", oneOf("value", "json", "part14"), "what payloads are: the value alone, an object with type, status and times, or OPC UA PubSub's JSON"),
		key("type", &m.Type, "", text, "the built-in type to write where the node leaves it open, such as Double; empty: that of its value"),
	)
}

// OPCUACall is a method and its topic.
type OPCUACall struct {
	Topic  string
	Object string
	Method string
}

func (c *OPCUACall) keys() []*node {
	return reloads(
		key("topic", &c.Topic, "", text, "messages of this topic call the method, with the arguments as a JSON list, or as an object by name; {endpoint} is the variable"),
		key("object", &c.Object, "", text, "the node id of the object"),
		key("method", &c.Method, "", text, "and that of its method"),
	)
}

// opcURL is where an OPC UA server is.
var opcURL = kind[string]{
	name: "URL", allowed: "opc.tcp://HOST:PORT/PATH", takes: takesText,
	parse: func(s string) (string, bool) {
		u, err := url.Parse(s)
		return s, err == nil && isText(s) && u.Scheme == "opc.tcp" && u.Hostname() != "" && u.User == nil
	},
	format: same,
}

// prefixed is a name for a URI.
var prefixed = kind[string]{
	name: "PREFIX=URI", allowed: "PREFIX=URI, where PREFIX is no number", takes: takesText,
	parse: func(s string) (string, bool) {
		name, uri, ok := strings.Cut(s, "=")
		_, number := strconv.Atoi(name)
		return s, ok && name != "" && uri != "" && number != nil && isText(s) && !strings.ContainsAny(name, ";:/&")
	},
	format: same,
}

// fraction is a number from least to most that needn't be whole.
func fraction(least, most float64) kind[float64] {
	format := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	return kind[float64]{
		name: "number", allowed: format(least) + " to " + format(most), takes: takesInteger | takesFraction,
		parse: func(s string) (float64, bool) {
			f, err := strconv.ParseFloat(s, 64)
			return f, err == nil && f >= least && f <= most
		},
		format: format,
	}
}
