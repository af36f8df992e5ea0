package v5

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Chapter 4: operational behaviour. Section 4.12, enhanced authentication, is in guarded_test.go.

// [MQTT-4.1.0-1] Session State isn't discarded while the connection is open, however short the Session Expiry Interval.
func TestMQTT_4_1_0_1_SessionStaysWhileConnected(t *testing.T) {
	t.Parallel()
	pub, topic := connect(t), brokertest.Name()
	short := connect(t, brokertest.With(codec.PropSessionExpiryInterval, 1))
	none := connect(t, brokertest.With(codec.PropSessionExpiryInterval, 0))
	for _, c := range []*brokertest.Client{short, none} {
		c.Subscribe(topic, 2)
	}
	pub.Publish(topic, "early", 2)
	elapse(2500 * time.Millisecond)
	pub.Publish(topic, "late", 2)
	for _, c := range []*brokertest.Client{short, none} {
		c.Acknowledge(c.ExpectPublish(topic, "early"))
		c.Acknowledge(c.ExpectPublish(topic, "late"))
	}
}

// [MQTT-4.1.0-2] Session State is discarded when the connection is closed and the Session Expiry Interval is over, and not before. A new
// connection starts the interval anew.
func TestMQTT_4_1_0_2_SessionExpires(t *testing.T) {
	t.Parallel()
	expires, stays := brokertest.Name(), brokertest.Name()
	interval := func(seconds int) brokertest.ConnectOption {
		return brokertest.With(codec.PropSessionExpiryInterval, seconds)
	}
	connect(t, brokertest.ClientID(expires), interval(1)).Close()
	connect(t, brokertest.ClientID(stays), interval(4)).Close()
	for range 3 {
		elapse(1200 * time.Millisecond)
		resume(t, stays, interval(4)).Close()
	}
	c := dial(t)
	if p := c.Connect(brokertest.Durable(expires)); p.SessionPresent {
		t.Error("a session of 1 s is there after 3.6 s")
	}
	resume(t, stays)
}

// [MQTT-4.2-1] TCP carries MQTT: a packet that comes byte by byte is the same as one that comes whole, and several may come at once.
func TestMQTT_4_2_1_StreamOfBytes(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 1)
	raw := publish(topic, "payload", 1, 7, codec.PropUserProperty, [2]string{"k", "v"}).Append(nil, codec.V5)
	for i := range raw {
		c.SendRaw(raw[i : i+1])
	}
	c.Acknowledge(receiveBoth(t, c, codec.TypePuback, 7))
	c.SendRaw(slices.Concat(raw[:len(raw)/2]))
	c.SendRaw(slices.Concat(raw[len(raw)/2:], publish(topic, "second", 0, 0).Append(nil, codec.V5)))
	var got []string
	for len(got) < 2 {
		if p, ok := c.Receive().(*codec.Publish); ok {
			got = append(got, string(p.Payload))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"payload", "second"}) {
		t.Errorf("got %q", got)
	}
}

// [MQTT-4.3.1-1] A message with QoS 0 is sent with QoS 0 and DUP 0, once, and isn't answered.
func TestMQTT_4_3_1_1_QoS0(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic, 2)
	pub.Send(publish(topic, "payload", 0, 0))
	pub.ExpectNothing()
	if p := sub.ExpectPublish(topic, "payload"); p.QoS != 0 || p.Dup {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	sub.ExpectNothingFrom(pub, 0)
}

// [MQTT-4.3.2-2] [MQTT-4.3.2-3] A message with QoS 1 is sent with QoS 1 and DUP 0, and is unacknowledged until PUBACK: its Packet Identifier
// isn't used for another, and it comes again after a reconnect.
func TestMQTT_4_3_2_3_UnacknowledgedUntilPuback(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	pub.Publish(topic, "1", 1)
	pub.Publish(topic, "2", 1)
	first, second := sub.ExpectPublish(topic, "1"), sub.ExpectPublish(topic, "2")
	if first.QoS != 1 || first.Dup || second.PacketID == first.PacketID {
		t.Errorf("got %s and %s", brokertest.Describe(first), brokertest.Describe(second))
	}
	sub.Acknowledge(second)
	sub.Ping()
	sub.Close()
	sub = resume(t, id)
	again := sub.ExpectPublish(topic, "1")
	if again.PacketID != first.PacketID || !again.Dup {
		t.Errorf("got %s, want it again", brokertest.Describe(again))
	}
	sub.Acknowledge(again)
	sub.Ping()
	sub.Close()
	resume(t, id).ExpectNothingFrom(pub, 1)
}

