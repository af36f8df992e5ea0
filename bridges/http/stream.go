package httpbridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// StreamOptions bound the streams of server-sent events. The zero value of a field means
// its default.
type StreamOptions struct {
	// Max is how many may be open, PerUser and PerAddress how many of one user, or from one
	// address. Default 8000, 100 and 1000.
	Max, PerUser, PerAddress int
	// Window is how many events of a named session may be unacknowledged. At three quarters
	// of it a stream ends, so that the client comes back and thereby acknowledges. Default
	// 1024, at most 65,535.
	Window int
	// BufferBytes bounds what waits for a client that reads slowly, beyond what the kernel
	// takes: QoS 0 messages are dropped then, others wait in the session. Default 256 KiB.
	BufferBytes int
	// WriteTimeout is how long a client may take to read something, or the stream ends.
	// Default 30 s.
	WriteTimeout time.Duration
	// Heartbeat is how often a comment is sent if there is nothing else. Default 15 s.
	Heartbeat time.Duration
	// Retry is how long a client is told to wait before it comes back. Default 2 s.
	Retry time.Duration
}

func (o *StreamOptions) setDefaults() {
	o.Max = cmp.Or(o.Max, 8000)
	o.PerUser = cmp.Or(o.PerUser, 100)
	o.PerAddress = cmp.Or(o.PerAddress, 1000)
	o.Window = min(cmp.Or(o.Window, 1024), math.MaxUint16)
	o.BufferBytes = cmp.Or(o.BufferBytes, 256<<10)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 30*time.Second)
	o.Heartbeat = cmp.Or(o.Heartbeat, 15*time.Second)
	o.Retry = cmp.Or(o.Retry, 2*time.Second)
}

// prepareStreams makes what streams and replies need.
func (b *Bridge) prepareStreams() {
	b.streams.open, b.replies.awaited = b.metrics.HTTPStreams, b.metrics.RepliesAwaited
	b.streams.byUser, b.streams.byAddr = make(map[string]int), make(map[netip.Addr]int)
	b.replies.topic = b.opts.Replies.TopicPrefix + "/" + rand.Text()
	b.replies.waiting = make(map[correlation]chan<- *loopmq.Message)
	b.stopping = make(chan struct{})
	b.server.RegisterOnShutdown(sync.OnceFunc(b.endStreams))
}

// endStreams is called once, when the Bridge is shut down.
func (b *Bridge) endStreams() {
	close(b.stopping)
	b.replies.mu.Lock()
	defer b.replies.mu.Unlock()
	if b.replies.subscribed != nil {
		b.replies.subscribed()
	}
}

// stream is an answer to GET /subscribe: an MQTT client whose messages are written as
// events. What the client's event loop gives it waits in queue, which is bounded by
// its bytes; the goroutine of the request writes it.
type stream struct {
	b       *Bridge
	name    string // of its session; empty: it ends with the stream
	format  eventFormat
	window  int // of unacknowledged events after which the response ends
	client  *loopmq.LocalClient
	changed chan struct{} // there is something in mu

	mu struct {
		sync.Mutex
		queue   []event
		bytes   int
		refused bool  // a message had no room
		full    bool  // messages wait for acknowledgements
		over    error // why the client was disconnected
		// unacknowledged are the events of a named session that were written, in their order.
		unacknowledged []loopmq.DeliveryID
	}
}

// streamBatch is how many bytes of events are written at a time.
const streamBatch = 32 << 10

// batches are buffers for events: an idle stream has none.
var batches = sync.Pool{New: func() any { return new([]byte) }}

func (s *stream) handler() loopmq.LocalHandler {
	return loopmq.LocalHandler{OnMessage: s.onMessage, OnWindowFull: s.onWindowFull, OnAcknowledge: s.acknowledge, OnClosed: s.onClosed}
}

// onMessage is called on an event loop.
func (s *stream) onMessage(m *loopmq.MessageView, id loopmq.DeliveryID, dup bool) bool {
	e := event{m, id, dup}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.bytes > 0 && s.mu.bytes+e.size() > s.b.opts.Streams.BufferBytes {
		s.mu.refused = true
		return false
	}
	s.mu.queue = append(s.mu.queue, e)
	s.mu.bytes += e.size()
	s.wake()
	return true
}

// onWindowFull is called on an event loop.
func (s *stream) onWindowFull() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.full = true
	s.wake()
}

// onClosed is called on an event loop.
func (s *stream) onClosed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.over = err
	s.wake()
}

func (s *stream) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// take returns what waits, and whether the client is to be told that there is room.
func (s *stream) take() (queue []event, refused bool, over error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue, refused, over = s.mu.queue, s.mu.refused, s.mu.over
	s.mu.queue, s.mu.bytes, s.mu.refused = nil, 0, false
	return queue, refused, over
}

