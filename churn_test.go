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
