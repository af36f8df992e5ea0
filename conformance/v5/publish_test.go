package v5

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Section 3.3: PUBLISH.

// [MQTT-3.3.1-1] [MQTT-4.4.0-1] A PUBLISH that is sent again has DUP 1 and its Packet Identifier; the first time it had DUP 0.
func TestMQTT_3_3_1_1_DupOnRedelivery(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
		sub := connect(t, brokertest.Durable(id))
		sub.Subscribe(topic, qos)
		pub.Publish(topic, "payload", qos)
		first := sub.ExpectPublish(topic, "payload")
		sub.Close()
		sub = resume(t, id)
		again := sub.ExpectPublish(topic, "payload")
		if first.Dup || !again.Dup || again.PacketID != first.PacketID || again.QoS != qos {
			t.Errorf("got first %+v, then %+v", first, again)
		}
		sub.Acknowledge(again)
	}
}

// [MQTT-3.3.1-2] [MQTT-4.3.1-1] A PUBLISH with QoS 0 and DUP 1 is malformed, and the broker sends none.
func TestMQTT_3_3_1_2_DupWithQoS0(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Subscribe(topic, 0)
	c.Publish(topic, "payload", 1, func(p *codec.Publish) { p.Dup = true })
	if p := c.ExpectPublish(topic, "payload"); p.Dup || p.QoS != 0 {
		t.Errorf("got DUP %t and QoS %d", p.Dup, p.QoS)
	}
	c.SendRaw(packet(0x38, str(topic), []byte{0}))
	disconnected(t, c, codec.MalformedPacket)
}

// [MQTT-3.3.1-3] [MQTT-4.3.2-2] [MQTT-4.3.3-2] DUP isn't passed on: to its subscribers the message is new.
func TestMQTT_3_3_1_3_DupIsNotPropagated(t *testing.T) {
	t.Parallel()
	pub, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic, 2)
	for qos := byte(1); qos <= 2; qos++ {
		pub.Publish(topic, "payload", qos, func(p *codec.Publish) { p.Dup = true })
		p := sub.ExpectPublish(topic, "payload")
		if p.Dup || p.QoS != qos {
			t.Errorf("got DUP %t and QoS %d, want DUP 0 and QoS %d", p.Dup, p.QoS, qos)
		}
		sub.Acknowledge(p)
	}
}

// [MQTT-3.3.1-4] QoS 3 is malformed.
func TestMQTT_3_3_1_4_QoS3IsMalformed(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0x36, 0x37, 0x3E} {
		c := connect(t)
		c.SendRaw(packet(first, str("a"), []byte{0, 1, 0}))
		disconnected(t, c, codec.MalformedPacket)
	}
}

// retained subscribes anew and returns the payloads of the retained messages that come.
func retained(t *testing.T, topicFilter string, set ...func(*codec.SubscriptionOptions)) []string {
	t.Helper()
	c := connect(t)
	c.Subscribe(topicFilter, 2, func(p *codec.Subscribe) {
		for _, f := range set {
			f(&p.Subscriptions[0].Options)
		}
	})
	return payloads(receiveAll(t, c, c))
}

// receiveAll returns the messages that are on their way to c, acknowledged: those of pub, and retained ones. Marks that pub publishes behind
// them with each QoS, and that c then gets once more as retained messages, show where they end.
func receiveAll(t *testing.T, c, pub *brokertest.Client) (all []*codec.Publish) {
	t.Helper()
	end := brokertest.Name()
	ends := func() {
		t.Helper()
		for n := 0; n < 3; {
			p := brokertest.Expect[*codec.Publish](c)
			c.Acknowledge(p)
			if strings.HasPrefix(string(p.TopicName), end) {
				n++
				continue
			}
			all = append(all, p)
		}
	}
	c.Subscribe(end+"/+", 2)
	for qos := range byte(3) {
		pub.Publish(fmt.Sprint(end, "/", qos), "end", qos, brokertest.Retained)
	}
	ends()
	c.Subscribe(end+"/+", 2)
	ends()
	c.Unsubscribe(end + "/+")
	for qos := range 3 {
		pub.Publish(fmt.Sprint(end, "/", qos), "", 0, brokertest.Retained)
	}
	return all
}

