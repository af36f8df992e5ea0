package v3

import (
	"fmt"
	"slices"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Sections 3.3 to 3.7: PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP.

// [MQTT-3.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.3-1] A PUBLISH that is sent again has DUP 1; the first time it had DUP 0.
func TestMQTT_3_3_1_1_DupOnRedelivery(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
		sub := connect(t, brokertest.Durable(id))
		sub.Subscribe(topic, qos)
		pub.Publish(topic, "payload", qos)
		first := sub.ExpectPublish(topic, "payload")
		for range 2 {
			sub.Disconnect() // when it returns, the broker knows: "queued" isn't sent yet
			pub.Publish(topic, "queued", qos)
			sub = resume(t, id)
			again, queued := sub.ExpectPublish(topic, "payload"), sub.ExpectPublish(topic, "queued")
			if first.Dup || !again.Dup || again.QoS != qos || queued.Dup {
				t.Errorf("got %s, %s, %s", brokertest.Describe(first), brokertest.Describe(again), brokertest.Describe(queued))
			}
			sub.Acknowledge(queued)
			sub.Ping()
		}
	}
}

// [MQTT-3.3.1-2] [MQTT-4.3.1-1] DUP is 0 with QoS 0: the broker sends no other, and takes no other.
func TestMQTT_3_3_1_2_DupWithQoS0(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 0)
	c.Publish(topic, "payload", 1, func(p *codec.Publish) { p.Dup = true })
	if p := c.ExpectPublish(topic, "payload"); p.Dup || p.QoS != 0 {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	closes(t, packet(0x38, str(topic)), packet(0x39, str(topic)))
}

// [MQTT-3.3.1-3] DUP isn't passed on: to its subscribers the message is new, and so is a retained one to later subscribers.
func TestMQTT_3_3_1_3_DupIsNotPropagated(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic, 2)
	for qos := byte(1); qos <= 2; qos++ {
		pub.Publish(topic, "payload", qos, brokertest.Retained, func(p *codec.Publish) { p.Dup = true })
		p := sub.ExpectPublish(topic, "payload")
		sub.Acknowledge(p)
		if all := retained(t, topic); p.Dup || p.QoS != qos || len(all) != 1 || all[0].Dup {
			t.Errorf("got %s and retained %+v", brokertest.Describe(p), all)
		}
	}
}

// [MQTT-3.3.1-4] QoS 3 ends the connection.
func TestMQTT_3_3_1_4_QoS3(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0x36, 0x37, 0x3E, 0x3F} {
		closes(t, packet(first, str("a"), []byte{0, 1}))
	}
}

// [MQTT-3.3.1-5] [MQTT-3.3.1-8] A message with RETAIN 1 is stored with its QoS and replaces the one before. A subscription gets it with
// RETAIN 1.
func TestMQTT_3_3_1_5_MessageIsRetained(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for qos := range byte(3) {
		c.Publish(topic, fmt.Sprint(qos), qos, brokertest.Retained)
		c.Ping()
		all := retained(t, topic)
		if len(all) != 1 || string(all[0].Payload) != fmt.Sprint(qos) || all[0].QoS != qos || !all[0].Retain {
			t.Errorf("QoS %d: got retained messages %+v", qos, all)
		}
	}
}

// [MQTT-3.3.1-6] A new subscription brings the last retained message of each Topic Name that it matches, and no other.
func TestMQTT_3_3_1_6_RetainedMessagesOfAllTopics(t *testing.T) {
	t.Parallel()
	c, prefix := connect(t), brokertest.Name()
	levels := []string{"", "/a", "/b", "/b/c", "//c", "/b/"}
	for round := range 2 {
		for _, level := range levels {
			c.Publish(prefix+level, fmt.Sprint(level, round), 1, brokertest.Retained)
		}
	}
	for filter, want := range map[string][]string{
		"/+": {"/a1", "/b1"}, "/#": {"/a1", "/b1", "1", "/b/c1", "//c1", "/b/1"}, "/+/c": {"/b/c1", "//c1"}, "/b/c": {"/b/c1"}, "": {"1"},
	} {
		got := payloads(retained(t, prefix+filter))
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s: got retained messages %q, want %q", filter, got, want)
		}
	}
}