// [MQTT-4.3.2-4] [MQTT-4.3.2-5] PUBACK has the Packet Identifier of the PUBLISH, and after it the same Packet Identifier is a new message
// whatever DUP says.
func TestMQTT_4_3_2_5_PacketIdentifierAfterPuback(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	for i, dup := range []bool{false, false, true, true} {
		payload := fmt.Sprint(i)
		pub.Publish(topic, payload, 1, func(p *codec.Publish) { p.PacketID, p.Dup = 77, dup })
		sub.ExpectPublish(topic, payload)
	}
}

// [MQTT-4.3.2-4] PUBACK says that the broker has the message: a durable Session gets it, though the publisher is gone.
func TestMQTT_4_3_2_4_OwnershipAfterPuback(t *testing.T) {
	t.Parallel()
	id, topic := brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	sub.Disconnect()
	pub := connect(t)
	pub.Publish(topic, "QoS 1", 1)
	pub.Publish(topic, "QoS 2", 2)
	pub.Close()
	sub = resume(t, id)
	sub.Acknowledge(sub.ExpectPublish(topic, "QoS 1"))
	sub.Acknowledge(sub.ExpectPublish(topic, "QoS 2"))
}

// [MQTT-4.3.3-2] [MQTT-4.3.3-3] A message with QoS 2 is sent with QoS 2 and DUP 0, and is unacknowledged until PUBREC: it comes again after
// a reconnect, as PUBLISH.
func TestMQTT_4_3_3_3_UnacknowledgedUntilPubrec(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "payload", 2)
	first := sub.ExpectPublish(topic, "payload")
	sub.Close()
	sub = resume(t, id)
	again := sub.ExpectPublish(topic, "payload")
	if first.QoS != 2 || first.Dup || again.QoS != 2 || !again.Dup || again.PacketID != first.PacketID {
		t.Errorf("got %s, then %s", brokertest.Describe(first), brokertest.Describe(again))
	}
	sub.Acknowledge(again)
	sub.ExpectNothing()
}

// [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6] PUBREC is answered with PUBREL of the same Packet Identifier. Until PUBCOMP it comes again
// after each reconnect, and the PUBLISH doesn't.
func TestMQTT_4_3_3_5_PubrelUntilPubcomp(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "payload", 2)
	p := sub.ExpectPublish(topic, "payload")
	sub.Send(ack(codec.TypePubrec, p.PacketID, 0))
	sub.ExpectAck(codec.TypePubrel, p.PacketID, codec.Success)
	for range 2 {
		sub.Close()
		sub = resume(t, id)
		sub.ExpectAck(codec.TypePubrel, p.PacketID, codec.Success)
		sub.ExpectNothing()
	}
	sub.Send(ack(codec.TypePubcomp, p.PacketID, 0))
	sub.Ping()
	sub.Close()
	resume(t, id).ExpectNothingFrom(pub, 2)
}

// [MQTT-4.3.3-4] A PUBREC with an error ends the handshake: no PUBREL, and the message doesn't come again.
func TestMQTT_4_3_3_4_NoPubrelAfterAnError(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "payload", 2)
	p := sub.ExpectPublish(topic, "payload")
	sub.Send(ack(codec.TypePubrec, p.PacketID, codec.UnspecifiedError))
	sub.ExpectNothing()
	sub.Close()
	resume(t, id).ExpectNothingFrom(pub, 2)
}

// [MQTT-4.3.3-7] A PUBLISH with QoS 2 that was sent doesn't expire: it comes again after its Message Expiry Interval.
func TestMQTT_4_3_3_7_NoExpiryOnceSent(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "payload", 2, properties(codec.PropMessageExpiryInterval, 1))
	first := sub.ExpectPublish(topic, "payload")
	sub.Close()
	elapse(2100 * time.Millisecond)
	sub = resume(t, id)
	if p := sub.ExpectPublish(topic, "payload"); !p.Dup || p.PacketID != first.PacketID {
		t.Errorf("got %s, want it again with packet identifier %d", brokertest.Describe(p), first.PacketID)
	} else {
		sub.Acknowledge(p)
	}
}