func payloads(all []*codec.Publish) (payloads []string) {
	for _, p := range all {
		payloads = append(payloads, string(p.Payload))
	}
	return payloads
}

// [MQTT-3.3.1-5] A message with RETAIN 1 replaces the retained message of its topic, with its QoS and properties.
func TestMQTT_3_3_1_5_RetainedMessageIsReplaced(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for qos := range byte(3) {
		c.Publish(topic, fmt.Sprint(qos), qos, brokertest.Retained)
		late := connect(t)
		late.Subscribe(topic, 2)
		p := late.ExpectPublish(topic, fmt.Sprint(qos))
		if !p.Retain || p.QoS != qos || p.Dup {
			t.Errorf("got %+v, want RETAIN 1 and QoS %d", p, qos)
		}
		late.Acknowledge(p)
		late.ExpectNothing()
	}
}

// [MQTT-3.3.1-6] [MQTT-3.3.1-7] A message with RETAIN 1 and no payload removes the retained message, goes to subscribers as any other,
// and isn't stored itself.
func TestMQTT_3_3_1_6_EmptyPayloadRemovesTheRetainedMessage(t *testing.T) {
	t.Parallel()
	c, sub, topic := connect(t), connect(t), brokertest.Name()
	c.Publish(topic, "payload", 1, brokertest.Retained)
	sub.Subscribe(topic, 1, option(func(o *codec.SubscriptionOptions) { o.RetainHandling = 2 }))
	c.Publish(topic, "", 1, brokertest.Retained)
	sub.Acknowledge(sub.ExpectPublish(topic, ""))
	if got := retained(t, topic); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.3.1-7] A message without payload isn't stored where there was none before.
func TestMQTT_3_3_1_7_EmptyPayloadIsNotRetained(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	for qos := range byte(3) {
		c.Publish(topic, "", qos, brokertest.Retained)
	}
	c.Ping()
	if got := retained(t, topic); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.3.1-8] Messages with RETAIN 0, empty or not, leave the retained message as it is.
func TestMQTT_3_3_1_8_RetainedMessageStays(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Publish(topic, "not retained", 1)
	if got := retained(t, topic); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
	c.Publish(topic, "retained", 1, brokertest.Retained)
	c.Publish(topic, "other", 1)
	c.Publish(topic, "", 1)
	if got := retained(t, topic); !slices.Equal(got, []string{"retained"}) {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.3.1-9] Retain Handling 0 sends the retained messages that match, also if the subscription was there.
func TestMQTT_3_3_1_9_RetainHandling0(t *testing.T) {
	t.Parallel()
	c, prefix := connect(t), brokertest.Name()
	for _, level := range []string{"a", "b", "b/c"} {
		c.Publish(prefix+"/"+level, level, 1, brokertest.Retained)
	}
	sub := connect(t)
	for range 2 {
		sub.Subscribe(prefix+"/+", 1)
		got := payloads(receiveAll(t, sub, sub))
		slices.Sort(got)
		if !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("got retained messages %q, want those of a and b", got)
		}
	}
}

// [MQTT-3.3.1-10] Retain Handling 1 sends retained messages only if the subscription is new.
func TestMQTT_3_3_1_10_RetainHandling1(t *testing.T) {
	t.Parallel()
	c, sub, topic := connect(t), connect(t), brokertest.Name()
	c.Publish(topic, "retained", 1, brokertest.Retained)
	handling1 := option(func(o *codec.SubscriptionOptions) { o.RetainHandling = 1 })
	sub.Subscribe(topic, 1, handling1)
	sub.Acknowledge(sub.ExpectPublish(topic, "retained"))
	sub.Subscribe(topic, 1, handling1)
	if got := receiveAll(t, sub, sub); len(got) != 0 {
		t.Errorf("got %q though the subscription was there", payloads(got))
	}
	sub.Unsubscribe(topic)
	sub.Subscribe(topic, 1, handling1)
	sub.ExpectPublish(topic, "retained")
}

