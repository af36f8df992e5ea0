package httpbridge

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"unicode/utf8"

	"loopmq"
	"loopmq/codec"
)

// retainedMessage is a retained message with its payload, as JSON. What isn't UTF-8 is in
// base64.
type retainedMessage struct {
	loopmq.RetainedStatus
	Payload         string             `json:"payload"`
	PayloadEncoding string             `json:"payload_encoding"`
	Properties      retainedProperties `json:"properties"`
}

type retainedProperties struct {
	PayloadFormatIndicator  byte        `json:"payload_format_indicator,omitempty"`
	ContentType             string      `json:"content_type,omitempty"`
	ResponseTopic           string      `json:"response_topic,omitempty"`
	CorrelationData         string      `json:"correlation_data,omitempty"`
	CorrelationDataEncoding string      `json:"correlation_data_encoding,omitempty"`
	UserProperties          [][2]string `json:"user_properties,omitempty"`
}

// textOf returns bytes as text, and how they are in it: plain or base64.
func textOf(b []byte) (text, encoding string) {
	if utf8.Valid(b) {
		return string(b), "plain"
	}
	return base64.StdEncoding.EncodeToString(b), "base64"
}

func (a *Admin) listRetained(w *answer, r *http.Request) {
	list(a, w, r, []string{"topic_filter"}, func(ctx context.Context, b *loopmq.Broker, q listQuery) ([]loopmq.RetainedStatus, string, error) {
		filter := r.URL.Query().Get("topic_filter")
		page, err := b.RetainedMessages(ctx, filter, q.cursor, q.limit)
		if errors.Is(err, loopmq.ErrTopicFilter) {
			err = refused(http.StatusBadRequest, "topic_filter is %q: allowed: a Topic Filter that isn't shared", filter)
		}
		return page.Messages, page.Next, err
	})
}

func (a *Admin) showRetained(w *answer, r *http.Request) {
	topic := r.PathValue("topic")
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		st, err := b.RetainedMessage(ctx, topic)
		if err != nil {
			return retainedFailed(topic, err)
		}
		m := retainedMessage{RetainedStatus: st}
		m.Payload, m.PayloadEncoding = textOf(st.Payload)
		var p codec.Properties
		if err := st.Properties(&p); err != nil {
			return err
		}
		m.Properties = retainedProperties{
			PayloadFormatIndicator: p.PayloadFormatIndicator, ContentType: string(p.ContentType), ResponseTopic: string(p.ResponseTopic),
		}
		if p.Has(codec.PropCorrelationData) {
			m.Properties.CorrelationData, m.Properties.CorrelationDataEncoding = textOf(p.CorrelationData)
		}
		for _, u := range p.UserProperties {
			m.Properties.UserProperties = append(m.Properties.UserProperties, [2]string{string(u.Key), string(u.Value)})
		}
		writeJSON(w, http.StatusOK, &m)
		return nil
	})
}

func (a *Admin) deleteRetained(w *answer, r *http.Request) {
	topic := r.PathValue("topic")
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		return noContent(w, retainedFailed(topic, b.DeleteRetained(ctx, topic)))
	})
}

func retainedFailed(topic string, err error) error {
	switch {
	case errors.Is(err, loopmq.ErrNotRetained):
		return refused(http.StatusNotFound, "%q has no retained message", topic)
	case errors.Is(err, loopmq.ErrTopicName):
		return refused(http.StatusBadRequest, "%q is the broker's own: allowed: a topic that clients may publish to", topic)
	}
	return err
}
