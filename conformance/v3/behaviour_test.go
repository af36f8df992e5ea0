package v3

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store/memory"
)

// Chapters 4 and 7: operational behaviour, conformance.

// [MQTT-4.1.0-1] Session state is stored as long as the Session: subscriptions, messages that aren't acknowledged or not sent yet in either
// direction, over any number of connections.
func TestMQTT_4_1_0_1_SessionStateIsStored(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	c.Subscribe(topic, 2)
	c.Send(publish("a", "held", 2, 9))
	c.ExpectAck(codec.TypePubrec, 9, 0)
	pub.Publish(topic, "QoS 1", 1)
	pub.Publish(topic, "QoS 2", 2)
	pub.Publish(topic, "released", 2)
	c.ExpectPublish(topic, "QoS 1")
	c.ExpectPublish(topic, "QoS 2")
	released := c.ExpectPublish(topic, "released")
	c.Send(ack(codec.TypePubrec, released.PacketID))
	c.ExpectAck(codec.TypePubrel, released.PacketID, 0)
	for range 3 {
		c.Close()
		c = resume(t, id)
	}
	c.ExpectPublish(topic, "QoS 1")
	c.ExpectPublish(topic, "QoS 2")
	c.ExpectAck(codec.TypePubrel, released.PacketID, 0)
	pub.Publish(topic, "live", 1)
	c.ExpectPublish(topic, "live")
	c.Send(ack(codec.TypePubrel, 9))
	c.ExpectAck(codec.TypePubcomp, 9, 0)
}

// [MQTT-4.1.0-2] A Session lasts as long as its connection, also one with Clean Session 1.
func TestMQTT_4_1_0_2_SessionLastsWhileConnected(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "early", 2)
	early := sub.ExpectPublish(topic, "early")
	elapse(2500 * time.Millisecond)
	pub.Publish(topic, "late", 2)
	late := sub.ExpectPublish(topic, "late")
	if late.PacketID == early.PacketID {
		t.Error("the first message was forgotten before it was acknowledged")
	}
	sub.Acknowledge(early)
	sub.Acknowledge(late)
	sub.ExpectNothingFrom(pub, 2)
}