// [MQTT-3.3.1-11] Retain Handling 2 sends no retained messages.
func TestMQTT_3_3_1_11_RetainHandling2(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	c.Publish(topic, "retained", 1, brokertest.Retained)
	if got := retained(t, topic, func(o *codec.SubscriptionOptions) { o.RetainHandling = 2 }); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.3.1-12] [MQTT-3.3.1-13] RETAIN is passed on with Retain As Published 1, and is 0 with Retain As Published 0. Retained messages
// that a subscription brings have it in any case.
func TestMQTT_3_3_1_12_RetainAsPublished(t *testing.T) {
	t.Parallel()
	for _, asPublished := range []bool{false, true} {
		c, sub, topic := connect(t), connect(t), brokertest.Name()
		set := option(func(o *codec.SubscriptionOptions) { o.RetainAsPublished = asPublished })
		sub.Subscribe(topic, 0, set)
		c.Publish(topic, "retained", 0, brokertest.Retained)
		if p := sub.ExpectPublish(topic, "retained"); p.Retain != asPublished {
			t.Errorf("retain as published %t: got RETAIN %t", asPublished, p.Retain)
		}
		c.Publish(topic, "not retained", 0)
		if p := sub.ExpectPublish(topic, "not retained"); p.Retain {
			t.Errorf("retain as published %t: got RETAIN 1 for a message without", asPublished)
		}
		sub.Subscribe(topic, 0, set)
		if p := sub.ExpectPublish(topic, "retained"); !p.Retain {
			t.Error("got RETAIN 0 on a retained message")
		}
	}
}

