package httpbridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/http"
	"strconv"
	"sync"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

const (
	// replyTimeout is how long a device may take to reply unless it is said, and
	// replyTimeoutMax the longest.
	replyTimeout    = 5 * time.Second
	replyTimeoutMax = 10 * time.Minute
)

// ReplyOptions bound POST /request. The zero value of a field means its default.
type ReplyOptions struct {
	// Max is how many requests may wait for a reply at one time. Default 10,000.
	Max int
	// TopicPrefix begins the Response Topic of requests, which has one level more:
	// devices need the right to publish there. Default loopmq/reply.
	TopicPrefix string
}

func (o *ReplyOptions) setDefaults() {
	o.Max = cmp.Or(o.Max, 10_000)
	o.TopicPrefix = cmp.Or(o.TopicPrefix, "loopmq/reply")
}

// replies are those that requests wait for. They come to one topic of this process,
// which is subscribed to with the first request, and are told apart by their Correlation
// Data, which nobody can guess.
type replies struct {
	awaited *metrics.Count
	topic   string // the Response Topic, as callers' devices see it

	mu         sync.Mutex
	subscribed func() // ends the subscription; nil: there is none
	waiting    map[correlation]chan<- *loopmq.Message
}

type correlation [16]byte

// subscribe makes sure that replies come.
func (b *Bridge) subscribeReplies() error {
	r := &b.replies
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.subscribed != nil {
		return nil
	}
	topic := r.topic
	if b.opts.Settings != nil {
		topic = b.opts.Settings.MountPoint + topic
	}
	var err error
	r.subscribed, err = b.broker.Subscribe(topic, b.replied)
	return err
}

// expect returns where the reply with a Correlation Data will come; forget ends that.
func (r *replies) expect(id correlation, limit int) (reply <-chan *loopmq.Message, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) >= limit {
		return nil, errBusy
	}
	ch := make(chan *loopmq.Message, 1)
	r.waiting[id] = ch
	r.awaited.Inc()
	return ch, nil
}

func (r *replies) forget(id correlation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
	r.awaited.Dec()
}

// replied is called on an event loop with what comes to the topic of replies.
func (b *Bridge) replied(m *loopmq.MessageView) {
	r := &b.replies
	var p codec.Properties
	var id correlation
	if m.Properties(&p) != nil || len(p.CorrelationData) != len(id) {
		b.metrics.RepliesIgnored.Inc()
		return
	}
	copy(id[:], p.CorrelationData)
	r.mu.Lock()
	ch := r.waiting[id]
	delete(r.waiting, id) // the first reply is the reply
	r.mu.Unlock()
	if ch == nil { // it is late, or nobody asked for it
		b.metrics.RepliesIgnored.Inc()
		return
	}
	ch <- replyOf(m, &p) // it has room for one, and there is no other
}

// replyOf copies a reply.
func replyOf(m *loopmq.MessageView, p *codec.Properties) *loopmq.Message {
	reply := &loopmq.Message{
		Payload: append([]byte{}, m.Payload...), QoS: m.QoS, PayloadFormatIndicator: p.PayloadFormatIndicator, ContentType: string(p.ContentType),
	}
	for _, u := range p.UserProperties {
		reply.UserProperties = append(reply.UserProperties, loopmq.UserProperty{Key: string(u.Key), Value: string(u.Value)})
	}
	return reply
}

// request is POST /request/{topic}.
func (b *Bridge) request(c *call) error {
	q, err := query(c.r, "qos", "timeout")
	if err != nil {
		return err
	}
	timeout, err := parseTimeout(q.Get("timeout"))
	if err != nil {
		return err
	}
	if len(c.r.Header[headerKey]) > 0 {
		return badRequest("a request to a device has no Idempotency-Key: its reply isn't kept")
	}
	m := &loopmq.Message{TopicName: c.r.PathValue("topic")}
	if m.QoS, err = parseQoS(q.Get("qos"), 1); err != nil {
		return err
	}
	if err := readProperties(c.r.Header, m); err != nil {
		return err
	}
	body, done, err := b.readBody(c)
	done = sync.OnceFunc(done)
	defer done()
	if err != nil {
		return err
	}
	m.Payload = body
	if m.ResponseTopic != "" || m.CorrelationData != nil {
		return badRequest("a request has a Response Topic and Correlation Data of its own")
	}
	if err := b.subscribeReplies(); err != nil {
		return err
	}
	var id correlation
	_, _ = rand.Read(id[:]) // It can't fail.
	m.ResponseTopic, m.CorrelationData = b.replies.topic, id[:]
	reply, err := b.replies.expect(id, b.opts.Replies.Max)
	if err != nil {
		return err
	}
	defer b.replies.forget(id)
	ctx, cancel := context.WithTimeout(c.r.Context(), timeout)
	defer cancel()
	control := http.NewResponseController(c.w)
	if err := control.SetWriteDeadline(time.Now().Add(timeout + b.opts.Timeout)); err != nil {
		return err
	}
	p, err := c.caller.Publish(ctx, m)
	switch {
	case err != nil:
		return err
	case p.Matched == 0:
		return &fault{status: http.StatusNotFound, reason: metrics.HTTPNotFound, code: codec.NoMatchingSubscribers, detail: "nobody is subscribed to the topic"}
	}
	done()
	select {
	case answer := <-reply:
		writeMessage(c.w, answer)
		return nil
	case <-b.stopping:
		return loopmq.ErrNotRunning
	case <-ctx.Done():
	}
	if c.r.Context().Err() != nil {
		return c.r.Context().Err()
	}
	return faulty(http.StatusGatewayTimeout, metrics.HTTPNoReply, "no reply within %v", timeout)
}

// parseTimeout reads a time as seconds, or with a unit: 5, 500ms.
func parseTimeout(text string) (time.Duration, error) {
	if text == "" {
		return replyTimeout, nil
	}
	d, err := time.ParseDuration(text)
	if n, e := strconv.ParseUint(text, 10, 31); e == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 || d > replyTimeoutMax {
		return 0, badRequest("timeout is %q: allowed: above 0 to %v, such as 5s", text, replyTimeoutMax)
	}
	return d, nil
}
