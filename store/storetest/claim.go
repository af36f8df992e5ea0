package storetest

import (
	"loopmq/store"
)

// stateful claims a durable session and gives it something of everything. It
// returns the claim's answer and what a later one is to say.
func (h *harness) stateful(clientID string) (claimed, want store.Claimed) {
	h.Helper()
	claimed = h.claim(durable(clientID))
	se := claimed.Session
	q := store.QueueOf(se.ID)
	want.Subscriptions = []store.Subscription{subscription("a", 1), subscription("b/#", 2)}
	h.do(store.Op{Kind: store.OpSubscribe, Session: se.ID, Epoch: se.Epoch, Subscriptions: want.Subscriptions})
	numbers := h.enqueue(q, "1", "2", "3")
	want.Released = numbers[:1]
	h.do(store.Op{Kind: store.OpRelease, Session: se.ID, Epoch: se.Epoch, Numbers: want.Released})
	want.Held = []uint16{7, 65535}
	for _, packetID := range want.Held {
		h.do(store.Op{Kind: store.OpPublish, Message: message(""), Session: se.ID, Epoch: se.Epoch, PacketID: packetID})
	}
	want.Last = numbers[2]
	want.Present = true
	return claimed, want
}

// sameState compares what two claims say of a session.
func (h *harness) sameState(got, want store.Claimed) {
	h.Helper()
	equal(h, "Present", got.Present, want.Present)
	equal(h, "Subscriptions", append([]store.Subscription{}, got.Subscriptions...), append([]store.Subscription{}, want.Subscriptions...))
	equal(h, "Released", append([]store.Number{}, got.Released...), append([]store.Number{}, want.Released...))
	equal(h, "Held", append([]uint16{}, got.Held...), append([]uint16{}, want.Held...))
	equal(h, "Last", got.Last, want.Last)
}

