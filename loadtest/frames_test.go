//go:build linux

package loadtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	ours "loopmq/eventloop/websocket"
)

func testFrames() *frames { return newFrames(rand.New(rand.NewPCG(1, 2))) }

// TestFramesToServer has the broker's side decode what clients send.
func TestFramesToServer(t *testing.T) {
	w := testFrames()
	for _, size := range []int{0, 1, 7, 8, 9, 125, 126, 1000, 65_535, 65_536, 100_000} {
		want := filler(size)
		var d ours.Decoder
		got, reply, err := d.Decode(w.append(nil, want), nil)
		if err != nil || len(reply) > 0 || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, reply of %d, %v", size, len(got), len(reply), err)
		}
	}
}

// serverFrame is a frame of a server: not masked.
func serverFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// TestFramesFromServer decodes a conversation cut at every place.
func TestFramesFromServer(t *testing.T) {
	stream := slicesConcat(
		serverFrame(0x82, []byte("hello ")),
		serverFrame(0x02, []byte("in ")), serverFrame(0x89, []byte("ping")), serverFrame(0x80, []byte("parts ")),
		serverFrame(0x82, nil),
		serverFrame(0x8A, []byte("a pong")),
		serverFrame(0x82, bytes.Repeat([]byte("x"), 300)),
		serverFrame(0x88, []byte{3, 0xE8, 'b', 'y', 'e'}),
	)
	want := "hello in parts " + strings.Repeat("x", 300)
	for cut := range len(stream) {
		w := testFrames()
		a, closed, err := w.decode(bytes.Clone(stream[:cut]))
		if err != nil || closed {
			t.Fatalf("cut at %d: closed %v, %v", cut, closed, err)
		}
		got := string(a)
		b, closed, err := w.decode(bytes.Clone(stream[cut:]))
		if got += string(b); err != nil || !closed || got != want {
			t.Fatalf("cut at %d: got %q, closed %v, %v", cut, got, closed, err)
		}
		// A pong and a close go back; the server takes both, and answers the close.
		var d ours.Decoder
		if _, _, err := d.Decode(w.replies, nil); err == nil || !bytes.Contains(w.replies, []byte{0x8A, 0x84}) {
			t.Fatalf("cut at %d: the server takes % x: %v", cut, w.replies, err)
		}
	}
}

func slicesConcat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestBadFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"masked":            {0x82, 0x80},
		"reserved bit":      {0xC2, 0},
		"unknown opcode":    {0x83, 0},
		"text":              {0x81, 0},
		"fragmented ping":   {0x09, 0},
		"ping of 126 bytes": {0x89, 126, 0, 126},
		"length over 2^63":  {0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0},
	} {
		if _, _, err := testFrames().decode(b); !errors.Is(err, errFrame) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestUpgradeWithGorilla opens a WebSocket at a server by others.
func TestUpgradeWithGorilla(t *testing.T) {
	answer := make(chan []byte, 1)
	up := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	})
	w := testFrames()
	request := string(w.appendRequest(nil, target{address: "example.com:80", path: "/mqtt?x=1"}))
	record := httptest.NewServer(h)
	defer record.Close()
	// The answer, as the server's handler wrote it.
	go func() { answer <- exchange(t, record.Listener.Addr().String(), request) }()
	b := <-answer
	rest, done, err := w.upgrade(b[:10])
	if done || err != nil || rest != nil {
		t.Fatalf("10 bytes: %v, %v", done, err)
	}
	if rest, done, err = w.upgrade(append(b[10:], "behind"...)); !done || err != nil || string(rest) != "behind" {
		t.Fatalf("got %q, %v, %v of %q", rest, done, err, b)
	}

	for name, text := range map[string]string{
		"refused":    "HTTP/1.1 403 Forbidden\r\n\r\n",
		"no HTTP":    "SSH-2.0\r\n\r\n",
		"wrong key":  "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
		"never ends": strings.Repeat("x", answerMax+1),
	} {
		if _, _, err := testFrames().upgrade([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzFrames decodes whole and in two parts, with the same result.
func FuzzFrames(f *testing.F) {
	f.Add(slicesConcat(serverFrame(0x82, []byte("hello")), serverFrame(0x89, nil), serverFrame(0x88, nil)), 3)
	f.Add(serverFrame(0x82, filler(200)), 1)
	f.Add([]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'x'}, 5)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			return
		}
		whole := testFrames()
		want, wantClosed, wantErr := whole.decode(bytes.Clone(b))
		parts := testFrames()
		got, closed, err := parts.decode(bytes.Clone(b[:cut]))
		if err == nil && !closed {
			var more []byte
			more, closed, err = parts.decode(bytes.Clone(b[cut:]))
			got = append(bytes.Clone(got), more...)
		}
		if !bytes.Equal(got, want) || closed != wantClosed || (err == nil) != (wantErr == nil) || !bytes.Equal(whole.replies, parts.replies) {
			t.Fatalf("% x cut at %d: got %q, %v, %v, want %q, %v, %v", b, cut, got, closed, err, want, wantClosed, wantErr)
		}
	})
}
