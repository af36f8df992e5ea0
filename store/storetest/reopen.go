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
			stored.Disconnected = store.Disconnected{At: h.lookup("c").Disconnected.At, Reason: store.NodeEnded}
			if stored.Disconnected.At.IsZero() {
				h.Error("nothing says when the connection ended")
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
	{"offline sessions expire", func(h *harness, _ bool, reopen func()) {
		h.offlineUntil("a", h.in(-10))
		h.offlineUntil("b", h.in(1000))
		reopen()
		equal(h, "expired", h.expired(h.in(0), 10), []string{"a"})
		h.nextExpiry(h.in(-10))
		equal(h, "List", h.listAll(store.SessionQuery{Limit: 10}), []string{"a", "b"})
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
