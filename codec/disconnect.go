package codec

// Disconnect is DISCONNECT, the last packet of a Network Connection (section 3.14). In 3.x it is empty and only Clients send it.
type Disconnect struct {
	ReasonCode ReasonCode
	Properties Properties
}

// Decode reads the body of a DISCONNECT. Which Reason Codes and properties are for Clients and which for Servers isn't checked.
func (d *Disconnect) Decode(v Version, flags byte, body []byte) error {
	if !flagsAllowed(v, TypeDisconnect, flags) {
		return flagsError(v, TypeDisconnect, flags)
	}
	return decodeReason(&d.ReasonCode, &d.Properties, v, TypeDisconnect, body)
}

// Append appends the packet in its shortest form.
func (d *Disconnect) Append(dst []byte, v Version) []byte {
	return appendReason(dst, d.ReasonCode, &d.Properties, v, TypeDisconnect)
}

// Size is the number of bytes that Append writes.
func (d *Disconnect) Size(v Version) int {
	return packetSize(reasonSize(d.ReasonCode, &d.Properties, v, TypeDisconnect))
}

// decodeReason reads the body of DISCONNECT or AUTH: a Reason Code and properties, both of which may be left out.
func decodeReason(reason *ReasonCode, p *Properties, v Version, t PacketType, body []byte) error {
	*reason = Success
	p.Reset()
	switch {
	case len(body) == 0:
		return nil
	case v != V5:
		return ErrTrailingBytes
	}
	*reason = ReasonCode(body[0])
	if !reason.AllowedIn(t) { // [MQTT-3.14.2-1, MQTT-3.15.2-1]
		if t == TypeDisconnect {
			return ErrDisconnectReasonCode
		}
		return ErrReasonCode
	}
	if len(body) == 1 {
		return nil
	}
	return cutLastProperties(p, v, t, body[1:])
}

func appendReason(dst []byte, reason ReasonCode, p *Properties, v Version, t PacketType) []byte {
	remaining := reasonSize(reason, p, v, t)
	dst = appendFixedHeader(dst, t, 0, remaining)
	if remaining > 0 {
		dst = append(dst, byte(reason))
	}
	if remaining > 1 {
		dst = p.append(dst, t)
	}
	return dst
}

func reasonSize(reason ReasonCode, p *Properties, v Version, t PacketType) int {
	switch {
	case v != V5:
		return 0
	case p.present != 0:
		return 1 + p.size(t)
	case reason != Success:
		return 1
	}
	return 0
}
