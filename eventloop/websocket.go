package eventloop

import (
	"bytes"
	"errors"

	"loopmq/eventloop/websocket"
)

// maxRequests bounds what a loop keeps of requests that are incomplete, in bytes. A request that comes in one piece, as
// nearly all do, is never kept.
const maxRequests = 2 << 20

// WebSocket makes a listener one for WebSocket (RFC 6455): the Handler reads and writes what is inside binary frames, as
// one stream in each direction.
type WebSocket struct {
	// Handshake answers the requests that open connections. Required.
	Handshake *websocket.Handshake

	// MaxFrame is the largest payload of a frame, in bytes; what exceeds it is answered with 1009. 0 means no limit. No
	// frame is ever kept, so the limit is to tell a client that has gone wrong, and saves no memory.
	MaxFrame int

	// CloseCode returns the status code of the Close frame for a connection that Conn.Close ends with err, which may be
	// nil. nil means 1000 without an error, 1001 for ErrStopped and else 1011.
	CloseCode func(err error) uint16
}

// webSocket is the layer of WebSocket. The handshake is made here, on the loop: it is a few microseconds of work on
// bytes that are there, so a goroutine and net/http's server, with the memory that they take, would only be in the way.
type webSocket struct {
	links
	decoder websocket.Decoder
	request []byte // the beginning of a request
	timer   *Timer // until the request is there
	opened  bool   // the handshake is made
	ended   bool   // a Close frame was sent, behind which nothing may follow
}

func newWebSocket(o *WebSocket) *webSocket {
	w := new(webSocket)
	w.decoder.MaxFrame = uint64(o.MaxFrame)
	return w
}

func (w *webSocket) start(c *Conn) {
	w.timer = new(Timer)
	w.timer.Init(TimerFunc(func(*Timer) { w.refuse(c, websocket.ErrTimeout) }))
	c.loop.Schedule(w.timer, c.handshakeTimeout())
}

func (w *webSocket) input(c *Conn, in []byte) {
	if !w.opened && len(in) > 0 {
		if in = w.handshake(c, in); len(in) == 0 {
			return
		}
	}
	data, reply, err := w.decoder.Decode(in, c.loop.reply[:0])
	c.loop.reply = reply
	if err == nil {
		if len(reply) > 0 {
			_ = w.down(c, reply)
		}
		w.up(c, data)
		return
	}
	reply = bytes.Clone(reply) // as what follows may need the loop's
	w.up(c, data)
	_ = c.encode() // what the Handler answers comes before the Close frame
	if !w.ended {
		_ = w.down(c, reply)
		w.ended = true
	}
	var e *websocket.Error
	if errors.As(err, &e) {
		c.loop.counters.badFrames[e.Reason].Add(1)
		c.Close(err)
		return
	}
	c.state |= inputEnded // so it is for us to close the socket [RFC 6455, 7.1.1]
	c.Close(nil)
}

// handshake collects the request, and answers it. It returns what came behind it, nothing before that.
func (w *webSocket) handshake(c *Conn, in []byte) (rest []byte) {
	head, kept := in, len(w.request)
	if kept > 0 {
		head = append(w.request, in...)
	}
	size := websocket.End(head[:min(len(head), websocket.MaxRequest)])
	switch {
	case head[0] < 'A' || head[0] > 'Z': // such as an MQTT packet: no method, so there is no need to wait for the rest
		w.refuse(c, websocket.ErrNotHTTP)
	case size == 0 && len(head) >= websocket.MaxRequest:
		w.refuse(c, websocket.ErrRequestTooLarge)
	case size == 0 && c.loop.requests+len(in) > maxRequests:
		w.refuse(c, websocket.ErrBusy)
	case size == 0:
		w.request = append(w.request, in...)
		c.loop.requests += len(in)
	default:
		w.answer(c, head[:size])
		if w.opened && c.state&closing == 0 {
			return in[size-kept:]
		}
	}
	return nil
}

func (w *webSocket) answer(c *Conn, head []byte) {
	r, err := c.listener.spec.WebSocket.Handshake.Answer(head, c.remote)
	if err != nil {
		w.refuse(c, err)
		return
	}
	w.forget(c)
	if err := w.down(c, r.Response); err != nil {
		return
	}
	if r.Client.IsValid() {
		c.setRemote(r.Client)
	}
	w.opened = true
	w.ready(c)
}

func (w *webSocket) refuse(c *Conn, err error) {
	var e *websocket.RefusedError
	if !errors.As(err, &e) || c.state&closing != 0 {
		return
	}
	_ = w.down(c, e.Response())
	c.refuse(e.Reason, err)
}

// forget lets go of what only the handshake needs.
func (w *webSocket) forget(c *Conn) {
	if w.timer != nil {
		w.timer.Stop()
	}
	c.loop.requests -= len(w.request)
	w.timer, w.request = nil, nil
}

func (w *webSocket) output(c *Conn, p []byte) error {
	if w.ended {
		return nil
	}
	l := c.loop
	l.frame = append(websocket.AppendHeader(l.frame[:0], len(p)), p...)
	err := w.down(c, l.frame)
	if cap(l.frame) > keepBuffer {
		l.frame = nil
	}
	return err
}

func (w *webSocket) goodbye(c *Conn, err error) {
	if w.opened && !w.ended {
		w.ended = true
		_ = w.down(c, websocket.AppendClose(nil, c.listener.spec.WebSocket.closeCode(err)))
	}
}

func (w *webSocket) stop(c *Conn) { w.forget(c) }

func (o *WebSocket) closeCode(err error) uint16 {
	switch {
	case o.CloseCode != nil:
		return o.CloseCode(err)
	case err == nil:
		return websocket.CloseNormal
	case errors.Is(err, ErrStopped):
		return websocket.CloseGoingAway
	}
	return websocket.CloseInternalError
}
