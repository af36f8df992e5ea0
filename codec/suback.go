package codec

// Suback is SUBACK, the answer to SUBSCRIBE (section 3.9).
type Suback struct {
	PacketID    uint16
	Properties  Properties
	ReasonCodes []ReasonCode // one per Topic Filter, in order [MQTT-3.9.3-1]
}

// Decode reads the body of a SUBACK.
func (s *Suback) Decode(v Version, flags byte, body []byte) error {
	s.ReasonCodes = s.ReasonCodes[:0]
	b, err := cutSubackHeader(&s.PacketID, &s.Properties, v, TypeSuback, flags, body)
	if err != nil {
		return err
	}
	s.ReasonCodes, err = decodeReasonCodes(s.ReasonCodes, v, TypeSuback, b)
	return err
}

// Append appends the packet. In 3.x every error becomes the one that 3.1.1 has, 0x80.
func (s *Suback) Append(dst []byte, v Version) []byte {
	dst = appendFixedHeader(dst, TypeSuback, 0, s.remaining(v))
	dst = appendUint16(dst, s.PacketID)
	if v == V5 {
		dst = s.Properties.append(dst, TypeSuback)
	}
	for _, r := range s.ReasonCodes {
		if v != V5 && r.IsError() {
			r = UnspecifiedError
		}
		dst = append(dst, byte(r))
	}
	return dst
}

// Size is the number of bytes that Append writes.
func (s *Suback) Size(v Version) int { return packetSize(s.remaining(v)) }

func (s *Suback) remaining(v Version) int {
	n := 2 + len(s.ReasonCodes)
	if v == V5 {
		n += s.Properties.size(TypeSuback)
	}
	return n
}

// cutSubackHeader reads what SUBACK and UNSUBACK have before their Reason Codes.
func cutSubackHeader(id *uint16, p *Properties, v Version, t PacketType, flags byte, body []byte) (rest []byte, err error) {
	if !flagsAllowed(v, t, flags) {
		return nil, flagsError(v, t, flags)
	}
	var ok bool
	if *id, rest, ok = cutUint16(body); !ok {
		return nil, ErrTruncated
	}
	if *id == 0 {
		return nil, ErrPacketIdentifierZero
	}
	if v != V5 {
		p.Reset()
		return rest, nil
	}
	return p.cut(rest, t)
}

// decodeReasonCodes appends the Reason Codes that the whole of b is.
func decodeReasonCodes(dst []ReasonCode, v Version, t PacketType, b []byte) ([]ReasonCode, error) {
	if len(b) == 0 {
		return dst, ErrSubackReasonCodesMissing
	}
	for _, c := range b {
		r := ReasonCode(c)
		if !r.AllowedIn(t) || v != V5 && r > UnspecifiedError { // [MQTT-3.9.3-2, MQTT-3.11.3-2]
			return dst, ErrReasonCode
		}
		dst = append(dst, r)
	}
	return dst, nil
}
