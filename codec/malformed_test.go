package codec

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// connect311 and connect5 build a CONNECT from its Connect Flags and what follows Keep Alive.
func connect311(flags, rest string) string {
	return "10 [0004 4D515454 04 " + flags + " 003C " + rest + "]"
}

func connect5(flags, rest string) string {
	return "10 [0004 4D515454 05 " + flags + " 003C " + rest + "]"
}

// malformedCases are packets that must be refused, with the error that must come out. They are decoded as a Server does.
var malformedCases = []struct {
	name  string
	v     Version
	bytes string
	want  *Error
}{
	{"first packet is PINGREQ", 0, "C0", ErrFirstPacketNotConnect},
	{"first packet is reserved", 0, "00", ErrFirstPacketNotConnect},
	{"type 0", V311, "00", ErrReservedPacketType},
	{"type 0 with flags", V5, "08", ErrReservedPacketType},
	{"type 0 of 3.1", V31, "00", ErrReservedPacketType},
	{"AUTH before 5.0", V311, "F0", ErrReservedPacketType},
	{"AUTH before 5.0", V31, "F0", ErrReservedPacketType},
	{"AUTH flags", V5, "F1", ErrReservedFlagsUnexpected},
	{"CONNACK flags", V5, "21", ErrReservedFlagsUnexpected},
	{"PINGRESP flags", V311, "D8", ErrReservedFlags},
	{"PUBLISH QoS 3", V31, "36", ErrQoS3},
	{"PUBLISH QoS 3 with DUP", V5, "3F", ErrQoS3},
	{"PUBLISH DUP with QoS 0", V311, "38", ErrDupQoS0},
	{"PUBLISH DUP with QoS 0", V5, "39", ErrDupQoS0},
	{"PUBREL with QoS 0 of 3.1", V31, "60", ErrReservedFlags},
	{"SUBSCRIBE with QoS 2 of 3.1", V31, "84", ErrReservedFlags},
	{"UNSUBSCRIBE with QoS 3 of 3.1", V31, "A6", ErrReservedFlags},
	{"length of five bytes", V311, "30 80808080", ErrRemainingLengthTooLong},
	{"length of five bytes", V5, "30 FFFFFFFF01", ErrRemainingLengthTooLong},
	{"length not shortest", V5, "30 8000", ErrVariableByteIntegerNotShortest},
	{"length not shortest", V311, "30 FFFF00", ErrVariableByteIntegerNotShortest},
	{"length not shortest in four bytes", V5, "30 FFFFFF00", ErrVariableByteIntegerNotShortest},
	{"PINGREQ with a body", V5, "C0 01", ErrPingLength},
	{"PINGRESP with a body", V311, "D0 8001", ErrPingLength},

	{"CONNECT without a name", V311, "10 00", ErrTruncated},
	{"CONNECT without a level", V311, "10 [0004 4D515454]", ErrTruncated},
	{"CONNECT empty name", V311, "10 [0000 04 02 000A 0001 70]", ErrProtocolName},
	{"CONNECT wrong name", V311, "10 [0004 4D515455 04 02 000A 0001 70]", ErrProtocolName},
	{"CONNECT lower case name", V311, "10 [0004 6D717474 04 02 000A 0001 70]", ErrProtocolName},
	{"CONNECT long name", V311, "10 [0005 4D51545454 04 02 000A 0001 70]", ErrProtocolName},
	{"CONNECT wrong name and level", V311, "10 [0004 4D515455 09]", ErrProtocolName},
	{"CONNECT level 2", V311, "10 [0004 4D515454 02]", ErrUnsupportedProtocolVersion},
	{"CONNECT level 6", V311, "10 [0004 4D515454 06 FF]", ErrUnsupportedProtocolVersion},
	{"CONNECT level 0", V311, "10 [0004 4D515454 00]", ErrUnsupportedProtocolVersion},
	{"CONNECT level 3 named MQTT", V311, "10 [0004 4D515454 03]", ErrUnsupportedProtocolVersion},
	{"CONNECT level 4 named MQIsdp", V31, "10 [0006 4D5149736470 04]", ErrUnsupportedProtocolVersion},
	{"CONNECT level 5 named MQIsdp", V31, "10 [0006 4D5149736470 05]", ErrUnsupportedProtocolVersion},
	{"CONNECT bridge of 5.0", V5, "10 [0004 4D515454 85]", ErrUnsupportedProtocolVersion},
	{"CONNECT unsupported version with bad flags", V5, "1F [0004 4D515454 06 01]", ErrUnsupportedProtocolVersion},
	{"CONNECT flags of the fixed header", V311, "11 [0004 4D515454 04 02 000A 0001 70]", ErrConnectHeader},
	{"CONNECT flags of the fixed header", V5, "14 [0004 4D515454 05 02 000A 00 0001 70]", ErrConnectHeader},
	{"CONNECT ends in Keep Alive", V311, "10 [0004 4D515454 04 02 00]", ErrConnectHeader},
	{"CONNECT reserved flag", V311, connect311("03", "0001 70"), ErrConnectFlagReserved},
	{"CONNECT reserved flag", V5, connect5("01", "00 0001 70"), ErrConnectFlagReserved},
	{"CONNECT Will QoS without Will", V311, connect311("0A", "0001 70"), ErrWillQoSWithoutWill},
	{"CONNECT Will QoS 3 without Will", V5, connect5("18", "00 0001 70"), ErrWillQoSWithoutWill},
	{"CONNECT Will Retain without Will", V311, connect311("22", "0001 70"), ErrWillRetainWithoutWill},
	{"CONNECT Will QoS 3", V311, connect311("1E", "0001 70 0001 74 0001 68"), ErrWillQoS3},
	{"CONNECT Will QoS 3", V31, "10 [0006 4D5149736470 03 1E 000A 0001 70 0001 74 0001 68]", ErrWillQoS3},
	{"CONNECT password without User Name", V311, connect311("42", "0001 70 0001 70"), ErrPasswordWithoutUsername},
	{"CONNECT password without User Name", V31, "10 [0006 4D5149736470 03 42 000A 0001 70 0001 70]", ErrPasswordWithoutUsername},
	{"CONNECT no ClientID", V311, connect311("02", ""), ErrTruncated},
	{"CONNECT ClientID cut", V31, "10 [0006 4D5149736470 03 02 000A 0002 70]", ErrTruncated},
	{"CONNECT ClientID with U+0000", V311, connect311("02", "0003 700070"), ErrClientID},
	{"CONNECT ClientID with U+D800", V5, connect5("02", "00 0005 7070EDA080"), ErrClientID},
	{"CONNECT ClientID with U+0001", V311, connect311("02", "0003 700170"), ErrClientID},
	{"CONNECT ClientID with U+009F", V5, connect5("02", "00 0003 70C29F"), ErrClientID},
	{"CONNECT User Name missing", V311, connect311("82", "0001 70"), ErrCredentials},
	{"CONNECT User Name with U+0000", V311, connect311("82", "0001 70 0001 00"), ErrCredentials},
	{"CONNECT User Name with U+007F", V31, "10 [0006 4D5149736470 03 82 000A 0001 70 0001 7F]", ErrCredentials},
	{"CONNECT password missing", V311, connect311("C2", "0001 70 0001 75"), ErrCredentials},
	{"CONNECT password cut", V5, connect5("42", "00 0001 70 0002 75"), ErrCredentials},
	{"CONNECT User Name without flag", V311, connect311("02", "0001 70 0001 75"), ErrTrailingBytes},
	{"CONNECT password without flag", V5, connect5("82", "00 0001 70 0001 75 0001 77"), ErrTrailingBytes},
	{"CONNECT Will Topic missing", V311, connect311("06", "0001 70"), ErrTruncated},
	{"CONNECT Will Payload missing", V311, connect311("06", "0001 70 0001 74"), ErrTruncated},
	{"CONNECT Will Topic empty", V311, connect311("06", "0001 70 0000 0001 68"), ErrWillTopicEmpty},
	{"CONNECT Will Topic with U+DFFF", V311, connect311("06", "0001 70 0003 EDBFBF 0001 68"), ErrInvalidUTF8},
	{"CONNECT Will Topic with U+001F", V311, connect311("06", "0001 70 0001 1F 0001 68"), ErrControlCharacter},
	{"CONNECT Will Topic with wildcard", V5, connect5("06", "00 0001 70 00 0003 612F2B 0001 68"), ErrTopicNameWildcard},
	{"CONNECT properties missing", V5, connect5("02", ""), ErrTruncated},
	{"CONNECT Will Properties missing", V5, connect5("06", "00 0001 70"), ErrTruncated},
	{"CONNECT Will Properties too long", V5, connect5("06", "00 0001 70 09 01 00"), ErrTruncated},
	{"CONNECT Receive Maximum 0", V5, connect5("02", "[21 0000] 0001 70"), ErrReceiveMaximumZero},
	{"CONNECT Maximum Packet Size 0", V5, connect5("02", "[27 00000000] 0001 70"), ErrMaximumPacketSizeZero},
	{"CONNECT Authentication Data alone", V5, connect5("02", "[16 0001 61] 0001 70"), ErrAuthenticationDataWithoutMethod},

	{"CONNACK empty", V5, "20 00", ErrTruncated},
	{"CONNACK without Reason Code", V311, "20 01 00", ErrTruncated},
	{"CONNACK without properties", V5, "20 02 00 00", ErrTruncated},
	{"CONNACK with properties", V311, "20 03 00 00 00", ErrTrailingBytes},
	{"CONNACK reserved flag", V311, "20 02 02 00", ErrConnackFlagReserved},
	{"CONNACK reserved flag", V5, "20 03 81 00 00", ErrConnackFlagReserved},
	{"CONNACK session in a refusal", V311, "20 02 01 02", ErrConnackSessionPresent},
	{"CONNACK session in a refusal", V5, "20 03 01 87 00", ErrConnackSessionPresent},
	{"CONNACK return code 6", V311, "20 02 00 06", ErrConnackReturnCode},
	{"CONNACK Reason Code of 3.1.1", V5, "20 03 00 01 00", ErrReasonCode},
	{"CONNACK Authentication Data alone", V5, "20 [00 00 [16 0000]]", ErrAuthenticationDataWithoutMethod},

	{"PUBLISH empty", V311, "30 00", ErrTruncated},
	{"PUBLISH half a length", V311, "30 01 00", ErrTruncated},
	{"PUBLISH topic cut", V311, "30 03 0002 61", ErrTruncated},
	{"PUBLISH topic empty", V31, "30 02 0000", ErrTopicNameEmpty},
	{"PUBLISH topic empty", V311, "30 03 0000 61", ErrTopicNameEmpty},
	{"PUBLISH topic empty without alias", V5, "30 04 0000 00 61", ErrTopicNameEmpty},
	{"PUBLISH topic empty with another property", V5, "30 05 0000 02 01 00", ErrTopicNameEmpty},
	{"PUBLISH topic with U+0000", V311, "30 05 0003 610061", ErrInvalidUTF8},
	{"PUBLISH topic overlong", V311, "30 05 0003 61C0AF", ErrInvalidUTF8},
	{"PUBLISH topic with U+D800", V5, "30 06 0003 EDA080 00", ErrInvalidUTF8},
	{"PUBLISH topic ends in a character", V5, "30 05 0002 61C3 00", ErrInvalidUTF8},
	{"PUBLISH topic with U+0001", V311, "30 05 0003 610161", ErrControlCharacter},
	{"PUBLISH topic with U+007F", V5, "30 06 0003 617F61 00", ErrControlCharacter},
	{"PUBLISH topic with U+0080", V5, "30 06 0003 61C280 00", ErrControlCharacter},
	{"PUBLISH topic with +", V311, "30 05 0003 612F2B", ErrTopicNameWildcard},
	{"PUBLISH topic with #", V5, "30 06 0003 23C3A9 00", ErrTopicNameWildcard},
	{"PUBLISH topic with wildcard and alias", V5, "30 07 0001 23 03 23 0001", ErrTopicNameWildcard},
	{"PUBLISH QoS 1 without Packet Identifier", V311, "32 04 0001 74 00", ErrTruncated},
	{"PUBLISH QoS 1 Packet Identifier 0", V311, "32 05 0001 74 0000", ErrPacketIdentifierZero},
	{"PUBLISH QoS 2 Packet Identifier 0", V5, "34 06 0001 74 0000 00", ErrPacketIdentifierZero},
	{"PUBLISH without properties", V5, "30 03 0001 74", ErrTruncated},
	{"PUBLISH Property Length cut", V5, "30 04 0001 74 80", ErrTruncated},
	{"PUBLISH Property Length not shortest", V5, "30 05 0001 74 8000", ErrVariableByteIntegerNotShortest},
	{"PUBLISH Property Length of five bytes", V5, "30 08 0001 74 8080808001", ErrVariableByteIntegerTooLong},
	{"PUBLISH Property Length beyond the end", V5, "30 06 0001 74 05 0100", ErrTruncated},
	{"PUBLISH property beyond Property Length", V5, "30 [0001 74 [02 0000] 0000]", ErrTruncated},
	{"PUBLISH Topic Alias 0", V5, "30 [0001 74 [23 0000]]", ErrTopicAliasZero},
	{"PUBLISH Subscription Identifier 0", V5, "30 [0001 74 [0B 00]]", ErrSubscriptionIdentifierZero},
	{"PUBLISH Subscription Identifier not shortest", V5, "30 [0001 74 [0B 8000]]", ErrVariableByteIntegerNotShortest},
	{"PUBLISH Subscription Identifier of five bytes", V5, "30 [0001 74 [0B 8080808001]]", ErrVariableByteIntegerTooLong},
	{"PUBLISH Subscription Identifier cut", V5, "30 [0001 74 [0B 80]]", ErrTruncated},
	{"PUBLISH Response Topic with +", V5, "30 [0001 74 [08 0001 2B]]", ErrResponseTopic},
	{"PUBLISH Response Topic empty", V5, "30 [0001 74 [08 0000]]", ErrResponseTopic},
	{"PUBLISH Response Topic not UTF-8", V5, "30 [0001 74 [08 0001 FF]]", ErrInvalidUTF8},
	{"PUBLISH User Property key not UTF-8", V5, "30 [0001 74 [26 0001 FF 0001 61]]", ErrInvalidUTF8},
	{"PUBLISH User Property value with U+0000", V5, "30 [0001 74 [26 0001 61 0001 00]]", ErrInvalidUTF8},
	{"PUBLISH User Property without value", V5, "30 [0001 74 [26 0001 61]]", ErrTruncated},
	// What can't be read is malformed, even behind a property that breaks the protocol.
	{"PUBLISH misplaced property, then unknown", V5, "30 [0001 74 [24 00 7F]]", ErrPropertyUnknown},
	{"PUBLISH misplaced property, then cut", V5, "30 [0001 74 [24 00 02 00]]", ErrTruncated},
	{"PUBLISH duplicate property, then not UTF-8", V5, "30 [0001 74 [01 00 01 00 03 0001 FF]]", ErrInvalidUTF8},
	{"PUBLISH first of two violations", V5, "30 [0001 74 [23 0000 24 00]]", ErrTopicAliasZero},
	{"PUBLISH property two bytes wide", V5, "30 [0001 74 [8101 00]]", ErrPropertyUnknown},

	{"PUBACK empty", V311, "40 00", ErrTruncated},
	{"PUBREC of one byte", V5, "50 01 00", ErrTruncated},
	{"PUBREL Packet Identifier 0", V311, "62 02 0000", ErrPacketIdentifierZero},
	{"PUBCOMP Packet Identifier 0", V5, "70 03 0000 00", ErrPacketIdentifierZero},
	{"PUBACK with Reason Code", V311, "40 03 0001 00", ErrTrailingBytes},
	{"PUBACK Reason Code 1", V5, "40 03 0001 01", ErrReasonCode},
	{"PUBREC Reason Code of PUBREL", V5, "50 03 0001 92", ErrReasonCode},
	{"PUBREL Reason Code of PUBREC", V5, "62 03 0001 10", ErrReasonCode},
	{"PUBCOMP Reason Code FF", V5, "70 04 0001 FF 00", ErrReasonCode},
	{"PUBACK after properties", V5, "40 05 0001 00 00 00", ErrTrailingBytes},

	{"SUBSCRIBE empty", V311, "82 00", ErrTruncated},
	{"SUBSCRIBE flags", V311, "8A", ErrReservedFlags},
	{"SUBSCRIBE Packet Identifier 0", V311, "82 06 0000 0001 74 00", ErrSubscribePacketIdentifierZero},
	{"SUBSCRIBE Packet Identifier 0", V5, "82 07 0000 00 0001 74 00", ErrSubscribePacketIdentifierZero},
	{"SUBSCRIBE no filter", V311, "82 02 0001", ErrNoSubscription},
	{"SUBSCRIBE no filter", V5, "82 03 0001 00", ErrNoSubscription},
	{"SUBSCRIBE no properties", V5, "82 02 0001", ErrTruncated},
	{"SUBSCRIBE no options", V311, "82 05 0001 0001 74", ErrTruncated},
	{"SUBSCRIBE second without options", V5, "82 0A 0001 00 0001 74 00 0001 74", ErrTruncated},
	{"SUBSCRIBE filter empty", V311, "82 05 0001 0000 00", ErrTopicFilterEmpty},
	{"SUBSCRIBE filter empty", V5, "82 06 0001 00 0000 00", ErrTopicFilterEmpty},
	{"SUBSCRIBE filter with U+0000", V311, "82 06 0001 0001 00 00", ErrInvalidUTF8},
	{"SUBSCRIBE filter with U+FFFF cut", V5, "82 08 0001 00 0002 EFBF 00", ErrInvalidUTF8},
	{"SUBSCRIBE filter with U+0001", V5, "82 07 0001 00 0001 01 00", ErrControlCharacter},
	{"SUBSCRIBE misplaced #", V311, "82 08 0001 0003 232F61 00", ErrTopicFilterWildcard},
	{"SUBSCRIBE misplaced +", V31, "82 07 0001 0002 612B 00", ErrTopicFilterWildcard},
	{"SUBSCRIBE QoS 3", V311, "82 06 0001 0001 74 03", ErrSubscriptionQoS3},
	{"SUBSCRIBE QoS 3", V31, "82 06 0001 0001 74 03", ErrSubscriptionQoS3},
	{"SUBSCRIBE QoS 3", V5, "82 07 0001 00 0001 74 03", ErrSubscriptionQoS3},
	{"SUBSCRIBE reserved bits", V311, "82 06 0001 0001 74 04", ErrSubscriptionReserved},
	{"SUBSCRIBE reserved bits", V5, "82 07 0001 00 0001 74 40", ErrSubscriptionReserved},
	{"SUBSCRIBE reserved bits", V5, "82 07 0001 00 0001 74 80", ErrSubscriptionReserved},
	{"SUBSCRIBE Retain Handling 3", V5, "82 07 0001 00 0001 74 30", ErrRetainHandling3},
	{"SUBSCRIBE shared without filter", V5, "82 [0001 00 0009 2473686172652F672F 00]", ErrSharedSubscription},
	{"SUBSCRIBE shared without separator", V311, "82 [0001 0008 2473686172652F67 00]", ErrSharedSubscription},
	{"SUBSCRIBE shared with an empty name", V5, "82 [0001 00 000A 2473686172652F2F6162 00]", ErrSharedSubscription},
	{"SUBSCRIBE shared with + in the name", V5, "82 [0001 00 000A 2473686172652F2B2F61 00]", ErrSharedSubscription},
	{"SUBSCRIBE shared with # in the name", V5, "82 [0001 00 000A 2473686172652F232F61 00]", ErrSharedSubscription},
	{"SUBSCRIBE shared with No Local", V5, "82 [0001 00 000A 2473686172652F672F61 04]", ErrNoLocalShared},
	{"SUBSCRIBE misplaced property", V5, "82 [0001 [24 00] 0001 74 00]", ErrSubscribePropertyNotAllowed},
	{"SUBSCRIBE Subscription Identifier 0", V5, "82 [0001 [0B 00] 0001 74 00]", ErrSubscriptionIdentifierZero},
	{"SUBSCRIBE Subscription Identifier twice", V5, "82 [0001 [0B 01 0B 02] 0001 74 00]", ErrPropertyDuplicate},

	{"SUBACK flags", V5, "91", ErrReservedFlags},
	{"SUBACK empty", V311, "90 00", ErrTruncated},
	{"SUBACK Packet Identifier 0", V311, "90 03 0000 00", ErrPacketIdentifierZero},
	{"SUBACK no Reason Code", V311, "90 02 0001", ErrSubackReasonCodesMissing},
	{"SUBACK no Reason Code", V5, "90 03 0001 00", ErrSubackReasonCodesMissing},
	{"SUBACK Reason Code 3", V5, "90 05 0001 00 00 03", ErrReasonCode},
	{"SUBACK Reason Code of 5.0", V311, "90 03 0001 87", ErrReasonCode},
	{"SUBACK Reason Code of UNSUBACK", V5, "90 04 0001 00 11", ErrReasonCode},

	{"UNSUBSCRIBE empty", V311, "A2 00", ErrTruncated},
	{"UNSUBSCRIBE flags", V5, "A0", ErrReservedFlags},
	{"UNSUBSCRIBE Packet Identifier 0", V5, "A2 06 0000 00 0001 74", ErrSubscribePacketIdentifierZero},
	{"UNSUBSCRIBE no filter", V311, "A2 02 0001", ErrNoTopicFilter},
	{"UNSUBSCRIBE no filter", V5, "A2 03 0001 00", ErrNoTopicFilter},
	{"UNSUBSCRIBE filter cut", V311, "A2 05 0001 0002 74", ErrTruncated},
	{"UNSUBSCRIBE filter empty", V311, "A2 07 0001 0001 74 0000", ErrTopicFilterEmpty},
	{"UNSUBSCRIBE filter with U+0000", V5, "A2 06 0001 00 0001 00", ErrInvalidUTF8},
	{"UNSUBSCRIBE misplaced #", V5, "A2 08 0001 00 0003 232F61", ErrTopicFilterWildcard},
	{"UNSUBSCRIBE misplaced property", V5, "A2 [0001 [0B 01] 0001 74]", ErrSubscribePropertyNotAllowed},

	{"UNSUBACK flags", V5, "B1", ErrReservedFlags},
	{"UNSUBACK of one byte", V311, "B0 01 00", ErrTruncated},
	{"UNSUBACK Packet Identifier 0", V5, "B0 04 0000 00 00", ErrPacketIdentifierZero},
	{"UNSUBACK with Reason Code", V311, "B0 03 0001 00", ErrTrailingBytes},
	{"UNSUBACK no Reason Code", V5, "B0 03 0001 00", ErrSubackReasonCodesMissing},
	{"UNSUBACK Reason Code of SUBACK", V5, "B0 04 0001 00 01", ErrReasonCode},

	{"DISCONNECT flags", V5, "E1", ErrReservedFlagsUnexpected},
	{"DISCONNECT with a body", V311, "E0 01 00", ErrTrailingBytes},
	{"DISCONNECT with a body", V31, "E0 01 00", ErrTrailingBytes},
	{"DISCONNECT Reason Code 1", V5, "E0 01 01", ErrDisconnectReasonCode},
	{"DISCONNECT Reason Code of CONNACK", V5, "E0 02 88 00", ErrDisconnectReasonCode},
	{"DISCONNECT properties cut", V5, "E0 03 00 02 11", ErrTruncated},
	{"DISCONNECT after properties", V5, "E0 03 00 00 00", ErrTrailingBytes},

	{"AUTH Reason Code 1", V5, "F0 02 01 00", ErrReasonCode},
	{"AUTH without Authentication Method", V5, "F0 02 18 00", ErrAuthenticationMethodMissing},
	{"AUTH Reason Code alone", V5, "F0 01 00", ErrAuthenticationMethodMissing},
	{"AUTH Authentication Data alone", V5, "F0 [18 [16 0001 64]]", ErrAuthenticationDataWithoutMethod},
}

