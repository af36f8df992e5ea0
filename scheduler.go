package loopmq

import (
	"context"
	"time"

	"loopmq/store"
)

// scheduler does what is due without a packet: it publishes delayed Wills, ends
// sessions that have expired, and clears retained messages that have. What is due
// stands in the store, so it survives the node that put it there.
type scheduler struct {
	b      *Broker
	nudges chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	more   bool // the last round left something that is due
}

const (
	// schedulePage bounds what one round takes from the store.
	schedulePage = 1000
	// scheduleMax is the longest the scheduler sleeps: other nodes may have put
	// something into the store.
	scheduleMax = 10 * time.Second
	// scheduleMin is the shortest: what is due already, and was not done in the
	// round before, is tried again after retryInterval.
	scheduleMin = time.Millisecond
	// retainedSweep is how often expired retained messages are looked for.
	retainedSweep = 30 * time.Second
)

func newScheduler(b *Broker) *scheduler {
	s := &scheduler{b: b, nudges: make(chan struct{}, 1), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func (s *scheduler) start() { go s.run() }

// stop ends the scheduler and waits for it.
func (s *scheduler) stop() {
	s.cancel()
	<-s.done
}

// nudge tells the scheduler that something new may be due. It never blocks.
func (s *scheduler) nudge() {
	select {
	case s.nudges <- struct{}{}:
	default:
	}
}

func (s *scheduler) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var swept time.Time
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.nudges:
		case <-timer.C:
		}
		now := s.b.store.Now()
		s.more = s.wills(now)
		s.more = s.sessions(now) || s.more
		if now.Sub(swept) >= retainedSweep {
			swept = now
			s.retained(now)
		}
		timer.Reset(s.untilNext())
	}
}

// untilNext returns how long to sleep.
func (s *scheduler) untilNext() time.Duration {
	next := s.b.store.Now().Add(scheduleMax)
	if t, ok, err := s.b.store.Wills().NextDue(s.ctx); err == nil && ok && t.Before(next) {
		next = t
	}
	if t, ok, err := s.b.store.Sessions().NextExpiry(s.ctx); err == nil && ok && t.Before(next) {
		next = t
	}
	left := next.Sub(s.b.store.Now())
	if left <= 0 && !s.more {
		return retryInterval
	}
	return max(scheduleMin, left)
}

// onLoop runs f on a loop and waits until what it committed is committed.
func (s *scheduler) onLoop(f func(l *loop)) {
	l := s.b.loops[0]
	done := make(chan struct{})
	l.el.Post(func() {
		f(l)
		l.commits.after(func() { close(done) })
	})
	select {
	case <-done:
	case <-s.ctx.Done():
	}
}

// wills publishes what is due, and reports whether there may be more of it.
func (s *scheduler) wills(now time.Time) (more bool) {
	wills, err := s.b.store.Wills().Due(s.ctx, now, schedulePage)
	if err != nil || len(wills) == 0 {
		return false
	}
	s.onLoop(func(l *loop) {
		for i := range wills {
			l.publishWill(&wills[i])
		}
	})
	return len(wills) == schedulePage && s.b.degraded.Load() == nil
}

// sessions ends those that have expired, and reports whether there may be more.
func (s *scheduler) sessions(now time.Time) (more bool) {
	expired, err := s.b.store.Sessions().Expired(s.ctx, now, schedulePage)
	if err != nil || len(expired) == 0 {
		return false
	}
	s.onLoop(func(l *loop) {
		for i := range expired {
			known := s.b.registry.session(expired[i].ID.ClientID)
			if known == nil || known.id != expired[i].ID {
				known = &Session{id: expired[i].ID, durable: true}
			}
			l.endSession(known, expired[i].Epoch, s.b.metrics.SessionsExpired.Inc)
		}
	})
	return len(expired) == schedulePage && s.b.degraded.Load() == nil
}

func (s *scheduler) retained(now time.Time) {
	topics, err := s.b.store.Retained().Expired(s.ctx, now, schedulePage)
	if err != nil || len(topics) == 0 {
		return
	}
	s.onLoop(func(l *loop) {
		for _, topic := range topics {
			m, ok := s.b.retained.Get([]byte(topic))
			if ok && m.Expired(now) {
				s.b.unindexRetained(topic)
			}
			l.commits.add(store.Op{
				Kind: store.OpDropExpiredRetained, Message: &store.Message{TopicName: []byte(topic)}, Due: now,
			}, nil)
		}
	})
}
