package codec

import (
	"bytes"
	"fmt"
	"testing"
)

func TestAppendPublish(t *testing.T) {
	forward := unhex(t, "01 01 26 0001 6B 0001 76")
	for _, c := range []struct {
		name           string
		v              Version
		h              PublishHeader
		topic, payload string
		forward        []byte
		want           string
	}{
		{"QoS 0", V311, PublishHeader{}, "a/b", "hi", nil, "30 07 0003 612F62 6869"},
		{"QoS 0 leaves out the Packet Identifier", V311, PublishHeader{PacketID: 9}, "a", "", nil, "30 03 0001 61"},
		{"QoS 1", V31, PublishHeader{QoS: 1, Retain: true, PacketID: 0x1234}, "a", "x", nil, "33 06 0001 61 1234 78"},
		{"QoS 2", V311, PublishHeader{QoS: 2, Dup: true, PacketID: 1}, "a", "x", nil, "3C 06 0001 61 0001 78"},
		{
			"3.x leaves out properties", V311,
			PublishHeader{TopicAlias: 1, HasMessageExpiry: true, MessageExpiry: 2, SubscriptionIdentifiers: []uint32{3}},
			"a", "x", forward,
			"30 04 0001 61 78",
		},
		{"no properties", V5, PublishHeader{QoS: 1, PacketID: 2}, "a", "x", nil, "32 [0001 61 0002 [] 78]"},
		{"forwarded properties", V5, PublishHeader{MessageExpiry: 5}, "a", "x", forward, "30 [0001 61 [01 01 26 0001 6B 0001 76] 78]"},
		{
			"all properties", V5,
			PublishHeader{
				QoS: 2, PacketID: 2, TopicAlias: 0x0102, HasMessageExpiry: true, SubscriptionIdentifiers: []uint32{1, 128, MaxRemainingLength},
			},
			"a", "x", forward,
			"34 [0001 61 0002 [02 00000000 23 0102 0B 01 0B 8001 0B FFFFFF7F 01 01 26 0001 6B 0001 76] 78]",
		},
		{"alias alone", V5, PublishHeader{TopicAlias: 7}, "", "x", nil, "30 [0000 [23 0007] 78]"},
	} {
		want := unhex(t, c.want)
		for _, room := range []int{0, len(want) - 1, len(want), 500} { // with and without growing
			dst := append(make([]byte, 0, 6+room), "before"...)
			got := AppendPublish(dst, c.v, &c.h, b(c.topic), c.forward, b(c.payload))
			if !bytes.Equal(got, append(b("before"), want...)) {
				t.Errorf("%s:\n got %x\nwant %x", c.name, got[6:], want)
			}
			if grown := &got[0] != &dst[0]; grown != (room < len(want)) {
				t.Errorf("%s with room for %d of %d bytes: grown %t", c.name, room, len(want), grown)
			}
		}
		if got := PublishSize(c.v, &c.h, len(c.topic), len(c.forward), len(c.payload)); got != len(want) {
			t.Errorf("%s: size %d, want %d", c.name, got, len(want))
		}
	}
}

// TestPublishSizes reads back packets whose lengths lie around the borders of the variable byte integer.
func TestPublishSizes(t *testing.T) {
	var p packets
	for _, size := range []int{0, 1, 120, 121, 122, 123, 124, 125, 16_370, 16_375, 16_376, 16_377, 16_380, 2_097_140, 2_097_145, 2_097_150} {
		payload := bytes.Repeat(b("p"), size)
		for _, v := range []Version{V311, V5} {
			in := AppendPublish(nil, v, &PublishHeader{QoS: 1, PacketID: 1}, b("t"), nil, payload)
			pkt, h, err := p.decodePacket(v, in)
			if err != nil || h.Size != len(in) || !bytes.Equal(pkt.(*Publish).Payload, payload) {
				t.Errorf("payload of %d bytes, %s: frame of %d bytes is read as %+v, %v", size, v, len(in), h, err)
			}
		}
	}
}

// TestPublishAllocations holds that the PUBLISH path costs no allocation, once the slices of the struct have grown.
func TestPublishAllocations(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		for _, properties := range []bool{false, v == V5} {
			t.Run(fmt.Sprintf("version=%s/properties=%t", v, properties), func(t *testing.T) {
				in, source := benchPublish(v, 64, properties)
				forward := source.Properties.AppendForward(nil)
				h := PublishHeader{QoS: 1, PacketID: 1, TopicAlias: 3, HasMessageExpiry: true, SubscriptionIdentifiers: []uint32{1, 2}}
				out := make([]byte, 0, 1024)
				var p Publish
				var forwarded Properties
				allocs := testing.AllocsPerRun(100, func() {
					header, _, err := DecodeFixedHeader(in, v)
					if err == nil {
						err = p.Decode(v, header.Flags, in[header.HeaderSize:header.Size])
					}
					if err == nil {
						err = DecodeForward(forward, &forwarded)
					}
					if err != nil {
						t.Fatal(err)
					}
					out = p.Properties.AppendForward(out[:0])
					out = AppendPublish(out[:0], v, &h, p.TopicName, forward, p.Payload)
					out = AppendAckReason(out, v, TypePuback, 1, NoMatchingSubscribers)
				})
				if allocs != 0 {
					t.Errorf("got %v allocations, want 0", allocs)
				}
			})
		}
	}
}

// TestErrorAllocations holds that refusing a packet costs no allocation either.
func TestErrorAllocations(t *testing.T) {
	in := unhex(t, "30 [0001 74 [01 00 01 00]]")
	var p Publish
	if allocs := testing.AllocsPerRun(100, func() {
		if !is(p.Decode(V5, 0, in[2:]), ErrPropertyDuplicate) {
			t.Fatal("accepted")
		}
	}); allocs != 0 {
		t.Errorf("got %v allocations, want 0", allocs)
	}
}
