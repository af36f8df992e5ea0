package codec

// Unsuback is UNSUBACK, the answer to UNSUBSCRIBE (section 3.11).
type Unsuback struct {
	PacketID    uint16
	Properties  Properties
	ReasonCodes []ReasonCode // one per Topic Filter, in order [MQTT-3.11.3-1]; none in 3.x
}

// Decode reads the body of an UNSUBACK.
func (u *Unsuback) Decode(v Version, flags byte, body []byte) error {
	u.ReasonCodes = u.ReasonCodes[:0]
	b, err := cutSubackHeader(&u.PacketID, &u.Properties, v, TypeUnsuback, flags, body)
	if err != nil {
		return err
	}
	if v != V5 {
		if len(b) != 0 {
			return ErrTrailingBytes
		}
		return nil
	}
	u.ReasonCodes, err = decodeReasonCodes(u.ReasonCodes, v, TypeUnsuback, b)
	return err
}

// Append appends the packet.
func (u *Unsuback) Append(dst []byte, v Version) []byte {
	dst = appendFixedHeader(dst, TypeUnsuback, 0, u.remaining(v))
	dst = appendUint16(dst, u.PacketID)
	if v != V5 {
		return dst
	}
	dst = u.Properties.append(dst, TypeUnsuback)
	for _, r := range u.ReasonCodes {
		dst = append(dst, byte(r))
	}
	return dst
}

// Size is the number of bytes that Append writes.
func (u *Unsuback) Size(v Version) int { return packetSize(u.remaining(v)) }

func (u *Unsuback) remaining(v Version) int {
	if v != V5 {
		return 2
	}
	return 2 + u.Properties.size(TypeUnsuback) + len(u.ReasonCodes)
}
