package codec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// packet is what all packet structs have in common, once their Decode is wrapped by decodePacket.
type packet interface {
	Append(dst []byte, v Version) []byte
	Size(v Version) int
}

// ping stands for the two packets that have no struct.
type ping struct{ Type PacketType }

func (p *ping) Append(dst []byte, _ Version) []byte {
	if p.Type == TypePingreq {
		return AppendPingreq(dst)
	}
	return AppendPingresp(dst)
}

func (p *ping) Size(Version) int { return 2 }

// packets is one reusable struct of each type, as a connection would keep them.
type packets struct {
	connect     Connect
	connack     Connack
	publish     Publish
	ack         Ack
	subscribe   Subscribe
	suback      Suback
	unsubscribe Unsubscribe
	unsuback    Unsuback
	disconnect  Disconnect
	auth        Auth
	ping        ping
}

func (p *packets) decode(v Version, h FixedHeader, body []byte) (packet, error) {
	switch h.Type {
	case TypeConnect:
		return &p.connect, p.connect.Decode(h.Flags, body)
	case TypeConnack:
		return &p.connack, p.connack.Decode(v, h.Flags, body)
	case TypePublish:
		return &p.publish, p.publish.Decode(v, h.Flags, body)
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp:
		return &p.ack, p.ack.Decode(v, h.Type, body)
	case TypeSubscribe:
		return &p.subscribe, p.subscribe.Decode(v, h.Flags, body)
	case TypeSuback:
		return &p.suback, p.suback.Decode(v, h.Flags, body)
	case TypeUnsubscribe:
		return &p.unsubscribe, p.unsubscribe.Decode(v, h.Flags, body)
	case TypeUnsuback:
		return &p.unsuback, p.unsuback.Decode(v, h.Flags, body)
	case TypeDisconnect:
		return &p.disconnect, p.disconnect.Decode(v, h.Flags, body)
	case TypeAuth:
		return &p.auth, p.auth.Decode(v, h.Flags, body)
	}
	p.ping.Type = h.Type
	return &p.ping, nil
}

var errMore = errors.New("more bytes needed")

// frame reads the fixed header. CONNECT is read as a Server does, without knowing the version.
func frame(v Version, in []byte) (FixedHeader, bool, error) {
	if len(in) > 0 && PacketType(in[0]>>4) == TypeConnect {
		v = 0
	}
	return DecodeFixedHeader(in, v)
}

// decodePacket reads the packet at the start of in.
func (p *packets) decodePacket(v Version, in []byte) (packet, FixedHeader, error) {
	h, ok, err := frame(v, in)
	if err != nil {
		return nil, h, err
	}
	if !ok || len(in) < h.Size {
		return nil, h, errMore
	}
	pkt, err := p.decode(v, h, in[h.HeaderSize:h.Size:h.Size])
	return pkt, h, err
}

// is reports whether err is want, which may be nil.
func is(err error, want *Error) bool {
	if want == nil {
		return err == nil
	}
	return errors.Is(err, want)
}

// show prints a packet so that two are equal if and only if they print the same; an empty slice is as good as none.
func show(p packet) string { return wireField.ReplaceAllString(fmt.Sprintf("%+v", p), "") }

// wireField is what only decoded properties have.
var wireField = regexp.MustCompile(`wire:\[[0-9 ]*\] `)

// unhex reads hexadecimal digits. [...] is a variable byte integer, the length of what is inside, and then that.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	if open := strings.Index(s, "["); open >= 0 {
		end, depth := open, 0
		for ; end == open || depth > 0; end++ {
			switch s[end] {
			case '[':
				depth++
			case ']':
				depth--
			}
		}
		end-- // the bracket that closes this one
		inner := unhex(t, s[open+1:end])
		var length []byte
		for n := len(inner); ; n >>= 7 {
			if n < 128 {
				length = append(length, byte(n))
				break
			}
			length = append(length, byte(n)|128)
		}
		return slices.Concat(unhex(t, s[:open]), length, inner, unhex(t, s[end+1:]))
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("bad hex %q: %v", s, err)
	}
	return b
}

