package loopmq_test

import (
	"errors"
	"strings"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// What can't stand in a packet is refused with an error that says why, before anything of it happens.
func TestPublishChecksTheMessage(t *testing.T) {
	t.Parallel()
	const packetSize = 200_000
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.PacketSize = packetSize })
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Subscribe("#", 2)
	long, bad := strings.Repeat("x", 65_536), "\xFF"
	for name, test := range map[string]struct {
		m    loopmq.Message
		want error
	}{
		"Response Topic with a wildcard":  {loopmq.Message{ResponseTopic: "a/+"}, codec.ErrResponseTopic},
		"Response Topic not UTF-8":        {loopmq.Message{ResponseTopic: bad}, codec.ErrInvalidUTF8},
		"Response Topic too long":         {loopmq.Message{ResponseTopic: long}, loopmq.ErrProperty},
		"Content Type not UTF-8":          {loopmq.Message{ContentType: bad}, codec.ErrInvalidUTF8},
		"Content Type with U+0000":        {loopmq.Message{ContentType: "a\x00"}, codec.ErrInvalidUTF8},
		"Content Type too long":           {loopmq.Message{ContentType: long}, loopmq.ErrProperty},
		"Correlation Data too long":       {loopmq.Message{CorrelationData: []byte(long)}, loopmq.ErrProperty},
		"User Property, name not UTF-8":   {loopmq.Message{UserProperties: []loopmq.UserProperty{{Key: bad}}}, codec.ErrInvalidUTF8},
		"User Property, value not UTF-8":  {loopmq.Message{UserProperties: []loopmq.UserProperty{{Value: bad}}}, codec.ErrInvalidUTF8},
		"User Property, name too long":    {loopmq.Message{UserProperties: []loopmq.UserProperty{{Key: long}}}, loopmq.ErrProperty},
		"User Property, value too long":   {loopmq.Message{UserProperties: []loopmq.UserProperty{{Value: long}}}, loopmq.ErrProperty},
		"Payload Format Indicator 2":      {loopmq.Message{PayloadFormatIndicator: 2}, loopmq.ErrProperty},
		"too large by its properties":     {loopmq.Message{Payload: make([]byte, packetSize-100), ContentType: long[:200]}, loopmq.ErrTooLarge},
		"too large by its payload":        {loopmq.Message{Payload: make([]byte, packetSize)}, loopmq.ErrTooLarge},
		"QoS 3":                           {loopmq.Message{QoS: 3}, loopmq.ErrQoS},
		"Topic Name with a wildcard":      {loopmq.Message{TopicName: "a/#"}, loopmq.ErrTopicName},
		"Topic Name with U+0000":          {loopmq.Message{TopicName: "a\x00"}, loopmq.ErrTopicName},
		"Topic Name too long":             {loopmq.Message{TopicName: long}, loopmq.ErrTopicName},
		"Topic Name with too many levels": {loopmq.Message{TopicName: strings.Repeat("/", 300)}, loopmq.ErrTopicName},
	} {
		if test.m.TopicName == "" {
			test.m.TopicName = "t"
		}
		if _, err := s.Broker.Publish(t.Context(), test.m); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	m := loopmq.Message{
		TopicName: "t", QoS: 1, PayloadFormatIndicator: 1, ContentType: long[1:], ResponseTopic: "r", CorrelationData: []byte{},
		UserProperties: []loopmq.UserProperty{{Key: "", Value: "v"}, {Key: "k", Value: long[1:]}},
	}
	full := codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1, Properties: brokertest.Properties(
		codec.PropPayloadFormatIndicator, 1, codec.PropContentType, long[1:], codec.PropResponseTopic, "r", codec.PropCorrelationData, "",
	)}
	full.Properties.UserProperties = []codec.UserProperty{{Value: []byte("v")}, {Key: []byte("k"), Value: []byte(long[1:])}}
	full.Properties.Set(codec.PropUserProperty)
	m.Payload = make([]byte, packetSize-full.Size(codec.V5))
	if _, err := s.Broker.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	p := brokertest.Expect[*codec.Publish](c)
	if full.Payload = m.Payload; p.Size(codec.V5) != full.Size(codec.V5) || p.Size(codec.V5) != packetSize {
		t.Errorf("got a packet of %d bytes, want %d", p.Size(codec.V5), packetSize)
	}
	c.Acknowledge(p)
	m.Payload = append(m.Payload, 0)
	if _, err := s.Broker.Publish(t.Context(), m); !errors.Is(err, loopmq.ErrTooLarge) {
		t.Errorf("a byte more: got %v", err)
	}
	c.ExpectNothing()
}
