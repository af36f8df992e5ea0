package config

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Webhook is an endpoint that is told of events.
type Webhook struct {
	Name            string
	URL             string
	AllowPlainHTTP  bool
	Events          []string
	TopicFilters    []string
	ClientIDs       []string
	Usernames       []string
	Payload         string // auto: as Format says
	Format          string
	Mode            string
	Source          string
	Batch           WebhookBatch
	Headers         []string
	SecretFiles     []string
	TLS             *ClientTLS
	Order           string
	Concurrency     int
	Timeout         time.Duration
	ResponseBytes   int
	MaxAge          time.Duration
	RetryMin        time.Duration
	RetryMax        time.Duration
	BreakerFailures int
	BreakerDelay    time.Duration
	Durability      string
	MaxQueued       int
	MaxQueuedBytes  int
	MaxDead         int
	Allow           []netip.Prefix
	AllowPrivate    bool
	Replies         *WebhookReplies
}

func (w *Webhook) keys() []*node {
	return append(reloads(
		key("name", &w.Name, "", listenerName, "what logs, metrics and the store call it; each endpoint needs one of its own. Under the same name another URL gets what is waiting"),
		key("url", &w.URL, "", secretURL, "what is POSTed to"),
		key("allow_plain_http", &w.AllowPlainHTTP, false, boolean, "a URL with http that isn't on loopback: whoever is on the way can read what is sent"),
		keyList("events", &w.Events, text, "kinds of events, such as message.published; message.* means all that begin so, * all. docs/webhooks.md lists them"),
		keyList("topic_filters", &w.TopicFilters, text, "Topic Filters: of the events that have a topic, those that match one of them; others they don't concern. None given: all"),
		keyList("client_ids", &w.ClientIDs, text, "Client Identifiers whose events are told, where * stands for any text. None given: all"),
		keyList("usernames", &w.Usernames, text, "the same with user names"),
		key("payload", &w.Payload, "auto", oneOf("auto", "json", "text", "base64", "none"), "how payloads are shown: as JSON if they are, as text if they are UTF-8, else in base64. auto: json, with format emqx text"),
		key("format", &w.Format, "cloudevents", oneOf("cloudevents", "emqx"), "the shape of requests: CloudEvents 1.0, or what a rule of EMQX sends"),
		key("mode", &w.Mode, "structured", oneOf("structured", "binary"), "where a CloudEvent is: all in the body, or the data in the body and the rest in headers, which aren't signed"),
		key("source", &w.Source, "loopmq", text, "what CloudEvents say they come from, a URI, to which a slash and the name of the node are added"),
		keyList("headers", &w.Headers, header, "added to each request, such as \"Authorization: Bearer …\"").secrets(),
		keyList("secret_files", &w.SecretFiles, file, "files with a secret each, whsec_…, that sign requests as Standard Webhooks has it; with two the receiver can change from one to the other. "+
			"None given: requests aren't signed"),
		key("order", &w.Order, "none", oneOf("none", "client", "topic"), "what is kept in order: nothing, the events of each client, or those of each topic. One node at a time delivers what has an order"),
		key("concurrency", &w.Concurrency, 8, whole(1, 1024), "requests of a node under way"),
		key("timeout", &w.Timeout, 10*time.Second, span(10*time.Millisecond, 10*time.Minute), "bound of a request, to the status of the answer; with replies, to its last byte"),
		key("response_bytes", &w.ResponseBytes, 64<<10, size(1, 16<<20), "how much is read of an answer"),
		key("max_age", &w.MaxAge, 3*day, span(time.Second, 365*day), "for how long an event is tried"),
		key("retry_min", &w.RetryMin, time.Second, span(10*time.Millisecond, day), "the longest wait before the second attempt; it doubles"),
		key("retry_max", &w.RetryMax, 5*time.Minute, span(10*time.Millisecond, day), "up to this; the wait is a random part of it"),
		key("breaker_failures", &w.BreakerFailures, 10, whole(1, 1_000_000), "failures in a row after which nothing is sent for a while"),
		key("breaker_delay", &w.BreakerDelay, 30*time.Second, span(10*time.Millisecond, day), "for how long; then one request at a time, until one succeeds"),
		key("durability", &w.Durability, "async", oneOf("async", "outbox"), "whether the acknowledgement of a message waits until its event is stored (outbox)"),
		key("max_queued", &w.MaxQueued, 1_000_000, whole(1, 1_000_000_000), "events that wait; beyond that new ones are dropped and counted"),
		key("max_queued_bytes", &w.MaxQueuedBytes, 1<<30, size(1<<10, 1<<40), "and their size"),
		key("max_dead", &w.MaxDead, 10_000, whole(1, 100_000_000), "dead letters that are kept; beyond that the oldest are dropped and counted"),
		keyList("allow", &w.Allow, network, "networks that requests may go to though they aren't public, such as 10.1.0.0/16 or 127.0.0.1"),
		key("allow_private", &w.AllowPrivate, false, boolean, "all addresses that aren't public may be sent to, loopback and those of cloud metadata too"),
	),
		keys("batch", &w.Batch, (*WebhookBatch).keys, "how many events make one request"),
		optional("tls", &w.TLS, func(t *ClientTLS) []*node { return reloads(t.keys()...) }, "how the URL is asked by https"),
		reloads(optional("replies", &w.Replies, (*WebhookReplies).keys, "the answer to a message.published is published to the Response Topic of the message"))[0],
	)
}

// WebhookBatch says when a request is complete.
type WebhookBatch struct {
	Count int
	Bytes int
	Wait  time.Duration
}

func (b *WebhookBatch) keys() []*node {
	return reloads(
		key("count", &b.Count, 1, whole(1, 10_000), "at most so many; with more than 1 the body is a list, though of one event"),
		key("bytes", &b.Bytes, 1<<20, size(1, 64<<20), "and so many bytes, if it isn't a single one"),
		key("wait", &b.Wait, 0, span(0, time.Hour), "how long the first waits for more"),
	)
}

// WebhookReplies says where answers go.
type WebhookReplies struct {
	TopicFilters []string
	ClientID     string
	Username     string
	QoS          int
	Timeout      time.Duration
	Expiry       time.Duration
}

func (r *WebhookReplies) keys() []*node {
	return reloads(
		keyList("topic_filters", &r.TopicFilters, text, "what Response Topics have to match. Who publishes to the endpoint chooses among all that do, so say no more than is needed"),
		key("client_id", &r.ClientID, "", text, "the Client Identifier of who publishes replies, for authorization and events; empty: webhook- and the endpoint's name"),
		key("username", &r.Username, "", text, "its user name, which authorization at the top decides on; empty: none"),
		key("qos", &r.QoS, 0, whole(0, 2), "the QoS of replies"),
		key("timeout", &r.Timeout, 30*time.Second, span(100*time.Millisecond, day), "for how long such a message is tried; then the client gets an error"),
		key("expiry", &r.Expiry, 5*time.Minute, span(time.Second, day), "the Message Expiry Interval of replies"),
	)
}

// secretURL is an http or https URL that may have secrets in it.
var secretURL = kind[string]{
	name: "URL", allowed: webURL.allowed, takes: takesText,
	parse: webURL.parse, format: same,
	mask: func(s string) string {
		u, err := url.Parse(s)
		if err != nil {
			return maskURL(s)
		}
		if u.RawQuery != "" {
			u.RawQuery = "…"
		}
		at, _, _ := strings.Cut(u.String(), "#")
		return maskURL(at)
	},
}