func b(s string) []byte { return []byte(s) }

// props builds Properties with the identifiers that fill sets.
func props(fill func(p *Properties), ids ...PropertyID) (p Properties) {
	fill(&p)
	for _, id := range ids {
		p.Set(id)
	}
	return p
}

func userProperties(pairs ...string) []UserProperty {
	var u []UserProperty
	for i := 0; i < len(pairs); i += 2 {
		u = append(u, UserProperty{b(pairs[i]), b(pairs[i+1])})
	}
	return u
}

var allReason = props(func(p *Properties) {
	p.ReasonString = b("no")
	p.UserProperties = userProperties("a", "b", "a", "")
}, PropReasonString, PropUserProperty)

const allReasonHex = "[1F 0002 6E6F 26 0001 61 0001 62 26 0001 61 0000]"

// packetCases are used in both directions: bytes decode to packet, and packet encodes to bytes.
var packetCases = []struct {
	name   string
	v      Version
	bytes  string
	packet packet
	// cuts are the body lengths below the full one at which the packet is whole, too.
	cuts []int
}{
	{
		"CONNECT minimal", V31, "10 0F 0006 4D5149736470 03 00 000A 0001 70",
		&Connect{ProtocolName: b("MQIsdp"), Version: V31, KeepAlive: 10, ClientID: b("p")}, nil,
	},
	{
		"CONNECT bridge", V31, "10 0F 0006 4D5149736470 83 02 000A 0001 70",
		&Connect{ProtocolName: b("MQIsdp"), Version: V31, Bridge: true, CleanStart: true, KeepAlive: 10, ClientID: b("p")}, nil,
	},
	{
		"CONNECT bridge", V311, "10 0D 0004 4D515454 84 02 0000 0001 70",
		&Connect{ProtocolName: b("MQTT"), Version: V311, Bridge: true, CleanStart: true, ClientID: b("p")}, nil,
	},
	{
		"CONNECT all fields", V31, "10 [0006 4D5149736470 03 F6 FFFF 0001 70 0001 74 0002 0068 0001 75 0002 0001]",
		&Connect{
			ProtocolName: b("MQIsdp"), Version: V31, CleanStart: true, KeepAlive: 65535, ClientID: b("p"), WillFlag: true,
			Will:         Will{QoS: 2, Retain: true, TopicName: b("t"), Payload: b("\x00h")},
			UsernameFlag: true, PasswordFlag: true, Username: b("u"), Password: b("\x00\x01"),
		},
		[]int{22, 25}, // without User Name, without Password
	},
	{
		"CONNECT all fields", V311, "10 [0004 4D515454 04 EE 003C 0001 70 0001 74 0002 0068 0001 75 0002 0001]",
		&Connect{
			ProtocolName: b("MQTT"), Version: V311, CleanStart: true, KeepAlive: 60, ClientID: b("p"), WillFlag: true,
			Will:         Will{QoS: 1, Retain: true, TopicName: b("t"), Payload: b("\x00h")},
			UsernameFlag: true, PasswordFlag: true, Username: b("u"), Password: b("\x00\x01"),
		}, nil,
	},
	{
		"CONNECT without ClientID", V311, "10 0C 0004 4D515454 04 00 000A 0000",
		&Connect{ProtocolName: b("MQTT"), Version: V311, KeepAlive: 10}, nil,
	},
	{
		"CONNECT minimal", V5, "10 0D 0004 4D515454 05 02 000A 00 0000",
		&Connect{ProtocolName: b("MQTT"), Version: V5, CleanStart: true, KeepAlive: 10}, nil,
	},
	{
		"CONNECT password only", V5, "10 10 0004 4D515454 05 42 000A 00 0000 0001 78",
		&Connect{
			ProtocolName: b("MQTT"), Version: V5, CleanStart: true, KeepAlive: 10, PasswordFlag: true, Password: b("x"),
		}, nil,
	},
	{
		"CONNECT all properties", V5, "10 [0004 4D515454 05 CC 000A" +
			"[11 FFFFFFFF 15 0001 6D 16 0002 00FF 17 00 19 01 21 0014 22 000A 26 0001 6B 0001 76 27 00001000]" +
			"0001 70" +
			"[01 01 02 0000003C 03 0001 63 08 0001 72 09 0001 00 18 00000005 26 0001 6B 0001 76]" +
			"0001 74 0001 68 0001 75 0001 77]",
		&Connect{
			ProtocolName: b("MQTT"), Version: V5, KeepAlive: 10, ClientID: b("p"), WillFlag: true,
			Properties: props(func(p *Properties) {
				p.SessionExpiryInterval = 0xFFFFFFFF
				p.AuthenticationMethod, p.AuthenticationData = b("m"), b("\x00\xFF")
				p.RequestResponseInformation = 1
				p.ReceiveMaximum, p.TopicAliasMaximum, p.MaximumPacketSize = 20, 10, 4096
				p.UserProperties = userProperties("k", "v")
			}, PropSessionExpiryInterval, PropAuthenticationMethod, PropAuthenticationData, PropRequestProblemInformation,
				PropRequestResponseInformation, PropReceiveMaximum, PropTopicAliasMaximum, PropUserProperty, PropMaximumPacketSize),
			Will: Will{
				QoS: 1, TopicName: b("t"), Payload: b("h"),
				Properties: props(func(p *Properties) {
					p.PayloadFormatIndicator, p.MessageExpiryInterval, p.WillDelayInterval = 1, 60, 5
					p.ContentType, p.ResponseTopic, p.CorrelationData = b("c"), b("r"), b("\x00")
					p.UserProperties = userProperties("k", "v")
				}, PropPayloadFormatIndicator, PropMessageExpiryInterval, PropContentType, PropResponseTopic, PropCorrelationData,
					PropWillDelayInterval, PropUserProperty),
			},
			UsernameFlag: true, PasswordFlag: true, Username: b("u"), Password: b("w"),
		}, nil,
	},

	{"CONNACK", V31, "20 02 00 05", &Connack{ReasonCode: ReasonCode(ReturnNotAuthorized)}, nil},
	{"CONNACK", V311, "20 02 01 00", &Connack{SessionPresent: true}, nil},
	{"CONNACK", V5, "20 03 01 00 00", &Connack{SessionPresent: true}, nil},
	{"CONNACK error", V5, "20 03 00 9F 00", &Connack{ReasonCode: ConnectionRateExceeded}, nil},
	{
		"CONNACK all properties", V5, "20 [00 00 [11 00000E10 12 0002 6964 13 001E 15 0001 6D 16 0001 64 1A 0002 7269" +
			"1C 0001 73 1F 0002 6F6B 21 0005 22 000A 24 01 25 00 26 0001 6B 0001 76 27 00100000 28 00 29 01 2A 00]]",
		&Connack{Properties: props(func(p *Properties) {
			p.SessionExpiryInterval, p.AssignedClientIdentifier, p.ServerKeepAlive = 3600, b("id"), 30
			p.AuthenticationMethod, p.AuthenticationData = b("m"), b("d")
			p.ResponseInformation, p.ServerReference, p.ReasonString = b("ri"), b("s"), b("ok")
			p.ReceiveMaximum, p.TopicAliasMaximum, p.MaximumQoS, p.MaximumPacketSize = 5, 10, 1, 1<<20
			p.UserProperties = userProperties("k", "v")
			p.SubscriptionIdentifierAvailable = 1
		}, PropSessionExpiryInterval, PropAssignedClientIdentifier, PropServerKeepAlive, PropAuthenticationMethod,
			PropAuthenticationData, PropResponseInformation, PropServerReference, PropReasonString, PropReceiveMaximum,
			PropTopicAliasMaximum, PropMaximumQoS, PropRetainAvailable, PropUserProperty, PropMaximumPacketSize,
			PropWildcardSubscriptionAvailable, PropSubscriptionIdentifierAvailable, PropSharedSubscriptionAvailable)}, nil,
	},

	{"PUBLISH QoS 0", V31, "30 05 0003 612F62", &Publish{TopicName: b("a/b"), Payload: b("")}, nil},
	{"PUBLISH QoS 0", V311, "31 07 0003 612F62 6869", &Publish{Retain: true, TopicName: b("a/b"), Payload: b("hi")}, []int{5, 6}},
	{
		"PUBLISH QoS 1", V311, "3A 08 0003 612F62 0102 68",
		&Publish{Dup: true, QoS: 1, TopicName: b("a/b"), PacketID: 0x0102, Payload: b("h")},
		[]int{7},
	},
	{
		"PUBLISH QoS 2", V5, "3D 09 0003 612F62 FFFF 00 68",
		&Publish{Dup: true, QoS: 2, Retain: true, TopicName: b("a/b"), PacketID: 0xFFFF, Payload: b("h")},
		[]int{8},
	},
	{
		"PUBLISH alias only", V5, "30 06 0000 03 23 0001",
		&Publish{Properties: props(func(p *Properties) { p.TopicAlias = 1 }, PropTopicAlias)}, nil,
	},
	{
		"PUBLISH all properties", V5, "32 [0001 74 0007" +
			"[01 01 02 00000000 03 0003 746578 08 0003 722F31 09 0002 0001 0B 01 0B FFFFFF7F 23 FFFF 26 0000 0000 26 0001 6B 0001 76]" +
			"00FF]",
		&Publish{
			QoS: 1, TopicName: b("t"), PacketID: 7, Payload: b("\x00\xFF"),
			Properties: props(func(p *Properties) {
				p.PayloadFormatIndicator, p.TopicAlias = 1, 65535
				p.ContentType, p.ResponseTopic, p.CorrelationData = b("tex"), b("r/1"), b("\x00\x01")
				p.SubscriptionIdentifiers = []uint32{1, MaxRemainingLength}
				p.UserProperties = userProperties("", "", "k", "v")
			}, PropPayloadFormatIndicator, PropMessageExpiryInterval, PropContentType, PropResponseTopic, PropCorrelationData,
				PropSubscriptionIdentifier, PropTopicAlias, PropUserProperty),
		},
		[]int{52, 53},
	},

	{"PUBACK", V31, "40 02 0102", &Ack{Type: TypePuback, PacketID: 0x0102}, nil},
	{"PUBREC", V311, "50 02 0102", &Ack{Type: TypePubrec, PacketID: 0x0102}, nil},
	{"PUBREL", V311, "62 02 0102", &Ack{Type: TypePubrel, PacketID: 0x0102}, nil},
	{"PUBCOMP", V5, "70 02 0102", &Ack{Type: TypePubcomp, PacketID: 0x0102}, nil},
	{"PUBACK reason", V5, "40 03 0102 10", &Ack{Type: TypePuback, PacketID: 0x0102, ReasonCode: NoMatchingSubscribers}, []int{2}},
	{"PUBREL reason", V5, "62 03 0102 92", &Ack{Type: TypePubrel, PacketID: 0x0102, ReasonCode: PacketIdentifierNotFound}, []int{2}},
	{
		"PUBREC properties", V5, "50 [0102 97" + allReasonHex + "]",
		&Ack{Type: TypePubrec, PacketID: 0x0102, ReasonCode: QuotaExceeded, Properties: allReason},
		[]int{2, 3},
	},
	{
		"PUBREL properties", V5, "62 [0102 00" + allReasonHex + "]",
		&Ack{Type: TypePubrel, PacketID: 0x0102, Properties: allReason},
		[]int{2, 3},
	},

	{
		"SUBSCRIBE", V31, "82 06 0001 0001 74 01",
		&Subscribe{PacketID: 1, Subscriptions: []Subscription{{TopicFilter: b("t"), Options: SubscriptionOptions{QoS: 1}}}}, nil,
	},
	{
		"SUBSCRIBE", V311, "82 0C 0001 0001 23 02 0003 2B2F61 00",
		&Subscribe{PacketID: 1, Subscriptions: []Subscription{
			{TopicFilter: b("#"), Options: SubscriptionOptions{QoS: 2}},
			{TopicFilter: b("+/a")},
		}},
		[]int{6},
	},
	{
		"SUBSCRIBE all properties", V5, "82 [0001 [0B 8001 26 0001 6B 0002 7676]" +
			"0003 612F23 2E 000A 2473686172652F672F74 19]",
		&Subscribe{
			PacketID: 1,
			Subscriptions: []Subscription{
				{TopicFilter: b("a/#"), Options: SubscriptionOptions{QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}},
				{TopicFilter: b("$share/g/t"), Options: SubscriptionOptions{QoS: 1, RetainAsPublished: true, RetainHandling: 1}},
			},
			Properties: props(func(p *Properties) {
				p.SubscriptionIdentifiers = []uint32{128}
				p.UserProperties = userProperties("k", "vv")
			}, PropSubscriptionIdentifier, PropUserProperty),
		},
		[]int{20},
	},
	{
		"SUBSCRIBE invalid filter", V5, "82 0C 0001 00 0002 2361 00 0001 74 00",
		&Subscribe{PacketID: 1, Subscriptions: []Subscription{{TopicFilter: b("#a"), Invalid: true}, {TopicFilter: b("t")}}},
		[]int{8},
	},
	{"SUBACK", V311, "90 06 0001 00010280", &Suback{PacketID: 1, ReasonCodes: []ReasonCode{0, 1, 2, 0x80}}, []int{3, 4, 5}},
	{
		"SUBACK properties", V5, "90 [0001" + allReasonHex + "02 8F]",
		&Suback{PacketID: 1, ReasonCodes: []ReasonCode{GrantedQoS2, TopicFilterInvalid}, Properties: allReason},
		[]int{22},
	},
	{"UNSUBSCRIBE", V31, "A2 05 0001 0001 74", &Unsubscribe{PacketID: 1, TopicFilters: [][]byte{b("t")}}, nil},
	{
		"UNSUBSCRIBE", V311, "A2 0A 0001 0001 74 0003 612F2B",
		&Unsubscribe{PacketID: 1, TopicFilters: [][]byte{b("t"), b("a/+")}},
		[]int{5},
	},
	{
		"UNSUBSCRIBE properties", V5, "A2 0D 0001 07 26 0001 6B 0001 76 0001 74",
		&Unsubscribe{PacketID: 1, TopicFilters: [][]byte{b("t")}, Properties: props(func(p *Properties) {
			p.UserProperties = userProperties("k", "v")
		}, PropUserProperty)}, nil,
	},
	{"UNSUBACK", V31, "B0 02 0001", &Unsuback{PacketID: 1}, nil},
	{"UNSUBACK", V311, "B0 02 0001", &Unsuback{PacketID: 1}, nil},
	{
		"UNSUBACK properties", V5, "B0 [0001" + allReasonHex + "00 11]",
		&Unsuback{PacketID: 1, ReasonCodes: []ReasonCode{Success, NoSubscriptionExisted}, Properties: allReason},
		[]int{22},
	},
	{"PINGREQ", V311, "C0 00", &ping{TypePingreq}, nil},
	{"PINGRESP", V5, "D0 00", &ping{TypePingresp}, nil},
	{"DISCONNECT", V311, "E0 00", &Disconnect{}, nil},
	{"DISCONNECT", V5, "E0 00", &Disconnect{}, nil},
	{"DISCONNECT reason", V5, "E0 01 8B", &Disconnect{ReasonCode: ServerShuttingDown}, []int{0}},
	{
		"DISCONNECT all properties", V5, "E0 [04 [11 00000000 1C 0001 73 1F 0000 26 0001 61 0003 622F63]]",
		&Disconnect{ReasonCode: DisconnectWithWill, Properties: props(func(p *Properties) {
			p.ServerReference = b("s")
			p.UserProperties = userProperties("a", "b/c")
		}, PropSessionExpiryInterval, PropServerReference, PropReasonString, PropUserProperty)},
		[]int{0, 1},
	},
	{"AUTH success", V5, "F0 00", &Auth{}, nil},
	{
		"AUTH all properties", V5, "F0 16 18 14 15 0001 6D 16 0001 64 1F 0001 72 26 0001 6B 0002 7676",
		&Auth{ReasonCode: ContinueAuthentication, Properties: props(func(p *Properties) {
			p.AuthenticationMethod, p.AuthenticationData, p.ReasonString = b("m"), b("d"), b("r")
			p.UserProperties = userProperties("k", "vv")
		}, PropAuthenticationMethod, PropAuthenticationData, PropReasonString, PropUserProperty)},
		[]int{0},
	},
}

