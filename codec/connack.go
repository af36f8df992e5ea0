package codec

// Connack is CONNACK, the answer to CONNECT (section 3.2).
type Connack struct {
	SessionPresent bool // not in 3.1
	// ReasonCode is the Reason Code of 5.0 or the ConnectReturnCode of 3.x, as it stands in the packet.
	ReasonCode ReasonCode
	Properties Properties
}

const sessionPresent = 0x01

// Decode reads the body of a CONNACK.
func (c *Connack) Decode(v Version, flags byte, body []byte) error {
	switch {
	case !flagsAllowed(v, TypeConnack, flags):
		return flagsError(v, TypeConnack, flags)
	case len(body) < 2:
		return ErrTruncated
	case body[0]&^sessionPresent != 0 && v != V31: // 3.1 doesn't use the byte
		return ErrConnackFlagReserved
	}
	c.SessionPresent = body[0] == sessionPresent && v != V31
	c.ReasonCode = ReasonCode(body[1])
	switch {
	case v == V5 && !c.ReasonCode.AllowedIn(TypeConnack):
		return ErrReasonCode
	case v != V5 && int(c.ReasonCode) >= len(connectReturnCodeNames):
		return ErrConnackReturnCode
	case c.SessionPresent && c.ReasonCode != Success:
		return ErrConnackSessionPresent
	}
	return cutLastProperties(&c.Properties, v, TypeConnack, body[2:])
}

// Append appends the packet. In 3.x ReasonCode is written as it is, so it must be a ConnectReturnCode.
func (c *Connack) Append(dst []byte, v Version) []byte {
	dst = appendFixedHeader(dst, TypeConnack, 0, c.remaining(v))
	var flags byte
	if c.SessionPresent && v != V31 {
		flags = sessionPresent
	}
	dst = append(dst, flags, byte(c.ReasonCode))
	if v == V5 {
		dst = c.Properties.append(dst, TypeConnack)
	}
	return dst
}

// Size is the number of bytes that Append writes.
func (c *Connack) Size(v Version) int { return packetSize(c.remaining(v)) }

func (c *Connack) remaining(v Version) int {
	if v != V5 {
		return 2
	}
	return 2 + c.Properties.size(TypeConnack)
}

// cutLastProperties reads the properties that end a packet; in 3.x nothing must be left of it.
func cutLastProperties(p *Properties, v Version, t PacketType, b []byte) (err error) {
	if v == V5 {
		b, err = p.cut(b, t)
	} else {
		p.Reset()
	}
	if err == nil && len(b) != 0 {
		err = ErrTrailingBytes
	}
	return err
}
