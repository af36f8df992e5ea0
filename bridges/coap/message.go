package coapbridge

import (
	"encoding/binary"
	"errors"
	"math"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/udp/coder"
)

// optionRequestTag is one that go-coap has no name for. [RFC 9175, 3.2]
const optionRequestTag coap.OptionID = 292

// Why a datagram is no message.
var (
	errNotCoAP   = errors.New("it is not CoAP, or of another version")
	errMalformed = errors.New("it is not a valid message")
)

// headerSize is that of a message without token, options and payload.
const headerSize = 4

// decode reads a datagram, whose bytes the message points to. It is stricter than go-coap,
// which forgets options that it doesn't know, critical ones too. With errMalformed,
// Type and MessageID are there.
func decode(data []byte) (m coap.Message, err error) {
	if len(data) < headerSize || data[0]>>6 != 1 {
		return m, errNotCoAP
	}
	m.Type = coap.Type(data[0] >> 4 & 3)
	m.Code = codes.Code(data[1])
	m.MessageID = int32(binary.BigEndian.Uint16(data[2:]))
	tokenLength := int(data[0] & 0xf)
	data = data[headerSize:]
	if tokenLength > coap.MaxTokenSize || tokenLength > len(data) {
		return m, errMalformed
	}
	m.Token, data = coap.Token(data[:tokenLength:tokenLength]), data[tokenLength:]
	if m.Code == codes.Empty && (tokenLength > 0 || len(data) > 0) {
		return m, errMalformed
	}
	id := 0
	for len(data) > 0 && data[0] != 0xff {
		first := data[0]
		delta, rest, ok := extended(first>>4, data[1:])
		if !ok {
			return m, errMalformed
		}
		length, rest, ok := extended(first&0xf, rest)
		if id += delta; !ok || length > len(rest) || id > math.MaxUint16 {
			return m, errMalformed
		}
		m.Options = append(m.Options, coap.Option{ID: coap.OptionID(id), Value: rest[:length:length]})
		data = rest[length:]
	}
	if len(data) == 1 { // a marker, and no payload behind it
		return m, errMalformed
	}
	if len(data) > 0 {
		m.Payload = data[1:]
	}
	return m, nil
}

// extended reads the rest of an option's delta or length.
func extended(nibble byte, data []byte) (n int, rest []byte, ok bool) {
	switch {
	case nibble < 13:
		return int(nibble), data, true
	case nibble == 13 && len(data) >= 1:
		return int(data[0]) + 13, data[1:], true
	case nibble == 14 && len(data) >= 2:
		return int(binary.BigEndian.Uint16(data)) + 269, data[2:], true
	}
	return 0, nil, false
}

// appendUint appends a number as an option has it: in as few bytes as there can be.
func appendUint(b []byte, n uint32) []byte {
	for shift := 24; shift >= 0; shift -= 8 {
		if n>>shift > 0 {
			b = append(b, byte(n>>shift))
		}
	}
	return b
}

// uintOf reads such a number.
func uintOf(value []byte) (n uint32) {
	for _, b := range value {
		n = n<<8 | uint32(b)
	}
	return n
}

// block is the value of Block1 or Block2 (RFC 7959).
type block struct {
	number uint32
	more   bool
	szx    uint8 // the size is 16 << szx
}

// szxMax is that of the largest blocks, of 1024 bytes.
const szxMax = 6

func (b block) size() int { return 16 << b.szx }

// offset is where in the body the block begins.
func (b block) offset() int { return int(b.number) << (b.szx + 4) }

func (b block) value() uint32 {
	n := b.number<<4 | uint32(b.szx)
	if b.more {
		n |= 8
	}
	return n
}

// blockOf reads such a value. ok is false for a size that there isn't with UDP.
func blockOf(n uint32) (b block, ok bool) {
	b = block{number: n >> 4, more: n&8 != 0, szx: uint8(n & 7)}
	return b, b.szx <= szxMax
}

// response is what a request is answered, or an observer is told. Zero values of numbers
// that may be 0 are in pointers.
type response struct {
	code     codes.Code
	payload  []byte // the whole of it
	format   *uint16
	etag     []byte
	maxAge   *uint32 // seconds
	observe  *uint32
	location []string
	block1   *block
	block2   *block // which part of the payload; nil: the first, if it isn't all
	size1    int    // 0: it isn't said
	// key is what the rest of the payload will be asked for by; empty: it is all.
	key string
	// observation is to wait until the rest was asked for.
	observation *observation
	// sent is called when it was sent, or can't be.
	sent func(ok bool)
}

// encode returns a datagram. Of a payload that isn't for one datagram it has a block of
// the size of szx or less; more says that others follow.
func (r *response) encode(t coap.Type, messageID uint16, token []byte, szx uint8) (data []byte, more bool) {
	payload, b := r.payload, r.block2
	if b == nil && len(payload) > 16<<szx {
		b = &block{szx: szx}
	}
	var numbers [8][4]byte
	used := 0
	options := make(coap.Options, 0, 8+len(r.location))
	add := func(id coap.OptionID, n uint32) {
		options = append(options, coap.Option{ID: id, Value: appendUint(numbers[used][:0], n)})
		used++
	}
	if len(r.etag) > 0 {
		options = append(options, coap.Option{ID: coap.ETag, Value: r.etag})
	}
	if r.observe != nil {
		add(coap.Observe, *r.observe)
	}
	for _, s := range r.location {
		options = append(options, coap.Option{ID: coap.LocationPath, Value: []byte(s)})
	}
	if r.format != nil {
		add(coap.ContentFormat, uint32(*r.format))
	}
	if r.maxAge != nil {
		add(coap.MaxAge, *r.maxAge)
	}
	if b != nil {
		part := *b
		if part.szx > szx { // the same place in smaller blocks
			part.number, part.szx = part.number<<(part.szx-szx), szx
		}
		whole, from := len(payload), min(part.offset(), len(payload))
		payload = payload[from:min(from+part.size(), whole)]
		part.more = from+len(payload) < whole
		more = part.more
		add(coap.Block2, part.value())
		if r.block1 != nil {
			add(coap.Block1, r.block1.value())
		}
		if from == 0 {
			add(coap.Size2, uint32(whole))
		}
	} else if r.block1 != nil {
		add(coap.Block1, r.block1.value())
	}
	if r.size1 > 0 {
		add(coap.Size1, uint32(r.size1))
	}
	m := coap.Message{Type: t, Code: r.code, MessageID: int32(messageID), Token: token, Options: options, Payload: payload}
	data = make([]byte, headerSize+len(token)+optionsSize(options)+1+len(payload))
	// It can't fail: it is a valid message, and there is room.
	n, _ := coder.DefaultCoder.Encode(m, data)
	return data[:max(n, 0)], more
}

// optionsSize is as many bytes as options can take.
func optionsSize(options coap.Options) (n int) {
	for _, o := range options {
		n += 5 + len(o.Value)
	}
	return n
}

// empty returns a message without a code, such as an acknowledgement.
func empty(t coap.Type, messageID uint16) []byte {
	return []byte{1<<6 | byte(t)<<4, 0, byte(messageID >> 8), byte(messageID)}
}
