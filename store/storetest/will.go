package storetest

import (
	"fmt"
	"time"

	"loopmq/store"
)

// withWill is durable with a Will.
func withWill(clientID string, delayInterval uint32) store.Claim {
	c := durable(clientID)
	c.Will = &store.Will{Message: *message("will of " + clientID), DelayInterval: delayInterval, ExpirySeconds: -1}
	return c
}

// publishWill returns the publication of the Will of se.
func publishWill(se store.Session, queues ...store.QueueID) store.Op {
	op := publish("will of "+se.ID.ClientID, queues...)
	op.WillOf = &store.Will{ClientID: se.ID.ClientID, Epoch: se.Epoch}
	return op
}

// offlineWill is offline for a connection whose Will is to be published.
func offlineWill(se store.Session, due time.Time) store.Op {
	op := offline(se)
	op.WillRemoved, op.WillDue = false, due
	return op
}

// due returns the ClientIDs of the Wills that are due.
func (h *harness) due(now time.Time, limit int) []string {
	h.Helper()
	wills, err := h.s.Wills().Due(h.Context(), now, limit)
	h.noError(err)
	ids := []string{}
	for _, w := range wills {
		ids = append(ids, w.ClientID)
	}
	return ids
}

// nextDue checks when the next Will is due; zero: none is.
func (h *harness) nextDue(want time.Time) {
	h.Helper()
	got, ok, err := h.s.Wills().NextDue(h.Context())
	h.noError(err)
	equal(h, "a Will is due", ok, !want.IsZero())
	if ok && !want.IsZero() && !got.Equal(want) {
		h.Errorf("NextDue: got %v, want %v", got, want)
	}
}

// dueNow checks that the Will of se, and no other, became due just now.
func (h *harness) dueNow(se store.Session) {
	h.Helper()
	wills, err := h.s.Wills().Due(h.Context(), h.in(100), 10)
	h.noError(err)
	if len(wills) != 1 {
		h.Fatalf("got %d Wills that are due, want 1", len(wills))
	}
	equal(h, "ClientID", wills[0].ClientID, se.ID.ClientID)
	equal(h, "Epoch", wills[0].Epoch, se.Epoch)
	if due := wills[0].Due; due.Before(h.in(-1)) || due.After(h.s.Now()) {
		h.Errorf("due: got %v, want about %v", due, h.s.Now())
	}
}

