package loopmq

import (
	"context"
	"sync"
	"time"

	"loopmq/store"
)

// scheduler does what is due without a packet: it publishes delayed Wills, ends
// sessions that have expired, and clears retained messages that have. What is due
// stands in the store, so it survives the node that put it there.
type scheduler struct {
	b       *Broker
	nudges  chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	// When to go on with Wills and with sessions after a round that failed.
	willsPause, sessionsPause time.Time
}

const (
	// schedulePage bounds what one round takes from the store.
	schedulePage = 1000
	// scheduleMax is the longest the scheduler sleeps.
	scheduleMax = 10 * time.Second
	// scheduleShared is scheduleMax with a store that several nodes share.
	scheduleShared = time.Second
	// scheduleMin keeps a store that answers nonsense from making it spin.
	scheduleMin = time.Millisecond
	// schedulePause is how long it waits after the store failed, or was full.
	schedulePause = time.Second
	// retainedSweep is how often expired retained messages are looked for.
	retainedSweep = 30 * time.Second
)

func newScheduler(b *Broker) *scheduler {
	s := &scheduler{b: b, nudges: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func (s *scheduler) start() { s.running.Go(s.run) }

// stop ends the scheduler and waits for it. It need not have started.
func (s *scheduler) stop() {
	s.cancel()
	s.running.Wait()
}

// nudge tells the scheduler that something new may be due. It never blocks.
func (s *scheduler) nudge() {
	select {
	case s.nudges <- struct{}{}:
	default:
	}
}

func (s *scheduler) run() {
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
		if !s.pausing(&s.willsPause) && !s.wills(now) {
			s.willsPause = time.Now().Add(schedulePause)
		}
		if !s.pausing(&s.sessionsPause) && !s.sessions(now) {
			s.sessionsPause = time.Now().Add(schedulePause)
		}
		if now.Sub(swept) >= retainedSweep {
			swept = now
			s.retained(now)
		}
		timer.Reset(s.untilNext())
	}
}

// pausing reports whether until has not come yet, and clears it when it has.
func (s *scheduler) pausing(until *time.Time) bool {
	if time.Now().Before(*until) {
		return true
	}
	*until = time.Time{}
	return false
}

// untilNext returns how long to sleep.
func (s *scheduler) untilNext() time.Duration {
	wait := scheduleMax
	if s.b.cluster != nil { // other nodes set Wills and expiry, and may be gone when these are due
		wait = scheduleShared
	}
	for _, part := range []struct {
		next  func(context.Context) (time.Time, bool, error)
		pause time.Time
	}{
		{s.b.store.Wills().NextDue, s.willsPause},
		{s.b.store.Sessions().NextExpiry, s.sessionsPause},
	} {
		if t, ok, err := part.next(s.ctx); err == nil && ok {
			wait = min(wait, max(t.Sub(s.b.store.Now()), time.Until(part.pause)))
		}
	}
	return max(scheduleMin, wait)
}

// onLoop runs f on a loop and waits until what it committed is committed. It
// reports false if the broker stopped first.
func (s *scheduler) onLoop(f func(l *loop)) bool {
	l := s.b.loops[0]
	done := make(chan struct{})
	l.el.Post(func() {
		if s.b.rejoining.Load() { // it knows too little: the next round sees to it
			close(done)
			return
		}
		f(l)
		l.commits.after(func() { close(done) })
	})
	select {
	case <-done:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// wills publishes the Wills that are due, and reports false if not all could be.
func (s *scheduler) wills(now time.Time) (ok bool) {
	wills, err := s.b.store.Wills().Due(s.ctx, now, schedulePage)
	if err != nil || len(wills) == 0 {
		return err == nil
	}
	failed := 0
	returned := s.onLoop(func(l *loop) {
		for i := range wills {
			l.publishWill(&wills[i], nil, func(op *store.Op, err error) {
				if err != nil || op.Result == store.Full {
					failed++
				}
			})
		}
	})
	return returned && failed == 0
}

// sessions ends the sessions that have expired, and reports false if not all
// could be.
func (s *scheduler) sessions(now time.Time) (ok bool) {
	expired, err := s.b.store.Sessions().Expired(s.ctx, now, schedulePage)
	if err != nil || len(expired) == 0 {
		return err == nil
	}
	failed := 0
	returned := s.onLoop(func(l *loop) {
		for i := range expired {
			known := s.b.registry.session(expired[i].ID.ClientID)
			if known == nil || known.id != expired[i].ID {
				known = &Session{id: expired[i].ID, durable: true}
			}
			l.tryEndSession(known, expired[i].Epoch, &ClientInfo{ClientID: expired[i].ID.ClientID}, func(op *store.Op, err error) {
				switch {
				case err != nil:
					failed++
				case op.Result == store.Done:
					s.b.metrics.SessionsExpired.Inc()
				}
			})
		}
	})
	return returned && failed == 0
}

func (s *scheduler) retained(now time.Time) {
	topics, err := s.b.store.Retained().Expired(s.ctx, now, schedulePage)
	if err != nil || len(topics) == 0 {
		return
	}
	s.onLoop(func(l *loop) {
		for _, topic := range topics {
			s.b.dropExpiredRetained(topic, now)
			l.commits.add(store.Op{
				Kind: store.OpDropExpiredRetained, Message: &store.Message{TopicName: []byte(topic)}, Due: now,
			}, nil)
		}
	})
}
