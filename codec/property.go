package codec

import (
	"encoding/binary"
	"math/bits"
	"strconv"
)

// PropertyID is a Property Identifier (section 2.2.2.2).
type PropertyID byte

// The Property Identifiers of MQTT 5.0.
const (
	PropPayloadFormatIndicator          PropertyID = 0x01
	PropMessageExpiryInterval           PropertyID = 0x02
	PropContentType                     PropertyID = 0x03
	PropResponseTopic                   PropertyID = 0x08
	PropCorrelationData                 PropertyID = 0x09
	PropSubscriptionIdentifier          PropertyID = 0x0B
	PropSessionExpiryInterval           PropertyID = 0x11
	PropAssignedClientIdentifier        PropertyID = 0x12
	PropServerKeepAlive                 PropertyID = 0x13
	PropAuthenticationMethod            PropertyID = 0x15
	PropAuthenticationData              PropertyID = 0x16
	PropRequestProblemInformation       PropertyID = 0x17
	PropWillDelayInterval               PropertyID = 0x18
	PropRequestResponseInformation      PropertyID = 0x19
	PropResponseInformation             PropertyID = 0x1A
	PropServerReference                 PropertyID = 0x1C
	PropReasonString                    PropertyID = 0x1F
	PropReceiveMaximum                  PropertyID = 0x21
	PropTopicAliasMaximum               PropertyID = 0x22
	PropTopicAlias                      PropertyID = 0x23
	PropMaximumQoS                      PropertyID = 0x24
	PropRetainAvailable                 PropertyID = 0x25
	PropUserProperty                    PropertyID = 0x26
	PropMaximumPacketSize               PropertyID = 0x27
	PropWildcardSubscriptionAvailable   PropertyID = 0x28
	PropSubscriptionIdentifierAvailable PropertyID = 0x29
	PropSharedSubscriptionAvailable     PropertyID = 0x2A

	propertyEnd = 0x2B
)

// propertyKind is the data type of a property's value.
type propertyKind byte

const (
	kindByte propertyKind = iota + 1
	kindUint16
	kindUint32
	kindVarint
	kindString
	kindBinary
	kindPair
)

// typeWill stands for the Will Properties, which are a packet of their own as far as properties go.
const typeWill PacketType = 0

// Bits of properties.packets that reasonCodes doesn't need.
const (
	inWill        = 1 << typeWill
	inConnect     = 1 << TypeConnect
	inPublish     = 1 << TypePublish
	inSubscribe   = 1 << TypeSubscribe
	inUnsubscribe = 1 << TypeUnsubscribe
	inReplies     = inConnack | inPuback | inPubrec | inPubrel | inPubcomp | inSuback | inUnsuback | inDisconnect | inAuth
)

