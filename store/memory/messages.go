package memory

import (
	"context"

	"loopmq/store"
)

type messagesView struct{ *Store }

// groupID is the key of a group queue.
type groupID struct{ shareName, topicFilter string }

func (v messagesView) Read(_ context.Context, id store.QueueID, after store.Number, limit, maxBytes int) ([]store.Entry, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	q, _ := v.queue(id)
	if q == nil {
		return nil, store.ErrGone
	}
	var (
		entries []store.Entry
		bytes   int
	)
	for i := q.after(after); i < len(q.slots) && len(entries) < limit; i++ {
		sl := q.slots[i]
		if sl.message == nil {
			continue
		}
		bytes += sl.message.Size()
		if maxBytes != 0 && bytes > maxBytes && len(entries) > 0 {
			break
		}
		if entries == nil {
			entries = make([]store.Entry, 0, min(limit, q.live))
		}
		entries = append(entries, q.entry(sl))
	}
	return entries, nil
}

func (v messagesView) Len(_ context.Context, id store.QueueID) (entries, bytes int, last store.Number, err error) {
	if err := v.lock(); err != nil {
		return 0, 0, store.Number{}, err
	}
	defer v.mu.Unlock()
	q, _ := v.queue(id)
	if q == nil {
		return 0, 0, store.Number{}, store.ErrGone
	}
	return q.live, q.bytes, q.lastNumber(), nil
}

// queue returns the queue id and its limits, or nil if there is none.
// REQUIRES: s.mu
func (s *Store) queue(id store.QueueID) (*queue, store.Limits) {
	if id.IsGroup() {
		return s.groups[groupID{id.ShareName, id.TopicFilter}], store.Limits{}
	}
	se := s.sessions[id.Session.ClientID]
	if se == nil || se.ID.Incarnation != id.Session.Incarnation || se.state == nil {
		return nil, store.Limits{}
	}
	return &se.state.queue, se.Limits
}

// queueToAppend is queue, but a group comes into being.
// REQUIRES: s.mu; something is appended next, or forgetIfEmpty called
func (s *Store) queueToAppend(id store.QueueID) (*queue, store.Limits) {
	q, limits := s.queue(id)
	if q == nil && id.IsGroup() {
		s.generation++
		q = &queue{generation: s.generation}
		s.groups[groupID{id.ShareName, id.TopicFilter}] = q
	}
	return q, limits
}

// forgetIfEmpty ends a group without entries. REQUIRES: s.mu
func (s *Store) forgetIfEmpty(id store.QueueID, q *queue) {
	if id.IsGroup() && q.live == 0 {
		delete(s.groups, groupID{id.ShareName, id.TopicFilter})
	}
}

// dropAll gives up the messages of a queue that ends. REQUIRES: s.mu
func (s *Store) dropAll(q *queue) {
	for _, sl := range q.slots[q.head:] {
		if sl.message != nil {
			s.drop(sl.message)
		}
	}
}
