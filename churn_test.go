package loopmq_test

import (
	"math/rand/v2"
	"net"
	"time"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// churn is one short life of a group's member on a connection of its own, away from the test's goroutine: it connects, subscribes,
// acknowledges a few messages, and breaks off. It notes the messages that it acknowledged.
func churn(addr, clientID string, kind brokertest.ConnectOption, r *rand.Rand, note func(*codec.Publish)) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	p := &codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true, ClientID: []byte(clientID)}
	kind(p)
	out := p.Append(nil, codec.V5)
	sub := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("$share/g/t", 1)}}
	out = sub.Append(out, codec.V5)
	if _, err := conn.Write(out); err != nil {
		return
	}
	var in []byte
	for acks := r.IntN(20); acks > 0; {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		in = append(in, buf[:n]...)
		for acks > 0 {
			h, ok, err := codec.DecodeFixedHeader(in, codec.V5)
			if err != nil || !ok || len(in) < h.Size {
				break
			}
			if h.Type == codec.TypePublish {
				var p codec.Publish
				if p.Decode(codec.V5, h.Flags, in[h.HeaderSize:h.Size]) != nil {
					return
				}
				acks--
				ack := codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID}
				note(&p)
				if _, err := conn.Write(ack.Append(nil, codec.V5)); err != nil {
					return
				}
			}
			in = in[h.Size:]
		}
	}
}

// randomLife is one life of a client that subscribes, publishes and acknowledges at random, on a connection of its own, and ends it in one
// way or another.
func randomLife(addr, clientID string, r *rand.Rand) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	p := &codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, ClientID: []byte(clientID), CleanStart: r.IntN(4) == 0}
	p.Properties = brokertest.Properties(codec.PropSessionExpiryInterval, 60*r.IntN(2), codec.PropReceiveMaximum, 1+r.IntN(10))
	if r.IntN(2) == 0 {
		p.Properties.MaximumPacketSize = 120
		p.Properties.Set(codec.PropMaximumPacketSize)
	}
	out := p.Append(nil, codec.V5)
	filters := []string{"a", "b", "+", "#", "$share/g/a", "$share/h/+"}
	sub := codec.Subscribe{PacketID: 1}
	for range 1 + r.IntN(3) {
		sub.Subscriptions = append(sub.Subscriptions, brokertest.Subscription(filters[r.IntN(len(filters))], byte(r.IntN(3))))
	}
	out = sub.Append(out, codec.V5)
	for id := range 40 {
		m := codec.Publish{TopicName: []byte{"ab"[r.IntN(2)]}, QoS: byte(r.IntN(3)), Payload: make([]byte, r.IntN(200))}
		if m.QoS > 0 {
			m.PacketID = uint16(id + 1)
		}
		if r.IntN(10) == 0 {
			m.Retain = true
		}
		if r.IntN(10) == 0 {
			m.Properties = brokertest.Properties(codec.PropMessageExpiryInterval, r.IntN(2))
		}
		out = m.Append(out, codec.V5)
	}
	if _, err := conn.Write(out); err != nil {
		return
	}
	var in []byte
	buf := make([]byte, 4096)
	for acks := r.IntN(80); acks > 0; {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := conn.Read(buf)
		if err != nil {
			break
		}
		in = append(in, buf[:n]...)
		out = out[:0]
		for {
			h, ok, err := codec.DecodeFixedHeader(in, codec.V5)
			if err != nil || !ok || len(in) < h.Size {
				break
			}
			acks--
			out = answer(out, h, in[h.HeaderSize:h.Size])
			in = in[h.Size:]
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
	if r.IntN(2) == 0 {
		d := codec.Disconnect{}
		_, _ = conn.Write(d.Append(nil, codec.V5))
	}
}

// answer appends what a client has to answer to a packet.
func answer(out []byte, h codec.FixedHeader, body []byte) []byte {
	var a codec.Ack
	switch h.Type {
	case codec.TypePublish:
		var p codec.Publish
		if p.Decode(codec.V5, h.Flags, body) != nil || p.QoS == 0 {
			return out
		}
		a = codec.Ack{Type: map[byte]codec.PacketType{1: codec.TypePuback, 2: codec.TypePubrec}[p.QoS], PacketID: p.PacketID}
	case codec.TypePubrec, codec.TypePubrel:
		if a.Decode(codec.V5, h.Type, body) != nil || a.ReasonCode.IsError() {
			return out
		}
		a.Type++ // PUBREL, PUBCOMP
	default:
		return out
	}
	a.ReasonCode, a.Properties = 0, codec.Properties{}
	return a.Append(out, codec.V5)
}
