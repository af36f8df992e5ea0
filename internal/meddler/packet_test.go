package meddler

import (
	"bufio"
	"bytes"
	"testing"
)

func FuzzPacket(f *testing.F) {
	f.Add([]byte("\x10\x0c\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x00"))
	f.Add([]byte("\x32\x08\x00\x01a\x00\x07\x00hi"))
	f.Add([]byte("\x40\x02\x00\x07\xd0\x00"))
	f.Add([]byte("\x30\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x30\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		packet, err := readPacket(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, packet) {
			t.Fatalf("% x was read as % x", b, packet)
		}
		_, _ = protocolLevel(packet), ackID(packet)
		for _, level := range []byte{4, 5} {
			if m, ok := parsePublish(packet, level); ok && len(m.topicName)+len(m.payload) > len(packet) {
				t.Fatalf("% x is topic % x and payload % x", packet, m.topicName, m.payload)
			}
		}
	})
}
