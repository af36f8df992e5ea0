package loopmq

import "sync"

// maxWorkers bounds the calls of authenticators, authorizers and store reads
// that run at one time. More wait; each connection has at most one waiting.
const maxWorkers = 64

// workers runs blocking calls off the loops. Goroutines come with the work, up
// to a maximum, and go when there is none.
type workers struct {
	mu struct {
		sync.Mutex
		queue   []func()
		running int
		stopped bool
	}
	max int
	wg  sync.WaitGroup
}

func newWorkers(limit int) *workers { return &workers{max: limit} }

// do runs f soon. It never blocks. After stop it drops f, and reports false.
func (w *workers) do(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.stopped {
		return false
	}
	if w.mu.running < w.max {
		w.mu.running++
		w.wg.Go(func() { w.run(f) })
		return true
	}
	w.mu.queue = append(w.mu.queue, f)
	return true
}

func (w *workers) run(f func()) {
	for f != nil {
		f()
		f = w.next()
	}
}

// next returns what waits longest, or nil: the goroutine ends then.
func (w *workers) next() func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.queue) == 0 {
		w.mu.queue = nil
		w.mu.running--
		return nil
	}
	f := w.mu.queue[0]
	w.mu.queue[0] = nil
	w.mu.queue = w.mu.queue[1:]
	return f
}

// stop drops what has not begun and waits for what has.
func (w *workers) stop() {
	w.mu.Lock()
	w.mu.stopped, w.mu.queue = true, nil
	w.mu.Unlock()
	w.wg.Wait()
}
