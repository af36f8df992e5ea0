package webhooks

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"loopmq"
	"loopmq/codec"
)

// Endpoint is where events go, which ones, and how. It must not be changed while it is in use. Zero values are the
// defaults, which SetDefaults puts in.
type Endpoint struct {
	// Name is what logs, metrics and the store call it: up to 32 letters, digits, - and _. Its outbox goes by this name,
	// so another URL under the same name gets what is left in it.
	Name string
	// URL is what is POSTed to. Plain http is for loopback addresses only, unless AllowPlainHTTP says otherwise.
	URL            string
	AllowPlainHTTP bool

	// Events are kinds of events, such as message.published; message.* means all that begin so, * all.
	Events []string
	// TopicFilters limit the events that have a Topic Name or a Topic Filter to those that match one of them; others
	// they don't concern. None: all.
	TopicFilters []string
	// ClientIDs and Usernames limit the events to those of such clients; * stands for any text. None: all; if there is
	// one, events without a client don't match.
	ClientIDs []string
	Usernames []string

	// Payload is how payloads are shown; default PayloadJSON, and with EMQX PayloadText.
	Payload Payload
	// Format is the shape of a request; default CloudEvents. Mode is that of a CloudEvent which is sent by itself;
	// default Structured.
	Format Format
	Mode   Mode
	// Source is what CloudEvents say they come from, in front of a slash and the name of the node: a URI reference;
	// default "loopmq".
	Source string
	// Batch is how many events make one request; default: one each.
	Batch Batch
	// Headers are added to each request.
	Headers http.Header
	// Secrets sign each request, each by itself: with a second one receivers can change over. None: it isn't signed.
	Secrets []Secret
	// TLS is for https; nil: the system's CAs and no certificate of one's own.
	TLS *tls.Config

	// Order is what is kept in order, at the price of waiting for one another; default OrderNone.
	Order Order
	// Concurrency bounds the requests of one node under way; default 8.
	Concurrency int
	// Timeout bounds a request, to the last byte of its answer; default 10 s.
	Timeout time.Duration
	// ResponseBytes bounds what is read of an answer; default 64 KiB.
	ResponseBytes int
	// MaxAge is for how long an event is tried, from when it happened; default 3 days.
	MaxAge time.Duration
	// RetryMin and RetryMax are the bounds of the time between attempts, which doubles from the first to the second,
	// with jitter; default 1 s and 5 minutes.
	RetryMin time.Duration
	RetryMax time.Duration
	// BreakerFailures is after how many failures in a row nothing is sent for BreakerDelay, and then one request at a
	// time until one succeeds; default 10 and 30 s.
	BreakerFailures int
	BreakerDelay    time.Duration

	// Durability says whether acknowledgements wait for events; default Async.
	Durability Durability
	// MaxQueued and MaxQueuedBytes bound what waits in the outbox, MaxDead the dead letters, of which the oldest go;
	// default 1,000,000, 1 GiB and 10,000. An event beyond the first two is dropped and counted.
	MaxQueued      int
	MaxQueuedBytes int64
	MaxDead        int

	// Allow are networks of private, loopback, link-local and such addresses that requests may go to, AllowPrivate all
	// of them. Others than public addresses are refused otherwise, whatever a name resolves to.
	Allow        []netip.Prefix
	AllowPrivate bool

	// Replies publishes answers; nil: they only count.
	Replies *Replies
}

// Batch is when a request is complete: with Count events or Bytes of records, or when its first event is Wait old.
// Default: 1, 1 MiB, and 0, which means that it takes what is there and doesn't wait.
type Batch struct {
	Count int
	Bytes int
	Wait  time.Duration
}

// Replies is how the answer to a message.published becomes a message to its Response Topic, with its Correlation Data.
// An Endpoint with Replies has batches of one.
type Replies struct {
	// TopicFilters are what Response Topics have to match. There is one at least: whoever may publish to the endpoint
	// chooses among them.
	TopicFilters []string
	// ClientID and Username are who publishes, for authorization, events and logs; default for the first
	// "webhook-{name}", for the second none.
	ClientID string
	Username string
	// Authorizer decides what may be published; nil: that of the Broker's Options.
	Authorizer loopmq.Authorizer
	// QoS is that of the reply; default 0.
	QoS byte
	// Timeout is for how long such a message is tried: the client gets an error then. Default 30 s.
	Timeout time.Duration
	// Expiry is the Message Expiry Interval of a reply; default 5 minutes.
	Expiry time.Duration
}

// Payload is how payloads are shown.
type Payload string