// [MQTT-4.3.3-8] [MQTT-4.3.3-10] PUBREC has the Packet Identifier of the PUBLISH. Until PUBREL the PUBLISH is acknowledged again and its
// message delivered once, whether the publisher's Session outlives its connection or not, and over a reconnect if it does.
func TestMQTT_4_3_3_10_NoDuplicateUntilPubrel(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{false, true} {
		sub, topic := connect(t), brokertest.Name()
		sub.Subscribe(topic, 2)
		pub := connect(t)
		if durable {
			pub = connect(t, brokertest.Durable(brokertest.Name()))
		}
		p := publish(topic, "payload", 2, 500)
		for round := range 4 {
			if durable && round == 2 {
				pub.Close()
				pub = resume(t, pub.ClientID)
			}
			pub.Send(p)
			if a := brokertest.Expect[*codec.Ack](pub); a.Type != codec.TypePubrec || a.PacketID != 500 || a.ReasonCode.IsError() {
				t.Fatalf("got %s", brokertest.Describe(a))
			}
			p.Dup = true
		}
		pub.Send(ack(codec.TypePubrel, 500, 0))
		pub.ExpectAck(codec.TypePubcomp, 500, codec.Success)
		sub.Acknowledge(sub.ExpectPublish(topic, "payload"))
		sub.ExpectNothingFrom(pub, 2)
	}
}

// [MQTT-4.3.3-11] PUBREL is answered with PUBCOMP of the same Packet Identifier, over a reconnect too.
func TestMQTT_4_3_3_11_PubcompAnswersPubrel(t *testing.T) {
	t.Parallel()
	sub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub.Subscribe(topic, 0)
	pub := connect(t, brokertest.Durable(id))
	pub.Send(publish(topic, "1", 2, 1), publish(topic, "2", 2, 2))
	pub.ExpectAck(codec.TypePubrec, 1, codec.Success)
	pub.ExpectAck(codec.TypePubrec, 2, codec.Success)
	pub.Send(ack(codec.TypePubrel, 2, 0))
	pub.ExpectAck(codec.TypePubcomp, 2, codec.Success)
	pub.Close()
	pub = resume(t, id)
	pub.Send(ack(codec.TypePubrel, 1, 0))
	pub.ExpectAck(codec.TypePubcomp, 1, codec.Success)
}

// [MQTT-4.3.3-12] After PUBCOMP the same Packet Identifier is a new message, whatever DUP says, over a reconnect too.
func TestMQTT_4_3_3_12_PacketIdentifierAfterPubcomp(t *testing.T) {
	t.Parallel()
	sub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub.Subscribe(topic, 0)
	pub := connect(t, brokertest.Durable(id))
	for i, dup := range []bool{false, false, true, true} {
		if i == 3 {
			pub.Close()
			pub = resume(t, id)
		}
		payload := fmt.Sprint(i)
		pub.Publish(topic, payload, 2, func(p *codec.Publish) { p.PacketID, p.Dup = 77, dup })
		sub.ExpectPublish(topic, payload)
	}
}

// [MQTT-4.3.3-13] The QoS 2 handshake with a publisher goes on though its message has expired.
func TestMQTT_4_3_3_13_HandshakeGoesOnAfterExpiry(t *testing.T) {
	t.Parallel()
	connected, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	sub.Disconnect()
	connected.Send(publish(topic, "payload", 2, 3, codec.PropMessageExpiryInterval, 1))
	connected.ExpectAck(codec.TypePubrec, 3, codec.Success)
	elapse(2100 * time.Millisecond)
	connected.Send(publish(topic, "payload", 2, 3, codec.PropMessageExpiryInterval, 1), ack(codec.TypePubrel, 3, 0))
	connected.ExpectAck(codec.TypePubrec, 3, codec.Success)
	connected.ExpectAck(codec.TypePubcomp, 3, codec.Success)
	resume(t, id).ExpectNothingFrom(connected, 2)
}

// [MQTT-4.4.0-1] After a reconnect PUBLISH and PUBREL that aren't acknowledged come again with their Packet Identifiers, in their order and
// before what is new.
func TestMQTT_4_4_0_1_ResentAfterReconnect(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	var ids []uint16
	for i := range 6 {
		pub.Publish(topic, fmt.Sprint(i), byte(1+i%2))
		ids = append(ids, sub.ExpectPublish(topic, fmt.Sprint(i)).PacketID)
	}
	sub.Send(ack(codec.TypePubrec, ids[1], 0))
	sub.ExpectAck(codec.TypePubrel, ids[1], 0)
	sub.Disconnect() // when it returns, the broker knows: "new" isn't sent yet
	pub.Publish(topic, "new", 1)

	sub = resume(t, id)
	var publishes []string
	var pubrels []uint16
	for len(publishes) < 6 || len(pubrels) < 1 {
		switch p := sub.Receive().(type) {
		case *codec.Ack:
			pubrels = append(pubrels, p.PacketID)
		case *codec.Publish:
			if publishes = append(publishes, string(p.Payload)); string(p.Payload) == "new" {
				if p.Dup || slices.Contains(ids, p.PacketID) {
					t.Errorf("got %s, want a new packet identifier", brokertest.Describe(p))
				}
			} else if i := p.Payload[0] - '0'; !p.Dup || p.PacketID != ids[i] || p.QoS != 1+i%2 {
				t.Errorf("got %s, want packet identifier %d", brokertest.Describe(p), ids[i])
			}
		}
	}
	if !slices.Equal(publishes, []string{"0", "2", "3", "4", "5", "new"}) || !slices.Equal(pubrels, ids[1:2]) {
		t.Errorf("got PUBLISH %q and PUBREL %d", publishes, pubrels)
	}
	sub.ExpectNothing()
}

