package loopmq

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"loopmq/codec"
	"loopmq/store"
	"loopmq/trie"
)

// ErrNotRetained means that the topic has no retained message.
var ErrNotRetained = errors.New("loopmq: the topic has no retained message")

// RetainedStatus is one retained message.
type RetainedStatus struct {
	TopicName string `json:"topic"`
	QoS       byte   `json:"qos"`
	Bytes     int    `json:"bytes"` // of the payload
	// ExpiresAt is when the message expires; zero: never.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// Publisher is the ClientID that published it, empty if it was the broker.
	Publisher string `json:"publisher,omitempty"`
	// Payload is nil in a list. It must not be changed.
	Payload []byte `json:"payload,omitempty"`

	properties []byte
}

// Properties decodes the properties that the message was published with, as those of a
// MessageView are.
func (r *RetainedStatus) Properties(p *codec.Properties) error {
	return codec.DecodeForward(r.properties, p)
}

// RetainedPage is one page of a list, see ClientPage.
type RetainedPage struct {
	Messages []RetainedStatus `json:"messages"`
	Next     string           `json:"next,omitempty"`
}

// retainedReadMax bounds the payloads that are read for one page of a list.
const retainedReadMax = 4 << 20

// RetainedMessages lists the retained messages whose topics a Topic Filter matches
// (empty: all, but for those that begin with $), by topic: up to limit (0: ListMax) of
// them behind a topic. What is in $SYS is of this node. ErrTopicFilter: not a valid one.
func (b *Broker) RetainedMessages(ctx context.Context, topicFilter, after string, limit int) (RetainedPage, error) {
	limit = pageLimit(limit)
	page := RetainedPage{Messages: []RetainedStatus{}}
	if topicFilter == "" {
		topicFilter = "#"
	}
	if isShared(topicFilter) || !b.validFilter(topicFilter) {
		return page, ErrTopicFilter
	}
	// The topics behind prefix, and no others, begin as the filter does.
	prefix, _, _ := strings.Cut(topicFilter, "#")
	prefix, _, _ = strings.Cut(prefix, "+")
	prefix = strings.TrimSuffix(prefix, "/") // "sport/#" matches "sport"
	list := b.store.Retained().List
	if strings.HasPrefix(prefix, "$SYS") {
		list = b.listSys
	}
	read := 0
	for looked, pageSize := 0, retainedAhead; ; {
		topics, err := list(ctx, max(after, before(prefix)), pageSize)
		if err != nil {
			return page, err
		}
		end := len(topics) < pageSize
		for i, topic := range topics {
			if !strings.HasPrefix(topic, prefix) && topic > prefix {
				topics, end = topics[:i], true
				break
			}
		}
		matching := slices.DeleteFunc(slices.Clone(topics), func(topic string) bool { return !trie.MatchesName(topicFilter, topic) })
		messages, err := b.readRetainedMessages(ctx, matching)
		if err != nil {
			return page, err
		}
		for i, m := range messages {
			if m == nil {
				continue
			}
			st := retainedStatus(m)
			st.Payload = nil
			page.Messages = append(page.Messages, st)
			if read += m.Size(); (len(page.Messages) == limit || read > retainedReadMax) && !(end && i == len(messages)-1) {
				page.Next = matching[i]
				return page, nil
			}
		}
		if end {
			return page, nil
		}
		after = topics[len(topics)-1]
		if looked += pageSize; looked >= lookMax {
			page.Next = after
			return page, nil
		}
		if len(matching) == 0 {
			pageSize = 500
		}
	}
}

// before is a place in the order of topics: right before those that begin with a prefix.
func before(prefix string) string {
	if prefix == "" {
		return ""
	}
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]-1) + "\U0010FFFF"
}

// listSys lists topics in $SYS as store.Retained.List does: they are not in the store.
func (b *Broker) listSys(_ context.Context, after string, limit int) ([]string, error) {
	var topics []string
	b.retained.Match("$SYS/#", func(topic string, _ retainedMessage) bool {
		if topic > after && reserved([]byte(topic)) {
			topics = append(topics, topic)
		}
		return true
	})
	slices.Sort(topics)
	return topics[:min(limit, len(topics))], nil
}

// readRetainedMessages reads the messages of some topics, nil for one that has none.
func (b *Broker) readRetainedMessages(ctx context.Context, topics []string) ([]*store.Message, error) {
	if len(topics) > 0 && reserved([]byte(topics[0])) {
		messages := make([]*store.Message, len(topics))
		for i, topic := range topics {
			if m, exists := b.retained.Get([]byte(topic)); exists {
				messages[i] = m.Message
			}
		}
		return messages, nil
	}
	return b.store.Retained().Read(ctx, topics)
}

func retainedStatus(m *store.Message) RetainedStatus {
	return RetainedStatus{
		TopicName: string(m.TopicName), QoS: m.QoS, Bytes: len(m.Payload), ExpiresAt: m.Expiry, Publisher: m.PublisherID,
		Payload: m.Payload, properties: m.Properties,
	}
}

// RetainedMessage returns the retained message of a topic. ErrNotRetained: it has none.
func (b *Broker) RetainedMessage(ctx context.Context, topicName string) (RetainedStatus, error) {
	messages, err := b.readRetainedMessages(ctx, []string{topicName})
	switch {
	case err != nil:
		return RetainedStatus{}, err
	case messages[0] == nil:
		return RetainedStatus{}, ErrNotRetained
	}
	return retainedStatus(messages[0]), nil
}

// DeleteRetained deletes the retained message of a topic, as a client does that publishes
// one without a payload [MQTT-3.3.1-6]: subscribers see that too. It returns when that is
// stored. ErrNotRetained: there is none; ErrTopicName: it is the broker's own.
func (b *Broker) DeleteRetained(ctx context.Context, topicName string) error {
	if _, err := b.RetainedMessage(ctx, topicName); err != nil {
		return err
	}
	if reserved([]byte(topicName)) {
		return ErrTopicName
	}
	_, err := b.Publish(ctx, Message{TopicName: topicName, QoS: 1, Retain: true})
	return err
}
