//go:build linux

package main

import (
	"encoding/binary"
	"errors"
)

// The generator speaks just enough MQTT for its scenarios, by hand and without allocating, so that what it costs itself stays far
// below what it measures. It shares no code with the broker's codec: an error there can't hide here.

// Control packet types, already shifted into the first byte of the fixed header.
const (
	typeConnect    = 1 << 4
	typeConnack    = 2 << 4
	typePublish    = 3 << 4
	typePuback     = 4 << 4
	typePubrec     = 5 << 4
	typePubrel     = 6<<4 | 2 // [MQTT-3.6.1-1] reserves the low bits as 0010
	typePubcomp    = 7 << 4
	typeSubscribe  = 8<<4 | 2 // [MQTT-3.8.1-1]
	typeSuback     = 9 << 4
	typeDisconnect = 14 << 4
)

// keepAliveSeconds is long enough that no scenario has to send a PINGREQ, and not 0, so that a broker's Keep Alive timers exist.
const keepAliveSeconds = 600

var errMalformed = errors.New("the broker sent a malformed packet")

// appendConnect appends a CONNECT for version 4 (3.1.1) or 5: with Clean Session (Clean Start) 1, or, if it is durable, with 0 and, in
// 5.0, a Session Expiry Interval that never ends.
func appendConnect(b []byte, version byte, clientID string, durable bool) []byte {
	var properties []byte
	flags := byte(0x02)
	if durable {
		flags = 0
	}
	if version == 5 {
		properties = []byte{0}
		if durable {
			properties = []byte{5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF}
		}
	}
	remaining := 10 + len(properties) + 2 + len(clientID)
	b = append(b, typeConnect)
	b = appendVarint(b, remaining)
	b = append(b, 0, 4, 'M', 'Q', 'T', 'T', version, flags)
	b = binary.BigEndian.AppendUint16(b, keepAliveSeconds)
	b = append(b, properties...)
	return appendString(b, clientID)
}

// appendSubscribe appends a SUBSCRIBE for one Topic Filter.
func appendSubscribe(b []byte, version byte, packetID uint16, filter string, qos byte) []byte {
	remaining := 2 + 2 + len(filter) + 1
	if version == 5 {
		remaining++
	}
	b = append(b, typeSubscribe)
	b = appendVarint(b, remaining)
	b = binary.BigEndian.AppendUint16(b, packetID)
	if version == 5 {
		b = append(b, 0)
	}
	b = appendString(b, filter)
	return append(b, qos)
}

// publishTemplate returns the bytes of a PUBLISH with a zero Packet Identifier and a payload of size bytes, and where in them the
// Packet Identifier (0 at QoS 0) and the payload stand. A publisher copies and patches it for each message.
func publishTemplate(version, qos byte, topic string, size int) (packet []byte, idAt, payloadAt int) {
	remaining := 2 + len(topic) + size
	if qos > 0 {
		remaining += 2
	}
	if version == 5 {
		remaining++
	}
	b := appendVarint([]byte{typePublish | qos<<1}, remaining)
	b = appendString(b, topic)
	if qos > 0 {
		idAt = len(b)
		b = append(b, 0, 0)
	}
	if version == 5 {
		b = append(b, 0)
	}
	payloadAt = len(b)
	for i := range size {
		b = append(b, byte('a'+i%26))
	}
	return b, idAt, payloadAt
}

// appendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP with Reason Code 0, which has the same four bytes in 3.1.1 and 5.0.
func appendAck(b []byte, first byte, id []byte) []byte {
	return append(b, first, 2, id[0], id[1])
}

// nextPacket splits the first control packet off b. n is 0 while b holds less than a whole packet. body aliases b.
func nextPacket(b []byte) (first byte, body []byte, n int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	length, size, err := varint(b[1:])
	if err != nil || size == 0 {
		return 0, nil, 0, err
	}
	n = 1 + size + length
	if len(b) < n {
		return 0, nil, 0, nil
	}
	return b[0], b[1+size : n], n, nil
}

// splitPublish returns the two bytes of the Packet Identifier (nil at QoS 0) and the payload of a PUBLISH.
func splitPublish(version, first byte, body []byte) (id, payload []byte, err error) {
	if len(body) < 2 {
		return nil, nil, errMalformed
	}
	at := 2 + int(binary.BigEndian.Uint16(body))
	if first&0x06 != 0 {
		if len(body) < at+2 {
			return nil, nil, errMalformed
		}
		id = body[at : at+2]
		at += 2
	}
	if version == 5 {
		if len(body) < at {
			return nil, nil, errMalformed
		}
		length, size, err := varint(body[at:])
		if err != nil || size == 0 {
			return nil, nil, errMalformed
		}
		at += size + length
	}
	if len(body) < at {
		return nil, nil, errMalformed
	}
	return id, body[at:], nil
}

// connackReceiveMaximum returns the Receive Maximum that a 5.0 CONNACK states, 65,535 when it states none.
func connackReceiveMaximum(body []byte) (int, error) {
	length, size, err := varint(body[2:])
	if err != nil || size == 0 || len(body) != 2+size+length {
		return 0, errMalformed
	}
	for b := body[2+size:]; len(b) > 0; {
		var n int
		switch b[0] {
		case 0x21:
			if len(b) < 3 {
				return 0, errMalformed
			}
			return int(binary.BigEndian.Uint16(b[1:])), nil
		case 0x24, 0x25, 0x28, 0x29, 0x2A:
			n = 2
		case 0x22, 0x13:
			n = 3
		case 0x11, 0x27:
			n = 5
		case 0x12, 0x1F, 0x1A, 0x1C, 0x15, 0x16:
			n = 1 + stringSize(b[1:])
		case 0x26:
			n = 1 + stringSize(b[1:])
			n += stringSize(b[min(n, len(b)):])
		default:
			return 0, errMalformed
		}
		if n > len(b) {
			return 0, errMalformed
		}
		b = b[n:]
	}
	return 65535, nil
}

// stringSize is the size of the length-prefixed string that b begins with, prefix included.
func stringSize(b []byte) int {
	if len(b) < 2 {
		return 2
	}
	return 2 + int(binary.BigEndian.Uint16(b))
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendVarint(b []byte, n int) []byte {
	for n >= 128 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// varint decodes a Variable Byte Integer and how many bytes it took: 0 when b ends inside it.
func varint(b []byte) (value, size int, err error) {
	for i, c := range b {
		if i == 4 {
			return 0, 0, errMalformed
		}
		value |= int(c&0x7F) << (7 * i)
		if c&0x80 == 0 {
			return value, i + 1, nil
		}
	}
	return 0, 0, nil
}