// [MQTT-4.4.0-1] While the connection is open nothing is sent again, however long an acknowledgement takes.
func TestMQTT_4_4_0_1_NothingIsResentWhileConnected(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t, brokertest.Durable(brokertest.Name())), brokertest.Name()
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "QoS 1", 1)
	pub.Publish(topic, "QoS 2", 2)
	sub.ExpectPublish(topic, "QoS 1")
	p := sub.ExpectPublish(topic, "QoS 2")
	sub.Send(ack(codec.TypePubrec, p.PacketID, 0))
	sub.ExpectAck(codec.TypePubrel, p.PacketID, 0)
	elapse(3 * time.Second)
	sub.ExpectNothing()
}

// [MQTT-4.4.0-2] A PUBACK or PUBREC with an error acknowledges: the message doesn't come again.
func TestMQTT_4_4_0_2_ErrorsAcknowledge(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "1", 1)
	pub.Publish(topic, "2", 2)
	sub.Send(ack(codec.TypePuback, sub.ExpectPublish(topic, "1").PacketID, codec.ImplementationSpecificError),
		ack(codec.TypePubrec, sub.ExpectPublish(topic, "2").PacketID, codec.QuotaExceeded))
	sub.ExpectNothing()
	sub.Close()
	resume(t, id).ExpectNothingFrom(pub, 2)
}

// [MQTT-4.5.0-1] A message goes to all Clients with a matching subscription: connected or not, with a Session that lasts or not.
func TestMQTT_4_5_0_1_AllMatchingSessionsGetTheMessage(t *testing.T) {
	t.Parallel()
	pub, prefix := connect(t), brokertest.Name()
	var subs []*brokertest.Client
	var ids []string
	for i, filter := range []string{"/a/b", "/+/b", "/#", "/a/+"} {
		c := connect(t)
		c.Subscribe(prefix+filter, 2)
		d := connect(t, brokertest.Durable(brokertest.Name()))
		d.Subscribe(prefix+filter, byte(1+i%2))
		subs = append(subs, c)
		ids = append(ids, d.ClientID)
		d.Disconnect()
	}
	for qos := byte(1); qos <= 2; qos++ {
		pub.Publish(prefix+"/a/b", fmt.Sprint(qos), qos)
	}
	for _, id := range ids {
		subs = append(subs, resume(t, id))
	}
	for _, c := range subs {
		c.Acknowledge(c.ExpectPublish(prefix+"/a/b", "1"))
		c.Acknowledge(c.ExpectPublish(prefix+"/a/b", "2"))
	}
}

// [MQTT-4.6.0-5] [MQTT-4.6.0-6] Messages of a Client with the same topic and QoS keep their order, to connected Clients and over a
// reconnect.
func TestMQTT_4_6_0_5_OrderedTopics(t *testing.T) {
	t.Parallel()
	const n = 100
	for qos := range byte(3) {
		pub, live, topic, id := connect(t), connect(t), brokertest.Name(), brokertest.Name()
		live.Subscribe(topic, 2)
		queued := connect(t, brokertest.Durable(id))
		queued.Subscribe(topic, 2)
		queued.Disconnect()
		var burst []brokertest.Packet
		for i := range n {
			burst = append(burst, publish(topic, fmt.Sprint(i), qos, uint16(i+1)*uint16(min(qos, 1))))
		}
		pub.Send(burst...)
		subs := []*brokertest.Client{live}
		if qos > 0 {
			for range n {
				brokertest.Expect[*codec.Ack](pub)
			}
			subs = append(subs, resume(t, id))
		}
		for _, sub := range subs {
			for i := range n {
				sub.Acknowledge(sub.ExpectPublish(topic, fmt.Sprint(i)))
			}
		}
	}
}

