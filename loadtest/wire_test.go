package loadtest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"loopmq/codec"
)

// split cuts off the packet that is the whole of b.
func split(t *testing.T, b []byte) (flags byte, body []byte) {
	t.Helper()
	first, body, n, _, err := nextPacket(b)
	if err != nil || n != len(b) {
		t.Fatalf("% x: %d of %d bytes, %v", b, n, len(b), err)
	}
	return first & 0x0F, body
}

var versions = []codec.Version{codec.V31, codec.V311, codec.V5}

// TestConnect has the broker's codec read what clients send, as the tests below do.
func TestConnect(t *testing.T) {
	for _, v := range versions {
		for _, g := range []login{
			{clean: true, keepAlive: 300, clientID: "c"},
			{durable: true, keepAlive: 1, clientID: "c", user: "u", password: "p"},
			{durable: true, keepAlive: 1, clientID: strings.Repeat("c", 300), user: "u"},
		} {
			g.version = byte(v)
			var got codec.Connect
			flags, body := split(t, g.append(nil))
			if err := got.Decode(flags, body); err != nil {
				t.Fatalf("%v %+v: %v", v, g, err)
			}
			if got.Version != v || got.CleanStart != g.clean || got.KeepAlive != g.keepAlive || string(got.ClientID) != g.clientID ||
				string(got.Username) != g.user || string(got.Password) != g.password || got.UsernameFlag != (g.user != "") {
				t.Errorf("%v: got %+v, want %+v", v, got, g)
			}
			if expires := v == codec.V5 && g.durable; expires != (got.Properties.SessionExpiryInterval == 0xFFFFFFFF) {
				t.Errorf("%v: Session Expiry Interval %d of %+v", v, got.Properties.SessionExpiryInterval, g)
			}
		}
	}
}

func TestSubscribe(t *testing.T) {
	filters := []string{"a/+", "b", strings.Repeat("c", 200)}
	for _, v := range versions {
		var sub codec.Subscribe
		flags, body := split(t, appendSubscribe([]byte{}, byte(v), 7, 2, filters))
		if err := sub.Decode(v, flags, body); err != nil {
			t.Fatal(err)
		}
		var unsub codec.Unsubscribe
		flags, body = split(t, appendUnsubscribe(nil, byte(v), 8, filters))
		if err := unsub.Decode(v, flags, body); err != nil {
			t.Fatal(err)
		}
		if sub.PacketID != 7 || unsub.PacketID != 8 || len(sub.Subscriptions) != len(filters) || len(unsub.TopicFilters) != len(filters) {
			t.Fatalf("%v: got %+v, %+v", v, sub, unsub)
		}
		for i, f := range filters {
			if s := sub.Subscriptions[i]; string(s.TopicFilter) != f || s.Options.QoS != 2 || string(unsub.TopicFilters[i]) != f {
				t.Errorf("%v: got %+v, %q, want %q", v, s, unsub.TopicFilters[i], f)
			}
		}
	}
}

func TestPublish(t *testing.T) {
	for _, v := range versions {
		for qos := range byte(3) {
			for _, size := range []int{stampBytes, 64, 20_000} {
				head, idAt := publishHead(byte(v), qos, flagRetain, "a/b", size)
				if qos > 0 {
					head[idAt+1] = 9
				}
				want := stamp{3, 4, 5}
				packet := append(want.append(head), filler(size-stampBytes)...)
				var got codec.Publish
				flags, body := split(t, packet)
				if err := got.Decode(v, flags, body); err != nil {
					t.Fatal(err)
				}
				if got.QoS != qos || !got.Retain || string(got.TopicName) != "a/b" || got.PacketID != 9*uint16(min(qos, 1)) || len(got.Payload) != size {
					t.Fatalf("%v: got %+v", v, got)
				}
				id, payload, err := splitPublish(byte(v), packet[0], body)
				if err != nil || id != got.PacketID || !bytes.Equal(payload, got.Payload) || readStamp(payload) != want {
					t.Errorf("%v: read %d, %d bytes, %v", v, id, len(payload), err)
				}
			}
		}
	}
	// What a broker adds in 5.0 is passed over.
	p := codec.Publish{QoS: 1, PacketID: 5, TopicName: []byte("t"), Payload: []byte("x")}
	p.Properties.MessageExpiryInterval = 7
	p.Properties.Set(codec.PropMessageExpiryInterval)
	b := p.Append(nil, codec.V5)
	_, body := split(t, b)
	if id, payload, err := splitPublish(5, b[0], body); id != 5 || string(payload) != "x" || err != nil {
		t.Errorf("got %d, %q, %v", id, payload, err)
	}
}

func TestDisconnect(t *testing.T) {
	for _, v := range versions {
		for _, end := range []bool{false, true} {
			var d codec.Disconnect
			flags, body := split(t, appendDisconnect(nil, byte(v), end))
			if err := d.Decode(v, flags, body); err != nil {
				t.Fatal(err)
			}
			if got := d.Properties.Has(codec.PropSessionExpiryInterval); got != (end && v == codec.V5) {
				t.Errorf("%v, end %v: Session Expiry Interval there: %v", v, end, got)
			}
		}
	}
}

