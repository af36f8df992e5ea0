package storetest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"loopmq/store"
)

var commitTests = []test{
	{"operations apply in their order", func(h *harness) {
		se := h.session("c")
		ops := h.commit(
			publish("before", store.QueueOf(se.ID)),
			endSession(se),
			publish("after", store.QueueOf(se.ID)),
		)
		equal(h, "publish before the end", ops[0].Targets[0].Result, store.Done)
		equal(h, "end", ops[1].Result, store.Done)
		equal(h, "publish after the end", ops[2].Targets[0].Result, store.Gone)
	}},
	{"an operation that fails stops no other", func(h *harness) {
		q := h.queue("c")
		ops := h.commit(
			store.Op{Kind: store.OpFinish, Session: store.SessionID{ClientID: "none", Incarnation: 1}},
			publish("message", q),
		)
		equal(h, "finish", ops[0].Result, store.Gone)
		equal(h, "publish", ops[1].Result, store.Done)
		equal(h, "queue", h.payloads(q), []string{"message"})
	}},
	{"an empty batch is committed", func(h *harness) {
		h.commit()
	}},
	{"a batch that is committed again applies once", func(h *harness) {
		se := h.session("c")
		q := store.QueueOf(se.ID)
		hold := publish("held", q)
		hold.Session, hold.Epoch, hold.PacketID = se.ID, se.Epoch, 1
		b := &store.Batch{Ops: []store.Op{publish("message", q), hold, publish("nowhere", store.QueueOf(store.SessionID{ClientID: "none"}))}}
		h.noError(h.w.Commit(h.Context(), b))
		first := []store.Number{b.Ops[0].Targets[0].Number, b.Ops[1].Targets[0].Number}
		for range 3 {
			h.noError(h.w.Commit(h.Context(), b))
			equal(h, "queue", h.payloads(q), []string{"message", "held"})
			for i, n := range first {
				equal(h, "result", b.Ops[i].Result, store.Done)
				equal(h, "target", b.Ops[i].Targets[0].Result, store.Done)
				if got := b.Ops[i].Targets[0].Number; got != n && !got.IsZero() {
					h.Errorf("number: got %v, want %v or none", got, n)
				}
			}
			equal(h, "target that is gone", b.Ops[2].Targets[0].Result, store.Gone)
		}
	}},
	{"a batch that was reset is a new one", func(h *harness) {
		q := h.queue("c")
		b := &store.Batch{}
		for _, payload := range []string{"1", "2"} {
			b.Reset()
			b.Add(publish(payload, q))
			h.noError(h.w.Commit(h.Context(), b))
		}
		equal(h, "queue", h.payloads(q), []string{"1", "2"})
	}},
	{"operations may be used again in another batch", func(h *harness) {
		se := h.session("c")
		q := store.QueueOf(se.ID)
		op := h.do(publish("message", q, q))
		h.do(endSession(se))
		for _, t := range h.do(op).Targets {
			equal(h, "target", t, store.Target{Queue: q, QoS: 1, Result: store.Gone})
		}
	}},
	{"writers don't take each other's batches for repeated", func(h *harness) {
		q := h.queue("c")
		for _, name := range []string{"a", "b"} {
			w := h.s.NewWriter(name)
			for range 2 {
				h.noError(w.Commit(h.Context(), &store.Batch{Ops: []store.Op{publish(name, q)}}))
			}
		}
		equal(h, "queue", h.payloads(q), []string{"a", "a", "b", "b"})
	}},
	{"all but the messages is the caller's again", func(h *harness) {
		q := h.queue("c")
		op := publish("message", q)
		op.Targets[0].SubscriptionIdentifiers = []uint32{1, 2}
		op = h.do(op)
		op.Targets[0].SubscriptionIdentifiers[0] = 99
		op.Targets[0] = store.Target{}
		equal(h, "identifiers", h.entries(q)[0].SubscriptionIdentifiers, []uint32{1, 2})
	}},
	{"a cancelled commit may be repeated", func(h *harness) {
		q := h.queue("c")
		cancelled, cancel := context.WithCancel(h.Context())
		cancel()
		b := &store.Batch{Ops: []store.Op{publish("message", q)}}
		_ = h.w.Commit(cancelled, b) // may have been applied or not
		h.noError(h.w.Commit(h.Context(), b))
		equal(h, "queue", h.payloads(q), []string{"message"})
	}},
	{"the clock does not go back", func(h *harness) {
		if a, b := h.s.Now(), h.s.Now(); b.Before(a) {
			h.Errorf("Now: %v after %v", b, a)
		}
	}},
	{"after Close all return ErrClosed", func(h *harness) {
		se := h.session("c")
		h.noError(h.s.Close())
		ctx := h.Context()
		for what, call := range map[string]func() error{
			"Commit": func() error { return h.w.Commit(ctx, &store.Batch{Ops: []store.Op{offline(se)}}) },
			"Messages.Read": func() error {
				_, err := h.s.Messages().Read(ctx, store.QueueOf(se.ID), store.Number{}, 1, 0)
				return err
			},
			"Messages.Len":        func() error { _, _, _, err := h.s.Messages().Len(ctx, store.QueueOf(se.ID)); return err },
			"Sessions.Claim":      func() error { _, err := h.s.Sessions().Claim(ctx, durable("c")); return err },
			"Sessions.Lookup":     func() error { _, err := h.s.Sessions().Lookup(ctx, "c"); return err },
			"Sessions.List":       func() error { _, err := h.s.Sessions().List(ctx, store.SessionQuery{Limit: 1}); return err },
			"Sessions.Expired":    func() error { _, err := h.s.Sessions().Expired(ctx, h.now, 1); return err },
			"Sessions.NextExpiry": func() error { _, _, err := h.s.Sessions().NextExpiry(ctx); return err },
			"Subscriptions.Of":    func() error { _, err := h.s.Subscriptions().Of(ctx, se.ID); return err },
			"Retained.Read":       func() error { _, err := h.s.Retained().Read(ctx, []string{"topic"}); return err },
			"Retained.List":       func() error { _, err := h.s.Retained().List(ctx, "", 1); return err },
			"Retained.Expired":    func() error { _, err := h.s.Retained().Expired(ctx, h.now, 1); return err },
			"Wills.Due":           func() error { _, err := h.s.Wills().Due(ctx, h.now, 1); return err },
			"Wills.NextDue":       func() error { _, _, err := h.s.Wills().NextDue(ctx); return err },
			"Bans.Put":            func() error { return h.s.Bans().Put(ctx, store.Ban{}, 1) },
			"Bans.Remove":         func() error { _, err := h.s.Bans().Remove(ctx, "k/v", h.now); return err },
			"Bans.List":           func() error { _, err := h.s.Bans().List(ctx, "", 1); return err },
			"Outbox.Take":         func() error { _, err := h.s.Outbox().Take(ctx, "e", "a", 1, 0); return err },
			"Outbox.Resume":       func() error { _, err := h.s.Outbox().Resume(ctx, "e", "a", store.EventID{}, 1, 0); return err },
			"Outbox.Renew":        func() error { return h.s.Outbox().Renew(ctx, "a", time.Second) },
			"Outbox.Done":         func() error { return h.s.Outbox().Done(ctx, "e", make([]store.EventID, 1)) },
			"Outbox.Bury":         func() error { _, err := h.s.Outbox().Bury(ctx, "e", make([]store.Dead, 1), 1); return err },
			"Outbox.Dead":         func() error { _, err := h.s.Outbox().Dead(ctx, "e", store.EventID{}, 1); return err },
			"Outbox.Replay":       func() error { _, err := h.s.Outbox().Replay(ctx, "e", make([]store.EventID, 1)); return err },
			"Outbox.Drop":         func() error { _, err := h.s.Outbox().Drop(ctx, "e", make([]store.EventID, 1)); return err },
			"Outbox.State":        func() error { _, err := h.s.Outbox().State(ctx, "e"); return err },
			"Outbox.Endpoints":    func() error { _, err := h.s.Outbox().Endpoints(ctx); return err },
			"Outbox.Remove":       func() error { return h.s.Outbox().Remove(ctx, "e") },
			"Leases.Acquire":      func() error { _, _, err := h.s.Leases().Acquire(ctx, "n", "a", time.Second); return err },
			"Leases.Release":      func() error { return h.s.Leases().Release(ctx, "n", "a") },
			"Close":               h.s.Close,
		} {
			h.isError(what, call(), store.ErrClosed)
		}
	}},
	{"Close lets commits under way end", func(h *harness) {
		q := h.queue("c")
		var (
			wg    sync.WaitGroup
			ready = make(chan struct{}, 4)
		)
		for i := range 4 {
			w := h.s.NewWriter("closing" + strconv.Itoa(i))
			wg.Go(func() {
				for i := 0; ; i++ {
					err := w.Commit(h.Context(), &store.Batch{Ops: []store.Op{publish("message", q)}})
					if i == 0 {
						ready <- struct{}{}
					}
					if err != nil {
						if !errors.Is(err, store.ErrClosed) {
							h.Errorf("Commit: got %v, want no other error than ErrClosed", err)
						}
						return
					}
				}
			})
		}
		for range 4 {
			<-ready
		}
		h.noError(h.s.Close())
		wg.Wait()
	}},
}
