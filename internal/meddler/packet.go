package meddler

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// Control packet types, as the first byte of the fixed header has them.
const (
	typeConnect = 1 << 4
	typePublish = 3 << 4
	typePuback  = 4 << 4
	typePubrec  = 5 << 4
	typePubrel  = 6<<4 | 2
	typePubcomp = 7 << 4
)

// packetBytesMax bounds a packet, so that a broken length takes no memory.
const packetBytesMax = 16 << 20

var errPacket = errors.New("no MQTT control packet, or a very large one")

// readPacket appends the next control packet to b.
func readPacket(r *bufio.Reader, b []byte) ([]byte, error) {
	first, err := r.ReadByte()
	if err != nil {
		return b, err
	}
	b = append(b, first)
	length := 0
	for shift := 0; ; shift += 7 {
		c, err := r.ReadByte()
		if err != nil {
			return b, err
		}
		b = append(b, c)
		length |= int(c&0x7F) << shift
		if c&0x80 == 0 {
			break
		}
		if shift == 21 {
			return b, errPacket
		}
	}
	if length > packetBytesMax {
		return b, errPacket
	}
	at := len(b)
	b = append(b, make([]byte, length)...)
	_, err = io.ReadFull(r, b[at:])
	return b, err
}

// body is the packet without its fixed header, and where it begins.
func body(packet []byte) ([]byte, int) {
	_, n := varint(packet[1:])
	return packet[1+n:], 1 + n
}

// protocolLevel of a CONNECT: 0 if it has none.
func protocolLevel(packet []byte) byte {
	b, _ := body(packet)
	if name, ok := field(b, 0); ok && len(b) > 2+len(name) {
		return b[2+len(name)]
	}
	return 0
}

// ackID is the Packet Identifier of an acknowledgement: 0, which is none, if it has none.
func ackID(packet []byte) uint16 {
	if b, _ := body(packet); len(b) >= 2 {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// ack is an acknowledgement with Reason Code 0, which has the same four bytes in all versions.
func ack(first byte, id uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{first, 2}, id)
}

// A message is a PUBLISH. Its slices are the packet's.
type message struct {
	qos                byte
	id                 uint16 // 0 at QoS 0
	idAt               int    // in the packet
	topicName, payload []byte
}

// parsePublish reports false for what is no PUBLISH of the protocol level.
func parsePublish(packet []byte, level byte) (m message, ok bool) {
	b, begin := body(packet)
	m.qos = packet[0] >> 1 & 3
	if m.topicName, ok = field(b, 0); !ok || m.qos == 3 {
		return m, false
	}
	at := 2 + len(m.topicName)
	if m.qos > 0 {
		if len(b) < at+2 {
			return m, false
		}
		m.idAt, m.id = begin+at, binary.BigEndian.Uint16(b[at:])
		at += 2
	}
	if level >= 5 {
		length, n := varint(b[at:])
		if n == 0 || len(b) < at+n+length {
			return m, false
		}
		at += n + length
	}
	m.payload = b[at:]
	return m, true
}

// field is the length-prefixed bytes at b[at:].
func field(b []byte, at int) ([]byte, bool) {
	if len(b) < at+2 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(b[at:]))
	if len(b) < at+2+n {
		return nil, false
	}
	return b[at+2 : at+2+n], true
}

// varint decodes a Variable Byte Integer and how many bytes it took: 0 if b holds none.
func varint(b []byte) (value, size int) {
	for i, c := range b {
		if i == 4 {
			return 0, 0
		}
		value |= int(c&0x7F) << (7 * i)
		if c&0x80 == 0 {
			return value, i + 1
		}
	}
	return 0, 0
}