// [MQTT-3.3.2-1] A PUBLISH whose Topic Name isn't there, isn't whole, or isn't UTF-8 is malformed.
func TestMQTT_3_3_2_1_TopicNameIsPresent(t *testing.T) {
	t.Parallel()
	for _, body := range [][]byte{{}, {0}, {0, 5, 'a', 'b'}, {0, 1, 0xFF, 0}} {
		c := connect(t)
		c.SendRaw(packet(0x30, body))
		disconnected(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.3.2-2] [MQTT-4.7.0-1] A Topic Name with a wildcard is refused.
func TestMQTT_3_3_2_2_WildcardInTopicName(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"#", "+", "a/#", "a/+/b", "a+", "#a"} {
		for qos := range byte(3) {
			c := connect(t)
			c.Send(publish(topic, "payload", qos, uint16(qos)))
			disconnected(t, c, codec.TopicNameInvalid, codec.MalformedPacket)
		}
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
	c.ExpectNothing()
}

// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-20] Payload Format Indicator, Response Topic, Correlation Data and Content Type
// are passed on as they are, live, retained and from the queue; those that aren't there stay away.
func TestMQTT_3_3_2_4_PropertiesArePassedOn(t *testing.T) {
	t.Parallel()
	c, live, topic, id := connect(t), connect(t), brokertest.Name(), brokertest.Name()
	live.Subscribe(topic, 1)
	offline := connect(t, brokertest.Durable(id))
	offline.Subscribe(topic, 1)
	offline.Disconnect()
	correlation := "\x00\xFF\x80"
	c.Publish(topic, "full", 1, brokertest.Retained, func(p *codec.Publish) {
		p.Properties = brokertest.Properties(codec.PropPayloadFormatIndicator, 1, codec.PropResponseTopic, "response/ü",
			codec.PropCorrelationData, correlation, codec.PropContentType, "content/ü")
	})
	late := connect(t)
	late.Subscribe(topic, 1)
	for name, sub := range map[string]*brokertest.Client{"live": live, "late": late, "queued": resume(t, id)} {
		p := sub.ExpectPublish(topic, "full")
		sub.Acknowledge(p)
		pp := &p.Properties
		if pp.PayloadFormatIndicator != 1 || string(pp.ResponseTopic) != "response/ü" ||
			string(pp.CorrelationData) != correlation || string(pp.ContentType) != "content/ü" {
			t.Errorf("%s: got %+v", name, pp)
		}
	}
	c.Publish(topic, "plain", 1)
	pp := live.ExpectPublish(topic, "plain").Properties
	if pp.Has(codec.PropPayloadFormatIndicator) || pp.Has(codec.PropResponseTopic) || pp.Has(codec.PropCorrelationData) ||
		pp.Has(codec.PropContentType) || pp.Has(codec.PropUserProperty) || pp.Has(codec.PropMessageExpiryInterval) {
		t.Errorf("got %+v, want no properties", pp)
	}
}

// [MQTT-3.3.2-5] A message that expires before its delivery starts isn't delivered, from the queue as little as retained.
func TestMQTT_3_3_2_5_ExpiredMessagesAreDeleted(t *testing.T) {
	t.Parallel()
	c, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 2)
	sub.Disconnect()
	for qos := byte(1); qos <= 2; qos++ {
		c.Publish(topic, "expires", qos, brokertest.Retained, properties(codec.PropMessageExpiryInterval, 1))
		c.Publish(topic, "stays", qos, properties(codec.PropMessageExpiryInterval, 60))
	}
	elapse(2100 * time.Millisecond)
	if got := retained(t, topic); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
	sub = resume(t, id)
	if got := payloads(receiveAll(t, sub, c)); !slices.Equal(got, []string{"stays", "stays"}) {
		t.Errorf("got %q from the queue", got)
	}
}

// [MQTT-3.3.2-6] The Message Expiry Interval goes out less the time that the message waited, from the queue and retained.
func TestMQTT_3_3_2_6_MessageExpiryCountsDown(t *testing.T) {
	t.Parallel()
	c, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	c.Publish(topic, "live", 1, properties(codec.PropMessageExpiryInterval, 100))
	if p := sub.ExpectPublish(topic, "live"); p.Properties.MessageExpiryInterval < 90 || p.Properties.MessageExpiryInterval > 100 {
		t.Errorf("live: got %d, want 100", p.Properties.MessageExpiryInterval)
	} else {
		sub.Acknowledge(p)
	}
	sub.Disconnect()
	c.Publish(topic, "waited", 1, brokertest.Retained, properties(codec.PropMessageExpiryInterval, 100))
	elapse(2 * time.Second)
	late := connect(t)
	late.Subscribe(topic, 1)
	for name, sub := range map[string]*brokertest.Client{"retained": late, "queued": resume(t, id)} {
		p := sub.ExpectPublish(topic, "waited")
		if got := p.Properties.MessageExpiryInterval; got > 98 || got < 90 {
			t.Errorf("%s: got %d, want 98", name, got)
		}
	}
}

// [MQTT-3.3.2-7] Topic Aliases end with their connection, though the Session goes on: using one that isn't set is a Protocol Error.
func TestMQTT_3_3_2_7_TopicAliasesEndWithTheConnection(t *testing.T) {
	t.Parallel()
	id, topic := brokertest.Name(), brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	c.Publish(topic, "set", 1, properties(codec.PropTopicAlias, 1))
	c.Publish("", "use", 1, properties(codec.PropTopicAlias, 1))
	c.Close()
	c = resume(t, id)
	c.Send(publish("", "stale", 1, 9, codec.PropTopicAlias, 1))
	disconnected(t, c, codec.ProtocolError, codec.TopicAliasInvalid)
}

// [MQTT-3.3.2-8] Topic Alias 0 is refused with 0x94.
func TestMQTT_3_3_2_8_TopicAlias0(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.SendRaw(packet(0x30, str("a"), []byte{3, 0x23, 0, 0}))
	disconnected(t, c, codec.TopicAliasInvalid)
}

// [MQTT-3.3.2-12] All Topic Aliases from 1 to the Topic Alias Maximum of CONNACK are accepted, and can be set to another topic.
func TestMQTT_3_3_2_12_TopicAliasesAreAccepted(t *testing.T) {
	t.Parallel()
	c, prefix := dial(t), brokertest.Name()
	maximum := int(c.Connect().Properties.TopicAliasMaximum)
	c.Subscribe(prefix+"/+", 0)
	for round := range 2 {
		topic := func(alias int) string { return fmt.Sprintf("%s/%d", prefix, alias+round*maximum) }
		for alias := 1; alias <= maximum; alias++ {
			c.Publish(topic(alias), "set", 0, properties(codec.PropTopicAlias, alias))
			c.ExpectPublish(topic(alias), "set")
		}
		for alias := maximum; alias >= 1; alias-- {
			c.Publish("", "use", 0, properties(codec.PropTopicAlias, alias))
			c.ExpectPublish(topic(alias), "use")
		}
	}
}

// [MQTT-3.3.2-13] [MQTT-3.3.2-19] [MQTT-1.5.4-1] Response Topic and Content Type are UTF-8 strings.
func TestMQTT_3_3_2_13_StringPropertiesAreUTF8(t *testing.T) {
	t.Parallel()
	for _, bad := range append([]string{"a\x00b"}, values(badStrings)...) {
		for _, id := range []codec.PropertyID{codec.PropResponseTopic, codec.PropContentType} {
			c := connect(t)
			c.Send(publish("a", "payload", 0, 0, id, bad))
			disconnected(t, c, codec.MalformedPacket)
		}
	}
}

// [MQTT-3.3.2-14] A Response Topic with a wildcard is refused.
func TestMQTT_3_3_2_14_WildcardInResponseTopic(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"#", "a/+", "a/#", "+"} {
		c := connect(t)
		c.Send(publish("a", "payload", 0, 0, codec.PropResponseTopic, topic))
		disconnected(t, c, codec.ProtocolError, codec.TopicNameInvalid, codec.MalformedPacket)
	}
}

