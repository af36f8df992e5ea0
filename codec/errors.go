package codec

// Error is a violation of the standard. All that decoding returns are the variables of this file, so that they can be compared
// with errors.Is, cost no allocation, and carry no bytes of the packet.
type Error struct {
	// ReasonCode is what a 5.0 Server or Client puts into its DISCONNECT (or the Server into its CONNACK) before it closes.
	ReasonCode ReasonCode
	text       string
	silent     bool
}

// Error returns one sentence that names the violated statement of the standard.
func (e *Error) Error() string { return e.text }

// Silent reports whether the Network Connection is to be closed without an answer, because the peer isn't known to speak MQTT,
// or is closing by itself, or because nothing of its packet can be relied on: the framing, or the first fields of CONNECT and the
// credentials. A DISCONNECT is only a SHOULD (section 4.13.1), a CONNACK that refuses only a MAY [MQTT-3.1.4-1].
func (e *Error) Silent() bool { return e.silent }

// NewError returns an error with a reason code and the sentence that says it. It is for those who judge what a decoder can't:
// a packet that comes at the wrong moment, or that asks for more than is allowed.
func NewError(reason ReasonCode, text string) *Error { return &Error{ReasonCode: reason, text: text} }

func malformed(text string) *Error { return &Error{ReasonCode: MalformedPacket, text: text} }

func protocol(text string) *Error { return &Error{ReasonCode: ProtocolError, text: text} }

// Errors of framing, which [DecodeFixedHeader] returns.
var (
	// ErrFirstPacketNotConnect is returned while the version isn't known, for everything but CONNECT.
	ErrFirstPacketNotConnect = &Error{ProtocolError, "first packet is not a CONNECT [MQTT-3.1.0-1]", true}
	ErrReservedPacketType    = protocol("packet type is reserved (section 2.1.2)")
	ErrReservedFlags         = malformed("flags of the fixed header are not the ones reserved for the packet type [MQTT-2.1.3-1]")
	// ErrReservedFlagsUnexpected is ErrReservedFlags for the packets that a Server gets from no Client (CONNACK) or only in the
	// middle of an authentication (AUTH): that they came at all weighs more than their flags. In 5.0 it is that of PUBREL and
	// DISCONNECT too, as other brokers have it.
	ErrReservedFlagsUnexpected        = protocol("reserved flags of CONNACK, PUBREL, DISCONNECT or AUTH [MQTT-2.1.3-1]")
	ErrQoS3                           = malformed("both QoS bits of PUBLISH are set [MQTT-3.3.1-4]")
	ErrDupQoS0                        = malformed("DUP is set on a PUBLISH with QoS 0 [MQTT-3.3.1-2]")
	ErrVariableByteIntegerTooLong     = malformed("variable byte integer has more than four bytes (section 1.5.5)")
	ErrVariableByteIntegerNotShortest = malformed("variable byte integer is not encoded in the fewest bytes [MQTT-1.5.5-1]")
	// ErrRemainingLengthTooLong is ErrVariableByteIntegerTooLong where it leaves open where the packet ends.
	ErrRemainingLengthTooLong = &Error{MalformedPacket, "Remaining Length has more than four bytes (section 2.1.4)", true}
	ErrPingLength             = &Error{MalformedPacket, "PINGREQ or PINGRESP has a body (sections 3.12, 3.13)", true}
)

// Errors of any packet's body.
var (
	ErrTruncated            = malformed("a field reaches beyond the end of the packet")
	ErrTrailingBytes        = malformed("bytes follow the last field of the packet")
	ErrInvalidUTF8          = malformed("string is not UTF-8, or has U+0000 or a surrogate in it [MQTT-1.5.4-1, MQTT-1.5.4-2]")
	ErrControlCharacter     = malformed("string has a control character in it (section 1.5.4)")
	ErrPacketIdentifierZero = protocol("Packet Identifier is 0 [MQTT-2.2.1-3, MQTT-2.2.1-4]")
	// ErrSubscribePacketIdentifierZero is ErrPacketIdentifierZero in SUBSCRIBE and UNSUBSCRIBE.
	ErrSubscribePacketIdentifierZero = malformed("Packet Identifier of SUBSCRIBE or UNSUBSCRIBE is 0 [MQTT-2.2.1-3]")
	ErrReasonCode                    = protocol("Reason Code is not one that the packet can have (section 2.4)")
)

// Errors of Properties.
var (
	ErrPropertyUnknown    = malformed("Property Identifier is not known (section 2.2.2.2)")
	ErrPropertyNotAllowed = protocol("property does not belong in this packet (section 2.2.2.2)")
	// ErrSubscribePropertyNotAllowed is ErrPropertyNotAllowed in SUBSCRIBE and UNSUBSCRIBE.
	ErrSubscribePropertyNotAllowed     = malformed("property does not belong in SUBSCRIBE or UNSUBSCRIBE (section 2.2.2.2)")
	ErrPropertyDuplicate               = protocol("property is there more than once (section 2.2.2.2)")
	ErrPropertyNotBoolean              = protocol("property has a value other than 0 and 1 (section 3.1.2.11, 3.2.2.3, 3.3.2.3)")
	ErrReceiveMaximumZero              = protocol("Receive Maximum is 0 (section 3.1.2.11.3)")
	ErrMaximumPacketSizeZero           = protocol("Maximum Packet Size is 0 (section 3.1.2.11.4)")
	ErrTopicAliasZero                  = &Error{ReasonCode: TopicAliasInvalid, text: "Topic Alias is 0 [MQTT-3.3.2-8]"}
	ErrSubscriptionIdentifierZero      = protocol("Subscription Identifier is 0 (sections 3.3.2.3.8, 3.8.2.1.2)")
	ErrResponseTopic                   = protocol("Response Topic is not a Topic Name [MQTT-3.3.2-14]")
	ErrAuthenticationDataWithoutMethod = protocol("Authentication Data without Authentication Method (section 3.1.2.11.10)")
	ErrAuthenticationMethodMissing     = protocol("AUTH without Authentication Method (section 3.15.2.2.2)")
	// ErrSubscriptionIdentifierFromClient is returned by nothing here, since a decoder doesn't know the direction: it is for
	// the Server that gets them in a PUBLISH.
	ErrSubscriptionIdentifierFromClient = protocol("PUBLISH of a Client has a Subscription Identifier [MQTT-3.3.4-6]")
)

