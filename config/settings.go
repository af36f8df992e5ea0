package config

import (
	"strings"
	"time"
)

// Settings are what clients may do, of all listeners or of one. What is nil isn't
// said.
type Settings struct {
	MaximumQoS         *int
	RetainAvailable    *bool
	QueueQoS0          *bool
	AllowEmptyClientID *bool
	AutoIDPrefix       *string
	UsernameAsClientID *bool
	MountPoint         *string
	PayloadSize        *int // 0: unlimited
	InflightBytes      *int // 0: unlimited

	// Those of a listener only, in place of Limits.
	PacketSize            *int
	ReceiveMaximum        *int
	TopicAliasMaximum     *int
	Inflight              *int
	QueueMessages         *int
	QueueBytes            *int
	QueuePolicy           *string
	KeepAlive             *time.Duration
	SessionExpiryInterval *time.Duration
	Subscriptions         *int
}

func (s *Settings) keys() []*node {
	return []*node{
		maybe("maximum_qos", &s.MaximumQoS, "2", whole(0, 2), "the QoS that clients may publish with, and that subscriptions are granted"),
		maybe("retain_available", &s.RetainAvailable, "true", boolean, "whether clients may publish with RETAIN 1, and get retained messages"),
		maybe("queue_qos0", &s.QueueQoS0, "false", boolean, "keep QoS 0 messages, too, for durable sessions that are offline"),
		maybe("allow_empty_client_id", &s.AllowEmptyClientID, "true", boolean, "whether the broker gives a Client Identifier to clients without one"),
		maybe("auto_id_prefix", &s.AutoIDPrefix, "auto-", text, "what these begin with"),
		maybe("username_as_client_id", &s.UsernameAsClientID, "false", boolean, "the user name is the Client Identifier, whatever the client sent as such"),
		maybe("mount_point", &s.MountPoint, "empty", mountPoint, "put before all topics of the clients, and taken off what they are sent: tenant-a/. They see nothing outside of it but $SYS"),
		maybe("payload_size", &s.PayloadSize, "unlimited", size(1, 268435455, word{"unlimited", 0}), "the largest payload of a PUBLISH; a larger one is dropped"),
		maybe("inflight_bytes", &s.InflightBytes, "unlimited", size(1, 1<<40, word{"unlimited", 0}), "bytes of the payloads of unacknowledged messages to one client; the next one waits"),
	}
}

// ofListener adds what all listeners have in Limits.
func (s *Settings) ofListener() []*node {
	const standard = "as in limits"
	return append(s.keys(),
		maybe("packet_size", &s.PacketSize, standard, packetSize, "the largest packet that is taken"),
		maybe("receive_maximum", &s.ReceiveMaximum, standard, whole(1, 65535), "QoS 1 and 2 messages of one client that may wait for their acknowledgement"),
		maybe("topic_alias_maximum", &s.TopicAliasMaximum, standard, topicAliases, "Topic Aliases that a client may set"),
		maybe("inflight", &s.Inflight, standard, whole(1, 65535), "unacknowledged messages to one client"),
		maybe("queue_messages", &s.QueueMessages, standard, amount, "messages that wait for one session"),
		maybe("queue_bytes", &s.QueueBytes, standard, amountOfBytes, "their size"),
		maybe("queue_policy", &s.QueuePolicy, standard, queuePolicy, "which message goes when a queue is full"),
		maybe("keep_alive", &s.KeepAlive, standard, seconds(65535*time.Second), "the largest Keep Alive"),
		maybe("session_expiry_interval", &s.SessionExpiryInterval, standard, seconds(expiryMax), "the largest Session Expiry Interval"),
		maybe("subscriptions", &s.Subscriptions, standard, amount, "Topic Filters of one session"),
	)
}

var mountPoint = kind[string]{
	name: "text", allowed: "the beginning of a topic, which ends in a slash, without wildcards and not with $", takes: takesText,
	parse: func(s string) (string, bool) {
		return s, s == "" || isText(s) && strings.HasSuffix(s, "/") && s[0] != '$' && !strings.ContainsAny(s, "+#") && len(s) <= mountPointMax
	},
	format: same,
}

const mountPointMax = 1024
