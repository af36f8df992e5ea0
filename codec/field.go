package codec

// A string or binary field is a two byte length and at most that many bytes (sections 1.5.4 and 1.5.6).
const maxStringSize = 65_535

// cutUint16 reads the two byte integer at the start of b (section 1.5.2).
func cutUint16(b []byte) (value uint16, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, false
	}
	return uint16(b[0])<<8 | uint16(b[1]), b[2:], true
}

// cutBinary reads the length-prefixed field at the start of b. The field's capacity is its length, so that an append to it
// can't write into the packet.
func cutBinary(b []byte) (field, rest []byte, ok bool) {
	n, b, ok := cutUint16(b)
	if !ok || len(b) < int(n) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// cutString reads a string and checks that it is one.
func cutString(b []byte) (field, rest []byte, err error) {
	field, rest, ok := cutBinary(b)
	if !ok {
		return nil, nil, ErrTruncated
	}
	if !ValidUTF8String(field) {
		return nil, nil, ErrInvalidUTF8
	}
	return field, rest, nil
}

// cutName reads a string that names something, which may have no control characters in it.
func cutName(b []byte) (field, rest []byte, err error) {
	field, rest, ok := cutBinary(b)
	if !ok {
		return nil, nil, ErrTruncated
	}
	return field, rest, nameError(field)
}

func appendUint16(dst []byte, value uint16) []byte { return append(dst, byte(value>>8), byte(value)) }

func stringSize(field []byte) int { return 2 + min(len(field), maxStringSize) }

func appendString(dst, field []byte) []byte {
	field = field[:min(len(field), maxStringSize)]
	return append(appendUint16(dst, uint16(len(field))), field...)
}