// [MQTT-3.3.2-17] [MQTT-3.3.2-18] User Properties are passed on unaltered and in their order: live, retained, and from the queue.
func TestMQTT_3_3_2_17_UserPropertiesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	c, live, topic, id := connect(t), connect(t), brokertest.Name(), brokertest.Name()
	live.Subscribe(topic, 1)
	offline := connect(t, brokertest.Durable(id))
	offline.Subscribe(topic, 1)
	offline.Disconnect()
	pairs := [][2]string{{"b", "1"}, {"a", "2"}, {"b", "1"}, {"", ""}, {"ü", "\uFEFF"}, {"a", "0"}}
	var list []any
	for _, pair := range pairs {
		list = append(list, codec.PropUserProperty, pair)
	}
	c.Publish(topic, "payload", 1, brokertest.Retained, properties(list...))
	late := connect(t)
	late.Subscribe(topic, 1)
	for _, sub := range []*brokertest.Client{live, late, resume(t, id)} {
		expectUserProperties(t, sub.ExpectPublish(topic, "payload"), pairs)
	}

	// The same in bytes, without a decoder that could turn them round as the encoder did.
	raw := packet(0x30, str(topic), []byte{21}, []byte{0x26, 0, 1, 'b', 0, 1, '1', 0x26, 0, 1, 'a', 0, 1, '2', 0x26, 0, 1, 'b', 0, 1, '3'})
	c.SendRaw(raw)
	if got := live.ReceiveRaw(); !bytes.Equal(got, raw) {
		t.Errorf("got % X, want % X", got, raw)
	}
}

// [MQTT-3.3.4-1] A PUBLISH is answered with nothing, PUBACK or PUBREC, as its QoS asks.
func TestMQTT_3_3_4_1_ResponseByQoS(t *testing.T) {
	t.Parallel()
	c, topic := connect(t), brokertest.Name()
	connect(t).Subscribe(topic, 0)
	c.Send(publish(topic, "payload", 0, 0))
	c.ExpectNothing()
	c.Send(publish(topic, "payload", 1, 7))
	c.ExpectAck(codec.TypePuback, 7, codec.Success)
	c.Send(publish(topic, "payload", 2, 8))
	c.ExpectAck(codec.TypePubrec, 8, codec.Success)
	c.ExpectNothing()
}

