package codec

// Subscribe is SUBSCRIBE (section 3.8).
type Subscribe struct {
	PacketID      uint16
	Properties    Properties
	Subscriptions []Subscription
}

// Subscription is one Topic Filter of a SUBSCRIBE with its Subscription Options.
type Subscription struct {
	TopicFilter []byte
	Options     SubscriptionOptions
	// Invalid is set by Decode if a wildcard is misplaced in the Topic Filter, in 5.0 only, where the SUBACK can refuse this
	// subscription alone. A Server that would rather treat the whole packet as malformed has ErrTopicFilterWildcard for it.
	Invalid bool
}

// SubscriptionOptions say how messages of a subscription are delivered (section 3.8.3.1). 3.x has QoS only.
type SubscriptionOptions struct {
	QoS               byte // Maximum QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0: send retained messages, 1: only for a new subscription, 2: never
}

// Bits of the Subscription Options (section 3.8.3.1).
const (
	optionQoS               = 0x03
	optionNoLocal           = 0x04
	optionRetainAsPublished = 0x08
	optionRetainHandling    = 0x30
	optionReserved          = 0xC0

	optionRetainHandlingShift = 4
)

// Decode reads the body of a SUBSCRIBE. Subscriptions has at least one element afterwards [MQTT-3.8.3-2].
func (s *Subscribe) Decode(v Version, flags byte, body []byte) error {
	s.Subscriptions = s.Subscriptions[:0]
	b, err := cutSubscribeHeader(&s.PacketID, &s.Properties, v, TypeSubscribe, flags, body)
	if err != nil {
		return err
	}
	if len(b) == 0 {
		return ErrNoSubscription
	}
	for len(b) > 0 {
		filter, rest, ok := cutBinary(b)
		if !ok || len(rest) == 0 {
			return ErrTruncated
		}
		sub := Subscription{TopicFilter: filter}
		if err := sub.check(v); err != nil {
			return err
		}
		if err := sub.Options.decode(v, rest[0]); err != nil {
			return err
		}
		if sub.Options.NoLocal {
			if _, _, shared := SplitShare(filter); shared {
				return ErrNoLocalShared
			}
		}
		s.Subscriptions = append(s.Subscriptions, sub)
		b = rest[1:]
	}
	return nil
}

// check judges the Topic Filter.
func (s *Subscription) check(v Version) error {
	if err := filterTextError(s.TopicFilter); err != nil {
		return err
	}
	s.Invalid = !validWildcards(s.TopicFilter)
	if s.Invalid && v != V5 {
		return ErrTopicFilterWildcard
	}
	return nil
}

func (o *SubscriptionOptions) decode(v Version, b byte) error {
	o.QoS = b & optionQoS
	if o.QoS == 3 {
		return ErrSubscriptionQoS3
	}
	switch v {
	case V31: // the other bits are not used
		return nil
	case V311:
		if b&^optionQoS != 0 {
			return ErrSubscriptionReserved
		}
		return nil
	}
	o.NoLocal = b&optionNoLocal != 0
	o.RetainAsPublished = b&optionRetainAsPublished != 0
	o.RetainHandling = b & optionRetainHandling >> optionRetainHandlingShift
	switch {
	case o.RetainHandling == 3:
		return ErrRetainHandling3
	case b&optionReserved != 0:
		return ErrSubscriptionReserved
	}
	return nil
}

func (o *SubscriptionOptions) encode(v Version) byte {
	b := o.QoS
	if v != V5 {
		return b
	}
	if o.NoLocal {
		b |= optionNoLocal
	}
	if o.RetainAsPublished {
		b |= optionRetainAsPublished
	}
	return b | o.RetainHandling<<optionRetainHandlingShift
}

// Append appends the packet.
func (s *Subscribe) Append(dst []byte, v Version) []byte {
	dst = appendFixedHeader(dst, TypeSubscribe, 0b0010, s.remaining(v))
	dst = appendUint16(dst, s.PacketID)
	if v == V5 {
		dst = s.Properties.append(dst, TypeSubscribe)
	}
	for i := range s.Subscriptions {
		sub := &s.Subscriptions[i]
		dst = append(appendString(dst, sub.TopicFilter), sub.Options.encode(v))
	}
	return dst
}

// Size is the number of bytes that Append writes.
func (s *Subscribe) Size(v Version) int { return packetSize(s.remaining(v)) }

func (s *Subscribe) remaining(v Version) int {
	n := 2
	if v == V5 {
		n += s.Properties.size(TypeSubscribe)
	}
	for i := range s.Subscriptions {
		n += stringSize(s.Subscriptions[i].TopicFilter) + 1
	}
	return n
}

// cutSubscribeHeader reads what SUBSCRIBE and UNSUBSCRIBE have before their Topic Filters.
func cutSubscribeHeader(id *uint16, p *Properties, v Version, t PacketType, flags byte, body []byte) (rest []byte, err error) {
	if !flagsAllowed(v, t, flags) {
		return nil, flagsError(v, t, flags)
	}
	var ok bool
	if *id, rest, ok = cutUint16(body); !ok {
		return nil, ErrTruncated
	}
	if *id == 0 {
		return nil, ErrSubscribePacketIdentifierZero
	}
	if v != V5 {
		p.Reset()
		return rest, nil
	}
	return p.cut(rest, t)
}
