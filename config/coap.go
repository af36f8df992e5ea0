package config

import (
	"fmt"
	"time"
)

// CoAPListener is where CoAP requests are answered.
type CoAPListener struct {
	// Listener is what it has in common with listeners of MQTT: Address, Settings, and who
	// may do what.
	Listener
	DTLS                *CoAPDTLS // nil: none
	Peers               int
	Inactivity          time.Duration
	Requests            int
	Exchanges           int
	BodySize            int
	BodiesSize          int
	Timeout             time.Duration
	IdentityTTL         time.Duration
	Connections         int
	Observations        int
	ObservationsPerPeer int
	QueueMessages       int
	QueueSize           int
	AckTimeout          time.Duration
	MaxRetransmit       int
	NStart              int
}

func (l *CoAPListener) keys() []*node {
	return []*node{
		key("address", &l.Address, "127.0.0.1:5683", hostPort, "where it listens by UDP"),
		optional("dtls", &l.DTLS, (*CoAPDTLS).keys, "CoAP over DTLS 1.2, at an address of its own"),
		key("peers", &l.Peers, 100_000, whole(1, 10_000_000), "addresses that are known at one time; requests of more are ignored"),
		key("inactivity", &l.Inactivity, 5*time.Minute, span(time.Second, 7*day), "after how long without a word an address or a connection is forgotten; observers are asked before"),
		key("requests", &l.Requests, 16384, whole(1, 1_000_000), "requests that are answered, or wait, at one time; more are refused with 5.03"),
		key("exchanges", &l.Exchanges, 1_000_000, whole(1, 100_000_000), "requests that are known again when they are repeated, for 247 s unless there are more"),
		key("body_size", &l.BodySize, 4<<20, size(1024, 1<<30), "the largest body of a request, in blocks or not"),
		key("bodies_size", &l.BodiesSize, 64<<20, size(1024, 1<<40), "all bodies that come or go in blocks, of which one peer may have a quarter; what goes beyond is refused with 5.03"),
		key("timeout", &l.Timeout, 30*time.Second, span(100*time.Millisecond, time.Hour), "how long a request may take"),
		key("identity_ttl", &l.IdentityTTL, time.Minute, span(time.Millisecond, day), "for how long a client is known without authenticating it again; SIGHUP forgets them at once"),
		key("connections", &l.Connections, 100_000, whole(1, 10_000_000), "connections at one time; more are refused with 5.03"),
		key("observations", &l.Observations, 100_000, whole(1, 10_000_000), "observations at one time; more are refused with 5.03"),
		key("observations_per_peer", &l.ObservationsPerPeer, 100, whole(1, 1_000_000), "those of one address; more are refused with 4.29"),
		key("queue_messages", &l.QueueMessages, 64, whole(1, 65535), "messages that wait for one observation; beyond it those at QoS 0 are dropped, and others wait in the session"),
		key("queue_size", &l.QueueSize, 256<<10, size(1024, 1<<30), "their size"),
		key("ack_timeout", &l.AckTimeout, 2*time.Second, span(10*time.Millisecond, time.Minute), "ACK_TIMEOUT of RFC 7252: after how long something is sent again, to begin with"),
		key("max_retransmit", &l.MaxRetransmit, 4, whole(1, 20), "MAX_RETRANSMIT: how often"),
		key("nstart", &l.NStart, 1, whole(1, 1000), "NSTART: unacknowledged messages to one address"),
		keys("settings", &l.Settings, (*Settings).ofListener, "what callers may do, in place of settings and limits at the top"),
		maybe("allow_anonymous", &l.AllowAnonymous, "as the key of this name at the top", boolean, "whether callers may use it that don't say who they are"),
		listOf("authentication", &l.Authentication, (*Method).keys, "the ways of knowing callers, in place of those at the top; who is known by DTLS isn't asked"),
		listOf("authorization", &l.Authorization, (*Rule).keys, "what callers may do, in place of what is at the top"),
		maybe("allow_by_default", &l.AllowByDefault, "as the key of this name at the top", boolean, "whether what no element of authorization decides on is allowed"),
	}
}

// CoAPDTLS is how CoAP clients are known by keys and certificates.
type CoAPDTLS struct {
	Address  string
	PSKFile  string
	TLS      *TLS
	Username string
}

func (d *CoAPDTLS) keys() []*node {
	return []*node{
		key("address", &d.Address, "127.0.0.1:5684", hostPort, "where it listens by UDP"),
		key("psk_file", &d.PSKFile, "", maybeFile, "lines of identity:key, the key as hexadecimal digits; the identity is the user. SIGHUP reads it again; empty: none"),
		optional("tls", &d.TLS, (*TLS).keys, "certificates of the server, and of clients. Versions and the order of certificates don't matter: it is DTLS 1.2, with the first one"),
		key("username", &d.Username, "cn", oneOf("cn", "subject", "dns", "email", "uri"), "what of a client's certificate is the user"),
	}
}

// checkCoAP looks at who may come in by CoAP.
func (c *Config) checkCoAP() {
	l := &c.CoAP
	c.checkDoor(&l.Listener, "coap")
	d := l.DTLS
	if d == nil || d.Address == Off {
		return
	}
	if d.TLS != nil {
		c.checkTLS(d.TLS, "coap.dtls.tls")
	} else if d.PSKFile == "" {
		c.wrong("coap.dtls", "has neither psk_file nor tls: allowed: one of them, or both")
	}
	// Who has neither key nor certificate is asked for a password.
	if d.TLS != nil && !d.TLS.Require && !IsLoopback(d.Address) && c.Anonymous(&l.Listener) == nil && len(c.Methods(&l.Listener)) == 0 {
		c.wrong("coap.dtls.address", fmt.Sprintf("%s, or tls.require: true", c.open(d.Address, "coap.dtls.address", "coap.allow_anonymous")))
	}
}
