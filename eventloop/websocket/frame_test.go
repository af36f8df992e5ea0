package websocket

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"loopmq/metrics"
)

var testMask = [4]byte{0x37, 0xFA, 0x21, 0x3D}

// frame is a masked frame in the shortest form.
func frame(first byte, payload string) []byte {
	b := AppendHeader(nil, len(payload))
	b[0] = first
	b[1] |= bitMask
	b = append(b, testMask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^testMask[i&3])
	}
	return b
}

func closeFrame(code uint16, reason string) []byte {
	return frame(bitFin|opClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// result is what a Decoder made of a stream.
type result struct {
	data, reply string
	err         error
}

// decode gives a Decoder the stream in pieces of at most size bytes. Each call has a buffer of its own, which is
// overwritten behind it.
func decode(d *Decoder, stream []byte, size int) (r result) {
	var all strings.Builder
	var reply []byte
	for len(stream) > 0 {
		in := bytes.Clone(stream[:min(size, len(stream))])
		stream = stream[len(in):]
		data, replied, err := d.Decode(in, reply)
		all.Write(data)
		reply = replied
		clear(in)
		if err != nil {
			r.err = err
			break
		}
	}
	r.data, r.reply = all.String(), string(reply)
	return r
}

func TestDecode(t *testing.T) {
	long := strings.Repeat("0123456789", 7000)
	pong := func(s string) string { return string([]byte{0x8A, byte(len(s))}) + s }
	closing := func(code uint16) string { return string([]byte{0x88, 2, byte(code >> 8), byte(code)}) }
	header := func(b ...byte) []byte { return b }
	for _, test := range []struct {
		name   string
		stream []byte
		want   result
	}{
		{"one frame, RFC 6455 5.7", []byte{0x82, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58}, result{data: "Hello"}},
		{"an empty frame", frame(0x82, ""), result{}},
		{"a length of 16 bits", frame(0x82, long[:300]), result{data: long[:300]}},
		{"a length of 64 bits", frame(0x82, long), result{data: long}},
		{
			"125, 126, 65535 and 65536 bytes", join(frame(0x82, long[:125]), frame(0x82, long[:126]), frame(0x82, long[:65535]), frame(0x82, long[:65536])),
			result{data: long[:125] + long[:126] + long[:65535] + long[:65536]},
		},
		{"fragments, 5.4", join(frame(0x02, "a"), frame(0x00, "bc"), frame(0x00, ""), frame(0x80, "def"), frame(0x82, "g")), result{data: "abcdefg"}},
		{"a Pong that nobody asked for, 5.5.3", join(frame(0x8A, "x"), frame(0x82, "a")), result{data: "a"}},
		{"a Ping, 5.5.2", join(frame(0x89, "ping"), frame(0x82, "a")), result{data: "a", reply: pong("ping")}},
		{"a Ping of 125 bytes inside a message, 5.4", join(frame(0x02, "a"), frame(0x89, long[:125]), frame(0x80, "b")), result{data: "ab", reply: pong(long[:125])}},
		{"Close, 5.5.1", join(frame(0x82, "a"), closeFrame(1000, "bye"), frame(0x82, "b")), result{"a", closing(1000), ErrClosed}},
		{"Close without a code", frame(0x88, ""), result{"", "\x88\x00", ErrClosed}},
		{"Close of an application", closeFrame(4999, ""), result{"", closing(4999), ErrClosed}},
		{"Close inside a message", join(frame(0x02, "a"), closeFrame(1001, "")), result{"a", closing(1001), ErrClosed}},
		{"Ping, then Close", join(frame(0x89, "p"), closeFrame(1001, "")), result{"", pong("p") + closing(1001), ErrClosed}},

		{"half a code, 5.5.1", frame(0x88, "\x03"), result{"", closing(1002), errCloseTooShort}},
		{"code 1005, 7.4.1", closeFrame(1005, ""), result{"", closing(1002), errCloseCode}},
		{"code 1015", closeFrame(1015, ""), result{"", closing(1002), errCloseCode}},
		{"code 999, 7.4.2", closeFrame(999, ""), result{"", closing(1002), errCloseCode}},
		{"code 2000", closeFrame(2000, ""), result{"", closing(1002), errCloseCode}},
		{"code 5000", closeFrame(5000, ""), result{"", closing(1002), errCloseCode}},
		{"a reason that isn't UTF-8, 5.5.1", closeFrame(1000, "\xFF"), result{"", closing(1007), errCloseReason}},
		{"not masked, 5.1", join(frame(0x82, "a"), header(0x82, 0x01, 'b')), result{"a", closing(1002), errNotMasked}},
		{"RSV1, 5.2", frame(0xC2, "a"), result{"", closing(1002), errReservedBits}},
		{"RSV2", frame(0xA2, "a"), result{"", closing(1002), errReservedBits}},
		{"RSV3", frame(0x92, "a"), result{"", closing(1002), errReservedBits}},
		{"opcode 3, 5.2", frame(0x83, "a"), result{"", closing(1002), errUnknownOpcode}},
		{"opcode 7", frame(0x87, "a"), result{"", closing(1002), errUnknownOpcode}},
		{"opcode B", frame(0x8B, "a"), result{"", closing(1002), errUnknownOpcode}},
		{"opcode F", frame(0x8F, "a"), result{"", closing(1002), errUnknownOpcode}},
		{"a Ping of 126 bytes, 5.5", frame(0x89, long[:126]), result{"", closing(1002), errControlTooLong}},
		{"a Close of 126 bytes", frame(0x88, long[:126]), result{"", closing(1002), errControlTooLong}},
		{"a Ping in fragments, 5.5", frame(0x09, "p"), result{"", closing(1002), errControlFragment}},
		{"text, MQTT-6.0.0-1", frame(0x81, "a"), result{"", closing(1003), errText}},
		{"a continuation of nothing, 5.4", frame(0x80, "a"), result{"", closing(1002), errNothingContinues}},
		{"a continuation behind the end", join(frame(0x02, "a"), frame(0x80, "b"), frame(0x80, "c")), result{"ab", closing(1002), errNothingContinues}},
		{"a message inside another, 5.4", join(frame(0x02, "a"), frame(0x82, "b")), result{"a", closing(1002), errInterleaved}},
		{"5 as 16 bits, 5.2", header(0x82, 0xFE, 0, 5, 0, 0, 0, 0), result{"", closing(1002), errNotMinimal}},
		{"300 as 64 bits, 5.2", header(0x82, 0xFF, 0, 0, 0, 0, 0, 0, 1, 44, 0, 0, 0, 0), result{"", closing(1002), errNotMinimal}},
		{"the highest bit of a length, 5.2", header(0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), result{"", closing(1002), errLength}},
		{"100,001 bytes", header(0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0x86, 0xA1, 0, 0, 0, 0), result{"", closing(1009), errFrameTooLarge}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, size := range []int{1, 2, 3, 7, 64, 1 << 20} {
				d := &Decoder{MaxFrame: 100_000}
				got := decode(d, test.stream, size)
				if got != test.want {
					t.Errorf("in pieces of %d:\ngot  %.200q %q %v\nwant %.200q %q %v", size,
						got.data, got.reply, got.err, test.want.data, test.want.reply, test.want.err)
				}
				if d.control != nil {
					t.Error("a control frame's payload is kept")
				}
				if got.err == nil {
					continue
				}
				if data, reply, err := d.Decode(frame(0x82, "later"), nil); len(data)+len(reply) > 0 || !errors.Is(err, ErrClosed) {
					t.Errorf("behind the end: got %q %q %v", data, reply, err)
				}
			}
		})
	}
}

func TestDecodeAnswersTheLastPing(t *testing.T) {
	var stream []byte
	for i := range 1000 {
		stream = append(stream, frame(0x89, fmt.Sprint(i))...)
	}
	before := []byte("before")
	_, reply, err := new(Decoder).Decode(stream, before)
	if err != nil || string(reply) != "before\x8A\x03999" {
		t.Errorf("got %q, %v", reply, err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	_, _, err := new(Decoder).Decode(frame(0x81, "text"), nil)
	var e *Error
	if !errors.As(err, &e) || e.Reason != metrics.FrameText || e.Code != CloseUnsupportedData {
		t.Fatalf("got %#v", err)
	}
	if got, want := err.Error(), "websocket: text frame: MQTT is sent in binary frames [MQTT-6.0.0-1]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// gorilla's client sends random messages, whole and in fragments; what it wrote is decoded in random pieces, and what is
// sent to it in frames of ours it reads.
func TestAgainstGorilla(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	payload := make([]byte, 200_000)
	for i := range payload {
		payload[i] = byte(random.Uint32())
	}
	for range 50 {
		end := newPipe()
		client := gorillaClient(t, end)
		var want []byte
		for range random.IntN(20) {
			p := payload[:random.IntN([]int{10, 130, 1000, 70_000, len(payload)}[random.IntN(5)])]
			want = append(want, p...)
			if random.IntN(2) == 0 {
				_ = client.WriteMessage(websocket.BinaryMessage, p)
				continue
			}
			w, err := client.NextWriter(websocket.BinaryMessage)
			if err != nil {
				t.Fatal(err)
			}
			for len(p) > 0 {
				n := 1 + random.IntN(len(p))
				_, _ = w.Write(p[:n])
				_ = client.WriteControl(websocket.PingMessage, p[:random.IntN(min(n, 126))], time.Time{})
				p = p[n:]
			}
			_ = w.Close()
		}
		got := decode(new(Decoder), end.out.Bytes(), 1+random.IntN([]int{10, 10_000, 70_000}[random.IntN(3)]))
		if got.err != nil || got.data != string(want) {
			t.Fatalf("got %d bytes, %v; want %d", len(got.data), got.err, len(want))
		}
	}
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 200_000} {
		end := newPipe()
		client := gorillaClient(t, end)
		end.in.Write(Seal(append(make([]byte, HeaderRoom), payload[:n]...), 0))
		end.in.Write(append(AppendHeader(nil, 3), "end"...))
		for _, want := range [][]byte{payload[:n], []byte("end")} {
			if len(want) == 0 {
				continue // no frame
			}
			if kind, got, err := client.ReadMessage(); err != nil || kind != websocket.BinaryMessage || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes of kind %d, %v; want %d", len(got), kind, err, len(want))
			}
		}
		end.in.Write(AppendClose(nil, CloseGoingAway))
		if _, _, err := client.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("got %v", err)
		}
	}
}

func TestSealKeepsWhatIsInFront(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 300, 65535, 65536} {
		payload := strings.Repeat("p", n)
		want := "front"
		if n > 0 {
			want += string(AppendHeader(nil, n)) + payload
		}
		if got := Seal([]byte("front1234"+payload), len("front")); string(got) != want {
			t.Errorf("%d bytes: got %.30q…, want %.30q…", n, got, want)
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	stream := join(frame(0x82, strings.Repeat("x", 1000)), frame(0x89, "ping"), frame(0x02, "a"), frame(0x80, "b"))
	in, reply := make([]byte, len(stream)), make([]byte, 0, 200)
	var d Decoder
	if n := testing.AllocsPerRun(100, func() {
		copy(in, stream)
		if _, _, err := d.Decode(in, reply); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecode holds that a stream means the same whole and in pieces, and that what is decoded is never more than came.
func FuzzDecode(f *testing.F) {
	for _, s := range [][]byte{
		frame(0x82, "payload"), frame(0x82, strings.Repeat("x", 300)), join(frame(0x02, "a"), frame(0x89, "ping"), frame(0x80, "b")),
		closeFrame(1000, "bye"), frame(0x81, "text"),
		{0x82, 0x01, 'x'},
		{0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4, 5},
		frame(0x88, "\x03"),
	} {
		f.Add(s, uint16(1))
		f.Add(s, uint16(5))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		whole := decode(&Decoder{MaxFrame: 1 << 16}, stream, len(stream)+1)
		d := &Decoder{MaxFrame: 1 << 16}
		pieces := decode(d, stream, int(size)+1)
		if pieces.data != whole.data || !errors.Is(pieces.err, whole.err) {
			t.Fatalf("in pieces %q %v, whole %q %v", pieces.data, pieces.err, whole.data, whole.err)
		}
		if len(whole.data)+len(whole.reply) > len(stream)+4 || len(d.control) > maxControl {
			t.Fatalf("%d bytes and %d of replies from %d", len(whole.data), len(whole.reply), len(stream))
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range []int{64, 4096, 60_000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			stream := frame(0x82, strings.Repeat("x", size))
			in := make([]byte, len(stream))
			var d Decoder
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				copy(in, stream)
				_, _, _ = d.Decode(in, nil)
			}
		})
	}
}
