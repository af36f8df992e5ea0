package storetest

import (
	"loopmq/store"
)

// move returns an operation that leaves the entries as they are.
func move(from, to store.QueueID, numbers ...store.Number) store.Op {
	return store.Op{Kind: store.OpMove, From: from, Numbers: numbers, Targets: []store.Target{{Queue: to}}}
}

var moveTests = []test{
	{"numbered entries move and get new numbers", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		h.enqueue(b, "0")
		numbers := h.enqueue(a, "1", "2", "3", "4")
		op := h.do(move(a, b, numbers[1], numbers[3]))
		equal(h, "from", h.payloads(a), []string{"1", "3"})
		equal(h, "to", h.payloads(b), []string{"0", "2", "4"})
		equal(h, "target", op.Targets[0].Result, store.Done)
		equal(h, "moved", payloadsOf(op.Targets[0].Moved), []string{"2", "4"})
		equal(h, "new numbers", numbersOf(op.Targets[0].Moved), numbersOf(h.entries(b))[1:])
	}},
	{"numbers that are not there are passed over", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		numbers := h.enqueue(a, "1", "2")
		h.do(move(a, b, numbers[0]))
		op := h.do(move(a, b, numbers...))
		equal(h, "moved", payloadsOf(op.Targets[0].Moved), []string{"2"})
		op = h.do(move(a, b, numbers...))
		equal(h, "moved", payloadsOf(op.Targets[0].Moved), []string{})
		equal(h, "to", h.payloads(b), []string{"1", "2"})
	}},
	{"a limit moves the first entries", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		h.enqueue(a, "1", "2", "3")
		op := move(a, b)
		op.Limit = 2
		op = h.do(op)
		equal(h, "from", h.payloads(a), []string{"3"})
		equal(h, "to", h.payloads(b), []string{"1", "2"})
		// The operation still has the results of the first time.
		op = h.do(op)
		equal(h, "moved", payloadsOf(op.Targets[0].Moved), []string{"3"})
		equal(h, "from", h.payloads(a), []string{})
		equal(h, "to", h.payloads(b), []string{"1", "2", "3"})
		op.Limit = 0
		h.enqueue(a, "4")
		h.do(op)
		equal(h, "from with neither numbers nor limit", h.payloads(a), []string{"4"})
	}},
	{"a moved number is not given out again", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		h.do(move(a, b, h.enqueue(a, "1")...))
		equal(h, "next", h.enqueue(a, "2")[0].Seq, 2)
	}},
	{"a target that is gone leaves From as it is", func(h *harness) {
		a := h.queue("a")
		numbers := h.enqueue(a, "1")
		op := h.commit(move(a, store.QueueOf(store.SessionID{ClientID: "none", Incarnation: 1}), numbers...))[0]
		equal(h, "result", op.Result, store.Gone)
		equal(h, "target", op.Targets[0].Result, store.Gone)
		equal(h, "from", h.payloads(a), []string{"1"})
	}},
	{"from a queue that is gone nothing moves", func(h *harness) {
		b := h.queue("b")
		g := store.GroupQueue("share", "a")
		equal(h, "from a session", h.result(move(store.QueueOf(store.SessionID{ClientID: "none", Incarnation: 1}), b)), store.Gone)
		equal(h, "from a group", h.result(move(g, b)), store.Gone)
		equal(h, "from one group to another", h.result(move(g, store.GroupQueue("share", "b"))), store.Gone)
		h.gone(store.GroupQueue("share", "b"))
	}},
	{"a group does not come into being without an entry", func(h *harness) {
		a, g := h.queue("a"), store.GroupQueue("share", "a")
		op := move(a, g)
		op.Limit = 10
		h.do(op)
		h.gone(g)
	}},
	{"a member's entries go to the group and on to another member", func(h *harness) {
		a, b, g := h.queue("a"), h.queue("b"), store.GroupQueue("share", "t/#")
		op := publish("message", a)
		op.Message.Retain = true
		op.Targets[0] = store.Target{
			Queue: a, QoS: 1, Retain: true, SubscriptionIdentifiers: []uint32{1},
			ShareName: "share", TopicFilter: "t/#",
		}
		h.do(op)
		for _, step := range []struct {
			from   store.QueueID
			target store.Target
			qos    byte
			retain bool
			ids    []uint32
		}{
			{a, store.Target{Queue: g, QoS: 2}, 2, false, nil},
			{g, store.Target{Queue: b, QoS: 1, Retain: true, SubscriptionIdentifiers: []uint32{2, 3}}, 1, true, []uint32{2, 3}},
			{b, store.Target{Queue: a}, 1, true, []uint32{2, 3}}, // QoS 0: as it is
		} {
			moved := h.do(store.Op{Kind: store.OpMove, From: step.from, Limit: 10, Targets: []store.Target{step.target}})
			entries := h.entries(step.target.Queue)
			equal(h, "moved", numbersOf(moved.Targets[0].Moved), numbersOf(entries))
			for _, e := range append(entries, moved.Targets[0].Moved...) {
				equal(h, "QoS", e.QoS, step.qos)
				equal(h, "Retain", e.Retain, step.retain)
				equal(h, "identifiers", append([]uint32(nil), e.SubscriptionIdentifiers...), step.ids)
				equal(h, "ShareName", e.ShareName, "share")
				equal(h, "TopicFilter", e.TopicFilter, "t/#")
				equal(h, "payload", string(e.Message.Payload), "message")
			}
		}
	}},
	{"RETAIN is not set for a message that had none", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		h.enqueue(a, "message")
		h.do(store.Op{Kind: store.OpMove, From: a, Limit: 1, Targets: []store.Target{{Queue: b, QoS: 1, Retain: true}}})
		equal(h, "Retain", h.entries(b)[0].Retain, false)
	}},
	{"what the target has no room for stays", func(h *harness) {
		for _, policy := range []store.Policy{store.DropNewest, store.DropOldest} {
			from := store.GroupQueue("share", "a")
			h.fill(from, 300)
			c := durable("limited")
			c.CleanStart, c.Limits = true, store.Limits{Messages: 100, Policy: policy}
			to := store.QueueOf(h.claim(c).Session.ID)
			op := move(from, to)
			op.Limit = 300
			op = h.do(op)
			equal(h, "target", op.Targets[0].Result, store.Done)
			moved := h.indexes(to)
			h.softly(len(moved))
			for i, index := range append(moved, h.indexes(from)...) {
				equal(h, "index", index, i)
			}
			// Soft limits may let a few more in, but not for ever.
			for range slack {
				op = move(from, to)
				op.Limit = 1
				op = h.do(op)
			}
			equal(h, "full target", op.Targets[0].Result, store.Refused)
			equal(h, "moved", len(op.Targets[0].Moved), 0)
			h.do(store.Op{Kind: store.OpMove, From: from, Limit: noLimit, Targets: []store.Target{{Queue: h.queue("drain")}}})
			c = durable("drain")
			c.CleanStart = true
			h.claim(c)
		}
	}},
	{"without a target entries are removed", func(h *harness) {
		a, g := h.queue("a"), store.GroupQueue("share", "a")
		for _, q := range []store.QueueID{a, g} {
			numbers := h.enqueue(q, "1", "2", "3")
			h.do(store.Op{Kind: store.OpMove, From: q, Numbers: numbers[1:2]})
			equal(h, "queue", h.payloads(q), []string{"1", "3"})
			equal(h, "once more", h.result(store.Op{Kind: store.OpMove, From: q, Numbers: numbers[1:2]}), store.Gone)
			h.do(store.Op{Kind: store.OpMove, From: q, Limit: 10})
			equal(h, "queue", h.payloads(q), []string{})
		}
		h.gone(g)
		equal(h, "again", h.result(store.Op{Kind: store.OpMove, From: g, Limit: 10}), store.Gone)
	}},
	{"an Epoch guards it", func(h *harness) {
		se, b := h.session("a"), h.queue("b")
		a := store.QueueOf(se.ID)
		numbers := h.enqueue(a, "1", "2")
		h.session("a") // a later claim
		op := move(a, b, numbers...)
		op.Session, op.Epoch = se.ID, se.Epoch
		op = h.commit(op)[0]
		equal(h, "result", op.Result, store.Fenced)
		equal(h, "target", op.Targets[0].Result, store.Fenced)
		equal(h, "from", h.payloads(a), []string{"1", "2"})
		op.Epoch = h.lookup("a").Epoch
		h.do(op)
		equal(h, "to", h.payloads(b), []string{"1", "2"})
	}},
}
