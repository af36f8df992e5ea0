package loopmq

import (
	"errors"

	"loopmq/codec"
)

// What a packet can do wrong that its decoder can't know.
var (
	errSecondConnect         = codec.NewError(codec.ProtocolError, "second CONNECT on a connection [MQTT-3.1.0-2]")
	errNotYetConnected       = codec.NewError(codec.ProtocolError, "packet other than AUTH and DISCONNECT before the CONNACK of an enhanced authentication [MQTT-3.1.2-30]")
	errUnexpectedPacket      = codec.NewError(codec.ProtocolError, "packet of a type that a Client doesn't send")
	errPacketTooLarge        = codec.NewError(codec.PacketTooLarge, "packet exceeds the Maximum Packet Size [MQTT-3.2.2-15]")
	errTooManyFilters        = codec.NewError(codec.QuotaExceeded, "more Topic Filters in a packet than a session may have subscriptions")
	errReceiveMaximum        = codec.NewError(codec.ReceiveMaximumExceeded, "more unacknowledged PUBLISH packets than the Receive Maximum [MQTT-3.3.4-9]")
	errTopicAliasTooLarge    = codec.NewError(codec.TopicAliasInvalid, "Topic Alias exceeds the Topic Alias Maximum [MQTT-3.2.2-17]")
	errTopicAliasUnknown     = codec.NewError(codec.ProtocolError, "Topic Alias is not set and the Topic Name is empty [MQTT-3.3.2-8]")
	errSubscriptionIDInbound = codec.ErrSubscriptionIdentifierFromClient
	errRepeatedWithoutDup    = codec.NewError(codec.ProtocolError, "PUBLISH sent again without DUP, again [MQTT-3.3.1-1, MQTT-4.4.0-1]")
	errAckOfOtherQoS         = codec.NewError(codec.ProtocolError, "acknowledgement of another QoS than the message was sent with [MQTT-4.3.2-1, MQTT-4.3.3-1]")
	errSessionExpiryZero     = codec.NewError(codec.ProtocolError, "DISCONNECT sets a Session Expiry Interval that was 0 in CONNECT [MQTT-3.14.2-2]")
	errAuthMethodChanged     = codec.NewError(codec.ProtocolError, "AUTH names another Authentication Method than CONNECT [MQTT-4.12.1-1]")
	errAuthUnexpected        = codec.NewError(codec.ProtocolError, "AUTH without an enhanced authentication under way [MQTT-4.12.0-7]")
	errTopicLevels           = codec.NewError(codec.MalformedPacket, "Topic Name or Topic Filter has more levels than are allowed")
	errQoSNotSupported       = codec.NewError(codec.QoSNotSupported, "QoS exceeds the Maximum QoS [MQTT-3.2.2-11]")
	errRetainNotSupported    = codec.NewError(codec.RetainNotSupported, "RETAIN is 1 where retained messages are not available [MQTT-3.2.2-14]")
	errPayloadTooLarge       = codec.NewError(codec.QuotaExceeded, "payload exceeds the limit")
	errWillTooLarge          = codec.NewError(codec.PacketTooLarge, "payload of the Will exceeds the limit")
	errMountedTopicTooLong   = codec.NewError(codec.TopicNameInvalid, "Topic Name is too long with the mount point before it")
	errKeepAliveTooLong      = codec.NewError(codec.ClientIdentifierNotValid, "Keep Alive exceeds the limit, and 3.x has no way to be told another")
	errPayloadFormat         = codec.NewError(codec.PayloadFormatInvalid, "payload is not UTF-8 as its Payload Format Indicator says [MQTT-3.3.2-4]")
)

