package webhooks

import "errors"

// Errors of options.
var (
	// ErrSecret means that a text is no secret of Standard Webhooks. What it says is left out, so that it isn't shown.
	ErrSecret = errors.New("is no secret: allowed: whsec_ and the base64 of 24 to 64 bytes")
)

// Errors of delivery.
var (
	// ErrRecord means that what an outbox holds can't be read: another version wrote it, or it has been damaged. To try
	// again doesn't help, but others of its batch may be fine.
	ErrRecord = errors.New("the event's record can't be read")

	// ErrReply means that an answer can't be published to the client that waits for it.
	ErrReply = errors.New("the reply is refused")
)