// serve writes events until the request, the client, or the window ends.
func (s *stream) serve(ctx context.Context, w http.ResponseWriter) metrics.StreamEnd {
	out := streamWriter{w: w, control: http.NewResponseController(w), timeout: s.b.opts.Streams.WriteTimeout}
	out.appendRetry(s.b.opts.Streams.Retry)
	if out.flush() != nil {
		return out.end()
	}
	heartbeat := time.NewTimer(s.b.opts.Streams.Heartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return metrics.StreamLeft
		case <-s.b.stopping:
			s.farewell(&out, codec.NewError(codec.ServerShuttingDown, "server is shutting down"))
			return metrics.StreamShutdown
		case <-heartbeat.C:
			out.begin()
			out.b = append(out.b, ":\n\n"...)
		case <-s.changed:
		}
		queue, refused, over := s.take()
		if !s.write(&out, queue) || out.flush() != nil {
			return out.end()
		}
		if refused {
			s.client.Ready()
		}
		switch {
		case over != nil:
			s.farewell(&out, over)
			return streamEndOf(over)
		case s.windowFull():
			// The client is to come back at once, and to say how far it got.
			out.appendRetry(windowRetry)
			_ = out.flush()
			return metrics.StreamWindow
		}
		heartbeat.Reset(s.b.opts.Streams.Heartbeat)
	}
}

// windowRetry is how long a client waits before it comes back to acknowledge.
const windowRetry = 10 * time.Millisecond

// write writes events. Those of a session that ends with the stream are acknowledged as
// they are written.
func (s *stream) write(out *streamWriter, queue []event) bool {
	if len(queue) == 0 {
		return true
	}
	now := s.client.Now()
	var last loopmq.DeliveryID
	written := func() bool {
		if out.flush() != nil {
			return false
		}
		if s.name == "" && !last.IsZero() {
			s.client.AcknowledgeUpTo(last)
		}
		return true
	}
	for i := range queue {
		e := &queue[i]
		if s.name != "" && !e.id.IsZero() {
			s.sent(e.id) // before it is written: its acknowledgement may be quick
		}
		out.begin()
		out.b = e.append(out.b, &s.format, now)
		if !e.id.IsZero() {
			last = e.id
		}
		if len(out.b) >= streamBatch && !written() {
			return false
		}
	}
	s.b.metrics.StreamEvents.AddInt64(int64(len(queue)))
	return written()
}

func (s *stream) sent(id loopmq.DeliveryID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.unacknowledged = append(s.mu.unacknowledged, id)
}

// windowFull reports whether the client is to acknowledge before more comes, or soon.
func (s *stream) windowFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, full := len(s.mu.unacknowledged), s.mu.full
	s.mu.full = false
	return s.name != "" && (n >= s.window || full && n > 0)
}

// acknowledge acknowledges an event and all before it. It does nothing unless that was
// written to this stream.
func (s *stream) acknowledge(id loopmq.DeliveryID) (known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.mu.unacknowledged, id)
	if i < 0 {
		return false
	}
	s.mu.unacknowledged = slices.Delete(s.mu.unacknowledged, 0, i+1)
	s.client.AcknowledgeUpTo(id)
	return true
}

// farewell says why the server ends a stream.
func (s *stream) farewell(out *streamWriter, err error) {
	f := faultOf(err)
	out.begin()
	out.b = strconv.AppendInt(append(out.b, "event: end\ndata: {\"reason_code\":"...), int64(f.code), 10)
	out.b = appendString(append(out.b, `,"reason":`...), []byte(f.detail))
	out.b = append(out.b, "}\n\n"...)
	_ = out.flush() // it is over anyway
}

// streamEndOf returns why a client was disconnected.
func streamEndOf(err error) metrics.StreamEnd {
	switch code := faultOf(err).code; code {
	case codec.SessionTakenOver:
		return metrics.StreamTakenOver
	case codec.NotAuthorized, codec.Banned:
		return metrics.StreamNotAuthorized
	case codec.AdministrativeAction:
		return metrics.StreamAdministrative
	case codec.ServerShuttingDown, codec.UseAnotherServer:
		return metrics.StreamShutdown
	}
	return metrics.StreamFailed
}

// streamWriter writes to a client that may be slow. It has a buffer only while there is
// something to write.
type streamWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	buffer  *[]byte // of batches; nil: none
	b       []byte
	err     error
}

// begin makes b ready to be appended to.
func (w *streamWriter) begin() {
	if w.buffer == nil {
		w.buffer = batches.Get().(*[]byte)
		w.b = (*w.buffer)[:0]
	}
}

func (w *streamWriter) appendRetry(d time.Duration) {
	w.begin()
	w.b = append(strconv.AppendInt(append(w.b, "retry: "...), d.Milliseconds(), 10), "\n\n"...)
}

// flush writes what has collected.
func (w *streamWriter) flush() error {
	if len(w.b) == 0 || w.err != nil {
		return w.err
	}
	w.err = w.control.SetWriteDeadline(time.Now().Add(w.timeout))
	if w.err == nil {
		_, w.err = w.w.Write(w.b)
	}
	if w.err == nil {
		w.err = w.control.Flush()
	}
	if cap(w.b) <= 4*streamBatch {
		*w.buffer = w.b[:0]
		batches.Put(w.buffer)
	}
	w.buffer, w.b = nil, nil
	return w.err
}

// end says why writing failed.
func (w *streamWriter) end() metrics.StreamEnd {
	if errors.Is(w.err, os.ErrDeadlineExceeded) {
		return metrics.StreamSlow
	}
	return metrics.StreamLeft
}
