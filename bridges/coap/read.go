package coapbridge

import (
	"bytes"
	"crypto/sha256"
	"strings"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/metrics"
)

// read is GET /ps/{topic}: the retained message, and with Observe those that follow.
func (b *Bridge) read(c *call) (*response, error) {
	if err := c.allow("qos"); err != nil {
		return nil, err
	}
	topic, err := c.topic(1)
	if err != nil {
		return nil, err
	}
	if err := b.authenticate(c); err != nil {
		return nil, err
	}
	if c.block2 != nil && c.block2.number > 0 {
		if r := c.p.rest(c.request); r != nil {
			return part(c.request, r)
		}
	}
	isFilter := strings.ContainsAny(topic, "+#")
	switch {
	case c.observe != nil && *c.observe == 0:
		return b.observe(c, topic)
	case c.observe != nil && *c.observe == 1:
		if o := c.p.observation(c.message.Token); o != nil {
			o.s.end(o, metrics.CoAPCancelled)
			if isFilter {
				return &response{code: codes.Content}, nil
			}
		}
	}
	if isFilter {
		return nil, badRequest("a topic with + or # can be observed only")
	}
	m, err := c.caller.Retained(c.ctx, topic)
	if err != nil {
		return nil, err
	}
	return c.content(m)
}

// content returns a message as an answer to a request.
func (c *call) content(m *loopmq.Message) (*response, error) {
	r := &response{code: codes.Content, payload: m.Payload, format: formatOfMessage(m.ContentType, m.PayloadFormatIndicator == 1)}
	if !acceptable(c.accept, r.format) {
		return nil, errNotAcceptable
	}
	r.etag = etagOf(m.Payload, m.ContentType)
	if m.MessageExpiryInterval > 0 {
		r.maxAge = &m.MessageExpiryInterval
	}
	for _, etag := range c.etags {
		if bytes.Equal(etag, r.etag) {
			r.code, r.payload, r.format = codes.Valid, nil, nil
			return r, nil
		}
	}
	return part(c.request, r)
}

// etagOf tells a representation from others, at any node.
func etagOf(payload []byte, contentType string) []byte {
	h := sha256.New()
	h.Write([]byte(contentType))
	h.Write([]byte{0})
	h.Write(payload)
	return h.Sum(nil)[:8]
}

// health is GET /health.
func (b *Bridge) health(c *call) (*response, error) {
	if err := b.broker.Ready(); err != nil {
		return nil, &fault{code: codes.ServiceUnavailable, reason: metrics.CoAPUnavailable, detail: detailOf(err), retryAfter: busyRetry}
	}
	return part(c.request, text("ok"))
}

// core is GET /.well-known/core. [RFC 6690]
func (b *Bridge) core(c *call) (*response, error) {
	const links = `</ps>;rt="core.ps";title="topics: publish, read, observe",</mqtt/publish>;title="topics: publish",</mqtt/connection>;title="connections",</health>`
	r := text(links)
	linkFormat := uint16(40)
	r.format = &linkFormat
	return part(c.request, r)
}

func text(s string) *response {
	plain := uint16(0)
	return &response{code: codes.Content, payload: []byte(s), format: &plain, etag: etagOf([]byte(s), "")}
}
