package codec

// MaxRemainingLength is the largest Remaining Length, and the largest value of any variable byte integer (section 1.5.5).
const MaxRemainingLength = 268_435_455

// FixedHeader is the start of every packet (section 2.1).
type FixedHeader struct {
	Type       PacketType
	Flags      byte // the lower four bits of the first byte
	Remaining  int  // bytes that follow the fixed header: the body
	Size       int  // bytes of the whole packet
	HeaderSize int  // bytes of the fixed header, 2 to 5
}

// Sets of allowed flags, a bit for each value.
const (
	anyFlags = 0xFFFF
	flags0   = 1 << 0b0000
	flags2   = 1 << 0b0010
	// In 3.1 PUBREL, SUBSCRIBE and UNSUBSCRIBE have QoS 1, may have DUP, and don't use RETAIN.
	flagsQoS1 = 1<<0b0010 | 1<<0b0011 | 1<<0b1010 | 1<<0b1011
	// PUBLISH may have any flags but QoS 3 and, from 3.1.1 on, DUP with QoS 0.
	flagsPublish    = flagsPublish31 &^ (1<<0b1000 | 1<<0b1001)
	flagsPublish31  = anyFlags &^ (1<<0b0110 | 1<<0b0111 | 1<<0b1110 | 1<<0b1111)
	versionRowsMask = 7
)

// allowedFlags has a row per Version, and one at 0 for the time before CONNECT, which takes nothing but CONNECT. Its flags are
// left to Connect.Decode, which knows the version.
var allowedFlags = [versionRowsMask + 1][16]uint16{
	0: {TypeConnect: anyFlags},
	V31: {
		TypeConnect: anyFlags, TypeConnack: anyFlags, TypePublish: flagsPublish31,
		TypePuback: anyFlags, TypePubrec: anyFlags, TypePubrel: flagsQoS1, TypePubcomp: anyFlags,
		TypeSubscribe: flagsQoS1, TypeSuback: anyFlags, TypeUnsubscribe: flagsQoS1, TypeUnsuback: anyFlags,
		TypePingreq: anyFlags, TypePingresp: anyFlags, TypeDisconnect: anyFlags,
	},
	V311: {
		TypeConnect: flags0, TypeConnack: flags0, TypePublish: flagsPublish,
		TypePuback: flags0, TypePubrec: flags0, TypePubrel: flags2, TypePubcomp: flags0,
		TypeSubscribe: flags2, TypeSuback: flags0, TypeUnsubscribe: flags2, TypeUnsuback: flags0,
		TypePingreq: flags0, TypePingresp: flags0, TypeDisconnect: flags0,
	},
	V5: {
		TypeConnect: flags0, TypeConnack: flags0, TypePublish: flagsPublish,
		TypePuback: flags0, TypePubrec: flags0, TypePubrel: flags2, TypePubcomp: flags0,
		TypeSubscribe: flags2, TypeSuback: flags0, TypeUnsubscribe: flags2, TypeUnsuback: flags0,
		TypePingreq: flags0, TypePingresp: flags0, TypeDisconnect: flags0, TypeAuth: flags0,
	},
}

func flagsAllowed(v Version, t PacketType, flags byte) bool {
	return allowedFlags[v&versionRowsMask][t&15]>>(flags&15)&1 != 0
}

// flagsError says what is wrong with flags that are not allowed.
func flagsError(v Version, t PacketType, flags byte) error {
	switch {
	case v == 0:
		return ErrFirstPacketNotConnect
	case t == 0, t == TypeAuth && v != V5:
		return ErrReservedPacketType
	case t == TypePublish && flags&0b0110 == 0b0110:
		return ErrQoS3
	case t == TypePublish:
		return ErrDupQoS0
	case t == TypeConnack, t == TypeAuth, v == V5 && (t == TypePubrel || t == TypeDisconnect):
		return ErrReservedFlagsUnexpected
	}
	return ErrReservedFlags
}

// DecodeFixedHeader reads the fixed header at the start of b. It reports ok == false and no error when b is too short for that,
// and each error at the earliest byte that shows it; h.Type and h.Flags are set as soon as there is a byte, also with an error.
// The result doesn't depend on how much of the packet b has beyond the fixed header. v is 0 as long as CONNECT hasn't been read.
//
// Whether a packet may come at this point, in this direction and at this size is for the caller to say.
func DecodeFixedHeader(b []byte, v Version) (h FixedHeader, ok bool, err error) {
	if len(b) == 0 {
		return h, false, nil
	}
	h.Type, h.Flags = PacketType(b[0]>>4), b[0]&0x0F
	if !flagsAllowed(v, h.Type, h.Flags) {
		return h, false, flagsError(v, h.Type, h.Flags)
	}
	remaining, n, err := decodeVarint(b[1:])
	if err == ErrVariableByteIntegerTooLong { //nolint:errorlint // decodeVarint returns it bare
		err = ErrRemainingLengthTooLong
	}
	if n == 0 {
		return h, false, err
	}
	if (h.Type == TypePingreq || h.Type == TypePingresp) && remaining != 0 {
		return h, false, ErrPingLength
	}
	h.Remaining, h.HeaderSize, h.Size = remaining, 1+n, 1+n+remaining
	return h, true, nil
}

// decodeVarint reads the variable byte integer at the start of b and returns how many bytes it has: 0 if b ends within it, or
// with an error.
func decodeVarint(b []byte) (value, n int, err error) {
	if len(b) > 0 && b[0] < 0x80 {
		return int(b[0]), 1, nil
	}
	return decodeLongVarint(b)
}

func decodeLongVarint(b []byte) (value, n int, err error) {
	for i, c := range b {
		value |= int(c&0x7F) << (7 * i)
		switch {
		case c >= 0x80 && i == 3:
			return 0, 0, ErrVariableByteIntegerTooLong
		case c == 0 && i > 0:
			return 0, 0, ErrVariableByteIntegerNotShortest
		case c < 0x80:
			return value, i + 1, nil
		}
	}
	return 0, 0, nil
}

func varintSize(value int) int {
	switch {
	case value < 1<<7:
		return 1
	case value < 1<<14:
		return 2
	case value < 1<<21:
		return 3
	}
	return 4
}

func appendVarint(dst []byte, value int) []byte {
	for value >= 0x80 {
		dst = append(dst, byte(value)|0x80)
		value >>= 7
	}
	return append(dst, byte(value))
}

// packetSize is the size of a packet with the given Remaining Length.
func packetSize(remaining int) int { return 1 + varintSize(remaining) + remaining }

func appendFixedHeader(dst []byte, t PacketType, flags byte, remaining int) []byte {
	return appendVarint(append(dst, byte(t)<<4|flags), remaining)
}