func TestPackets(t *testing.T) {
	var reused packets // the same structs for all cases: nothing of a case may be left in the next one
	for _, c := range packetCases {
		t.Run(fmt.Sprintf("%s %s", c.name, c.v), func(t *testing.T) {
			in := unhex(t, c.bytes)
			got, h, err := reused.decodePacket(c.v, in)
			if err != nil {
				t.Fatalf("decode: %v", err)
			}
			if h.Size != len(in) || h.Type != PacketType(in[0]>>4) || h.Flags != in[0]&15 || h.HeaderSize+h.Remaining != h.Size {
				t.Errorf("fixed header: got %+v for %d bytes", h, len(in))
			}
			if show(got) != show(c.packet) {
				t.Errorf("decode:\n got %s\nwant %s", show(got), show(c.packet))
			}
			out := c.packet.Append([]byte("before"), c.v)
			if want := append([]byte("before"), in...); !bytes.Equal(out, want) {
				t.Errorf("encode:\n got %x\nwant %x", out, want)
			}
			if got := c.packet.Size(c.v); got != len(in) {
				t.Errorf("size: got %d, want %d", got, len(in))
			}
		})
	}
}

// TestPacketsTruncated cuts every packet at every byte: while bytes are missing the frame says so, and a body that is too short
// for its fields is malformed.
func TestPacketsTruncated(t *testing.T) {
	for _, c := range packetCases {
		t.Run(fmt.Sprintf("%s %s", c.name, c.v), func(t *testing.T) {
			in := unhex(t, c.bytes)
			for n := range in {
				var p packets
				if _, _, err := p.decodePacket(c.v, in[:n]); !errors.Is(err, errMore) {
					t.Errorf("first %d bytes: got %v, want %v", n, err, errMore)
				}
			}
			h, _, _ := frame(c.v, in)
			if h.Type == TypePingreq || h.Type == TypePingresp {
				return
			}
			for n := range h.Remaining {
				var p packets
				_, err := p.decode(c.v, h, bytes.Clone(in[h.HeaderSize:h.HeaderSize+n]))
				whole := slices.Contains(c.cuts, n)
				var violation *Error
				switch {
				case whole && err != nil:
					t.Errorf("body of %d bytes: got %v, want none", n, err)
				case !whole && (!errors.As(err, &violation) || violation.ReasonCode != MalformedPacket && h.Type != TypeAuth):
					t.Errorf("body of %d bytes: got %v, want a Malformed Packet", n, err)
				}
			}
		})
	}
}