// [MQTT-3.3.4-2] A message that several subscriptions of a Client match comes with the greatest QoS that they allow.
func TestMQTT_3_3_4_2_OverlappingSubscriptionsMaximumQoS(t *testing.T) {
	t.Parallel()
	for published := range byte(3) {
		c, sub, topic := connect(t), connect(t), brokertest.Name()
		sub.Subscribe(topic, 0)
		sub.Subscribe("+/"+topic, 0) // matches nothing here
		sub.Subscribe(topic+"/#", 1)
		c.Publish(topic, "payload", published)
		var greatest byte
		for _, p := range receiveAll(t, sub, c) {
			greatest = max(greatest, p.QoS)
		}
		if want := min(published, 1); greatest != want {
			t.Errorf("published with QoS %d: got QoS %d, want %d", published, greatest, want)
		}
	}
}

// [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5] A message comes with the Subscription Identifiers of all subscriptions that match it, whether
// in one copy or in several.
func TestMQTT_3_3_4_3_SubscriptionIdentifiers(t *testing.T) {
	t.Parallel()
	c, sub, topic := connect(t), connect(t), brokertest.Name()
	sub.Subscribe(topic, 0, identifier(7))
	sub.Subscribe(topic+"/#", 1, identifier(268435455))
	sub.Subscribe("$share/g/"+topic+"/other", 1, identifier(9))
	for qos := range byte(3) {
		c.Publish(topic, "payload", qos)
		all := receiveAll(t, sub, c)
		var got []uint32
		for _, p := range all {
			if got = append(got, p.Properties.SubscriptionIdentifiers...); len(p.Properties.SubscriptionIdentifiers) == 0 {
				t.Error("got a copy without subscription identifier")
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, []uint32{7, 268435455}) {
			t.Errorf("QoS %d: got subscription identifiers %d in %d copies", qos, got, len(all))
		}
	}
}

// [MQTT-3.3.4-3] A subscription without Subscription Identifier adds none, one that is replaced changes it, and retained messages have it.
func TestMQTT_3_3_4_3_SubscriptionIdentifierIsReplaced(t *testing.T) {
	t.Parallel()
	c, sub, topic := connect(t), connect(t), brokertest.Name()
	c.Publish(topic, "retained", 1, brokertest.Retained)
	for _, n := range []int{5, 6} {
		sub.Subscribe(topic, 0, identifier(n))
		if p := sub.ExpectPublish(topic, "retained"); !slices.Equal(p.Properties.SubscriptionIdentifiers, []uint32{uint32(n)}) {
			t.Errorf("got %d, want %d", p.Properties.SubscriptionIdentifiers, n)
		}
	}
	sub.Subscribe(topic, 0, option(func(o *codec.SubscriptionOptions) { o.RetainHandling = 2 }))
	c.Publish(topic, "payload", 0)
	if p := sub.ExpectPublish(topic, "payload"); len(p.Properties.SubscriptionIdentifiers) != 0 {
		t.Errorf("got %d, want none", p.Properties.SubscriptionIdentifiers)
	}
}

// [MQTT-3.3.4-6] A Subscription Identifier in a PUBLISH from a Client is a Protocol Error.
func TestMQTT_3_3_4_6_SubscriptionIdentifierFromAClient(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.Send(publish("a", "payload", 0, 0, codec.PropSubscriptionIdentifier, 1))
	disconnected(t, c, codec.ProtocolError)
}

// [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2] No more than Receive Maximum QoS 1 and 2 messages are under way to a Client; each PUBACK,
// PUBCOMP, or PUBREC with an error makes room for one.
func TestMQTT_3_3_4_9_ReceiveMaximumOfTheClient(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		pub, topic := connect(t), brokertest.Name()
		sub := connect(t, brokertest.With(codec.PropReceiveMaximum, 2))
		sub.Subscribe(topic, 2)
		for i := range 6 {
			pub.Publish(topic, fmt.Sprint(i), qos)
		}
		pub.Publish(topic, "QoS 0", 0) // shows that nothing else is on its way
		p0, p1 := sub.ExpectPublish(topic, "0"), sub.ExpectPublish(topic, "1")
		sub.ExpectPublish(topic, "QoS 0")
		sub.ExpectNothing()
		if qos == 1 {
			sub.Acknowledge(p0)
			sub.ExpectPublish(topic, "2")
			sub.Send(ack(codec.TypePuback, p1.PacketID, codec.UnspecifiedError))
		} else {
			sub.Send(ack(codec.TypePubrec, p0.PacketID, 0))
			sub.ExpectAck(codec.TypePubrel, p0.PacketID, 0)
			sub.ExpectNothing() // PUBREC makes no room
			sub.Send(ack(codec.TypePubcomp, p0.PacketID, 0))
			sub.ExpectPublish(topic, "2")
			sub.Send(ack(codec.TypePubrec, p1.PacketID, codec.UnspecifiedError))
		}
		sub.ExpectPublish(topic, "3")
		sub.ExpectNothing()
	}
}

