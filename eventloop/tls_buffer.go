package eventloop

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// A tls.Conn keeps the buffers that its largest record and its largest handshake message needed, in private fields: 3.5
// KiB for an idle connection, half of all that TLS costs, and 33 KiB for one that once got a large message. So the buffer
// of records belongs to the loop, and a connection borrows it while it is read, as it does with others; what handshake
// messages were read into goes when the handshake is done. Both are empty bytes.Buffers then, and crypto/tls can't tell
// an empty buffer from another. If a version of it has other fields, nothing is taken from it, and a test fails.
var rawOffset, handOffset, haveBuffers = bufferOffsets()

func bufferOffsets() (raw, hand uintptr, ok bool) {
	conn, buffer := reflect.TypeFor[tls.Conn](), reflect.TypeFor[bytes.Buffer]()
	r, haveRaw := conn.FieldByName("rawInput")
	h, haveHand := conn.FieldByName("hand")
	if !haveRaw || !haveHand || r.Type != buffer || h.Type != buffer {
		return 0, 0, false
	}
	return r.Offset, h.Offset, true
}

func rawBuffer(tc *tls.Conn) *bytes.Buffer {
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(tc), rawOffset))
}

func handBuffer(tc *tls.Conn) *bytes.Buffer {
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(tc), handOffset))
}

// lendBuffer gives a connection the loop's buffer of records, if it has none of its own.
func (l *Loop) lendBuffer(tc *tls.Conn) {
	if !haveBuffers {
		return
	}
	if raw := rawBuffer(tc); raw.Cap() == 0 {
		*raw, l.raw = l.raw, bytes.Buffer{}
	}
}

// takeBuffer takes it back when all there is has been read. Part of a record stays, in no larger a buffer than it needs.
func (l *Loop) takeBuffer(tc *tls.Conn) {
	if !haveBuffers {
		return
	}
	raw := rawBuffer(tc)
	var rest []byte
	if raw.Len() > 0 {
		if raw.Cap() <= 2*raw.Len()+bytes.MinRead {
			return
		}
		rest = bytes.Clone(raw.Bytes())
	}
	if raw.Cap() > l.raw.Cap() {
		raw.Reset()
		l.raw = *raw
	}
	*raw = *bytes.NewBuffer(rest)
	if hand := handBuffer(tc); hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
}
