package storetest

import (
	"errors"
	"fmt"
	"sync"

	"loopmq/store"
)

// together calls f with 0 to n-1, each in a goroutine of its own.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// writers returns n writers.
func (h *harness) writers(n int) []store.Writer {
	writers := make([]store.Writer, n)
	for i := range writers {
		writers[i] = h.s.NewWriter(fmt.Sprint("writer", i))
	}
	return writers
}

// commitBy commits ops as one batch of w. Unlike commit it may be called from
// any goroutine.
func (h *harness) commitBy(w store.Writer, ops ...store.Op) []store.Op {
	b := &store.Batch{Ops: ops}
	if err := w.Commit(h.Context(), b); err != nil {
		h.Errorf("Commit: %v", err)
	}
	return b.Ops
}

// contiguous checks that numbers follow each other within each Generation.
func (h *harness) contiguous(numbers []store.Number) {
	h.Helper()
	for i, n := range numbers {
		if i == 0 {
			continue
		}
		before := numbers[i-1]
		if !before.Less(n) || before.Generation == n.Generation && before.Seq+1 != n.Seq {
			h.Fatalf("number %v follows %v", n, before)
		}
	}
}

var concurrentTests = []test{
	{"writers fan out to the same queues", func(h *harness) {
		const writers, batches, perBatch, queues = 4, 25, 4, 8
		var targets []store.QueueID
		for i := range queues {
			targets = append(targets, h.queue(fmt.Sprint("client", i)))
		}
		var (
			mu    sync.Mutex
			named = map[store.QueueID]map[store.Number]string{}
		)
		ws := h.writers(writers)
		together(writers, func(i int) {
			for j := range batches {
				var ops []store.Op
				for k := range perBatch {
					ops = append(ops, publish(fmt.Sprintf("%d %d", i, j*perBatch+k), targets...))
				}
				ops = h.commitBy(ws[i], ops...)
				mu.Lock()
				for _, op := range ops {
					for _, t := range op.Targets {
						if named[t.Queue] == nil {
							named[t.Queue] = map[store.Number]string{}
						}
						named[t.Queue][t.Number] = string(op.Message.Payload)
					}
				}
				mu.Unlock()
			}
		})
		for _, q := range targets {
			entries := h.entries(q)
			equal(h, "entries", len(entries), writers*batches*perBatch)
			h.contiguous(numbersOf(entries))
			next := make([]int, writers)
			for _, e := range entries {
				payload := string(e.Message.Payload)
				equal(h, "message of a number", payload, named[q][e.Number])
				var i, n int
				if _, err := fmt.Sscan(payload, &i, &n); err != nil {
					h.Fatal(err)
				}
				equal(h, fmt.Sprint("next message of writer ", i), n, next[i])
				next[i]++
			}
		}
	}},
	{"a reader sees no gap", func(h *harness) {
		const n = 400
		q := h.queue("c")
		w := h.s.NewWriter("writer")
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range n {
				h.commitBy(w, publish(fmt.Sprint(i), q))
			}
		})
		var (
			read  []store.Entry
			after store.Number
		)
		for len(read) < n && !h.Failed() {
			entries, err := h.s.Messages().Read(h.Context(), q, after, 50, 0)
			h.noError(err)
			if len(entries) > 0 {
				read = append(read, entries...)
				after = entries[len(entries)-1].Number
			}
		}
		wg.Wait()
		h.contiguous(numbersOf(read))
		for i, e := range read {
			equal(h, "payload", string(e.Message.Payload), fmt.Sprint(i))
		}
	}},
	{"of claims at once the last epoch has the session", func(h *harness) {
		const claims = 64
		h.stateful("c")
		results := make([]store.Claimed, claims)
		together(claims, func(i int) {
			c := durable("c")
			c.Owner = fmt.Sprint("owner", i)
			c.CleanStart = i%8 == 0
			var err error
			if results[i], err = h.s.Sessions().Claim(h.Context(), c); err != nil {
				h.Errorf("Claim: %v", err)
			}
		})
		var (
			last   store.Session
			epochs = map[uint64]bool{}
			olds   = map[string]bool{}
		)
		for _, r := range results {
			epochs[r.Session.Epoch] = true
			olds[r.OldOwner] = true
			if r.Session.Epoch > last.Epoch {
				last = r.Session
			}
		}
		equal(h, "different epochs", len(epochs), claims)
		// Each claim took over from exactly one before, the last from none.
		equal(h, "different owners before", len(olds), claims)
		equal(h, "the last one had a successor", olds[last.Owner], false)
		h.sameSession("Lookup", h.lookup("c"), last)
		for _, r := range results {
			want := store.Fenced
			if r.Session.Epoch == last.Epoch {
				want = store.Done
			}
			equal(h, "subscribe", h.result(subscribe(store.OpSubscribe, r.Session, subscription(r.Session.Owner, 1))), want)
		}
	}},
	{"a Will is published once", func(h *harness) {
		const writers = 8
		q := h.queue("subscriber")
		ws := h.writers(writers)
		for range 10 {
			se := h.claim(withWill("c", 0)).Session
			h.do(offlineWill(se, h.in(-1)))
			results := make([]store.Result, writers)
			together(writers, func(i int) { results[i] = h.commitBy(ws[i], publishWill(se, q))[0].Result })
			h.once(results, store.Gone)
		}
		equal(h, "queue", len(h.payloads(q)), 10)
	}},
	{"a Packet Identifier is held once", func(h *harness) {
		const writers = 8
		se, q := h.session("publisher"), h.queue("subscriber")
		ws := h.writers(writers)
		for packetID := range uint16(10) {
			results := make([]store.Result, writers)
			together(writers, func(i int) { results[i] = h.commitBy(ws[i], hold(se, packetID+1, "message", q))[0].Result })
			h.once(results, store.Duplicate)
		}
		equal(h, "queue", len(h.payloads(q)), 10)
	}},
	{"an entry moves once", func(h *harness) {
		const writers = 4
		g := store.GroupQueue("share", "a")
		var payloads []string
		for i := range 200 {
			payloads = append(payloads, fmt.Sprint(i))
		}
		h.enqueue(g, payloads...)
		members := make([]store.QueueID, writers)
		for i := range members {
			members[i] = h.queue(fmt.Sprint("member", i))
		}
		ws := h.writers(writers)
		together(writers, func(i int) {
			for {
				op := move(g, members[i])
				op.Limit = 7
				if h.commitBy(ws[i], op)[0].Result != store.Done {
					return
				}
			}
		})
		h.gone(g)
		seen := map[string]bool{}
		for _, q := range members {
			last := -1
			for _, payload := range h.payloads(q) {
				var n int
				if _, err := fmt.Sscan(payload, &n); err != nil {
					h.Fatal(err)
				}
				if seen[payload] || n <= last {
					h.Errorf("entry %d is there twice, or out of order after %d", n, last)
				}
				seen[payload], last = true, n
			}
		}
		equal(h, "entries", len(seen), 200)
	}},
	{"a publication is before the end of a session or after it", func(h *harness) {
		w := h.s.NewWriter("publisher")
		for range 50 {
			se := h.session("c")
			q := store.QueueOf(se.ID)
			together(2, func(i int) {
				if i == 0 {
					h.commitBy(h.w, endSession(se))
					return
				}
				if r := h.commitBy(w, publish("message", q))[0].Targets[0].Result; r != store.Done && r != store.Gone {
					h.Errorf("publish: got result %v", r)
				}
			})
			h.gone(q)
		}
	}},
	{"claims, commits and reads of many clients", func(h *harness) {
		const goroutines = 4
		ws := h.writers(goroutines)
		together(goroutines, func(i int) {
			for j := range 50 {
				clientID := fmt.Sprint("client", (i+j)%goroutines)
				claimed, err := h.s.Sessions().Claim(h.Context(), withWill(clientID, uint32(j%2)))
				if err != nil {
					h.Errorf("Claim: %v", err)
				}
				se := claimed.Session
				q := store.QueueOf(se.ID)
				h.commitBy(ws[i], publish("message", q), retain(clientID, "message"), subscribe(store.OpSubscribe, se, subscription("a", 1)))
				if _, err := h.s.Messages().Read(h.Context(), q, store.Number{}, 10, 0); err != nil && !errors.Is(err, store.ErrGone) {
					h.Errorf("Read: %v", err)
				}
				if _, err := h.s.Subscriptions().Of(h.Context(), se.ID); err != nil && !errors.Is(err, store.ErrGone) {
					h.Errorf("Of: %v", err)
				}
				if _, err := h.s.Wills().Due(h.Context(), h.in(1000), 10); err != nil {
					h.Errorf("Due: %v", err)
				}
				if j%7 == 0 {
					h.commitBy(ws[i], endSession(se))
				}
			}
		})
	}},
}

// once checks that exactly one of results is Done and all others are lost.
func (h *harness) once(results []store.Result, lost store.Result) {
	h.Helper()
	count := map[store.Result]int{}
	for _, r := range results {
		count[r]++
	}
	equal(h, "results", count, map[store.Result]int{store.Done: 1, lost: len(results) - 1})
}
