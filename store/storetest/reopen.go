package storetest

import (
	"slices"
	"time"

	"loopmq/store"
)

// reopenTests show what is there after the store was closed and opened again.
var reopenTests = []struct {
	name string
	run  func(h *harness, embedded bool, reopen func())
}{
	{"sessions go on with their state", func(h *harness, embedded bool, reopen func()) {
		first, want := h.stateful("c")
		reopen()
		stored, oldOwner := first.Session, "node"
		if embedded {
			stored.Owner, oldOwner = "", ""
			stored.Due = h.expiresAbout(h.lookup("c"))
			if stored.Disconnected = h.lookup("c").Disconnected; stored.Disconnected == nil || stored.Disconnected.Reason != store.NodeEnded {
				h.Errorf("how the connection ended: got %v", stored.Disconnected)
			}
		}
		h.sameSession("Lookup", h.lookup("c"), stored)
		equal(h, "subscriptions", h.subscriptions(first.Session.ID), want.Subscriptions)
		claimed := h.claim(durable("c"))
		h.sameState(claimed, want)
		equal(h, "ID", claimed.Session.ID, first.Session.ID)
		equal(h, "OldOwner", claimed.OldOwner, oldOwner)
		if claimed.Session.Epoch <= first.Session.Epoch {
			h.Errorf("epoch %d after %d", claimed.Session.Epoch, first.Session.Epoch)
		}
		c := durable("c")
		c.CleanStart = true
		if h.claim(c).Session.ID == first.Session.ID {
			h.Errorf("incarnation %d was used again", first.Session.ID.Incarnation)
		}
	}},
	{"queues hold their entries and reuse no number", func(h *harness, _ bool, reopen func()) {
		q, g := h.queue("c"), store.GroupQueue("share", "a")
		op := publish("1", q)
		op.Message.Expiry, op.Message.PublisherID = h.in(600), "publisher"
		op.Targets[0].SubscriptionIdentifiers = []uint32{1, 2}
		h.do(op)
		before := append(numbersOf(h.entries(q)), h.enqueue(q, "2", "3")...)
		h.enqueue(g, "4")
		h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: before[1:]})
		reopen()
		equal(h, "queue", h.payloads(q), []string{"1"})
		equal(h, "group", h.payloads(g), []string{"4"})
		e := h.entries(q)[0]
		equal(h, "number", e.Number, before[0])
		equal(h, "identifiers", e.SubscriptionIdentifiers, []uint32{1, 2})
		h.sameMessage("message", e.Message, op.Message)
		if n := h.enqueue(q, "5")[0]; !before[2].Less(n) {
			h.Errorf("number %v after %v", n, before[2])
		}
		h.contiguous(numbersOf(h.entries(q)[1:]))
	}},
	{"an outbox and a naive model agree", func(h *harness, embedded bool, reopen func()) {
		runOutboxModel(h, 600, embedded, reopen)
	}},
	{"events, dead letters and totals stay, and ids are not used again", func(h *harness, embedded bool, reopen func()) {
		h.alive("a")
		h.put("e", "1", "2", "3", "4")
		h.put("f", "5")
		taken := h.take("e", "a", 3)
		h.done("e", taken[0])
		h.bury("e", 10, taken[1])
		h.noError(h.s.Outbox().Disable(h.Context(), "e", "why"))
		before := h.state("e")
		reopen()
		h.endpoints("e", "f")
		after := h.state("e")
		if embedded {
			equal(h, "taken", after.Taken, 0)
			after.Taken, after.Queued = 1, 1
		}
		equal(h, "state", counts(after), counts(before))
		equal(h, "disabled", after.Disabled, "why")
		if !after.Oldest.Equal(before.Oldest) {
			h.Errorf("oldest: got %v, want %v", after.Oldest, before.Oldest)
		}
		h.put("e", "6")
		if embedded {
			again := h.take("e", "b", 10)
			h.taken("again", again, "3!", "4!", "6")
			equal(h, "id", again[0].ID, taken[2].ID)
		} else {
			h.taken("the rest", h.take("e", "b", 10), "4", "6")
			h.taken("what it has", h.resume("e", "a", store.EventID{}, 10), "3!")
		}
		equal(h, "letters", h.letters("e", store.EventID{}, 10)[0].Reason, "status 400, gone: 2")
		h.noError(h.s.Outbox().Remove(h.Context(), "e"))
		reopen()
		h.endpoints("f")
		h.put("e", "7")
		if fresh := h.take("e", "b", 1); !taken[2].ID.Less(fresh[0].ID) {
			h.Errorf("id %v after %v", fresh[0].ID, taken[2].ID)
		}
	}},
	{"keys of what happened once stay until they expire", func(h *harness, _ bool, reopen func()) {
		h.do(once("k", "answer", h.in(60), publish("1")))
		h.do(once("short", "answer", h.s.Now().Add(20*time.Millisecond), publish("1")))
		reopen()
		op := h.commit(once("k", "", h.in(60), publish("1")))[0]
		equal(h, "again", op.Result, store.Duplicate)
		equal(h, "answer", string(op.Once.Answer), "answer")
		h.eventually("the short one expires", func() bool {
			return h.result(once("short", "", h.in(60), publish("1"))) == store.Done
		})
	}},
	{"fences grow", func(h *harness, embedded bool, reopen func()) {
		first := h.acquire("name", "a", time.Hour)
		reopen()
		if !embedded {
			equal(h, "another", h.acquire("name", "b", time.Hour), 0)
			h.noError(h.s.Leases().Release(h.Context(), "name", "a"))
		}
		if second := h.acquire("name", "b", time.Hour); second <= first {
			h.Errorf("fence %d after %d", second, first)
		}
	}},
	{"offline sessions expire", func(h *harness, _ bool, reopen func()) {
		h.offlineUntil("a", h.in(-10))
		h.offlineUntil("b", h.in(1000))
		reopen()
		equal(h, "expired", h.expired(h.in(0), 10), []string{"a"})
		h.nextExpiry(h.in(-10))
		equal(h, "List", h.listAll(store.SessionQuery{Limit: 10}), []string{"a", "b"})
	}},
	{"bans stay", func(h *harness, _ bool, reopen func()) {
		want := []store.Ban{{Kind: "a", Value: "x", Until: h.in(1000), Reason: "why", Source: "s"}, {Kind: "b", Value: "y"}}
		for _, b := range want {
			h.noError(h.s.Bans().Put(h.Context(), b, 2))
		}
		reopen()
		h.sameBans("bans", h.bans(10), want)
		h.isError("one too many", h.s.Bans().Put(h.Context(), store.Ban{Kind: "c"}, 2), store.ErrTooManyBans)
		_, err := h.s.Bans().Remove(h.Context(), "a/x", time.Time{})
		h.noError(err)
		h.noError(h.s.Bans().Put(h.Context(), store.Ban{Kind: "c"}, 2))
	}},
	{"retained messages stay", func(h *harness, _ bool, reopen func()) {
		h.do(retain("a", "1"))
		h.do(retainUntil("b", "2", h.in(1000)))
		h.do(retain("c", "3"))
		h.do(retain("c", ""))
		reopen()
		equal(h, "retained", h.retained("a", "b", "c"), []string{"1", "2", ""})
		equal(h, "topics", h.retainedTopics("", 10), []string{"a", "b"})
		equal(h, "expired", h.retainedExpired(h.in(1000), 10), []string{"b"})
	}},
	{"Wills stay until they are published", func(h *harness, embedded bool, reopen func()) {
		offline := h.claim(withWill("offline", 0)).Session
		h.do(offlineWill(offline, h.in(-10)))
		published := h.claim(withWill("published", 0)).Session
		h.do(publishWill(published))
		h.claim(withWill("online", 1000))
		reopen()
		equal(h, "due", h.due(h.in(0), 10), []string{"offline"})
		h.nextDue(h.in(-10))
		equal(h, "published again", h.result(publishWill(published)), store.Gone)
		h.do(publishWill(offline))
		if embedded {
			equal(h, "due", h.due(h.in(900), 10), []string{})
			equal(h, "due after the delay", h.due(h.in(1100), 10), []string{"online"})
		} else {
			h.nextDue(time.Time{})
		}
		if h.claim(durable("online")).OldWill == nil {
			h.Errorf("OldWill: got none")
		}
	}},
	{"connections of an embedded store end", func(h *harness, embedded bool, reopen func()) {
		if !embedded {
			return
		}
		passing := withWill("passing", 1000)
		passing.Durable = false
		passed := h.claim(passing).Session
		h.claim(store.Claim{ClientID: "without a Will", Owner: "node"})
		h.session("resumed, to end")
		resumed := withWill("resumed, to end", 1000)
		resumed.Durable = false
		h.claim(resumed)
		for clientID, interval := range map[string]uint32{"never": 0xFFFFFFFF, "soon": 10, "later": 2000} {
			c := withWill(clientID, 1000)
			c.SessionExpiryInterval = interval
			h.claim(c)
		}
		for range 2 {
			reopen()
			h.lookupGone("passing")
			h.lookupGone("without a Will")
			h.lookupGone("resumed, to end")
			equal(h, "List", h.listAll(store.SessionQuery{Limit: 10}), []string{"later", "never", "soon"})
			equal(h, "expired", h.expired(h.in(3000), 10), []string{"soon", "later"})
			due := h.due(h.in(500), 10) // the end of a session ends the delay [MQTT-3.1.3-9]
			slices.Sort(due)
			equal(h, "due", due, []string{"passing", "resumed, to end", "soon"})
			equal(h, "due after the delay", len(h.due(h.in(1100), 10)), 5)
		}
		h.do(publishWill(passed))
		equal(h, "again", h.result(publishWill(passed)), store.Gone)
	}},
}

// expiresAbout returns when se expires, which is to be its interval after now.
func (h *harness) expiresAbout(se store.Session) time.Time {
	h.Helper()
	if d := se.Due.Sub(h.in(int(se.SessionExpiryInterval))); d < 0 || d > 100*time.Second {
		h.Errorf("session %s is due at %v", se.ID.ClientID, se.Due)
	}
	return se.Due
}
