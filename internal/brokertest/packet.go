package brokertest

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"loopmq/codec"
)

// Packet is a control packet: one of the pointers to a struct of package codec, [Pingreq] or [Pingresp].
type Packet interface {
	// Append appends the encoded packet to dst.
	Append(dst []byte, v codec.Version) []byte
}

// Pingreq is a PINGREQ packet.
type Pingreq struct{}

// Append appends the packet to dst.
func (Pingreq) Append(dst []byte, _ codec.Version) []byte { return codec.AppendPingreq(dst) }

// Pingresp is a PINGRESP packet.
type Pingresp struct{}

// Append appends the packet to dst.
func (Pingresp) Append(dst []byte, _ codec.Version) []byte { return codec.AppendPingresp(dst) }

// decode returns the packet with the fixed header h and the body that follows it. The packet's fields are views of body.
func decode(h codec.FixedHeader, body []byte, v codec.Version) (Packet, error) {
	switch h.Type {
	case codec.TypeConnack:
		p := new(codec.Connack)
		return p, p.Decode(v, h.Flags, body)
	case codec.TypePublish:
		p := new(codec.Publish)
		return p, p.Decode(v, h.Flags, body)
	case codec.TypePuback, codec.TypePubrec, codec.TypePubrel, codec.TypePubcomp:
		p := new(codec.Ack)
		return p, p.Decode(v, h.Type, body)
	case codec.TypeSuback:
		p := new(codec.Suback)
		return p, p.Decode(v, h.Flags, body)
	case codec.TypeUnsuback:
		p := new(codec.Unsuback)
		return p, p.Decode(v, h.Flags, body)
	case codec.TypePingresp:
		return Pingresp{}, nil
	case codec.TypeDisconnect:
		p := new(codec.Disconnect)
		return p, p.Decode(v, h.Flags, body)
	case codec.TypeAuth:
		p := new(codec.Auth)
		return p, p.Decode(v, h.Flags, body)
	default:
		return nil, fmt.Errorf("a server sends no %v", h.Type)
	}
}

// Describe names a packet and its main fields in one line, for the message of a failure.
func Describe(p Packet) string {
	switch p := p.(type) {
	case *codec.Connack:
		return fmt.Sprintf("CONNACK(session present %t, 0x%02X)", p.SessionPresent, byte(p.ReasonCode))
	case *codec.Publish:
		return fmt.Sprintf("PUBLISH(%q, %.64q, QoS %d, id %d, dup %t, retain %t)",
			p.TopicName, p.Payload, p.QoS, p.PacketID, p.Dup, p.Retain)
	case *codec.Ack:
		return fmt.Sprintf("%v(id %d, 0x%02X)", p.Type, p.PacketID, byte(p.ReasonCode))
	case *codec.Suback:
		return fmt.Sprintf("SUBACK(id %d, % X)", p.PacketID, p.ReasonCodes)
	case *codec.Unsuback:
		return fmt.Sprintf("UNSUBACK(id %d, % X)", p.PacketID, p.ReasonCodes)
	case *codec.Disconnect:
		return fmt.Sprintf("DISCONNECT(0x%02X %v, %q)", byte(p.ReasonCode), p.ReasonCode, p.Properties.ReasonString)
	case *codec.Auth:
		return fmt.Sprintf("AUTH(0x%02X, %q)", byte(p.ReasonCode), p.Properties.AuthenticationData)
	case Pingresp:
		return "PINGRESP"
	}
	return fmt.Sprintf("%T", p)
}

// names makes the names of this process differ from those of another that uses the same outside broker.
var names = struct {
	prefix string
	last   atomic.Uint64
}{prefix: "t" + strconv.FormatUint(uint64(rand.Uint32()), 36)}

// Name returns a string that no other call returns: letters and digits, fewer than 23 of them, so that it can be a ClientID for every
// server [MQTT-3.1.3-5] and a level of a Topic Name. It is safe for concurrent use.
func Name() string {
	return names.prefix + "n" + strconv.FormatUint(names.last.Add(1), 36)
}

// Properties returns 5.0 properties with the given identifiers and values, which alternate: for integer properties an int, for the others
// a string, for User Properties a [2]string (or several pairs), for Subscription Identifiers an int (or several pairs). It panics on
// anything else.
func Properties(pairs ...any) codec.Properties {
	var p codec.Properties
	for i := 0; i < len(pairs); i += 2 {
		setProperty(&p, pairs[i].(codec.PropertyID), pairs[i+1])
	}
	return p
}

func setProperty(p *codec.Properties, id codec.PropertyID, value any) {
	p.Set(id)
	number := func() int { return value.(int) }
	text := func() []byte { return []byte(value.(string)) }
	switch id {
	case codec.PropPayloadFormatIndicator:
		p.PayloadFormatIndicator = byte(number())
	case codec.PropMessageExpiryInterval:
		p.MessageExpiryInterval = uint32(number())
	case codec.PropContentType:
		p.ContentType = text()
	case codec.PropResponseTopic:
		p.ResponseTopic = text()
	case codec.PropCorrelationData:
		p.CorrelationData = text()
	case codec.PropSubscriptionIdentifier:
		p.SubscriptionIdentifiers = append(p.SubscriptionIdentifiers, uint32(number()))
	case codec.PropSessionExpiryInterval:
		p.SessionExpiryInterval = uint32(number())
	case codec.PropAuthenticationMethod:
		p.AuthenticationMethod = text()
	case codec.PropAuthenticationData:
		p.AuthenticationData = text()
	case codec.PropRequestProblemInformation:
		p.RequestProblemInformation = byte(number())
	case codec.PropWillDelayInterval:
		p.WillDelayInterval = uint32(number())
	case codec.PropRequestResponseInformation:
		p.RequestResponseInformation = byte(number())
	case codec.PropReasonString:
		p.ReasonString = text()
	case codec.PropReceiveMaximum:
		p.ReceiveMaximum = uint16(number())
	case codec.PropTopicAliasMaximum:
		p.TopicAliasMaximum = uint16(number())
	case codec.PropTopicAlias:
		p.TopicAlias = uint16(number())
	case codec.PropUserProperty:
		kv := value.([2]string)
		p.UserProperties = append(p.UserProperties, codec.UserProperty{Key: []byte(kv[0]), Value: []byte(kv[1])})
	case codec.PropMaximumPacketSize:
		p.MaximumPacketSize = uint32(number())
	default:
		panic(fmt.Sprintf("brokertest: a client sends no property %d", id))
	}
}