// [MQTT-4.6.0-2] [MQTT-4.6.0-3] The broker acknowledges in the order of the PUBLISH packets too, whether their messages have to be stored
// or not.
func TestMQTT_4_6_0_2_AcknowledgementsInOrder(t *testing.T) {
	t.Parallel()
	pub, stored, free := connect(t), brokertest.Name(), brokertest.Name()
	connect(t, brokertest.Durable(brokertest.Name())).Subscribe(stored, 2)
	for qos := byte(1); qos <= 2; qos++ {
		var burst []brokertest.Packet
		for i := range 40 {
			topic := stored
			if i%3 > 0 {
				topic = free
			}
			burst = append(burst, publish(topic, "payload", qos, uint16(i+1)))
		}
		pub.Send(burst...)
		for i := range 40 {
			if p := brokertest.Expect[*codec.Ack](pub); int(p.PacketID) != i+1 {
				t.Fatalf("QoS %d: got %s, want packet identifier %d", qos, brokertest.Describe(p), i+1)
			}
		}
	}
}

// [MQTT-4.7.1-1] [MQTT-4.7.1-2] A Topic Filter in which a wildcard isn't a level of its own, or # not the last, is refused with 0x8F.
func TestMQTT_4_7_1_1_WildcardsAreWholeLevels(t *testing.T) {
	t.Parallel()
	c := connect(t)
	for _, filter := range []string{"a#", "#a", "a/#b", "a/#/b", "#/", "##", "a+", "+a", "a/b+/c", "++", "a/+#", "+#"} {
		c.Send(subscribe(1, brokertest.Subscription(filter, 0)))
		c.ExpectSuback(1, codec.TopicFilterInvalid)
	}
}

// [MQTT-4.7.1-1] [MQTT-4.7.1-2] What the wildcards match: # its parent and all below, + exactly one level.
func TestMQTT_4_7_1_2_WildcardMatching(t *testing.T) {
	t.Parallel()
	p := brokertest.Name()
	topics := []string{p, p + "/", p + "/a", p + "/a/b", p + "/a/b/c", p + "//b", p + "x"}
	for filter, want := range map[string][]int{
		p + "/#":     {0, 1, 2, 3, 4, 5},
		p + "/+":     {1, 2},
		p + "/+/b":   {3, 5},
		p + "/+/#":   {1, 2, 3, 4, 5},
		p + "/a/+/c": {4},
		p + "/+/+":   {3, 5},
		p:            {0},
		p + "/":      {1},
	} {
		c := connect(t)
		c.Subscribe(filter, 0)
		for i, topic := range topics {
			c.Publish(topic, fmt.Sprint(i), 0)
		}
		for _, i := range want {
			c.ExpectPublish(topics[i], fmt.Sprint(i))
		}
		c.ExpectNothing()
	}
}

// [MQTT-4.7.2-1] A Topic Filter that begins with a wildcard doesn't match a Topic Name that begins with $; one that begins with the same
// level does.
func TestMQTT_4_7_2_1_WildcardsAndDollarTopics(t *testing.T) {
	t.Parallel()
	level := brokertest.Name()
	topic := "$" + level + "/" + level
	for _, filter := range []string{"#", "+/#", "+/" + level, "+/+"} {
		c := connect(t)
		c.Subscribe(filter, 0, option(func(o *codec.SubscriptionOptions) { o.RetainHandling = 2 }))
		c.Publish(topic, "not matched", 0)
		c.Publish("a/"+level, "matched", 0)
		for { // messages of other tests match as well
			p := brokertest.Expect[*codec.Publish](c)
			if p.TopicName[0] == '$' {
				t.Errorf("%s: got %s", filter, brokertest.Describe(p))
			}
			if string(p.TopicName) == "a/"+level {
				break
			}
		}
	}
	c := connect(t)
	c.Subscribe("$"+level+"/#", 0)
	c.Publish(topic, "by name", 0)
	c.ExpectPublish(topic, "by name")
}

// [MQTT-4.7.2-1] The same holds for retained messages.
func TestMQTT_4_7_2_1_WildcardsAndRetainedDollarTopics(t *testing.T) {
	t.Parallel()
	c, level := connect(t), brokertest.Name()
	c.Publish("$"+level+"/"+level, "not matched", 1, brokertest.Retained)
	c.Publish("a/"+level, "matched", 1, brokertest.Retained)
	for filter, want := range map[string]string{"+/" + level: "matched", "$" + level + "/+": "not matched"} {
		if got := retained(t, filter); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q, want %q", filter, got, want)
		}
	}
	c.Publish("$"+level+"/"+level, "", 1, brokertest.Retained)
}