// properties is the table of section 2.2.2.2: the data type of a property and the packets that may carry it.
var properties = [propertyEnd]struct {
	name    string
	kind    propertyKind
	packets uint16
}{
	PropPayloadFormatIndicator:     {"Payload Format Indicator", kindByte, inPublish | inWill},
	PropMessageExpiryInterval:      {"Message Expiry Interval", kindUint32, inPublish | inWill},
	PropContentType:                {"Content Type", kindString, inPublish | inWill},
	PropResponseTopic:              {"Response Topic", kindString, inPublish | inWill},
	PropCorrelationData:            {"Correlation Data", kindBinary, inPublish | inWill},
	PropSubscriptionIdentifier:     {"Subscription Identifier", kindVarint, inPublish | inSubscribe},
	PropSessionExpiryInterval:      {"Session Expiry Interval", kindUint32, inConnect | inConnack | inDisconnect},
	PropAssignedClientIdentifier:   {"Assigned Client Identifier", kindString, inConnack},
	PropServerKeepAlive:            {"Server Keep Alive", kindUint16, inConnack},
	PropAuthenticationMethod:       {"Authentication Method", kindString, inConnect | inConnack | inAuth},
	PropAuthenticationData:         {"Authentication Data", kindBinary, inConnect | inConnack | inAuth},
	PropRequestProblemInformation:  {"Request Problem Information", kindByte, inConnect},
	PropWillDelayInterval:          {"Will Delay Interval", kindUint32, inWill},
	PropRequestResponseInformation: {"Request Response Information", kindByte, inConnect},
	PropResponseInformation:        {"Response Information", kindString, inConnack},
	PropServerReference:            {"Server Reference", kindString, inConnack | inDisconnect},
	PropReasonString:               {"Reason String", kindString, inReplies},
	PropReceiveMaximum:             {"Receive Maximum", kindUint16, inConnect | inConnack},
	PropTopicAliasMaximum:          {"Topic Alias Maximum", kindUint16, inConnect | inConnack},
	PropTopicAlias:                 {"Topic Alias", kindUint16, inPublish},
	PropMaximumQoS:                 {"Maximum QoS", kindByte, inConnack},
	PropRetainAvailable:            {"Retain Available", kindByte, inConnack},
	PropUserProperty: {
		"User Property", kindPair, inConnect | inWill | inPublish | inSubscribe | inUnsubscribe | inReplies,
	},
	PropMaximumPacketSize:               {"Maximum Packet Size", kindUint32, inConnect | inConnack},
	PropWildcardSubscriptionAvailable:   {"Wildcard Subscription Available", kindByte, inConnack},
	PropSubscriptionIdentifierAvailable: {"Subscription Identifier Available", kindByte, inConnack},
	PropSharedSubscriptionAvailable:     {"Shared Subscription Available", kindByte, inConnack},
}

// propertyRules is the same table from the side of a packet.
type propertyRules struct {
	allowed    uint64 // a bit for each property that the packet may carry
	repeatable uint64 // of those, the ones it may carry more than once

	// notAllowed has one Reason Code in SUBSCRIBE and UNSUBSCRIBE and another elsewhere.
	notAllowed *Error
}

var packetProperties = func() (rules [16]propertyRules) {
	for t := range rules {
		r := &rules[t]
		for id, p := range properties {
			r.allowed |= uint64(p.packets>>t&1) << id
		}
		r.repeatable = 1 << PropUserProperty
		r.notAllowed = ErrPropertyNotAllowed
	}
	rules[TypePublish].repeatable |= 1 << PropSubscriptionIdentifier // of all that matched (section 3.3.2.3.8)
	for _, t := range []PacketType{TypeSubscribe, TypeUnsubscribe} {
		rules[t].notAllowed = ErrSubscribePropertyNotAllowed
	}
	return rules
}()

// forwardProperties are the properties that a Server sends on unaltered to the receivers of a message [MQTT-3.3.2-4,
// MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-17, MQTT-3.3.2-20].
var forwardProperties = propertyRules{
	allowed: 1<<PropPayloadFormatIndicator | 1<<PropContentType | 1<<PropResponseTopic | 1<<PropCorrelationData |
		1<<PropUserProperty,
	repeatable: 1 << PropUserProperty,
	notAllowed: ErrPropertyNotAllowed,
}

// String returns the name that the standard gives to the property.
func (id PropertyID) String() string {
	if id < propertyEnd && properties[id].name != "" {
		return properties[id].name
	}
	return "property 0x" + strconv.FormatUint(uint64(id), 16)
}

// UserProperty is a name and a value that mean something to the application only (section 3.3.2.3.7).
type UserProperty struct {
	Key, Value []byte
}

