package storetest

import "time"

// acquire returns the fence of a lease that holder gets, 0 if it doesn't.
func (h *harness) acquire(name, holder string, ttl time.Duration) uint64 {
	h.Helper()
	fence, ok, err := h.s.Leases().Acquire(h.Context(), name, holder, ttl)
	h.noError(err)
	if ok != (fence != 0) {
		h.Errorf("ok %t with fence %d", ok, fence)
	}
	return fence
}

var leaseTests = []test{
	{"one at a time has a lease", func(h *harness) {
		first := h.acquire("name", "a", time.Hour)
		if first == 0 {
			h.Fatal("not acquired")
		}
		equal(h, "another", h.acquire("name", "b", time.Hour), 0)
		equal(h, "renewed", h.acquire("name", "a", time.Hour), first)
		if h.acquire("other name", "b", time.Hour) == 0 {
			h.Error("another name was not acquired")
		}
	}},
	{"fences grow", func(h *harness) {
		var last uint64
		for range 3 {
			for _, holder := range []string{"a", "b {c} d", ""} {
				fence := h.acquire("name", holder, time.Hour)
				if fence <= last {
					h.Errorf("fence %d after %d", fence, last)
				}
				last = fence
				h.noError(h.s.Leases().Release(h.Context(), "name", "nobody"))
				equal(h, "another", h.acquire("name", "nobody", time.Hour), 0)
				h.noError(h.s.Leases().Release(h.Context(), "name", holder))
				h.noError(h.s.Leases().Release(h.Context(), "name", holder))
			}
		}
	}},
	{"a lease lapses", func(h *harness) {
		first := h.acquire("name", "a", 50*time.Millisecond)
		var second uint64
		h.eventually("it lapses", func() bool {
			second = h.acquire("name", "b", time.Hour)
			return second != 0
		})
		if second <= first {
			h.Errorf("fence %d after %d", second, first)
		}
		equal(h, "the former holder", h.acquire("name", "a", time.Hour), 0)
	}},
	{"renewing makes it last", func(h *harness) {
		first := h.acquire("name", "a", 300*time.Millisecond)
		equal(h, "renewed", h.acquire("name", "a", time.Hour), first)
		until := h.s.Now().Add(350 * time.Millisecond)
		h.eventually("the first time is over", func() bool { return h.s.Now().After(until) })
		equal(h, "another", h.acquire("name", "b", time.Hour), 0)
	}},
}
