package loadtest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Control packet types, already shifted into the first byte of the fixed header.
const (
	typeConnect     = 1 << 4
	typeConnack     = 2 << 4
	typePublish     = 3 << 4
	typePuback      = 4 << 4
	typePubrec      = 5 << 4
	typePubrel      = 6<<4 | 2 // [MQTT-3.6.1-1] reserves the low bits as 0010
	typePubcomp     = 7 << 4
	typeSubscribe   = 8<<4 | 2 // [MQTT-3.8.1-1]
	typeSuback      = 9 << 4
	typeUnsubscribe = 10<<4 | 2 // [MQTT-3.10.1-1]
	typeUnsuback    = 11 << 4
	typePingreq     = 12 << 4
	typePingresp    = 13 << 4
	typeDisconnect  = 14 << 4
)

// Flags of PUBLISH.
const (
	flagRetain = 0x01
	flagDup    = 0x08
)

// filtersPerSubscribe is how many Topic Filters go into one SUBSCRIBE.
const filtersPerSubscribe = 100

var errMalformed = errors.New("the broker sent a malformed packet")

// login is what a CONNECT says.
type login struct {
	version   byte
	clean     bool // Clean Session, Clean Start
	durable   bool // the session outlives the connection
	keepAlive uint16
	clientID  string
	user      string
	password  string
}

// append appends the CONNECT.
func (g *login) append(b []byte) []byte {
	name := "MQTT"
	if g.version == 3 {
		name = "MQIsdp"
	}
	var flags byte
	if g.clean {
		flags |= 0x02
	}
	remaining := 2 + len(name) + 4 + 2 + len(g.clientID)
	if g.user != "" {
		flags |= 0x80
		remaining += 2 + len(g.user)
	}
	if g.password != "" {
		flags |= 0x40
		remaining += 2 + len(g.password)
	}
	var properties []byte
	if g.version == 5 {
		properties = []byte{0}
		if g.durable {
			properties = []byte{5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF} // Session Expiry Interval: none
		}
	}
	b = append(b, typeConnect)
	b = appendVarint(b, remaining+len(properties))
	b = appendString(b, name)
	b = append(b, g.version, flags)
	b = binary.BigEndian.AppendUint16(b, g.keepAlive)
	b = append(b, properties...)
	b = appendString(b, g.clientID)
	if g.user != "" {
		b = appendString(b, g.user)
	}
	if g.password != "" {
		b = appendString(b, g.password)
	}
	return b
}

// appendDisconnect appends a DISCONNECT, which with 5.0 can end the session too.
func appendDisconnect(b []byte, version byte, endSession bool) []byte {
	if version == 5 && endSession {
		return append(b, typeDisconnect, 7, 0, 5, 0x11, 0, 0, 0, 0)
	}
	return append(b, typeDisconnect, 0)
}

// appendSubscribe appends a SUBSCRIBE.
func appendSubscribe(b []byte, version byte, packetID uint16, qos byte, filters []string) []byte {
	b = appendFilters(b, typeSubscribe, version, packetID, filters, 1)
	// The options go behind each filter, so room was left for them.
	at := len(b)
	for i := len(filters) - 1; i >= 0; i-- {
		b[at-1] = qos
		at -= 2 + len(filters[i]) + 1
	}
	return b
}

// appendUnsubscribe appends an UNSUBSCRIBE.
func appendUnsubscribe(b []byte, version byte, packetID uint16, filters []string) []byte {
	return appendFilters(b, typeUnsubscribe, version, packetID, filters, 0)
}

func appendFilters(b []byte, first, version byte, packetID uint16, filters []string, room int) []byte {
	remaining := 2
	if version == 5 {
		remaining++
	}
	for _, f := range filters {
		remaining += 2 + len(f) + room
	}
	b = appendVarint(append(b, first), remaining)
	b = binary.BigEndian.AppendUint16(b, packetID)
	if version == 5 {
		b = append(b, 0)
	}
	for _, f := range filters {
		b = appendString(b, f)
		b = append(b, 0)[:len(b)+room]
	}
	return b
}

// publishHead returns the bytes of a PUBLISH before its payload of size bytes, with a zero Packet Identifier, and where in them
// it stands (0 at QoS 0). A publisher copies and patches them for each message.
func publishHead(version, qos, flags byte, topic string, size int) (head []byte, idAt int) {
	remaining := 2 + len(topic) + size
	if qos > 0 {
		remaining += 2
	}
	if version == 5 {
		remaining++
	}
	head = appendVarint([]byte{typePublish | qos<<1 | flags}, remaining)
	head = appendString(head, topic)
	if qos > 0 {
		idAt = len(head)
		head = append(head, 0, 0)
	}
	if version == 5 {
		head = append(head, 0)
	}
	return head, idAt
}

// filler returns the bytes of a payload behind its stamp.
func filler(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte('a' + i%26)
	}
	return b
}

// A stamp is what the payload of each message begins with: who published it, its number there (the low half, which is enough to
// tell where it belongs), and when it was due, in nanoseconds of Unix time.
type stamp struct {
	publisher uint32
	number    uint32
	due       int64
}

