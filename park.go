package loopmq

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// parking is the drain of a node that an operator asked for, see DrainNode: unlike
// Drain it can be taken back.
type parking struct {
	draining atomic.Bool
	refusing atomic.Bool // CONNECTs

	mu struct {
		sync.Mutex
		cancel context.CancelFunc
		over   chan struct{} // closed when its goroutine has ended
	}
}

func (p *parking) drains() bool  { return p.draining.Load() }
func (p *parking) refuses() bool { return p.refusing.Load() }

var errParked = errors.New("drained by an operator")

// park begins to drain this node. It returns at once.
func (b *Broker) park(o DrainOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	p := &b.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	if !b.running.Load() || b.draining.Load() || b.stopping.Load() {
		return ErrNotRunning
	}
	if p.drains() {
		return errors.New("loopmq: the node is being drained already")
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	p.mu.cancel, p.mu.over = cancel, over
	p.draining.Store(true)
	if o.ServerReference != "" {
		b.elsewhere.Store(&o.ServerReference)
	}
	b.log.Info("drain", "wait", o.Wait, "rate", o.Rate, "clients", b.connected(), "by", "operator")
	go func() {
		defer close(over)
		if !sleep(ctx, o.Wait) {
			return
		}
		p.refusing.Store(true)
		if b.disconnectAtRate(ctx, o.Rate) == nil {
			b.log.Info("drained")
		}
	}()
	return nil
}

// unpark takes it back.
func (b *Broker) unpark() error {
	p := &b.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.drains() {
		return nil
	}
	if b.draining.Load() || b.stopping.Load() {
		return ErrNotRunning
	}
	p.endLocked()
	b.elsewhere.Store(nil)
	p.refusing.Store(false)
	p.draining.Store(false)
	b.log.Info("undrain")
	return nil
}

// end stops sending clients away: the broker is about to end.
func (p *parking) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked()
}

// endLocked REQUIRES: p.mu
func (p *parking) endLocked() {
	if p.mu.cancel != nil {
		p.mu.cancel()
		<-p.mu.over
		p.mu.cancel = nil
	}
}

// SetDrain changes Options.Drain. It is safe for concurrent use.
func (b *Broker) SetDrain(o DrainOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	b.drainDefaults.Store(&o)
	return nil
}
