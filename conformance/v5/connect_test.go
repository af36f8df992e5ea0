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

// Section 3.1: CONNECT.

// [MQTT-3.1.0-1] A connection whose first packet isn't CONNECT is closed.
func TestMQTT_3_1_0_1_FirstPacketIsConnect(t *testing.T) {
	t.Parallel()
	for _, p := range []brokertest.Packet{
		brokertest.Pingreq{},
		publish("a", "payload", 0, 0),
		subscribe(1, brokertest.Subscription("a", 0)),
		&codec.Disconnect{},
		&codec.Auth{Properties: brokertest.Properties(codec.PropAuthenticationMethod, "x")},
	} {
		c := dial(t)
		c.Send(p)
		c.ExpectClosed()
	}
}

// [MQTT-3.1.0-2] A second CONNECT is a Protocol Error.
func TestMQTT_3_1_0_2_SecondConnectIsAProtocolError(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.SendConnect()
	disconnected(t, c, codec.ProtocolError)
}

// refused takes a CONNACK with one of the Reason Codes, and the end of the connection after it.
func refused(t *testing.T, c *brokertest.Client, codes ...codec.ReasonCode) {
	t.Helper()
	p := brokertest.Expect[*codec.Connack](c)
	if p.SessionPresent || !slices.Contains(codes, p.ReasonCode) {
		t.Fatalf("got %s %q, want one of % X", brokertest.Describe(p), p.Properties.ReasonString, codes)
	}
	c.ExpectClosed()
}

// refusedOrClosed takes the end of the connection, before which a CONNACK with one of the Reason Codes may come.
func refusedOrClosed(t *testing.T, c *brokertest.Client, codes ...codec.ReasonCode) {
	t.Helper()
	p := c.ReceiveOrClosed()
	if p == nil {
		return
	}
	if connack, ok := p.(*codec.Connack); !ok || !slices.Contains(codes, connack.ReasonCode) {
		t.Fatalf("got %s, want the end of the connection or CONNACK with one of % X", brokertest.Describe(p), codes)
	}
	c.ExpectClosed()
}

// [MQTT-3.1.2-1] A protocol name that isn't MQTT is refused.
func TestMQTT_3_1_2_1_ProtocolNameIsMQTT(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "mqtt", "MQT", "MQTTT", "HTTP", "MQTT\x00"} {
		c := dial(t)
		c.SendRaw(packet(0x10, str(name), []byte{5, 2, 0, 60, 0}, str(brokertest.Name())))
		refusedOrClosed(t, c, codec.UnsupportedProtocolVersion, codec.MalformedPacket)
	}
}

// [MQTT-3.1.2-2] A Protocol Version that isn't served is refused: 0x84, which a 3.1.1 Client reads as return code 1.
func TestMQTT_3_1_2_2_ProtocolVersionIsServed(t *testing.T) {
	t.Parallel()
	for _, version := range []byte{0, 1, 2, 6, 7, 0x7F, 0xFF} {
		c := dial(t)
		c.SendRaw(packet(0x10, str("MQTT"), []byte{version, 2, 0, 60, 0}, str(brokertest.Name())))
		raw := c.ReceiveRaw()
		if raw == nil || raw[0] != 0x20 || raw[2] != 0 || raw[3] != 0x84 && raw[3] != 0x01 {
			t.Fatalf("version %d: got % X, want CONNACK with 0x84 or 0x01", version, raw)
		}
		c.ExpectClosed()
	}
}

// [MQTT-3.1.2-3] The reserved Connect Flag has to be 0.
func TestMQTT_3_1_2_3_ReservedConnectFlagIsZero(t *testing.T) {
	t.Parallel()
	c := dial(t)
	c.SendRaw(connectPacket(0x03, str(brokertest.Name())))
	refused(t, c, codec.MalformedPacket)
}

// [MQTT-3.1.2-4] [MQTT-3.1.4-4] [MQTT-3.2.2-2] Clean Start 1 discards the Session: no Session Present, no subscription, no message.
func TestMQTT_3_1_2_4_CleanStartDiscardsTheSession(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	first := connect(t, brokertest.Durable(id))
	first.Subscribe(topic, 1)
	first.Disconnect()
	pub.Publish(topic, "queued", 1)

	second := dial(t)
	if p := second.Connect(brokertest.ClientID(id)); p.SessionPresent {
		t.Error("session present after clean start")
	}
	pub.Publish(topic, "live", 1)
	second.ExpectNothingFrom(pub, 1)
}