// [MQTT-3.3.4-10] [MQTT-4.9.0-3] A Client that owes acknowledgements for Receive Maximum messages gets everything else: QoS 0, SUBACK,
// UNSUBACK, PUBACK, PUBREC, PUBREL, PUBCOMP, PINGRESP.
func TestMQTT_3_3_4_10_OtherPacketsAreNotDelayed(t *testing.T) {
	t.Parallel()
	pub, topic, quiet := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.With(codec.PropReceiveMaximum, 1))
	sub.Subscribe(topic, 2)
	pub.Publish(topic, "first", 2)
	p := sub.ExpectPublish(topic, "first")
	pub.Publish(topic, "waits", 2)
	pub.Publish(topic, "QoS 0", 0)
	sub.ExpectPublish(topic, "QoS 0")
	sub.Subscribe(quiet, 0)
	sub.Unsubscribe(quiet)
	sub.Publish(quiet, "payload", 1)
	sub.Publish(quiet, "payload", 2)
	sub.ExpectNothing()
	sub.Acknowledge(p)
	sub.ExpectPublish(topic, "waits")
}

// [MQTT-3.3.4-7] [MQTT-3.3.4-8] [MQTT-4.9.0-3] A Client with more than the broker's Receive Maximum of QoS 2 messages under way is closed
// with 0x93; up to there it is served, and at that number everything else is too.
func TestMQTT_3_3_4_7_ReceiveMaximumOfTheServer(t *testing.T) {
	t.Parallel()
	c, topic := dial(t), brokertest.Name()
	maximum := 65535
	if p := c.Connect(); p.Properties.Has(codec.PropReceiveMaximum) {
		maximum = int(p.Properties.ReceiveMaximum)
	}
	if maximum == 65535 {
		t.Skip("Packet Identifiers are used up before the Receive Maximum")
	}
	for id := 1; id <= maximum; id++ {
		c.Send(publish(topic, "payload", 2, uint16(id)))
		p := brokertest.Expect[*codec.Ack](c)
		if p.Type != codec.TypePubrec || int(p.PacketID) != id || p.ReasonCode.IsError() {
			t.Fatalf("got %s, want PUBREC with packet identifier %d", brokertest.Describe(p), id)
		}
	}
	c.Ping()
	c.Subscribe(topic, 0)
	c.Publish(topic, "QoS 0", 0)
	c.ExpectPublish(topic, "QoS 0")
	c.Send(publish(topic, "payload", 2, uint16(maximum+1)))
	disconnected(t, c, codec.ReceiveMaximumExceeded)
}
