package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// peers is what an instance knows of the others.
//
// Who joins has told all that live before it serves, and each has answered: so an
// instance that knows of no other, and whose own lease can't have lapsed, is alone. It
// isn't alone any more before the other has its first subscriber.
type peers struct {
	alone      atomic.Bool               // there is none in alive
	validUntil atomic.Pointer[time.Time] // until then nobody can have declared this instance dead

	mu struct {
		sync.Mutex
		alive   map[string]bool      // true: it knows of this instance
		gone    map[string]time.Time // those that are dead, and since when that is known
		changed chan struct{}        // closed and made anew when one is welcomed or dies
	}
}

// goneFor is how long dead instances are remembered. Nobody asks for them for as long.
const goneFor = time.Hour

// init takes the instances that were there before.
func (p *peers) init(others []string) {
	p.mu.alive = make(map[string]bool)
	p.mu.gone = make(map[string]time.Time)
	p.mu.changed = make(chan struct{})
	for _, instance := range others {
		p.mu.alive[instance] = false
	}
	p.alone.Store(len(others) == 0)
}

// joined notes an instance that has joined after this one.
func (p *peers) joined(instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, gone := p.mu.gone[instance]; !gone {
		p.mu.alive[instance] = true
		p.alone.Store(false)
	}
}

// welcomed notes that an instance knows of this one.
func (p *peers) welcomed(instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, alive := p.mu.alive[instance]; alive {
		p.mu.alive[instance] = true
		p.changedLocked()
	}
}

// died notes instances that are dead.
func (p *peers) died(instances ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, instance := range instances {
		if _, known := p.mu.gone[instance]; !known {
			p.mu.gone[instance] = now
			delete(p.mu.alive, instance)
			p.changedLocked()
		}
	}
	for instance, since := range p.mu.gone {
		if now.Sub(since) > goneFor {
			delete(p.mu.gone, instance)
		}
	}
	p.alone.Store(len(p.mu.alive) == 0)
}

func (p *peers) changedLocked() {
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
}

// dead reports whether an instance is known to be dead.
func (p *peers) dead(instance string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, gone := p.mu.gone[instance]
	return gone
}

// await returns when each of the others knows of this instance or is dead, or when one
// of the contexts ends.
func (p *peers) await(ctx, membership context.Context) error {
	for {
		p.mu.Lock()
		missing := 0
		for _, knows := range p.mu.alive {
			if !knows {
				missing++
			}
		}
		changed := p.mu.changed
		p.mu.Unlock()
		if missing == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-membership.Done():
			return membership.Err()
		}
	}
}

// renewed notes that a renewal that began at a time has succeeded.
func (p *peers) renewed(began time.Time, lease time.Duration) {
	until := began.Add(lease - lease/10) // clocks don't run at the same speed
	p.validUntil.Store(&until)
}

// valid reports whether the lease can't have lapsed. Where the machine was suspended
// only one of its clocks has gone on.
func (p *peers) valid() bool {
	until, now := p.validUntil.Load(), time.Now()
	return until != nil && now.Before(*until) && now.Round(0).Before(until.Round(0))
}