// [MQTT-3.1.2-5] [MQTT-3.2.2-3] Clean Start 0 resumes the Session: subscriptions and queued messages are there.
func TestMQTT_3_1_2_5_SessionIsResumed(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	first := connect(t, brokertest.Durable(id))
	first.Subscribe(topic, 2)
	first.Disconnect()
	pub.Publish(topic, "queued 1", 1)
	pub.Publish(topic, "queued 2", 2)

	second := resume(t, id)
	second.Acknowledge(second.ExpectPublish(topic, "queued 1"))
	second.Acknowledge(second.ExpectPublish(topic, "queued 2"))
	pub.Publish(topic, "live", 0)
	second.ExpectPublish(topic, "live")
}

// [MQTT-3.1.2-6] [MQTT-3.2.2-3] Clean Start 0 without a Session creates one.
func TestMQTT_3_1_2_6_SessionIsCreated(t *testing.T) {
	t.Parallel()
	id, topic := brokertest.Name(), brokertest.Name()
	first := dial(t)
	if p := first.Connect(brokertest.Durable(id)); p.SessionPresent {
		t.Error("session present though there was none")
	}
	first.Subscribe(topic, 0)
	first.Disconnect()
	second := resume(t, id)
	second.Publish(topic, "payload", 0)
	second.ExpectPublish(topic, "payload")
}

// [MQTT-3.1.2-7] [MQTT-3.1.2-8] The Will Message is published when the connection breaks, with all that the CONNECT said of it.
func TestMQTT_3_1_2_7_WillMessageIsPublished(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		sub, topic := connect(t), brokertest.Name()
		sub.Subscribe(topic, 2)
		connect(t, brokertest.Will(topic, "will", qos, false,
			codec.PropPayloadFormatIndicator, 1, codec.PropContentType, "text/plain", codec.PropResponseTopic, "answer",
			codec.PropCorrelationData, "\x00\x01", codec.PropMessageExpiryInterval, 100)).Close()
		p := sub.ExpectPublish(topic, "will")
		sub.Acknowledge(p)
		if p.QoS != qos || p.Properties.PayloadFormatIndicator != 1 || string(p.Properties.ContentType) != "text/plain" ||
			string(p.Properties.ResponseTopic) != "answer" || string(p.Properties.CorrelationData) != "\x00\x01" ||
			p.Properties.MessageExpiryInterval > 100 || p.Properties.MessageExpiryInterval < 95 {
			t.Errorf("got %+v", p)
		}
	}
}

// [MQTT-3.1.2-8] The Will Message is published whatever way the connection ends, a DISCONNECT with 0x00 excepted: here with 0x04, and on a
// Protocol Error.
func TestMQTT_3_1_2_8_WillMessageIsPublishedOnErrors(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)

	with := connect(t, brokertest.Will(topic, "0x04", 0, false))
	with.Send(&codec.Disconnect{ReasonCode: codec.DisconnectWithWill})
	sub.ExpectPublish(topic, "0x04")

	wrong := connect(t, brokertest.Will(topic, "protocol error", 0, false))
	wrong.SendConnect()
	sub.ExpectPublish(topic, "protocol error")

	old := connect(t, brokertest.Will(topic, "taken over", 0, false))
	connect(t, brokertest.ClientID(old.ClientID))
	sub.ExpectPublish(topic, "taken over")
}

// [MQTT-3.1.2-8] [MQTT-3.1.2-7] The Will Message is published when the Will Delay Interval is over, or the Session if that ends first.
func TestMQTT_3_1_2_8_WillDelayInterval(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	will := func(payload string, delay, sessionExpiry int) {
		connect(t, brokertest.With(codec.PropSessionExpiryInterval, sessionExpiry),
			brokertest.Will(topic, payload, 0, false, codec.PropWillDelayInterval, delay)).Close()
	}
	start := time.Now()
	will("no session", 60, 0)
	will("session over", 60, 1)
	will("delayed", 2, 60)
	sub.ExpectPublish(topic, "no session")
	sub.ExpectPublish(topic, "session over")
	if d := time.Since(start); d < 900*time.Millisecond {
		t.Errorf("the session of 1 s ended after %v", d)
	}
	sub.ExpectPublish(topic, "delayed")
	if d := time.Since(start); d < 1900*time.Millisecond {
		t.Errorf("the will delayed by 2 s came after %v", d)
	}
}