// [MQTT-4.7.3-1] An empty Topic Name or Topic Filter is refused; one character is enough.
func TestMQTT_4_7_3_1_OneCharacterAtLeast(t *testing.T) {
	t.Parallel()
	name := connect(t)
	name.Send(publish("", "payload", 0, 0))
	disconnected(t, name, codec.ProtocolError, codec.MalformedPacket, codec.TopicNameInvalid)

	c := connect(t)
	c.Send(subscribe(1, brokertest.Subscription("", 0)))
	switch p := c.Receive().(type) {
	case *codec.Suback:
		if p.ReasonCodes[0] != codec.TopicFilterInvalid {
			t.Errorf("got %s", brokertest.Describe(p))
		}
	case *codec.Disconnect:
		c.ExpectClosed()
	default:
		t.Errorf("got %s", brokertest.Describe(p))
	}

	unsubscribe := connect(t)
	unsubscribe.Send(&codec.Unsubscribe{PacketID: 1, TopicFilters: [][]byte{{}}})
	switch p := unsubscribe.Receive().(type) {
	case *codec.Unsuback:
		if !p.ReasonCodes[0].IsError() {
			t.Errorf("got %s", brokertest.Describe(p))
		}
	case *codec.Disconnect:
		unsubscribe.ExpectClosed()
	}

	short := connect(t)
	short.Subscribe("/", 0)
	short.Publish("/", "payload", 0)
	short.ExpectPublish("/", "payload")
}

// [MQTT-4.7.3-2] U+0000 in a Topic Name or Topic Filter is malformed.
func TestMQTT_4_7_3_2_NullCharacter(t *testing.T) {
	t.Parallel()
	for _, p := range []brokertest.Packet{
		publish("a\x00", "payload", 0, 0),
		subscribe(1, brokertest.Subscription("a/\x00/#", 0)),
		&codec.Unsubscribe{PacketID: 1, TopicFilters: [][]byte{[]byte("\x00")}},
	} {
		c := connect(t)
		c.Send(p)
		disconnected(t, c, codec.MalformedPacket)
	}
}

// [MQTT-4.7.3-3] Topic Names and Topic Filters of 65,535 bytes are accepted, which is the most that a string can have.
func TestMQTT_4_7_3_3_LongestTopic(t *testing.T) {
	t.Parallel()
	c := connect(t)
	topic := long(65535)
	c.Subscribe(topic, 0)
	c.Publish(topic, "payload", 0)
	c.ExpectPublish(topic, "payload")
	c.Unsubscribe(topic)
}

// [MQTT-4.7.3-4] Topics are compared byte by byte: no case folding, no normalization of Unicode, slashes or blanks.
func TestMQTT_4_7_3_4_NoNormalization(t *testing.T) {
	t.Parallel()
	p := brokertest.Name() + "/"
	for _, pair := range [][2]string{
		{"A", "a"},
		{"\u00C5", "A\u030A"},
		{"\u00C5", "\u212B"},
		{"a/", "a"},
		{"/a", "a"},
		{"a//b", "a/b"},
		{"a ", "a"},
		{"a/./b", "a/b"},
		{"\u200Ba", "a"},
		{"%41", "A"},
		{"a/../b", "b"},
		{"\uFFFD", "\uFFFC"},
	} {
		c := connect(t)
		c.Subscribe(p+pair[0], 0)
		c.Publish(p+pair[1], "other", 0)
		c.Publish(p+pair[0], "same", 0)
		c.ExpectPublish(p+pair[0], "same")
		c.Unsubscribe(p + pair[1])
		c.Publish(p+pair[0], "still", 0)
		c.ExpectPublish(p+pair[0], "still")
		c.ExpectNothing()
	}
}

