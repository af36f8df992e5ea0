package v3

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Sections 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.

// [MQTT-3.8.1-1] A SUBSCRIBE with other flags than 0010 ends the connection.
func TestMQTT_3_8_1_1_FlagsOfSubscribe(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0x80, 0x81, 0x83, 0x86, 0x8A} {
		closes(t, packet(first, []byte{0, 1}, str("a"), []byte{0}))
	}
}

// [MQTT-3.8.3-1] [MQTT-1.5.3-1] A Topic Filter that isn't a UTF-8 string ends the connection, wherever in the SUBSCRIBE it stands.
func TestMQTT_3_8_3_1_TopicFilterIsUTF8(t *testing.T) {
	t.Parallel()
	for _, bad := range badStrings {
		closes(t, bytesOf(subscribe(1, brokertest.Subscription("a", 0), brokertest.Subscription(bad, 0)))...)
	}
}

// [MQTT-3.8.3-3] A SUBSCRIBE without Topic Filter, or without QoS for one, ends the connection.
func TestMQTT_3_8_3_3_SubscribeHasATopicFilter(t *testing.T) {
	t.Parallel()
	closes(t, packet(0x82), packet(0x82, []byte{0, 1}), packet(0x82, []byte{0, 1}, str("a")),
		packet(0x82, []byte{0, 1}, str("a"), []byte{0}, str("b")), packet(0x82, []byte{0, 1}, []byte{0, 9, 'a', 0}))
}

// [MQTT-3.8.3-4] QoS 3 and reserved bits that aren't 0 end the connection.
func TestMQTT_3_8_3_4_RequestedQoS(t *testing.T) {
	t.Parallel()
	for _, options := range []byte{0x03, 0x04, 0x08, 0x11, 0x22, 0x40, 0x80, 0xFF} {
		closes(t, packet(0x82, []byte{0, 1}, str("a"), []byte{options}),
			packet(0x82, []byte{0, 1}, str("a"), []byte{0}, str("b"), []byte{options}))
	}
}

// [MQTT-3.8.4-1] [MQTT-3.8.4-5] SUBSCRIBE is answered with SUBACK, which has the QoS granted.
func TestMQTT_3_8_4_1_SubackAnswersSubscribe(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for i, filter := range []string{topic, topic + "/#", topic + "/+/x", "$SYS/" + topic, "/" + topic, topic + "//", " "} {
		for qos := range byte(3) {
			c.Send(subscribe(uint16(i+1), brokertest.Subscription(filter, qos)))
			if got, want := c.ReceiveRaw(), []byte{0x90, 3, 0, byte(i + 1), qos}; !bytes.Equal(got, want) {
				t.Errorf("got % X, want % X", got, want)
			}
		}
	}
}

// [MQTT-3.8.4-3] The same Topic Filter again replaces the subscription: one copy of each message, with the QoS granted last.
func TestMQTT_3_8_4_3_SubscriptionIsReplaced(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	for _, qos := range []byte{2, 0, 1} {
		sub.Subscribe(topic, qos)
		pub.Publish(topic, "payload", 2)
		if all := received(t, sub, pub); len(all) != 1 || all[0].QoS != qos {
			t.Errorf("QoS %d: got %d messages: %+v", qos, len(all), all)
		}
	}
	sub.Unsubscribe(topic)
	pub.Publish(topic, "payload", 2)
	sub.ExpectNothingFrom(pub, 2)
}