// [MQTT-3.1.2-8] A Session that a Clean Start ends publishes its Will Message at once.
func TestMQTT_3_1_2_8_WillOfASessionEndedByCleanStart(t *testing.T) {
	t.Parallel()
	sub, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub.Subscribe(topic, 0)
	connect(t, brokertest.Durable(id), brokertest.Will(topic, "will", 0, false, codec.PropWillDelayInterval, 60)).Close()
	connect(t, brokertest.ClientID(id))
	sub.ExpectPublish(topic, "will")
}

// [MQTT-3.1.2-9] A CONNECT whose Will Flag is 1 and which lacks fields of the Will is malformed.
func TestMQTT_3_1_2_9_WillFieldsArePresent(t *testing.T) {
	t.Parallel()
	for _, fields := range [][][]byte{{}, {{0}}, {{0}, str("topic")}, {str("topic"), str("payload")}} {
		c := dial(t)
		c.SendRaw(connectPacket(0x06, append([][]byte{str(brokertest.Name())}, fields...)...))
		refused(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.1.2-10] [MQTT-3.14.4-3] A DISCONNECT with 0x00 deletes the Will Message, and so does its publication.
func TestMQTT_3_1_2_10_WillMessageIsRemoved(t *testing.T) {
	t.Parallel()
	sub, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub.Subscribe(topic, 1)
	connect(t, brokertest.Durable(id), brokertest.Will(topic, "will", 1, false)).Close()
	sub.Acknowledge(sub.ExpectPublish(topic, "will"))
	again := resume(t, id)
	again.Close()

	connect(t, brokertest.Will(topic, "will", 1, false)).Disconnect()
	sub.ExpectNothingFrom(connect(t), 1)
}

// [MQTT-3.1.2-11] [MQTT-3.1.2-13] Without Will Flag, Will QoS and Will Retain have to be 0.
func TestMQTT_3_1_2_11_WillFlagsWithoutWill(t *testing.T) {
	t.Parallel()
	for _, flags := range []byte{0x0A, 0x12, 0x22} {
		c := dial(t)
		c.SendRaw(connectPacket(flags, str(brokertest.Name())))
		refused(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.1.2-12] Will QoS 3 is malformed.
func TestMQTT_3_1_2_12_WillQoS3IsMalformed(t *testing.T) {
	t.Parallel()
	c := dial(t)
	c.SendRaw(connectPacket(0x1E, str(brokertest.Name()), []byte{0}, str("topic"), str("payload")))
	refusedOrClosed(t, c, codec.MalformedPacket)
}

// [MQTT-3.1.2-13] Will Retain without Will Flag is malformed.
func TestMQTT_3_1_2_13_WillRetainWithoutWill(t *testing.T) {
	t.Parallel()
	c := dial(t)
	c.SendRaw(connectPacket(0x22, str(brokertest.Name())))
	refused(t, c, codec.MalformedPacket)
}

// [MQTT-3.1.2-14] With Will Retain 0 the Will Message isn't retained.
func TestMQTT_3_1_2_14_WillIsNotRetained(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0, option(func(o *codec.SubscriptionOptions) { o.RetainAsPublished = true }))
	connect(t, brokertest.Will(topic, "will", 0, false)).Close()
	if p := sub.ExpectPublish(topic, "will"); p.Retain {
		t.Error("RETAIN is set")
	}
	if got := retained(t, topic); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.1.2-15] With Will Retain 1 the Will Message is retained.
func TestMQTT_3_1_2_15_WillIsRetained(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	connect(t, brokertest.Will(topic, "will", 1, true)).Close()
	sub.ExpectPublish(topic, "will")
	late := connect(t)
	late.Subscribe(topic, 0)
	if p := late.ExpectPublish(topic, "will"); !p.Retain {
		t.Error("RETAIN isn't set")
	}
}

// [MQTT-3.1.2-16] [MQTT-3.1.2-18] A User Name or Password that the Connect Flags don't announce makes CONNECT malformed.
func TestMQTT_3_1_2_16_CredentialsWithoutFlags(t *testing.T) {
	t.Parallel()
	for flags, fields := range map[byte][]byte{0x02: str("user"), 0x82: append(str("user"), str("password")...)} {
		c := dial(t)
		c.SendRaw(connectPacket(flags, str(brokertest.Name()), fields))
		refused(t, c, codec.MalformedPacket)
	}
}

// [MQTT-3.1.2-17] [MQTT-3.1.2-19] A User Name or Password that the Connect Flags announce has to be there. 5.0 allows a Password alone.
func TestMQTT_3_1_2_17_CredentialsMissing(t *testing.T) {
	t.Parallel()
	for flags, fields := range map[byte][]byte{0x82: nil, 0x42: nil, 0xC2: str("user")} {
		c := dial(t)
		c.SendRaw(connectPacket(flags, str(brokertest.Name()), fields))
		refusedOrClosed(t, c, codec.MalformedPacket)
	}
	c := dial(t)
	c.SendRaw(connectPacket(0x42, str(brokertest.Name()), str("password")))
	c.ExpectConnack(codec.Success)
}

// [MQTT-3.1.2-22] [MQTT-3.2.2-22] A Client that is silent for 1.5 times its Keep Alive is closed, and its Will is published. One that pings
// stays, and so does one with Keep Alive 0.
func TestMQTT_3_1_2_22_KeepAlive(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	active, forever := connect(t, brokertest.KeepAlive(2)), connect(t, brokertest.KeepAlive(0))
	silent := connect(t, brokertest.KeepAlive(1), brokertest.Will(topic, "will", 0, false))
	for range 12 {
		elapse(300 * time.Millisecond)
		active.Ping()
	}
	ended(t, silent, codec.KeepAliveTimeout)
	sub.ExpectPublish(topic, "will")

	start := time.Now()
	again := connect(t, brokertest.KeepAlive(2))
	ended(t, again, codec.KeepAliveTimeout)
	if d := time.Since(start); d < 2900*time.Millisecond {
		t.Errorf("closed after %v, want 3 s", d)
	}
	forever.Ping()
}

// [MQTT-3.1.2-23] [MQTT-4.1.0-2] With a Session Expiry Interval the Session outlives the connection, without it it doesn't, and DISCONNECT
// can change it.
func TestMQTT_3_1_2_23_SessionExpiryInterval(t *testing.T) {
	t.Parallel()
	present := func(id string) bool {
		c := dial(t)
		return c.Connect(brokertest.ClientID(id), brokertest.Resume).SessionPresent
	}
	kept := connect(t, brokertest.With(codec.PropSessionExpiryInterval, 60))
	kept.Close()
	ends := connect(t)
	ends.Disconnect()
	shortened := connect(t, brokertest.With(codec.PropSessionExpiryInterval, 60))
	shortened.Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 0)})
	shortened.ExpectClosed()
	if !present(kept.ClientID) || present(ends.ClientID) || present(shortened.ClientID) {
		t.Error("sessions don't last as their expiry interval says")
	}
}

