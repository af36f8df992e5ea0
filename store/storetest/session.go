package storetest

import (
	"fmt"
	"slices"
	"time"

	"loopmq/codec"
	"loopmq/store"
)

// clientIDs returns the ClientIDs of sessions.
func clientIDs(sessions []store.Session) []string {
	ids := []string{}
	for _, se := range sessions {
		ids = append(ids, se.ID.ClientID)
	}
	return ids
}

func (h *harness) list(q store.SessionQuery) store.SessionPage {
	h.Helper()
	page, err := h.s.Sessions().List(h.Context(), q)
	h.noError(err)
	return page
}

// listAll goes through all pages of a list.
func (h *harness) listAll(q store.SessionQuery) []string {
	h.Helper()
	all := []string{}
	for {
		page := h.list(q)
		if len(page.Sessions) > q.Limit {
			h.Fatalf("got %d sessions, want at most %d", len(page.Sessions), q.Limit)
		}
		all = append(all, clientIDs(page.Sessions)...)
		if page.Next == "" {
			return all
		}
		if page.Next <= q.After {
			h.Fatalf("the page behind %q has the Next %q", q.After, page.Next)
		}
		q.After = page.Next
	}
}

func (h *harness) expired(now time.Time, limit int) []string {
	h.Helper()
	sessions, err := h.s.Sessions().Expired(h.Context(), now, limit)
	h.noError(err)
	return clientIDs(sessions)
}

// nextExpiry checks when the next session is due; zero: none is.
func (h *harness) nextExpiry(want time.Time) {
	h.Helper()
	got, ok, err := h.s.Sessions().NextExpiry(h.Context())
	h.noError(err)
	equal(h, "a session is due", ok, !want.IsZero())
	if ok && !got.Equal(want) {
		h.Errorf("NextExpiry: got %v, want %v", got, want)
	}
}

// offlineUntil claims a session and takes it offline.
func (h *harness) offlineUntil(clientID string, due time.Time) store.Session {
	h.Helper()
	se := h.session(clientID)
	op := offline(se)
	op.Due = due
	h.do(op)
	return se
}

