package codec

// Connect is CONNECT, the first packet of a Network Connection (section 3.1).
type Connect struct {
	ProtocolName []byte // "MQTT", or "MQIsdp" in 3.1; set by Decode, not read by Append
	Version      Version
	Bridge       bool // the sender is another broker: bit 0x80 of the Protocol Level, in 3.x only
	CleanStart   bool // Clean Session in 3.x
	KeepAlive    uint16
	ClientID     []byte
	WillFlag     bool
	Will         Will // zero unless WillFlag
	UsernameFlag bool
	PasswordFlag bool
	Username     []byte
	Password     []byte
	Properties   Properties
}

// Will is the message that the Server publishes when the Network Connection ends without a DISCONNECT (section 3.1.2.5).
type Will struct {
	QoS        byte
	Retain     bool
	TopicName  []byte
	Payload    []byte
	Properties Properties
}

// Bits of the Connect Flags (section 3.1.2.3).
const (
	connectReserved   = 0x01
	connectCleanStart = 0x02
	connectWill       = 0x04
	connectWillQoS    = 0x18
	connectWillRetain = 0x20
	connectPassword   = 0x40
	connectUsername   = 0x80

	connectWillQoSShift = 3

	bridgeLevel = 0x80
)

// Decode reads the body of a CONNECT and finds out the version, which it judges before anything else: after
// ErrUnsupportedProtocolVersion nothing but ProtocolName is known. flags are those of the fixed header. The length of ClientID
// is not looked at, and neither is whether an empty one goes with CleanStart.
func (c *Connect) Decode(flags byte, body []byte) error {
	name, b, ok := cutBinary(body)
	if !ok {
		return ErrTruncated
	}
	c.ProtocolName = name
	if len(b) == 0 {
		return ErrTruncated
	}
	if err := c.decodeVersion(b[0]); err != nil {
		return err
	}
	b = b[1:]
	if !flagsAllowed(c.Version, TypeConnect, flags) || len(b) < 3 {
		return ErrConnectHeader
	}
	connectFlags := b[0]
	if err := c.decodeFlags(connectFlags); err != nil {
		return err
	}
	c.KeepAlive, b, _ = cutUint16(b[1:])

	var err error
	if b, err = c.cutProperties(&c.Properties, TypeConnect, b); err != nil {
		return err
	}
	if c.ClientID, b, ok = cutBinary(b); !ok {
		return ErrTruncated
	}
	if nameError(c.ClientID) != nil { // [MQTT-3.1.3-4]
		return ErrClientID
	}
	if b, err = c.cutWill(b); err != nil {
		return err
	}
	if b, err = c.cutCredentials(b); err != nil {
		return err
	}
	if len(b) != 0 {
		return ErrTrailingBytes
	}
	return nil
}

func (c *Connect) decodeVersion(level byte) error {
	c.Bridge = level&bridgeLevel != 0
	c.Version = Version(level &^ bridgeLevel)
	switch string(c.ProtocolName) {
	case "MQTT":
		if c.Version == V311 || c.Version == V5 && !c.Bridge {
			return nil
		}
	case "MQIsdp":
		if c.Version == V31 {
			return nil
		}
	default:
		return ErrProtocolName
	}
	return ErrUnsupportedProtocolVersion
}

func (c *Connect) decodeFlags(flags byte) error {
	c.CleanStart = flags&connectCleanStart != 0
	c.WillFlag = flags&connectWill != 0
	c.UsernameFlag = flags&connectUsername != 0
	c.PasswordFlag = flags&connectPassword != 0
	c.Will.QoS = flags & connectWillQoS >> connectWillQoSShift
	c.Will.Retain = flags&connectWillRetain != 0
	if c.Version == V31 && !c.WillFlag { // 3.1 disregards Will QoS and Will Retain then
		c.Will.QoS, c.Will.Retain = 0, false
	}
	switch {
	case flags&connectReserved != 0 && c.Version != V31: // 3.1 doesn't use it
		return ErrConnectFlagReserved
	case !c.WillFlag && c.Will.QoS != 0:
		return ErrWillQoSWithoutWill
	case !c.WillFlag && c.Will.Retain:
		return ErrWillRetainWithoutWill
	case c.Will.QoS == 3:
		return ErrWillQoS3
	case c.PasswordFlag && !c.UsernameFlag && c.Version != V5: // 5.0 allows a token without a name
		return ErrPasswordWithoutUsername
	}
	return nil
}

