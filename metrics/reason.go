package metrics

// DropReason says why a match, or later a queued message, was given up.
type DropReason uint8

// The reasons for a drop. Each is a value of the label `reason`.
const (
	// DropOutputFull: the output of the subscriber's connection is at its bound.
	DropOutputFull DropReason = iota
	// DropQueueFull: the Session's queue is at its bound of messages or bytes.
	DropQueueFull
	// DropMailboxFull: the mailbox of the subscriber's loop is at its bound.
	DropMailboxFull
	// DropExpired: the Message Expiry Interval passed. [MQTT-3.3.2-5]
	DropExpired
	// DropTooLarge: above the client's Maximum Packet Size. [MQTT-3.1.2-25]
	DropTooLarge
	// DropOffline: QoS 0 for a Session without a connection.
	DropOffline
	// DropNotAuthorized: the subscriber may no longer read this topic.
	DropNotAuthorized
	// DropSessionGone: the Session ended, or moved, before the message came to it.
	DropSessionGone
	// DropStoreFull: the store is at its bound of bytes.
	DropStoreFull
	// DropStoreUnavailable: the store didn't answer in time.
	DropStoreUnavailable

	// NumDropReasons is the number of reasons.
	NumDropReasons = int(iota)
)

var dropReasons = [NumDropReasons]string{
	DropOutputFull:       "output_full",
	DropQueueFull:        "queue_full",
	DropMailboxFull:      "mailbox_full",
	DropExpired:          "expired",
	DropTooLarge:         "packet_too_large",
	DropOffline:          "offline_qos0",
	DropNotAuthorized:    "not_authorized",
	DropSessionGone:      "session_gone",
	DropStoreFull:        "store_full",
	DropStoreUnavailable: "store_unavailable",
}

// String returns the value of the label, such as "output_full". It doesn't allocate.
func (r DropReason) String() string { return label(dropReasons[:], uint8(r)) }

// NumEventKinds is the number of kinds of events.
const NumEventKinds = len(eventNames)

// eventNames are the kinds of events, in the order that the broker gives them. Each is
// a value of the label `event`.
var eventNames = [...]string{
	"client.connected", "client.disconnected", "client.auth_failed",
	"session.created", "session.taken_over", "session.terminated", "session.subscribed", "session.unsubscribed",
	"message.published", "message.delivered", "message.acked", "message.dropped",
	"will.published", "node.up", "node.down",
}

// EventName returns the name of a kind of events, such as "client.connected". It
// doesn't allocate.
func EventName(kind uint8) string { return label(eventNames[:], kind) }

// EventDropReason says why an event was not stored.
type EventDropReason uint8

// The reasons. Each is a value of the label `reason`.
const (
	// EventOutboxFull: the outbox of its endpoint is at its bound.
	EventOutboxFull EventDropReason = iota
	// EventStoreFull: the store is at its bound of bytes.
	EventStoreFull
	// EventStoreUnavailable: the store didn't answer in time to the commit that had the
	// message too, or until the broker stopped.
	EventStoreUnavailable
	// EventBacklogFull: too many wait for the store.
	EventBacklogFull

	// NumEventDropReasons is the number of reasons.
	NumEventDropReasons = int(iota)
)

var eventDropReasons = [NumEventDropReasons]string{
	EventOutboxFull:       "outbox_full",
	EventStoreFull:        "store_full",
	EventStoreUnavailable: "store_unavailable",
	EventBacklogFull:      "backlog_full",
}

// String returns the value of the label, such as "outbox_full". It doesn't allocate.
func (r EventDropReason) String() string { return label(eventDropReasons[:], uint8(r)) }

// CloseReason says why a Network Connection ended.
type CloseReason uint8

