package codec

// Ack is PUBACK, PUBREC, PUBREL or PUBCOMP, which are the same but for the type (sections 3.4 to 3.7).
type Ack struct {
	Type       PacketType
	PacketID   uint16
	ReasonCode ReasonCode // always Success in 3.x
	Properties Properties
}

// Decode reads the body of a packet of type t, one of the four. The flags are [DecodeFixedHeader]'s business.
func (a *Ack) Decode(v Version, t PacketType, body []byte) error {
	a.Type, a.ReasonCode = t, Success
	if a.Properties.present != 0 {
		a.Properties.Reset()
	}
	if len(body) < 2 {
		return ErrTruncated
	}
	a.PacketID = uint16(body[0])<<8 | uint16(body[1])
	if a.PacketID == 0 {
		return ErrPacketIdentifierZero
	}
	if len(body) == 2 {
		return nil
	}
	if v != V5 {
		return ErrTrailingBytes
	}
	a.ReasonCode = ReasonCode(body[2])
	if !a.ReasonCode.AllowedIn(t) { // [MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.6.2-1, MQTT-3.7.2-1]
		return ErrReasonCode
	}
	if len(body) == 3 {
		return nil
	}
	return cutLastProperties(&a.Properties, v, t, body[3:])
}

// Append appends the packet in its shortest form.
func (a *Ack) Append(dst []byte, v Version) []byte {
	if v != V5 || a.Properties.present == 0 {
		return AppendAckReason(dst, v, a.Type, a.PacketID, a.ReasonCode)
	}
	dst = appendFixedHeader(dst, a.Type, ackFlags(a.Type), a.remaining(v))
	dst = append(appendUint16(dst, a.PacketID), byte(a.ReasonCode))
	return a.Properties.append(dst, a.Type)
}

// Size is the number of bytes that Append writes.
func (a *Ack) Size(v Version) int { return packetSize(a.remaining(v)) }

func (a *Ack) remaining(v Version) int {
	switch {
	case v == V5 && a.Properties.present != 0:
		return 2 + 1 + a.Properties.size(a.Type)
	case v == V5 && a.ReasonCode != Success:
		return 2 + 1
	}
	return 2
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP with Reason Code Success: four bytes that are the same in all versions.
func AppendAck(dst []byte, t PacketType, packetID uint16) []byte {
	return append(dst, byte(t)<<4|ackFlags(t), 2, byte(packetID>>8), byte(packetID))
}

// AppendAckReason appends a PUBACK, PUBREC, PUBREL or PUBCOMP without properties. 3.x leaves the Reason Code out.
func AppendAckReason(dst []byte, v Version, t PacketType, packetID uint16, reason ReasonCode) []byte {
	if v != V5 || reason == Success {
		return AppendAck(dst, t, packetID)
	}
	return append(dst, byte(t)<<4|ackFlags(t), 3, byte(packetID>>8), byte(packetID), byte(reason))
}

// ackFlags are the flags of the fixed header [MQTT-3.6.1-1].
func ackFlags(t PacketType) byte {
	if t == TypePubrel {
		return 0b0010
	}
	return 0
}