// [MQTT-4.8.2-1] [MQTT-4.8.2-2] A Shared Subscription has a ShareName of at least one character without wildcards, and a Topic Filter.
func TestMQTT_4_8_2_1_FormOfSharedSubscriptions(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{
		"$share", "$share/", "$share//a", "$share/g", "$share/g/", "$share/+/a", "$share/#/a", "$share/g+/a",
		"$share/g#/a", "$share/g/a#", "$share/g/a/#/b",
	} {
		c := connect(t)
		c.Send(subscribe(1, brokertest.Subscription(filter, 0)))
		switch p := c.Receive().(type) {
		case *codec.Suback:
			// $share alone doesn't begin with $share/ and is an ordinary Topic Filter.
			if p.ReasonCodes[0] != codec.TopicFilterInvalid && filter != "$share" {
				t.Errorf("%s: got %s", filter, brokertest.Describe(p))
			}
		case *codec.Disconnect:
			if p.ReasonCode != codec.ProtocolError && p.ReasonCode != codec.MalformedPacket && p.ReasonCode != codec.TopicFilterInvalid {
				t.Errorf("%s: got %s", filter, brokertest.Describe(p))
			}
		default:
			t.Errorf("%s: got %s", filter, brokertest.Describe(p))
		}
	}
	c, topic := connect(t), brokertest.Name()
	c.Subscribe("$share/g/"+topic+"/#", 0)
	c.Publish(topic+"/a", "payload", 0)
	c.ExpectPublish(topic+"/a", "payload")
}

// [MQTT-4.8.2-3] Each member of a Shared Subscription gets messages with the QoS granted to it at most, and each message goes to one.
func TestMQTT_4_8_2_3_QoSOfSharedSubscriptions(t *testing.T) {
	t.Parallel()
	const n = 30
	pub, topic := connect(t), brokertest.Name()
	var members []*brokertest.Client
	for qos := range byte(3) {
		c := connect(t)
		c.Subscribe("$share/g/"+topic, qos)
		members = append(members, c)
	}
	for i := range n {
		pub.Publish(topic, fmt.Sprint(i), 2)
	}
	seen := map[string]bool{}
	for qos, c := range members {
		for _, p := range receiveAll(t, c, pub) {
			if int(p.QoS) != qos || seen[string(p.Payload)] {
				t.Errorf("member with QoS %d: got %s", qos, brokertest.Describe(p))
			}
			seen[string(p.Payload)] = true
		}
	}
	if len(seen) != n {
		t.Errorf("got %d messages, want %d", len(seen), n)
	}
}

// sharing makes a Shared Subscription with two durable members and publishes a message. It returns the member that got it and hasn't
// acknowledged it, the other one, and the message.
func sharing(t *testing.T, pub *brokertest.Client, topic string, qos byte) (chosen, other *brokertest.Client, p *codec.Publish) {
	t.Helper()
	var members [2]*brokertest.Client
	for i := range members {
		members[i] = connect(t, brokertest.Durable(brokertest.Name()))
		members[i].Subscribe("$share/g/"+topic, qos)
	}
	pub.Publish(topic, "shared", qos)
	for _, c := range members {
		// A mark of its own shows at once that a member didn't get the message.
		mark := brokertest.Name()
		c.Subscribe(mark, qos)
		pub.Publish(mark, "mark", qos)
		got := brokertest.Expect[*codec.Publish](c)
		if string(got.Payload) == "shared" {
			chosen, p = c, got
			got = c.ExpectPublish(mark, "mark")
		} else {
			other = c
		}
		c.Acknowledge(got)
		c.Unsubscribe(mark)
	}
	if chosen == nil || other == nil {
		t.Fatal("the message didn't go to exactly one member")
	}
	return chosen, other, p
}

// [MQTT-4.8.2-4] A QoS 2 message that was sent to a member is completed with that member after its connection broke: it isn't sent to
// another.
func TestMQTT_4_8_2_4_QoS2StaysWithItsClient(t *testing.T) {
	t.Parallel()
	pub, topic := connect(t), brokertest.Name()
	chosen, other, p := sharing(t, pub, topic, 2)
	chosen.Close()
	other.ExpectNothingFrom(pub, 2)
	chosen = resume(t, chosen.ClientID)
	again := chosen.ExpectPublish(topic, "shared")
	if !again.Dup || again.PacketID != p.PacketID {
		t.Errorf("got %s, want it again with packet identifier %d", brokertest.Describe(again), p.PacketID)
	}
	chosen.Acknowledge(again)
	other.ExpectNothingFrom(pub, 2)
}

// [MQTT-4.8.2-5] If the Session of that member ends, its QoS 2 message goes to no other.
func TestMQTT_4_8_2_5_QoS2EndsWithItsSession(t *testing.T) {
	t.Parallel()
	pub, topic := connect(t), brokertest.Name()
	chosen, other, _ := sharing(t, pub, topic, 2)
	chosen.Close()
	connect(t, brokertest.ClientID(chosen.ClientID)).Disconnect() // with Clean Start
	other.ExpectNothingFrom(pub, 2)
}

