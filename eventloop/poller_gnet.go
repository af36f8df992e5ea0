//go:build !linux || gnetpoller

package eventloop

import (
	"errors"

	gneterrors "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"github.com/panjf2000/gnet/v2/pkg/queue"
)

// poller is gnet's, for the Unixes that have no epoll. The tag gnetpoller takes it on Linux too, which serves to test
// it. It has no end of a batch; a turn is one of its tasks, which it runs behind the events that were ready together.
type poller struct {
	gnet *netpoll.Poller
	turn queue.Func // made once, so that a wake doesn't allocate it; set by run
	l    *Loop
}

func openPoller() (*poller, error) {
	p := new(poller)
	p.turn = func(any) error { return p.runTurn() }
	var err error
	p.gnet, err = netpoll.OpenPoller()
	return p, err
}

func (p *poller) close() { _ = p.gnet.Close() }

// wake makes sure that a turn comes. It is safe for any goroutine.
func (p *poller) wake() error { return p.gnet.Trigger(queue.HighPriority, p.turn, nil) }

// watchAccepts registers a listening socket, edge-triggered: while accepting is paused, waiting connections make no
// events.
func (p *poller) watchAccepts(fd int) error {
	return p.gnet.AddRead(&netpoll.PollAttachment{FD: fd}, true)
}

// watch changes what is reported of a socket from have to want, of watchesRead and watchesWrite. gnet's poller has no
// call to change that to 'write' or to nothing, so such a socket is taken out and added again.
func (p *poller) watch(fd int, have, want uint16) error {
	a := &netpoll.PollAttachment{FD: fd}
	switch {
	case have == watchesRead && want == watchesRead|watchesWrite:
		return p.gnet.ModReadWrite(a, false)
	case have == watchesRead|watchesWrite && want == watchesRead:
		return p.gnet.ModRead(a, false)
	}
	if have != 0 {
		if err := p.gnet.Delete(fd); err != nil {
			return err
		}
	}
	switch want {
	case watchesRead:
		return p.gnet.AddRead(a, false)
	case watchesWrite:
		return p.gnet.AddWrite(a, false)
	case watchesRead | watchesWrite:
		return p.gnet.AddReadWrite(a, false)
	}
	return nil
}

// run hands the loop its events and its turns, until a turn says that it was the last.
func (p *poller) run(l *Loop) error {
	p.l = l
	err := p.gnet.Polling(func(fd int, event netpoll.IOEvent, flags netpoll.IOFlags) error {
		l.wake()
		failed := netpoll.IsErrorEvent(event, flags)
		l.onEvent(fd, failed || netpoll.IsReadEvent(event), failed || netpoll.IsWriteEvent(event))
		return nil
	})
	if errors.Is(err, gneterrors.ErrEngineShutdown) {
		return nil
	}
	return err
}

// runTurn is the task. If the turn left something to do, another goroutine asks for the next one: a task that is added
// here would run before the poller looks for events, and a loop that always has work would never read.
func (p *poller) runTurn() error {
	l := p.l
	if !l.turn() {
		return gneterrors.ErrEngineShutdown
	}
	if !l.fallAsleep() {
		l.waking.Add(1)
		go func() {
			l.trigger()
			l.waking.Add(-1)
		}()
	}
	return nil
}