func TestConnack(t *testing.T) {
	p := codec.Connack{SessionPresent: true}
	p.Properties.ReceiveMaximum = 20
	p.Properties.MaximumQoS = 1
	p.Properties.ServerKeepAlive = 60
	p.Properties.AssignedClientIdentifier = []byte("me")
	for _, property := range []codec.PropertyID{codec.PropReceiveMaximum, codec.PropMaximumQoS, codec.PropServerKeepAlive, codec.PropAssignedClientIdentifier} {
		p.Properties.Set(property)
	}
	p.Properties.UserProperties = []codec.UserProperty{{Key: []byte("a"), Value: []byte("b")}}
	_, body := split(t, p.Append(nil, codec.V5))
	got, err := readConnack(5, body)
	if want := (greeting{sessionPresent: true, receiveMaximum: 20, maximumQoS: 1, keepAlive: 60}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for n := range body {
		if _, err := readConnack(5, body[:n]); err == nil && n != 0 {
			t.Errorf("the first %d of %d bytes are taken for a CONNACK", n, len(body))
		}
	}
	if g, err := readConnack(4, []byte{0, 5}); err != nil || g.code != 5 || g.sessionPresent {
		t.Errorf("got %+v, %v", g, err)
	}
	if _, err := readConnack(5, []byte{0, 0, 3, 0x21, 0, 0}); !errors.Is(err, errMalformed) {
		t.Errorf("Receive Maximum 0: got %v", err)
	}
}

func TestSuback(t *testing.T) {
	for _, v := range versions {
		for _, test := range []struct {
			codes []codec.ReasonCode
			ok    bool
		}{{[]codec.ReasonCode{1, 1}, true}, {[]codec.ReasonCode{1, 0x80}, false}, {[]codec.ReasonCode{0}, false}} {
			p := codec.Suback{PacketID: 1, ReasonCodes: test.codes}
			_, body := split(t, p.Append(nil, v))
			if err := readSuback(byte(v), body, 1); (err == nil) != test.ok {
				t.Errorf("%v %v: %v", v, test.codes, err)
			}
		}
		if err := readSuback(byte(v), []byte{0, 1}, 1); !errors.Is(err, errMalformed) {
			t.Errorf("%v: got %v", v, err)
		}
	}
}

func TestNextPacket(t *testing.T) {
	p := codec.Publish{TopicName: []byte("t"), Payload: make([]byte, 20_000)}
	b := p.Append(nil, codec.V311)
	for _, n := range []int{0, 1, 2, 3, 4, 100, len(b) - 1} {
		_, _, got, size, err := nextPacket(b[:n])
		if got != 0 || err != nil || n >= 4 && size != len(b) {
			t.Errorf("%d of %d bytes: %d, %d, %v", n, len(b), got, size, err)
		}
	}
	if _, _, _, _, err := nextPacket([]byte{0x30, 0x80, 0x80, 0x80, 0x80, 1}); !errors.Is(err, errMalformed) {
		t.Errorf("five bytes of Remaining Length: got %v", err)
	}
}

// FuzzPackets reads what a broker may send.
func FuzzPackets(f *testing.F) {
	p := codec.Publish{QoS: 2, PacketID: 5, TopicName: []byte("t"), Payload: []byte("payload")}
	connack, suback := codec.Connack{}, codec.Suback{PacketID: 1, ReasonCodes: []codec.ReasonCode{1}}
	for _, v := range versions {
		f.Add(byte(v), p.Append(nil, v))
		f.Add(byte(v), connack.Append(nil, v))
		f.Add(byte(v), suback.Append(nil, v))
	}
	f.Fuzz(func(t *testing.T, version byte, b []byte) {
		for {
			first, body, n, size, err := nextPacket(b)
			if err != nil || n == 0 {
				return
			}
			if n != size || n > len(b) || len(body) > n-2 {
				t.Fatalf("% x: body %d of %d, %d", b, len(body), n, size)
			}
			if _, payload, err := splitPublish(version, first, body); err == nil && len(payload) > len(body)-2 {
				t.Fatalf("% x: payload of %d bytes", body, len(payload))
			}
			_, _ = readConnack(version, body)
			_ = readSuback(version, body, 1)
			b = b[n:]
		}
	})
}

func TestExpand(t *testing.T) {
	for template, want := range map[string]string{"plain": "plain", "{role}-{i}/{n}": "pub-3/10", "{x}": "{x}"} {
		if got := expand(template, "pub", 3, 10); got != want {
			t.Errorf("%s: got %s, want %s", template, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	f := faults{}
	for i := range kindsMax + 10 {
		f.add(fmt.Sprint("kind ", i), "example", 1)
	}
	f.add("kind 3", "another", 2)
	groups := f.groups()
	if len(groups) != kindsMax+1 || groups[0] != (ErrorGroup{"other errors", 10, fmt.Sprint("kind ", kindsMax)}) || groups[1] != (ErrorGroup{"kind 3", 3, "example"}) {
		t.Errorf("got %d groups, first %v", len(groups), groups[:2])
	}
}
