package opcuaserver

import (
	"net"
	"net/rpc"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// StartHere is Start with the child's part in this process, so that tests see what it does.
func (s *Server) StartHere() (net.Addr, *Here, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	s.all.Go(s.subscribe)
	mine, its := net.Pipe()
	l := newLink(s.ctx, s)
	s.all.Go(func() { s.answer(mine, l) })
	child, err := newServer(*s.setup, rpc.NewClient(its))
	if err != nil {
		return nil, nil, err
	}
	s.all.Go(func() { _ = child.run(ln) })
	s.all.Go(func() {
		<-s.ctx.Done()
		_ = mine.Close()
		l.closeAll()
	})
	return ln.Addr(), &Here{child}, nil
}

// Here is a child in this process.
type Here struct{ s *server }

// Recheck has sessions look again at what their users may do, as after 10 s.
func (h *Here) Recheck() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	for _, ss := range h.s.mu.sessions {
		ss.checked = time.Time{}
	}
	h.s.wake()
}

// Left is what a child has that clients could leave behind.
func (h *Here) Left() (sessions, subscriptions, items, queued, channels int) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	return len(h.s.mu.sessions), h.s.mu.subscriptions, h.s.mu.items, h.s.mu.queued, len(h.s.mu.channels)
}

// Resent is how many bytes Republish would find.
func (h *Here) Resent() int {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	return h.s.mu.resent
}

// PID is the process of a Server that was started; 0: there is none now.
func (s *Server) PID() int { return int(s.pid.Load()) }

// LimitMemory is limitMemory.
var LimitMemory = limitMemory

// EndSilent has a child that is silent, or stuck, for so long ended. It is called before Start.
func (s *Server) EndSilent(silent, stuck time.Duration) { s.silence, s.stuck = silent, stuck }

// turning is a request that nobody comes to the end of.
type turning struct{ ua.FindServersRequest }

// Decode goes on and on.
func (*turning) Decode([]byte) (int, error) {
	for n := 0; ; n++ {
		turns.Store(uint64(n))
	}
}

var turns atomic.Uint64

// TurnRound has this process, a child, turn round and round for each FindServersRequest.
func TurnRound() {
	requests[id.FindServersRequest_Encoding_DefaultBinary] = reflect.TypeFor[turning]()
}