// [MQTT-3.3.1-6] A stored Session gets the retained messages of its new subscription too, and what it doesn't acknowledge again.
func TestMQTT_3_3_1_6_RetainedMessageForAStoredSession(t *testing.T) {
	t.Parallel()
	c, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	c.Publish(topic, "retained", 1, brokertest.Retained)
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	first := sub.ExpectPublish(topic, "retained")
	sub.Close()
	sub = resume(t, id)
	again := sub.ExpectPublish(topic, "retained")
	if !first.Retain || !again.Retain || !again.Dup || again.PacketID != first.PacketID {
		t.Errorf("got %s, then %s", brokertest.Describe(first), brokertest.Describe(again))
	}
}

// [MQTT-3.3.1-7] A QoS 0 message with RETAIN 1 replaces a retained one of a higher QoS.
func TestMQTT_3_3_1_7_QoS0ReplacesTheRetainedMessage(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		c, topic := connect(t), brokertest.Name()
		c.Publish(topic, "before", qos, brokertest.Retained)
		c.Publish(topic, "after", 0, brokertest.Retained)
		c.Ping()
		if got := payloads(retained(t, topic)); slices.Contains(got, "before") || len(got) > 1 {
			t.Errorf("got retained messages %q", got)
		}
	}
}

// [MQTT-3.3.1-8] [MQTT-3.3.1-9] RETAIN is 1 on what a subscription brings when it is made, and 0 on what comes through it later, whatever
// RETAIN was in that.
func TestMQTT_3_3_1_9_RetainFlagOfLiveMessages(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	pub.Publish(topic, "before", 1, brokertest.Retained)
	sub.Subscribe(topic, 1)
	if p := sub.ExpectPublish(topic, "before"); !p.Retain {
		t.Error("got RETAIN 0 on a retained message")
	}
	for qos := range byte(3) {
		pub.Publish(topic, "live", qos, brokertest.Retained)
		if p := sub.ExpectPublish(topic, "live"); p.Retain {
			t.Errorf("QoS %d: got RETAIN 1 on a live message", qos)
		}
	}
}

// [MQTT-3.3.1-9] What was stored for a Session without connection came through an established subscription as well.
func TestMQTT_3_3_1_9_RetainFlagOfQueuedMessages(t *testing.T) {
	t.Parallel()
	pub, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	sub.Disconnect()
	pub.Publish(topic, "queued", 1, brokertest.Retained)
	sub = resume(t, id)
	if p := sub.ExpectPublish(topic, "queued"); p.Retain {
		t.Error("got RETAIN 1 on a message of an established subscription")
	}
	sub.ExpectNothing()
}

// [MQTT-3.3.1-10] A message with RETAIN 1 and no payload removes the retained message and goes to subscribers as any other.
func TestMQTT_3_3_1_10_EmptyPayloadRemovesTheRetainedMessage(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		c, sub, topic := connect(t), connect(t), brokertest.Name()
		sub.Subscribe(topic, 2)
		c.Publish(topic, "payload", 1, brokertest.Retained)
		sub.Acknowledge(sub.ExpectPublish(topic, "payload"))
		c.Publish(topic, "", qos, brokertest.Retained)
		c.Ping()
		p := sub.ExpectPublish(topic, "")
		sub.Acknowledge(p)
		if got := payloads(retained(t, topic)); len(got) != 0 || p.QoS != qos || p.Retain {
			t.Errorf("got %s and retained messages %q", brokertest.Describe(p), got)
		}
	}
}

// [MQTT-3.3.1-11] A message without payload isn't stored where there was none before.
func TestMQTT_3_3_1_11_EmptyPayloadIsNotRetained(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		c, topic := connect(t), brokertest.Name()
		c.Publish(topic, "", qos, brokertest.Retained)
		c.Ping()
		if got := payloads(retained(t, topic)); len(got) != 0 {
			t.Errorf("QoS %d: got retained messages %q", qos, got)
		}
	}
}

// [MQTT-3.3.1-12] Messages with RETAIN 0, empty or not, leave the retained message as it is, and aren't retained.
func TestMQTT_3_3_1_12_RetainedMessageStays(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		c, topic := connect(t), brokertest.Name()
		c.Publish(topic, "not retained", qos)
		c.Ping()
		if got := payloads(retained(t, topic)); len(got) != 0 {
			t.Errorf("QoS %d: got retained messages %q", qos, got)
		}
		c.Publish(topic, "retained", 1, brokertest.Retained)
		c.Publish(topic, "other", qos)
		c.Publish(topic, "", qos)
		c.Ping()
		if got := payloads(retained(t, topic)); !slices.Equal(got, []string{"retained"}) {
			t.Errorf("QoS %d: got retained messages %q", qos, got)
		}
	}
}