// The ways to show payloads. In binary mode a payload is the body, as it is, whichever is said, but for none.
const (
	// PayloadJSON embeds a payload that is JSON as such, any other as base64.
	PayloadJSON Payload = "json"
	// PayloadText embeds a payload that is UTF-8 as text, any other as base64.
	PayloadText Payload = "text"
	// PayloadBase64 embeds each as base64.
	PayloadBase64 Payload = "base64"
	// PayloadNone leaves payloads out, of the outbox too.
	PayloadNone Payload = "none"
)

// Format is the shape of a request.
type Format string

// The formats.
const (
	// CloudEvents is CloudEvents 1.0 as JSON.
	CloudEvents Format = "cloudevents"
	// EMQX is an object with the names that EMQX's rules have, or an array of them in batches.
	EMQX Format = "emqx"
)

// Mode is that of a CloudEvent which is sent by itself. Batches have but one.
type Mode string

// The modes.
const (
	// Structured has all of the event in the body.
	Structured Mode = "structured"
	// Binary has the data in the body, and the rest in headers.
	Binary Mode = "binary"
)

// Order is what is kept in order.
type Order string

// The orders.
const (
	OrderNone   Order = "none"
	OrderClient Order = "client"
	OrderTopic  Order = "topic"
)

// Durability says whether acknowledgements wait for events.
type Durability string

// The durabilities.
const (
	// Async stores events beside acknowledgements: a crash may lose the last ones.
	Async Durability = "async"
	// Outbox has the acknowledgement of a message wait until its event is stored.
	Outbox Durability = "outbox"
)

// Words for the options of an Endpoint, the default first.
var (
	Payloads     = []Payload{PayloadJSON, PayloadText, PayloadBase64, PayloadNone}
	Formats      = []Format{CloudEvents, EMQX}
	Modes        = []Mode{Structured, Binary}
	Orders       = []Order{OrderNone, OrderClient, OrderTopic}
	Durabilities = []Durability{Async, Outbox}
)

const defaultSource = "loopmq"

// SetDefaults puts the defaults in place of zero values, and returns an error, which begins with the name of the field,
// if a value isn't allowed.
func (e *Endpoint) SetDefaults() error {
	e.Format = cmp.Or(e.Format, Formats[0])
	if e.Format == EMQX {
		e.Payload = cmp.Or(e.Payload, PayloadText)
	}
	e.Payload = cmp.Or(e.Payload, Payloads[0])
	e.Mode = cmp.Or(e.Mode, Modes[0])
	e.Order = cmp.Or(e.Order, Orders[0])
	e.Durability = cmp.Or(e.Durability, Durabilities[0])
	e.Source = cmp.Or(e.Source, defaultSource)
	e.Batch.Count = cmp.Or(e.Batch.Count, 1)
	e.Batch.Bytes = cmp.Or(e.Batch.Bytes, 1<<20)
	e.Concurrency = cmp.Or(e.Concurrency, 8)
	e.Timeout = cmp.Or(e.Timeout, 10*time.Second)
	e.ResponseBytes = cmp.Or(e.ResponseBytes, 64<<10)
	e.MaxAge = cmp.Or(e.MaxAge, 3*24*time.Hour)
	e.RetryMin = cmp.Or(e.RetryMin, time.Second)
	e.RetryMax = cmp.Or(e.RetryMax, max(5*time.Minute, e.RetryMin))
	e.BreakerFailures = cmp.Or(e.BreakerFailures, 10)
	e.BreakerDelay = cmp.Or(e.BreakerDelay, 30*time.Second)
	e.MaxQueued = cmp.Or(e.MaxQueued, 1_000_000)
	e.MaxQueuedBytes = cmp.Or(e.MaxQueuedBytes, 1<<30)
	e.MaxDead = cmp.Or(e.MaxDead, 10_000)
	if r := e.Replies; r != nil {
		r.ClientID = cmp.Or(r.ClientID, "webhook-"+e.Name)
		r.Timeout = cmp.Or(r.Timeout, 30*time.Second)
		r.Expiry = cmp.Or(r.Expiry, 5*time.Minute)
	}
	return e.check()
}

