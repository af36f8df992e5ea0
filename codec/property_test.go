package codec

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// propertyColumns are the packets of the property matrix, with the bytes around the properties. All are valid when the
// properties are empty but AUTH, which has an Authentication Method added.
var propertyColumns = []struct {
	name, before, after string
}{
	{"CONNECT", "10 [0004 4D515454 05 02 003C", "0000]"},
	{"Will", "10 [0004 4D515454 05 06 003C 00 0000", "0001 74 0000]"},
	{"CONNACK", "20 [00 00", "]"},
	{"PUBLISH", "30 [0001 74", "]"},
	{"PUBACK", "40 [0001 00", "]"},
	{"PUBREC", "50 [0001 00", "]"},
	{"PUBREL", "62 [0001 00", "]"},
	{"PUBCOMP", "70 [0001 00", "]"},
	{"SUBSCRIBE", "82 [0001", "0001 74 00]"},
	{"SUBACK", "90 [0001", "00]"},
	{"UNSUBSCRIBE", "A2 [0001", "0001 74]"},
	{"UNSUBACK", "B0 [0001", "00]"},
	{"DISCONNECT", "E0 [00", "]"},
	{"AUTH", "F0 [18", "]"},
}

// propertyRows is the table of section 2.2.2.2, with an encoded property for each, and its values that aren't allowed.
var propertyRows = []struct {
	id      PropertyID
	bytes   string
	packets string
	invalid map[string]*Error
}{
	{PropPayloadFormatIndicator, "01 01", "PUBLISH Will", notBoolean("01")},
	{PropMessageExpiryInterval, "02 00000000", "PUBLISH Will", nil},
	{PropContentType, "03 0000", "PUBLISH Will", notUTF8("03")},
	{PropResponseTopic, "08 0001 74", "PUBLISH Will", map[string]*Error{
		"08 0000": ErrResponseTopic, "08 0001 2B": ErrResponseTopic, "08 0003 612F23": ErrResponseTopic, "08 0001 FF": ErrInvalidUTF8,
	}},
	{PropCorrelationData, "09 0001 FF", "PUBLISH Will", nil},
	{PropSubscriptionIdentifier, "0B 01", "PUBLISH SUBSCRIBE", map[string]*Error{
		"0B 8000": ErrVariableByteIntegerNotShortest, "0B FFFFFFFF01": ErrVariableByteIntegerTooLong,
	}},
	{PropSessionExpiryInterval, "11 00000000", "CONNECT CONNACK DISCONNECT", nil},
	{PropAssignedClientIdentifier, "12 0001 61", "CONNACK", notUTF8("12")},
	{PropServerKeepAlive, "13 0000", "CONNACK", nil},
	{PropAuthenticationMethod, "15 0001 61", "CONNECT CONNACK AUTH", notUTF8("15")},
	{PropAuthenticationData, "16 0001 FF", "CONNECT CONNACK AUTH", nil},
	{PropRequestProblemInformation, "17 00", "CONNECT", notBoolean("17")},
	{PropWillDelayInterval, "18 00000001", "Will", nil},
	{PropRequestResponseInformation, "19 01", "CONNECT", notBoolean("19")},
	{PropResponseInformation, "1A 0001 61", "CONNACK", notUTF8("1A")},
	{PropServerReference, "1C 0001 61", "CONNACK DISCONNECT", notUTF8("1C")},
	{PropReasonString, "1F 0001 61", "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH", notUTF8("1F")},
	{PropReceiveMaximum, "21 0001", "CONNECT CONNACK", map[string]*Error{"21 0000": ErrReceiveMaximumZero}},
	{PropTopicAliasMaximum, "22 0000", "CONNECT CONNACK", nil},
	{PropTopicAlias, "23 0001", "PUBLISH", map[string]*Error{"23 0000": ErrTopicAliasZero}},
	{PropMaximumQoS, "24 01", "CONNACK", notBoolean("24")},
	{PropRetainAvailable, "25 00", "CONNACK", notBoolean("25")},
	{
		PropUserProperty, "26 0001 61 0000",
		"CONNECT Will CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH",
		map[string]*Error{"26 0001 00 0000": ErrInvalidUTF8, "26 0000 0001 FF": ErrInvalidUTF8},
	},
	{PropMaximumPacketSize, "27 00000001", "CONNECT CONNACK", map[string]*Error{"27 00000000": ErrMaximumPacketSizeZero}},
	{PropWildcardSubscriptionAvailable, "28 01", "CONNACK", notBoolean("28")},
	{PropSubscriptionIdentifierAvailable, "29 01", "CONNACK", notBoolean("29")},
	{PropSharedSubscriptionAvailable, "2A 01", "CONNACK", notBoolean("2A")},
}

