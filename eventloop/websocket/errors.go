package websocket

// The codes of Close frames that are used here, see RFC 6455, section 7.4.1.
const (
	CloseNormal          uint16 = 1000
	CloseGoingAway       uint16 = 1001
	CloseProtocolError   uint16 = 1002
	CloseUnsupportedData uint16 = 1003
	CloseInvalidPayload  uint16 = 1007
	ClosePolicyViolation uint16 = 1008
	CloseMessageTooBig   uint16 = 1009
	CloseInternalError   uint16 = 1011
)

// Reason says why a connection or its handshake was refused, as the value of a metric's label.
type Reason uint8

// The reasons for which a handshake is refused, then those for which a connection is.
const (
	// BadRequest: the request isn't HTTP, or doesn't ask for a WebSocket as RFC 6455 has it.
	BadRequest Reason = iota
	// RequestTooLarge: the request's header is above its limit.
	RequestTooLarge
	// WrongPath: the request is for another path.
	WrongPath
	// OriginNotAllowed: the page that asks may not, see Handshake.Origins.
	OriginNotAllowed
	// NoSubprotocol: the client offers subprotocols, and none of MQTT's.
	NoSubprotocol
	// HandshakeTimeout: the request didn't come in time.
	HandshakeTimeout
	// HandshakesBusy: parts of too many requests wait for the rest.
	HandshakesBusy

	// NotMasked: a frame of a client isn't masked.
	NotMasked
	// ReservedBits: a frame has a bit set that only an extension gives a meaning.
	ReservedBits
	// UnknownOpcode: a frame of a type that doesn't exist.
	UnknownOpcode
	// BadFragments: a continuation of nothing, or a new message inside another.
	BadFragments
	// BadControlFrame: a control frame that is too long or fragmented, or a Close frame that says nothing valid.
	BadControlFrame
	// BadLength: a length that isn't in its shortest form, or beyond 63 bits.
	BadLength
	// FrameTooLarge: a frame above Decoder.MaxFrame.
	FrameTooLarge
	// TextFrame: a frame with text, which MQTT has no use for.
	TextFrame

	// NumReasons is the number of reasons.
	NumReasons = int(iota)
)

var reasons = [NumReasons]string{
	BadRequest:       "bad_request",
	RequestTooLarge:  "request_too_large",
	WrongPath:        "path",
	OriginNotAllowed: "origin",
	NoSubprotocol:    "subprotocol",
	HandshakeTimeout: "handshake_timeout",
	HandshakesBusy:   "handshakes_busy",
	NotMasked:        "not_masked",
	ReservedBits:     "reserved_bits",
	UnknownOpcode:    "opcode",
	BadFragments:     "fragments",
	BadControlFrame:  "control_frame",
	BadLength:        "length",
	FrameTooLarge:    "frame_too_large",
	TextFrame:        "text_frame",
}

// String returns the value of the label, such as "not_masked". It doesn't allocate.
func (r Reason) String() string {
	if int(r) >= NumReasons {
		return "unknown"
	}
	return reasons[r]
}

// Error is what a client did wrong.
type Error struct {
	// Reason is what it is counted as.
	Reason Reason
	// Status is the HTTP status that refuses a handshake, 0 if the error is in a frame.
	Status int
	// Code is that of the Close frame, 0 if the error is in the handshake.
	Code uint16
	text string
}

// Error returns one sentence.
func (e *Error) Error() string { return "websocket: " + e.text }

// Errors in frames, see Decoder.Decode.
var (
	errNotMasked        = &Error{NotMasked, 0, CloseProtocolError, "frame of a client isn't masked [RFC 6455, 5.1]"}
	errReservedBits     = &Error{ReservedBits, 0, CloseProtocolError, "reserved bit is set without an extension [RFC 6455, 5.2]"}
	errUnknownOpcode    = &Error{UnknownOpcode, 0, CloseProtocolError, "opcode is unknown [RFC 6455, 5.2]"}
	errNothingContinues = &Error{BadFragments, 0, CloseProtocolError, "continuation frame without a message to continue [RFC 6455, 5.4]"}
	errInterleaved      = &Error{BadFragments, 0, CloseProtocolError, "new message begins before the last one has ended [RFC 6455, 5.4]"}
	errControlFragment  = &Error{BadControlFrame, 0, CloseProtocolError, "control frame is fragmented [RFC 6455, 5.5]"}
	errControlTooLong   = &Error{BadControlFrame, 0, CloseProtocolError, "control frame has more than 125 bytes [RFC 6455, 5.5]"}
	errCloseTooShort    = &Error{BadControlFrame, 0, CloseProtocolError, "close frame has half a status code [RFC 6455, 5.5.1]"}
	errCloseCode        = &Error{BadControlFrame, 0, CloseProtocolError, "close frame has a status code that may not be sent [RFC 6455, 7.4]"}
	errCloseReason      = &Error{BadControlFrame, 0, CloseInvalidPayload, "reason of a close frame isn't UTF-8 [RFC 6455, 5.5.1]"}
	errNotMinimal       = &Error{BadLength, 0, CloseProtocolError, "payload length isn't in its shortest form [RFC 6455, 5.2]"}
	errLength           = &Error{BadLength, 0, CloseProtocolError, "payload length has its highest bit set [RFC 6455, 5.2]"}
	errFrameTooLarge    = &Error{FrameTooLarge, 0, CloseMessageTooBig, "frame is too large"}
	errText             = &Error{TextFrame, 0, CloseUnsupportedData, "text frame: MQTT is sent in binary frames [MQTT-6.0.0-1]"}
)

// Errors of a handshake that come from where its bytes are collected.
var (
	// ErrHandshakeTimeout means that the request didn't come in time.
	ErrHandshakeTimeout = &Error{HandshakeTimeout, 408, 0, "no request within the time allowed"}
	// ErrHandshakesBusy means that parts of too many requests wait for the rest.
	ErrHandshakesBusy = &Error{HandshakesBusy, 503, 0, "too many requests that are incomplete"}
)