// [MQTT-3.1.2-24] [MQTT-3.1.2-25] A message beyond the Client's Maximum Packet Size is discarded as if it had been sent: those behind it
// come, and other subscribers get it.
func TestMQTT_3_1_2_24_MaximumPacketSize(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		pub, large, topic := connect(t), connect(t), brokertest.Name()
		small := connect(t, brokertest.With(codec.PropMaximumPacketSize, 100, codec.PropReceiveMaximum, 1))
		large.Subscribe(topic, 2)
		small.Subscribe(topic, 2)
		fits := strings.Repeat("x", 100-len(publish(topic, "", qos, 1).Append(nil, codec.V5)))
		for range 3 {
			pub.Publish(topic, fits+"x", qos)
		}
		pub.Publish(topic, fits, qos)
		small.Acknowledge(small.ExpectPublish(topic, fits))
		for range 3 {
			large.Acknowledge(large.ExpectPublish(topic, fits+"x"))
		}
		small.ExpectNothingFrom(pub, qos)
	}
}

// [MQTT-3.1.2-25] A message that is too large for a Client doesn't wait in its Session either.
func TestMQTT_3_1_2_25_TooLargeForAnOfflineSession(t *testing.T) {
	t.Parallel()
	pub, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	sub.Disconnect()
	pub.Publish(topic, strings.Repeat("x", 100), 1)
	pub.Publish(topic, "fits", 1)
	sub = resume(t, id, brokertest.With(codec.PropMaximumPacketSize, 100))
	sub.Acknowledge(sub.ExpectPublish(topic, "fits"))
	sub.Disconnect()
	sub = resume(t, id)
	sub.ExpectNothingFrom(pub, 1)
}

