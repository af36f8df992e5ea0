package memory

import (
	"context"
	"time"

	"loopmq/store"
)

type retainedView struct{ *Store }

// retained is the retained message of one topic.
type retained struct {
	topicName string
	message   *message
	expiry    deadline[*retained]
}

func (v retainedView) Read(_ context.Context, topicNames []string) ([]*store.Message, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	now := v.now()
	messages := make([]*store.Message, len(topicNames))
	for i, topicName := range topicNames {
		if r := v.retained[topicName]; r != nil && !r.message.Expired(now) {
			messages[i] = r.message.Message
		}
	}
	return messages, nil
}

func (v retainedView) List(_ context.Context, afterTopicName string, limit int) ([]string, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	return page(v.retained, afterTopicName, limit, func(*retained) bool { return true }), nil
}

func (v retainedView) Expired(_ context.Context, now time.Time, limit int) ([]string, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	due := v.retainedExpiry.due(now, limit)
	topicNames := make([]string, len(due))
	for i, r := range due {
		topicNames[i] = r.topicName
	}
	return topicNames, nil
}

// retain makes m the retained message of its topic [MQTT-3.3.1-5], or deletes
// that if the payload is empty [MQTT-3.3.1-6]. REQUIRES: s.mu
func (s *Store) retain(m *message) {
	r := s.retained[string(m.TopicName)]
	if len(m.Payload) == 0 {
		if r != nil {
			s.dropRetained(r)
		}
		return
	}
	if r == nil {
		r = &retained{topicName: string(m.TopicName)}
		r.expiry.value = r
		s.retained[r.topicName] = r
	} else {
		s.drop(r.message)
	}
	s.hold(m)
	r.message = m
	s.retainedExpiry.set(&r.expiry, m.Expiry)
}

// freedByRetain is how many bytes go when m becomes the retained message of
// its topic. REQUIRES: s.mu
func (s *Store) freedByRetain(m *store.Message) int {
	if r := s.retained[string(m.TopicName)]; r != nil && r.message.refs == 1 {
		return r.message.Size()
	}
	return 0
}

// dropRetained deletes r. REQUIRES: s.mu
func (s *Store) dropRetained(r *retained) {
	s.retainedExpiry.set(&r.expiry, time.Time{})
	s.drop(r.message)
	delete(s.retained, r.topicName)
}