// [MQTT-3.3.2-1] A PUBLISH whose Topic Name isn't there, isn't whole, or isn't UTF-8 ends the connection.
func TestMQTT_3_3_2_1_TopicNameIsPresent(t *testing.T) {
	t.Parallel()
	closes(t, packet(0x30), packet(0x30, []byte{0}), packet(0x30, []byte{0, 5, 'a', 'b'}), packet(0x30, str("\xFF")), packet(0x32, str("a")))
}

// [MQTT-3.3.2-2] [MQTT-4.7.1-1] A Topic Name with a wildcard ends the connection.
func TestMQTT_3_3_2_2_WildcardInTopicName(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"#", "+", "a/#", "a/+/b", "a+", "#a"} {
		for qos := range byte(3) {
			closes(t, bytesOf(publish(topic, "payload", qos, uint16(qos)))...)
		}
		refused(t, connectPacket(0x06, str(brokertest.Name()), str(topic), str("will")))
	}
}

// [MQTT-3.3.2-3] Each message that a subscriber gets has the Topic Name that it was published under, which its Topic Filter matches.
func TestMQTT_3_3_2_3_TopicNameMatchesTheFilter(t *testing.T) {
	t.Parallel()
	c, prefix := connect(t), brokertest.Name()
	c.Subscribe(prefix+"/+/x", 0)
	for _, level := range []string{"/a/x", "/x", "//x", "/a/b/x", "/a/x/y", "/b/x"} {
		c.Publish(prefix+level, level, 0)
	}
	for _, level := range []string{"/a/x", "//x", "/b/x"} {
		c.ExpectPublish(prefix+level, level)
	}
	c.ExpectNothingFrom(c, 0)
}

// [MQTT-3.3.4-1] A PUBLISH is answered with nothing, PUBACK or PUBREC, as its QoS asks, whether anybody subscribes or not.
func TestMQTT_3_3_4_1_ResponseByQoS(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for range 2 {
		c.Send(publish(topic, "payload", 0, 0))
		c.ExpectNothing()
		c.Send(publish(topic, "payload", 1, 7))
		c.ExpectAck(codec.TypePuback, 7, 0)
		c.Send(publish(topic, "payload", 2, 8))
		c.ExpectAck(codec.TypePubrec, 8, 0)
		c.Send(ack(codec.TypePubrel, 8))
		c.ExpectAck(codec.TypePubcomp, 8, 0)
		c.ExpectNothing()
		connect(t).Subscribe(topic, 2)
	}
}

// [MQTT-3.3.5-1] A message that several subscriptions of a Client match comes with the greatest QoS that they grant.
func TestMQTT_3_3_5_1_OverlappingSubscriptions(t *testing.T) {
	t.Parallel()
	for published := range byte(3) {
		for _, order := range [][]byte{{0, 1, 2}, {2, 1, 0}, {1, 0, 1}} {
			pub, sub, topic := connect(t), connect(t), brokertest.Name()
			for i, filter := range []string{topic + "/a", topic + "/+", topic + "/#"} {
				sub.Subscribe(filter, order[i])
			}
			pub.Publish(topic+"/a", "payload", published)
			var greatest byte
			for _, p := range received(t, sub, pub) {
				greatest = max(greatest, p.QoS)
			}
			if want := min(published, slices.Max(order)); greatest != want {
				t.Errorf("granted %d, published %d: got QoS %d, want %d", order, published, greatest, want)
			}
		}
	}
}

// [MQTT-3.3.5-2] A PUBLISH that isn't authorized is acknowledged as its QoS asks and goes to nobody.
func TestMQTT_3_3_5_2_UnauthorizedPublish(t *testing.T) {
	t.Parallel()
	c, sub, topic := connectGuarded(t), connectGuarded(t), brokertest.Name()
	sub.Subscribe(topic+"/#", 2)
	for range 2 {
		for qos := range byte(3) {
			c.Publish(topic+"/denied", "payload", qos, brokertest.Retained)
		}
	}
	sub.ExpectNothingFrom(c, 2)
	c.Subscribe(topic+"/+", 0) // brings no retained message
	c.ExpectNothing()
}

// [MQTT-3.6.1-1] A PUBREL with other flags than 0010 ends the connection.
func TestMQTT_3_6_1_1_FlagsOfPubrel(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0x60, 0x61, 0x63, 0x66, 0x6A} {
		c := connect(t)
		c.Send(publish("a", "payload", 2, 1))
		c.ExpectAck(codec.TypePubrec, 1, 0)
		c.SendRaw([]byte{first, 2, 0, 1})
		c.ExpectClosed()
	}
}