// Properties are the properties of any packet. Fields are named as the standard names them; intervals are in seconds.
//
// A property is present if [Properties.Has] says so; the field of one that isn't is zero, which isn't always its default value.
// To encode a property assign its field and call [Properties.Set]. The zero value has no properties. Byte slices are views of
// the packet that they were decoded from.
type Properties struct {
	present uint64 // 1 << PropertyID
	wire    []byte // what Decode read, for AppendForward

	MessageExpiryInterval uint32
	SessionExpiryInterval uint32
	WillDelayInterval     uint32
	MaximumPacketSize     uint32

	ServerKeepAlive   uint16
	ReceiveMaximum    uint16
	TopicAliasMaximum uint16
	TopicAlias        uint16

	PayloadFormatIndicator          byte
	RequestProblemInformation       byte
	RequestResponseInformation      byte
	MaximumQoS                      byte
	RetainAvailable                 byte
	WildcardSubscriptionAvailable   byte
	SubscriptionIdentifierAvailable byte
	SharedSubscriptionAvailable     byte

	ContentType              []byte
	ResponseTopic            []byte
	CorrelationData          []byte
	AssignedClientIdentifier []byte
	AuthenticationMethod     []byte
	AuthenticationData       []byte
	ResponseInformation      []byte
	ServerReference          []byte
	ReasonString             []byte

	SubscriptionIdentifiers []uint32 // at most one but in PUBLISH
	UserProperties          []UserProperty
}

// Has reports whether the property is present.
func (p *Properties) Has(id PropertyID) bool { return p.present>>id&1 != 0 }

// Set marks the property as present.
func (p *Properties) Set(id PropertyID) { p.present |= 1 << id }

// Reset removes all properties and keeps the capacity of the slices. It takes constant time.
func (p *Properties) Reset() {
	*p = Properties{SubscriptionIdentifiers: p.SubscriptionIdentifiers[:0], UserProperties: p.UserProperties[:0]}
}

// AppendForward appends, without a length in front, exactly those properties of a PUBLISH or Will which a Server forwards
// unaltered: Payload Format Indicator, Content Type, Response Topic, Correlation Data, and the User Properties
// [MQTT-3.3.2-18]. Properties that were decoded are forwarded as they came, in their order; a change of their fields since then
// is not seen. The result is what [AppendPublish] takes and [DecodeForward] reads.
func (p *Properties) AppendForward(dst []byte) []byte {
	if p.wire == nil {
		return p.appendFields(dst, forwardProperties.allowed)
	}
	if p.present&^forwardProperties.allowed == 0 {
		return append(dst, p.wire...)
	}
	for b := p.wire; len(b) > 0; {
		n := fieldSize(b)
		if forwardProperties.allowed>>b[0]&1 != 0 {
			dst = append(dst, b[:n]...)
		}
		b = b[n:]
	}
	return dst
}

// fieldSize is the number of bytes of the property at the start of b, which must have been decoded before.
func fieldSize(b []byte) int {
	switch properties[b[0]].kind {
	case kindByte:
		return 2
	case kindUint16:
		return 3
	case kindUint32:
		return 5
	case kindVarint:
		_, n, _ := decodeVarint(b[1:])
		return 1 + n
	case kindPair:
		n := 3 + int(binary.BigEndian.Uint16(b[1:]))
		return n + 2 + int(binary.BigEndian.Uint16(b[n:]))
	}
	return 3 + int(binary.BigEndian.Uint16(b[1:]))
}

// DecodeForward reads into p, which it resets, what [Properties.AppendForward] wrote. The fields of p are views of forward.
func DecodeForward(forward []byte, p *Properties) error {
	p.Reset()
	return p.decodeFields(forward, &forwardProperties)
}

// cut reads the Property Length and the properties at the start of b, which is a packet of type t (typeWill for Will
// Properties).
func (p *Properties) cut(b []byte, t PacketType) (rest []byte, err error) {
	if p.present != 0 {
		p.Reset()
	}
	if len(b) > 0 && b[0] == 0 {
		return b[1:], nil
	}
	length, n, err := decodeVarint(b)
	if err != nil {
		return nil, err
	}
	if n == 0 || len(b)-n < length {
		return nil, ErrTruncated
	}
	err = p.decodeFields(b[n:n+length], &packetProperties[t])
	if err == nil && p.Has(PropAuthenticationData) && !p.Has(PropAuthenticationMethod) {
		err = ErrAuthenticationDataWithoutMethod
	}
	return b[n+length:], err
}

