package storetest

import (
	"loopmq/store"
)

// hold returns the publication of a QoS 2 message by se.
func hold(se store.Session, packetID uint16, payload string, queues ...store.QueueID) store.Op {
	op := publish(payload, queues...)
	op.Session, op.Epoch, op.PacketID = se.ID, se.Epoch, packetID
	return op
}

var handshakeTests = []test{
	{"a held Packet Identifier makes the message a duplicate", func(h *harness) {
		se, q := h.session("publisher"), h.queue("subscriber")
		h.do(hold(se, 1, "first", q))
		again := hold(se, 1, "again", q)
		again.Retain = true
		again = h.commit(again)[0]
		equal(h, "again", again.Result, store.Duplicate)
		equal(h, "target", again.Targets[0].Result, store.Duplicate)
		h.do(hold(se, 2, "second", q))
		equal(h, "queue", h.payloads(q), []string{"first", "second"})
		equal(h, "retained", h.retained("topic"), []string{""})
		equal(h, "Held", h.claim(durable("publisher")).Held, []uint16{1, 2})
	}},
	{"a released Packet Identifier is free", func(h *harness) {
		se, q := h.session("publisher"), h.queue("subscriber")
		h.do(hold(se, 1, "first", q))
		h.do(store.Op{Kind: store.OpUnhold, Session: se.ID, Epoch: se.Epoch, PacketID: 1})
		h.do(hold(se, 1, "second", q))
		equal(h, "queue", h.payloads(q), []string{"first", "second"})
		for range 2 { // the second time it isn't there any more
			h.do(store.Op{Kind: store.OpUnhold, Session: se.ID, Epoch: se.Epoch, PacketID: 1})
		}
		equal(h, "Held", len(h.claim(durable("publisher")).Held), 0)
	}},
	{"Packet Identifiers are held within one batch", func(h *harness) {
		se, q := h.session("publisher"), h.queue("subscriber")
		ops := h.commit(
			hold(se, 1, "first", q),
			hold(se, 1, "again", q),
			store.Op{Kind: store.OpUnhold, Session: se.ID, Epoch: se.Epoch, PacketID: 1},
			hold(se, 1, "second", q),
		)
		equal(h, "again", ops[1].Result, store.Duplicate)
		equal(h, "queue", h.payloads(q), []string{"first", "second"})
	}},
	{"clients hold Packet Identifiers each for themselves", func(h *harness) {
		a, b, q := h.session("a"), h.session("b"), h.queue("subscriber")
		h.do(hold(a, 1, "a", q))
		h.do(hold(b, 1, "b", q))
		equal(h, "queue", h.payloads(q), []string{"a", "b"})
	}},
	{"a message without targets is held", func(h *harness) {
		se := h.session("publisher")
		h.do(hold(se, 1, "nobody"))
		equal(h, "again", h.result(hold(se, 1, "nobody")), store.Duplicate)
	}},
	{"many Packet Identifiers are held in order", func(h *harness) {
		se := h.session("publisher")
		b := &store.Batch{}
		var want []uint16
		for i := range 1000 {
			b.Add(hold(se, uint16(i*7919%65535+1), ""))
		}
		h.noError(h.w.Commit(h.Context(), b))
		held := h.claim(durable("publisher")).Held
		equal(h, "held", len(held), 1000)
		for i, packetID := range held {
			if i > 0 && packetID <= held[i-1] {
				h.Fatalf("%d comes after %d", packetID, held[i-1])
			}
		}
		b.Reset()
		se = h.lookup("publisher")
		for i, packetID := range held {
			if i%3 == 0 {
				want = append(want, packetID)
				continue
			}
			b.Add(store.Op{Kind: store.OpUnhold, Session: se.ID, Epoch: se.Epoch, PacketID: packetID})
		}
		h.noError(h.w.Commit(h.Context(), b))
		equal(h, "held", h.claim(durable("publisher")).Held, want)
	}},
	{"a release takes the entry out and remembers its number", func(h *harness) {
		se := h.session("c")
		q := store.QueueOf(se.ID)
		n := h.enqueue(q, "1", "2", "3", "4")
		h.do(store.Op{Kind: store.OpRelease, Session: se.ID, Epoch: se.Epoch, Numbers: []store.Number{n[2], n[0]}})
		equal(h, "queue", h.payloads(q), []string{"2", "4"})
		claimed := h.claim(durable("c"))
		equal(h, "Released", claimed.Released, []store.Number{n[0], n[2]})
		se = claimed.Session
		for range 2 {
			h.do(store.Op{Kind: store.OpRelease, Session: se.ID, Epoch: se.Epoch, Numbers: []store.Number{n[0], n[1]}})
		}
		equal(h, "queue", h.payloads(q), []string{"4"})
		claimed = h.claim(durable("c"))
		equal(h, "Released", claimed.Released, n[:3])
		se = claimed.Session
		for range 2 {
			h.do(store.Op{Kind: store.OpComplete, Session: se.ID, Epoch: se.Epoch, Numbers: []store.Number{n[1], n[3]}})
		}
		claimed = h.claim(durable("c"))
		equal(h, "Released", claimed.Released, []store.Number{n[0], n[2]})
		equal(h, "Last", claimed.Last, n[3])
	}},
	{"numbers of several generations are released in order", func(h *harness) {
		se := h.session("c")
		numbers := []store.Number{{Generation: 1, Seq: 2}, {Generation: 1, Seq: 900}, {Generation: 2, Seq: 1}, {Generation: 2, Seq: 3}}
		h.do(store.Op{Kind: store.OpRelease, Session: se.ID, Epoch: se.Epoch, Numbers: []store.Number{numbers[2], numbers[1], numbers[3], numbers[0]}})
		equal(h, "Released", h.claim(durable("c")).Released, numbers)
	}},
}