// cutProperties reads properties where the version has them.
func (c *Connect) cutProperties(p *Properties, t PacketType, b []byte) ([]byte, error) {
	if c.Version != V5 {
		p.Reset()
		return b, nil
	}
	return p.cut(b, t)
}

func (c *Connect) cutWill(b []byte) (rest []byte, err error) {
	c.Will.TopicName, c.Will.Payload = nil, nil
	if !c.WillFlag {
		c.Will.Properties.Reset()
		return b, nil
	}
	if b, err = c.cutProperties(&c.Will.Properties, typeWill, b); err != nil {
		return nil, err
	}
	var ok bool
	if c.Will.TopicName, b, ok = cutBinary(b); !ok {
		return nil, ErrTruncated
	}
	if len(c.Will.TopicName) == 0 {
		return nil, ErrWillTopicEmpty
	}
	if err = topicNameError(c.Will.TopicName); err != nil { // [MQTT-3.1.3-11]
		return nil, err
	}
	if c.Will.Payload, b, ok = cutBinary(b); !ok {
		return nil, ErrTruncated
	}
	return b, nil
}

func (c *Connect) cutCredentials(b []byte) (rest []byte, err error) {
	c.Username, c.Password = nil, nil
	if c.Version == V31 {
		// 3.1, section 3.1: "the Remaining Length field takes precedence over the User Name flag", likewise for the password.
		c.UsernameFlag = c.UsernameFlag && len(b) > 0
	}
	if c.UsernameFlag {
		if c.Username, b, err = cutName(b); err != nil { // [MQTT-3.1.3-12]
			return nil, ErrCredentials
		}
	}
	if c.Version == V31 {
		c.PasswordFlag = c.PasswordFlag && len(b) > 0
	}
	if c.PasswordFlag {
		var ok bool
		if c.Password, b, ok = cutBinary(b); !ok {
			return nil, ErrCredentials
		}
	}
	return b, nil
}

// Append appends the packet in the form of version v; c.Version is not looked at.
func (c *Connect) Append(dst []byte, v Version) []byte {
	name, level := "MQTT", byte(v)
	if v == V31 {
		name = "MQIsdp"
	}
	if c.Bridge && v != V5 {
		level |= bridgeLevel
	}
	dst = appendFixedHeader(dst, TypeConnect, 0, c.remaining(v))
	dst = appendString(dst, []byte(name))
	dst = append(dst, level, c.flags())
	dst = appendUint16(dst, c.KeepAlive)
	if v == V5 {
		dst = c.Properties.append(dst, TypeConnect)
	}
	dst = appendString(dst, c.ClientID)
	if c.WillFlag {
		if v == V5 {
			dst = c.Will.Properties.append(dst, typeWill)
		}
		dst = appendString(appendString(dst, c.Will.TopicName), c.Will.Payload)
	}
	if c.UsernameFlag {
		dst = appendString(dst, c.Username)
	}
	if c.PasswordFlag {
		dst = appendString(dst, c.Password)
	}
	return dst
}

// Size is the number of bytes that Append writes.
func (c *Connect) Size(v Version) int { return packetSize(c.remaining(v)) }

func (c *Connect) flags() (flags byte) {
	for _, f := range [...]struct {
		set bool
		bit byte
	}{
		{c.CleanStart, connectCleanStart},
		{c.WillFlag, connectWill | c.Will.QoS<<connectWillQoSShift},
		{c.WillFlag && c.Will.Retain, connectWillRetain},
		{c.UsernameFlag, connectUsername},
		{c.PasswordFlag, connectPassword},
	} {
		if f.set {
			flags |= f.bit
		}
	}
	return flags
}

func (c *Connect) remaining(v Version) int {
	n := len("\x00\x04MQTT") + 1 + 1 + 2 + stringSize(c.ClientID)
	if v == V31 {
		n += len("MQIsdp") - len("MQTT")
	}
	if v == V5 {
		n += c.Properties.size(TypeConnect)
	}
	if c.WillFlag {
		n += stringSize(c.Will.TopicName) + stringSize(c.Will.Payload)
		if v == V5 {
			n += c.Will.Properties.size(typeWill)
		}
	}
	if c.UsernameFlag {
		n += stringSize(c.Username)
	}
	if c.PasswordFlag {
		n += stringSize(c.Password)
	}
	return n
}