// [MQTT-4.2.0-1] [MQTT-7.1.1-1] TCP carries MQTT as a stream of bytes: a packet that comes byte by byte is the same as one that comes whole,
// several may come at once, and nothing is lost.
func TestMQTT_4_2_0_1_StreamOfBytes(t *testing.T) {
	t.Parallel()
	c, topic := dial(t), brokertest.Name()
	raw := slices.Concat(bytesOf(&codec.Connect{Version: codec.V311, CleanStart: true, ClientID: []byte(brokertest.Name())},
		subscribe(1, brokertest.Subscription(topic, 0)), publish(topic, "payload", 0, 0))...)
	for i := range raw {
		c.SendRaw(raw[i : i+1])
	}
	c.ExpectConnack(0)
	c.ExpectSuback(1, 0)
	c.ExpectPublish(topic, "payload")
	large := publish(topic, strings.Repeat("0123456789", 100_000), 0, 0).Append(nil, codec.V311)
	c.SendRaw(slices.Concat(large, large[:len(large)/2]))
	c.SendRaw(slices.Concat(large[len(large)/2:], large))
	for range 3 {
		if got := c.ReceiveRaw(); !bytes.Equal(got, large) {
			t.Errorf("got %d bytes, want the same %d", len(got), len(large))
		}
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

// [MQTT-4.3.2-1] A message with QoS 1 is sent with QoS 1 and DUP 0 and is unacknowledged until PUBACK: until then it comes again after each
// reconnect.
func TestMQTT_4_3_2_1_UnacknowledgedUntilPuback(t *testing.T) {
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
	for range 2 {
		sub.Close()
		sub = resume(t, id)
		if again := sub.ExpectPublish(topic, "1"); again.QoS != 1 || again.PacketID != first.PacketID {
			t.Errorf("got %s, want it again", brokertest.Describe(again))
		}
	}
	sub.Acknowledge(first)
	sub.Ping()
	sub.Close()
	resume(t, id).ExpectNothingFrom(pub, 1)
}

// [MQTT-4.3.2-2] After PUBACK the same Packet Identifier is a new message, whatever DUP says.
func TestMQTT_4_3_2_2_PacketIdentifierAfterPuback(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	for i, dup := range []bool{false, false, true, true} {
		payload := fmt.Sprint(i)
		pub.Publish(topic, payload, 1, func(p *codec.Publish) { p.PacketID, p.Dup = 77, dup })
		sub.ExpectPublish(topic, payload)
	}
}

// [MQTT-4.3.2-2] [MQTT-4.3.3-2] PUBACK and PUBREC say that the broker has the message: it arrives, though its publisher is gone.
func TestMQTT_4_3_2_2_OwnershipAfterAcknowledgement(t *testing.T) {
	t.Parallel()
	id, topic := brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	sub.Disconnect()
	pub := connect(t)
	pub.Publish(topic, "QoS 1", 1)
	pub.Send(publish(topic, "QoS 2", 2, 9))
	pub.ExpectAck(codec.TypePubrec, 9, 0)
	pub.Close()
	sub = resume(t, id)
	sub.Acknowledge(sub.ExpectPublish(topic, "QoS 1"))
	sub.Acknowledge(sub.ExpectPublish(topic, "QoS 2"))
}

// [MQTT-4.3.3-1] A message with QoS 2 is sent with QoS 2 and DUP 0 and is unacknowledged until PUBREC: until then the PUBLISH comes again
// after each reconnect.
func TestMQTT_4_3_3_1_UnacknowledgedUntilPubrec(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "payload", 2)
	first := sub.ExpectPublish(topic, "payload")
	if first.QoS != 2 || first.Dup {
		t.Errorf("got %s", brokertest.Describe(first))
	}
	for range 2 {
		sub.Close()
		sub = resume(t, id)
		if again := sub.ExpectPublish(topic, "payload"); again.QoS != 2 || again.PacketID != first.PacketID {
			t.Errorf("got %s, want it again", brokertest.Describe(again))
		}
	}
	sub.Acknowledge(first)
	sub.ExpectNothing()
}

// [MQTT-4.3.3-1] [MQTT-4.4.0-1] PUBREC is answered with PUBREL of the same Packet Identifier. Until PUBCOMP the PUBREL comes again after each
// reconnect, and the PUBLISH doesn't.
func TestMQTT_4_3_3_1_PubrelUntilPubcomp(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "payload", 2)
	p := sub.ExpectPublish(topic, "payload")
	sub.Send(ack(codec.TypePubrec, p.PacketID))
	sub.ExpectAck(codec.TypePubrel, p.PacketID, 0)
	for range 2 {
		sub.Close()
		sub = resume(t, id)
		sub.ExpectAck(codec.TypePubrel, p.PacketID, 0)
		sub.ExpectNothingFrom(pub, 2)
	}
	sub.Send(ack(codec.TypePubcomp, p.PacketID))
	sub.Ping()
	sub.Close()
	resume(t, id).ExpectNothingFrom(pub, 2)
}

// [MQTT-4.3.3-2] Until PUBREL a PUBLISH with the same Packet Identifier is answered with PUBREC again, over a reconnect too, and its message
// delivered once.
func TestMQTT_4_3_3_2_NoDuplicateUntilPubrel(t *testing.T) {
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
			if round == 2 && durable {
				pub.Close()
				pub = resume(t, pub.ClientID)
			}
			pub.Send(p)
			pub.ExpectAck(codec.TypePubrec, 500, 0)
			p.Dup = true
		}
		pub.Send(ack(codec.TypePubrel, 500))
		pub.ExpectAck(codec.TypePubcomp, 500, 0)
		sub.Acknowledge(sub.ExpectPublish(topic, "payload"))
		sub.ExpectNothingFrom(pub, 2)
	}
}

// [MQTT-4.3.3-2] PUBREL is answered with PUBCOMP of the same Packet Identifier: over a reconnect too, and again if it comes again.
func TestMQTT_4_3_3_2_PubcompAnswersPubrel(t *testing.T) {
	t.Parallel()
	id, topic := brokertest.Name(), brokertest.Name()
	pub := connect(t, brokertest.Durable(id))
	pub.Send(publish(topic, "1", 2, 1), publish(topic, "2", 2, 2))
	pub.ExpectAck(codec.TypePubrec, 1, 0)
	pub.ExpectAck(codec.TypePubrec, 2, 0)
	pub.Send(ack(codec.TypePubrel, 2))
	pub.ExpectAck(codec.TypePubcomp, 2, 0)
	pub.Close()
	pub = resume(t, id)
	for _, packetID := range []uint16{1, 2, 1} {
		pub.Send(ack(codec.TypePubrel, packetID))
		pub.ExpectAck(codec.TypePubcomp, packetID, 0)
	}
}

