package storetest

import (
	"fmt"
	"math/rand/v2"

	"loopmq/store"
)

var queueTests = []test{
	{"an entry holds the delivery and the message", func(h *harness) {
		q := h.queue("c")
		m := &store.Message{
			TopicName: []byte("a/b"), Payload: []byte("payload\x00"), Properties: []byte{1, 1},
			QoS: 2, Retain: true, Expiry: h.in(600), PublisherID: "publisher",
		}
		h.do(store.Op{Kind: store.OpPublish, Message: m, Targets: []store.Target{{
			Queue: q, QoS: 1, Retain: true, SubscriptionIdentifiers: []uint32{7, 268435455},
			ShareName: "share", TopicFilter: "a/+",
		}}})
		entries := h.entries(q)
		if len(entries) != 1 {
			h.Fatalf("got %d entries, want 1", len(entries))
		}
		e := entries[0]
		h.sameMessage("message", e.Message, m)
		equal(h, "QoS", e.QoS, 1)
		equal(h, "Retain", e.Retain, true)
		equal(h, "SubscriptionIdentifiers", e.SubscriptionIdentifiers, []uint32{7, 268435455})
		equal(h, "ShareName", e.ShareName, "share")
		equal(h, "TopicFilter", e.TopicFilter, "a/+")
	}},
	{"an empty payload is kept", func(h *harness) {
		q := h.queue("c")
		h.enqueue(q, "")
		equal(h, "queue", h.payloads(q), []string{""})
	}},
	{"entries are the caller's", func(h *harness) {
		q := h.queue("c")
		op := publish("message", q)
		op.Targets[0].SubscriptionIdentifiers = []uint32{1}
		h.do(op)
		h.entries(q)[0].SubscriptionIdentifiers[0] = 2
		equal(h, "identifiers", h.entries(q)[0].SubscriptionIdentifiers, []uint32{1})
	}},
	{"numbers start at 1 and are contiguous", func(h *harness) {
		q := h.queue("c")
		numbers := h.enqueue(q, "1", "2", "3")
		numbers = append(numbers, h.enqueue(q, "4", "5")...)
		equal(h, "read numbers", numbersOf(h.entries(q)), numbers)
		for i, n := range numbers {
			equal(h, "number", n, store.Number{Generation: numbers[0].Generation, Seq: uint64(i + 1)})
		}
	}},
	{"queues number their entries each by itself", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		h.enqueue(a, "1", "2")
		op := h.do(publish("3", a, b))
		equal(h, "a", op.Targets[0].Number.Seq, 3)
		equal(h, "b", op.Targets[1].Number.Seq, 1)
	}},
	{"a message goes to all its targets", func(h *harness) {
		var queues []store.QueueID
		for i := range 200 {
			queues = append(queues, h.queue(fmt.Sprint("client", i)))
		}
		op := h.do(publish("message", queues...))
		for i, q := range queues {
			equal(h, "target", op.Targets[i].Result, store.Done)
			equal(h, "queue", h.payloads(q), []string{"message"})
		}
	}},
	{"each target has its own delivery", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		op := publish("message", a, b)
		op.Targets[1].QoS, op.Targets[1].Retain, op.Targets[1].SubscriptionIdentifiers = 2, true, []uint32{5}
		h.do(op)
		ea, eb := h.entries(a)[0], h.entries(b)[0]
		equal(h, "a: QoS", ea.QoS, 1)
		equal(h, "a: Retain", ea.Retain, false)
		equal(h, "a: identifiers", len(ea.SubscriptionIdentifiers), 0)
		equal(h, "b: QoS", eb.QoS, 2)
		equal(h, "b: Retain", eb.Retain, true)
		equal(h, "b: identifiers", eb.SubscriptionIdentifiers, []uint32{5})
	}},
	{"a target that is gone stops no other", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		gone := store.QueueOf(store.SessionID{ClientID: "none", Incarnation: 1})
		op := h.do(publish("message", a, gone, b))
		equal(h, "a", op.Targets[0].Result, store.Done)
		equal(h, "gone", op.Targets[1].Result, store.Gone)
		equal(h, "gone: number", op.Targets[1].Number, store.Number{})
		equal(h, "b", op.Targets[2].Result, store.Done)
		equal(h, "a", h.payloads(a), []string{"message"})
		equal(h, "b", h.payloads(b), []string{"message"})
	}},
	{"a queue may be a target twice", func(h *harness) {
		q := h.queue("c")
		h.do(publish("message", q, q))
		equal(h, "queue", h.payloads(q), []string{"message", "message"})
	}},
	{"there is a queue only for what was claimed as durable", func(h *harness) {
		se := h.session("c")
		h.gone(store.QueueOf(store.SessionID{ClientID: "none", Incarnation: se.ID.Incarnation}))
		h.gone(store.QueueOf(store.SessionID{ClientID: "c", Incarnation: se.ID.Incarnation + 1}))
		passing := h.claim(store.Claim{ClientID: "d", Owner: "node"}).Session
		h.gone(store.QueueOf(passing.ID))
		equal(h, "append", h.do(publish("message", store.QueueOf(passing.ID))).Targets[0].Result, store.Gone)
		equal(h, "finish", h.result(store.Op{Kind: store.OpFinish, Session: passing.ID}), store.Gone)
	}},
	{"a new queue is empty", func(h *harness) {
		q := h.queue("c")
		equal(h, "entries", len(h.entries(q)), 0)
		n, bytes, last := h.len(q)
		equal(h, "Len", n, 0)
		equal(h, "bytes", bytes, 0)
		equal(h, "last", last, store.Number{})
	}},
	{"Read begins after a number", func(h *harness) {
		q := h.queue("c")
		numbers := h.enqueue(q, "1", "2", "3", "4")
		for i, n := range numbers {
			entries, err := h.s.Messages().Read(h.Context(), q, n, noLimit, 0)
			h.noError(err)
			equal(h, "numbers after", append([]store.Number{}, numbersOf(entries)...), append([]store.Number{}, numbers[i+1:]...))
		}
		// The number that Read starts from need not be there any more.
		h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: numbers[1:3]})
		entries, err := h.s.Messages().Read(h.Context(), q, numbers[1], noLimit, 0)
		h.noError(err)
		equal(h, "numbers after one that is finished", numbersOf(entries), numbers[3:])
		// All of an older generation is before, all of a newer one after.
		newer := store.Number{Generation: numbers[0].Generation + 1, Seq: 1}
		entries, err = h.s.Messages().Read(h.Context(), q, newer, noLimit, 0)
		h.noError(err)
		equal(h, "entries after a newer generation", len(entries), 0)
		older := store.Number{Generation: numbers[0].Generation - 1, Seq: 1000}
		entries, err = h.s.Messages().Read(h.Context(), q, older, noLimit, 0)
		h.noError(err)
		equal(h, "entries after an older generation", len(entries), 2)
	}},
	{"Read returns at most limit entries", func(h *harness) {
		q := h.queue("c")
		h.enqueue(q, "1", "2", "3")
		for limit := range 5 {
			entries, err := h.s.Messages().Read(h.Context(), q, store.Number{}, limit, 0)
			h.noError(err)
			equal(h, "entries", payloadsOf(entries), []string{"1", "2", "3"}[:min(limit, 3)])
		}
	}},
	{"Read stops early once messages exceed maxBytes", func(h *harness) {
		q := h.queue("c")
		big := string(make([]byte, 1000))
		h.enqueue(q, big, big, big, big)
		size := message(big).Size()
		for _, maxBytes := range []int{1, size - 1, size, 2 * size, 3*size - 1, 10 * size} {
			entries, err := h.s.Messages().Read(h.Context(), q, store.Number{}, noLimit, maxBytes)
			h.noError(err)
			// The one that exceeds the bound may be the last of the answer.
			if within := min(4, maxBytes/size); len(entries) < max(1, within) || len(entries) > min(4, within+1) {
				h.Errorf("maxBytes %d: got %d entries of %d bytes", maxBytes, len(entries), size)
			}
		}
	}},
	{"Len counts entries and their sizes", func(h *harness) {
		q := h.queue("c")
		numbers := h.enqueue(q, "1", "22", "333")
		n, bytes, last := h.len(q)
		equal(h, "Len", n, 3)
		equal(h, "bytes", bytes, message("1").Size()+message("22").Size()+message("333").Size())
		equal(h, "last", last, numbers[2])
		h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: numbers[1:]})
		n, bytes, last = h.len(q)
		equal(h, "Len", n, 1)
		equal(h, "bytes", bytes, message("1").Size())
		equal(h, "last", last, numbers[2])
	}},
	{"the last number outlives an empty queue", func(h *harness) {
		q := h.queue("c")
		numbers := h.enqueue(q, "1", "2")
		h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: numbers})
		equal(h, "queue", h.payloads(q), []string{})
		_, _, last := h.len(q)
		equal(h, "last", last, numbers[1])
		equal(h, "last of a claim", h.claim(durable("c")).Last, numbers[1])
		equal(h, "next", h.enqueue(q, "3")[0], store.Number{Generation: numbers[1].Generation, Seq: 3})
	}},
	{"a session that began anew has a new queue", func(h *harness) {
		old := h.queue("c")
		h.enqueue(old, "old")
		c := durable("c")
		c.CleanStart = true
		q := store.QueueOf(h.claim(c).Session.ID)
		equal(h, "old", h.do(publish("late", old)).Targets[0].Result, store.Gone)
		equal(h, "finish", h.result(store.Op{Kind: store.OpFinish, Session: old.Session}), store.Gone)
		h.gone(old)
		equal(h, "queue", h.payloads(q), []string{})
	}},
	{"entries finish in any order", func(h *harness) {
		q := h.queue("c")
		h.enqueue(q, "1", "2", "3", "4", "5")
		numbers := numbersOf(h.entries(q))
		for _, step := range []struct {
			finish []store.Number
			left   []string
		}{
			{[]store.Number{numbers[2]}, []string{"1", "2", "4", "5"}},
			{[]store.Number{numbers[4], numbers[0]}, []string{"2", "4"}},
			{[]store.Number{numbers[0], numbers[2]}, []string{"2", "4"}}, // again
			{nil, []string{"2", "4"}},
			{[]store.Number{numbers[3], numbers[3], numbers[1]}, []string{}},
		} {
			h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: step.finish})
			equal(h, "queue", h.payloads(q), step.left)
		}
	}},
	{"an owner finishes a queue that it sends in order", func(h *harness) {
		q := h.queue("c")
		numbers := h.enqueue(q, "1", "2", "3", "4", "5")
		for _, step := range []struct {
			finish     []store.Number
			unfinished store.Number
			left       []string
		}{
			{[]store.Number{numbers[1]}, numbers[0], []string{"1", "3", "4", "5"}},
			{[]store.Number{numbers[0], numbers[3]}, numbers[2], []string{"3", "5"}},
			{[]store.Number{numbers[2]}, numbers[4], []string{"5"}},
			{[]store.Number{numbers[4]}, store.Number{Generation: numbers[4].Generation, Seq: numbers[4].Seq + 1}, []string{}},
		} {
			op := store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: step.finish, Unfinished: step.unfinished}
			equal(h, "finish", h.do(op).Result, store.Done)
			equal(h, "queue", h.payloads(q), step.left)
		}
		equal(h, "next", h.enqueue(q, "6")[0].Seq, numbers[4].Seq+1)
	}},
	{"numbers that never were are passed over", func(h *harness) {
		q := h.queue("c")
		n := h.enqueue(q, "1")[0]
		h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: []store.Number{
			{},
			{Generation: n.Generation, Seq: 0},
			{Generation: n.Generation, Seq: 2},
			{Generation: n.Generation + 1, Seq: n.Seq},
			{Generation: n.Generation - 1, Seq: n.Seq},
		}})
		equal(h, "queue", h.payloads(q), []string{"1"})
	}},
	{"a message stays in other queues when one finishes it", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		op := h.do(publish("message", a, b))
		h.do(store.Op{Kind: store.OpFinish, Session: a.Session, Numbers: []store.Number{op.Targets[0].Number}})
		equal(h, "a", h.payloads(a), []string{})
		equal(h, "b", h.payloads(b), []string{"message"})
	}},
	{"expired messages stay until they are finished", func(h *harness) {
		q := h.queue("c")
		op := publish("message", q)
		op.Message.Expiry = h.in(-10)
		h.do(op)
		equal(h, "queue", h.payloads(q), []string{"message"})
	}},
	{"a queue goes with its session", func(h *harness) {
		se := h.session("c")
		h.enqueue(store.QueueOf(se.ID), "message")
		h.do(endSession(se))
		h.gone(store.QueueOf(se.ID))
	}},
	{"a long queue finishes at random", func(h *harness) {
		const n = 1500
		seed := rand.Uint64()
		h.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		q := h.queue("c")
		var left, payloads []string
		for i := range n {
			payloads = append(payloads, fmt.Sprint(i))
		}
		numbers := h.enqueue(q, payloads...)
		keep := make([]bool, n)
		for range 50 {
			keep[rng.IntN(n)] = true
		}
		var finish []store.Number
		for _, i := range rng.Perm(n) {
			if !keep[i] {
				finish = append(finish, numbers[i])
			}
		}
		for len(finish) > 0 {
			part := min(len(finish), 1+rng.IntN(200))
			h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: finish[:part]})
			finish = finish[part:]
		}
		for i, payload := range payloads {
			if keep[i] {
				left = append(left, payload)
			}
		}
		equal(h, "queue", h.payloads(q), left)
		equal(h, "next number", h.enqueue(q, "last")[0].Seq, n+1)
	}},
}