// [MQTT-3.8.4-3] Replacing a subscription sends the retained messages again, and no other message is lost.
func TestMQTT_3_8_4_3_ReplacingLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 50
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	pub.Publish(topic+"/retained", "retained", 1, brokertest.Retained)
	sub.Subscribe(topic+"/+", 1)
	for i := range n {
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

// [MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1] One SUBACK answers all Topic Filters of a SUBSCRIBE, in their order. They count as if each
// had come by itself: here the last replaces the first.
func TestMQTT_3_8_4_4_SeveralTopicFilters(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Send(subscribe(1, brokertest.Subscription(topic+"/a", 1), brokertest.Subscription(topic+"/b", 0),
		brokertest.Subscription(topic+"/c", 2), brokertest.Subscription(topic+"/a", 2)))
	c.ExpectSuback(1, 1, 0, 2, 2)
	for level, qos := range map[string]byte{"a": 2, "b": 0, "c": 2} {
		c.Publish(topic+"/"+level, level, 2)
		p := c.ExpectPublish(topic+"/"+level, level)
		if c.Acknowledge(p); p.QoS != qos {
			t.Errorf("%s: got QoS %d, want %d", level, p.QoS, qos)
		}
	}
	c.ExpectNothing()
}

// [MQTT-3.8.4-5] [MQTT-3.9.3-1] [MQTT-3.9.3-2] A subscription that fails has return code 0x80 in its place, and isn't made; the others are.
func TestMQTT_3_8_4_5_FailedSubscriptions(t *testing.T) {
	t.Parallel()
	c, topic := connectGuarded(t), brokertest.Name()
	c.Send(subscribe(1, brokertest.Subscription(topic+"/denied", 1), brokertest.Subscription(topic+"/a", 2),
		brokertest.Subscription("denied/#", 0), brokertest.Subscription(topic+"/b", 0)))
	if got, want := c.ReceiveRaw(), []byte{0x90, 6, 0, 1, 0x80, 2, 0x80, 0}; !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
	// The Authorizer would stop a Client that published there.
	if _, err := guarded.Broker.Publish(t.Context(), loopmq.Message{TopicName: topic + "/denied"}); err != nil {
		t.Fatal(err)
	}
	for _, level := range []string{"/a", "/b"} {
		c.Publish(topic+level, level, 2)
		c.Acknowledge(c.ExpectPublish(topic+level, level))
	}
	c.ExpectNothing()
}

// [MQTT-3.9.3-2] A subscription beyond what the broker allows has return code 0x80, and no other.
func TestMQTT_3_9_3_2_ReturnCodesOfSuback(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.Subscriptions = 2 })
	c := brokertest.Connect(t, s.Addr, codec.V311)
	c.Send(subscribe(1, brokertest.Subscription("a", 0), brokertest.Subscription("b", 1), brokertest.Subscription("c", 2)))
	if got, want := c.ReceiveRaw(), []byte{0x90, 5, 0, 1, 0, 1, 0x80}; !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
	c.Publish("c", "payload", 0)
	c.ExpectNothing()
}

// [MQTT-3.8.4-6] Messages come with the lesser of their QoS and the QoS granted: live, retained, and stored for a Session.
func TestMQTT_3_8_4_6_QoSIsTheMinimum(t *testing.T) {
	t.Parallel()
	for granted := range byte(3) {
		for published := range byte(3) {
			pub, live, topic, id := connect(t), connect(t), brokertest.Name(), brokertest.Name()
			stored := connect(t, brokertest.Durable(id))
			want := min(granted, published)
			expect := func(c *brokertest.Client) {
				t.Helper()
				p := c.ExpectPublish(topic, "payload")
				if c.Acknowledge(p); p.QoS != want {
					t.Errorf("granted %d, published %d: got QoS %d", granted, published, p.QoS)
				}
			}
			live.Subscribe(topic, granted)
			stored.Subscribe(topic, granted)
			stored.Disconnect()
			pub.Publish(topic, "payload", published, brokertest.Retained)
			expect(live)
			live.Subscribe(topic, granted)
			expect(live)
			if stored = resume(t, id); want > 0 {
				expect(stored)
			}
		}
	}
}

// [MQTT-3.10.1-1] An UNSUBSCRIBE with other flags than 0010 ends the connection.
func TestMQTT_3_10_1_1_FlagsOfUnsubscribe(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0xA0, 0xA1, 0xA3, 0xA6, 0xAA} {
		closes(t, packet(first, []byte{0, 1}, str("a")))
	}
}

// [MQTT-3.10.3-1] [MQTT-1.5.3-1] A Topic Filter that isn't a UTF-8 string ends the connection, wherever in the UNSUBSCRIBE it stands.
func TestMQTT_3_10_3_1_TopicFilterIsUTF8(t *testing.T) {
	t.Parallel()
	for _, bad := range badStrings {
		closes(t, bytesOf(unsubscribe(1, "a", bad))...)
	}
}