// The reasons for the end of a connection. Each is a value of the label `reason`.
const (
	// CloseDisconnect: the client sent DISCONNECT.
	CloseDisconnect CloseReason = iota
	// CloseLost: the client or the network closed it without DISCONNECT.
	CloseLost
	// CloseConnectTimeout: no CONNECT came in time.
	CloseConnectTimeout
	// CloseKeepAlive: nothing came for one and a half Keep Alive. [MQTT-3.1.2-22]
	CloseKeepAlive
	// CloseProtocolError: a Malformed Packet or a Protocol Error.
	CloseProtocolError
	// CloseRefused: CONNECT was answered with a refusal other than for its form.
	CloseRefused
	// CloseTakenOver: another connection uses the Client Identifier. [MQTT-3.1.4-3]
	CloseTakenOver
	// CloseOutputFull: the client didn't read its output.
	CloseOutputFull
	// CloseQuota: the client went beyond a limit that it had been told.
	CloseQuota
	// CloseRate: the client sent more than it may in the time.
	CloseRate
	// CloseServerShutdown: the Broker is stopping.
	CloseServerShutdown
	// CloseAdministrative: an operator, or the application, asked for it.
	CloseAdministrative
	// CloseInternal: an error of the Broker or its store.
	CloseInternal
	// CloseNotAuthorized: a connected client may not be connected any more: its
	// credentials expired, it failed to authenticate again, or it was banned.
	CloseNotAuthorized

	// NumCloseReasons is the number of reasons.
	NumCloseReasons = int(iota)
)

var closeReasons = [NumCloseReasons]string{
	CloseDisconnect:     "disconnect",
	CloseLost:           "connection_lost",
	CloseConnectTimeout: "connect_timeout",
	CloseKeepAlive:      "keep_alive_timeout",
	CloseProtocolError:  "protocol_error",
	CloseRefused:        "refused",
	CloseTakenOver:      "taken_over",
	CloseOutputFull:     "output_full",
	CloseQuota:          "quota_exceeded",
	CloseRate:           "rate_exceeded",
	CloseServerShutdown: "server_shutdown",
	CloseAdministrative: "administrative",
	CloseInternal:       "internal_error",
	CloseNotAuthorized:  "not_authorized",
}

// String returns the value of the label, such as "taken_over". It doesn't allocate.
func (r CloseReason) String() string { return label(closeReasons[:], uint8(r)) }

// ReloadResult says what came of reading files again.
type ReloadResult uint8

// The results of a reload. Each is a value of the label `result`.
const (
	// ReloadDone: what was read holds.
	ReloadDone ReloadResult = iota
	// ReloadFailed: what was there before stays.
	ReloadFailed

	// NumReloadResults is the number of results.
	NumReloadResults = int(iota)
)

var reloadResults = [NumReloadResults]string{ReloadDone: "ok", ReloadFailed: "failed"}

// String returns the value of the label, such as "ok". It doesn't allocate.
func (r ReloadResult) String() string { return label(reloadResults[:], uint8(r)) }

// RefuseReason says why a Network Connection was closed before any MQTT was
// spoken, but for the answer that it is refused.
type RefuseReason uint8

// The reasons to refuse a connection. Each is a value of the label `reason`.
const (
	// RefuseLimit: the limit on connections was reached.
	RefuseLimit RefuseReason = iota
	// RefuseBusy: too many others waited for the loop.
	RefuseBusy
	// RefuseListener: the listener's limit on connections was reached.
	RefuseListener
	// RefuseAddress: the limit on connections of one address was reached.
	RefuseAddress
	// RefuseAddressRate: one address connects too often.
	RefuseAddressRate
	// RefuseBanned: the address is banned, and was before it connected.
	RefuseBanned
	// RefuseConnects: too many other CONNECTs were being decided on.
	RefuseConnects
	// RefuseProxyUntrusted: a PROXY header is expected, and the peer is not in a
	// network that may send one.
	RefuseProxyUntrusted
	// RefuseProxyInvalid: what came instead of a PROXY header, or a bad one.
	RefuseProxyInvalid
	// RefuseProxyTimeout: no whole PROXY header in time.
	RefuseProxyTimeout
	// RefuseTLSTimeout: the TLS handshake took too long.
	RefuseTLSTimeout
	// RefuseTLSProtocol: not TLS, or no version, cipher or name in common.
	RefuseTLSProtocol
	// RefuseTLSCertificate: the client's certificate is missing, invalid or revoked.
	RefuseTLSCertificate
	// RefuseTLSAborted: the client gave the TLS handshake up.
	RefuseTLSAborted
	// RefuseWebSocketRequest: the request isn't HTTP, or doesn't ask for a
	// WebSocket as RFC 6455 has it.
	RefuseWebSocketRequest
	// RefuseWebSocketTooLarge: the header of the request is too large.
	RefuseWebSocketTooLarge
	// RefuseWebSocketTimeout: no whole request in time.
	RefuseWebSocketTimeout
	// RefuseWebSocketBusy: too much is kept of requests that are incomplete.
	RefuseWebSocketBusy
	// RefuseWebSocketPath: the request is for another path.
	RefuseWebSocketPath
	// RefuseWebSocketOrigin: pages of this origin may not connect.
	RefuseWebSocketOrigin
	// RefuseWebSocketSubprotocol: subprotocols are offered, and none of MQTT's.
	RefuseWebSocketSubprotocol

	// NumRefuseReasons is the number of reasons.
	NumRefuseReasons = int(iota)
)

