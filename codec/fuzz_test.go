package codec

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzDecode holds for any input: framing gives the same result for the whole input and for every cut of it, decoding never
// panics, never looks beyond the body, fails with an *Error only, and what it accepts encodes and decodes to the same again.
func FuzzDecode(f *testing.F) {
	for _, c := range packetCases {
		f.Add(byte(c.v), unhex(f, c.bytes))
	}
	for _, c := range malformedCases {
		f.Add(byte(c.v), unhex(f, c.bytes))
	}
	f.Fuzz(func(t *testing.T, version byte, in []byte) {
		v := []Version{0, V31, V311, V5}[version&3]
		if version >= byte(V31) && version <= byte(V5) {
			v = Version(version)
		}

		whole, ok, err := DecodeFixedHeader(in, v)
		checkError(t, err)
		for cut := range in {
			h, cutOK, cutErr := DecodeFixedHeader(in[:cut], v)
			switch {
			case cutOK && (h != whole || !ok):
				t.Fatalf("first %d bytes give %+v, all give %+v, %v", cut, h, whole, err)
			case cutErr != nil && (!errors.Is(cutErr, err) || cut == 0):
				t.Fatalf("first %d bytes give %v, all give %v", cut, cutErr, err)
			case !cutOK && cutErr == nil && ok && cut >= whole.HeaderSize:
				t.Fatalf("first %d bytes don't give a header of %d", cut, whole.HeaderSize)
			}
		}
		if err != nil || !ok || len(in) < whole.Size {
			return
		}

		// The body alone, and the body in the middle of other bytes, are the same to a decoder that doesn't over-read.
		var alone, amid packets
		body := bytes.Clone(in[whole.HeaderSize:whole.Size])
		among := append(append([]byte(nil), in[:whole.Size]...), bytes.Repeat([]byte{0xCC}, 16)...)
		pkt, err := alone.decode(v, whole, body[:len(body):len(body)])
		pkt2, err2 := amid.decode(v, whole, among[whole.HeaderSize:whole.Size])
		checkError(t, err)
		if !errors.Is(err, err2) {
			t.Fatalf("alone: %v, amid other bytes: %v", err, err2)
		}
		if err != nil {
			return
		}
		if show(pkt) != show(pkt2) {
			t.Fatalf("alone:\n%s\namid other bytes:\n%s", show(pkt), show(pkt2))
		}
		if c, ok := pkt.(*Connect); ok {
			v = c.Version
		}
		if !bytes.Equal(body, in[whole.HeaderSize:whole.Size]) {
			t.Fatal("decoding wrote into the body")
		}
		checkRoundTrip(t, v, pkt)
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var violation *Error
	if err != nil && (!errors.As(err, &violation) || !violation.ReasonCode.IsError()) {
		t.Fatalf("error %v has no Reason Code", err)
	}
}

// checkRoundTrip holds that decode(encode(p)) == p, and that Size is right.
func checkRoundTrip(t *testing.T, v Version, p packet) {
	t.Helper()
	out := p.Append(nil, v)
	if p.Size(v) != len(out) {
		t.Fatalf("%s: Size %d, encodes to %d bytes", show(p), p.Size(v), len(out))
	}
	var again packets
	back, h, err := again.decodePacket(v, out)
	if err != nil || h.Size != len(out) {
		t.Fatalf("%s\nencodes to %x,\nwhich is read as %+v, %v", show(p), out, h, err)
	}
	if show(back) != show(p) {
		t.Fatalf("version %s:\n%s\nencodes to %x,\nwhich decodes to\n%s", v, show(p), out, show(back))
	}
}

// source makes valid values out of the fuzzer's bytes, and zeros when they are used up.
type source []byte

func (s *source) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	c := (*s)[0]
	*s = (*s)[1:]
	return c
}

func (s *source) bool() bool     { return s.byte()&1 != 0 }
func (s *source) uint16() uint16 { return uint16(s.byte())<<8 | uint16(s.byte()) }
func (s *source) uint32() uint32 { return uint32(s.uint16())<<16 | uint32(s.uint16()) }
func (s *source) bytes() []byte {
	n := min(int(s.byte()), len(*s))
	b := (*s)[:n:n]
	*s = (*s)[n:]
	return b
}

// text returns a string that valid accepts; it has one byte if the fuzzer's isn't.
func (s *source) text(valid func([]byte) bool) []byte {
	if b := s.bytes(); valid(b) {
		return b
	}
	return []byte("t")
}

func validName(b []byte) bool { return nameError(b) == nil }

func (s *source) properties(t PacketType) (p Properties) {
	allowed := packetProperties[t].allowed
	for n := s.byte() % 24; n > 0; n-- {
		id := PropertyID(s.byte() % propertyEnd)
		if allowed>>id&1 == 0 || p.Has(id) && id != PropUserProperty && (id != PropSubscriptionIdentifier || t != TypePublish) {
			continue
		}
		p.Set(id)
		switch properties[id].kind {
		case kindByte:
			*p.byteField(id) = s.byte() & 1
		case kindUint16:
			*p.uint16Field(id) = max(1, s.uint16())
		case kindUint32:
			*p.uint32Field(id) = max(1, s.uint32())
		case kindVarint:
			p.SubscriptionIdentifiers = append(p.SubscriptionIdentifiers, max(1, s.uint32()%(MaxRemainingLength+1)))
		case kindString:
			*p.bytesField(id) = s.text(ValidTopicName) // strict enough for all of them
		case kindBinary:
			*p.bytesField(id) = s.bytes()
		case kindPair:
			p.UserProperties = append(p.UserProperties, UserProperty{s.text(ValidUTF8String), s.text(ValidUTF8String)})
		}
	}
	if p.Has(PropAuthenticationData) || t == TypeAuth {
		p.AuthenticationMethod = []byte("SCRAM-SHA-256")
		p.Set(PropAuthenticationMethod)
	}
	return p
}

func (s *source) reason(t PacketType) ReasonCode {
	for r := ReasonCode(s.byte()); ; r++ {
		if r.AllowedIn(t) {
			return r
		}
	}
}

func (s *source) reasons(v Version, t PacketType) (codes []ReasonCode) {
	for n := 1 + s.byte()%8; n > 0; n-- {
		r := s.reason(t)
		if v != V5 && r.IsError() {
			r = UnspecifiedError
		}
		codes = append(codes, r)
	}
	return codes
}

func (s *source) packet(v Version) packet {
	properties := func(t PacketType) (p Properties) {
		if v == V5 {
			p = s.properties(t)
		}
		return p
	}
	id := max(1, s.uint16())
	switch t := PacketType(s.byte() & 15); t {
	case TypeConnect:
		c := &Connect{
			ProtocolName: []byte("MQTT"), Version: v, Bridge: v != V5 && s.bool(), CleanStart: s.bool(), KeepAlive: id,
			ClientID: s.text(validName), WillFlag: s.bool(), UsernameFlag: s.bool(), Properties: properties(TypeConnect),
		}
		if v == V31 {
			c.ProtocolName = []byte("MQIsdp")
		}
		if c.WillFlag {
			c.Will = Will{
				QoS: s.byte() % 3, Retain: s.bool(), TopicName: s.text(ValidTopicName), Payload: s.bytes(), Properties: properties(typeWill),
			}
		}
		if c.UsernameFlag {
			c.Username = s.text(validName)
		}
		if c.PasswordFlag = s.bool() && (c.UsernameFlag || v == V5); c.PasswordFlag {
			c.Password = s.bytes()
		}
		return c
	case TypeConnack:
		c := &Connack{SessionPresent: v != V31 && s.bool(), Properties: properties(t)}
		if !c.SessionPresent {
			c.ReasonCode = ReasonCode(s.byte() % 6)
			if v == V5 {
				c.ReasonCode = s.reason(t)
			}
		}
		return c
	case TypePublish:
		p := &Publish{QoS: s.byte() % 3, Retain: s.bool(), TopicName: s.text(ValidTopicName), Properties: properties(t), Payload: s.bytes()}
		if p.QoS > 0 {
			p.PacketID, p.Dup = id, s.bool()
		}
		if p.Properties.Has(PropTopicAlias) && s.bool() {
			p.TopicName = nil
		}
		return p
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp:
		a := &Ack{Type: t, PacketID: id, Properties: properties(t)}
		if v == V5 {
			a.ReasonCode = s.reason(t)
		}
		return a
	case TypeSubscribe:
		p := &Subscribe{PacketID: id, Properties: properties(t)}
		for n := 1 + s.byte()%8; n > 0; n-- {
			sub := Subscription{TopicFilter: s.text(ValidTopicFilter), Options: SubscriptionOptions{QoS: s.byte() % 3}}
			if v == V5 {
				_, _, shared := SplitShare(sub.TopicFilter)
				sub.Options.NoLocal = s.bool() && !shared
				sub.Options.RetainAsPublished = s.bool()
				sub.Options.RetainHandling = s.byte() % 3
			}
			p.Subscriptions = append(p.Subscriptions, sub)
		}
		return p
	case TypeSuback:
		return &Suback{PacketID: id, Properties: properties(t), ReasonCodes: s.reasons(v, t)}
	case TypeUnsubscribe:
		p := &Unsubscribe{PacketID: id, Properties: properties(t)}
		for n := 1 + s.byte()%8; n > 0; n-- {
			p.TopicFilters = append(p.TopicFilters, s.text(ValidTopicFilter))
		}
		return p
	case TypeUnsuback:
		p := &Unsuback{PacketID: id, Properties: properties(t)}
		if v == V5 {
			p.ReasonCodes = s.reasons(v, t)
		}
		return p
	case TypeAuth:
		if v == V5 {
			return &Auth{ReasonCode: s.reason(t), Properties: properties(t)}
		}
	}
	d := &Disconnect{Properties: properties(TypeDisconnect)}
	if v == V5 {
		d.ReasonCode = s.reason(TypeDisconnect)
	}
	return d
}

// FuzzRoundTrip holds for any packet with valid fields that decode(encode(x)) == x, and for any message that what a Server
// forwards is what it received.
func FuzzRoundTrip(f *testing.F) {
	for t := range byte(16) {
		f.Add([]byte{0, 1, t, 1, 1, 1, 't', 3, 38, 1, 'k', 1, 'v', 9, 2, 0, 255, 3, 'a', '/', 'b', 1, 0, 1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, v := range []Version{V31, V311, V5} {
			s := source(in)
			p := s.packet(v)
			checkRoundTrip(t, v, p)
			if publish, ok := p.(*Publish); ok {
				checkForward(t, v, publish)
			}
		}
	})
}

func checkForward(t *testing.T, v Version, p *Publish) {
	t.Helper()
	h := PublishHeader{
		Dup: p.Dup, QoS: p.QoS, Retain: p.Retain, PacketID: p.PacketID, TopicAlias: p.Properties.TopicAlias,
		HasMessageExpiry: p.Properties.Has(PropMessageExpiryInterval), MessageExpiry: p.Properties.MessageExpiryInterval,
		SubscriptionIdentifiers: p.Properties.SubscriptionIdentifiers,
	}
	forward := p.Properties.AppendForward(nil)
	out := AppendPublish(nil, v, &h, p.TopicName, forward, p.Payload)
	if size := PublishSize(v, &h, len(p.TopicName), len(forward), len(p.Payload)); size != len(out) {
		t.Fatalf("PublishSize %d, AppendPublish wrote %d bytes", size, len(out))
	}
	var again packets
	back, _, err := again.decodePacket(v, out)
	if err != nil || show(back) != show(p) {
		t.Fatalf("forwarded as %x:\n got %s, %v\nwant %s", out, show(back), err, show(p))
	}
	var forwarded Properties
	if err := DecodeForward(forward, &forwarded); err != nil || !bytes.Equal(forwarded.AppendForward(nil), forward) {
		t.Fatalf("forward properties %x are read as %+v, %v", forward, forwarded, err)
	}
}