// Why the broker ends a connection.
var (
	errShutdown           = codec.NewError(codec.ServerShuttingDown, "server is shutting down")
	errUseAnotherServer   = codec.NewError(codec.UseAnotherServer, "this server takes no connections, use another one [MQTT-4.11.0-1]")
	errAddressLimit       = codec.NewError(codec.QuotaExceeded, "too many connections from this address")
	errAddressRate        = codec.NewError(codec.ConnectionRateExceeded, "too many new connections from this address")
	errTooManyConnects    = codec.NewError(codec.ServerBusy, "too many others are connecting, try again later")
	errRateTooHigh        = codec.NewError(codec.MessageRateTooHigh, "more messages or bytes than are allowed in the time")
	errTakenOver          = codec.NewError(codec.SessionTakenOver, "another connection uses the Client Identifier [MQTT-3.1.4-3]")
	errKeepAlive          = codec.NewError(codec.KeepAliveTimeout, "no packet within one and a half times the Keep Alive [MQTT-3.1.2-22]")
	errConnectTimeout     = codec.NewError(codec.ProtocolError, "no CONNECT within the time allowed")
	errClientIDNotValid   = codec.NewError(codec.ClientIdentifierNotValid, "Client Identifier is not valid [MQTT-3.1.3-8]")
	errClientIDReserved   = codec.NewError(codec.ClientIdentifierNotValid, "Client Identifier begins as only those of the broker's own clients do")
	errBadAuthMethod      = codec.NewError(codec.BadAuthenticationMethod, "Authentication Method is not supported [MQTT-4.12.0-1]")
	errNoUsername         = codec.NewError(codec.BadUserNameOrPassword, "no user name, which is the Client Identifier here")
	errNotAuthorized      = codec.NewError(codec.NotAuthorized, "not authorized")
	errIdentityExpired    = codec.NewError(codec.NotAuthorized, "the client's credentials have expired")
	errStoreUnavailable   = codec.NewError(codec.ServerBusy, "the store is unavailable, try again later")
	errQuota              = codec.NewError(codec.QuotaExceeded, "the store did not take the message, try again later")
	errAnswerTooLarge     = codec.NewError(codec.PacketTooLarge, "the answer exceeds the client's Maximum Packet Size [MQTT-3.1.2-24]")
	errAdministrative     = codec.NewError(codec.AdministrativeAction, "disconnected by an administrator")
	errUnspecified        = codec.NewError(codec.UnspecifiedError, "unspecified error")
	errNormal             = codec.NewError(codec.NormalDisconnection, "client sent DISCONNECT")
	errDisconnectWithWill = codec.NewError(codec.DisconnectWithWill, "client sent DISCONNECT and asks for its Will [MQTT-3.14.4-3]")
)

// Errors of Broker's methods.
var (
	// ErrNotRunning: the broker was not started, or was shut down.
	ErrNotRunning error = codec.NewError(codec.ServerUnavailable, "loopmq: the broker is not running")
	// ErrTopicName: the topic is empty, has wildcards or U+0000, or is not UTF-8.
	ErrTopicName error = codec.NewError(codec.TopicNameInvalid, "loopmq: not a valid Topic Name")
	// ErrQoS: a QoS other than 0, 1 and 2.
	ErrQoS error = codec.NewError(codec.MalformedPacket, "loopmq: QoS must be 0, 1 or 2")
	// ErrProperty: a property is too long, is not UTF-8, or has a value that it can't
	// have. The error that wraps it says what is wrong.
	ErrProperty error = codec.NewError(codec.MalformedPacket, "loopmq: not a valid property")
	// ErrTooLarge: the message exceeds the limit of a packet, or of a payload.
	ErrTooLarge error = codec.NewError(codec.PacketTooLarge, "loopmq: message exceeds Limits.PacketSize or Settings.PayloadSize")
	// ErrNotStored: the store did not take the message; it may be published again.
	ErrNotStored error = codec.NewError(codec.QuotaExceeded, "loopmq: the store did not take the message")
	// ErrNoRetained: the topic has no retained message.
	ErrNoRetained  = errors.New("loopmq: there is no retained message")
	errLimitsFixed = errors.New("loopmq: SetLimits: a limit differs that can't be changed while the broker runs")
	// ErrNoClient: no client with that Client Identifier is connected.
	ErrNoClient = errors.New("loopmq: no such client is connected")
)
