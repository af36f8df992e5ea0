package loopmq

import (
	"context"
	"errors"
	"math"
	"slices"

	"loopmq/store"
)

// redistribute gives what a durable session that goes offline has of shared
// subscriptions back to their groups: QoS 1 that is not acknowledged, and QoS 2
// that was not sent [MQTT-4.8.2-4, MQTT-4.8.2-5]. What follows the end of the
// connection waits for it, see afterLeaving.
//
// Where connections elsewhere may have sent QoS 2, these are among the first window
// such entries: one that was sent is in the queue until its PUBREC has come, and
// Receive Maximum bounds those.
//
// It begins when all that any loop has chosen s for is in its queue. Nobody chooses
// it any more: it has no client.
func (l *loop) redistribute(s *Session, epoch uint64, window int) {
	if waiting, already := l.leaving[s]; already {
		l.leaving[s] = append(waiting, func(bool) { l.redistribute(s, epoch, window) })
		return
	}
	if l.leaving == nil {
		l.leaving = make(map[*Session][]func(done bool))
	}
	l.leaving[s] = nil
	l.afterCommits(func() { l.redistributePage(s, epoch, window, store.Number{}) })
}

// allOfThem is a window of a size that isn't known.
const allOfThem = math.MaxInt

// redistributePage goes on behind a number. window is what is left of it there.
func (l *loop) redistributePage(s *Session, epoch uint64, window int, after store.Number) {
	b, id := l.b, store.QueueOf(s.id)
	b.workers.doOr(func() {
		entries, err := b.store.Messages().Read(context.Background(), id, after, readEntries, readBytes)
		l.el.Post(func() {
			again := func() {
				if b.shuttingDown.Load() || b.rejoining.Load() {
					l.left(s, false)
					return
				}
				l.repeat(func() { l.redistributePage(s, epoch, window, after) })
			}
			switch {
			case err != nil && !errors.Is(err, store.ErrGone):
				again()
				return
			case len(entries) == 0:
				l.left(s, true)
				return
			}
			failed, left := false, window
			var unsent []store.Entry
			lastSent, _ := s.sent()
			entries, last := entries, entries[len(entries)-1].Number
			entries = slices.DeleteFunc(entries, func(e store.Entry) bool {
				if e.QoS < 2 {
					return false
				}
				left--
				if left >= 0 || !lastSent.Less(e.Number) {
					return false
				}
				unsent = append(unsent, e)
				return true
			})
			l.backToGroups(s, epoch, entries, false, func() { failed = true })
			l.backToGroups(s, epoch, unsent, true, func() { failed = true })
			l.commits.after(func() {
				if failed {
					again()
					return
				}
				l.redistributePage(s, epoch, max(0, left), last)
			})
		})
	}, func() { // the broker stops
		l.el.Post(func() { l.left(s, false) })
	})
}

// left ends redistribute. done: nothing is left that is to go back.
func (l *loop) left(s *Session, done bool) {
	waiting := l.leaving[s]
	delete(l.leaving, s)
	for _, f := range waiting {
		f(done)
	}
	l.checkDrained()
}

// afterLeaving calls f when nothing of s goes back to groups any more, with whether
// all of it has; at once if nothing does.
func (l *loop) afterLeaving(s *Session, f func(done bool)) {
	if waiting, ok := l.leaving[s]; ok {
		l.leaving[s] = append(waiting, f)
		return
	}
	f(true)
}

// handBack is for an entry that came into the queue of a member which had gone
// offline at another instance: that one has handed back what was there before. epoch
// is that of the connection which had left: a later one may have sent the entry, and
// the store refuses it then.
func (l *loop) handBack(s *Session, e *store.Entry, epoch uint64) {
	l.backToGroups(s, epoch, []store.Entry{*e}, true, func() {
		l.repeat(func() { l.handBack(s, e, epoch) })
	})
}

// backToGroups moves those of a session's entries to the queues of their groups
// that belong there, and on from there, and returns how many it tries to. unsent:
// nobody can have sent them. failed is called for each of them for which the store
// failed.
func (l *loop) backToGroups(s *Session, epoch uint64, entries []store.Entry, unsent bool, failed func()) (begun int) {
	lastSent, known := s.sent()
	regained := ""
	for i := range entries {
		e := &entries[i]
		sent := !unsent && !lastSent.Less(e.Number)
		if e.ShareName == "" || e.QoS == 2 && !unsent && (sent || !known) {
			continue
		}
		f := sharedFilter(e.ShareName, e.TopicFilter)
		if !l.b.groups.reserve(f, e.Message.Size(), &l.b.opts.Limits) {
			continue
		}
		begun++
		op := store.Op{
			Kind: store.OpMove, Session: s.id, Epoch: epoch, From: store.QueueOf(s.id), Numbers: []store.Number{e.Number},
			Targets: []store.Target{{
				Queue: store.GroupQueue(e.ShareName, e.TopicFilter), QoS: 2, Retain: true, ShareName: e.ShareName, TopicFilter: e.TopicFilter,
			}},
		}
		l.commits.add(op, func(op *store.Op, err error) {
			switch {
			case err != nil:
				l.b.groups.release(f, e.Message.Size())
				if regained != f {
					regained = f
					l.regain(f)
				}
				failed()
			case len(op.Targets[0].Moved) == 0: // acknowledged, or there already
				l.b.groups.release(f, e.Message.Size())
			default:
				if !sent {
					l.m.QueueDelivered[e.QoS].Inc()
				}
				qos := op.Targets[0].Moved[0].QoS
				l.m.MessagesMatched[qos].Inc()
				l.m.MessagesQueued[qos].Inc()
				l.groupHas(e)
			}
		})
	}
	return begun
}

// regain looks after a while what a group's queue holds, into which a commit that
// failed may have put something.
func (l *loop) regain(topicFilter string) {
	b := l.b
	l.repeat(func() {
		b.workers.do(func() {
			_, err := b.groups.restore(context.Background(), b.store, topicFilter)
			l.el.Post(func() {
				if err != nil {
					l.regain(topicFilter)
					return
				}
				l.drainGroup(topicFilter)
			})
		})
	})
}

// groupHas is called when e is in the queue of its group. A member that has come
// since it was decided to put it there gets it.
func (l *loop) groupHas(e *store.Entry) {
	if d, ok := l.memberFor(e); !ok || d.session != nil {
		l.drainGroup(sharedFilter(e.ShareName, e.TopicFilter))
	}
}
