package eventloop

import "errors"

// Errors given to Handler.OnClose.
var (
	// ErrOutputOverflow means that more output was written than Config.MaxOutputBytes allows and the peer did not read.
	ErrOutputOverflow = errors.New("eventloop: output buffer is full")

	// ErrInputOverflow means that a paused connection sent more than may be kept for it. It occurs only where the
	// poller can't stop reading (not on Linux).
	ErrInputOverflow = errors.New("eventloop: too much input while paused")

	// ErrTLS means that the peer broke the rules of TLS, or said by an alert that we did. It wraps what crypto/tls says.
	ErrTLS = errors.New("eventloop: TLS")

	// ErrStopped means that Engine.Stop closed the connection.
	ErrStopped = errors.New("eventloop: engine stopped")
)

// Errors returned by the Engine.
var (
	errNoHandler = errors.New("eventloop: Config.Handler is nil")
	errStarted   = errors.New("eventloop: engine was started before")
)
