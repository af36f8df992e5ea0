package v5

import (
	"fmt"
	"slices"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Sections 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.

// [MQTT-3.8.1-1] A SUBSCRIBE with other flags than 0010 is malformed.
func TestMQTT_3_8_1_1_FlagsOfSubscribe(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0x80, 0x81, 0x83, 0x86, 0x8A} {
		c := connect(t)
		c.SendRaw(packet(first, []byte{0, 1, 0}, str("a"), []byte{0}))
		disconnected(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.8.3-1] A Topic Filter that isn't a UTF-8 string makes SUBSCRIBE malformed.
func TestMQTT_3_8_3_1_TopicFilterIsUTF8(t *testing.T) {
	t.Parallel()
	for _, bad := range values(badStrings) {
		c := connect(t)
		c.Send(subscribe(1, brokertest.Subscription(bad, 0)))
		disconnected(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.8.3-2] A SUBSCRIBE without Topic Filter, or without Subscription Options for one, is refused.
func TestMQTT_3_8_3_2_SubscribeHasATopicFilter(t *testing.T) {
	t.Parallel()
	for _, raw := range [][]byte{packet(0x82, []byte{0, 1, 0}), packet(0x82, []byte{0, 1, 0}, str("a"))} {
		c := connect(t)
		c.SendRaw(raw)
		disconnected(t, c, codec.ProtocolError, codec.MalformedPacket)
	}
}

// [MQTT-3.8.3-3] With No Local a Client doesn't get back what it publishes, and gets what others do. Another Client with the subscription
// isn't concerned, and neither is a subscription without No Local.
func TestMQTT_3_8_3_3_NoLocal(t *testing.T) {
	t.Parallel()
	c, other, topic := connect(t), connect(t), brokertest.Name()
	noLocal := option(func(o *codec.SubscriptionOptions) { o.NoLocal = true })
	c.Subscribe(topic+"/a", 2, noLocal)
	c.Subscribe(topic+"/b", 2)
	other.Subscribe(topic+"/+", 2, noLocal)
	for qos := range byte(3) {
		c.Publish(topic+"/a", "own", qos)
		c.Publish(topic+"/b", "own too", qos)
		c.Acknowledge(c.ExpectPublish(topic+"/b", "own too"))
		await(t, other, "own")
		await(t, other, "own too")
		other.Publish(topic+"/a", "other's", qos)
		c.Acknowledge(c.ExpectPublish(topic+"/a", "other's"))
	}
	c.ExpectNothingFrom(c, 2)
}

// [MQTT-3.8.3-3] No Local goes by the ClientID: it holds after a reconnect too.
func TestMQTT_3_8_3_3_NoLocalAfterReconnect(t *testing.T) {
	t.Parallel()
	id, topic := brokertest.Name(), brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	c.Subscribe(topic, 1, option(func(o *codec.SubscriptionOptions) { o.NoLocal = true }))
	c.Close()
	c = resume(t, id)
	c.Publish(topic, "own", 1)
	c.ExpectNothingFrom(c, 1)
}

// [MQTT-3.8.3-4] No Local on a Shared Subscription is a Protocol Error.
func TestMQTT_3_8_3_4_NoLocalOnASharedSubscription(t *testing.T) {
	t.Parallel()
	c := connect(t)
	s := brokertest.Subscription("$share/g/a", 0)
	s.Options.NoLocal = true
	c.Send(subscribe(1, s))
	disconnected(t, c, codec.ProtocolError)
}

// [MQTT-3.8.3-5] Reserved bits of the Subscription Options that aren't 0 make SUBSCRIBE malformed; Retain Handling 3 and QoS 3 are refused.
func TestMQTT_3_8_3_5_SubscriptionOptions(t *testing.T) {
	t.Parallel()
	for options, codes := range map[byte][]codec.ReasonCode{
		0x40: {codec.MalformedPacket},
		0x80: {codec.MalformedPacket},
		0xC1: {codec.MalformedPacket},
		0x30: {codec.ProtocolError, codec.MalformedPacket},
		0x03: {codec.ProtocolError, codec.MalformedPacket},
	} {
		c := connect(t)
		c.SendRaw(packet(0x82, []byte{0, 1, 0}, str("a"), []byte{options}))
		disconnected(t, c, codes...)
	}
}

// [MQTT-3.8.4-1] [MQTT-3.9.3-2] SUBSCRIBE is answered with SUBACK, whatever its Topic Filter.
func TestMQTT_3_8_4_1_SubackAnswersSubscribe(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for i, filter := range []string{topic, topic + "/#", topic + "/+/x", "$SYS/" + topic, "/" + topic, topic + "//", " ", "$share/g/" + topic} {
		for qos := range byte(3) {
			c.Send(subscribe(uint16(i+1), brokertest.Subscription(filter, qos)))
			c.ExpectSuback(uint16(i+1), codec.ReasonCode(qos))
		}
	}
}

// [MQTT-3.8.4-3] The same Topic Filter again replaces the subscription: one copy of each message, with the new options.
func TestMQTT_3_8_4_3_SubscriptionIsReplaced(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	for _, qos := range []byte{2, 0, 1} {
		sub.Subscribe(topic, qos, identifier(int(qos)+1))
		pub.Publish(topic, "payload", 2)
		all := receiveAll(t, sub, pub)
		if len(all) != 1 || all[0].QoS != qos || !slices.Equal(all[0].Properties.SubscriptionIdentifiers, []uint32{uint32(qos) + 1}) {
			t.Errorf("QoS %d: got %d messages, the first: %+v", qos, len(all), all)
		}
	}
	sub.Unsubscribe(topic)
	pub.Publish(topic, "payload", 2)
	sub.ExpectNothingFrom(pub, 2)
}

// [MQTT-3.8.4-4] Replacing a subscription sends the retained messages again and loses no message.
func TestMQTT_3_8_4_4_ReplacingLosesNothing(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	pub.Publish(topic+"/retained", "retained", 1, brokertest.Retained)
	sub.Subscribe(topic+"/+", 1)
	const n = 50
	for i := range n {
		// A SUBACK that is still on its way when the message is published leaves either subscription to match it.
		sub.Send(subscribe(uint16(1000+i), brokertest.Subscription(topic+"/+", 1)))
		pub.Publish(topic+"/live", fmt.Sprint(i), 1)
	}
	var replayed, subacks, live int
	for replayed <= n || live < n || subacks < n {
		switch p := sub.Receive().(type) {
		case *codec.Suback:
			subacks++
		case *codec.Publish:
			sub.Acknowledge(p)
			if string(p.Payload) == "retained" {
				replayed++
			} else if string(p.Payload) == fmt.Sprint(live) {
				live++
			} else {
				t.Fatalf("got message %s, want %d", p.Payload, live)
			}
		}
	}
	sub.ExpectNothingFrom(pub, 1)
}

// [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] One SUBACK answers all Topic Filters of a SUBSCRIBE, in their
// order; those granted are in force though others failed.
func TestMQTT_3_8_4_5_SeveralTopicFilters(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Send(subscribe(1,
		brokertest.Subscription(topic+"/a", 1), brokertest.Subscription(topic+"/#/b", 2), brokertest.Subscription(topic+"/c", 0),
		brokertest.Subscription(topic+"/d+", 0), brokertest.Subscription(topic+"/e", 2), brokertest.Subscription(topic+"/a", 2)))
	c.ExpectSuback(1, 1, codec.TopicFilterInvalid, 0, codec.TopicFilterInvalid, 2, 2)
	for level, qos := range map[string]byte{"a": 2, "c": 0, "e": 2} {
		c.Publish(topic+"/"+level, level, 2)
		if p := c.ExpectPublish(topic+"/"+level, level); p.QoS != qos {
			t.Errorf("%s: got QoS %d, want %d", level, p.QoS, qos)
		} else {
			c.Acknowledge(p)
		}
	}
}

// [MQTT-3.8.4-8] [MQTT-3.8.4-7] Messages come with the lesser of their QoS and the one granted, live and retained.
func TestMQTT_3_8_4_8_QoSIsTheMinimum(t *testing.T) {
	t.Parallel()
	pub, sub, prefix := connect(t), connect(t), brokertest.Name()
	for granted := range byte(3) {
		for published := range byte(3) {
			topic := fmt.Sprint(prefix, granted, published)
			sub.Subscribe(topic, granted)
			pub.Publish(topic, "payload", published, brokertest.Retained)
			live := sub.ExpectPublish(topic, "payload")
			sub.Acknowledge(live)
			sub.Subscribe(topic, granted)
			replayed := sub.ExpectPublish(topic, "payload")
			sub.Acknowledge(replayed)
			if want := min(granted, published); live.QoS != want || replayed.QoS != want {
				t.Errorf("granted %d, published %d: got %d and retained %d", granted, published, live.QoS, replayed.QoS)
			}
		}
	}
}

// [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2] SUBACK and UNSUBACK keep within the Maximum Packet Size of the Client:
// whatever they say of failures, it isn't too much.
func TestMQTT_3_9_2_1_SubackWithinMaximumPacketSize(t *testing.T) {
	t.Parallel()
	limit := connackSize(t)
	c := connect(t, brokertest.With(codec.PropMaximumPacketSize, limit))
	for n := 1; n <= limit-5; n += 3 {
		s, u := subscribe(1), &codec.Unsubscribe{PacketID: 1}
		for range n {
			s.Subscriptions = append(s.Subscriptions, brokertest.Subscription("#a", 0))
			u.TopicFilters = append(u.TopicFilters, []byte("never/subscribed"))
		}
		c.Send(s)
		if raw := c.ReceiveRaw(); len(raw) > limit || raw[0] != 0x90 {
			t.Errorf("got % X with %d bytes, limit %d", raw, len(raw), limit)
		}
		c.Send(u)
		if raw := c.ReceiveRaw(); len(raw) > limit || raw[0] != 0xB0 {
			t.Errorf("got % X with %d bytes, limit %d", raw, len(raw), limit)
		}
	}
}

// [MQTT-3.1.2-24] A SUBACK or UNSUBACK whose Reason Codes alone exceed the Maximum Packet Size isn't sent. The Client that asked for it may
// be disconnected.
func TestMQTT_3_1_2_24_SubackBeyondMaximumPacketSize(t *testing.T) {
	t.Parallel()
	limit := connackSize(t)
	s, u := subscribe(1), &codec.Unsubscribe{PacketID: 1}
	for i := range limit {
		filter := fmt.Sprint(brokertest.Name(), "/", i)
		s.Subscriptions = append(s.Subscriptions, brokertest.Subscription(filter, 0))
		u.TopicFilters = append(u.TopicFilters, []byte(filter))
	}
	for _, p := range []brokertest.Packet{s, u} {
		c := connect(t, brokertest.With(codec.PropMaximumPacketSize, limit))
		c.Send(p, brokertest.Pingreq{})
		if raw := c.ReceiveRaw(); len(raw) > limit {
			t.Errorf("got % X with %d bytes, limit %d", raw, len(raw), limit)
		}
	}
}

// connackSize is the size of an ordinary CONNACK, and so the least Maximum Packet Size with which a Client can connect.
func connackSize(t *testing.T) int {
	t.Helper()
	c := dial(t)
	return c.Connect().Size(codec.V5)
}

// [MQTT-3.10.1-1] An UNSUBSCRIBE with other flags than 0010 is malformed.
func TestMQTT_3_10_1_1_FlagsOfUnsubscribe(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0xA0, 0xA1, 0xA3, 0xA6, 0xAA} {
		c := connect(t)
		c.SendRaw(packet(first, []byte{0, 1, 0}, str("a")))
		disconnected(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.10.3-1] A Topic Filter that isn't a UTF-8 string makes UNSUBSCRIBE malformed.
func TestMQTT_3_10_3_1_TopicFilterIsUTF8(t *testing.T) {
	t.Parallel()
	for _, bad := range append([]string{"a\x00b"}, values(badStrings)...) {
		c := connect(t)
		c.Send(&codec.Unsubscribe{PacketID: 1, TopicFilters: [][]byte{[]byte(bad)}})
		disconnected(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.10.3-2] An UNSUBSCRIBE without Topic Filter is refused.
func TestMQTT_3_10_3_2_UnsubscribeHasATopicFilter(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.SendRaw(packet(0xA2, []byte{0, 1, 0}))
	disconnected(t, c, codec.ProtocolError, codec.MalformedPacket)
}

// [MQTT-3.10.4-1] [MQTT-3.10.4-2] UNSUBSCRIBE ends the subscription with exactly the same Topic Filter, and no other.
func TestMQTT_3_10_4_1_TopicFiltersAreComparedExactly(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic+"/a", 1)
	sub.Subscribe(topic+"/+", 1)
	unsuback := sub.Unsubscribe(topic+"/A", topic+"/#", topic+"/a/", topic, topic+"/b", topic+"/+")
	want := []codec.ReasonCode{0x11, 0x11, 0x11, 0x11, 0x11, 0x00}
	if !slices.Equal(unsuback.ReasonCodes, want) {
		t.Errorf("got % X, want % X", unsuback.ReasonCodes, want)
	}
	pub.Publish(topic+"/b", "no more", 1)
	pub.Publish(topic+"/a", "still", 1)
	sub.Acknowledge(sub.ExpectPublish(topic+"/a", "still"))
	sub.Unsubscribe(topic + "/a")
	pub.Publish(topic+"/a", "no more", 1)
	sub.ExpectNothingFrom(pub, 1)
}

// [MQTT-3.10.4-2] After UNSUBSCRIBE nothing is added to the Session of a Client that goes away either.
func TestMQTT_3_10_4_2_NothingIsQueuedAfterUnsubscribe(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	sub.Unsubscribe(topic)
	sub.Disconnect()
	pub.Publish(topic, "payload", 1)
	resume(t, id).ExpectNothingFrom(pub, 1)
}

// [MQTT-3.10.4-3] Deliveries with QoS 1 and 2 that had begun at UNSUBSCRIBE are completed, over a reconnect too.
func TestMQTT_3_10_4_3_DeliveriesAreCompleted(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "here", 2)
	here := sub.ExpectPublish(topic, "here")
	pub.Publish(topic, "again", 2)
	again := sub.ExpectPublish(topic, "again")
	sub.Unsubscribe(topic)
	sub.Acknowledge(here)
	sub.Close()
	sub = resume(t, id)
	p := sub.ExpectPublish(topic, "again")
	if !p.Dup || p.PacketID != again.PacketID {
		t.Errorf("got %s, want it again with packet identifier %d", brokertest.Describe(p), again.PacketID)
	}
	sub.Acknowledge(p)
	sub.ExpectNothing()
}

// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.11.3-2] UNSUBSCRIBE is answered also if there was no subscription, with 0x11.
func TestMQTT_3_10_4_4_UnsubackAnswersUnsubscribe(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for _, id := range []uint16{1, 300, 65535} {
		c.Send(&codec.Unsubscribe{PacketID: id, TopicFilters: [][]byte{[]byte(topic)}})
		c.ExpectUnsuback(id, codec.NoSubscriptionExisted)
	}
}

// [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] One UNSUBACK answers all Topic Filters of an UNSUBSCRIBE, in their order.
func TestMQTT_3_10_4_6_SeveralTopicFilters(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic+"/a", 0)
	c.Subscribe(topic+"/b", 0)
	c.Subscribe(topic+"/c", 0)
	got := c.Unsubscribe(topic+"/x", topic+"/a", topic+"/y", topic+"/b", topic+"/a").ReasonCodes
	if want := []codec.ReasonCode{0x11, 0x00, 0x11, 0x00, 0x11}; !slices.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
	for _, level := range []string{"/a", "/b", "/c"} {
		c.Publish(topic+level, level, 0)
	}
	c.ExpectPublish(topic+"/c", "/c")
	c.ExpectNothing()
}
