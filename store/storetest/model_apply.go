package storetest

import (
	"fmt"
	"slices"

	"loopmq/store"
)

// apply does op in the model. Results of targets are compared here, and op.Dropped
// is set.
func (m *model) apply(op *store.Op, got []store.Target) store.Result {
	se, result := m.guard(*op)
	if result != store.Done {
		for i := range got {
			m.targetResult(got[i], result)
		}
		return result
	}
	switch op.Kind {
	case store.OpPublish:
		return m.applyPublish(*op, se, got)
	case store.OpFinish, store.OpRelease:
		q := store.QueueOf(op.Session)
		if !m.exists(q) {
			return store.Gone
		}
		m.queues[q] = slices.DeleteFunc(m.queues[q], func(e modelEntry) bool { return slices.Contains(op.Numbers, e.number) })
		if op.Kind == store.OpRelease {
			for _, n := range op.Numbers {
				se.released[n] = true
			}
		}
	case store.OpComplete:
		for _, n := range op.Numbers {
			delete(se.released, n)
		}
	case store.OpUnhold:
		delete(se.held, op.PacketID)
	case store.OpSubscribe, store.OpUnsubscribe:
		for _, sub := range op.Subscriptions {
			if delete(se.subscriptions, sub.TopicFilter); op.Kind == store.OpSubscribe {
				se.subscriptions[sub.TopicFilter] = sub
			}
		}
	case store.OpRetain:
		m.retain(op.Message)
	case store.OpDropExpiredRetained:
		r, ok := m.retained[string(op.Message.TopicName)]
		if !ok || !m.past(r.expiry) {
			return store.Gone
		}
		delete(m.retained, string(op.Message.TopicName))
	case store.OpMove:
		return m.applyMove(*op, got)
	case store.OpOffline:
		m.applyOffline(op, se)
	case store.OpEndSession:
		if w := se.will; w != nil {
			w.online, w.past = false, true
		}
		op.Dropped = m.end(se, op.Sent)
	}
	return store.Done
}

// guard returns the session of op, and whether op may go ahead.
func (m *model) guard(op store.Op) (*modelSession, store.Result) {
	se := m.sessions[op.Session.ClientID]
	var guarded, state bool
	switch op.Kind {
	case store.OpPublish:
		guarded, state = op.PacketID != 0, op.PacketID != 0
	case store.OpRelease, store.OpComplete, store.OpUnhold, store.OpSubscribe, store.OpUnsubscribe:
		guarded, state = true, true
	case store.OpOffline:
		guarded = true
	case store.OpMove:
		guarded = op.Epoch != 0
	case store.OpEndSession:
		guarded = op.Epoch != 0
		if !guarded && (se == nil || se.ID != op.Session) {
			return nil, store.Gone
		}
	}
	switch {
	case !guarded:
		return se, store.Done
	case se == nil:
		return nil, store.Gone
	case se.Epoch != op.Epoch:
		return nil, store.Fenced
	case state && !se.stored:
		return nil, store.Gone
	}
	return se, store.Done
}

func (m *model) targetResult(got store.Target, want store.Result) {
	m.Helper()
	equal(m.harness, "target", got.Result, want)
}

// exists reports whether there is a queue q.
func (m *model) exists(q store.QueueID) bool {
	if q.IsGroup() {
		return len(m.queues[q]) > 0
	}
	se := m.sessions[q.Session.ClientID]
	return se != nil && se.ID == q.Session && se.stored
}

func (m *model) applyPublish(op store.Op, se *modelSession, got []store.Target) store.Result {
	result := store.Done
	if op.PacketID != 0 && se.held[op.PacketID] {
		result = store.Duplicate
	}
	var w *modelWill
	if op.WillOf != nil {
		if w = m.wills[modelWillID{op.WillOf.ClientID, op.WillOf.Epoch}]; w == nil {
			result = store.Gone
		}
	}
	if result != store.Done {
		for i := range got {
			m.targetResult(got[i], result)
		}
		return result
	}
	if op.PacketID != 0 {
		se.held[op.PacketID] = true
	}
	if w != nil {
		delete(m.wills, w.modelWillID)
		if owner := m.sessions[w.clientID]; owner != nil && owner.will == w {
			owner.will = nil
		}
	}
	if op.Retain {
		m.retain(op.Message)
	}
	for i, t := range op.Targets {
		if !t.Queue.IsGroup() && !m.exists(t.Queue) {
			m.targetResult(got[i], store.Gone)
			continue
		}
		m.targetResult(got[i], store.Done)
		m.appended[t.Queue]++
		m.queues[t.Queue] = append(m.queues[t.Queue], modelEntry{
			number: got[i].Number, publisherID: op.Message.PublisherID,
			messageQoS: op.Message.QoS, qos: t.QoS, messageRetain: op.Message.Retain, retain: t.Retain,
			identifiers: fmt.Sprint(t.SubscriptionIdentifiers), shareName: t.ShareName, topicFilter: t.TopicFilter,
		})
	}
	return store.Done
}

func (m *model) retain(msg *store.Message) {
	delete(m.retained, string(msg.TopicName))
	if len(msg.Payload) > 0 {
		m.retained[string(msg.TopicName)] = modelRetained{msg.PublisherID, msg.Expiry}
	}
}

func (m *model) applyMove(op store.Op, got []store.Target) store.Result {
	var t store.Target
	remove := len(op.Targets) == 0
	if !remove {
		t = op.Targets[0]
	}
	if !m.exists(op.From) || !remove && !t.Queue.IsGroup() && !m.exists(t.Queue) {
		for i := range got {
			m.targetResult(got[i], store.Gone)
		}
		return store.Gone
	}
	numbers := op.Numbers
	if len(numbers) == 0 {
		for _, e := range m.queues[op.From][:min(op.Limit, len(m.queues[op.From]))] {
			numbers = append(numbers, e.number)
		}
	}
	moved, removed := 0, 0
	for _, n := range numbers {
		i := slices.IndexFunc(m.queues[op.From], func(e modelEntry) bool { return e.number == n })
		if i < 0 {
			continue
		}
		e := m.queues[op.From][i]
		m.queues[op.From] = slices.Delete(m.queues[op.From], i, i+1)
		if remove {
			removed++
			continue
		}
		if t.QoS != 0 {
			e.qos, e.retain, e.identifiers = min(t.QoS, e.messageQoS), t.Retain && e.messageRetain, fmt.Sprint(t.SubscriptionIdentifiers)
		}
		e.number = store.Number{}
		if moved < len(got[0].Moved) {
			e.number = got[0].Moved[moved].Number
		}
		moved++
		m.appended[t.Queue]++
		m.queues[t.Queue] = append(m.queues[t.Queue], e)
	}
	if !remove {
		m.targetResult(got[0], store.Done)
		equal(m.harness, "moved", len(got[0].Moved), moved)
	} else if removed == 0 {
		return store.Gone
	}
	return store.Done
}

func (m *model) applyOffline(op *store.Op, se *modelSession) {
	if w := se.will; w != nil {
		w.online = false
		switch {
		case op.WillRemoved:
			delete(m.wills, w.modelWillID)
			se.will = nil
		case op.WillDue.IsZero():
			w.past = true
		default:
			w.past = m.past(op.WillDue)
		}
	}
	if !se.Durable {
		op.Dropped = m.end(se, op.Sent)
		return
	}
	se.Owner, se.SessionExpiryInterval, se.Due = "", op.SessionExpiryInterval, op.Due
}
