package opcuabridge

import (
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// ErrEndpoint is wrapped by what is wrong with an Endpoint.
var ErrEndpoint = errors.New("opcua endpoint")

// Options configure a [Bridge].
type Options struct {
	// Broker gets the values, and has the messages that are commands. Required.
	Broker *loopmq.Broker
	// Store has the leases; it is that of the Broker. Required.
	Store store.Store
	// Authorizer decides what an endpoint may publish and subscribe to, which is a client with Username and the ClientID
	// [ClientID]; nil: everything.
	Authorizer loopmq.Authorizer
	Username   string
	// Endpoints are the servers. Their defaults are set by New.
	Endpoints []*Endpoint
	// Metrics counts; default: those of the Broker.
	Metrics *metrics.Set
	// Logger gets what happens to endpoints; nil means slog.Default().
	Logger *slog.Logger
	// TTL is after what time without a sign of life another node takes an endpoint; default 5 s.
	TTL time.Duration
}

// Policy is how a connection is secured.
type Policy string

// The security policies.
const (
	PolicyNone                Policy = "none"
	PolicyBasic256Sha256      Policy = "basic256sha256"
	PolicyAes128Sha256RsaOaep Policy = "aes128_sha256_rsaoaep"
	PolicyAes256Sha256RsaPss  Policy = "aes256_sha256_rsapss"
)

var policyURIs = map[Policy]string{
	PolicyNone:                ua.SecurityPolicyURINone,
	PolicyBasic256Sha256:      ua.SecurityPolicyURIBasic256Sha256,
	PolicyAes128Sha256RsaOaep: ua.SecurityPolicyURIAes128Sha256RsaOaep,
	PolicyAes256Sha256RsaPss:  ua.SecurityPolicyURIAes256Sha256RsaPss,
}

// Security is how a connection is secured, and who this client is.
type Security struct {
	Policy Policy
	// SignOnly: messages are signed and not encrypted.
	SignOnly bool
	// Certificate, in DER, and Key are those of this application. Required unless Policy is none.
	Certificate []byte
	Key         *rsa.PrivateKey
	// Trusted are certificates of servers, or of authorities that sign those of servers, whose names must be in the URL
	// then. Required unless Policy is none.
	Trusted []*x509.Certificate

	// Username and Password, or UserCertificate, in DER, and UserKey, say who the user is; else it is anonymous.
	Username        string
	Password        string
	UserCertificate []byte
	UserKey         *rsa.PrivateKey
	// AllowPlainPassword lets a Password go to a server that nothing has proven to be the right one (PolicyNone), or that
	// can be read on the way (SignOnly, with a user token policy that doesn't encrypt).
	AllowPlainPassword bool
}

// Endpoint is an OPC UA server, and what is done with its nodes. It doesn't change once it is given to New or Reload.
type Endpoint struct {
	// Name is that of the lease, of logs, metrics and of {endpoint}; each endpoint has one of its own.
	Name string
	// URL is opc.tcp://HOST:PORT/PATH.
	URL      string
	Security Security
	// Namespaces are short names of namespaces' URIs, for node ids (ns=PREFIX;s=…) and paths (/Objects/PREFIX:Name).
	Namespaces map[string]string
	Mappings   []Mapping
	Calls      []Call
	// PublishingInterval is that of Mappings that have none; default 1 s.
	PublishingInterval time.Duration
	// SessionTimeout is how long the server keeps the session after a cut; default 1 min.
	SessionTimeout time.Duration
	// RequestTimeout bounds each request; default 10 s.
	RequestTimeout time.Duration
	// RetryMin and RetryMax bound the time between attempts to connect; default 1 s and 30 s.
	RetryMin, RetryMax time.Duration
	// Rescan is how often Mappings are looked up again, for nodes that weren't there before; default 10 min, less than 0:
	// only at each connect.
	Rescan time.Duration
	// StatusTopic gets a retained message whenever the state changes; default opcua/{endpoint}/status.
	StatusTopic string
	// ResponseTopics are Topic Filters, of which a command's Response Topic has to match one. Default: all are allowed,
	// as far as the Authorizer allows them.
	ResponseTopics []string
	// ItemsMax bounds the monitored items; default 100,000. MessageBytes bounds what the server may send at once; default
	// 16 MiB.
	ItemsMax     int
	MessageBytes uint32

	statusTopic string
}

// Mapping is a node, or all variables below one, and its topics.
type Mapping struct {
	// Node is a node id, Path a browse path from the root, Tree either of them: all variables below it, without properties.
	// One of the three.
	Node, Path, Tree string
	// Topic gets the values: a template with {endpoint}, {browse_path}, {browse_name} and {node_id}. WriteTopic is one
	// whose messages write the node. One of them at least.
	Topic, WriteTopic string
	// PublishingInterval is how often the server tells of changes; default: the endpoint's. SamplingInterval is how
	// often it looks for them; default: the same.
	PublishingInterval, SamplingInterval time.Duration
	// Queue is how many values the server keeps of an item between; default 10.
	Queue uint32
	// Deadband is what a number has to change by to count; PercentDeadband is in percent of its EURange.
	Deadband, PercentDeadband float64
	QoS                       byte
	Retain                    bool
	// Format is that of values, and but for part14 of what is written; default json.
	Format Format
	// Type is the built-in type to write where the node's DataType leaves it open; default: that of its current value.
	Type string

	root       nodeRef
	path       []step
	topic      template
	writeTopic template
	writeType  ua.TypeID
}

// Call is a method, and the topic whose messages call it with the arguments in their payloads: a JSON list in order, or an
// object by name.
type Call struct {
	Topic          string
	Object, Method string // node ids

	topic          string
	object, method nodeRef
}

var endpointName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// The least that intervals may be, so that a mistake doesn't bring a server down.
const (
	intervalMin = time.Millisecond
	requestMin  = 10 * time.Millisecond
)

// SetDefaults completes an Endpoint. The error names the field that is wrong.
func (e *Endpoint) SetDefaults() error {
	e.PublishingInterval = cmp.Or(e.PublishingInterval, time.Second)
	e.SessionTimeout = cmp.Or(e.SessionTimeout, time.Minute)
	e.RequestTimeout = cmp.Or(e.RequestTimeout, 10*time.Second)
	e.RetryMin = cmp.Or(e.RetryMin, time.Second)
	e.RetryMax = max(cmp.Or(e.RetryMax, 30*time.Second), e.RetryMin)
	e.Rescan = cmp.Or(e.Rescan, 10*time.Minute)
	e.StatusTopic = cmp.Or(e.StatusTopic, "opcua/{endpoint}/status")
	e.ItemsMax = cmp.Or(e.ItemsMax, 100_000)
	e.MessageBytes = cmp.Or(e.MessageBytes, 16<<20)
	u, err := url.Parse(e.URL)
	switch {
	case !endpointName.MatchString(e.Name):
		return wrong("Name", "%q: allowed: up to 32 letters, digits, - and _", e.Name)
	case err != nil || u.Scheme != "opc.tcp" || u.Hostname() == "" || u.User != nil:
		return wrong("URL", "allowed: opc.tcp://HOST:PORT/PATH")
	case e.PublishingInterval < intervalMin || e.RequestTimeout < requestMin || e.RetryMin < requestMin || e.SessionTimeout < requestMin || e.ItemsMax < 0:
		return wrong("PublishingInterval, SessionTimeout, RequestTimeout, RetryMin, ItemsMax", "allowed: more than 0")
	}
	if e.statusTopic, err = fixedTopic(e.StatusTopic, e.Name); err != nil {
		return wrong("StatusTopic", "%w", err)
	}
	for i, f := range e.ResponseTopics {
		if !codec.ValidTopicFilter([]byte(f)) {
			return fmt.Errorf("ResponseTopics[%d]: %q: allowed: a Topic Filter", i, f)
		}
	}
	if err := e.Security.check(); err != nil {
		return wrong("Security", "%w", err)
	}
	for i := range e.Mappings {
		if err := e.Mappings[i].setDefaults(e); err != nil {
			return fmt.Errorf("Mappings[%d].%w", i, err)
		}
	}
	topics := make(map[string]bool)
	for i := range e.Calls {
		if err := e.Calls[i].setDefaults(e); err != nil {
			return fmt.Errorf("Calls[%d].%w", i, err)
		}
		if topic := e.Calls[i].topic; topics[topic] {
			return fmt.Errorf("Calls[%d].Topic: %q: is that of another one, too", i, topic)
		}
		topics[e.Calls[i].topic] = true
	}
	return nil
}

// wrong is what is wrong with fields.
func wrong(fields, format string, args ...any) error {
	return fmt.Errorf("%s: %w", fields, fmt.Errorf(format, args...))
}

// fixedTopic is a template without variables of nodes.
func fixedTopic(text, endpoint string) (string, error) {
	t, err := parseTemplate(text, endpoint)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(t, func(p piece) bool { return p.variable != "" }) {
		return "", fmt.Errorf("%q: allowed: no variable but {endpoint}", text)
	}
	return t.expand(nil), nil
}

func (s *Security) check() error {
	s.Policy = cmp.Or(s.Policy, PolicyNone)
	_, known := policyURIs[s.Policy]
	user, certificate := s.Username != "", len(s.UserCertificate) > 0
	switch {
	case !known:
		return wrong("Policy", "%q: allowed: none, basic256sha256, aes128_sha256_rsaoaep, aes256_sha256_rsapss", s.Policy)
	case s.Policy != PolicyNone && (len(s.Certificate) == 0 || s.Key == nil):
		return wrong("Certificate, Key", "allowed: with both, since Policy is %s", s.Policy)
	case s.Policy != PolicyNone && len(s.Trusted) == 0:
		return wrong("Trusted", "allowed: with a certificate, since Policy is %s", s.Policy)
	case user && certificate:
		return wrong("Username, UserCertificate", "allowed: one of them")
	case certificate != (s.UserKey != nil):
		return wrong("UserCertificate, UserKey", "allowed: both, or none")
	case certificate && s.Policy == PolicyNone:
		return wrong("UserCertificate", "allowed: with another Policy than none")
	case user && s.Policy == PolicyNone && !s.AllowPlainPassword:
		return wrong("Password", "whoever answers in place of the server would get it: allowed: another Policy than none, or AllowPlainPassword")
	}
	return nil
}

func (m *Mapping) setDefaults(e *Endpoint) (err error) {
	m.PublishingInterval = cmp.Or(m.PublishingInterval, e.PublishingInterval)
	m.Queue = cmp.Or(m.Queue, 10)
	m.Format = cmp.Or(m.Format, FormatJSON)
	where, named := "", 0
	for _, text := range []string{m.Node, m.Path, m.Tree} {
		if text != "" {
			where, named = text, named+1
		}
	}
	switch {
	case named != 1:
		return wrong("Node, Path, Tree", "allowed: one of them")
	case m.Topic == "" && m.WriteTopic == "":
		return wrong("Topic, WriteTopic", "allowed: one of them at least")
	case m.PublishingInterval < intervalMin || m.SamplingInterval < 0:
		return wrong("PublishingInterval, SamplingInterval", "allowed: a millisecond or more")
	case m.Deadband < 0 || m.PercentDeadband < 0 || m.PercentDeadband > 100 || m.Deadband > 0 && m.PercentDeadband > 0 || m.Deadband != m.Deadband || m.PercentDeadband != m.PercentDeadband:
		return wrong("Deadband, PercentDeadband", "allowed: one of them, 0 or more, and up to 100 percent")
	case m.QoS > 2:
		return wrong("QoS", "allowed: 0 to 2")
	case m.Format != FormatValue && m.Format != FormatJSON && m.Format != FormatPart14:
		return wrong("Format", "%q: allowed: value, json, part14", m.Format)
	case m.Format == FormatPart14 && m.WriteTopic != "":
		return wrong("Format", "part14: allowed: without WriteTopic")
	}
	if m.Type != "" {
		var ok bool
		if m.writeType, ok = typeByName(m.Type); !ok {
			return wrong("Type", "%q: allowed: %s", m.Type, strings.Join(writableNames(), ", "))
		}
	}
	if strings.HasPrefix(where, "/") && m.Node == "" {
		m.path, err = parsePath(where, e.Namespaces)
	} else if m.Path == "" {
		m.root, err = parseNodeID(where, e.Namespaces)
	} else {
		err = errAddress
	}
	if err != nil {
		return wrong("Node, Path, Tree", "%q: %w", where, err)
	}
	if m.Topic != "" {
		if m.topic, err = parseTemplate(m.Topic, e.Name); err != nil {
			return wrong("Topic", "%w", err)
		}
	}
	if m.WriteTopic != "" {
		if m.writeTopic, err = parseTemplate(m.WriteTopic, e.Name); err != nil {
			return wrong("WriteTopic", "%w", err)
		}
		if f := m.writeTopic.filter(); f[0] == '+' || f[0] == '#' {
			return wrong("WriteTopic", "%q: allowed: a template whose first level is text", m.WriteTopic)
		}
	}
	return nil
}

func writableNames() []string {
	var all []string
	for t := range typeNames {
		if writable(ua.TypeID(t)) {
			all = append(all, typeNames[t])
		}
	}
	return all
}

func (c *Call) setDefaults(e *Endpoint) (err error) {
	if c.topic, err = fixedTopic(c.Topic, e.Name); err != nil || c.Topic == "" {
		return wrong("Topic", "%q: allowed: a Topic Name with no variable but {endpoint}", c.Topic)
	}
	if c.object, err = parseNodeID(c.Object, e.Namespaces); err != nil {
		return wrong("Object", "%q: %w", c.Object, err)
	}
	if c.method, err = parseNodeID(c.Method, e.Namespaces); err != nil {
		return wrong("Method", "%q: %w", c.Method, err)
	}
	return nil
}