var claimTests = []test{
	{"a new session has what was asked for and nothing else", func(h *harness) {
		limits := store.Limits{Messages: 1000, Bytes: 1 << 20, Policy: store.DropOldest, Protected: 20}
		claimed := h.claim(store.Claim{ClientID: "c", Owner: "node", Durable: true, SessionExpiryInterval: 60, Limits: limits})
		se := claimed.Session
		equal(h, "session", se, store.Session{
			ID: store.SessionID{ClientID: "c", Incarnation: se.ID.Incarnation}, Epoch: se.Epoch,
			Owner: "node", Durable: true, SessionExpiryInterval: 60, Limits: limits,
		})
		h.sameState(claimed, store.Claimed{})
		equal(h, "Ended", claimed.Ended, nil)
		equal(h, "OldOwner", claimed.OldOwner, "")
		equal(h, "OldWill", claimed.OldWill, nil)
		h.sameSession("Lookup", h.lookup("c"), se)
	}},
	{"a durable session goes on with its state", func(h *harness) {
		first, want := h.stateful("c")
		h.do(offline(first.Session))
		claimed := h.claim(durable("c"))
		h.sameState(claimed, want)
		equal(h, "ID", claimed.Session.ID, first.Session.ID)
		equal(h, "Ended", claimed.Ended, nil)
		equal(h, "OldOwner", claimed.OldOwner, "")
		equal(h, "queue", h.payloads(store.QueueOf(first.Session.ID)), []string{"2", "3"})
	}},
	{"a takeover names the owner before", func(h *harness) {
		first, want := h.stateful("c")
		c := durable("c")
		c.Owner = "other"
		claimed := h.claim(c)
		h.sameState(claimed, want)
		equal(h, "OldOwner", claimed.OldOwner, "node")
		equal(h, "Owner", claimed.Session.Owner, "other")
		equal(h, "ID", claimed.Session.ID, first.Session.ID)
	}},
	{"a claim replaces interval, limits and due time", func(h *harness) {
		op := offline(h.session("c"))
		op.Due = h.in(3600)
		h.do(op)
		c := durable("c")
		c.SessionExpiryInterval = 0xFFFFFFFF
		c.Limits = store.Limits{Messages: 5}
		claimed := h.claim(c)
		equal(h, "SessionExpiryInterval", claimed.Session.SessionExpiryInterval, 0xFFFFFFFF)
		equal(h, "Limits", claimed.Session.Limits, c.Limits)
		if !claimed.Session.Due.IsZero() {
			h.Errorf("Due: got %v, want none", claimed.Session.Due)
		}
		h.sameSession("Lookup", h.lookup("c"), claimed.Session)
	}},
	{"CleanStart ends the session before", func(h *harness) {
		first, _ := h.stateful("c")
		c := durable("c")
		c.CleanStart = true
		claimed := h.claim(c)
		h.sameState(claimed, store.Claimed{})
		equal(h, "OldOwner", claimed.OldOwner, "node")
		if claimed.Ended == nil {
			h.Fatal("Ended: got none")
		}
		h.sameSession("Ended", *claimed.Ended, first.Session)
		if claimed.Session.ID.Incarnation == first.Session.ID.Incarnation {
			h.Errorf("Incarnation %d was used again", claimed.Session.ID.Incarnation)
		}
		h.gone(store.QueueOf(first.Session.ID))
		_, err := h.s.Subscriptions().Of(h.Context(), first.Session.ID)
		h.isError("Subscriptions of the session that ended", err, store.ErrGone)
		equal(h, "queue", h.payloads(store.QueueOf(claimed.Session.ID)), []string{})
		h.sameState(h.claim(durable("c")), store.Claimed{Present: true})
	}},
	{"CleanStart without a session ends nothing", func(h *harness) {
		c := durable("c")
		c.CleanStart = true
		equal(h, "Ended", h.claim(c).Ended, nil)
	}},
	{"a session that is not durable has no state", func(h *harness) {
		c := store.Claim{ClientID: "c", Owner: "node"}
		claimed := h.claim(c)
		h.sameState(claimed, store.Claimed{})
		equal(h, "Durable", claimed.Session.Durable, false)
		h.sameSession("Lookup", h.lookup("c"), claimed.Session)
		se := claimed.Session
		for what, kind := range map[string]store.OpKind{
			"OpRelease": store.OpRelease, "OpComplete": store.OpComplete, "OpUnhold": store.OpUnhold,
			"OpSubscribe": store.OpSubscribe, "OpUnsubscribe": store.OpUnsubscribe,
		} {
			equal(h, what, h.result(store.Op{Kind: kind, Session: se.ID, Epoch: se.Epoch}), store.Gone)
		}
		equal(h, "OpPublish", h.result(store.Op{
			Kind: store.OpPublish, Message: message(""), Session: se.ID, Epoch: se.Epoch, PacketID: 1,
		}), store.Gone)
		_, err := h.s.Subscriptions().Of(h.Context(), se.ID)
		h.isError("Subscriptions", err, store.ErrGone)
	}},
	{"a session that is not durable ends with its connection", func(h *harness) {
		c := store.Claim{ClientID: "c", Owner: "node"}
		first := h.claim(c)
		for _, next := range []store.Claim{c, durable("c")} {
			claimed := h.claim(next)
			equal(h, "Present", claimed.Present, false)
			equal(h, "OldOwner", claimed.OldOwner, "node")
			if claimed.Ended == nil {
				h.Fatal("Ended: got none")
			}
			h.sameSession("Ended", *claimed.Ended, first.Session)
			first = claimed
		}
		h.do(offline(h.claim(store.Claim{ClientID: "c", Owner: "node", CleanStart: true}).Session))
		h.lookupGone("c")
		claimed := h.claim(c)
		equal(h, "OldOwner", claimed.OldOwner, "")
		equal(h, "Ended", claimed.Ended, nil)
	}},
	{"a durable session goes on for one that ends it", func(h *harness) {
		first, want := h.stateful("c")
		q := store.QueueOf(first.Session.ID)
		claimed := h.claim(store.Claim{ClientID: "c", Owner: "node"})
		h.sameState(claimed, want)
		equal(h, "Durable", claimed.Session.Durable, false)
		equal(h, "ID", claimed.Session.ID, first.Session.ID)
		h.enqueue(q, "4")
		equal(h, "queue", h.payloads(q), []string{"2", "3", "4"})
		se := claimed.Session
		h.do(store.Op{Kind: store.OpUnhold, Session: se.ID, Epoch: se.Epoch, PacketID: 7})
		h.do(store.Op{Kind: store.OpComplete, Session: se.ID, Epoch: se.Epoch, Numbers: want.Released})
		h.do(offline(se))
		h.lookupGone("c")
		h.gone(q)
		equal(h, "Present", h.claim(durable("c")).Present, false)
	}},
	{"a session that one connection was to end does not outlive its takeover", func(h *harness) {
		first, _ := h.stateful("c")
		h.claim(store.Claim{ClientID: "c", Owner: "node"})
		claimed := h.claim(durable("c"))
		h.sameState(claimed, store.Claimed{})
		if claimed.Ended == nil {
			h.Fatal("Ended: got none")
		}
		equal(h, "Ended", claimed.Ended.ID, first.Session.ID)
		h.gone(store.QueueOf(first.Session.ID))
	}},
	{"an overdue session does not go on", func(h *harness) {
		first, _ := h.stateful("c")
		op := offline(first.Session)
		op.Due = h.in(-1)
		h.do(op)
		claimed := h.claim(durable("c"))
		h.sameState(claimed, store.Claimed{})
		if claimed.Ended == nil {
			h.Fatal("Ended: got none")
		}
		equal(h, "Ended", claimed.Ended.ID, first.Session.ID)
		h.gone(store.QueueOf(first.Session.ID))
	}},
	{"a session that is not due yet goes on", func(h *harness) {
		first, want := h.stateful("c")
		op := offline(first.Session)
		op.Due = h.in(100)
		h.do(op)
		h.sameState(h.claim(durable("c")), want)
	}},
	{"epochs increase and incarnations are never used again", func(h *harness) {
		var (
			epoch        uint64
			incarnations = map[uint64]bool{}
		)
		for i := range 20 {
			c := durable("c")
			c.CleanStart = i%2 == 0
			c.Durable = i%3 != 0
			claimed := h.claim(c)
			se := claimed.Session
			if se.Epoch <= epoch {
				h.Errorf("epoch %d after %d", se.Epoch, epoch)
			}
			if !claimed.Present && incarnations[se.ID.Incarnation] {
				h.Errorf("incarnation %d was used again", se.ID.Incarnation)
			}
			epoch, incarnations[se.ID.Incarnation] = se.Epoch, true
			switch i % 5 {
			case 3:
				h.do(offline(se))
			case 4:
				h.do(endSession(se))
			}
		}
	}},
	{"sessions of other clients are not touched", func(h *harness) {
		a, want := h.stateful("a")
		c := durable("b")
		c.CleanStart = true
		equal(h, "OldOwner", h.claim(c).OldOwner, "")
		h.sameSession("a", h.lookup("a"), a.Session)
		h.sameState(h.claim(durable("a")), want)
	}},
	{"the answer is the caller's", func(h *harness) {
		_, want := h.stateful("c")
		claimed := h.claim(durable("c"))
		claimed.Released[0], claimed.Held[0], claimed.Subscriptions[0] = store.Number{}, 99, store.Subscription{}
		h.sameState(h.claim(durable("c")), want)
	}},
	{"a ClientID may be any string", func(h *harness) {
		for _, clientID := range []string{"with space", "{brace}", "a:b", "a/b", "50%", "ünï", "*", "\\", "a\x01"} {
			q := h.queue(clientID)
			h.enqueue(q, clientID)
			equal(h, "ClientID", h.lookup(clientID).ID.ClientID, clientID)
			equal(h, "queue", h.payloads(q), []string{clientID})
		}
	}},
}
