package eventloop

import "sync/atomic"

const (
	tableChunk = 1024

	// maxFiles bounds the number that a connection's file may have, and with it the table.
	maxFiles = 4096 * tableChunk
)

// connTable finds the connection of a file, for all loops of an engine: 8 bytes per connection. An entry is written by
// the loop that owns the file; that another loop reads it is possible (file numbers are reused), so entries are atomic.
type connTable struct {
	chunks [maxFiles / tableChunk]atomic.Pointer[[tableChunk]atomic.Pointer[Conn]]
}

func (t *connTable) load(fd int) *Conn {
	chunk := t.chunks[fd/tableChunk].Load()
	if chunk == nil {
		return nil
	}
	return chunk[fd%tableChunk].Load()
}

func (t *connTable) store(fd int, c *Conn) {
	chunk := &t.chunks[fd/tableChunk]
	if chunk.Load() == nil {
		chunk.CompareAndSwap(nil, new([tableChunk]atomic.Pointer[Conn]))
	}
	chunk.Load()[fd%tableChunk].Store(c)
}

// each calls f for the connections of one loop. It runs on that loop, and f may remove the connection it gets.
func (t *connTable) each(l *Loop, f func(*Conn)) {
	for i := range t.chunks {
		chunk := t.chunks[i].Load()
		if chunk == nil {
			continue
		}
		for j := range chunk {
			if c := chunk[j].Load(); c != nil && c.loop == l {
				f(c)
			}
		}
	}
}
