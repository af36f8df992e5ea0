package config

import (
	"net/netip"
	"time"
)

// HTTPListener is where HTTP requests are answered that publish and subscribe.
type HTTPListener struct {
	// Listener is what it has in common with listeners of MQTT: Address, TLS,
	// ProxyProtocol, Settings, and who may do what.
	Listener
	Forwarders        []netip.Prefix
	Origins           []string
	Hosts             []string
	Connections       int
	Requests          int
	HeaderSize        int
	BodySize          int
	BodiesSize        int
	BulkMessages      int
	Timeout           time.Duration
	IdempotencyWindow time.Duration
	Identities        int
	IdentityTTL       time.Duration
	Streams           HTTPStreams
	Replies           HTTPReplies
}

func (h *HTTPListener) keys() []*node {
	l := &h.Listener
	return []*node{
		key("address", &l.Address, "127.0.0.1:8080", hostPort, "where it listens"),
		optional("tls", &l.TLS, (*TLS).keys, "TLS in front of it, with HTTP/2 for who can. What has changed in the files holds for the next handshake"),
		keyList("proxy_protocol", &l.ProxyProtocol, network, "networks of balancers in front, whose connections begin with a header of the PROXY protocol, version 1 or 2. Others are refused then"),
		keyList("forwarders", &h.Forwarders, network, "networks of proxies whose X-Forwarded-For is believed"),
		keyList("origins", &h.Origins, origin, "web pages that may send requests (CORS): https://app.example.com; https://*.example.com means all hosts below that domain, * any page. "+
			"None given: pages from the host and port of the listener itself"),
		keyList("hosts", &h.Hosts, text, "on a loopback address, names that the Host header may have beside addresses and localhost, as when a proxy on this machine passes on its own name"),
		key("connections", &h.Connections, 10_000, whole(1, 1_000_000), "connections at one time; more wait"),
		key("requests", &h.Requests, 4096, whole(1, 1_000_000), "requests that are answered at one time; more are refused with 503"),
		key("header_size", &h.HeaderSize, 16<<10, size(1024, 1<<20), "the largest header of a request"),
		key("body_size", &h.BodySize, 8<<20, size(1024, 1<<30), "the largest body of a request"),
		key("bodies_size", &h.BodiesSize, 256<<20, size(1024, 1<<40), "the bodies of all requests under way, of which one user may have a quarter; what goes beyond is refused with 503"),
		key("bulk_messages", &h.BulkMessages, 1000, whole(1, 100_000), "messages in one request"),
		key("timeout", &h.Timeout, 30*time.Second, span(100*time.Millisecond, time.Hour), "how long a request may take"),
		key("idempotency_window", &h.IdempotencyWindow, day, span(time.Second, 7*day), "for how long a request with the same Idempotency-Key is the same one"),
		key("identities", &h.Identities, 10_000, whole(1, 10_000_000), "callers that are known again without authenticating them"),
		key("identity_ttl", &h.IdentityTTL, time.Minute, span(time.Millisecond, day), "for how long; SIGHUP forgets them at once"),
		keys("streams", &h.Streams, (*HTTPStreams).keys, "server-sent events, and what they may cost"),
		keys("replies", &h.Replies, (*HTTPReplies).keys, "requests that wait for the reply of a device"),
		keys("settings", &l.Settings, (*Settings).ofListener, "what callers may do, in place of settings and limits at the top"),
		maybe("allow_anonymous", &l.AllowAnonymous, "as the key of this name at the top", boolean, "whether callers may publish here that don't say who they are"),
		listOf("authentication", &l.Authentication, (*Method).keys, "the ways of knowing callers, in place of those at the top"),
		listOf("authorization", &l.Authorization, (*Rule).keys, "what callers may do, in place of what is at the top"),
		maybe("allow_by_default", &l.AllowByDefault, "as the key of this name at the top", boolean, "whether what no element of authorization decides on is allowed"),
	}
}
