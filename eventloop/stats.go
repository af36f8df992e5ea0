package eventloop

import (
	"sync/atomic"
	"time"

	"loopmq/metrics"
)

// counters of one loop. The loop is the only one who changes them often, so they are never contended.
type counters struct {
	_               [64]byte // keeps them off the cache lines that other goroutines write to
	conns           atomic.Int64
	reads           atomic.Uint64
	writes          atomic.Uint64
	bytesIn         atomic.Uint64
	bytesOut        atomic.Uint64
	turns           atomic.Uint64
	outputOverflows atomic.Uint64
	inputOverflows  atomic.Uint64
	badFrames       [metrics.NumFrameReasons]atomic.Uint64
	lag             atomic.Int64
}

// acceptCounters are changed once per connection.
type acceptCounters struct {
	accepted  atomic.Uint64
	pauses    atomic.Uint64
	pausedNow atomic.Int64
	delays    atomic.Uint64
	refused   [metrics.NumRefuseReasons]atomic.Uint64
}

// Stats are counters of an engine and its loops since New. Each is exact; together they are not one moment.
type Stats struct {
	Connections     int64  // open now, including those that are closing
	Accepted        uint64 // connections taken from listeners
	AcceptPauses    uint64 // times that accepting paused for want of files or memory
	AcceptDelays    uint64 // times that a listener waited, for the rate at which it may accept
	AcceptPaused    int64  // listeners that are pausing now
	OutputOverflows uint64 // connections closed with ErrOutputOverflow
	InputOverflows  uint64 // connections closed with ErrInputOverflow

	// Refused are connections that the Handler never heard of, by metrics.RefuseReason.
	Refused [metrics.NumRefuseReasons]uint64

	TLSHandshakes         uint64 // completed
	TLSHandshakesUnderWay int    // that wait for their turn, or for their peer, or compute

	// BadFrames are connections closed for a frame of WebSocket, by metrics.FrameReason.
	BadFrames [metrics.NumFrameReasons]uint64

	Reads    uint64 // read system calls that yielded bytes
	Writes   uint64 // write system calls
	BytesIn  uint64
	BytesOut uint64

	Loops []LoopStats // by Loop.Index
}

// LoopStats are the counters of one loop.
type LoopStats struct {
	Connections int64
	Turns       uint64
	BytesIn     uint64
	BytesOut    uint64

	// Lag is how long the loop took to answer when it was last asked, once a second, or how long it has kept the
	// question waiting, whichever is more.
	Lag time.Duration
}

// Stats reads the counters.
func (e *Engine) Stats() Stats {
	s := Stats{
		Connections:  e.gate.open.Load(),
		Accepted:     e.accepts.accepted.Load(),
		AcceptPauses: e.accepts.pauses.Load(),
		AcceptDelays: e.accepts.delays.Load(),
		AcceptPaused: e.accepts.pausedNow.Load(),
		Loops:        make([]LoopStats, len(e.loops)),
	}
	s.TLSHandshakes, s.TLSHandshakesUnderWay = e.handshakes.completed.Load(), e.handshakes.underWay()
	for i := range s.Refused {
		s.Refused[i] = e.accepts.refused[i].Load()
	}
	now := e.nanotime()
	for i, l := range e.loops {
		c := &l.counters
		ls := &s.Loops[i]
		*ls = LoopStats{
			Connections: c.conns.Load(),
			Turns:       c.turns.Load(),
			BytesIn:     c.bytesIn.Load(),
			BytesOut:    c.bytesOut.Load(),
			Lag:         time.Duration(c.lag.Load()),
		}
		if asked := l.probe.Load(); asked != 0 {
			ls.Lag = max(ls.Lag, time.Duration(now-asked))
		}
		s.BytesIn += ls.BytesIn
		s.BytesOut += ls.BytesOut
		s.Reads += c.reads.Load()
		s.Writes += c.writes.Load()
		s.OutputOverflows += c.outputOverflows.Load()
		s.InputOverflows += c.inputOverflows.Load()
		for i := range s.BadFrames {
			s.BadFrames[i] += c.badFrames[i].Load()
		}
	}
	return s
}
