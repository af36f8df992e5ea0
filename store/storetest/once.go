package storetest

import (
	"strings"
	"time"

	"loopmq/store"
)

// once returns a publication that happens once.
func once(key, answer string, expires time.Time, op store.Op) store.Op {
	op.Once = &store.Once{Key: key, Answer: []byte(answer), Expires: expires}
	return op
}

var onceTests = []test{
	{"a key publishes once, and has its first answer", func(h *harness) {
		q := h.queue("c")
		op := h.commit(once("k", "first", h.in(60), publish("1", q)))[0]
		equal(h, "first", op.Result, store.Done)
		equal(h, "first answer", string(op.Once.Answer), "first")
		second := once("k", "second", h.in(60), publish("2", q, q))
		second.Retain = true
		op = h.commit(second)[0]
		equal(h, "second", op.Result, store.Duplicate)
		equal(h, "target of the second", op.Targets[1].Result, store.Duplicate)
		equal(h, "second answer", string(op.Once.Answer), "first")
		equal(h, "another key", h.result(once("K", "third", h.in(60), publish("3", q))), store.Done)
		equal(h, "queue", h.payloads(q), []string{"1", "3"})
		equal(h, "retained", h.retained("topic"), []string{""})
	}},
	{"within a batch too", func(h *harness) {
		q := h.queue("c")
		ops := h.commit(once("k", "first", h.in(60), publish("1", q)), once("k", "second", h.in(60), publish("2", q)))
		equal(h, "second", ops[1].Result, store.Duplicate)
		equal(h, "second answer", string(ops[1].Once.Answer), "first")
		equal(h, "queue", h.payloads(q), []string{"1"})
	}},
	{"for another writer too", func(h *harness) {
		q := h.queue("c")
		h.do(once("k", "", h.in(60), publish("1", q)))
		b := &store.Batch{Ops: []store.Op{once("k", "second", h.in(60), publish("2", q))}}
		h.noError(h.s.NewWriter("other").Commit(h.Context(), b))
		equal(h, "second", b.Ops[0].Result, store.Duplicate)
		equal(h, "second answer", string(b.Ops[0].Once.Answer), "")
		equal(h, "queue", h.payloads(q), []string{"1"})
	}},
	{"what nobody gets is noted as well", func(h *harness) {
		h.do(once("k", "a", h.in(60), publish("1")))
		equal(h, "second", h.result(once("k", "b", h.in(60), publish("1"))), store.Duplicate)
	}},
	{"a batch that is committed again publishes", func(h *harness) {
		q := h.queue("c")
		b := &store.Batch{Ops: []store.Op{once("k", "first", h.in(60), publish("1", q)), once("k", "second", h.in(60), publish("2", q))}}
		for range 3 {
			h.noError(h.w.Commit(h.Context(), b))
			equal(h, "first", b.Ops[0].Result, store.Done)
			equal(h, "first answer", string(b.Ops[0].Once.Answer), "first")
			equal(h, "second", b.Ops[1].Result, store.Duplicate)
			equal(h, "second answer", string(b.Ops[1].Once.Answer), "first")
		}
		equal(h, "queue", h.payloads(q), []string{"1"})
	}},
	{"a key is forgotten in time", func(h *harness) {
		q := h.queue("c")
		h.do(once("k", "first", h.s.Now().Add(50*time.Millisecond), publish("1", q)))
		h.eventually("the key expires", func() bool {
			return h.result(once("k", "second", h.in(60), publish("2", q))) == store.Done
		})
		equal(h, "queue", h.payloads(q), []string{"1", "2"})
		equal(h, "third", h.result(once("k", "third", h.in(60), publish("3", q))), store.Duplicate)
	}},
	{"a key that has expired already is not noted", func(h *harness) {
		q := h.queue("c")
		h.do(once("k", "", h.in(-1), publish("1", q)))
		h.do(once("k", "", h.in(60), publish("2", q)))
		equal(h, "queue", h.payloads(q), []string{"1", "2"})
	}},
	{"keys and answers have bounds", func(h *harness) {
		q := h.queue("c")
		most := once(strings.Repeat("k", store.MaxOnceKey), strings.Repeat("a", store.MaxOnceAnswer), h.in(60), publish("1", q))
		h.do(most)
		again := h.commit(most)[0]
		equal(h, "second", again.Result, store.Duplicate)
		equal(h, "answer", len(again.Once.Answer), store.MaxOnceAnswer)
		equal(h, "key", h.result(once(strings.Repeat("k", store.MaxOnceKey+1), "", h.in(60), publish("2", q))), store.Refused)
		equal(h, "answer", h.result(once("k", strings.Repeat("a", store.MaxOnceAnswer+1), h.in(60), publish("2", q))), store.Refused)
		equal(h, "queue", h.payloads(q), []string{"1"})
	}},
	{"keys of any kind", func(h *harness) {
		for _, key := range []string{"", " ", "{a}", "b:c", "\x00\xff", "é"} {
			h.do(once(key, "answer\x00 of "+key, h.in(60), publish("1")))
			op := h.commit(once(key, "", h.in(60), publish("1")))[0]
			equal(h, "second", op.Result, store.Duplicate)
			equal(h, "answer", string(op.Once.Answer), "answer\x00 of "+key)
		}
	}},
	{"what is noted goes with what else is guarded", func(h *harness) {
		c := durable("c")
		c.Will = &store.Will{Message: *message("will"), ExpirySeconds: -1}
		se := h.claim(c).Session
		will := once("k", "first", h.in(60), publish("1"))
		will.WillOf = &store.Will{ClientID: "c", Epoch: se.Epoch + 1}
		equal(h, "another Will", h.result(will), store.Gone)
		will.WillOf.Epoch = se.Epoch
		equal(h, "the Will", h.result(will), store.Done) // the key was not noted
		equal(h, "again", h.result(will), store.Duplicate)
	}},
	{"an event goes with what happens once", func(h *harness) {
		with := event("e", "of the publication")
		with.IfPublished = true
		for i := range 2 {
			ops := h.commit(once("k", "", h.in(60), publish("1")), with)
			equal(h, "event", ops[1].Result, []store.Result{store.Done, store.Duplicate}[i])
		}
		equal(h, "matched", h.state("e").Matched, uint64(1))
	}},
}
