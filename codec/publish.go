package codec

import (
	"encoding/binary"
	"slices"
)

// Publish is PUBLISH, which carries an Application Message (section 3.3).
type Publish struct {
	Dup        bool
	QoS        byte
	Retain     bool
	TopicName  []byte // empty only if a Topic Alias stands in (5.0)
	PacketID   uint16 // 0 with QoS 0
	Payload    []byte
	Properties Properties
}

// Bits of the flags of PUBLISH (section 3.3.1).
const (
	publishRetain = 0b0001
	publishQoS    = 0b0110
	publishDup    = 0b1000

	publishQoSShift = 1
)

// Decode reads the body of a PUBLISH. It doesn't look into the payload, whatever the Payload Format Indicator says, and doesn't
// know the direction: that a Client mustn't send Subscription Identifiers, or which Topic Aliases there are, is for the caller.
func (p *Publish) Decode(v Version, flags byte, body []byte) error {
	if !flagsAllowed(v, TypePublish, flags) {
		return flagsError(v, TypePublish, flags)
	}
	p.Dup = flags&publishDup != 0
	p.QoS = flags & publishQoS >> publishQoSShift
	p.Retain = flags&publishRetain != 0
	if p.Properties.present != 0 {
		p.Properties.Reset()
	}

	if len(body) < 2 {
		return ErrTruncated
	}
	end := 2 + (int(body[0])<<8 | int(body[1]))
	if len(body) < end {
		return ErrTruncated
	}
	topic, b := body[2:end:end], body[end:]
	p.PacketID = 0
	if p.QoS > 0 {
		if len(b) < 2 {
			return ErrTruncated
		}
		p.PacketID = uint16(b[0])<<8 | uint16(b[1])
		if p.PacketID == 0 {
			return ErrPacketIdentifierZero
		}
		b = b[2:]
	}
	if v == V5 {
		if len(b) > 0 && b[0] == 0 {
			b = b[1:]
		} else {
			var err error
			if b, err = p.Properties.cut(b, TypePublish); err != nil {
				return err
			}
		}
	}
	switch {
	case len(topic) == 0:
		if !p.Properties.Has(PropTopicAlias) {
			return ErrTopicNameEmpty
		}
	case !plain(topic):
		if err := topicNameError(topic); err != nil {
			return err
		}
	}
	p.TopicName, p.Payload = topic, b[:len(b):len(b)]
	return nil
}

// Append appends the packet with all its properties, as a Client sends it. [AppendPublish] is the Server's way.
func (p *Publish) Append(dst []byte, v Version) []byte {
	dst = appendFixedHeader(dst, TypePublish, publishFlags(p.Dup, p.QoS, p.Retain), p.remaining(v))
	dst = appendString(dst, p.TopicName)
	if p.QoS > 0 {
		dst = appendUint16(dst, p.PacketID)
	}
	if v == V5 {
		dst = p.Properties.append(dst, TypePublish)
	}
	return append(dst, p.Payload...)
}

// Size is the number of bytes that Append writes.
func (p *Publish) Size(v Version) int { return packetSize(p.remaining(v)) }

func (p *Publish) remaining(v Version) int {
	n := stringSize(p.TopicName) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if v == V5 {
		n += p.Properties.size(TypePublish)
	}
	return n
}

func publishFlags(dup bool, qos byte, retain bool) byte {
	flags := qos << publishQoSShift
	if dup {
		flags |= publishDup
	}
	if retain {
		flags |= publishRetain
	}
	return flags
}

// PublishHeader is what a Server decides anew for each receiver of a message. The rest, Topic Name, properties and payload, it
// sends on as it came. Everything from TopicAlias on is for 5.0 only.
type PublishHeader struct {
	Dup                     bool
	QoS                     byte
	Retain                  bool
	PacketID                uint16 // not written with QoS 0
	TopicAlias              uint16 // 0 means none; with one the Topic Name may be empty
	HasMessageExpiry        bool
	MessageExpiry           uint32 // seconds, if HasMessageExpiry
	SubscriptionIdentifiers []uint32
}

// AppendPublish appends a PUBLISH. forwardProperties is what [Properties.AppendForward] wrote; 3.x leaves it out. topic must
// have at most 65,535 bytes. dst grows at most once.
func AppendPublish(dst []byte, v Version, h *PublishHeader, topic, forwardProperties, payload []byte) []byte {
	properties, remaining := h.sizes(v, len(topic), len(forwardProperties), len(payload))
	size := packetSize(remaining)
	start := len(dst)
	if cap(dst)-start < size {
		dst = slices.Grow(dst, size)
	}
	dst = dst[:start+size]
	b := dst[start:]

	b[0] = byte(TypePublish)<<4 | publishFlags(h.Dup, h.QoS, h.Retain)
	i := putVarint(b, 1, remaining)
	binary.BigEndian.PutUint16(b[i:], uint16(len(topic)))
	i += 2
	i += copy(b[i:], topic)
	if h.QoS > 0 {
		binary.BigEndian.PutUint16(b[i:], h.PacketID)
		i += 2
	}
	if v == V5 {
		i = putVarint(b, i, properties)
		if properties != len(forwardProperties) {
			i = h.putProperties(b, i)
		}
		i += copy(b[i:], forwardProperties)
	}
	copy(b[i:], payload)
	return dst
}

// PublishSize is the number of bytes that [AppendPublish] appends, given the lengths of its arguments.
func PublishSize(v Version, h *PublishHeader, topicLen, forwardLen, payloadLen int) int {
	_, remaining := h.sizes(v, topicLen, forwardLen, payloadLen)
	return packetSize(remaining)
}

// sizes returns the Property Length and the Remaining Length.
func (h *PublishHeader) sizes(v Version, topicLen, forwardLen, payloadLen int) (properties, remaining int) {
	remaining = 2 + topicLen + payloadLen
	if h.QoS > 0 {
		remaining += 2
	}
	if v != V5 {
		return 0, remaining
	}
	properties = forwardLen
	if h.HasMessageExpiry {
		properties += 5
	}
	if h.TopicAlias != 0 {
		properties += 3
	}
	for _, id := range h.SubscriptionIdentifiers {
		properties += 1 + varintSize(int(id))
	}
	return properties, remaining + varintSize(properties) + properties
}

// putProperties writes the properties that are the receiver's own at b[i:] and returns where they end.
func (h *PublishHeader) putProperties(b []byte, i int) int {
	if h.HasMessageExpiry {
		b[i] = byte(PropMessageExpiryInterval)
		binary.BigEndian.PutUint32(b[i+1:], h.MessageExpiry)
		i += 5
	}
	if h.TopicAlias != 0 {
		b[i] = byte(PropTopicAlias)
		binary.BigEndian.PutUint16(b[i+1:], h.TopicAlias)
		i += 3
	}
	for _, id := range h.SubscriptionIdentifiers {
		b[i] = byte(PropSubscriptionIdentifier)
		i = putVarint(b, i+1, int(id))
	}
	return i
}

// putVarint writes value at b[i:] and returns where it ends.
func putVarint(b []byte, i, value int) int {
	for value >= 0x80 {
		b[i] = byte(value) | 0x80
		value >>= 7
		i++
	}
	b[i] = byte(value)
	return i + 1
}