var sessionTests = []test{
	{"Lookup finds what is stored", func(h *harness) {
		h.lookupGone("c")
		se := h.session("c")
		h.sameSession("Lookup", h.lookup("c"), se)
		h.lookupGone("C")
		h.lookupGone("")
	}},
	{"List goes through sessions in order", func(h *harness) {
		equal(h, "List of nothing", h.listAll(store.SessionQuery{Limit: 10}), []string{})
		all, connected := []string{}, []string{}
		for i := range 25 {
			clientID := fmt.Sprint("client", i)
			switch i % 3 {
			case 0:
				h.session(clientID)
				connected = append(connected, clientID)
			case 1:
				h.claim(store.Claim{ClientID: clientID, Owner: "node"})
				connected = append(connected, clientID)
			default:
				h.offlineUntil(clientID, h.in(100))
			}
			all = append(all, clientID)
		}
		ended := h.claim(store.Claim{ClientID: "client0.ended", Owner: "node"}).Session
		h.do(offline(ended))
		slices.Sort(all)
		slices.Sort(connected)
		for _, limit := range []int{1, 3, 24, 25, 100} {
			equal(h, fmt.Sprint("List by ", limit), h.listAll(store.SessionQuery{Limit: limit}), all)
			equal(h, fmt.Sprint("connected ones by ", limit), h.listAll(store.SessionQuery{Limit: limit, Connected: true}), connected)
			equal(h, fmt.Sprint("those with a prefix by ", limit), h.listAll(store.SessionQuery{Limit: limit, Prefix: "client1"}), all[1:12])
		}
		equal(h, "after one that is not there", clientIDs(h.list(store.SessionQuery{After: "client24x", Limit: 1}).Sessions), []string{"client3"})
		equal(h, "limit 0", len(h.list(store.SessionQuery{}).Sessions), 0)
		equal(h, "behind all with the prefix", h.listAll(store.SessionQuery{After: "client2", Prefix: "client1", Limit: 3}), []string{})
	}},
	{"a session says what its last connection was, and how it ended", func(h *harness) {
		first := store.Connection{
			Username: "u:1 2", Address: "[2001:db8::1]:1883", Listener: "tls", ProtocolVersion: codec.V5, KeepAlive: 60, CleanStart: true,
			Since: h.in(-5),
		}
		c := durable("c")
		c.Connection = first
		se := h.claim(c).Session
		same := func(what string, want store.Connection, end *store.Disconnected) {
			h.Helper()
			for from, got := range map[string]store.Session{"Lookup": h.lookup("c"), "List": h.list(store.SessionQuery{Limit: 1}).Sessions[0]} {
				if !got.Connection.Since.Equal(want.Since) {
					h.Errorf("%s: %s: got %v, want %v", what, from, got.Connection.Since, want.Since)
				}
				got.Connection.Since = want.Since
				equal(h, what+": "+from+": connection", got.Connection, want)
				if (got.Disconnected == nil) != (end == nil) {
					h.Errorf("%s: %s: got the end %v, want %v", what, from, got.Disconnected, end)
				} else if end != nil && (!got.Disconnected.At.Equal(end.At) || got.Disconnected.Reason != end.Reason) {
					h.Errorf("%s: %s: got the end %v, want %v", what, from, *got.Disconnected, *end)
				}
			}
		}
		same("connected", first, nil)
		op := offline(se)
		op.Due, op.Disconnected = h.in(100), store.Disconnected{At: h.in(0), Reason: "no packet: it's gone"}
		h.do(op)
		same("offline", first, &op.Disconnected)
		c.Connection = store.Connection{Address: "@", Since: h.in(1)}
		h.claim(c)
		same("connected again", c.Connection, &op.Disconnected)
		c.CleanStart = true
		h.claim(c)
		same("anew", c.Connection, nil)
	}},
	{"List has sessions online and offline as they are", func(h *harness) {
		a := h.session("a")
		b := h.offlineUntil("b", h.in(100))
		b.Owner, b.Due = "", h.in(100)
		sessions := h.list(store.SessionQuery{Limit: 10}).Sessions
		if len(sessions) != 2 {
			h.Fatalf("got %d sessions, want 2", len(sessions))
		}
		h.sameSession("a", sessions[0], a)
		h.sameSession("b", sessions[1], b)
	}},
	{"offline has no owner, an interval and a due time", func(h *harness) {
		se := h.session("c")
		op := offline(se)
		op.SessionExpiryInterval, op.Due = 77, h.in(77)
		h.do(op)
		se.Owner, se.SessionExpiryInterval, se.Due = "", 77, h.in(77)
		h.sameSession("Lookup", h.lookup("c"), se)
		h.nextExpiry(h.in(77))
	}},
	{"offline twice is offline", func(h *harness) {
		se := h.session("c")
		op := offline(se)
		op.Due = h.in(100)
		h.do(op)
		op.Due = h.in(50)
		h.do(op)
		h.nextExpiry(h.in(50))
	}},
	{"Expired has the longest overdue first", func(h *harness) {
		h.nextExpiry(time.Time{})
		due := map[string]int{"a": -10, "b": -30, "c": 1000, "d": -20, "e": 2000}
		for clientID, seconds := range due {
			h.offlineUntil(clientID, h.in(seconds))
		}
		h.offlineUntil("never", time.Time{})
		h.session("online")
		equal(h, "before", h.expired(h.in(-31), 10), []string{})
		equal(h, "at the due time", h.expired(h.in(-30), 10), []string{"b"})
		equal(h, "now", h.expired(h.in(0), 10), []string{"b", "d", "a"})
		equal(h, "limit", h.expired(h.in(0), 2), []string{"b", "d"})
		equal(h, "limit 0", h.expired(h.in(0), 0), []string{})
		equal(h, "all", h.expired(h.in(5000), 10), []string{"b", "d", "a", "c", "e"})
		h.nextExpiry(h.in(-30))
	}},
	{"Expired deletes nothing", func(h *harness) {
		se := h.offlineUntil("c", h.in(-5))
		for range 2 {
			equal(h, "expired", h.expired(h.in(0), 10), []string{"c"})
		}
		se.Owner, se.Due = "", h.in(-5)
		h.sameSession("Lookup", h.lookup("c"), se)
	}},
	{"a claim takes a session out of Expired", func(h *harness) {
		h.offlineUntil("a", h.in(100))
		h.offlineUntil("b", h.in(200))
		h.session("a")
		h.nextExpiry(h.in(200))
		equal(h, "expired", h.expired(h.in(5000), 10), []string{"b"})
	}},
	{"ending deletes all state", func(h *harness) {
		claimed, _ := h.stateful("c")
		h.do(endSession(claimed.Session))
		h.lookupGone("c")
		h.gone(store.QueueOf(claimed.Session.ID))
		_, err := h.s.Subscriptions().Of(h.Context(), claimed.Session.ID)
		h.isError("Subscriptions", err, store.ErrGone)
		equal(h, "List", h.listAll(store.SessionQuery{Limit: 10}), []string{})
		equal(h, "again", h.result(endSession(claimed.Session)), store.Gone)
		h.sameState(h.claim(durable("c")), store.Claimed{})
	}},
	{"what a session leaves in its queue is counted when it ends, by QoS", func(h *harness) {
		for what, end := range map[string]func(se store.Session, sent store.Number) [3]int{
			"OpEndSession": func(se store.Session, sent store.Number) [3]int {
				op := endSession(se)
				op.Sent = sent
				return h.commit(op)[0].Dropped
			},
			"OpOffline": func(_ store.Session, sent store.Number) [3]int {
				se := h.claim(store.Claim{ClientID: "c", Owner: "node"}).Session // resumed, and not durable any more
				op := offline(se)
				op.Sent = sent
				return h.commit(op)[0].Dropped
			},
			"Claim": func(_ store.Session, sent store.Number) [3]int {
				c := durable("c")
				c.CleanStart, c.Sent = true, sent
				return h.claim(c).Dropped
			},
		} {
			for sent, want := range [][3]int{{0, 2, 1}, {0, 1, 1}, {0, 1, 0}, {0, 0, 0}} {
				c := durable("c")
				c.CleanStart = true
				se := h.claim(c).Session
				q := store.QueueOf(se.ID)
				var n store.Number // of the last one sent
				for i, qos := range []byte{1, 2, 1} {
					op := publish("m", q)
					op.Targets[0].QoS = qos
					if done := h.commit(op)[0]; i < sent {
						n = done.Targets[0].Number
					}
				}
				equal(h, fmt.Sprint(what, " after ", sent), end(se, n), want)
			}
		}
		se := h.session("other")
		h.enqueue(store.QueueOf(se.ID), "1")
		equal(h, "a session that goes on", h.commit(offline(se))[0].Dropped, [3]int{})
		equal(h, "a session that goes on", h.claim(durable("other")).Dropped, [3]int{})
	}},
	{"ending an expired session takes it out of Expired", func(h *harness) {
		a := h.offlineUntil("a", h.in(-5))
		h.offlineUntil("b", h.in(100))
		h.do(endSession(a))
		equal(h, "expired", h.expired(h.in(0), 10), []string{})
		h.nextExpiry(h.in(100))
	}},
	{"ending needs no Epoch", func(h *harness) {
		se := h.session("c")
		other := se
		other.ID.Incarnation++
		other.Epoch = 0
		equal(h, "other incarnation", h.result(endSession(other)), store.Gone)
		se.Epoch = 0
		h.do(endSession(se))
		h.lookupGone("c")
	}},
	{"ending leaves alone what was claimed again", func(h *harness) {
		se := h.offlineUntil("c", h.in(-5))
		expired, err := h.s.Sessions().Expired(h.Context(), h.in(0), 10)
		h.noError(err)
		claimed := h.session("c")
		equal(h, "result", h.result(endSession(expired[0])), store.Fenced)
		equal(h, "result", h.result(endSession(se)), store.Fenced)
		h.sameSession("Lookup", h.lookup("c"), claimed)
	}},
}