// [MQTT-4.8.2-6] A message that a member refuses goes to no other.
func TestMQTT_4_8_2_6_RefusedMessagesAreDiscarded(t *testing.T) {
	t.Parallel()
	for qos, packetType := range map[byte]codec.PacketType{1: codec.TypePuback, 2: codec.TypePubrec} {
		pub, topic := connect(t), brokertest.Name()
		chosen, other, p := sharing(t, pub, topic, qos)
		chosen.Send(ack(packetType, p.PacketID, codec.UnspecifiedError))
		chosen.ExpectNothing()
		other.ExpectNothingFrom(pub, qos)
		chosen.Close()
		other.ExpectNothingFrom(pub, qos)
	}
}

// [MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT-3.14.2-1] A Malformed Packet or Protocol Error is answered with the Reason Code for it, and ends the
// connection.
func TestMQTT_4_13_1_1_ErrorsEndTheConnection(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		raw  []byte
		code codec.ReasonCode
	}{
		"truncated PUBLISH":              {packet(0x30, []byte{0, 9, 'a'}), codec.MalformedPacket},
		"truncated PUBACK":               {packet(0x40, []byte{0}), codec.MalformedPacket},
		"bytes after PUBACK":             {packet(0x40, []byte{0, 1, 0, 0, 0}), codec.MalformedPacket},
		"property of another packet":     {packet(0x30, str("a"), []byte{5, 0x11, 0, 0, 0, 1}), codec.ProtocolError},
		"unknown property":               {packet(0x30, str("a"), []byte{2, 0x7F, 0}), codec.MalformedPacket},
		"property twice":                 {packet(0x30, str("a"), []byte{4, 0x01, 1, 0x01, 1}), codec.ProtocolError},
		"Payload Format Indicator 2":     {packet(0x30, str("a"), []byte{2, 0x01, 2}), codec.ProtocolError},
		"properties beyond the packet":   {packet(0x30, str("a"), []byte{9, 0x01}), codec.MalformedPacket},
		"property beyond the properties": {packet(0x30, str("a"), []byte{2, 0x02, 0, 0, 0, 1}), codec.MalformedPacket},
		"CONNACK":                        {packet(0x20, []byte{0, 0, 0}), codec.ProtocolError},
		"SUBACK":                         {packet(0x90, []byte{0, 1, 0, 0}), codec.ProtocolError},
		"UNSUBACK":                       {packet(0xB0, []byte{0, 1, 0, 0}), codec.ProtocolError},
		"PINGRESP":                       {packet(0xD0), codec.ProtocolError},
		"packet type 0":                  {packet(0x00), codec.ProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t)
			c.SendRaw(test.raw)
			// What is wrong in two ways has two Reason Codes to choose from.
			disconnected(t, c, test.code, codec.MalformedPacket^codec.ProtocolError^test.code)
		})
	}
	c := connect(t)
	c.SendRaw([]byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}) // nobody knows where it ends
	ended(t, c, codec.MalformedPacket)
}

// [MQTT-4.9.0-2] [MQTT-4.9.0-1] The send quota starts anew with each connection, at its Receive Maximum.
func TestMQTT_4_9_0_2_SendQuotaAfterReconnect(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	for i := range 6 {
		pub.Publish(topic, fmt.Sprint(i), 1)
		sub.ExpectPublish(topic, fmt.Sprint(i))
	}
	sub.Close()
	sub = resume(t, id, brokertest.With(codec.PropReceiveMaximum, 2))
	p := sub.ExpectPublish(topic, "0")
	sub.ExpectPublish(topic, "1")
	sub.ExpectNothing()
	sub.Acknowledge(p)
	sub.ExpectPublish(topic, "2")
	sub.ExpectNothing()
}

// [MQTT-4.9.0-3] Many QoS 0 messages come though the send quota is zero.
func TestMQTT_4_9_0_3_QoS0WithoutQuota(t *testing.T) {
	t.Parallel()
	pub, topic := connect(t), brokertest.Name()
	sub := connect(t, brokertest.With(codec.PropReceiveMaximum, 1))
	sub.Subscribe(topic, 1)
	pub.Publish(topic, "QoS 1", 1)
	sub.ExpectPublish(topic, "QoS 1")
	pub.Publish(topic, "waits", 1)
	for i := range 50 {
		pub.Publish(topic, strings.Repeat("x", i+1), 0)
	}
	for i := range 50 {
		sub.ExpectPublish(topic, strings.Repeat("x", i+1))
	}
}