// [MQTT-4.3.3-2] After PUBCOMP the same Packet Identifier is a new message, whatever DUP says, over a reconnect too.
func TestMQTT_4_3_3_2_PacketIdentifierAfterPubcomp(t *testing.T) {
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

// [MQTT-4.4.0-1] [MQTT-2.3.1-4] [MQTT-4.6.0-1] [MQTT-4.6.0-6] After a reconnect PUBLISH and PUBREL that aren't acknowledged come again with
// their Packet Identifiers, the PUBLISH packets in their order and before what is new.
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
	sub.Send(ack(codec.TypePubrec, ids[1]))
	sub.ExpectAck(codec.TypePubrel, ids[1], 0)
	sub.Disconnect() // when it returns, the broker knows: "new" isn't sent yet
	pub.Publish(topic, "new", 1)

	sub = resume(t, id)
	var publishes []string
	var pubrels []uint16
	for range 7 {
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
	sub.ExpectNothingFrom(pub, 1)
}

// [MQTT-4.5.0-1] A message goes to all Clients with a matching subscription: connected or not, with a Session that lasts or not.
func TestMQTT_4_5_0_1_AllMatchingSessionsGetTheMessage(t *testing.T) {
	t.Parallel()
	pub, prefix := connect(t), brokertest.Name()
	var subs []*brokertest.Client
	var ids []string
	for i, filter := range []string{"/a/b", "/+/b", "/#", "/a/+"} {
		c, d := connect(t), connect(t, brokertest.Durable(brokertest.Name()))
		c.Subscribe(prefix+filter, 2)
		d.Subscribe(prefix+filter, byte(1+i%2))
		subs, ids = append(subs, c), append(ids, d.ClientID)
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
		c.ExpectNothingFrom(pub, 2)
	}
}

// [MQTT-4.6.0-5] [MQTT-4.6.0-6] Messages of a Client with the same topic and QoS keep their order, to connected Clients and from the queue,
// and those of several topics too.
func TestMQTT_4_6_0_6_OrderedTopics(t *testing.T) {
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

// [MQTT-4.6.0-6] Messages with RETAIN 1, which are stored, and others don't overtake each other.
func TestMQTT_4_6_0_6_OrderOfRetainedMessages(t *testing.T) {
	t.Parallel()
	const n = 60
	for qos := range byte(3) {
		pub, sub, topic := connect(t), connect(t), brokertest.Name()
		sub.Subscribe(topic, 2)
		var burst []brokertest.Packet
		for i := range n {
			p := publish(topic, fmt.Sprint(i), qos, uint16(i+1)*uint16(min(qos, 1)))
			p.Retain = i%3 == 0
			burst = append(burst, p)
		}
		pub.Send(burst...)
		for i := range n {
			sub.Acknowledge(sub.ExpectPublish(topic, fmt.Sprint(i)))
		}
	}
}

// [MQTT-4.6.0-6] [MQTT-4.6.0-1] What was sent comes again in the order of the first time, and what wasn't sent follows.
func TestMQTT_4_6_0_6_OrderOfRedelivery(t *testing.T) {
	t.Parallel()
	const n = 30
	pub, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	for i := range n {
		pub.Publish(topic, fmt.Sprint(i), 1)
		if i < n/2 {
			sub.ExpectPublish(topic, fmt.Sprint(i))
		} else if i == n/2 {
			sub.Close()
		}
	}
	for range 2 {
		sub = resume(t, id)
		for i := range n {
			sub.ExpectPublish(topic, fmt.Sprint(i))
		}
		sub.Close()
	}
}

// [MQTT-4.6.0-6] [MQTT-4.6.0-4] PUBRELs are sent in the order of the PUBRECs.
func TestMQTT_4_6_0_6_OrderOfPubrels(t *testing.T) {
	t.Parallel()
	for _, option := range []brokertest.ConnectOption{func(*codec.Connect) {}, brokertest.Resume} {
		pub, sub, topic := connect(t), connect(t, option), brokertest.Name()
		sub.Subscribe(topic, 2)
		var pubrecs []brokertest.Packet
		for i := range 40 {
			pub.Publish(topic, fmt.Sprint(i), 2)
			pubrecs = append(pubrecs, ack(codec.TypePubrec, sub.ExpectPublish(topic, fmt.Sprint(i)).PacketID))
		}
		slices.Reverse(pubrecs[10:30])
		sub.Send(pubrecs...)
		for _, p := range pubrecs {
			sub.ExpectAck(codec.TypePubrel, p.(*codec.Ack).PacketID, 0)
		}
	}
}

// [MQTT-4.6.0-6] [MQTT-4.6.0-2] [MQTT-4.6.0-3] The broker acknowledges in the order of the PUBLISH packets too, whether their messages have
// to be stored or not.
func TestMQTT_4_6_0_6_OrderOfAcknowledgements(t *testing.T) {
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

// [MQTT-4.7.1-2] [MQTT-4.7.1-3] A Topic Filter in which a wildcard isn't a level of its own, or # not the last, is a protocol violation.
func TestMQTT_4_7_1_2_WildcardsAreWholeLevels(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"a#", "#a", "a/#b", "a/#/b", "#/", "##", "a+", "+a", "a/b+/c", "++", "a/+#", "+#"} {
		closes(t, bytesOf(subscribe(1, brokertest.Subscription(filter, 0)), unsubscribe(1, filter))...)
	}
}

// [MQTT-4.7.1-2] [MQTT-4.7.1-3] What the wildcards match: # its parent and all below, + exactly one level.
func TestMQTT_4_7_1_2_WildcardMatching(t *testing.T) {
	t.Parallel()
	p := brokertest.Name()
	topics := []string{p, p + "/", p + "/a", p + "/a/b", p + "/a/b/c", p + "//b", p + "x"}
	for filter, want := range map[string][]int{
		p + "/#": {0, 1, 2, 3, 4, 5}, p + "/+": {1, 2}, p + "/+/b": {3, 5}, p + "/+/#": {1, 2, 3, 4, 5}, p + "/a/+/c": {4},
		p + "/+/+": {3, 5}, p: {0}, p + "/": {1}, "+/a/#": {2, 3, 4},
	} {
		c := connect(t)
		c.Subscribe(filter, 0)
		for i, topic := range topics {
			c.Publish(topic, fmt.Sprint(i), 0)
		}
		var wanted, got []string
		for _, i := range want {
			wanted = append(wanted, topics[i])
		}
		for _, m := range received(t, c, c) {
			if strings.HasPrefix(string(m.TopicName), p) { // "+/a/#" gets others' messages
				got = append(got, string(m.TopicName))
			}
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: got %q, want %q", filter, got, wanted)
		}
	}
}

// [MQTT-4.7.2-1] A Topic Filter that begins with a wildcard doesn't match a Topic Name that begins with $, live or retained; one that begins
// with the same level does.
func TestMQTT_4_7_2_1_WildcardsAndDollarTopics(t *testing.T) {
	t.Parallel()
	level := brokertest.Name()
	topic := "$" + level + "/" + level
	pub := connect(t)
	pub.Publish(topic, "retained", 1, brokertest.Retained)
	for _, filter := range []string{"#", "+/#", "+/" + level, "+/+"} {
		c := connect(t)
		c.Subscribe(filter, 0)
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
	c.ExpectPublish(topic, "retained")
	c.Publish(topic, "", 0, brokertest.Retained)
	c.ExpectPublish(topic, "")
}

// [MQTT-4.7.3-1] An empty Topic Name or Topic Filter is a protocol violation; one character is enough.
func TestMQTT_4_7_3_1_OneCharacterAtLeast(t *testing.T) {
	t.Parallel()
	closes(t, bytesOf(publish("", "payload", 0, 0), publish("", "payload", 1, 1), subscribe(1, brokertest.Subscription("", 0)),
		unsubscribe(1, ""))...)
	c := connect(t)
	c.Subscribe("/", 0)
	c.Publish("/", "payload", 0)
	c.ExpectPublish("/", "payload")
}

// [MQTT-4.7.3-2] U+0000 in a Topic Name or Topic Filter is a protocol violation.
func TestMQTT_4_7_3_2_NullCharacter(t *testing.T) {
	t.Parallel()
	closes(t, bytesOf(publish("a\x00", "payload", 0, 0), subscribe(1, brokertest.Subscription("a/\x00/#", 0)), unsubscribe(1, "\x00"))...)
}

// [MQTT-4.7.3-3] Topic Names and Topic Filters of 65,535 bytes work, which is the most that their length field can say.
func TestMQTT_4_7_3_3_LongestTopic(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()+"/"
	topic += strings.Repeat("x", 65535-len(topic))
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
		c.ExpectNothingFrom(c, 0)
	}
}

// [MQTT-4.8.0-1] A protocol violation ends the connection that it came on, and no other.
func TestMQTT_4_8_0_1_ProtocolViolations(t *testing.T) {
	t.Parallel()
	other, topic := connect(t), brokertest.Name()
	other.Subscribe(topic, 0)
	closes(t, packet(0x00), packet(0xF0), packet(0xF0, []byte{0}), // reserved packet types
		packet(0x20, []byte{0, 0}), packet(0x90, []byte{0, 1, 0}), packet(0xB0, []byte{0, 1}), packet(0xD0), // for Servers to send
		[]byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1}, []byte{0xC0, 0xFF, 0xFF, 0xFF, 0x80}, // lengths of five bytes
		packet(0x40), packet(0x40, []byte{0}), packet(0x40, []byte{0, 1, 0}), packet(0x62, []byte{1}), packet(0x70, []byte{0, 1, 0}),
		packet(0xC0, []byte{0}), packet(0xE0, []byte{0}), packet(0x32, str("a"), []byte{1}), packet(0x82, []byte{1}))
	other.Publish(topic, "payload", 0)
	other.ExpectPublish(topic, "payload")
}

// [MQTT-4.8.0-2] A message that the broker can't store for now isn't acknowledged: the connection that it came on ends, and no other.
func TestMQTT_4_8_0_2_TransientError(t *testing.T) {
	t.Parallel()
	full := memory.New(memory.Options{MaxBytes: 1000})
	defer full.Close()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = full })
	for qos := byte(1); qos <= 2; qos++ {
		sub := brokertest.Connect(t, s.Addr, codec.V311, brokertest.Durable(brokertest.Name()))
		sub.Subscribe("a", 2)
		pub := brokertest.Connect(t, s.Addr, codec.V311)
		pub.Send(publish("a", strings.Repeat("x", 2000), qos, 1))
		pub.ExpectClosed()
		again := brokertest.Connect(t, s.Addr, codec.V311, brokertest.ClientID(pub.ClientID))
		again.Publish("a", "fits", qos)
		sub.Acknowledge(sub.ExpectPublish("a", "fits"))
		sub.Unsubscribe("a")
	}
}