// [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] [MQTT-3.3.2-10] [MQTT-3.3.2-11] Topic Aliases of the broker are 1 to the Client's Topic
// Alias Maximum, name the topic that they were set for, and don't exist without it.
func TestMQTT_3_1_2_26_TopicAliasMaximum(t *testing.T) {
	t.Parallel()
	for _, maximum := range []int{0, 1, 3} {
		pub, prefix := connect(t), brokertest.Name()
		sub := connect(t, brokertest.With(codec.PropTopicAliasMaximum, maximum))
		sub.Subscribe(prefix+"/#", 0)
		topics := map[uint16]string{}
		for i := range 40 {
			topic := fmt.Sprintf("%s/%d", prefix, i%5)
			pub.Publish(topic, topic, 0)
			p := brokertest.Expect[*codec.Publish](sub)
			name := string(p.TopicName)
			if p.Properties.Has(codec.PropTopicAlias) {
				alias := p.Properties.TopicAlias
				if alias == 0 || int(alias) > maximum {
					t.Fatalf("got topic alias %d, maximum is %d", alias, maximum)
				}
				if name != "" {
					topics[alias] = name
				}
				name = topics[alias]
			}
			if name != topic || string(p.Payload) != topic {
				t.Fatalf("got topic %q and payload %q, want %q", name, p.Payload, topic)
			}
		}
	}
}

// [MQTT-3.1.3-1] The fields of the payload are read in their order.
func TestMQTT_3_1_3_1_OrderOfThePayload(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	c := dial(t)
	c.SendRaw(connectPacket(0xC6, str(brokertest.Name()), []byte{2, 1, 1}, str(topic), str("will"), str("user"), str("password")))
	c.ExpectConnack(codec.Success)
	c.Close()
	if p := sub.ExpectPublish(topic, "will"); p.Properties.PayloadFormatIndicator != 1 {
		t.Error("will properties are lost")
	}
}

// [MQTT-3.1.3-2] A Session belongs to its ClientID, which is compared byte by byte.
func TestMQTT_3_1_3_2_ClientIDIdentifiesTheSession(t *testing.T) {
	t.Parallel()
	id := "Ab" + brokertest.Name()
	connect(t, brokertest.Durable(id)).Close()
	for _, other := range []string{strings.ToLower(id), id + " ", " " + id, id[1:]} {
		c := dial(t)
		if p := c.Connect(brokertest.Durable(other)); p.SessionPresent {
			t.Errorf("session of %q present for %q", id, other)
		}
	}
	resume(t, id)
}

// [MQTT-3.1.3-3] A CONNECT without ClientID is malformed.
func TestMQTT_3_1_3_3_ClientIDIsPresent(t *testing.T) {
	t.Parallel()
	c := dial(t)
	c.SendRaw(connectPacket(0x02))
	refused(t, c, codec.MalformedPacket)
}

// [MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12] [MQTT-1.5.4-1] [MQTT-1.5.4-2] ClientID, Will Topic and User Name are UTF-8 strings.
func TestMQTT_3_1_3_4_StringsOfConnectAreUTF8(t *testing.T) {
	t.Parallel()
	for _, bad := range append([]string{"a\x00b"}, values(badStrings)...) {
		for _, raw := range [][]byte{
			connectPacket(0x02, str(bad)),
			connectPacket(0x06, str(brokertest.Name()), []byte{0}, str(bad), str("payload")),
			connectPacket(0x82, str(brokertest.Name()), str(bad)),
		} {
			c := dial(t)
			c.SendRaw(raw)
			refusedOrClosed(t, c, codec.MalformedPacket, codec.ClientIdentifierNotValid)
		}
	}
}

func values(m map[string]string) (v []string) {
	for _, s := range m {
		v = append(v, s)
	}
	return v
}

