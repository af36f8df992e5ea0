package storetest

import (
	"fmt"

	"loopmq/codec"
	"loopmq/store"
)

func subscription(topicFilter string, identifier uint32) store.Subscription {
	return store.Subscription{
		TopicFilter:            topicFilter,
		Options:                codec.SubscriptionOptions{QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
		SubscriptionIdentifier: identifier,
	}
}

func subscribe(kind store.OpKind, se store.Session, subscriptions ...store.Subscription) store.Op {
	return store.Op{Kind: kind, Session: se.ID, Epoch: se.Epoch, Subscriptions: subscriptions}
}

// subscriptions returns those of a session.
func (h *harness) subscriptions(id store.SessionID) []store.Subscription {
	h.Helper()
	subscriptions, err := h.s.Subscriptions().Of(h.Context(), id)
	h.noError(err)
	return append([]store.Subscription{}, subscriptions...)
}

// listed is what Subscriptions.List says, as ClientID and number of subscriptions
// and queued entries.
func (h *harness) listed(after string, limit int) (list []string) {
	h.Helper()
	all, err := h.s.Subscriptions().List(h.Context(), after, limit)
	h.noError(err)
	for _, sub := range all {
		h.sameSession("session", sub.Session, h.lookup(sub.Session.ID.ClientID))
		equal(h, "subscriptions", append([]store.Subscription{}, sub.Subscriptions...), h.subscriptions(sub.Session.ID))
		list = append(list, fmt.Sprintf("%s %d %d", sub.Session.ID.ClientID, len(sub.Subscriptions), sub.Queued))
	}
	return list
}

var subscriptionTests = []test{
	{"List has the durable sessions in order", func(h *harness) {
		b, a := h.session("b"), h.session("a")
		h.do(subscribe(store.OpSubscribe, b, subscription("x", 1), subscription("$share/g/y", 2)))
		h.do(subscribe(store.OpSubscribe, a, subscription("x", 1)))
		h.enqueue(store.QueueOf(b.ID), "1", "2", "3")
		h.session("c")
		h.claim(store.Claim{ClientID: "d", Owner: "node"})
		equal(h, "all", h.listed("", 10), []string{"a 1 0", "b 2 3", "c 0 0"})
		equal(h, "page", h.listed("a", 1), []string{"b 2 3"})
		equal(h, "end", h.listed("c", 10), []string(nil))
		h.do(endSession(b))
		equal(h, "after the end of one", h.listed("", 10), []string{"a 1 0", "c 0 0"})
	}},
	{"subscriptions are ordered by TopicFilter", func(h *harness) {
		se := h.session("c")
		equal(h, "none", h.subscriptions(se.ID), []store.Subscription{})
		h.do(subscribe(store.OpSubscribe, se, subscription("b", 1), subscription("$share/g/a", 2)))
		h.do(subscribe(store.OpSubscribe, se, subscription("a/#", 3), subscription("#", 4)))
		want := []store.Subscription{subscription("#", 4), subscription("$share/g/a", 2), subscription("a/#", 3), subscription("b", 1)}
		equal(h, "subscriptions", h.subscriptions(se.ID), want)
		equal(h, "of a claim", h.claim(durable("c")).Subscriptions, want)
	}},
	{"one with the same TopicFilter is replaced", func(h *harness) {
		se := h.session("c")
		h.do(subscribe(store.OpSubscribe, se, subscription("a", 1), subscription("b", 1)))
		replaced := store.Subscription{TopicFilter: "a", Options: codec.SubscriptionOptions{QoS: 1, RetainHandling: 1}}
		h.do(subscribe(store.OpSubscribe, se, replaced))
		equal(h, "subscriptions", h.subscriptions(se.ID), []store.Subscription{replaced, subscription("b", 1)})
	}},
	{"unsubscribing goes by TopicFilter", func(h *harness) {
		se := h.session("c")
		h.do(subscribe(store.OpSubscribe, se, subscription("a", 1), subscription("b", 2), subscription("c", 3)))
		h.do(subscribe(store.OpUnsubscribe, se, store.Subscription{TopicFilter: "a"}, store.Subscription{TopicFilter: "none"}, store.Subscription{TopicFilter: "c"}))
		equal(h, "subscriptions", h.subscriptions(se.ID), []store.Subscription{subscription("b", 2)})
	}},
	{"sessions subscribe each for themselves", func(h *harness) {
		a, b := h.session("a"), h.session("b")
		h.do(subscribe(store.OpSubscribe, a, subscription("t", 1)))
		equal(h, "b", h.subscriptions(b.ID), []store.Subscription{})
		equal(h, "a", h.subscriptions(a.ID), []store.Subscription{subscription("t", 1)})
	}},
	{"what is not a stored session has none", func(h *harness) {
		se := h.session("c")
		for _, id := range []store.SessionID{{}, {ClientID: "none", Incarnation: 1}, {ClientID: "c", Incarnation: se.ID.Incarnation + 1}} {
			_, err := h.s.Subscriptions().Of(h.Context(), id)
			h.isError("Of", err, store.ErrGone)
		}
	}},
}
