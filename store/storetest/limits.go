package storetest

import (
	"fmt"
	"strings"

	"loopmq/store"
)

// slack is how many entries a queue may be beyond its limits, which are soft.
const slack = 64

// fill appends n messages of some 1000 bytes to q in batches of 10, each known
// by its index and at QoS 1 and 2 by turns, and returns how many were refused, and
// dropped at each QoS.
func (h *harness) fill(q store.QueueID, n int) (refused int, dropped [3]int) {
	h.Helper()
	for i := 0; i < n; {
		b := &store.Batch{}
		for range 10 {
			op := publish(fmt.Sprintf("%d %s", i, strings.Repeat("x", 990)), q)
			op.Targets[0].QoS = byte(1 + i%2)
			b.Add(op)
			i++
		}
		h.noError(h.w.Commit(h.Context(), b))
		for _, op := range b.Ops {
			equal(h, "result", op.Result, store.Done)
			t := op.Targets[0]
			for qos, n := range t.Dropped {
				dropped[qos] += n
			}
			switch t.Result {
			case store.Done:
			case store.Refused:
				refused++
				equal(h, "number of a refused message", t.Number, store.Number{})
			default:
				h.Errorf("target: got result %v", t.Result)
			}
		}
	}
	return refused, dropped
}

// indexes returns what fill appended and is still there.
func (h *harness) indexes(q store.QueueID) []int {
	h.Helper()
	var indexes []int
	for _, payload := range h.payloads(q) {
		var i int
		if _, err := fmt.Sscan(payload, &i); err != nil {
			h.Fatal(err)
		}
		indexes = append(indexes, i)
	}
	return indexes
}

// limited claims a session with limits.
func (h *harness) limited(limits store.Limits) store.QueueID {
	h.Helper()
	c := durable("limited")
	c.Limits = limits
	return store.QueueOf(h.claim(c).Session.ID)
}

var limitTests = []test{
	{"DropNewest refuses by number", func(h *harness) {
		h.dropNewest(store.Limits{Messages: 100})
	}},
	{"DropNewest refuses by bytes", func(h *harness) {
		h.dropNewest(store.Limits{Bytes: 100 * 1000})
	}},
	{"DropOldest makes room by number", func(h *harness) {
		h.dropOldest(store.Limits{Policy: store.DropOldest, Messages: 100})
	}},
	{"DropOldest makes room by bytes", func(h *harness) {
		h.dropOldest(store.Limits{Policy: store.DropOldest, Bytes: 100 * 1000})
	}},
	{"DropOldest leaves the protected by number", func(h *harness) {
		h.dropOldest(store.Limits{Policy: store.DropOldest, Messages: 100, Protected: 20})
	}},
	{"DropOldest leaves the protected by bytes", func(h *harness) {
		h.dropOldest(store.Limits{Policy: store.DropOldest, Bytes: 100 * 1000, Protected: 20})
	}},
	{"DropOldest refuses when all is protected", func(h *harness) {
		h.dropNewest(store.Limits{Policy: store.DropOldest, Messages: 100, Protected: 1000})
	}},
	{"zero is no limit", func(h *harness) {
		q := h.limited(store.Limits{})
		refused, dropped := h.fill(q, 500)
		equal(h, "refused", refused, 0)
		equal(h, "dropped", dropped, [3]int{})
		equal(h, "entries", len(h.indexes(q)), 500)
	}},
	{"a queue with room again takes messages again", func(h *harness) {
		q := h.limited(store.Limits{Messages: 100})
		h.fill(q, 200)
		h.do(store.Op{Kind: store.OpFinish, Session: q.Session, Numbers: numbersOf(h.entries(q))})
		refused, _ := h.fill(q, 100)
		equal(h, "refused", refused, 0)
	}},
	{"a claim changes the limits", func(h *harness) {
		q := h.limited(store.Limits{Messages: 10})
		h.limited(store.Limits{})
		refused, _ := h.fill(q, 200)
		equal(h, "refused", refused, 0)
	}},
	{"a full queue stops no other", func(h *harness) {
		full, other := h.limited(store.Limits{Messages: 10}), h.queue("other")
		h.fill(full, 200)
		op := h.do(publish("message", full, other))
		equal(h, "full", op.Targets[0].Result, store.Refused)
		equal(h, "other", op.Targets[1].Result, store.Done)
	}},
	{"a group has no limits", func(h *harness) {
		g := store.GroupQueue("share", "a")
		refused, dropped := h.fill(g, 300)
		equal(h, "refused", refused, 0)
		equal(h, "dropped", dropped, [3]int{})
	}},
}

// dropNewest expects limits for about 100 messages to let the first ones in.
func (h *harness) dropNewest(limits store.Limits) {
	q := h.limited(limits)
	refused, dropped := h.fill(q, 300)
	indexes := h.indexes(q)
	equal(h, "dropped", dropped, [3]int{})
	equal(h, "refused and queued", refused+len(indexes), 300)
	h.softly(len(indexes))
	for i, index := range indexes[:90] {
		equal(h, "oldest entries", index, i)
	}
}