// [MQTT-3.10.3-2] An UNSUBSCRIBE without Topic Filter ends the connection.
func TestMQTT_3_10_3_2_UnsubscribeHasATopicFilter(t *testing.T) {
	t.Parallel()
	closes(t, packet(0xA2), packet(0xA2, []byte{0, 1}), packet(0xA2, []byte{0, 1}, []byte{0, 9, 'a'}))
}

// [MQTT-3.10.4-1] UNSUBSCRIBE ends the subscription with exactly the same Topic Filter, and no other.
func TestMQTT_3_10_4_1_TopicFiltersAreComparedExactly(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic+"/a", 1)
	sub.Unsubscribe(topic+"/A", topic+"/#", topic+"/+", topic+"/a/", "/"+topic+"/a", topic, "#", topic+"/b")
	pub.Publish(topic+"/a", "still", 1)
	sub.Acknowledge(sub.ExpectPublish(topic+"/a", "still"))
	sub.Subscribe(topic+"/+", 1)
	sub.Unsubscribe(topic + "/a")
	pub.Publish(topic+"/a", "by the wildcard", 1)
	sub.Acknowledge(sub.ExpectPublish(topic+"/a", "by the wildcard"))
	sub.Unsubscribe(topic + "/+")
	pub.Publish(topic+"/a", "no more", 1)
	sub.ExpectNothingFrom(pub, 1)
}

// [MQTT-3.10.4-2] After UNSUBSCRIBE no new messages are added, to the Session of a Client that goes away either.
func TestMQTT_3_10_4_2_NothingIsAddedAfterUnsubscribe(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	for qos := range byte(3) {
		sub.Subscribe(topic, qos)
		sub.Unsubscribe(topic)
		pub.Publish(topic, "payload", qos)
		sub.ExpectNothingFrom(pub, qos)
	}
	sub.Disconnect()
	pub.Publish(topic, "payload", 1)
	resume(t, id).ExpectNothingFrom(pub, 1)
}

// [MQTT-3.10.4-3] Deliveries with QoS 1 and 2 that had begun at UNSUBSCRIBE are completed, over a reconnect too.
func TestMQTT_3_10_4_3_DeliveriesAreCompleted(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
		sub := connect(t, brokertest.Durable(id))
		sub.Subscribe(topic, qos)
		pub.Publish(topic, "here", qos)
		here := sub.ExpectPublish(topic, "here")
		pub.Publish(topic, "again", qos)
		again := sub.ExpectPublish(topic, "again")
		sub.Unsubscribe(topic)
		sub.Acknowledge(here)
		sub.Ping()
		sub.Close()
		sub = resume(t, id)
		p := sub.ExpectPublish(topic, "again")
		if sub.Acknowledge(p); !p.Dup || p.PacketID != again.PacketID {
			t.Errorf("got %s, want it again with packet identifier %d", brokertest.Describe(p), again.PacketID)
		}
		sub.ExpectNothing()
	}
}

// [MQTT-3.10.4-4] [MQTT-3.10.4-5] UNSUBSCRIBE is answered with UNSUBACK, also if there was no subscription.
func TestMQTT_3_10_4_5_UnsubackAnswersUnsubscribe(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 0)
	for _, id := range []byte{1, 2, 255} {
		c.Send(unsubscribe(uint16(id), topic))
		if got, want := c.ReceiveRaw(), []byte{0xB0, 2, 0, id}; !bytes.Equal(got, want) {
			t.Errorf("got % X, want % X", got, want)
		}
	}
}

// [MQTT-3.10.4-6] One UNSUBACK answers all Topic Filters of an UNSUBSCRIBE, each of which counts.
func TestMQTT_3_10_4_6_SeveralTopicFilters(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for _, level := range []string{"/a", "/b", "/c", "/d"} {
		c.Subscribe(topic+level, 0)
	}
	c.Send(unsubscribe(9, topic+"/x", topic+"/a", topic+"/b", topic+"/a", topic+"/d"))
	c.ExpectUnsuback(9)
	c.ExpectNothing()
	for _, level := range []string{"/a", "/b", "/c", "/d"} {
		c.Publish(topic+level, level, 0)
	}
	if got := payloads(received(t, c, c)); !slices.Equal(got, []string{"/c"}) {
		t.Errorf("got %q, want what /c brings", got)
	}
}