// Errors of CONNECT. The first two are found before anything else in the packet is judged.
var (
	// ErrProtocolName is silent: whatever this is, it can't be expected to read a CONNACK.
	ErrProtocolName = &Error{UnsupportedProtocolVersion, "Protocol Name is neither MQTT nor MQIsdp [MQTT-3.1.2-1]", true}
	// ErrUnsupportedProtocolVersion is to be answered with CONNACK: return code 1 in the form of 3.1.1, 0x84 in that of 5.0.
	ErrUnsupportedProtocolVersion = &Error{
		ReasonCode: UnsupportedProtocolVersion,
		text:       "protocol version is not 3.1, 3.1.1 or 5.0 [MQTT-3.1.2-2]",
	}
	// ErrConnectHeader is silent, as are the errors of the credentials: who gets those wrong learns nothing.
	ErrConnectHeader = &Error{MalformedPacket, "CONNECT ends before its Keep Alive, or has reserved flags [MQTT-2.1.3-1]", true}
	ErrCredentials   = &Error{MalformedPacket, "User Name or Password is missing or not a string [MQTT-3.1.3-12]", true}
	ErrClientID      = &Error{
		ReasonCode: ClientIdentifierNotValid,
		text:       "Client Identifier is not a string, or has a control character in it [MQTT-3.1.3-4]",
	}
	ErrWillTopicEmpty           = &Error{MalformedPacket, "Will Topic is empty [MQTT-4.7.3-1]", true}
	ErrConnectFlagReserved      = malformed("reserved Connect Flag is 1 [MQTT-3.1.2-3]")
	ErrWillQoS3                 = &Error{MalformedPacket, "Will QoS is 3 [MQTT-3.1.2-12]", true}
	ErrWillQoSWithoutWill       = malformed("Will QoS is not 0 though the Will Flag is 0 [MQTT-3.1.2-11]")
	ErrWillRetainWithoutWill    = malformed("Will Retain is 1 though the Will Flag is 0 [MQTT-3.1.2-13]")
	ErrPasswordWithoutUsername  = malformed("Password Flag is 1 though the User Name Flag is 0 [MQTT-3.1.2-22 of 3.1.1]")
	ErrConnackFlagReserved      = malformed("reserved Connect Acknowledge Flag is 1 [MQTT-3.2.2-1]")
	ErrConnackSessionPresent    = protocol("Session Present is 1 in a CONNACK that refuses [MQTT-3.2.2-6]")
	ErrConnackReturnCode        = protocol("Connect Return Code is reserved (section 3.2.2.3 of 3.1.1)")
	ErrDisconnectReasonCode     = &Error{ProtocolError, "Reason Code is not one of DISCONNECT [MQTT-3.14.2-1]", true}
	ErrSubackReasonCodesMissing = malformed("SUBACK or UNSUBACK without Reason Codes (sections 3.9.3, 3.11.3)")
)

// Errors of Topic Names, Topic Filters and subscriptions.
var (
	// ErrTopicNameEmpty is a Malformed Packet also where 5.0 has a Topic Alias that could stand in and doesn't.
	ErrTopicNameEmpty      = malformed("Topic Name is empty and there is no Topic Alias [MQTT-4.7.3-1]")
	ErrTopicNameWildcard   = malformed("Topic Name has a wildcard in it [MQTT-3.3.2-2]")
	ErrTopicFilterEmpty    = malformed("Topic Filter is empty [MQTT-4.7.3-1]")
	ErrTopicFilterWildcard = malformed("wildcard of the Topic Filter is not a whole level, or # is not the last [MQTT-4.7.1-1, MQTT-4.7.1-2]")
	ErrSharedSubscription  = protocol("Shared Subscription without a ShareName or Topic Filter, or with a wildcard in the ShareName " +
		"[MQTT-4.8.2-1, MQTT-4.8.2-2]")
	ErrNoLocalShared        = protocol("No Local is 1 on a Shared Subscription [MQTT-3.8.3-4]")
	ErrSubscriptionQoS3     = malformed("Maximum QoS of a subscription is 3 (section 3.8.3.1)")
	ErrRetainHandling3      = malformed("Retain Handling is 3 (section 3.8.3.1)")
	ErrSubscriptionReserved = malformed("reserved bits of the Subscription Options are not 0 [MQTT-3.8.3-5]")
	ErrNoSubscription       = malformed("SUBSCRIBE without a Topic Filter [MQTT-3.8.3-2]")
	ErrNoTopicFilter        = malformed("UNSUBSCRIBE without a Topic Filter [MQTT-3.10.3-2]")
)