func TestMalformed(t *testing.T) {
	for _, c := range malformedCases {
		t.Run(fmt.Sprintf("%s %s", c.name, c.v), func(t *testing.T) {
			var p packets
			_, _, err := p.decodePacket(c.v, unhex(t, c.bytes))
			if !is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestFlagsInDecode gives wrong flags straight to the Decode methods, for callers that don't frame with DecodeFixedHeader.
func TestFlagsInDecode(t *testing.T) {
	for _, c := range packetCases {
		in := unhex(t, c.bytes)
		h, _, _ := frame(c.v, in)
		switch h.Type {
		case TypePuback, TypePubrec, TypePubrel, TypePubcomp, TypePingreq, TypePingresp:
			continue // these have no flags to give
		}
		if c.v == V31 && h.Type != TypePublish && h.Type != TypeSubscribe && h.Type != TypeUnsubscribe {
			continue // not used in 3.1
		}
		h.Flags = 0b0110
		var p packets
		_, err := p.decode(c.v, h, in[h.HeaderSize:])
		var violation *Error
		if !errors.As(err, &violation) || !strings.Contains(err.Error(), "MQTT-2.1.3-1") && !is(err, ErrQoS3) {
			t.Errorf("%s %s: got %v, want an error for flags 0110", c.name, c.v, err)
		}
	}
}

// TestReasonCodesOfErrors holds the Reason Codes that answer a violation; external suites ask for exactly these.
func TestReasonCodesOfErrors(t *testing.T) {
	for err, want := range map[*Error]ReasonCode{
		ErrReservedPacketType: 0x82, ErrReservedFlags: 0x81, ErrReservedFlagsUnexpected: 0x82, ErrQoS3: 0x81, ErrDupQoS0: 0x81,
		ErrVariableByteIntegerTooLong: 0x81, ErrVariableByteIntegerNotShortest: 0x81, ErrTruncated: 0x81, ErrTrailingBytes: 0x81,
		ErrInvalidUTF8: 0x81, ErrControlCharacter: 0x81, ErrPacketIdentifierZero: 0x82, ErrSubscribePacketIdentifierZero: 0x81,
		ErrReasonCode: 0x82, ErrPropertyUnknown: 0x81, ErrPropertyNotAllowed: 0x82, ErrSubscribePropertyNotAllowed: 0x81,
		ErrPropertyDuplicate: 0x82, ErrPropertyNotBoolean: 0x82, ErrReceiveMaximumZero: 0x82, ErrMaximumPacketSizeZero: 0x82,
		ErrTopicAliasZero: 0x94, ErrSubscriptionIdentifierZero: 0x82, ErrClientID: 0x85,
		ErrResponseTopic: 0x82, ErrAuthenticationDataWithoutMethod: 0x82, ErrAuthenticationMethodMissing: 0x82,
		ErrSubscriptionIdentifierFromClient: 0x82, ErrUnsupportedProtocolVersion: 0x84, ErrProtocolName: 0x84,
		ErrTopicNameEmpty: 0x81, ErrTopicNameWildcard: 0x81, ErrTopicFilterEmpty: 0x81, ErrTopicFilterWildcard: 0x81,
		ErrSharedSubscription: 0x82, ErrNoLocalShared: 0x82, ErrSubscriptionQoS3: 0x81, ErrRetainHandling3: 0x81,
		ErrSubscriptionReserved: 0x81, ErrNoSubscription: 0x81, ErrNoTopicFilter: 0x81, ErrConnectFlagReserved: 0x81,
	} {
		if err.ReasonCode != want {
			t.Errorf("%v: got 0x%X, want 0x%X", err, byte(err.ReasonCode), byte(want))
		}
	}
	for _, err := range []*Error{
		ErrFirstPacketNotConnect, ErrPingLength, ErrProtocolName, ErrDisconnectReasonCode, ErrRemainingLengthTooLong,
		ErrConnectHeader, ErrCredentials, ErrWillTopicEmpty, ErrWillQoS3,
	} {
		if !err.Silent() {
			t.Errorf("%v: should be answered by closing alone", err)
		}
	}
	if ErrUnsupportedProtocolVersion.Silent() || ErrTruncated.Silent() || ErrClientID.Silent() {
		t.Error("a packet that can be answered is silent")
	}
	if err := NewError(QuotaExceeded, "too much"); err.ReasonCode != QuotaExceeded || err.Error() != "too much" || err.Silent() {
		t.Errorf("NewError: got %+v", err)
	}
}

// TestReasonCodesPerPacket tries every Reason Code in every packet against a copy of the tables of the standard, chapter 3.
func TestReasonCodesPerPacket(t *testing.T) {
	tables := map[PacketType]struct{ codes, before, after string }{
		TypeConnack:    {"00 80 81 82 83 84 85 86 87 88 89 8A 8C 90 95 97 99 9A 9B 9C 9D 9F", "00", "00"},
		TypePuback:     {"00 10 80 83 87 90 91 97 99", "0001", ""},
		TypePubrec:     {"00 10 80 83 87 90 91 97 99", "0001", ""},
		TypePubrel:     {"00 92", "0001", ""},
		TypePubcomp:    {"00 92", "0001", ""},
		TypeSuback:     {"00 01 02 80 83 87 8F 91 97 9E A1 A2", "0001 00", ""},
		TypeUnsuback:   {"00 11 80 83 87 8F 91", "0001 00", ""},
		TypeDisconnect: {"00 04 80 81 82 83 87 89 8B 8C 8D 8E 8F 90 93 94 95 96 97 98 99 9A 9B 9C 9D 9E 9F A0 A1 A2", "", ""},
		TypeAuth:       {"00 18 19", "", "[15 0001 6D]"},
	}
	for typ, table := range tables {
		flags := ackFlags(typ)
		for code := range 256 {
			in := unhex(t, fmt.Sprintf("%02X [%s %02X %s]", byte(typ)<<4|flags, table.before, code, table.after))
			var p packets
			_, _, err := p.decodePacket(V5, in)
			want := strings.Contains(" "+table.codes+" ", fmt.Sprintf(" %02X ", code))
			if (err == nil) != want || err != nil && !is(err, ErrReasonCode) && !is(err, ErrDisconnectReasonCode) {
				t.Errorf("%s with Reason Code 0x%02X: got %v, want allowed == %t", typ, code, err, want)
			}
		}
	}
}
