package codec

import (
	"bytes"
	"fmt"
	"testing"
)

// benchPublish builds a PUBLISH with QoS 0 and a Topic Name of 20 bytes.
func benchPublish(v Version, payload int, forward bool) (in []byte, p Publish) {
	p = Publish{TopicName: b("site/17/line/3/speed"), Payload: bytes.Repeat(b("x"), payload)}
	if forward {
		p.Properties = props(func(p *Properties) {
			p.PayloadFormatIndicator, p.ContentType, p.MessageExpiryInterval = 1, b("application/json"), 60
			p.UserProperties = userProperties("trace", "0123456789abcdef")
		}, PropPayloadFormatIndicator, PropContentType, PropMessageExpiryInterval, PropUserProperty)
	}
	return p.Append(nil, v), p
}

func BenchmarkDecodePublish(b *testing.B) {
	for _, c := range []struct {
		v       Version
		payload int
		forward bool
	}{{V311, 64, false}, {V311, 4096, false}, {V5, 64, false}, {V5, 64, true}} {
		b.Run(fmt.Sprintf("version=%s/payload=%d/properties=%t", c.v, c.payload, c.forward), func(b *testing.B) {
			in, _ := benchPublish(c.v, c.payload, c.forward)
			var p Publish
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				h, _, _ := DecodeFixedHeader(in, c.v)
				if err := p.Decode(c.v, h.Flags, in[h.HeaderSize:h.Size]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	for _, c := range []struct {
		v       Version
		qos     byte
		payload int
		forward bool
	}{{V311, 0, 64, false}, {V311, 1, 64, false}, {V311, 0, 4096, false}, {V5, 0, 64, false}, {V5, 1, 64, true}} {
		b.Run(fmt.Sprintf("version=%s/qos=%d/payload=%d/properties=%t", c.v, c.qos, c.payload, c.forward), func(b *testing.B) {
			_, p := benchPublish(c.v, c.payload, c.forward)
			h := PublishHeader{QoS: c.qos, PacketID: 1, HasMessageExpiry: c.forward, MessageExpiry: 60}
			forward := p.Properties.AppendForward(nil)
			buf := make([]byte, 0, 8192)
			b.ReportAllocs()
			b.SetBytes(int64(PublishSize(c.v, &h, len(p.TopicName), len(forward), len(p.Payload))))
			for b.Loop() {
				buf = AppendPublish(buf[:0], c.v, &h, p.TopicName, forward, p.Payload)
			}
		})
	}
}

func BenchmarkAppendForward(b *testing.B) {
	_, p := benchPublish(V5, 64, true)
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = p.Properties.AppendForward(buf[:0])
	}
}

func BenchmarkDecodeFixedHeader(b *testing.B) {
	for _, remaining := range []int{10, 1000} {
		b.Run(fmt.Sprintf("remaining=%d", remaining), func(b *testing.B) {
			in := appendFixedHeader(nil, TypePublish, 0, remaining)
			for b.Loop() {
				if _, ok, err := DecodeFixedHeader(in, V311); !ok || err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeAck(b *testing.B) {
	in := AppendAck(nil, TypePuback, 7)
	var a Ack
	for b.Loop() {
		if err := a.Decode(V5, TypePuback, in[2:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeSubscribe(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("filters=%d", n), func(b *testing.B) {
			s := Subscribe{PacketID: 1}
			for i := range n {
				s.Subscriptions = append(s.Subscriptions, Subscription{TopicFilter: fmt.Appendf(nil, "site/%d/line/+/#", i)})
			}
			in := s.Append(nil, V5)
			h, _, _ := DecodeFixedHeader(in, V5)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Decode(V5, h.Flags, in[h.HeaderSize:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeConnect(b *testing.B) {
	in := (&Connect{ClientID: []byte("client-000017"), CleanStart: true, KeepAlive: 60}).Append(nil, V5)
	var c Connect
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Decode(0, in[2:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidTopicName(b *testing.B) {
	for _, size := range []int{5, 20, 200} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			name := bytes.Repeat([]byte("a"), size)
			for b.Loop() {
				if !ValidTopicName(name) {
					b.Fatal("not valid")
				}
			}
		})
	}
}

func BenchmarkValidUTF8String(b *testing.B) {
	for name, text := range map[string]string{"ascii": "abcdefghij", "greek": "αβγδε"} {
		b.Run(fmt.Sprintf("text=%s/bytes=%d", name, 20*len(text)), func(b *testing.B) {
			in := bytes.Repeat([]byte(text), 20)
			for b.Loop() {
				if !ValidUTF8String(in) {
					b.Fatal("not valid")
				}
			}
		})
	}
}
