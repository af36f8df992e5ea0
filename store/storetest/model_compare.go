package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"loopmq/store"
)

// compareQueues compares all queues, and takes over the numbers that a commit
// did not tell.
func (m *model) compareQueues() {
	queues := map[store.QueueID]bool{}
	for q := range m.queues {
		queues[q] = true
	}
	for _, se := range m.known {
		queues[store.QueueOf(se.ID)] = true
	}
	for q := range queues {
		entries, err := m.s.Messages().Read(m.Context(), q, store.Number{}, noLimit, 0)
		if !m.exists(q) {
			m.isError("Read of a queue that is gone", err, store.ErrGone)
			continue
		}
		if errors.Is(err, store.ErrGone) {
			m.Fatalf("queue %v is gone", q)
		}
		m.noError(err)
		want := m.queues[q]
		if len(entries) != len(want) {
			m.Fatalf("queue %v: got %d entries, want %d", q, len(entries), len(want))
		}
		bytes := 0
		for i, e := range entries {
			bytes += e.Message.Size()
			if want[i].number.IsZero() {
				want[i].number = e.Number
			}
			equal(m.harness, "entry", modelEntry{
				number: e.Number, publisherID: e.Message.PublisherID,
				messageQoS: e.Message.QoS, qos: e.QoS, messageRetain: e.Message.Retain, retain: e.Retain,
				identifiers: fmt.Sprint(e.SubscriptionIdentifiers), shareName: e.ShareName, topicFilter: e.TopicFilter,
			}, want[i])
		}
		n, gotBytes, last := m.len(q)
		equal(m.harness, "Len", n, len(want))
		equal(m.harness, "bytes", gotBytes, bytes)
		m.follows(q, last)
		m.last[q] = last
	}
}

// follows checks the last number of q against the one that was last before. A
// group's queue that was empty may begin again anywhere behind that.
func (m *model) follows(q store.QueueID, last store.Number) {
	before := m.last[q]
	next := before.Seq + m.appended[q]
	switch {
	case last.Less(before):
		m.Errorf("last number: got %v after %v", last, before)
	case last.Generation == before.Generation && (last.Seq < next || last.Seq > next && !q.IsGroup()):
		m.Errorf("last number: got %v after %v and %d more entries", last, before, m.appended[q])
	}
	m.appended[q] = 0
}

// compare compares all but the queues.
func (m *model) compare() {
	var clientIDs []string
	for _, clientID := range []string{"a", "b", "c", "d"} {
		se := m.sessions[clientID]
		if se == nil {
			m.lookupGone(clientID)
			continue
		}
		m.sameSession("Lookup", m.lookup(clientID), se.Session)
		if se.Durable || se.Owner != "" {
			clientIDs = append(clientIDs, clientID)
		}
		if se.stored {
			equal(m.harness, "subscriptions", m.subscriptions(se.ID), append([]store.Subscription{}, se.sorted()...))
		}
	}
	equal(m.harness, "List", m.listAll(store.SessionQuery{Limit: noLimit}), append([]string{}, clientIDs...))
	m.compareDue()
	m.compareRetained()
}

func (m *model) compareDue() {
	var next time.Time
	expired := []string{}
	for _, clientID := range slices.Sorted(maps.Keys(m.sessions)) {
		due := m.sessions[clientID].Due
		if m.past(due) {
			expired = append(expired, clientID)
		}
		if !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	m.nextExpiry(next)
	got := m.expired(m.in(modelNow), noLimit)
	slices.Sort(got)
	equal(m.harness, "Expired", got, expired)

	for _, past := range []bool{true, false} {
		now := m.in(modelNow)
		if !past {
			now = m.in(10 * modelFuture)
		}
		want := map[modelWillID]bool{}
		for id, w := range m.wills {
			if !w.online && (w.past || !past) {
				want[id] = true
			}
		}
		due, err := m.s.Wills().Due(m.Context(), now, noLimit)
		m.noError(err)
		got := map[modelWillID]bool{}
		for i, w := range due {
			got[modelWillID{w.ClientID, w.Epoch}] = true
			if i > 0 && w.Due.Before(due[i-1].Due) {
				m.Errorf("Wills are not in the order of their due times")
			}
		}
		equal(m.harness, "Wills", got, want)
	}
}

func (m *model) compareRetained() {
	expired := []string{}
	for _, topicName := range []string{"t/1", "t/2", "t/3"} {
		messages, err := m.s.Retained().Read(m.Context(), []string{topicName})
		m.noError(err)
		r, ok := m.retained[topicName]
		if ok && m.past(r.expiry) {
			expired = append(expired, topicName)
			ok = false
		}
		got := ""
		if messages[0] != nil {
			got = messages[0].PublisherID
		}
		if !ok {
			r.publisherID = ""
		}
		equal(m.harness, "retained "+topicName, got, r.publisherID)
	}
	got := m.retainedExpired(m.in(modelNow), noLimit)
	slices.Sort(got)
	equal(m.harness, "expired topics", got, expired)
	topicNames := slices.DeleteFunc(m.retainedTopics("", noLimit), func(topicName string) bool { return slices.Contains(expired, topicName) })
	for topicName := range m.retained {
		if !slices.Contains(expired, topicName) && !slices.Contains(topicNames, topicName) {
			m.Errorf("topic %s is not in the list", topicName)
		}
	}
	for _, topicName := range topicNames {
		if _, ok := m.retained[topicName]; !ok {
			m.Errorf("topic %s is in the list", topicName)
		}
	}
}
