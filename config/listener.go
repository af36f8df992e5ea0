package config

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Listener is where clients connect.
type Listener struct {
	Name           string
	Address        string // host:port, unix:PATH, or Off
	Network        string // tcp, tcp4, tcp6; not of a unix socket
	Protocol       string // ProtocolMQTT, ProtocolWebSocket
	TLS            *TLS   // nil: none
	ProxyProtocol  []netip.Prefix
	Mode           *uint32 // of a unix socket; nil: as the umask says
	WebSocket      WebSocket
	Limits         Quota
	Settings       Settings
	AllowAnonymous *bool    // nil: as Config.AllowAnonymous
	Authentication []Method // none: Config.Authentication
	Authorization  []Rule   // none: Config.Authorization
	AllowByDefault *bool    // nil: as Config.AllowByDefault
}

// The words for Listener.Protocol.
const (
	ProtocolMQTT      = "mqtt"
	ProtocolWebSocket = "websocket"
)

func (l *Listener) keys() []*node {
	return []*node{
		key("name", &l.Name, "", listenerName, "what logs, metrics and flags call it; each listener needs one of its own"),
		key("address", &l.Address, "", listenAddress, "host:port; port 0 takes a free one. off leaves the listener out"),
		key("network", &l.Network, "tcp", oneOf("tcp", "tcp4", "tcp6"), "tcp4 and tcp6 are for one version of IP; it says nothing of a unix socket"),
		key("protocol", &l.Protocol, ProtocolMQTT, oneOf(ProtocolMQTT, ProtocolWebSocket), "MQTT by itself, or in frames of WebSocket"),
		optional("tls", &l.TLS, (*TLS).keys, "TLS in front of it. What has changed in the files holds for the next handshake"),
		keyList("proxy_protocol", &l.ProxyProtocol, network, "networks of balancers in front, whose connections begin with a header of the PROXY protocol, version 1 or 2, that says who the client is. Others may not send one"),
		maybe("mode", &l.Mode, "as the umask says", fileMode, "who may use a unix socket"),
		keys("websocket", &l.WebSocket, (*WebSocket).keys, "MQTT over WebSocket"),
		keys("limits", &l.Limits, (*Quota).keys, "what comes by this listener, within the limits at the top"),
		keys("settings", &l.Settings, (*Settings).ofListener, "what clients of this listener may do, in place of settings and limits at the top"),
		maybe("allow_anonymous", &l.AllowAnonymous, "as the key of this name at the top", boolean, "whether clients may connect here that don't say who they are"),
		listOf("authentication", &l.Authentication, (*Method).keys, "the ways of knowing clients of this listener, in place of those at the top"),
		listOf("authorization", &l.Authorization, (*Rule).keys, "what clients of this listener may do, in place of what is at the top"),
		maybe("allow_by_default", &l.AllowByDefault, "as the key of this name at the top", boolean, "whether what no element of authorization decides on is allowed"),
	}
}

var listenerName = kind[string]{
	name: "name", allowed: "up to 32 letters, digits, - and _", takes: takesText,
	parse: func(s string) (string, bool) {
		for _, r := range s {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return s, false
			}
		}
		return s, s != "" && len(s) <= 32
	},
	format: same,
}

var fileMode = kind[uint32]{
	name: "mode", allowed: `an octal number in quotes, such as "0660"`, takes: takesText,
	parse: func(s string) (uint32, bool) {
		n, err := strconv.ParseUint(s, 8, 9)
		return uint32(n), err == nil
	},
	format: func(n uint32) string { return fmt.Sprintf("%04o", n) },
}

// WebSocket is how MQTT over WebSocket is spoken.
type WebSocket struct {
	Path       string
	Origins    []string
	Forwarders []netip.Prefix
}

func (w *WebSocket) keys() []*node {
	return []*node{
		key("path", &w.Path, "/mqtt", urlPath, "what requests have to be for; * any path"),
		keyList("origins", &w.Origins, origin, "web pages that may connect, by where they come from: https://app.example.com; https://*.example.com means all hosts below that domain, * any page. "+
			"None given: pages from the host and port that they connect to"),
		keyList("forwarders", &w.Forwarders, network, "networks of proxies whose X-Forwarded-For is believed"),
	}
}

var urlPath = kind[string]{
	name: "path", allowed: "a path that begins with a slash, or *", takes: takesText,
	parse:  func(s string) (string, bool) { return s, isText(s) && (s == "*" || s != "" && s[0] == '/') },
	format: same,
}

// standardListeners are there if no file says otherwise.
func standardListeners() []Listener {
	tcp, ws := *fresh((*Listener).keys), *fresh((*Listener).keys)
	tcp.Name, tcp.Address = "tcp", "127.0.0.1:1883"
	ws.Name, ws.Address, ws.Protocol = "ws", "127.0.0.1:8083", ProtocolWebSocket
	return []Listener{tcp, ws}
}
