package codec

import "strconv"

// ReasonCode is the one-byte result of an operation in MQTT 5.0 (section 2.4). Codes below 0x80 are successes.
type ReasonCode byte

// The Reason Codes of MQTT 5.0.
const (
	Success                             ReasonCode = 0x00
	NormalDisconnection                 ReasonCode = 0x00
	GrantedQoS0                         ReasonCode = 0x00
	GrantedQoS1                         ReasonCode = 0x01
	GrantedQoS2                         ReasonCode = 0x02
	DisconnectWithWill                  ReasonCode = 0x04
	NoMatchingSubscribers               ReasonCode = 0x10
	NoSubscriptionExisted               ReasonCode = 0x11
	ContinueAuthentication              ReasonCode = 0x18
	ReAuthenticate                      ReasonCode = 0x19
	UnspecifiedError                    ReasonCode = 0x80
	MalformedPacket                     ReasonCode = 0x81
	ProtocolError                       ReasonCode = 0x82
	ImplementationSpecificError         ReasonCode = 0x83
	UnsupportedProtocolVersion          ReasonCode = 0x84
	ClientIdentifierNotValid            ReasonCode = 0x85
	BadUserNameOrPassword               ReasonCode = 0x86
	NotAuthorized                       ReasonCode = 0x87
	ServerUnavailable                   ReasonCode = 0x88
	ServerBusy                          ReasonCode = 0x89
	Banned                              ReasonCode = 0x8A
	ServerShuttingDown                  ReasonCode = 0x8B
	BadAuthenticationMethod             ReasonCode = 0x8C
	KeepAliveTimeout                    ReasonCode = 0x8D
	SessionTakenOver                    ReasonCode = 0x8E
	TopicFilterInvalid                  ReasonCode = 0x8F
	TopicNameInvalid                    ReasonCode = 0x90
	PacketIdentifierInUse               ReasonCode = 0x91
	PacketIdentifierNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded              ReasonCode = 0x93
	TopicAliasInvalid                   ReasonCode = 0x94
	PacketTooLarge                      ReasonCode = 0x95
	MessageRateTooHigh                  ReasonCode = 0x96
	QuotaExceeded                       ReasonCode = 0x97
	AdministrativeAction                ReasonCode = 0x98
	PayloadFormatInvalid                ReasonCode = 0x99
	RetainNotSupported                  ReasonCode = 0x9A
	QoSNotSupported                     ReasonCode = 0x9B
	UseAnotherServer                    ReasonCode = 0x9C
	ServerMoved                         ReasonCode = 0x9D
	SharedSubscriptionsNotSupported     ReasonCode = 0x9E
	ConnectionRateExceeded              ReasonCode = 0x9F
	MaximumConnectTime                  ReasonCode = 0xA0
	SubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	WildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

// Bits of reasonCodes.packets, one for each packet type that carries a Reason Code.
const (
	inConnack    = 1 << TypeConnack
	inPuback     = 1 << TypePuback
	inPubrec     = 1 << TypePubrec
	inPubrel     = 1 << TypePubrel
	inPubcomp    = 1 << TypePubcomp
	inSuback     = 1 << TypeSuback
	inUnsuback   = 1 << TypeUnsuback
	inDisconnect = 1 << TypeDisconnect
	inAuth       = 1 << TypeAuth
)

// reasonCodes is the table of section 2.4: the name of a code and the packets that may carry it. A code without a name is none.
var reasonCodes = [256]struct {
	name    string
	packets uint16
}{
	Success: {"Success", inConnack | inPuback | inPubrec | inPubrel | inPubcomp | inSuback | inUnsuback |
		inDisconnect | inAuth},
	GrantedQoS1:                 {"Granted QoS 1", inSuback},
	GrantedQoS2:                 {"Granted QoS 2", inSuback},
	DisconnectWithWill:          {"Disconnect with Will Message", inDisconnect},
	NoMatchingSubscribers:       {"No matching subscribers", inPuback | inPubrec},
	NoSubscriptionExisted:       {"No subscription existed", inUnsuback},
	ContinueAuthentication:      {"Continue authentication", inAuth},
	ReAuthenticate:              {"Re-authenticate", inAuth},
	UnspecifiedError:            {"Unspecified error", inConnack | inPuback | inPubrec | inSuback | inUnsuback | inDisconnect},
	MalformedPacket:             {"Malformed Packet", inConnack | inDisconnect},
	ProtocolError:               {"Protocol Error", inConnack | inDisconnect},
	ImplementationSpecificError: {"Implementation specific error", inConnack | inPuback | inPubrec | inSuback | inUnsuback | inDisconnect},
	UnsupportedProtocolVersion:  {"Unsupported Protocol Version", inConnack},
	ClientIdentifierNotValid:    {"Client Identifier not valid", inConnack},
	BadUserNameOrPassword:       {"Bad User Name or Password", inConnack},
	NotAuthorized:               {"Not authorized", inConnack | inPuback | inPubrec | inSuback | inUnsuback | inDisconnect},
	ServerUnavailable:           {"Server unavailable", inConnack},
	ServerBusy:                  {"Server busy", inConnack | inDisconnect},
	Banned:                      {"Banned", inConnack},
	ServerShuttingDown:          {"Server shutting down", inDisconnect},
	// Section 2.4 lists 0x8C for DISCONNECT as well, and 4.12 lets a Server end a re-authentication with it.
	BadAuthenticationMethod:             {"Bad authentication method", inConnack | inDisconnect},
	KeepAliveTimeout:                    {"Keep Alive timeout", inDisconnect},
	SessionTakenOver:                    {"Session taken over", inDisconnect},
	TopicFilterInvalid:                  {"Topic Filter invalid", inSuback | inUnsuback | inDisconnect},
	TopicNameInvalid:                    {"Topic Name invalid", inConnack | inPuback | inPubrec | inDisconnect},
	PacketIdentifierInUse:               {"Packet Identifier in use", inPuback | inPubrec | inSuback | inUnsuback},
	PacketIdentifierNotFound:            {"Packet Identifier not found", inPubrel | inPubcomp},
	ReceiveMaximumExceeded:              {"Receive Maximum exceeded", inDisconnect},
	TopicAliasInvalid:                   {"Topic Alias invalid", inDisconnect},
	PacketTooLarge:                      {"Packet too large", inConnack | inDisconnect},
	MessageRateTooHigh:                  {"Message rate too high", inDisconnect},
	QuotaExceeded:                       {"Quota exceeded", inConnack | inPuback | inPubrec | inSuback | inDisconnect},
	AdministrativeAction:                {"Administrative action", inDisconnect},
	PayloadFormatInvalid:                {"Payload format invalid", inConnack | inPuback | inPubrec | inDisconnect},
	RetainNotSupported:                  {"Retain not supported", inConnack | inDisconnect},
	QoSNotSupported:                     {"QoS not supported", inConnack | inDisconnect},
	UseAnotherServer:                    {"Use another server", inConnack | inDisconnect},
	ServerMoved:                         {"Server moved", inConnack | inDisconnect},
	SharedSubscriptionsNotSupported:     {"Shared Subscriptions not supported", inSuback | inDisconnect},
	ConnectionRateExceeded:              {"Connection rate exceeded", inConnack | inDisconnect},
	MaximumConnectTime:                  {"Maximum connect time", inDisconnect},
	SubscriptionIdentifiersNotSupported: {"Subscription Identifiers not supported", inSuback | inDisconnect},
	WildcardSubscriptionsNotSupported:   {"Wildcard Subscriptions not supported", inSuback | inDisconnect},
}

// IsError reports whether the code says that the operation failed, which all codes from 0x80 on do.
func (r ReasonCode) IsError() bool { return r >= 0x80 }

// String returns the name that the standard gives to the code; 0x00 is "Success" whatever packet it stands in.
func (r ReasonCode) String() string {
	if name := reasonCodes[r].name; name != "" {
		return name
	}
	return "reason code 0x" + strconv.FormatUint(uint64(r), 16)
}

// AllowedIn reports whether a packet of type t may carry the code.
func (r ReasonCode) AllowedIn(t PacketType) bool { return reasonCodes[r].packets>>t&1 != 0 }

// ConnectReturnCode is the result of CONNECT in the CONNACK of MQTT 3.1 and 3.1.1 (section 3.2.2.3 of the latter).
type ConnectReturnCode byte

// The Connect Return Codes of MQTT 3.1 and 3.1.1.
const (
	ReturnAccepted                    ConnectReturnCode = 0
	ReturnUnacceptableProtocolVersion ConnectReturnCode = 1
	ReturnIdentifierRejected          ConnectReturnCode = 2
	ReturnServerUnavailable           ConnectReturnCode = 3
	ReturnBadUserNameOrPassword       ConnectReturnCode = 4
	ReturnNotAuthorized               ConnectReturnCode = 5
)

var connectReturnCodeNames = [...]string{
	"Connection Accepted", "unacceptable protocol version", "identifier rejected", "Server unavailable",
	"bad user name or password", "not authorized",
}

// String returns the name that MQTT 3.1.1 gives to the code.
func (c ConnectReturnCode) String() string {
	if int(c) < len(connectReturnCodeNames) {
		return connectReturnCodeNames[c]
	}
	return "return code " + strconv.Itoa(int(c))
}
