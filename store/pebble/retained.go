package pebble

import (
	"context"
	"time"

	"loopmq/store"
)

type retainedView struct{ *Store }

// retained is what is stored of the retained message of a topic.
type retained struct {
	expiry time.Time
	size   int
	shared uint64 // the message's id; 0: body has it
	body   []byte
}

func readRetained(value []byte) (*retained, error) {
	r := readRecord(value)
	x := &retained{expiry: r.time(), size: int(r.uint()), shared: r.fixed()}
	x.body = r.b
	return x, r.err()
}

func (v retainedView) Read(_ context.Context, topicNames []string) (messages []*store.Message, err error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	var (
		now      = v.now()
		snapshot = v.db.NewSnapshot()
		key      []byte
	)
	messages = make([]*store.Message, len(topicNames))
	for i, topicName := range topicNames {
		key = keyString(key, keyRetained, topicName)
		if _, err = get(snapshot, key, func(value []byte) error {
			x, err := readRetained(value)
			if err != nil || hasCome(x.expiry, now) {
				return err
			}
			messages[i], err = (&entry{shared: x.shared, body: x.body}).message(snapshot)
			return err
		}); err != nil {
			break
		}
	}
	if closeErr := snapshot.Close(); err == nil {
		err = closeErr
	}
	return messages, v.fail(err)
}

func (v retainedView) List(_ context.Context, afterTopicName string, limit int) ([]string, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	if limit <= 0 {
		return nil, nil
	}
	var list []string
	lower := append(keyString(nil, keyRetained, afterTopicName), 0)
	err := each(v.db, lower, []byte{keyRetained + 1}, func(key, _ []byte) (bool, error) {
		list = append(list, string(key[1:]))
		return len(list) < limit, nil
	})
	return list, v.fail(err)
}

func (v retainedView) Expired(_ context.Context, now time.Time, limit int) ([]string, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	list := []string{}
	err := v.look(func(t *tx) {
		v.retainedDue.upTo(t, now, limit, func(_ time.Time, name, _ []byte) error {
			list = append(list, string(name))
			return nil
		})
	})
	return list, err
}

// retained returns what is stored for a topic, without its body, or nil.
func (t *tx) retained(topicName []byte) (x *retained) {
	t.key = append(append(t.key[:0], keyRetained), topicName...)
	t.get(t.key, func(value []byte) (err error) {
		x, err = readRetained(value)
		x.body = nil
		return err
	})
	return x
}

// freedBy is how many bytes go with a retained message.
func (t *tx) freedBy(x *retained) int {
	if x == nil || x.shared != 0 && t.sharedOf(x.shared).refs > 1 {
		return 0
	}
	return x.size
}

// retain makes m the retained message of its topic [MQTT-3.3.1-5] instead of
// old, or deletes that if the payload is empty [MQTT-3.3.1-6].
func (t *tx) retain(m *store.Message, old *retained, body []byte, sh *shared) {
	if old != nil {
		t.dropRetained(m.TopicName, old)
	}
	if len(m.Payload) == 0 {
		return
	}
	var id uint64
	if sh != nil {
		id, body = sh.id, nil
		t.refer(sh, 1)
	} else {
		t.s.used += m.Size()
	}
	t.value = newRecord(t.value)
	t.value.time(m.Expiry)
	t.value.uint(uint64(m.Size()))
	t.value.fixed(id)
	t.value = append(t.value, body...)
	t.key = append(append(t.key[:0], keyRetained), m.TopicName...)
	t.set(t.key, t.value)
	if !m.Expiry.IsZero() {
		t.s.retainedDue.add(t, m.Expiry, m.TopicName, nil)
	}
}

// dropRetained deletes the retained message x of a topic.
func (t *tx) dropRetained(topicName []byte, x *retained) {
	if !x.expiry.IsZero() {
		t.s.retainedDue.remove(t, x.expiry, topicName)
	}
	t.delete(append(append(t.key[:0], keyRetained), topicName...))
	t.forget(x.shared, x.size)
}

func (t *tx) retainOnly(op *store.Op) store.Result {
	m := op.Message
	old := t.retained(m.TopicName)
	if len(m.Payload) > 0 && !t.fits(m.Size(), t.freedBy(old)) {
		return store.Full
	}
	t.retain(m, old, t.encode(m), nil)
	return store.Done
}

func (t *tx) dropExpiredRetained(op *store.Op) store.Result {
	x := t.retained(op.Message.TopicName)
	if x == nil || !hasCome(x.expiry, op.Due) {
		return store.Gone
	}
	t.dropRetained(op.Message.TopicName, x)
	return store.Done
}
