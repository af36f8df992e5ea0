package webhooks

import "errors"

// ErrSecret means that a text is no secret of Standard Webhooks. What it says is left out, so that it isn't shown.
var ErrSecret = errors.New("is no secret: allowed: whsec_ and the base64 of 24 to 64 bytes")