// fenceTests show that a connection that lost its session changes nothing of
// it.
var fenceTests = []test{
	{"guarded operations of a former connection are Fenced", func(h *harness) {
		old, want := h.stateful("c")
		now := h.session("c")
		h.fenced(old.Session, store.Fenced)
		h.sameSession("session", h.lookup("c"), now)
		h.sameState(h.claim(durable("c")), want)
	}},
	{"guarded operations of a session that began anew are Fenced", func(h *harness) {
		old, _ := h.stateful("c")
		c := durable("c")
		c.CleanStart = true
		now := h.claim(c).Session
		h.fenced(old.Session, store.Fenced)
		h.sameSession("session", h.lookup("c"), now)
		h.sameState(h.claim(durable("c")), store.Claimed{Present: true})
	}},
	{"guarded operations of a session that ended are Gone", func(h *harness) {
		old, _ := h.stateful("c")
		h.do(endSession(old.Session))
		h.fenced(old.Session, store.Gone)
		h.lookupGone("c")
	}},
	{"an Epoch that was never given is Fenced", func(h *harness) {
		se := h.session("c")
		forged := se
		forged.Epoch++
		h.fenced(forged, store.Fenced)
		h.sameSession("session", h.lookup("c"), se)
	}},
	{"finishing needs no Epoch", func(h *harness) {
		q := h.queue("c")
		numbers := h.enqueue(q, "1")
		h.session("c")
		h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: numbers})
		equal(h, "queue", h.payloads(q), []string{})
	}},
}

// fenced commits each guarded operation as se and expects the result want.
func (h *harness) fenced(se store.Session, want store.Result) {
	h.Helper()
	other := h.queue("other")
	numbers := []store.Number{{Generation: 1, Seq: 1}, {Generation: 1, Seq: 2}}
	subscriptions := []store.Subscription{{TopicFilter: "a"}}
	for what, op := range map[string]store.Op{
		"OpPublish": {
			Kind: store.OpPublish, PacketID: 9, Retain: true, Message: message("fenced"),
			Targets: []store.Target{{Queue: other, QoS: 1}},
		},
		"OpRelease":     {Kind: store.OpRelease, Numbers: numbers},
		"OpComplete":    {Kind: store.OpComplete, Numbers: numbers},
		"OpUnhold":      {Kind: store.OpUnhold, PacketID: 7},
		"OpSubscribe":   {Kind: store.OpSubscribe, Subscriptions: subscriptions},
		"OpUnsubscribe": {Kind: store.OpUnsubscribe, Subscriptions: subscriptions},
		"OpOffline":     {Kind: store.OpOffline, Due: h.in(1)},
		"OpEndSession":  {Kind: store.OpEndSession},
	} {
		op.Session, op.Epoch = se.ID, se.Epoch
		done := h.commit(op)[0]
		equal(h, what, done.Result, want)
		for _, t := range done.Targets {
			equal(h, what+": target", t.Result, want)
		}
	}
	equal(h, "other queue", h.payloads(other), []string{})
	equal(h, "retained", h.retained("topic"), []string{""})
	h.nextExpiry(time.Time{})
}
