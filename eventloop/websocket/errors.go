package websocket

import "loopmq/metrics"

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

// Error is what is wrong with a frame.
type Error struct {
	// Reason is what it is counted as.
	Reason metrics.FrameReason
	// Code is that of the Close frame which answers it.
	Code uint16
	text string
}

// Error returns one sentence.
func (e *Error) Error() string { return "websocket: " + e.text }

// What can be wrong with a frame, see Decoder.Decode.
var (
	errNotMasked        = &Error{metrics.FrameNotMasked, CloseProtocolError, "frame of a client isn't masked [RFC 6455, 5.1]"}
	errReservedBits     = &Error{metrics.FrameReservedBits, CloseProtocolError, "reserved bit is set without an extension [RFC 6455, 5.2]"}
	errUnknownOpcode    = &Error{metrics.FrameOpcode, CloseProtocolError, "opcode is unknown [RFC 6455, 5.2]"}
	errNothingContinues = &Error{metrics.FrameFragments, CloseProtocolError, "continuation frame without a message to continue [RFC 6455, 5.4]"}
	errInterleaved      = &Error{metrics.FrameFragments, CloseProtocolError, "new message begins before the last one has ended [RFC 6455, 5.4]"}
	errControlFragment  = &Error{metrics.FrameControl, CloseProtocolError, "control frame is fragmented [RFC 6455, 5.5]"}
	errControlTooLong   = &Error{metrics.FrameControl, CloseProtocolError, "control frame has more than 125 bytes [RFC 6455, 5.5]"}
	errCloseTooShort    = &Error{metrics.FrameControl, CloseProtocolError, "Close frame has half a status code [RFC 6455, 5.5.1]"}
	errCloseCode        = &Error{metrics.FrameControl, CloseProtocolError, "Close frame has a status code that may not be sent [RFC 6455, 7.4]"}
	errCloseReason      = &Error{metrics.FrameControl, CloseInvalidPayload, "reason of a Close frame isn't UTF-8 [RFC 6455, 5.5.1]"}
	errNotMinimal       = &Error{metrics.FrameLength, CloseProtocolError, "payload length isn't in its shortest form [RFC 6455, 5.2]"}
	errLength           = &Error{metrics.FrameLength, CloseProtocolError, "payload length has its highest bit set [RFC 6455, 5.2]"}
	errFrameTooLarge    = &Error{metrics.FrameTooLarge, CloseMessageTooBig, "frame is too large"}
	errText             = &Error{metrics.FrameText, CloseUnsupportedData, "text frame: MQTT is sent in binary frames [MQTT-6.0.0-1]"}
)

// RefusedError is why a handshake is refused.
type RefusedError struct {
	// Reason is what it is counted as.
	Reason metrics.RefuseReason
	// Status is the HTTP status of the answer.
	Status int
	text   string
}

// Error returns one sentence.
func (e *RefusedError) Error() string { return "websocket: " + e.text }

// Errors of collecting a request.
var (
	// ErrRequestTooLarge means that the header of the request is above MaxRequest.
	ErrRequestTooLarge = &RefusedError{metrics.RefuseWebSocketTooLarge, 431, "header of the request is too large"}
	// ErrTimeout means that no whole request came in time.
	ErrTimeout = &RefusedError{metrics.RefuseWebSocketTimeout, 408, "no request within the time allowed"}
	// ErrBusy means that too much is kept of requests that are incomplete.
	ErrBusy = &RefusedError{metrics.RefuseWebSocketBusy, 503, "too many requests are incomplete"}
	// ErrNotHTTP means that what came isn't the beginning of a request.
	ErrNotHTTP = &RefusedError{metrics.RefuseWebSocketRequest, 400, "request isn't HTTP"}
)