// [MQTT-7.0.0-2] Clients that know nothing but MQTT 3.1.1 are served, byte by byte as it says.
func TestMQTT_7_0_0_2_NoExtensionIsNeeded(t *testing.T) {
	t.Parallel()
	c, topic := dial(t), brokertest.Name()
	filter := slices.Concat([]byte{0, byte(len(topic))}, []byte(topic))
	length := func(n int) byte { return byte(n + len(filter)) }
	for _, step := range []struct{ send, want []byte }{
		{slices.Concat([]byte{0x10, length(10), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 10}, filter), []byte{0x20, 2, 0, 0}},
		{slices.Concat([]byte{0x82, length(3), 0, 10}, filter, []byte{1}), []byte{0x90, 3, 0, 10, 1}},
		{slices.Concat([]byte{0x30, length(2)}, filter, []byte("hi")), slices.Concat([]byte{0x30, length(2)}, filter, []byte("hi"))},
		{slices.Concat([]byte{0xA2, length(2), 0, 11}, filter), []byte{0xB0, 2, 0, 11}},
		{slices.Concat([]byte{0x32, length(4)}, filter, []byte{0, 12}, []byte("hi")), []byte{0x40, 2, 0, 12}},
		{slices.Concat([]byte{0x34, length(4)}, filter, []byte{0, 13}, []byte("hi")), []byte{0x50, 2, 0, 13}},
		{[]byte{0x62, 2, 0, 13}, []byte{0x70, 2, 0, 13}},
		{[]byte{0xC0, 0}, []byte{0xD0, 0}},
		{[]byte{0xE0, 0}, nil},
	} {
		c.SendRaw(step.send)
		if got := c.ReceiveRaw(); !bytes.Equal(got, step.want) {
			t.Errorf("sent % X: got % X, want % X", step.send, got, step.want)
		}
	}
}
