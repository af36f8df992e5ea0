//go:build race || !(amd64 || arm64)

package metrics

import "sync/atomic"

// Counter counts events of one event loop. The loop is its only writer, any
// goroutine may read it. The zero value is ready. A Counter must not be copied
// once it is in use. counter_plain.go says why there are two of them.
type Counter struct{ n atomic.Uint64 }

// Inc adds 1. Only the loop that owns c may call it.
func (c *Counter) Inc() { c.Add(1) }

// Add adds n. Only the loop that owns c may call it.
//
// It isn't atomic.Uint64.Add, so that a second writer loses counts here as it
// would in the plain Counter, and a test can notice.
func (c *Counter) Add(n uint64) { c.n.Store(c.n.Load() + n) }

// Load returns the value, which may lag a moment behind. Any goroutine may call it.
func (c *Counter) Load() uint64 { return c.n.Load() }
