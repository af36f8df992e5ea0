package config

import (
	"fmt"
	"time"
)

// OPCUAServer is where OPC UA clients see topics.
type OPCUAServer struct {
	// Listener is what it has in common with listeners of MQTT: Address, Settings, and who may do what.
	Listener
	Topics             []string
	Username           string
	Policies           []string
	AllowSign          bool
	Certificate        string
	Key                string
	Trusted            []string
	TrustedUsers       []string
	CertificateUser    string
	AllowPlainPassword bool
	ApplicationURI     string
	ApplicationName    string
	WriteQoS           int
	WriteRetain        bool
	MaxTopics          int
	ValueSize          int
	ValuesSize         int
	Connections        int
	Sessions           int
	Subscriptions      int
	Items              int
	Queue              int
	MessageSize        int
	Memory             int
	SessionTimeout     time.Duration
	PublishingInterval time.Duration
}

// The security policies of the OPC UA server.
const (
	OPCUAPolicyNone           = "none"
	OPCUAPolicyBasic256Sha256 = "basic256sha256"
)

func (s *OPCUAServer) keys() []*node {
	return []*node{
		key("address", &s.Address, Off, hostPort, "where it listens by TCP; the usual port is 4840"),
		keyList("topics", &s.Topics, text, "Topic Filters: what clients see, and may write as far as authorization allows"),
		key("username", &s.Username, "", text, "the user name as which the server subscribes to them, which authorization at the top decides on; empty: none. Its Client Identifier begins with $local/opcua-server/"),
		keyList("policies", &s.Policies, oneOf(OPCUAPolicyNone, OPCUAPolicyBasic256Sha256), "the security policies that clients may use; none is in the clear. None given: basic256sha256"),
		key("allow_sign", &s.AllowSign, false, boolean, "offer basic256sha256 also with signatures only, in the clear"),
		key("certificate", &s.Certificate, "", maybeFile, "the server's certificate, as PEM or DER, with its application URI; needed with basic256sha256, and for passwords that are encrypted"),
		key("key", &s.Key, "", maybeFile, "its RSA key, as PEM"),
		keyList("trusted", &s.Trusted, file, "certificates of client applications, or of the CAs that sign them, as PEM or DER; needed with basic256sha256"),
		keyList("trusted_users", &s.TrustedUsers, file, "certificates of users, or of the CAs that sign them; none: no user shows a certificate"),
		key("certificate_username", &s.CertificateUser, "cn", oneOf("cn", "subject", "dns", "email", "uri"), "what of a user's certificate is the user name"),
		key("allow_plain_password", &s.AllowPlainPassword, false, boolean, "take passwords that everybody on the way can read"),
		key("application_uri", &s.ApplicationURI, "", text, "the name of the server in the world; empty: that of the certificate, or urn:HOST:loopmq"),
		key("application_name", &s.ApplicationName, "loopmq", text, "what clients show people"),
		key("write_qos", &s.WriteQoS, 1, whole(0, 2), "of the messages that clients write"),
		key("write_retain", &s.WriteRetain, false, boolean, "they are retained"),
		key("max_topics", &s.MaxTopics, 10_000, whole(1, 1_000_000), "variables; further topics aren't shown"),
		key("value_size", &s.ValueSize, 64<<10, size(64, 1<<20), "the largest payload that is shown; the status of a larger one says so"),
		key("values_size", &s.ValuesSize, 64<<20, size(64<<10, 4<<30), "all variables with their values"),
		key("connections", &s.Connections, 100, whole(1, 10_000), "at one time; beyond that the oldest one without a session goes, or the new one"),
		key("sessions", &s.Sessions, 100, whole(1, 10_000), "at one time; more are refused with BadTooManySessions"),
		key("subscriptions", &s.Subscriptions, 20, whole(1, 1000), "of a session; more are refused with BadTooManySubscriptions"),
		key("items", &s.Items, 50_000, whole(1, 1_000_000), "monitored items of all; more are refused with BadTooManyMonitoredItems"),
		key("queue", &s.Queue, 100, whole(1, 10_000), "values that wait in a monitored item at most; beyond that the oldest go, or the newest, as the client wants"),
		key("message_size", &s.MessageSize, 1<<20, size(64<<10, 16<<20), "the largest request"),
		key("memory", &s.Memory, 256<<20, size(64<<20, 1<<40), "of the server's process, four times values_size at least; one that needs more is ended and started again"),
		key("session_timeout", &s.SessionTimeout, 10*time.Minute, span(10*time.Second, day), "the longest that a session may be silent"),
		key("publishing_interval", &s.PublishingInterval, 100*time.Millisecond, span(intervalLeast, time.Minute), "the shortest of a subscription"),
		keys("settings", &s.Settings, (*Settings).ofListener, "what users may do, in place of settings and limits at the top"),
		maybe("allow_anonymous", &s.AllowAnonymous, "as the key of this name at the top", boolean, "whether sessions may begin that don't say who they are"),
		listOf("authentication", &s.Authentication, (*Method).keys, "the ways of knowing users, in place of those at the top; who has shown a certificate isn't asked"),
		listOf("authorization", &s.Authorization, (*Rule).keys, "what users may do, in place of what is at the top"),
		maybe("allow_by_default", &s.AllowByDefault, "as the key of this name at the top", boolean, "whether what no element of authorization decides on is allowed"),
	}
}

// checkOPCUAServer looks at who may come in by OPC UA.
func (c *Config) checkOPCUAServer() {
	s := &c.OPCUA.Server
	if s.Address == Off {
		return
	}
	c.checkDoor(&s.Listener, "opcua.server")
	if len(s.Topics) == 0 {
		c.wrong("opcua.server.topics", "none is given: allowed: Topic Filters, such as plant/#")
	}
	if (s.Certificate == "") != (s.Key == "") {
		c.wrong("opcua.server.certificate", "certificate and key need each other: allowed: both, or neither")
	}
	if s.Secure() && (s.Certificate == "" || len(s.Trusted) == 0) {
		c.wrong("opcua.server.policies", fmt.Sprintf("%s needs certificate, key and trusted: allowed: with them, or %s", OPCUAPolicyBasic256Sha256, OPCUAPolicyNone))
	}
}

// Secure reports whether Basic256Sha256 is offered.
func (s *OPCUAServer) Secure() bool {
	for _, p := range s.Policies {
		if p == OPCUAPolicyBasic256Sha256 {
			return true
		}
	}
	return len(s.Policies) == 0
}

// Clear reports whether the policy None is offered.
func (s *OPCUAServer) Clear() bool {
	for _, p := range s.Policies {
		if p == OPCUAPolicyNone {
			return true
		}
	}
	return false
}
