package storetest

import (
	"fmt"
	"slices"
	"time"

	"loopmq/store"
)

// retain returns an operation that retains payload.
func retain(topicName, payload string) store.Op {
	return store.Op{Kind: store.OpRetain, Message: &store.Message{TopicName: []byte(topicName), Payload: []byte(payload), QoS: 1, Retain: true}}
}

// retainUntil is retain for a message that expires.
func retainUntil(topicName, payload string, expiry time.Time) store.Op {
	op := retain(topicName, payload)
	op.Message.Expiry = expiry
	return op
}

func dropExpired(topicName string, now time.Time) store.Op {
	return store.Op{Kind: store.OpDropExpiredRetained, Message: &store.Message{TopicName: []byte(topicName)}, Due: now}
}

// retained returns the payloads of the retained messages of some topics, and
// "" for a topic that has none.
func (h *harness) retained(topicNames ...string) []string {
	h.Helper()
	messages, err := h.s.Retained().Read(h.Context(), topicNames)
	h.noError(err)
	payloads := []string{}
	for _, m := range messages {
		payload := ""
		if m != nil {
			payload = string(m.Payload)
		}
		payloads = append(payloads, payload)
	}
	return payloads
}

func (h *harness) retainedTopics(after string, limit int) []string {
	h.Helper()
	topicNames, err := h.s.Retained().List(h.Context(), after, limit)
	h.noError(err)
	return append([]string{}, topicNames...)
}

func (h *harness) retainedExpired(now time.Time, limit int) []string {
	h.Helper()
	topicNames, err := h.s.Retained().Expired(h.Context(), now, limit)
	h.noError(err)
	return append([]string{}, topicNames...)
}

var retainedTests = []test{
	{"a retained message is read as it was stored", func(h *harness) {
		m := &store.Message{
			TopicName: []byte("a/b"), Payload: []byte("payload"), Properties: []byte{1, 1},
			QoS: 2, Retain: true, Expiry: h.in(600), PublisherID: "publisher",
		}
		h.do(store.Op{Kind: store.OpRetain, Message: m})
		messages, err := h.s.Retained().Read(h.Context(), []string{"a/b"})
		h.noError(err)
		h.sameMessage("message", messages[0], m)
	}},
	{"Read answers in the order of the topics", func(h *harness) {
		h.do(retain("a", "1"))
		h.do(retain("b", "2"))
		equal(h, "retained", h.retained("b", "none", "a", "b"), []string{"2", "", "1", "2"})
		equal(h, "no topics", h.retained(), []string{})
	}},
	{"a later message replaces it", func(h *harness) {
		h.commit(retain("a", "1"), retain("a", "2"))
		equal(h, "retained", h.retained("a"), []string{"2"})
		equal(h, "topics", h.retainedTopics("", 10), []string{"a"})
	}},
	{"an empty payload deletes it", func(h *harness) {
		h.do(retain("a", "1"))
		h.do(retain("b", "2"))
		for range 2 {
			h.do(retain("a", ""))
			equal(h, "retained", h.retained("a", "b"), []string{"", "2"})
			equal(h, "topics", h.retainedTopics("", 10), []string{"b"})
		}
	}},
	{"publishing retains and queues in one step", func(h *harness) {
		q := h.queue("c")
		op := publish("message", q)
		op.Retain = true
		h.do(op)
		equal(h, "retained", h.retained("topic"), []string{"message"})
		equal(h, "queue", h.payloads(q), []string{"message"})
		op = publish("", q)
		op.Retain = true
		h.do(op)
		equal(h, "retained", h.retained("topic"), []string{""})
		equal(h, "queue", h.payloads(q), []string{"message", ""})
		h.do(publish("not retained", q))
		equal(h, "retained", h.retained("topic"), []string{""})
	}},
	{"a retained message needs no target", func(h *harness) {
		op := publish("message")
		op.Retain = true
		h.do(op)
		equal(h, "retained", h.retained("topic"), []string{"message"})
	}},
	{"a retained message outlives the queues that it was in", func(h *harness) {
		se := h.session("c")
		op := publish("message", store.QueueOf(se.ID))
		op.Retain = true
		h.do(op)
		h.do(endSession(se))
		equal(h, "retained", h.retained("topic"), []string{"message"})
	}},
	{"an expired message is not read", func(h *harness) {
		h.do(retainUntil("past", "1", h.in(-1)))
		h.do(retainUntil("future", "2", h.in(1000)))
		equal(h, "retained", h.retained("past", "future"), []string{"", "2"})
	}},
	{"Expired has topics whose message had expired", func(h *harness) {
		h.do(retainUntil("a", "1", h.in(-10)))
		h.do(retainUntil("b", "2", h.in(1000)))
		h.do(retainUntil("c", "3", h.in(-20)))
		h.do(retain("d", "4"))
		equal(h, "before", h.retainedExpired(h.in(-21), 10), []string{})
		equal(h, "when it expires", h.retainedExpired(h.in(-20), 10), []string{"c"})
		for range 2 { // it deletes nothing
			got := h.retainedExpired(h.in(0), 10)
			slices.Sort(got)
			equal(h, "now", got, []string{"a", "c"})
		}
		equal(h, "limit", len(h.retainedExpired(h.in(5000), 2)), 2)
	}},
	{"a later message expires by itself", func(h *harness) {
		h.do(retainUntil("a", "1", h.in(-10)))
		h.do(retain("a", "2"))
		equal(h, "expired", h.retainedExpired(h.in(5000), 10), []string{})
		h.do(retainUntil("a", "3", h.in(1000)))
		equal(h, "expired", h.retainedExpired(h.in(0), 10), []string{})
		equal(h, "expired", h.retainedExpired(h.in(1000), 10), []string{"a"})
		h.do(retain("a", ""))
		equal(h, "expired", h.retainedExpired(h.in(5000), 10), []string{})
	}},
	{"only an expired message is dropped", func(h *harness) {
		h.do(retainUntil("past", "1", h.in(-10)))
		h.do(retainUntil("future", "2", h.in(1000)))
		h.do(retain("never", "3"))
		for _, topicName := range []string{"none", "future", "never"} {
			equal(h, topicName, h.result(dropExpired(topicName, h.in(0))), store.Gone)
		}
		equal(h, "before it expires", h.result(dropExpired("past", h.in(-11))), store.Gone)
		h.do(dropExpired("past", h.in(-10)))
		equal(h, "again", h.result(dropExpired("past", h.in(0))), store.Gone)
		equal(h, "topics", h.retainedTopics("", 10), []string{"future", "never"})
		equal(h, "expired", h.retainedExpired(h.in(0), 10), []string{})
	}},
	{"List goes through the topics in order", func(h *harness) {
		equal(h, "none", h.retainedTopics("", 10), []string{})
		var want []string
		for i := range 120 {
			topicName := fmt.Sprintf("t/%d", i*37%120)
			want = append(want, topicName)
			h.do(retain(topicName, "x"))
		}
		slices.Sort(want)
		for _, limit := range []int{1, 7, 119, 120, 1000} {
			var got []string
			for after := ""; ; {
				page := h.retainedTopics(after, limit)
				if len(page) > limit {
					h.Fatalf("got %d topics, want at most %d", len(page), limit)
				}
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
				after = page[len(page)-1]
			}
			equal(h, fmt.Sprint("List by ", limit), got, want)
		}
	}},
}