// append appends the stamp, stampBytes long.
func (s stamp) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, s.publisher)
	b = binary.BigEndian.AppendUint32(b, s.number)
	return binary.BigEndian.AppendUint64(b, uint64(s.due))
}

// readStamp reads the stamp of a payload, which must be long enough.
func readStamp(b []byte) stamp {
	_ = b[stampBytes-1]
	return stamp{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), int64(binary.BigEndian.Uint64(b[8:]))}
}

// appendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP with Reason Code 0, which has the same four bytes in all versions.
func appendAck(b []byte, first byte, packetID uint16) []byte {
	return append(b, first, 2, byte(packetID>>8), byte(packetID))
}

// nextPacket splits the first control packet off b. n is 0 while b holds less than a whole packet, and size then what it will
// have, if that is known. body aliases b.
func nextPacket(b []byte) (first byte, body []byte, n, size int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, 0, nil
	}
	length, width := int(b[1]), 1
	if length >= 0x80 {
		if length, width, err = varint(b[1:]); err != nil || width == 0 {
			return 0, nil, 0, 0, err
		}
	}
	size = 1 + width + length
	if len(b) < size {
		return 0, nil, 0, size, nil
	}
	return b[0], b[1+width : size], size, size, nil
}

// splitPublish returns the Packet Identifier (0 at QoS 0) and the payload of a PUBLISH.
func splitPublish(version, first byte, body []byte) (packetID uint16, payload []byte, err error) {
	if len(body) < 2 {
		return 0, nil, errMalformed
	}
	at := 2 + int(binary.BigEndian.Uint16(body))
	if first&0x06 != 0 {
		if len(body) < at+2 {
			return 0, nil, errMalformed
		}
		packetID = binary.BigEndian.Uint16(body[at:])
		if packetID == 0 {
			return 0, nil, errMalformed
		}
		at += 2
	}
	if version == 5 {
		if len(body) <= at {
			return 0, nil, errMalformed
		}
		if body[at] == 0 {
			at++
		} else {
			length, width, err := varint(body[at:])
			if err != nil || width == 0 {
				return 0, nil, errMalformed
			}
			at += width + length
		}
	}
	if len(body) < at {
		return 0, nil, errMalformed
	}
	return packetID, body[at:], nil
}

// A greeting is what a CONNACK says.
type greeting struct {
	sessionPresent bool
	code           byte
	receiveMaximum int
	maximumQoS     byte
	keepAlive      uint16 // Server Keep Alive, 0 if there is none
}

// readConnack reads the body of a CONNACK.
func readConnack(version byte, body []byte) (greeting, error) {
	if len(body) < 2 || version < 5 && len(body) != 2 {
		return greeting{}, errMalformed
	}
	g := greeting{sessionPresent: body[0]&1 != 0, code: body[1], receiveMaximum: 65535, maximumQoS: 2}
	if version < 5 || g.code != 0 && len(body) == 2 {
		return g, nil
	}
	length, width, err := varint(body[2:])
	if err != nil || width == 0 || len(body) != 2+width+length {
		return greeting{}, errMalformed
	}
	for b := body[2+width:]; len(b) > 0; {
		n := propertySize(b)
		if n == 0 || n > len(b) {
			return greeting{}, errMalformed
		}
		switch b[0] {
		case 0x13:
			g.keepAlive = binary.BigEndian.Uint16(b[1:])
		case 0x21:
			g.receiveMaximum = int(binary.BigEndian.Uint16(b[1:]))
		case 0x24:
			g.maximumQoS = b[1]
		}
		b = b[n:]
	}
	if g.receiveMaximum == 0 {
		return greeting{}, errMalformed
	}
	return g, nil
}

// propertySize is the size of the property of a CONNACK that b begins with, which may be more than b has; 0 if there is no such property.
func propertySize(b []byte) int {
	switch b[0] {
	case 0x24, 0x25, 0x28, 0x29, 0x2A:
		return 2
	case 0x21, 0x22, 0x13:
		return 3
	case 0x11, 0x27:
		return 5
	case 0x12, 0x1F, 0x1A, 0x1C, 0x15, 0x16:
		return 1 + stringSize(b[1:])
	case 0x26:
		n := 1 + stringSize(b[1:])
		return n + stringSize(b[min(n, len(b)):])
	}
	return 0
}

// stringSize is the size of the length-prefixed string that b begins with, prefix included.
func stringSize(b []byte) int {
	if len(b) < 2 {
		return 2
	}
	return 2 + int(binary.BigEndian.Uint16(b))
}

// readSuback checks that each of a SUBACK's Reason Codes grants qos.
func readSuback(version byte, body []byte, qos byte) error {
	if len(body) < 3 {
		return errMalformed
	}
	codes := body[2:]
	if version == 5 {
		length, width, err := varint(codes)
		if err != nil || width == 0 || len(codes) <= width+length {
			return errMalformed
		}
		codes = codes[width+length:]
	}
	for _, code := range codes {
		if code != qos {
			return fmt.Errorf("SUBACK with code 0x%02X for QoS %d", code, qos)
		}
	}
	return nil
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
