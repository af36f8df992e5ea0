package config

import (
	"strings"
	"time"
)

// HTTPStreams is what streams of server-sent events may cost.
type HTTPStreams struct {
	Max          int
	PerUser      int
	PerAddress   int
	Window       int
	Buffer       int
	WriteTimeout time.Duration
	Heartbeat    time.Duration
	Retry        time.Duration
}

func (s *HTTPStreams) keys() []*node {
	return []*node{
		key("max", &s.Max, 8000, whole(1, 1_000_000), "streams at one time; more are refused with 503. They are connections too"),
		key("per_user", &s.PerUser, 100, whole(1, 1_000_000), "streams of one user; more are refused with 429"),
		key("per_address", &s.PerAddress, 1000, whole(1, 1_000_000), "streams from one address; more are refused with 429"),
		key("window", &s.Window, 1024, whole(1, 65535), "events of a named session that may be unacknowledged; at three quarters of it the stream ends, and its client comes back and acknowledges them"),
		key("buffer", &s.Buffer, 256<<10, size(1024, 1<<30), "what waits for a client that reads slowly; beyond it QoS 0 messages are dropped, and others wait in the session"),
		key("write_timeout", &s.WriteTimeout, 30*time.Second, span(100*time.Millisecond, time.Hour), "how long a client may take to read what was sent, before its stream ends"),
		key("heartbeat", &s.Heartbeat, 15*time.Second, span(100*time.Millisecond, time.Hour), "how often a comment is sent if there is nothing else, for balancers in between"),
		key("retry", &s.Retry, 2*time.Second, span(time.Millisecond, time.Hour), "how long clients are told to wait before they come back"),
	}
}

// HTTPReplies is what requests cost that wait for the reply of a device.
type HTTPReplies struct {
	Max         int
	TopicPrefix string
}

func (r *HTTPReplies) keys() []*node {
	return []*node{
		key("max", &r.Max, 10_000, whole(1, 1_000_000), "requests that wait for a reply at one time; more are refused with 503"),
		key("topic_prefix", &r.TopicPrefix, "loopmq/reply", topicPrefix, "begins the Response Topic of requests, which has one more level: devices need the right to publish there"),
	}
}

// topicPrefix is a Topic Name that others begin with.
var topicPrefix = kind[string]{
	name: "topic", allowed: "a topic that neither begins with $ nor ends in /, of at most 1024 bytes", takes: takesText,
	parse: func(s string) (string, bool) {
		return s, s != "" && len(s) <= 1024 && isText(s) && !strings.ContainsAny(s, "+#") && s[0] != '$' && !strings.HasSuffix(s, "/")
	},
	format: same,
}
