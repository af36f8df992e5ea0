package loopmq

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// All that is given to workers is done, by at most so many at a time; a few of them wait for more, and do it.
func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, calls = 3 * spareWorkers, 100
		w := newWorkers(limit)
		var running, done atomic.Int64
		for round := range 3 {
			done.Store(0)
			proceed := make(chan struct{})
			for range calls {
				if !w.do(func() {
					running.Add(1)
					<-proceed
					running.Add(-1)
					done.Add(1)
				}) {
					t.Fatal("a call was dropped")
				}
			}
			synctest.Wait()
			if got := running.Load(); got != limit {
				t.Errorf("round %d: %d run at a time, want %d", round, got, limit)
			}
			close(proceed)
			synctest.Wait()
			if got := done.Load(); got != calls {
				t.Errorf("round %d: %d of %d were done", round, got, calls)
			}
			w.mu.Lock()
			if w.mu.running != spareWorkers || w.mu.spare != spareWorkers {
				t.Errorf("round %d: %d workers are left, %d of them spare, want %d", round, w.mu.running, w.mu.spare, spareWorkers)
			}
			w.mu.Unlock()
		}
		w.stop()
		if w.do(func() {}) {
			t.Error("after stop: a call was taken")
		}
	})
}

// What waits when the workers stop is dropped, and whoever has to know is told; so is who comes later.
func TestWorkersDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers(1)
		proceed := make(chan struct{})
		w.do(func() { <-proceed })
		var dropped atomic.Int64
		for range 2 {
			w.doOr(func() { t.Error("it was done") }, func() { dropped.Add(1) })
		}
		go w.stop()
		synctest.Wait()
		if n := dropped.Load(); n != 2 {
			t.Errorf("%d of 2 that waited were dropped", n)
		}
		w.doOr(func() { t.Error("it was done after stop") }, func() { dropped.Add(1) })
		if dropped.Load() != 3 {
			t.Error("one that came after stop was not dropped")
		}
		close(proceed)
	})
}
