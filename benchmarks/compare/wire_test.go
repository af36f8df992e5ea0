//go:build linux

package main

import (
	"bytes"
	"errors"
	"testing"
)

func TestAppendedPackets(t *testing.T) {
	publish4, idAt4, payloadAt4 := publishTemplate(4, 0, "a/b", 3)
	publish5, idAt5, payloadAt5 := publishTemplate(5, 2, "a/b", 3)
	for _, c := range []struct {
		name      string
		got, want []byte
	}{
		{"CONNECT 3.1.1", appendConnect(nil, 4, "me", false), []byte("\x10\x0E\x00\x04MQTT\x04\x02\x02\x58\x00\x02me")},
		{"CONNECT 5.0", appendConnect(nil, 5, "me", false), []byte("\x10\x0F\x00\x04MQTT\x05\x02\x02\x58\x00\x00\x02me")},
		{"CONNECT 3.1.1, durable", appendConnect(nil, 4, "me", true), []byte("\x10\x0E\x00\x04MQTT\x04\x00\x02\x58\x00\x02me")},
		{"CONNECT 5.0, durable", appendConnect(nil, 5, "me", true), []byte("\x10\x14\x00\x04MQTT\x05\x00\x02\x58\x05\x11\xFF\xFF\xFF\xFF\x00\x02me")},
		{"SUBSCRIBE 3.1.1", appendSubscribe(nil, 4, 258, "a/+", 1), []byte("\x82\x08\x01\x02\x00\x03a/+\x01")},
		{"SUBSCRIBE 5.0", appendSubscribe(nil, 5, 258, "a/+", 2), []byte("\x82\x09\x01\x02\x00\x00\x03a/+\x02")},
		{"PUBLISH 3.1.1", publish4, []byte("\x30\x08\x00\x03a/babc")},
		{"PUBLISH 5.0", publish5, []byte("\x34\x0B\x00\x03a/b\x00\x00\x00abc")},
		{"PUBREL", appendAck(nil, typePubrel, []byte{1, 2}), []byte("\x62\x02\x01\x02")},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s: got % X, want % X", c.name, c.got, c.want)
		}
	}
	if idAt4 != 0 || payloadAt4 != 7 || idAt5 != 7 || payloadAt5 != 10 {
		t.Errorf("got positions %d, %d, %d, %d, want 0, 7, 7, 10", idAt4, payloadAt4, idAt5, payloadAt5)
	}
}

func TestNextPacketNeedsAWholePacket(t *testing.T) {
	packet, _, _ := publishTemplate(4, 1, "topic", 200)
	for cut := range packet {
		if _, _, n, err := nextPacket(packet[:cut]); n != 0 || err != nil {
			t.Fatalf("cut at %d: got %d bytes, error %v, want 0 and none", cut, n, err)
		}
	}
	first, body, n, err := nextPacket(append(packet, 0x40))
	if first != 0x32 || n != len(packet) || err != nil || !bytes.Equal(body, packet[3:]) {
		t.Errorf("got first 0x%02X, %d bytes, error %v", first, n, err)
	}
	if _, _, _, err := nextPacket([]byte{0x30, 0x80, 0x80, 0x80, 0x80, 1}); !errors.Is(err, errMalformed) {
		t.Errorf("five bytes of length: got error %v, want %v", err, errMalformed)
	}
}

func TestSplitPublish(t *testing.T) {
	for _, c := range []struct {
		name          string
		version, qos  byte
		body          string
		id, payload   string
		wantMalformed bool
	}{
		{"QoS 0", 4, 0, "\x00\x01tpay", "", "pay", false},
		{"QoS 1", 4, 1, "\x00\x01t\x00\x09pay", "\x00\x09", "pay", false},
		{"QoS 2, 5.0", 5, 2, "\x00\x01t\x00\x09\x02\x01\x01pay", "\x00\x09", "pay", false},
		{"no payload", 5, 0, "\x00\x01t\x00", "", "", false},
		{"no topic", 4, 0, "\x00", "", "", true},
		{"cut topic", 4, 0, "\x00\x05t", "", "", true},
		{"cut Packet Identifier", 4, 1, "\x00\x01t\x00", "", "", true},
		{"cut topic, 5.0", 5, 0, "\x00\x05t", "", "", true},
		{"no properties", 5, 0, "\x00\x01t", "", "", true},
		{"cut properties", 5, 0, "\x00\x01t\x02\x01", "", "", true},
	} {
		id, payload, err := splitPublish(c.version, typePublish|c.qos<<1, []byte(c.body))
		if errors.Is(err, errMalformed) != c.wantMalformed || string(id) != c.id || string(payload) != c.payload {
			t.Errorf("%s: got % X, %q, error %v", c.name, id, payload, err)
		}
	}
}

func TestConnackReceiveMaximum(t *testing.T) {
	for _, c := range []struct {
		name, properties string
		want             int
	}{
		{"none", "", 65535},
		{"alone", "\x21\x00\x14", 20},
		{"after one of each size", "\x24\x01\x13\x00\x0A\x11\x00\x00\x00\x01\x12\x00\x02id\x26\x00\x01k\x00\x02vv\x21\x01\x00", 256},
		{"cut", "\x21\x00", 0},
		{"cut string", "\x12\x00\x02i", 0},
		{"cut length", "\x12\x00", 0},
		{"cut pair", "\x26\x00\x01k", 0},
		{"unknown", "\x7F", 0},
	} {
		body := append([]byte{0, 0, byte(len(c.properties))}, c.properties...)
		got, err := connackReceiveMaximum(body)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: got %d, error %v, want %d", c.name, got, err, c.want)
		}
		if got, err := connackReceiveMaximum(append(body, 0)); err == nil {
			t.Errorf("%s and a byte too many: got %d, no error", c.name, got)
		}
	}
	if _, err := connackReceiveMaximum([]byte{0, 0}); err == nil {
		t.Error("no properties: got no error")
	}
}
