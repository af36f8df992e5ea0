package storetest

import (
	"fmt"
	"slices"

	"loopmq/store"
)

// stepCommit commits some random operations in one batch.
func (m *model) stepCommit() {
	var ops []store.Op
	for range 1 + m.rng.IntN(4) {
		ops = append(ops, m.randomOp())
	}
	results := m.commit(slices.Clone(ops)...)
	for i, op := range ops {
		want := m.apply(&op, results[i].Targets)
		equal(m.harness, "Dropped", results[i].Dropped, op.Dropped)
		if results[i].Result != want {
			m.Errorf("%+v: got result %v, want %v", op, results[i].Result, want)
		}
	}
}

func (m *model) randomOp() store.Op {
	se := m.session()
	op := store.Op{Session: se.ID, Epoch: se.Epoch, SessionExpiryInterval: m.rng.Uint32()}
	switch m.rng.IntN(16) {
	case 0, 1, 2, 3, 4, 5:
		op.Kind = store.OpPublish
		op.Message = m.message()
		for range m.rng.IntN(4) {
			op.Targets = append(op.Targets, m.target(m.queue()))
		}
		op.Retain = m.chance(4)
		switch m.rng.IntN(4) {
		case 0:
			op.PacketID = uint16(1 + m.rng.IntN(3))
		case 1:
			if len(m.willID) > 0 {
				id := pick(m, m.willID)
				op.WillOf = &store.Will{ClientID: id.clientID, Epoch: id.epoch}
			}
		}
	case 6:
		op.Kind = store.OpFinish
		op.Numbers = m.numbers(store.QueueOf(se.ID))
	case 7:
		op.Kind = store.OpRelease
		op.Numbers = m.numbers(store.QueueOf(se.ID))
	case 8:
		op.Kind = store.OpComplete
		if s := m.sessions[se.ID.ClientID]; s != nil {
			for n := range s.released {
				op.Numbers = append(op.Numbers, n)
			}
		}
	case 9:
		op.Kind = store.OpUnhold
		op.PacketID = uint16(1 + m.rng.IntN(3))
	case 10:
		op.Kind = pick(m, []store.OpKind{store.OpSubscribe, store.OpUnsubscribe})
		for range m.rng.IntN(3) {
			op.Subscriptions = append(op.Subscriptions, subscription(pick(m, []string{"a", "b/+", "#"}), m.rng.Uint32N(100)))
		}
	case 11:
		op.Kind = store.OpRetain
		op.Message = m.message()
	case 12:
		op.Kind = store.OpDropExpiredRetained
		op.Message = &store.Message{TopicName: []byte(m.topicName())}
		op.Due = m.in(modelNow)
	case 13:
		op.Kind = store.OpMove
		op.From = m.queue()
		if !m.chance(4) {
			op.Targets = []store.Target{m.target(m.queue())}
			op.Targets[0].QoS = byte(m.rng.IntN(3))
		}
		if op.Numbers = m.numbers(op.From); len(op.Numbers) == 0 {
			op.Limit = m.rng.IntN(4)
		}
		if m.chance(2) {
			op.Epoch = 0
		}
	case 14:
		op.Kind = store.OpOffline
		op.Sent = m.sent(store.QueueOf(se.ID))
		op.Due = m.due()
		op.WillRemoved = m.chance(3)
		op.WillDue = m.due()
	case 15:
		op.Kind = store.OpEndSession
		op.Sent = m.sent(store.QueueOf(se.ID))
		if m.chance(3) {
			op.Epoch = 0
		}
	}
	return op
}

func (m *model) message() *store.Message {
	m.count++
	msg := &store.Message{
		TopicName: []byte(m.topicName()), PublisherID: fmt.Sprint("message", m.count),
		QoS: byte(1 + m.rng.IntN(2)), Retain: m.chance(2), Expiry: m.due(),
	}
	if !m.chance(4) {
		msg.Payload = []byte("payload")
	}
	return msg
}

func (m *model) target(q store.QueueID) store.Target {
	t := store.Target{Queue: q, QoS: byte(1 + m.rng.IntN(2)), Retain: m.chance(2)}
	for range m.rng.IntN(3) {
		t.SubscriptionIdentifiers = append(t.SubscriptionIdentifiers, m.rng.Uint32N(100))
	}
	if m.chance(2) {
		t.ShareName, t.TopicFilter = "share", "g/1"
	}
	return t
}