// decodeFields reads properties up to the end of b. What can't be read at all goes before what makes no sense, wherever the
// two stand: a Malformed Packet isn't interpreted, so it can't break the protocol.
func (p *Properties) decodeFields(b []byte, rules *propertyRules) error {
	whole := b
	var nonsense error
	for len(b) > 0 {
		id := PropertyID(b[0]) // a variable byte integer, but all that are known have one byte
		if id >= propertyEnd || properties[id].kind == 0 {
			return ErrPropertyUnknown
		}
		bit := uint64(1) << id
		switch {
		case nonsense != nil: // read on, for errors in the encoding only
		case rules.allowed&bit == 0:
			nonsense = rules.notAllowed
		case p.present&bit&^rules.repeatable != 0:
			nonsense = ErrPropertyDuplicate
		}
		p.present |= bit

		rest, invalid, err := p.decodeField(id, b[1:], rules)
		if err != nil {
			return err
		}
		if nonsense == nil {
			nonsense = invalid
		}
		b = rest
	}
	if nonsense == nil {
		p.wire = whole
	}
	return nonsense
}

// decodeField reads the value of one property into its field. It returns invalid if the value can be read but isn't allowed.
func (p *Properties) decodeField(id PropertyID, b []byte, rules *propertyRules) (rest []byte, invalid, err error) {
	switch properties[id].kind {
	case kindByte:
		if len(b) < 1 {
			return nil, nil, ErrTruncated
		}
		*p.byteField(id) = b[0]
		if b[0] > 1 {
			invalid = ErrPropertyNotBoolean
		}
		return b[1:], invalid, nil
	case kindUint16:
		if len(b) < 2 {
			return nil, nil, ErrTruncated
		}
		value := binary.BigEndian.Uint16(b)
		*p.uint16Field(id) = value
		switch {
		case value == 0 && id == PropReceiveMaximum:
			invalid = ErrReceiveMaximumZero
		case value == 0 && id == PropTopicAlias:
			invalid = ErrTopicAliasZero
		}
		return b[2:], invalid, nil
	case kindUint32:
		if len(b) < 4 {
			return nil, nil, ErrTruncated
		}
		value := binary.BigEndian.Uint32(b)
		*p.uint32Field(id) = value
		if value == 0 && id == PropMaximumPacketSize {
			invalid = ErrMaximumPacketSizeZero
		}
		return b[4:], invalid, nil
	case kindVarint:
		value, n, err := decodeVarint(b)
		switch {
		case err != nil:
			return nil, nil, err
		case n == 0:
			return nil, nil, ErrTruncated
		case value == 0:
			invalid = ErrSubscriptionIdentifierZero
		}
		p.SubscriptionIdentifiers = append(p.SubscriptionIdentifiers, uint32(value))
		return b[n:], invalid, nil
	case kindBinary:
		field, rest, ok := cutBinary(b)
		if !ok {
			return nil, nil, ErrTruncated
		}
		*p.bytesField(id) = field
		return rest, nil, nil
	case kindString:
		field, rest, err := cutString(b)
		if err != nil {
			return nil, nil, err
		}
		*p.bytesField(id) = field
		if id == PropResponseTopic && !ValidTopicName(field) {
			invalid = ErrResponseTopic
		}
		return rest, invalid, nil
	}
	key, b, err := cutString(b)
	if err != nil {
		return nil, nil, err
	}
	value, rest, err := cutString(b)
	if err != nil {
		return nil, nil, err
	}
	p.UserProperties = append(p.UserProperties, UserProperty{key, value})
	return rest, nil, nil
}

// size is the number of bytes that append writes, the Property Length included.
func (p *Properties) size(t PacketType) int {
	if p.present == 0 {
		return 1
	}
	n := p.fieldsSize(packetProperties[t].allowed)
	return varintSize(n) + n
}

// append writes the Property Length and those properties which a packet of type t may carry [MQTT-2.2.2-1].
func (p *Properties) append(dst []byte, t PacketType) []byte {
	if p.present == 0 {
		return append(dst, 0)
	}
	allowed := packetProperties[t].allowed
	return p.appendFields(appendVarint(dst, p.fieldsSize(allowed)), allowed)
}

