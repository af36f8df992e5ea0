package websocket

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"unicode/utf8"
)

// Opcodes, see RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Bits of the first two bytes of a frame.
const (
	bitFin       = 0x80
	bitsReserved = 0x70
	bitControl   = 0x08
	bitMask      = 0x80
)

const (
	// maxHeader is the largest header that a client sends: two bytes, a length of eight, the mask.
	maxHeader  = 14
	maxControl = 125
)

// HeaderRoom is how many bytes Seal has to find in front of a payload.
const HeaderRoom = 4

// ErrClosed is returned by Decode for the client's Close frame, and for all that comes behind it.
var ErrClosed = errors.New("websocket: closed by the client")

// Decoder takes the payload out of what a client sends. The zero value is ready for the first byte behind the handshake.
// It is not safe for concurrent use.
type Decoder struct {
	// MaxFrame is the largest payload of a frame, in bytes; 0 means no limit. A Decoder needs no memory for it.
	MaxFrame uint64

	left    uint64 // payload of the frame at hand that is still to come
	mask    uint32 // its lowest byte applies to the next byte of payload
	control []byte // the beginning of a control frame's payload, nil if there is none
	head    [maxHeader]byte
	headLen uint8 // bytes of a header that is incomplete
	opcode  uint8 // of the frame at hand
	payload bool  // a frame is at hand: its header is complete, its payload isn't
	inside  bool  // a fragmented message is
	ended   bool
}

// Decode takes the next bytes of the connection. It returns the payload of all data frames in them, which has moved to
// the front of in, and appends to reply what the client is to be sent. Of several Pings the last is answered
// [RFC 6455, 5.5.3].
//
// err is ErrClosed if the client has closed, or an *Error if it broke the rules. Then data is what came before, reply
// holds the Close frame that belongs to it, and later calls drop what they are given and return ErrClosed.
func (d *Decoder) Decode(in, reply []byte) (data, replied []byte, err error) {
	if d.ended {
		return nil, reply, ErrClosed
	}
	begin, n := len(reply), 0
	for rest := in; len(rest) > 0; {
		if !d.payload {
			used, complete, err := d.header(rest)
			if err != nil {
				d.ended = true
				return in[:n], AppendClose(reply, err.Code), err
			}
			if !complete {
				break
			}
			rest = rest[used:]
		}
		part := rest[:min(uint64(len(rest)), d.left)]
		rest = rest[len(part):]
		d.left -= uint64(len(part))
		d.payload = d.left > 0
		if d.opcode&bitControl == 0 {
			d.unmask(in[n:n+len(part)], part)
			n += len(part)
			continue
		}
		whole := d.collect(part)
		if d.payload {
			break
		}
		switch d.opcode {
		case opPing:
			reply = append(reply[:begin], bitFin|opPong, byte(len(whole)))
			reply = append(reply, whole...)
		case opClose:
			reply, err := d.close(reply, whole)
			return in[:n], reply, err
		}
	}
	return in[:n], reply, nil
}