// [MQTT-3.1.3-5] ClientIDs of 1 to 23 letters and digits are accepted as they are.
func TestMQTT_3_1_3_5_ClientIDsThatMustBeAllowed(t *testing.T) {
	t.Parallel()
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	ids := []string{"Z", letters[:23], letters[20:43], letters[39:]}
	for _, id := range ids {
		connect(t, brokertest.Durable(id)).Close()
		resume(t, id).Disconnect()
		connect(t, brokertest.ClientID(id)).Disconnect() // with Clean Start
	}
}

// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16] An empty ClientID is replaced by a unique one, under which the Client is known from then on.
func TestMQTT_3_1_3_6_ClientIDIsAssigned(t *testing.T) {
	t.Parallel()
	assigned := func() *brokertest.Client {
		c := dial(t)
		p := c.Connect(brokertest.Durable(""))
		if p.SessionPresent || len(p.Properties.AssignedClientIdentifier) == 0 {
			t.Fatalf("got %+v, want an assigned client identifier and no session", p)
		}
		return c
	}
	a, b := assigned(), assigned()
	if a.ClientID == b.ClientID {
		t.Errorf("%q was assigned twice", a.ClientID)
	}
	a.Close()
	resume(t, a.ClientID)
}

// [MQTT-3.1.3-7] A ClientID that the Client chose isn't sent back as assigned.
func TestMQTT_3_1_3_7_ChosenClientIDIsNotAssigned(t *testing.T) {
	t.Parallel()
	c := dial(t)
	if p := c.Connect(); p.Properties.Has(codec.PropAssignedClientIdentifier) {
		t.Errorf("got assigned client identifier %q", p.Properties.AssignedClientIdentifier)
	}
}

// [MQTT-3.1.3-9] [MQTT-3.1.2-8] A connection to the Session within the Will Delay Interval keeps the Will Message from being published.
func TestMQTT_3_1_3_9_WillIsNotPublishedAfterReconnect(t *testing.T) {
	t.Parallel()
	sub, topic, id := connect(t), brokertest.Name(), brokertest.Name()
	sub.Subscribe(topic, 0)
	connect(t, brokertest.Durable(id), brokertest.Will(topic, "cancelled", 0, false, codec.PropWillDelayInterval, 1)).Close()
	resume(t, id)
	// Another Will, delayed as long and later, shows that the time of the first is over.
	for range 2 {
		connect(t, brokertest.Durable(brokertest.Name()),
			brokertest.Will(topic, "other", 0, false, codec.PropWillDelayInterval, 1)).Close()
		sub.ExpectPublish(topic, "other")
	}
}

// [MQTT-3.1.3-10] User Properties of the Will Message are published in their order.
func TestMQTT_3_1_3_10_UserPropertiesOfTheWill(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	pairs := [][2]string{{"b", "1"}, {"a", "2"}, {"b", "3"}, {"", ""}, {"a", "2"}}
	var list []any
	for _, pair := range pairs {
		list = append(list, codec.PropUserProperty, pair)
	}
	connect(t, brokertest.Will(topic, "will", 0, false, list...)).Close()
	expectUserProperties(t, sub.ExpectPublish(topic, "will"), pairs)

	// The same in bytes, without a decoder that could turn them round as the encoder did.
	c, pairsRaw := dial(t), []byte{0x26, 0, 1, 'b', 0, 1, '1', 0x26, 0, 1, 'a', 0, 1, '2', 0x26, 0, 1, 'b', 0, 1, '3'}
	c.SendRaw(connectPacket(0x06, str(brokertest.Name()), []byte{byte(len(pairsRaw))}, pairsRaw, str(topic), str("will")))
	c.ExpectConnack(codec.Success)
	c.Close()
	want := packet(0x30, str(topic), []byte{byte(len(pairsRaw))}, pairsRaw, []byte("will"))
	if got := sub.ReceiveRaw(); !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
}

func expectUserProperties(t *testing.T, p *codec.Publish, want [][2]string) {
	t.Helper()
	var got [][2]string
	for _, u := range p.Properties.UserProperties {
		got = append(got, [2]string{string(u.Key), string(u.Value)})
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got user properties %q, want %q", got, want)
	}
}