func (p *Properties) fieldsSize(allowed uint64) (n int) {
	for left := p.present & allowed; left != 0; left &= left - 1 {
		id := PropertyID(bits.TrailingZeros64(left))
		switch properties[id].kind {
		case kindByte:
			n += 2
		case kindUint16:
			n += 3
		case kindUint32:
			n += 5
		case kindVarint:
			for _, value := range p.SubscriptionIdentifiers {
				n += 1 + varintSize(int(value))
			}
		case kindString, kindBinary:
			n += 1 + stringSize(*p.bytesField(id))
		case kindPair:
			for _, u := range p.UserProperties {
				n += 1 + stringSize(u.Key) + stringSize(u.Value)
			}
		}
	}
	return n
}

func (p *Properties) appendFields(dst []byte, allowed uint64) []byte {
	for left := p.present & allowed; left != 0; left &= left - 1 {
		id := PropertyID(bits.TrailingZeros64(left))
		switch properties[id].kind {
		case kindByte:
			dst = append(dst, byte(id), *p.byteField(id))
		case kindUint16:
			dst = appendUint16(append(dst, byte(id)), *p.uint16Field(id))
		case kindUint32:
			dst = binary.BigEndian.AppendUint32(append(dst, byte(id)), *p.uint32Field(id))
		case kindVarint:
			for _, value := range p.SubscriptionIdentifiers {
				dst = appendVarint(append(dst, byte(id)), int(value))
			}
		case kindString, kindBinary:
			dst = appendString(append(dst, byte(id)), *p.bytesField(id))
		case kindPair:
			for _, u := range p.UserProperties {
				dst = appendString(appendString(append(dst, byte(id)), u.Key), u.Value)
			}
		}
	}
	return dst
}

func (p *Properties) byteField(id PropertyID) *byte {
	switch id {
	case PropPayloadFormatIndicator:
		return &p.PayloadFormatIndicator
	case PropRequestProblemInformation:
		return &p.RequestProblemInformation
	case PropRequestResponseInformation:
		return &p.RequestResponseInformation
	case PropMaximumQoS:
		return &p.MaximumQoS
	case PropRetainAvailable:
		return &p.RetainAvailable
	case PropWildcardSubscriptionAvailable:
		return &p.WildcardSubscriptionAvailable
	case PropSubscriptionIdentifierAvailable:
		return &p.SubscriptionIdentifierAvailable
	}
	return &p.SharedSubscriptionAvailable
}

func (p *Properties) uint16Field(id PropertyID) *uint16 {
	switch id {
	case PropServerKeepAlive:
		return &p.ServerKeepAlive
	case PropReceiveMaximum:
		return &p.ReceiveMaximum
	case PropTopicAliasMaximum:
		return &p.TopicAliasMaximum
	}
	return &p.TopicAlias
}

func (p *Properties) uint32Field(id PropertyID) *uint32 {
	switch id {
	case PropMessageExpiryInterval:
		return &p.MessageExpiryInterval
	case PropSessionExpiryInterval:
		return &p.SessionExpiryInterval
	case PropWillDelayInterval:
		return &p.WillDelayInterval
	}
	return &p.MaximumPacketSize
}

func (p *Properties) bytesField(id PropertyID) *[]byte {
	switch id {
	case PropContentType:
		return &p.ContentType
	case PropResponseTopic:
		return &p.ResponseTopic
	case PropCorrelationData:
		return &p.CorrelationData
	case PropAssignedClientIdentifier:
		return &p.AssignedClientIdentifier
	case PropAuthenticationMethod:
		return &p.AuthenticationMethod
	case PropAuthenticationData:
		return &p.AuthenticationData
	case PropResponseInformation:
		return &p.ResponseInformation
	case PropServerReference:
		return &p.ServerReference
	}
	return &p.ReasonString
}
