package codec_test

import (
	"errors"
	"fmt"

	"loopmq/codec"
)

// A Server frames its input and hands each body to the packet's Decode method. The packet's fields are views of the input.
func ExampleDecodeFixedHeader() {
	in := codec.AppendPublish(nil, codec.V311, &codec.PublishHeader{QoS: 1, PacketID: 7}, []byte("site/speed"), nil, []byte("42"))
	in = codec.AppendPingreq(in)
	in = append(in, 0x30) // the next packet has just begun

	var publish codec.Publish
	for {
		h, ok, err := codec.DecodeFixedHeader(in, codec.V311)
		if err != nil || !ok || len(in) < h.Size {
			fmt.Println(len(in), "byte left,", err)
			return
		}
		if h.Type == codec.TypePublish {
			if err := publish.Decode(codec.V311, h.Flags, in[h.HeaderSize:h.Size]); err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%s %s = %s, acknowledge %d\n", h.Type, publish.TopicName, publish.Payload, publish.PacketID)
		} else {
			fmt.Println(h.Type)
		}
		in = in[h.Size:]
	}
	// Output:
	// PUBLISH site/speed = 42, acknowledge 7
	// PINGREQ
	// 1 byte left, <nil>
}

// Every violation is an *Error that says what to answer.
func ExampleError() {
	var publish codec.Publish
	err := publish.Decode(codec.V5, 0, []byte("\x00\x03a/+\x00"))

	var violation *codec.Error
	if errors.As(err, &violation) {
		fmt.Println(violation.ReasonCode)
		fmt.Println(violation)
	}
	// Output:
	// Malformed Packet
	// Topic Name has a wildcard in it [MQTT-3.3.2-2]
}

// Properties are present once they are Set.
func ExampleProperties() {
	connack := codec.Connack{}
	connack.Properties.TopicAliasMaximum = 10
	connack.Properties.Set(codec.PropTopicAliasMaximum)
	fmt.Printf("% X\n", connack.Append(nil, codec.V5))
	fmt.Printf("% X\n", connack.Append(nil, codec.V311))
	// Output:
	// 20 06 00 00 03 22 00 0A
	// 20 02 00 00
}

// A Server keeps what it forwards unaltered in one piece, and adds per receiver what is that receiver's own.
func ExampleProperties_AppendForward() {
	var received codec.Publish
	_ = received.Decode(codec.V5, 0, []byte("\x00\x01t\x0C\x01\x01\x02\x00\x00\x00\x3C\x03\x00\x02txhi"))

	forward := received.Properties.AppendForward(nil)
	h := codec.PublishHeader{HasMessageExpiry: true, MessageExpiry: 59, SubscriptionIdentifiers: []uint32{4}}
	out := codec.AppendPublish(nil, codec.V5, &h, received.TopicName, forward, received.Payload)

	var sent codec.Publish
	_ = sent.Decode(codec.V5, 0, out[2:])
	fmt.Printf("%s, %d s left, subscription %d\n", sent.Properties.ContentType, sent.Properties.MessageExpiryInterval, sent.Properties.SubscriptionIdentifiers)
	// Output: tx, 59 s left, subscription [4]
}

func ExampleSubscribe_Decode() {
	s := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{
		{TopicFilter: []byte("site/+/speed"), Options: codec.SubscriptionOptions{QoS: 1, RetainAsPublished: true}},
		{TopicFilter: []byte("site/#/speed")},
	}}
	in := s.Append(nil, codec.V5)

	h, _, _ := codec.DecodeFixedHeader(in, codec.V5)
	if err := s.Decode(codec.V5, h.Flags, in[h.HeaderSize:]); err != nil {
		fmt.Println(err)
	}
	for _, sub := range s.Subscriptions {
		fmt.Printf("%s QoS %d invalid %t\n", sub.TopicFilter, sub.Options.QoS, sub.Invalid)
	}
	// Output:
	// site/+/speed QoS 1 invalid false
	// site/#/speed QoS 0 invalid true
}

func ExampleSplitShare() {
	shareName, topicFilter, shared := codec.SplitShare([]byte("$share/workers/jobs/#"))
	fmt.Printf("%s %s %t\n", shareName, topicFilter, shared)
	// Output: workers jobs/# true
}

func ExampleAppendAckReason() {
	fmt.Printf("% X\n", codec.AppendAckReason(nil, codec.V5, codec.TypePuback, 0x1234, codec.NoMatchingSubscribers))
	fmt.Printf("% X\n", codec.AppendAckReason(nil, codec.V311, codec.TypePuback, 0x1234, codec.NoMatchingSubscribers))
	// Output:
	// 40 03 12 34 10
	// 40 02 12 34
}
