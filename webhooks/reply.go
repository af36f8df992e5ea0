package webhooks

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"loopmq"
	"loopmq/codec"
	"loopmq/trie"
)

// Response is how an endpoint answered.
type Response struct {
	// Status is that of HTTP; 0: there was no answer in time.
	Status      int
	ContentType string
	// Body is all that was read. Truncated: there was more, beyond Endpoint.ResponseBytes.
	Body      []byte
	Truncated bool
}

// The User Properties of a reply.
const (
	// replyStatus has the HTTP status, 504 if there was no answer.
	replyStatus = "http-status"
	// replyReason has the Reason Code that comes nearest to a status of 300 or more, such as 0x87: PUBLISH has none.
	replyReason = "reason-code"
)

// Replier publishes the answers of an endpoint to the clients that wait for them. Its methods are safe for concurrent
// use.
type Replier struct {
	broker   *loopmq.Broker
	endpoint *Endpoint
	topics   *trie.Trie[struct{}] // that replies may go to

	mu struct {
		sync.Mutex
		caller *loopmq.Caller // nil: none yet
	}
}

// NewReplier returns the Replier of an endpoint that has Replies. b has to be started before the first Reply.
func NewReplier(b *loopmq.Broker, e *Endpoint) *Replier {
	r := &Replier{broker: b, endpoint: e, topics: trie.New[struct{}]()}
	for _, f := range e.Replies.TopicFilters {
		r.topics.Subscribe(f, struct{}{}, trie.Options{})
	}
	return r
}

// Close has the Broker forget who published the replies.
func (r *Replier) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.caller != nil {
		r.mu.caller.Close()
		r.mu.caller = nil
	}
}

// Reply publishes what became of an event to the Response Topic of its message: the answer that is final, and not one
// after which it is tried again. It does nothing for events that nobody waits for. sent is whether there is a reply.
//
// ErrReply: it can't be published, and to try again doesn't help. Other errors pass.
func (r *Replier) Reply(ctx context.Context, data []byte, resp *Response) (sent bool, err error) {
	var of record
	if err := of.decode(data); err != nil {
		return false, err
	}
	topic := of.responseTopic()
	if topic == "" {
		return false, nil
	}
	if !r.allows(topic) {
		return false, fmt.Errorf("%w: the Response Topic %q is none of those that replies may go to", ErrReply, topic)
	}
	m := r.message(&of, topic, resp)
	err = r.publish(ctx, &of, m)
	if errors.Is(err, loopmq.ErrTooLarge) {
		err = r.publish(ctx, &of, r.message(&of, topic, &Response{Status: resp.Status, Truncated: true}))
	}
	return err == nil, err
}

func (r *Replier) allows(topic string) bool {
	var m trie.Matches[struct{}]
	r.topics.Match([]byte(topic), &m)
	return len(m.Subscribers) > 0
}

// message is what a Response becomes.
func (r *Replier) message(of *record, topic string, resp *Response) *loopmq.Message {
	var p codec.Properties
	_ = codec.DecodeForward(of.properties, &p) // responseTopic has done it
	o := r.endpoint.Replies
	m := &loopmq.Message{TopicName: topic, QoS: o.QoS, MessageExpiryInterval: uint32(o.Expiry / time.Second)}
	if p.Has(codec.PropCorrelationData) {
		m.CorrelationData = append([]byte{}, p.CorrelationData...) // an empty one too
	}
	status := resp.Status
	switch {
	case status == 0:
		status = http.StatusGatewayTimeout
	case resp.Truncated:
		status = http.StatusBadGateway // part of an answer is none
	default:
		m.Payload = resp.Body
		if codec.ValidUTF8String([]byte(resp.ContentType)) {
			m.ContentType = resp.ContentType
		}
		if (isJSON(m.ContentType) || strings.HasPrefix(m.ContentType, "text/")) && utf8.Valid(m.Payload) {
			m.PayloadFormatIndicator = 1
		}
	}
	m.UserProperties = []loopmq.UserProperty{{Key: replyStatus, Value: strconv.Itoa(status)}}
	if reason := replyReasonCode(status); reason != codec.Success {
		m.UserProperties = append(m.UserProperties, loopmq.UserProperty{Key: replyReason, Value: fmt.Sprintf("0x%02X", byte(reason))})
	}
	return m
}

// replyReasonCode is the Reason Code that says what an HTTP status says.
func replyReasonCode(status int) codec.ReasonCode {
	switch {
	case status < 300:
		return codec.Success
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return codec.NotAuthorized
	case status == http.StatusBadRequest, status == http.StatusUnsupportedMediaType, status == http.StatusUnprocessableEntity:
		return codec.PayloadFormatInvalid
	case status == http.StatusRequestEntityTooLarge:
		return codec.PacketTooLarge
	case status == http.StatusTooManyRequests:
		return codec.QuotaExceeded
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return codec.ServerUnavailable
	}
	return codec.UnspecifiedError
}

// replyWindow is for how long an event that is delivered again isn't answered again.
const replyWindow = time.Hour

// publish publishes a reply, once for an event: its function may be called more than once.
func (r *Replier) publish(ctx context.Context, of *record, m *loopmq.Message) error {
	c, err := r.who(ctx)
	if err == nil {
		key := "webhook/" + r.endpoint.Name + "/" + hex.EncodeToString(of.id[:])
		_, _, err = c.PublishOnce(ctx, m, key, replyWindow, func(loopmq.Published) []byte { return nil })
	}
	if errors.Is(err, loopmq.ErrTooLarge) {
		return err
	}
	var refused *codec.Error
	if errors.As(err, &refused) {
		switch refused.ReasonCode {
		case codec.ServerUnavailable, codec.ServerBusy, codec.ServerShuttingDown, codec.QuotaExceeded, codec.MessageRateTooHigh:
		default:
			return fmt.Errorf("%w: %w", ErrReply, err)
		}
	}
	return err
}

// who returns who publishes. It is no MQTT client, but the same rules hold for it.
func (r *Replier) who(ctx context.Context) (*loopmq.Caller, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.mu.caller; c != nil {
		if c.Err() == nil {
			return c, nil
		}
		c.Close()
		r.mu.caller = nil
	}
	o := r.endpoint.Replies
	c, err := r.broker.Authenticate(ctx, &loopmq.ConnectRequest{
		ClientID: o.ClientID, Username: o.Username, HasUsername: o.Username != "", Listener: "webhooks", ProtocolVersion: codec.V5,
	}, &loopmq.Settings{Authenticator: configured{}, Authorizer: o.Authorizer})
	if err != nil {
		return nil, fmt.Errorf("publish replies as %q: %w", o.ClientID, err)
	}
	r.mu.caller = c
	return c, nil
}

// configured is the Authenticator of who needs no credentials, since the configuration says who it is.
type configured struct{}

// Authenticate accepts.
func (configured) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{Username: r.Username}, nil, nil
}

// Continue is never called: there is no Challenge.
func (configured) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, ErrReply
}