var willTests = []test{
	{"a Will is stored as it was given", func(h *harness) {
		c := durable("c")
		m := store.Message{
			TopicName: []byte("will/topic"), Payload: []byte("gone"), Properties: []byte{1, 1},
			QoS: 2, Retain: true, PublisherID: "c",
		}
		c.Will = &store.Will{Message: m, DelayInterval: 30, ExpirySeconds: 600}
		given := *c.Will
		se := h.claim(c).Session
		equal(h, "the Will of the claim", *c.Will, given)
		h.do(offlineWill(se, h.in(30)))
		wills, err := h.s.Wills().Due(h.Context(), h.in(30), 10)
		h.noError(err)
		if len(wills) != 1 {
			h.Fatalf("got %d Wills, want 1", len(wills))
		}
		w := wills[0]
		equal(h, "ClientID", w.ClientID, "c")
		equal(h, "Epoch", w.Epoch, se.Epoch)
		equal(h, "DelayInterval", w.DelayInterval, 30)
		equal(h, "ExpirySeconds", w.ExpirySeconds, 600)
		if !w.Due.Equal(h.in(30)) {
			h.Errorf("Due: got %v, want %v", w.Due, h.in(30))
		}
		h.sameMessage("message", &w.Message, &m)
	}},
	{"no Will is due while the client is connected", func(h *harness) {
		h.claim(withWill("c", 0))
		equal(h, "due", h.due(h.in(5000), 10), []string{})
		h.nextDue(time.Time{})
	}},
	{"Due has the longest overdue first and removes nothing", func(h *harness) {
		for clientID, seconds := range map[string]int{"a": 10, "b": -20, "c": -10, "d": 1000} {
			h.do(offlineWill(h.claim(withWill(clientID, 0)).Session, h.in(seconds)))
		}
		equal(h, "before", h.due(h.in(-21), 10), []string{})
		equal(h, "at the due time", h.due(h.in(-20), 10), []string{"b"})
		for range 2 {
			equal(h, "due", h.due(h.in(100), 10), []string{"b", "c", "a"})
		}
		equal(h, "limit", h.due(h.in(5000), 2), []string{"b", "c"})
		equal(h, "limit 0", h.due(h.in(5000), 0), []string{})
		h.nextDue(h.in(-20))
	}},
	{"a Will that is published is removed in the same step", func(h *harness) {
		q := h.queue("subscriber")
		se := h.claim(withWill("c", 0)).Session
		h.do(offlineWill(se, h.in(-10)))
		op := publishWill(se, q)
		op.Retain = true
		h.do(op)
		equal(h, "due", h.due(h.in(5000), 10), []string{})
		h.nextDue(time.Time{})
		op = h.commit(op)[0]
		equal(h, "again", op.Result, store.Gone)
		equal(h, "target", op.Targets[0].Result, store.Gone)
		equal(h, "queue", h.payloads(q), []string{"will of c"})
		equal(h, "retained", h.retained("topic"), []string{"will of c"})
		equal(h, "OldWill", h.claim(durable("c")).OldWill, nil)
	}},
	{"a Will is named by ClientID and Epoch", func(h *harness) {
		q := h.queue("subscriber")
		se := h.claim(withWill("c", 0)).Session
		other := se
		other.Epoch++
		equal(h, "other epoch", h.result(publishWill(other, q)), store.Gone)
		other = se
		other.ID.ClientID = "other"
		equal(h, "other client", h.result(publishWill(other, q)), store.Gone)
		equal(h, "queue", h.payloads(q), []string{})
		h.do(publishWill(se, q)) // it need not be due
	}},
	{"a Will whose client disconnects is dropped", func(h *harness) {
		se := h.claim(withWill("c", 0)).Session
		h.do(offline(se))
		equal(h, "due", h.due(h.in(5000), 10), []string{})
		equal(h, "publish", h.result(publishWill(se)), store.Gone)
		equal(h, "OldWill", h.claim(durable("c")).OldWill, nil)
	}},
	{"offline without a due time makes it due now", func(h *harness) {
		se := h.claim(withWill("c", 0)).Session
		h.do(offlineWill(se, time.Time{}))
		h.dueNow(se)
	}},
	{"the Will of a session that is not durable outlives it", func(h *harness) {
		q := h.queue("subscriber")
		c := withWill("c", 0)
		c.Durable = false
		se := h.claim(c).Session
		h.do(offlineWill(se, h.in(-1)))
		h.lookupGone("c")
		equal(h, "due", h.due(h.in(0), 10), []string{"c"})
		claimed := h.claim(c) // the next one has a Will too
		equal(h, "OldWill", claimed.OldWill, nil)
		equal(h, "due", h.due(h.in(0), 10), []string{"c"})
		h.do(publishWill(se, q))
		h.do(publishWill(claimed.Session, q))
	}},
	{"ending a session makes its Will due", func(h *harness) {
		for i, end := range []func(store.Session){
			func(se store.Session) { h.do(endSession(se)) },
			func(se store.Session) {
				h.do(offlineWill(se, h.in(1000)))
				h.do(endSession(se))
			},
		} {
			se := h.claim(withWill(fmt.Sprint("c", i), 1000)).Session
			end(se)
			h.dueNow(se)
			h.do(publishWill(se))
		}
	}},
	{"ending a session leaves a Will that was due as it is", func(h *harness) {
		se := h.claim(withWill("c", 0)).Session
		h.do(offlineWill(se, h.in(-50)))
		h.do(endSession(se))
		h.nextDue(h.in(-50))
	}},
	{"a takeover publishes a Will without delay", func(h *harness) {
		se := h.claim(withWill("c", 0)).Session
		claimed := h.claim(withWill("c", 0))
		h.isOldWill(claimed, se, true)
		h.dueNow(se)
		h.do(publishWill(se))
		h.do(publishWill(claimed.Session))
	}},
	{"a takeover cancels a Will with delay", func(h *harness) {
		se := h.claim(withWill("c", 30)).Session
		h.isOldWill(h.claim(durable("c")), se, false)
		equal(h, "due", h.due(h.in(5000), 10), []string{})
		equal(h, "publish", h.result(publishWill(se)), store.Gone)
	}},
	{"a resume within the delay cancels the Will", func(h *harness) {
		se := h.claim(withWill("c", 1000)).Session
		h.do(offlineWill(se, h.in(1000)))
		h.isOldWill(h.claim(durable("c")), se, false)
		equal(h, "due", h.due(h.in(5000), 10), []string{})
		equal(h, "publish", h.result(publishWill(se)), store.Gone)
	}},
	{"a resume after the delay does not", func(h *harness) {
		se := h.claim(withWill("c", 5)).Session
		h.do(offlineWill(se, h.in(-20)))
		claimed := h.claim(durable("c"))
		equal(h, "Present", claimed.Present, true)
		h.isOldWill(claimed, se, true)
		h.nextDue(h.in(-20))
	}},
	{"the end of the session before makes its Will due", func(h *harness) {
		for i, prepare := range []func(store.Session){
			func(store.Session) {},
			func(se store.Session) { h.do(offlineWill(se, h.in(1000))) },
		} {
			clientID := fmt.Sprint("c", i)
			se := h.claim(withWill(clientID, 1000)).Session
			prepare(se)
			c := withWill(clientID, 1000)
			c.CleanStart = true
			claimed := h.claim(c)
			h.isOldWill(claimed, se, true)
			h.dueNow(se)
			h.do(publishWill(se))
			h.do(offline(claimed.Session))
		}
	}},
	{"Wills of several connections wait for their publication", func(h *harness) {
		q := h.queue("subscriber")
		var sessions []store.Session
		for range 4 {
			sessions = append(sessions, h.claim(withWill("c", 0)).Session)
		}
		equal(h, "due", h.due(h.in(100), 10), []string{"c", "c", "c"})
		for _, se := range sessions {
			h.do(publishWill(se, q))
		}
		equal(h, "queue", len(h.payloads(q)), 4)
	}},
}

// isOldWill checks that a claim answered with the Will of se, and whether it
// is still to be published.
func (h *harness) isOldWill(claimed store.Claimed, se store.Session, due bool) {
	h.Helper()
	w := claimed.OldWill
	if w == nil {
		h.Fatal("OldWill: got none")
	}
	equal(h, "ClientID", w.ClientID, se.ID.ClientID)
	equal(h, "Epoch", w.Epoch, se.Epoch)
	equal(h, "payload", string(w.Message.Payload), "will of "+se.ID.ClientID)
	equal(h, "due", !w.Due.IsZero(), due)
}
