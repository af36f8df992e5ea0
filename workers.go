package loopmq

import "sync"

// maxWorkers bounds the calls of authenticators, authorizers and store reads
// that run at one time. More wait; each connection has at most one waiting.
const maxWorkers = 64

// spareWorkers wait for work when there is none: what a call needs of stack is there
// then, which a new goroutine would have to grow into, at a tenth of what a CONNECT
// costs.
const spareWorkers = 4

// workers runs blocking calls off the loops. Goroutines come with the work, up
// to a maximum, and all but a few go when there is none.
type workers struct {
	mu struct {
		sync.Mutex
		queue   []call
		running int
		spare   int // of those that run: they wait
		stopped bool
	}
	work sync.Cond // there is some for one of them, or they are to end
	max  int
	wg   sync.WaitGroup
}

// call is what a worker is to do. dropped is called instead if it doesn't come to that; it may be nil.
type call struct{ do, dropped func() }

func newWorkers(limit int) *workers {
	w := &workers{max: limit}
	w.work.L = &w.mu
	return w
}

// do runs f soon. It never blocks. After stop it drops f, and reports false; stop may also drop f later.
func (w *workers) do(f func()) bool { return w.add(call{do: f}) }

// doOr is do for who has to know: dropped is called instead, on any goroutine, if f is dropped, now or later.
func (w *workers) doOr(f, dropped func()) {
	if !w.add(call{f, dropped}) {
		dropped()
	}
}

func (w *workers) add(f call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.mu.stopped:
		return false
	case w.mu.spare > len(w.mu.queue): // a spare one may be on its way to what is queued
		w.work.Signal()
	case w.mu.running < w.max:
		w.mu.running++
		w.wg.Go(func() { w.run(f.do) })
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
	for len(w.mu.queue) == 0 {
		w.mu.queue = nil
		if w.mu.stopped || w.mu.spare == spareWorkers {
			w.mu.running--
			return nil
		}
		w.mu.spare++
		w.work.Wait()
		w.mu.spare--
	}
	f := w.mu.queue[0]
	w.mu.queue[0] = call{}
	w.mu.queue = w.mu.queue[1:]
	return f.do
}

// stop drops what has not begun and waits for what has.
func (w *workers) stop() {
	w.mu.Lock()
	left := w.mu.queue
	w.mu.stopped, w.mu.queue = true, nil
	w.work.Broadcast()
	w.mu.Unlock()
	for _, f := range left {
		if f.dropped != nil {
			f.dropped()
		}
	}
	w.wg.Wait()
}
