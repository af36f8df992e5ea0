package httpbridge

import "sync"

// keysInUse are the Idempotency-Keys of requests under way.
type keysInUse struct{ all sync.Map }
