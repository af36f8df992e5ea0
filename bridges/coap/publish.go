package coapbridge

import (
	"math"
	"strconv"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/metrics"
)

// publisher returns what publishes to the topic that is behind so many parts of the
// path, or clears what is retained there.
func publisher(behind int, clears bool) handler {
	return func(b *Bridge, c *call) (*response, error) {
		if clears {
			return b.clear(c, behind)
		}
		return b.publish(c, behind)
	}
}

// publish is POST and PUT /ps/{topic}, and POST /mqtt/publish/{topic}.
func (b *Bridge) publish(c *call, behind int) (*response, error) {
	if err := c.allow("qos", "retain", "expiry"); err != nil {
		return nil, err
	}
	m := &loopmq.Message{}
	var err error
	if m.TopicName, err = c.topic(behind); err != nil {
		return nil, err
	}
	if m.QoS, err = c.qos(); err != nil {
		return nil, err
	}
	if m.MessageExpiryInterval, err = c.expiry(); err != nil {
		return nil, err
	}
	switch retain := c.query["retain"]; retain {
	case "", "false", "0":
	case "true", "1":
		m.Retain = true
	default:
		return nil, badRequest("retain is %q: allowed: true, false", retain)
	}
	if !describe(m, c.format) {
		return nil, faulty(codes.UnsupportedMediaType, metrics.CoAPMediaType, "Content-Format %d is not known", *c.format)
	}
	if err := b.authenticate(c); err != nil {
		return nil, err
	}
	body, answer, err := c.p.body(c.request)
	if body == nil && (answer != nil || err != nil) {
		return answer, err
	}
	m.Payload = body
	if _, err := c.caller.Publish(c.ctx, m); err != nil {
		return nil, err
	}
	return &response{code: codes.Changed, block1: c.block1}, nil
}

// clear is DELETE /ps/{topic}.
func (b *Bridge) clear(c *call, behind int) (*response, error) {
	if err := c.allow("qos"); err != nil {
		return nil, err
	}
	topic, err := c.topic(behind)
	if err != nil {
		return nil, err
	}
	qos, err := c.qos()
	if err != nil {
		return nil, err
	}
	if err := b.authenticate(c); err != nil {
		return nil, err
	}
	if _, err := c.caller.Publish(c.ctx, &loopmq.Message{TopicName: topic, QoS: qos, Retain: true}); err != nil {
		return nil, err
	}
	return &response{code: codes.Deleted}, nil
}

// expiry returns the Message Expiry Interval: of the query, or what Max-Age says.
func (r *request) expiry() (uint32, error) {
	text, ok := r.query["expiry"]
	switch {
	case !ok && r.maxAge == nil:
		return 0, nil
	case !ok:
		return max(1, *r.maxAge), nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 {
		return 0, badRequest("expiry is %q: allowed: 1 to %d, in seconds", text, math.MaxUint32)
	}
	return uint32(n), nil
}
