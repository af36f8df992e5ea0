package webhooks

import "errors"

// Errors of options.
var (
	// ErrSecret means that a text is no secret of Standard Webhooks. What it says is left out, so that it isn't shown.
	ErrSecret = errors.New("is no secret: allowed: whsec_ and the base64 of 24 to 64 bytes")

	// ErrEndpoint means that an option of an endpoint isn't allowed. The error's text names both.
	ErrEndpoint = errors.New("endpoint")
)

// Errors of operating.
var (
	// ErrNoEndpoint means that there is neither an endpoint nor an outbox with a name.
	ErrNoEndpoint = errors.New("there is no such endpoint")
	// ErrConfigured means that an endpoint is in use, so that its outbox can't be deleted.
	ErrConfigured = errors.New("the endpoint is in use")
	// ErrLetterID means that a text is not the ID of a dead letter.
	ErrLetterID = errors.New("not the id of a dead letter")
	// ErrNoLetter means that there is no dead letter with an ID.
	ErrNoLetter = errors.New("there is no such dead letter")
)

// Errors of delivery.
var (
	// ErrRecord means that what an outbox holds can't be read: another version wrote it, or it has been damaged. To try
	// again doesn't help, but others of its batch may be fine.
	ErrRecord = errors.New("the event's record can't be read")

	// ErrReply means that an answer can't be published to the client that waits for it.
	ErrReply = errors.New("the reply is refused")

	// errExpired is why an event is given up that was never tried.
	errExpired = errors.New("it was too old before it could be sent")
	// errNoVerdict tells a circuit breaker that a request says nothing about its receiver.
	errNoVerdict = errors.New("no verdict")
)
