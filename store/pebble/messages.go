package pebble

import (
	"context"

	"loopmq/store"
)

type messagesView struct{ *Store }

// groupID names the queue of a shared-subscription group.
type groupID struct{ shareName, topicFilter string }

func (v messagesView) Read(_ context.Context, id store.QueueID, after store.Number, limit, maxBytes int) ([]store.Entry, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	var (
		q            *queue
		lower, upper []byte
		commit       uint64
	)
	err := v.look(func(t *tx) {
		if q, _ = t.uncountedQueue(id); q != nil {
			lower, upper = q.span(after)
			commit = q.commit
		}
	})
	switch {
	case err != nil:
		return nil, err
	case q == nil:
		return nil, store.ErrGone
	case limit <= 0:
		return nil, nil
	}
	var (
		snapshot = v.db.NewSnapshot() // so that a shared message is there as long as its entries
		entries  []store.Entry
		bytes    int
	)
	err = each(snapshot, lower, upper, func(key, value []byte) (bool, error) {
		r := readRecord(value)
		e := r.entry()
		if bytes += e.size; maxBytes != 0 && bytes > maxBytes && len(entries) > 0 {
			return false, nil
		}
		if r.bad {
			return false, errCorrupt
		}
		m, err := e.message(snapshot)
		entries = append(entries, e.as(numberOf(key), m))
		return len(entries) < limit, err
	})
	if closeErr := snapshot.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, v.fail(err)
	}
	if len(entries) > 0 {
		v.sawFront(q, lower, entries[0].Number)
	}
	// What is not durable yet must not be delivered: see the package's comment.
	return entries, v.waitSynced(commit)
}

// sawFront notes that first is the first entry of q from the key lower on.
func (s *Store) sawFront(q *queue, lower []byte, first store.Number) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from := numberOf(lower); !q.front.Less(from) && q.front.Less(first) {
		q.front = first
	}
}

// as returns e as a reader gets it.
func (e *entry) as(n store.Number, m *store.Message) store.Entry {
	return store.Entry{
		Number: n, Message: m, QoS: e.qos, Retain: e.retain, SubscriptionIdentifiers: e.identifiers,
		ShareName: e.shareName, TopicFilter: e.topicFilter,
	}
}

func (v messagesView) Len(_ context.Context, id store.QueueID) (entries, bytes int, last store.Number, err error) {
	if err := v.enter(); err != nil {
		return 0, 0, store.Number{}, err
	}
	defer v.leave()
	var q *queue
	err = v.look(func(t *tx) {
		if q, _ = t.queue(id); q != nil {
			entries, bytes, last = q.live, q.bytes, q.last
		}
	})
	if err == nil && q == nil {
		err = store.ErrGone
	}
	return entries, bytes, last, err
}

// queue returns the queue id and its limits, or nil if there is none.
func (t *tx) queue(id store.QueueID) (*queue, store.Limits) {
	q, limits := t.uncountedQueue(id)
	if q != nil {
		t.count(q)
	}
	return q, limits
}

// uncountedQueue is queue for those who don't need its length, nor change it.
func (t *tx) uncountedQueue(id store.QueueID) (*queue, store.Limits) {
	if id.IsGroup() {
		return t.group(groupID{id.ShareName, id.TopicFilter}), store.Limits{}
	}
	se := t.session(id.Session.ClientID)
	if se == nil || se.ID.Incarnation != id.Session.Incarnation || se.state == nil {
		return nil, store.Limits{}
	}
	return &se.state.queue, se.Limits
}

// group returns the queue of a group that has one.
func (t *tx) group(id groupID) *queue {
	s := t.s
	if q := s.groups[id]; q != nil {
		return q
	}
	q := &queue{}
	t.key = groupKey(t.key, id)
	if !t.get(t.key, func(value []byte) error {
		r := readRecord(value)
		q.number = r.fixed()
		return r.err()
	}) {
		return nil
	}
	t.openQueue(q)
	s.groups[id] = q
	return q
}

// queueToAppend is queue, but a group comes into being.
func (t *tx) queueToAppend(id store.QueueID) (*queue, store.Limits) {
	q, limits := t.queue(id)
	if !id.IsGroup() {
		return q, limits
	}
	if q == nil {
		group := groupID{id.ShareName, id.TopicFilter}
		q = &queue{number: t.nextID()}
		t.value = newRecord(t.value)
		t.value.fixed(q.number)
		t.key = groupKey(t.key, group)
		t.set(t.key, t.value)
		t.s.groups[group] = q
	}
	if q.generation == 0 {
		// Of its own: a group that comes again numbers its entries from 1 again.
		q.generation = t.nextID()
	}
	return q, limits
}

// forgetIfEmpty ends a group without entries.
func (t *tx) forgetIfEmpty(id store.QueueID, q *queue) {
	if !id.IsGroup() || q.live > 0 {
		return
	}
	t.reclaim(q)
	q.ended = true
	group := groupID{id.ShareName, id.TopicFilter}
	t.delete(groupKey(t.key[:0], group))
	t.delete(key1(t.key[:0], keyQueue, q.number))
	delete(t.s.groups, group)
}