func notBoolean(id string) map[string]*Error {
	return map[string]*Error{id + "02": ErrPropertyNotBoolean, id + "FF": ErrPropertyNotBoolean}
}

func notUTF8(id string) map[string]*Error {
	return map[string]*Error{id + "0001 00": ErrInvalidUTF8, id + "0003 EDA080": ErrInvalidUTF8, id + "0002 C080": ErrInvalidUTF8}
}

// TestPropertyMatrix tries each property in each packet: once, twice, cut, and with values that aren't allowed.
func TestPropertyMatrix(t *testing.T) {
	for _, col := range propertyColumns {
		for _, row := range propertyRows {
			t.Run(col.name+" "+row.id.String(), func(t *testing.T) {
				// Authentication Data needs the method, and so does AUTH.
				method := ""
				if (col.name == "AUTH" || row.id == PropAuthenticationData) && row.id != PropAuthenticationMethod &&
					slices.Contains([]string{"CONNECT", "CONNACK", "AUTH"}, col.name) {
					method = "15 0001 6D"
				}
				check := func(properties string, want *Error) {
					t.Helper()
					in := unhex(t, col.before+"["+method+properties+"]"+col.after)
					var p packets
					pkt, _, err := p.decodePacket(V5, in)
					if err == nil && want == nil {
						if out := pkt.Append(nil, V5); !bytes.Equal(out, in) {
							t.Errorf("[%s]: encodes to %x, want %x", properties, out, in)
						}
					} else if !is(err, want) {
						t.Errorf("[%s]: got %v, want %v", properties, err, want)
					}
				}

				if !slices.Contains(strings.Fields(row.packets), col.name) {
					misplaced := ErrPropertyNotAllowed
					if col.name == "SUBSCRIBE" || col.name == "UNSUBSCRIBE" {
						misplaced = ErrSubscribePropertyNotAllowed
					}
					check(row.bytes, misplaced)
				} else {
					check(row.bytes, nil)
					twice := ErrPropertyDuplicate
					if row.id == PropUserProperty || row.id == PropSubscriptionIdentifier && col.name == "PUBLISH" {
						twice = nil
					}
					check(row.bytes+row.bytes, twice)
					for invalid, want := range row.invalid {
						check(invalid, want)
					}
				}
				for n := len(unhex(t, row.bytes)) - 1; n > 0; n-- {
					check(fmt.Sprintf("%X", unhex(t, row.bytes)[:n]), ErrTruncated)
				}
			})
		}
	}
}

// TestPropertyUnknown tries every identifier that is none in every packet.
func TestPropertyUnknown(t *testing.T) {
	known := map[int]bool{}
	for _, row := range propertyRows {
		known[int(row.id)] = true
	}
	for _, col := range propertyColumns {
		for id := range 256 {
			if known[id] {
				continue
			}
			var p packets
			_, _, err := p.decodePacket(V5, unhex(t, fmt.Sprintf("%s [%02X 01 00] %s", col.before, id, col.after)))
			if !is(err, ErrPropertyUnknown) {
				t.Errorf("%s with property 0x%02X: got %v, want %v", col.name, id, err, ErrPropertyUnknown)
			}
		}
	}
}

func TestPropertiesHasSetReset(t *testing.T) {
	var p Properties
	for id := range PropertyID(propertyEnd) {
		if p.Has(id) {
			t.Errorf("zero Properties have %s", id)
		}
		p.Set(id)
		if !p.Has(id) {
			t.Errorf("%s isn't there after Set", id)
		}
	}
	p.UserProperties = make([]UserProperty, 3, 8)
	p.SubscriptionIdentifiers = make([]uint32, 3, 8)
	p.ReasonString = b("x")
	p.Reset()
	if p.present != 0 || p.ReasonString != nil || len(p.UserProperties)+len(p.SubscriptionIdentifiers) != 0 {
		t.Errorf("after Reset: %+v", p)
	}
	if cap(p.UserProperties) != 8 || cap(p.SubscriptionIdentifiers) != 8 {
		t.Error("Reset gave up the slices")
	}
}