// TestPacketsTrailing adds a byte to every body that ends at a fixed place.
func TestPacketsTrailing(t *testing.T) {
	for _, c := range packetCases {
		in := unhex(t, c.bytes)
		h, _, _ := frame(c.v, in)
		switch {
		case h.Type == TypePublish || h.Type == TypePingreq || h.Type == TypePingresp:
			continue // payload, or no Decode
		case h.Type == TypeSuback || h.Type == TypeUnsuback && c.v == V5:
			continue // another Reason Code
		case h.Remaining < 4 && c.v == V5 && h.Type != TypeConnack:
			continue // a short form, which may go on
		}
		var p packets
		if _, err := p.decode(c.v, h, append(in, 0)[h.HeaderSize:]); !is(err, ErrTrailingBytes) && !is(err, ErrTruncated) {
			t.Errorf("%s %s with a byte more: got %v, want %v", c.name, c.v, err, ErrTrailingBytes)
		}
	}
}

// TestForms has packets that decode in more than one form, or that encode in a form that says less than the struct.
func TestForms(t *testing.T) {
	decodes := []struct {
		name, in string
		v        Version
		want     packet
	}{
		{"PUBACK with Success", "40 03 0001 00", V5, &Ack{Type: TypePuback, PacketID: 1}},
		{"PUBACK with empty properties", "40 04 0001 00 00", V5, &Ack{Type: TypePuback, PacketID: 1}},
		{"DISCONNECT with empty properties", "E0 02 00 00", V5, &Disconnect{}},
		{"CONNACK of 3.1 with bits set", "20 02 FF 00", V31, &Connack{}},
		{"CONNECT of 3.1 with flags", "1B 0F 0006 4D5149736470 03 01 000A 0001 70", V31, &Connect{
			ProtocolName: b("MQIsdp"), Version: V31, KeepAlive: 10, ClientID: b("p"),
		}},
		{"CONNECT of 3.1 with Will QoS but no Will", "10 0F 0006 4D5149736470 03 38 000A 0001 70", V31, &Connect{
			ProtocolName: b("MQIsdp"), Version: V31, KeepAlive: 10, ClientID: b("p"),
		}},
		{"SUBSCRIBE of 3.1 with DUP", "8A 06 0001 0001 74 FD", V31, &Subscribe{
			PacketID: 1, Subscriptions: []Subscription{{TopicFilter: b("t"), Options: SubscriptionOptions{QoS: 1}}},
		}},
		{"UNSUBSCRIBE of 3.1 with DUP", "AB 05 0001 0001 74", V31, &Unsubscribe{PacketID: 1, TopicFilters: [][]byte{b("t")}}},
		{"PUBREL of 3.1 with DUP", "6A 02 0001", V31, &Ack{Type: TypePubrel, PacketID: 1}},
		{"PUBLISH of 3.1 with DUP and QoS 0", "38 03 0001 74", V31, &Publish{Dup: true, TopicName: b("t")}},
		{"DISCONNECT of 3.1 with flags", "EF 00", V31, &Disconnect{}},
	}
	for _, c := range decodes {
		var p packets
		got, _, err := p.decodePacket(c.v, unhex(t, c.in))
		if err != nil || show(got) != show(c.want) {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.name, show(got), err, show(c.want))
		}
	}

	withReason := Connack{SessionPresent: true, ReasonCode: 5, Properties: allReason}
	encodes := []struct {
		name string
		v    Version
		in   packet
		want string
	}{
		{"CONNACK of 3.1 has no Session Present", V31, &withReason, "20 02 00 05"},
		{"CONNACK of 3.1.1 has no properties", V311, &withReason, "20 02 01 05"},
		{"ack of 3.1.1 has no Reason Code", V311, &Ack{Type: TypePubrec, PacketID: 1, ReasonCode: 0x80, Properties: allReason}, "50 02 0001"},
		{"SUBACK of 3.1.1 has one error", V311, &Suback{PacketID: 1, ReasonCodes: []ReasonCode{1, NotAuthorized}, Properties: allReason}, "90 04 0001 01 80"},
		{"UNSUBACK of 3.1.1 has no Reason Codes", V311, &Unsuback{PacketID: 1, ReasonCodes: []ReasonCode{0}, Properties: allReason}, "B0 02 0001"},
		{"DISCONNECT of 3.1.1 is empty", V311, &Disconnect{ReasonCode: 0x8B, Properties: allReason}, "E0 00"},
		{"SUBSCRIBE of 3.1.1 has QoS only", V311, &Subscribe{
			PacketID:      1,
			Subscriptions: []Subscription{{TopicFilter: b("t"), Options: SubscriptionOptions{2, true, true, 2}}},
			Properties:    allReason,
		}, "82 06 0001 0001 74 02"},
		{"UNSUBSCRIBE of 3.1.1 has no properties", V311, &Unsubscribe{PacketID: 1, TopicFilters: [][]byte{b("t")}, Properties: allReason}, "A2 05 0001 0001 74"},
		{"PUBLISH of 3.1.1 has no properties", V311, &Publish{TopicName: b("t"), Properties: allReason}, "30 03 0001 74"},
		{"CONNECT of 5.0 has no bridge bit", V5, &Connect{Bridge: true, Version: V31}, "10 0D 0004 4D515454 05 00 0000 00 0000"},
		{"CONNECT without Will has no Will bits", V311, &Connect{Will: Will{QoS: 2, Retain: true}}, "10 0C 0004 4D515454 04 00 0000 0000"},
		{"CONNECT of 3.1.1 has no Will Properties", V311, &Connect{WillFlag: true, Will: Will{TopicName: b("t"), Properties: allReason}, Properties: allReason}, "10 11 0004 4D515454 04 04 0000 0000 0001 74 0000"},
		{"PUBLISH leaves out what it can't carry", V5, &Publish{TopicName: b("t"), Properties: allReason}, "30 11 0001 74 0D 26 0001 61 0001 62 26 0001 61 0000"},
	}
	for _, c := range encodes {
		want := unhex(t, c.want)
		if got := c.in.Append(nil, c.v); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, got, want)
		}
		if got := c.in.Size(c.v); got != len(want) {
			t.Errorf("%s: size %d, want %d", c.name, got, len(want))
		}
	}
}

