//go:build linux

package loadtest

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
)

// answerMax bounds the answer to the request that opens a WebSocket.
const answerMax = 16 << 10

// Opcodes of WebSocket [RFC 6455, 5.2].
const (
	opContinuation = 0x0
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// websocketGUID is what a server proves with that it speaks WebSocket [RFC 6455, 1.3].
const websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

var errFrame = errors.New("the broker sent a malformed WebSocket frame")

// frames is a client's side of WebSocket, without I/O.
type frames struct {
	random  *rand.Rand
	key     string
	answer  []byte // to the request, until it is complete
	head    []byte // of a frame, until it is complete
	left    uint64 // of the frame's payload
	control []byte // payload of a control frame
	opcode  byte
	inside  bool   // in a frame's payload
	replies []byte // frames to be sent before others: pongs
	framed  []byte
}

func newFrames(random *rand.Rand) *frames {
	var key [16]byte
	binary.NativeEndian.PutUint64(key[:], random.Uint64())
	binary.NativeEndian.PutUint64(key[8:], random.Uint64())
	return &frames{random: random, key: base64.StdEncoding.EncodeToString(key[:])}
}

// appendRequest appends the request that opens the connection.
func (w *frames) appendRequest(b []byte, t target) []byte {
	return fmt.Appendf(b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", t.path, t.address, w.key)
}

// upgrade takes the answer. When it is complete it returns what came behind it.
func (w *frames) upgrade(b []byte) (rest []byte, done bool, err error) {
	w.answer = append(w.answer, b...)
	end := bytes.Index(w.answer, []byte("\r\n\r\n"))
	if end < 0 {
		if len(w.answer) > answerMax {
			return nil, false, fmt.Errorf("WebSocket: an answer of more than %d bytes", answerMax)
		}
		return nil, false, nil
	}
	head, rest := string(w.answer[:end]), w.answer[end+4:]
	w.answer = nil
	lines := strings.Split(head, "\r\n")
	if status := strings.Fields(lines[0]); len(status) < 2 || status[1] != "101" {
		return nil, false, fmt.Errorf("WebSocket refused: %q", lines[0])
	}
	header := http.Header{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		header.Add(name, strings.TrimSpace(value))
	}
	sum := sha1.Sum([]byte(w.key + websocketGUID))
	if header.Get("Sec-Websocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) || header.Get("Sec-Websocket-Protocol") != "mqtt" {
		return nil, false, errors.New("WebSocket: the answer isn't one to the request") // [MQTT-6.0.0-4]
	}
	return rest, true, nil
}

// append appends p as one binary frame [MQTT-6.0.0-1], masked [RFC 6455, 5.3].
func (w *frames) append(b, p []byte) []byte { return w.appendFrame(b, opBinary, p) }

func (w *frames) appendFrame(b []byte, opcode byte, p []byte) []byte {
	b = append(b, 0x80|opcode)
	switch {
	case len(p) < 126:
		b = append(b, 0x80|byte(len(p)))
	case len(p) < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(p)))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(len(p)))
	}
	mask := w.random.Uint32()
	b = binary.LittleEndian.AppendUint32(b, mask)
	at := len(b)
	b = append(b, p...)
	masked, wide := b[at:], uint64(mask)<<32|uint64(mask)
	for len(masked) >= 8 {
		binary.LittleEndian.PutUint64(masked, binary.LittleEndian.Uint64(masked)^wide)
		masked = masked[8:]
	}
	for i := range masked {
		masked[i] ^= byte(mask >> (8 * (i % 4)))
	}
	return b
}

// decode returns what is in the frames of b, in place, and whether the server has said goodbye. What it has to answer is in replies.
func (w *frames) decode(b []byte) (data []byte, closed bool, err error) {
	data = b[:0]
	for len(b) > 0 || w.inside && w.left == 0 {
		if !w.inside {
			if b, err = w.begin(b); err != nil || !w.inside {
				return data, closed, err
			}
		}
		n := int(min(w.left, uint64(len(b))))
		part := b[:n]
		b, w.left = b[n:], w.left-uint64(n)
		if w.opcode < opClose {
			data = append(data, part...)
		} else {
			w.control = append(w.control, part...)
		}
		if w.left > 0 {
			continue
		}
		w.inside = false
		switch w.opcode {
		case opClose:
			w.replies = w.appendFrame(w.replies, opClose, w.control[:min(len(w.control), 2)])
			return data, true, nil
		case opPing:
			if len(w.replies) < answerMax { // of many pings at once not all need an answer
				w.replies = w.appendFrame(w.replies, opPong, w.control)
			}
		}
		w.control = w.control[:0]
	}
	return data, closed, nil
}

// begin reads a frame's head, and returns what is behind it.
func (w *frames) begin(b []byte) ([]byte, error) {
	for len(b) > 0 {
		w.head, b = append(w.head, b[0]), b[1:]
		if len(w.head) < 2 {
			continue
		}
		size, extended := uint64(w.head[1]&0x7F), 0
		switch size {
		case 126:
			extended = 2
		case 127:
			extended = 8
		}
		if len(w.head) < 2+extended {
			continue
		}
		switch extended {
		case 2:
			size = uint64(binary.BigEndian.Uint16(w.head[2:]))
		case 8:
			size = binary.BigEndian.Uint64(w.head[2:])
		}
		w.opcode = w.head[0] & 0x0F
		known := w.opcode == opContinuation || w.opcode == opBinary || w.opcode >= opClose && w.opcode <= opPong
		if w.head[0]&0x70 != 0 || w.head[1]&0x80 != 0 || !known || w.opcode >= opClose && (size > 125 || w.head[0]&0x80 == 0) || size>>63 != 0 {
			return nil, fmt.Errorf("%w: it begins % x", errFrame, w.head)
		}
		w.head, w.left, w.inside = w.head[:0], size, true
		return b, nil
	}
	return b, nil
}
