package codec

// Unsubscribe is UNSUBSCRIBE (section 3.10).
type Unsubscribe struct {
	PacketID     uint16
	Properties   Properties
	TopicFilters [][]byte
}

// Decode reads the body of an UNSUBSCRIBE. TopicFilters has at least one element afterwards [MQTT-3.10.3-2].
func (u *Unsubscribe) Decode(v Version, flags byte, body []byte) error {
	u.TopicFilters = u.TopicFilters[:0]
	b, err := cutSubscribeHeader(&u.PacketID, &u.Properties, v, TypeUnsubscribe, flags, body)
	if err != nil {
		return err
	}
	if len(b) == 0 {
		return ErrNoTopicFilter
	}
	for len(b) > 0 {
		filter, rest, ok := cutBinary(b)
		if !ok {
			return ErrTruncated
		}
		if err := topicFilterError(filter); err != nil {
			return err
		}
		u.TopicFilters = append(u.TopicFilters, filter)
		b = rest
	}
	return nil
}

// Append appends the packet.
func (u *Unsubscribe) Append(dst []byte, v Version) []byte {
	dst = appendFixedHeader(dst, TypeUnsubscribe, 0b0010, u.remaining(v))
	dst = appendUint16(dst, u.PacketID)
	if v == V5 {
		dst = u.Properties.append(dst, TypeUnsubscribe)
	}
	for _, filter := range u.TopicFilters {
		dst = appendString(dst, filter)
	}
	return dst
}

// Size is the number of bytes that Append writes.
func (u *Unsubscribe) Size(v Version) int { return packetSize(u.remaining(v)) }

func (u *Unsubscribe) remaining(v Version) int {
	n := 2
	if v == V5 {
		n += u.Properties.size(TypeUnsubscribe)
	}
	for _, filter := range u.TopicFilters {
		n += stringSize(filter)
	}
	return n
}
