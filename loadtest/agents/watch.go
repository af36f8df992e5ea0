package agents

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"loopmq/loadtest"
)

// A watch looks once a second at what the broker has used: the coordinator does, as agents may be anywhere.
type watch struct {
	mu       sync.Mutex
	looks    []look // guarded by mu
	failures uint64 // guarded by mu
	example  string // guarded by mu
}

type look struct {
	at time.Time
	loadtest.BrokerSample
}

// run looks until ctx ends.
func (w *watch) run(ctx context.Context, broker func(context.Context) (loadtest.BrokerSample, error)) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		sample, err := broker(ctx)
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		if err == nil {
			w.looks = append(w.looks, look{at: time.Now(), BrokerSample: sample})
		} else if w.failures++; w.example == "" {
			w.example = err.Error()
		}
		w.mu.Unlock()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// now is the broker's CPU, in cores, and its memory, as last seen.
func (w *watch) now() (cpu float64, memory uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.looks)
	if n < 2 {
		return 0, 0
	}
	return cores(w.looks[n-2], w.looks[n-1]), w.looks[n-1].ResidentBytes
}

// cores is what was used between two looks. A broker that was restarted in between begins at 0 again.
func cores(from, to look) float64 {
	return max(0, to.CPUSeconds-from.CPUSeconds) / max(to.at.Sub(from.at).Seconds(), 1e-9)
}

// fill puts what was seen into the result.
func (w *watch) fill(r *loadtest.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failures > 0 {
		r.Errors = append(r.Errors, loadtest.ErrorGroup{What: "look at the broker", Count: w.failures, Example: w.example})
	}
	if len(w.looks) == 0 {
		return
	}
	use := &loadtest.BrokerUse{ResidentBytesBefore: w.looks[0].ResidentBytes}
	measure := slices.IndexFunc(r.Phases, func(p loadtest.Phase) bool { return p.Name == "measure" })
	for i, l := range w.looks {
		use.ResidentBytesMax = max(use.ResidentBytesMax, l.ResidentBytes)
		if i == 0 || measure < 0 {
			continue
		}
		at, phase := l.at.Sub(r.Started).Seconds(), r.Phases[measure]
		if at >= phase.At && at <= phase.At+phase.Seconds+0.5 {
			use.CPUSeconds += max(0, l.CPUSeconds-w.looks[i-1].CPUSeconds)
			use.ResidentBytesEnd = l.ResidentBytes
		}
	}
	for i := range r.Timeline {
		s := &r.Timeline[i]
		next, _ := slices.BinarySearchFunc(w.looks, s.At, func(l look, at float64) int {
			return int(1e3 * (l.at.Sub(r.Started).Seconds() - at))
		})
		if next = min(next, len(w.looks)-1); next > 0 {
			s.BrokerCPU, s.BrokerMemory = cores(w.looks[next-1], w.looks[next]), w.looks[next].ResidentBytes
		}
	}
	r.Broker = use
	r.Cost.BrokerCPUSeconds = use.CPUSeconds
	if n := cmp.Or(r.Totals.Delivered, r.Totals.Connects); n > 0 {
		r.Cost.BrokerMicrosPerMessage = use.CPUSeconds * 1e6 / float64(n)
	}
}
