package eventloop

import "runtime"

// pollerCanPause says whether the poller can stop reporting input. gnet's kqueue poller can't: there a paused
// connection is still read, and what it sends is stashed. A variable, so that tests can have it both ways.
var pollerCanPause = runtime.GOOS == "linux"

// canPause says whether the loop can stop the input of a connection.
func (l *Loop) canPause() bool { return pollerCanPause || l.engine.netpoll != nil }

// stashLimit is how many bytes are kept for a paused connection where the poller can't pause.
const stashLimit = 256 << 10

// stash is the input that came while a connection was paused.
type stash struct {
	data  []byte
	ended bool
}

func (l *Loop) stashOf(c *Conn) *stash {
	s := l.stashes[c]
	if s == nil {
		s = new(stash)
		l.stashes[c] = s
	}
	return s
}

func (l *Loop) stash(c *Conn, in []byte) {
	s := l.stashOf(c)
	if len(s.data)+len(in) > stashLimit {
		l.counters.inputOverflows.Add(1)
		l.fail(c, ErrInputOverflow)
		return
	}
	s.data = append(s.data, in...)
}

func (l *Loop) stashEnd(c *Conn) { l.stashOf(c).ended = true }

// unstash delivers what was stashed, at the end of the turn and before any input that comes later, unless the
// connection is paused again by then.
func (l *Loop) unstash(c *Conn) {
	if l.stashes[c] == nil {
		return
	}
	l.AtTurnEnd(func() {
		s := l.stashes[c]
		if s == nil || c.state&(paused|closing) != 0 {
			return
		}
		delete(l.stashes, c)
		if len(s.data) > 0 || c.stack != nil { // a layer may hold some too
			l.input(c, s.data)
		}
		if s.ended {
			l.endOfInput(c)
		}
	})
}