// [MQTT-3.1.4-1] [MQTT-4.13.1-1] A CONNECT of another form is answered with the Reason Code for what is wrong with it, and closed.
func TestMQTT_3_1_4_1_FormOfConnectIsValidated(t *testing.T) {
	t.Parallel()
	id := str("validated")
	property := func(p ...byte) []byte {
		return packet(0x10, str("MQTT"), []byte{5, 2, 0, 60, byte(len(p))}, p, id)
	}
	for name, test := range map[string]struct {
		raw  []byte
		code codec.ReasonCode
	}{
		"truncated":                       {connectPacket(2), codec.MalformedPacket},
		"trailing bytes":                  {connectPacket(2, id, []byte{1}), codec.MalformedPacket},
		"property twice":                  {property(0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1), codec.ProtocolError},
		"Receive Maximum 0":               {property(0x21, 0, 0), codec.ProtocolError},
		"Maximum Packet Size 0":           {property(0x27, 0, 0, 0, 0), codec.ProtocolError},
		"Request Response Information 2":  {property(0x19, 2), codec.ProtocolError},
		"Request Problem Information 2":   {property(0x17, 2), codec.ProtocolError},
		"Authentication Data alone":       {property(0x16, 0, 1, 'x'), codec.ProtocolError},
		"property of another packet":      {property(0x23, 0, 1), codec.ProtocolError},
		"unknown property":                {property(0x7F), codec.MalformedPacket},
		"properties longer than they are": {property(0x11, 0, 0), codec.MalformedPacket},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t)
			c.SendRaw(test.raw)
			refused(t, c, test.code)
		})
	}
}

// [MQTT-3.1.4-3] A Client that connects under the ClientID of another ends that one's connection with 0x8E.
func TestMQTT_3_1_4_3_SessionIsTakenOver(t *testing.T) {
	t.Parallel()
	id, topic := brokertest.Name(), brokertest.Name()
	first := connect(t, brokertest.Durable(id))
	first.Subscribe(topic, 1)
	second := resume(t, id)
	disconnected(t, first, codec.SessionTakenOver)
	second.Publish(topic, "payload", 1)
	second.Acknowledge(second.ExpectPublish(topic, "payload"))
}

// [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] CONNACK with 0x00 answers CONNECT, comes before everything else, and only once. What the
// Client sent without waiting for it is processed.
func TestMQTT_3_1_4_5_ConnackComesFirst(t *testing.T) {
	t.Parallel()
	c, topic := dial(t), brokertest.Name()
	connect := &codec.Connect{Version: codec.V5, CleanStart: true, ClientID: []byte(brokertest.Name())}
	c.Send(connect, subscribe(1, brokertest.Subscription(topic, 0)), publish(topic, "payload", 0, 0), brokertest.Pingreq{})
	c.ExpectConnack(codec.Success)
	c.ExpectSuback(1, codec.GrantedQoS0)
	// PINGRESP may overtake the message.
	var publishes, pings int
	for range 2 {
		switch c.Receive().(type) {
		case *codec.Publish:
			publishes++
		case brokertest.Pingresp:
			pings++
		}
	}
	if publishes != 1 || pings != 1 {
		t.Errorf("got %d PUBLISH and %d PINGRESP, want one of each", publishes, pings)
	}
	c.ExpectNothing()
}

// [MQTT-3.2.0-1] CONNACK comes before the messages of the Session that it resumes.
func TestMQTT_3_2_0_1_ConnackComesBeforeQueuedMessages(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic, 1)
	for range 5 {
		sub.Disconnect()
		pub.Publish(topic, "payload", 1)
		sub = resume(t, id)
		sub.Acknowledge(sub.ExpectPublish(topic, "payload"))
	}
}

// [MQTT-3.1.4-6] [MQTT-3.14.0-1] What follows a CONNECT that is rejected isn't processed, and CONNACK isn't followed by DISCONNECT.
func TestMQTT_3_1_4_6_NothingIsProcessedAfterARejectedConnect(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	c := dial(t)
	connect := &codec.Connect{
		Version: codec.V5, CleanStart: true, ClientID: []byte(brokertest.Name()),
		Properties: brokertest.Properties(codec.PropAuthenticationMethod, "unknown"),
	}
	c.Send(connect, publish(topic, "rejected", 0, 0, codec.PropUserProperty, [2]string{"", ""}), publish(topic, "retained", 1, 1))
	refused(t, c, codec.BadAuthenticationMethod, codec.NotAuthorized)
	sub.ExpectNothingFrom(sub, 0)
}