func (e *Endpoint) check() error {
	u, err := url.Parse(e.URL)
	switch {
	case !validName(e.Name):
		return wrong("Name", e.Name, "up to 32 letters, digits, - and _")
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return wrong("URL", redacted(u), "an http or https URL")
	case u.Scheme == "http" && !e.AllowPlainHTTP && !isLoopback(u.Hostname()):
		return wrong("URL", redacted(u), "https, or http with AllowPlainHTTP")
	case !oneOf(e.Payload, Payloads) || !oneOf(e.Format, Formats) || !oneOf(e.Mode, Modes) || !oneOf(e.Order, Orders) || !oneOf(e.Durability, Durabilities):
		return fmt.Errorf("Payload, Format, Mode, Order, Durability: %q: allowed: the constants of their types",
			[]string{string(e.Payload), string(e.Format), string(e.Mode), string(e.Order), string(e.Durability)})
	case !validSource(e.Source):
		return wrong("Source", e.Source, "a URI reference")
	case e.Mode == Binary && (e.Format != CloudEvents || e.Batch.Count != 1):
		return wrong("Mode", string(e.Mode), "with CloudEvents that are sent one by one")
	case min(e.Batch.Count, e.Batch.Bytes, e.Concurrency, e.ResponseBytes, e.BreakerFailures, e.MaxQueued, e.MaxDead) < 1 || e.MaxQueuedBytes < 1:
		return fmt.Errorf("Batch, Concurrency, ResponseBytes, BreakerFailures, MaxQueued, MaxQueuedBytes, MaxDead: allowed: 1 or more")
	case e.Batch.Wait < 0 || min(e.Timeout, e.MaxAge, e.RetryMin, e.BreakerDelay) <= 0 || e.RetryMax < e.RetryMin:
		return fmt.Errorf("Batch.Wait, Timeout, MaxAge, RetryMin, RetryMax, BreakerDelay: allowed: more than 0, and RetryMax not below RetryMin")
	case len(e.Events) == 0:
		return wrong("Events", "", "kinds of events")
	}
	for _, pattern := range e.Events {
		if !slices.ContainsFunc(Kinds(), func(kind string) bool { return matchesKind(pattern, kind) }) {
			return wrong("Events", pattern, "*, "+strings.Join(Kinds(), ", "))
		}
	}
	if err := validFilters("TopicFilters", e.TopicFilters); err != nil {
		return err
	}
	return e.checkReplies()
}

func (e *Endpoint) checkReplies() error {
	r := e.Replies
	switch {
	case r == nil:
		return nil
	case e.Batch.Count != 1:
		return fmt.Errorf("Batch.Count: %d: allowed: 1 with Replies: an answer is that to one message", e.Batch.Count)
	case len(r.TopicFilters) == 0:
		return wrong("Replies.TopicFilters", "", "Topic Filters that Response Topics have to match")
	case r.QoS > 2:
		return fmt.Errorf("Replies.QoS: %d: allowed: 0, 1, 2", r.QoS)
	case r.Timeout < 0 || r.Expiry < time.Second:
		return fmt.Errorf("Replies.Timeout, Replies.Expiry: allowed: more than 0, and 1 s or more")
	}
	return validFilters("Replies.TopicFilters", r.TopicFilters)
}

func validFilters(field string, filters []string) error {
	for _, f := range filters {
		if !codec.ValidTopicFilter([]byte(f)) || strings.HasPrefix(f, "$share/") {
			return wrong(field, f, "Topic Filters that aren't shared")
		}
	}
	return nil
}

// wrong is an error about a field.
func wrong(field, value, allowed string) error {
	return fmt.Errorf("%s: %q: allowed: %s", field, value, allowed)
}

// Kinds are the kinds of events.
func Kinds() []string {
	all := make([]string, loopmq.NumEventKinds)
	for k := range all {
		all[k] = loopmq.EventKind(k).String()
	}
	return all
}

// matchesKind is whether an element of Endpoint.Events means a kind.
func matchesKind(pattern, kind string) bool {
	begin, wild := strings.CutSuffix(pattern, "*")
	return pattern == kind || wild && (begin == "" || strings.HasSuffix(begin, ".")) && strings.HasPrefix(kind, begin)
}

func oneOf[T comparable](v T, allowed []T) bool { return slices.Contains(allowed, v) }

func validName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func validSource(s string) bool {
	_, err := url.Parse(s)
	return err == nil && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// redacted is a URL without what is secret in it.
func redacted(u *url.URL) string {
	if u == nil {
		return "…"
	}
	return u.Redacted()
}

// Secret is a key of HMAC-SHA256 as Standard Webhooks has it. It is never shown.
type Secret []byte

// ParseSecret reads a secret as text: base64 of 24 to 64 bytes, after whsec_ or by itself.
func ParseSecret(text string) (Secret, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(text), "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, ErrSecret
	}
	return key, nil
}

// String hides the secret.
func (Secret) String() string { return "***" }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("***") }