var groupTests = []test{
	{"a group comes with its first entry and goes with its last", func(h *harness) {
		g := store.GroupQueue("share", "a/#")
		h.gone(g)
		member := h.queue("member")
		numbers := h.enqueue(g, "1", "2")
		equal(h, "group", h.payloads(g), []string{"1", "2"})
		n, _, last := h.len(g)
		equal(h, "Len", n, 2)
		equal(h, "last", last, numbers[1])
		h.do(move(g, member, numbers...))
		h.gone(g)
	}},
	{"groups differ by ShareName and TopicFilter", func(h *harness) {
		queues := []store.QueueID{
			store.GroupQueue("share", "a"), store.GroupQueue("share", "b"), store.GroupQueue("other", "a"),
		}
		for i, q := range queues {
			h.enqueue(q, fmt.Sprint(i))
		}
		for i, q := range queues {
			equal(h, "group", h.payloads(q), []string{fmt.Sprint(i)})
		}
	}},
	{"a group that comes again does not reuse a number", func(h *harness) {
		g := store.GroupQueue("share", "a/#")
		member := h.queue("member")
		seen := map[store.Number]bool{}
		for range 3 {
			numbers := h.enqueue(g, "1", "2")
			for _, n := range numbers {
				if seen[n] {
					h.Errorf("number %v names a second message", n)
				}
				seen[n] = true
			}
			h.do(move(g, member, numbers...))
		}
	}},
}