func TestForward(t *testing.T) {
	all := props(func(p *Properties) {
		p.PayloadFormatIndicator, p.MessageExpiryInterval, p.TopicAlias, p.WillDelayInterval = 1, 60, 3, 9
		p.ContentType, p.ResponseTopic, p.CorrelationData = b("c"), b("r"), b("\x00")
		p.SubscriptionIdentifiers = []uint32{7}
		p.UserProperties = userProperties("b", "1", "a", "2", "b", "3")
	}, PropPayloadFormatIndicator, PropMessageExpiryInterval, PropTopicAlias, PropWillDelayInterval, PropContentType,
		PropResponseTopic, PropCorrelationData, PropSubscriptionIdentifier, PropUserProperty)
	want := unhex(t, "01 01 03 0001 63 08 0001 72 09 0001 00 26 0001 62 0001 31 26 0001 61 0001 32 26 0001 62 0001 33")
	got := all.AppendForward(b("before"))
	if !bytes.Equal(got, append(b("before"), want...)) {
		t.Fatalf("got %x, want %x", got, want)
	}

	back := all // everything in it must go
	if err := DecodeForward(want, &back); err != nil {
		t.Fatal(err)
	}
	if again := back.AppendForward(nil); !bytes.Equal(again, want) {
		t.Errorf("read back and written again: %x, want %x", again, want)
	}
	if back.Has(PropMessageExpiryInterval) || back.TopicAlias != 0 || len(back.SubscriptionIdentifiers) != 0 {
		t.Errorf("DecodeForward left something: %+v", back)
	}
	if err := DecodeForward(nil, &back); err != nil || back.present != 0 {
		t.Errorf("nothing: got %+v, %v", back, err)
	}
	for _, c := range []struct {
		bytes string
		want  *Error
	}{{"02 00000001", ErrPropertyNotAllowed}, {"01", ErrTruncated}, {"01 00 01 00", ErrPropertyDuplicate}} {
		if err := DecodeForward(unhex(t, c.bytes), &back); !is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.bytes, err, c.want)
		}
	}
}

// TestForwardKeepsOrder forwards what was decoded as it came, without what is not forwarded.
func TestForwardKeepsOrder(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		t              PacketType
	}{
		{"nothing to leave out", "26 0001 61 0000 03 0001 63 01 01 26 0000 0001 62", "26 0001 61 0000 03 0001 63 01 01 26 0000 0001 62", TypePublish},
		{"last", "08 0001 72 01 00 02 0000003C", "08 0001 72 01 00", TypePublish},
		{"first", "18 00000000 08 0001 72 09 0004 64617461", "08 0001 72 09 0004 64617461", typeWill},
		{"between", "09 0001 00 23 0007 0B 8001 0B 01 03 0000 02 00000001 01 01", "09 0001 00 03 0000 01 01", TypePublish},
		{"all", "02 00000001", "", TypePublish},
	} {
		var p Properties
		in := unhex(t, c.in)
		if _, err := p.cut(append([]byte{byte(len(in))}, in...), c.t); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got, want := p.AppendForward(nil), unhex(t, c.want); !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", c.name, got, want)
		}
	}
}

// TestLongStrings cuts what can't be encoded, so that the packet stays readable.
func TestLongStrings(t *testing.T) {
	p := Publish{TopicName: b("t")}
	p.Properties.UserProperties = []UserProperty{{b("k"), bytes.Repeat(b("x"), 70_000)}}
	p.Properties.Set(PropUserProperty)
	in := p.Append(nil, V5)
	if len(in) != p.Size(V5) {
		t.Fatalf("%d bytes, Size says %d", len(in), p.Size(V5))
	}
	var got packets
	pkt, _, err := got.decodePacket(V5, in)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(pkt.(*Publish).Properties.UserProperties[0].Value); n != 65_535 {
		t.Errorf("value has %d bytes, want 65535", n)
	}
}