// dropOldest expects limits for about 100 messages to let all in, at the cost
// of the oldest that are not protected.
func (h *harness) dropOldest(limits store.Limits) {
	q := h.limited(limits)
	refused, dropped := h.fill(q, 300)
	indexes := h.indexes(q)
	equal(h, "refused", refused, 0)
	gone := [3]int{1: 150, 2: 150}
	for _, index := range indexes {
		gone[1+index%2]--
	}
	equal(h, "dropped", dropped, gone)
	h.softly(len(indexes))
	for i, index := range indexes {
		want := i
		if i >= limits.Protected {
			want = 300 - len(indexes) + i
		}
		equal(h, "entry", index, want)
	}
}

// softly checks the length of a queue whose limits are for 100 messages. Bytes
// hold some less, as a size is more than its payload.
func (h *harness) softly(n int) {
	h.Helper()
	if n < 95 || n > 100+slack {
		h.Errorf("got %d entries, want 100 and at most %d more", n, slack)
	}
}

// boundedBytes is the bound of the store in fullTests.
const boundedBytes = 100 * 1000

var fullTests = []test{
	{"what has no room is Full and changes nothing", func(h *harness) {
		se := h.session("c")
		q := store.QueueOf(se.ID)
		numbers := h.untilFull(q)
		before := len(h.entries(q))
		op := publish(strings.Repeat("x", 1000), q)
		op.Session, op.Epoch, op.PacketID, op.Retain = se.ID, se.Epoch, 1, true
		op = h.commit(op)[0]
		equal(h, "publish", op.Result, store.Full)
		equal(h, "target", op.Targets[0].Result, store.Full)
		equal(h, "retain", h.result(retain("topic", strings.Repeat("x", 1000))), store.Full)
		equal(h, "entries", len(h.entries(q)), before)
		equal(h, "retained", h.retained("topic"), []string{""})
		claimed := h.claim(durable("c"))
		equal(h, "held", len(claimed.Held), 0)
		// What needs no room has it.
		h.do(publish(strings.Repeat("x", 1000)))
		h.do(retain("topic", ""))
		// What goes makes room.
		h.do(store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: numbers[:10]})
		op.Epoch, op.Result = claimed.Session.Epoch, store.Pending
		h.do(op)
	}},
	{"a message that is in many queues counts once", func(h *harness) {
		var queues []store.QueueID
		for i := range 50 {
			queues = append(queues, h.queue(fmt.Sprint("client", i)))
		}
		h.do(publish(strings.Repeat("x", boundedBytes/4), queues...))
		h.do(publish(strings.Repeat("x", boundedBytes/4), queues...))
	}},
	{"a retained message is replaced in its own room", func(h *harness) {
		for range 5 {
			h.do(retain("topic", strings.Repeat("x", boundedBytes*2/3)))
		}
		for range 5 {
			op := publish(strings.Repeat("x", boundedBytes*2/3))
			op.Retain, op.Message.TopicName = true, []byte("topic")
			h.do(op)
		}
		equal(h, "second topic", h.result(retain("other", strings.Repeat("x", boundedBytes*2/3))), store.Full)
		h.do(retain("topic", ""))
		h.do(retain("other", strings.Repeat("x", boundedBytes*2/3)))
	}},
	{"a retained message that is in a queue still needs its room", func(h *harness) {
		op := publish(strings.Repeat("x", boundedBytes*2/3), h.queue("c"))
		op.Retain = true
		h.do(op)
		equal(h, "replacement", h.result(retain("topic", strings.Repeat("x", boundedBytes*2/3))), store.Full)
	}},
	{"a Will has room of its own", func(h *harness) {
		c := durable("c")
		c.Will = &store.Will{Message: *message(strings.Repeat("x", boundedBytes*2/3)), ExpirySeconds: -1}
		se := h.claim(c).Session
		q := h.queue("other")
		op := publish(strings.Repeat("x", boundedBytes*2/3), q)
		op.WillOf = &store.Will{ClientID: "c", Epoch: se.Epoch}
		h.do(op)
		equal(h, "entries", len(h.entries(q)), 1)
	}},
	{"a session gives its room back when it ends", func(h *harness) {
		for range 3 {
			se := h.session("c")
			h.untilFull(store.QueueOf(se.ID))
			h.do(endSession(se))
		}
	}},
	{"moved messages need no room", func(h *harness) {
		a, b := h.queue("a"), h.queue("b")
		n := len(h.untilFull(a))
		h.do(store.Op{Kind: store.OpMove, From: a, Limit: noLimit, Targets: []store.Target{{Queue: b}}})
		equal(h, "a", len(h.entries(a)), 0)
		equal(h, "b", len(h.entries(b)), n)
	}},
}

// untilFull appends messages to q until the store is full.
func (h *harness) untilFull(q store.QueueID) []store.Number {
	h.Helper()
	for i := range 200 {
		if op := h.commit(publish(strings.Repeat("x", 1000), q))[0]; op.Result == store.Full {
			if i < 80 {
				h.Errorf("full after %d messages of 1000 bytes", i)
			}
			return numbersOf(h.entries(q))
		}
	}
	h.Fatal("the store never gets full")
	return nil
}
