package codec

import (
	"bytes"
	"fmt"
	"testing"
)

// TestDecodeFixedHeaderFirstByte goes through all first bytes of all versions against rules written another way.
func TestDecodeFixedHeaderFirstByte(t *testing.T) {
	for _, v := range []Version{0, V31, V311, V5} {
		for first := range 256 {
			typ, flags := PacketType(first>>4), byte(first&15)
			qos := flags >> 1 & 3
			want := flags == 0
			switch {
			case typ == 0, typ == TypeAuth && v != V5:
				want = false
			case v == 0:
				want = typ == TypeConnect
			case typ == TypePublish:
				want = qos < 3 && (v == V31 || qos > 0 || flags&8 == 0)
			case typ == TypePubrel, typ == TypeSubscribe, typ == TypeUnsubscribe:
				want = flags == 2 || v == V31 && qos == 1
			case v == V31:
				want = true
			}
			h, ok, err := DecodeFixedHeader([]byte{byte(first)}, v)
			if ok || (err == nil) != want {
				t.Errorf("first byte %02X, version %d: got ok %t and %v, want accepted == %t", first, v, ok, err, want)
			}
			if h.Type != typ || h.Flags != flags {
				t.Errorf("first byte %02X: got type %s, flags %04b", first, h.Type, h.Flags)
			}
		}
	}
}

func TestRemainingLength(t *testing.T) {
	for value, want := range map[int]string{
		0: "00", 1: "01", 127: "7F", 128: "8001", 16_383: "FF7F", 16_384: "808001", 2_097_151: "FFFF7F", 2_097_152: "80808001",
		MaxRemainingLength: "FFFFFF7F",
	} {
		in := append([]byte{0x30}, unhex(t, want)...)
		if got := appendFixedHeader(nil, TypePublish, 0, value); !bytes.Equal(got, in) {
			t.Errorf("encode %d: got %x, want %x", value, got, in)
		}
		b := make([]byte, 8)
		if n := putVarint(b, 1, value); !bytes.Equal(b[1:n], in[1:]) {
			t.Errorf("put %d: got %x, want %x", value, b[1:n], in[1:])
		}
		if packetSize(value) != len(in)+value {
			t.Errorf("packetSize(%d) = %d, want %d", value, packetSize(value), len(in)+value)
		}
		for cut := range len(in) {
			if _, ok, err := DecodeFixedHeader(in[:cut], V5); ok || err != nil {
				t.Errorf("%x: got ok %t, %v, want more bytes", in[:cut], ok, err)
			}
		}
		h, ok, err := DecodeFixedHeader(append(in, 0xFF), V5)
		if !ok || err != nil || h != (FixedHeader{TypePublish, 0, value, len(in) + value, len(in)}) {
			t.Errorf("decode %d: got %+v, %t, %v", value, h, ok, err)
		}
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		V31: "3.1", V311: "3.1.1", V5: "5.0", Version(9): "version 9",
		TypeConnect: "CONNECT", TypePublish: "PUBLISH", TypeAuth: "AUTH", PacketType(0): "RESERVED", PacketType(16): "packet type 16",
		Success: "Success", PacketTooLarge: "Packet too large", WildcardSubscriptionsNotSupported: "Wildcard Subscriptions not supported",
		ReasonCode(0x03): "reason code 0x3", ReasonCode(0xFF): "reason code 0xff",
		PropTopicAlias: "Topic Alias", PropertyID(0x04): "property 0x4", PropertyID(0x2B): "property 0x2b", PropertyID(0xFF): "property 0xff",
		ReturnAccepted: "Connection Accepted", ReturnNotAuthorized: "not authorized", ConnectReturnCode(6): "return code 6",
	} {
		if got.String() != want {
			t.Errorf("got %q, want %q", got.String(), want)
		}
	}
	for code := range 256 {
		if r := ReasonCode(code); r.IsError() != (code >= 0x80) {
			t.Errorf("IsError of 0x%02X: %t", code, r.IsError())
		}
	}
}