// header takes the next frame's header from in, or a part of it, and reports how much that was.
func (d *Decoder) header(in []byte) (used int, complete bool, err *Error) {
	if used = d.collectHeader(in, 2); d.headLen < 2 {
		return used, false, nil
	}
	if err := d.checkStart(); err != nil {
		return used, false, err
	}
	size := 6
	switch d.head[1] &^ bitMask {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if used += d.collectHeader(in[used:], size); int(d.headLen) < size {
		return used, false, nil
	}
	d.headLen = 0
	d.left = uint64(d.head[1] &^ bitMask)
	switch d.left {
	case 126:
		if d.left = uint64(binary.BigEndian.Uint16(d.head[2:])); d.left < 126 {
			return used, false, errNotMinimal
		}
	case 127:
		switch d.left = binary.BigEndian.Uint64(d.head[2:]); {
		case d.left <= math.MaxUint16:
			return used, false, errNotMinimal
		case d.left > math.MaxInt64:
			return used, false, errLength
		}
	}
	if d.MaxFrame > 0 && d.left > d.MaxFrame {
		return used, false, errFrameTooLarge
	}
	d.mask = binary.LittleEndian.Uint32(d.head[size-4:])
	d.opcode = d.head[0] & 0x0F
	if d.opcode&bitControl == 0 {
		d.inside = d.head[0]&bitFin == 0
	}
	d.payload = true
	return used, true, nil
}

// collectHeader adds to the header what it lacks of size bytes, as far as it is there.
func (d *Decoder) collectHeader(in []byte, size int) (used int) {
	if int(d.headLen) < size {
		used = copy(d.head[d.headLen:size], in)
		d.headLen += uint8(used)
	}
	return used
}

// checkStart judges the first two bytes of a header, which come before anything is waited for.
func (d *Decoder) checkStart() *Error {
	final, opcode, length := d.head[0]&bitFin != 0, d.head[0]&0x0F, d.head[1]&^bitMask
	switch {
	case d.head[0]&bitsReserved != 0:
		return errReservedBits
	case opcode > opBinary && opcode < opClose || opcode > opPong:
		return errUnknownOpcode
	case d.head[1]&bitMask == 0:
		return errNotMasked
	case opcode&bitControl != 0 && !final:
		return errControlFragment
	case opcode&bitControl != 0 && length > maxControl:
		return errControlTooLong
	case opcode == opText:
		return errText
	case opcode == opContinuation && !d.inside:
		return errNothingContinues
	case opcode == opBinary && d.inside:
		return errInterleaved
	}
	return nil
}

// collect returns the payload of a control frame, of which part is the last piece or the only one. Before that what it
// returns is of no use.
func (d *Decoder) collect(part []byte) []byte {
	d.unmask(part, part)
	if d.control == nil && !d.payload {
		return part
	}
	whole := append(d.control, part...)
	if d.control = whole; !d.payload {
		d.control = nil
	}
	return whole
}

// unmask writes src without its mask to dst, which may be the same place or one before it [RFC 6455, 5.3].
func (d *Decoder) unmask(dst, src []byte) {
	mask := uint64(d.mask)<<32 | uint64(d.mask)
	d.mask = bits.RotateLeft32(d.mask, -8*(len(src)&3))
	for len(src) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^mask)
		dst, src = dst[8:], src[8:]
	}
	for i := range src {
		dst[i] = src[i] ^ byte(mask)
		mask >>= 8
	}
}

// close answers a Close frame with its own code [RFC 6455, 5.5.1], or with what is wrong with it.
func (d *Decoder) close(reply, payload []byte) ([]byte, error) {
	d.ended = true
	if err := checkClose(payload); err != nil {
		return AppendClose(reply, err.Code), err
	}
	if len(payload) == 0 {
		return AppendClose(reply, 0), ErrClosed
	}
	return AppendClose(reply, binary.BigEndian.Uint16(payload)), ErrClosed
}

func checkClose(payload []byte) *Error {
	if len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 {
		return errCloseTooShort
	}
	code := binary.BigEndian.Uint16(payload)
	switch {
	case code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006:
	case code >= 3000 && code <= 4999:
	default:
		return errCloseCode
	}
	if !utf8.Valid(payload[2:]) {
		return errCloseReason
	}
	return nil
}

// AppendClose appends a Close frame; code 0 means one without a code.
func AppendClose(b []byte, code uint16) []byte {
	if code == 0 {
		return append(b, bitFin|opClose, 0)
	}
	return binary.BigEndian.AppendUint16(append(b, bitFin|opClose, 2), code)
}

// AppendHeader appends the header of a binary frame with n bytes of payload.
func AppendHeader(b []byte, n int) []byte {
	switch {
	case n < 126:
		return append(b, bitFin|opBinary, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, bitFin|opBinary, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, bitFin|opBinary, 127), uint64(n))
}

// Seal makes one binary frame of b[start:], of which the first HeaderRoom bytes were left free, and returns b. It moves
// the payload only if its header has another size, which is when it is below 126 bytes or above 65,535. Without payload
// there is no frame.
func Seal(b []byte, start int) []byte {
	n := len(b) - start - HeaderRoom
	if n == 0 {
		return b[:start]
	}
	var header [maxHeader]byte
	h := AppendHeader(header[:0], n)
	if more := len(h) - HeaderRoom; more > 0 {
		b = append(b, header[:more]...) // only their number counts
	}
	copy(b[start+len(h):], b[start+HeaderRoom:start+HeaderRoom+n])
	copy(b[start:], h)
	return b[:start+len(h)+n]
}