var refuseReasons = [NumRefuseReasons]string{
	RefuseLimit:          "limit",
	RefuseBusy:           "busy",
	RefuseListener:       "listener_limit",
	RefuseAddress:        "address_limit",
	RefuseAddressRate:    "address_rate",
	RefuseBanned:         "banned",
	RefuseConnects:       "too_many_connects",
	RefuseProxyUntrusted: "proxy_untrusted",
	RefuseProxyInvalid:   "proxy_invalid",
	RefuseProxyTimeout:   "proxy_timeout",
	RefuseTLSTimeout:     "tls_timeout",
	RefuseTLSProtocol:    "tls_protocol",
	RefuseTLSCertificate: "tls_certificate",
	RefuseTLSAborted:     "tls_aborted",

	RefuseWebSocketRequest:     "websocket_request",
	RefuseWebSocketTooLarge:    "websocket_too_large",
	RefuseWebSocketTimeout:     "websocket_timeout",
	RefuseWebSocketBusy:        "websocket_busy",
	RefuseWebSocketPath:        "websocket_path",
	RefuseWebSocketOrigin:      "websocket_origin",
	RefuseWebSocketSubprotocol: "websocket_subprotocol",
}

// String returns the value of the label, such as "proxy_invalid". It doesn't allocate.
func (r RefuseReason) String() string { return label(refuseReasons[:], uint8(r)) }

// FrameReason says what was wrong with a frame of WebSocket, for which its
// connection was closed.
type FrameReason uint8

// The reasons. Each is a value of the label `reason`.
const (
	// FrameNotMasked: a client has to mask its frames.
	FrameNotMasked FrameReason = iota
	// FrameReservedBits: a bit that only an extension gives a meaning is set.
	FrameReservedBits
	// FrameOpcode: a type of frame that doesn't exist.
	FrameOpcode
	// FrameFragments: a continuation of nothing, or a message inside another.
	FrameFragments
	// FrameControl: a control frame that is too long or fragmented, or a Close
	// frame that says nothing valid.
	FrameControl
	// FrameLength: a length that isn't in its shortest form, or beyond 63 bits.
	FrameLength
	// FrameTooLarge: above the limit.
	FrameTooLarge
	// FrameText: text, which MQTT has no use for.
	FrameText

	// NumFrameReasons is the number of reasons.
	NumFrameReasons = int(iota)
)

var frameReasons = [NumFrameReasons]string{
	FrameNotMasked:    "not_masked",
	FrameReservedBits: "reserved_bits",
	FrameOpcode:       "opcode",
	FrameFragments:    "fragments",
	FrameControl:      "control_frame",
	FrameLength:       "length",
	FrameTooLarge:     "too_large",
	FrameText:         "text",
}

// String returns the value of the label, such as "not_masked". It doesn't allocate.
func (r FrameReason) String() string { return label(frameReasons[:], uint8(r)) }

// Scope says whose limit it was.
type Scope uint8

// The scopes. Each is a value of the label `scope`.
const (
	// ScopeClient: of one client.
	ScopeClient Scope = iota
	// ScopeAddress: of all from one address.
	ScopeAddress
	// ScopeListener: of all at one listener.
	ScopeListener
	// ScopeNode: of all.
	ScopeNode

	// NumScopes is the number of scopes.
	NumScopes = int(iota)
)

var scopes = [NumScopes]string{ScopeClient: "client", ScopeAddress: "address", ScopeListener: "listener", ScopeNode: "node"}

// String returns the value of the label, such as "client". It doesn't allocate.
func (s Scope) String() string { return label(scopes[:], uint8(s)) }

func label(labels []string, r uint8) string {
	if int(r) >= len(labels) {
		return "unknown"
	}
	return labels[r]
}

// packetTypes are the values of the label `type`, by packet type.
var packetTypes = [numPacketTypes]string{
	1: "connect", 2: "connack", 3: "publish", 4: "puback", 5: "pubrec", 6: "pubrel", 7: "pubcomp", 8: "subscribe",
	9: "suback", 10: "unsubscribe", 11: "unsuback", 12: "pingreq", 13: "pingresp", 14: "disconnect", 15: "auth",
}