// TestReuse decodes a packet with everything in it and then one with nothing into the same struct.
func TestReuse(t *testing.T) {
	for _, full := range packetCases {
		for _, empty := range packetCases {
			a, z := unhex(t, full.bytes), unhex(t, empty.bytes)
			if a[0]>>4 != z[0]>>4 {
				continue
			}
			var used packets
			if _, _, err := used.decodePacket(full.v, a); err != nil {
				t.Fatal(err)
			}
			got, _, err := used.decodePacket(empty.v, z)
			if err != nil || show(got) != show(empty.packet) {
				t.Errorf("%s %s after %s %s:\n got %s, %v\nwant %s", empty.name, empty.v, full.name, full.v, show(got), err, show(empty.packet))
			}
		}
	}
}

func TestAppendAck(t *testing.T) {
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{AppendAck(nil, TypePuback, 0x1234), "40 02 1234"},
		{AppendAck(b("x"), TypePubrel, 0x1234), "78 62 02 1234"},
		{AppendAckReason(nil, V5, TypePubrec, 0x1234, QuotaExceeded), "50 03 1234 97"},
		{AppendAckReason(nil, V5, TypePubrel, 0x1234, PacketIdentifierNotFound), "62 03 1234 92"},
		{AppendAckReason(nil, V5, TypePubcomp, 0x1234, Success), "70 02 1234"},
		{AppendAckReason(nil, V311, TypePuback, 0x1234, NoMatchingSubscribers), "40 02 1234"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("got %x, want %x", c.got, want)
		}
	}
}

// TestViews checks that fields point into the body and can't be appended to beyond themselves.
func TestViews(t *testing.T) {
	in := unhex(t, "32 0D 0003 612F62 0007 03 09 0000 6869")
	var p Publish
	if err := p.Decode(V5, 2, in[2:]); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(in)
	_ = append(p.TopicName, 0xCC)
	_ = append(p.Properties.CorrelationData, 0xCC)
	if !bytes.Equal(in, before) {
		t.Errorf("append to a field wrote into the packet: %x", in)
	}
	in[4] = 'X'
	if string(p.TopicName) != "X/b" {
		t.Errorf("TopicName %q is not a view of the body", p.TopicName)
	}
}
