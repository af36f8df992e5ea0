//go:build !race && (amd64 || arm64)

package metrics

// Counter counts events of one event loop. The loop is its only writer, any
// goroutine may read it, and it costs as much as an integer in a struct. The
// zero value is ready. A Counter must not be copied once it is in use.
//
// Only one goroutine writes, so nothing has to be read and written in one
// step. What is left for an atomic type to do is to keep a reader from seeing
// half a value, and that the Go memory model promises for a word anyway: such a
// read sees a value that was written. atomic.Uint64.Store, on the other hand,
// is an XCHG on amd64, which waits for all earlier writes of the core: it was
// measured to cost as much as atomic.Uint64.Add, three to four times this
// increment, several times for each message. Builds with the race detector,
// which rightly can't tell this race from others, and processors that write 64
// bits in two halves have an atomic Counter, see counter_atomic.go.
type Counter struct{ n uint64 }

// Inc adds 1. Only the loop that owns c may call it.
func (c *Counter) Inc() { c.n++ }

// Add adds n. Only the loop that owns c may call it.
func (c *Counter) Add(n uint64) { c.n += n }

// Load returns the value, which may lag a moment behind. Any goroutine may call it.
func (c *Counter) Load() uint64 { return c.n }
