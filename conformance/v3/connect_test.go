package v3

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
	refused(t, bytesOf(brokertest.Pingreq{}, publish("a", "payload", 0, 0), publish("a", "payload", 1, 1), ack(codec.TypePubrel, 1),
		subscribe(1, brokertest.Subscription("a", 0)), unsubscribe(1, "a"), &codec.Disconnect{})...)
}

// [MQTT-3.1.0-2] A second CONNECT ends the connection.
func TestMQTT_3_1_0_2_SecondConnect(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.SendConnect(brokertest.ClientID(c.ClientID))
	c.ExpectClosed()
}

// [MQTT-3.1.2-1] With another protocol name a CONNECT isn't one of MQTT 3.1.1: it is refused, or, if the name is that of MQTT 3.1, handled
// as that says.
func TestMQTT_3_1_2_1_ProtocolName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "mqtt", "MQT", "MQTTT", "HTTP", "MQTT\x00", "MQIsdp", "MQISDP"} {
		c := dial(t)
		c.SendRaw(packet(0x10, str(name), []byte{4, 2, 0, 60}, str(brokertest.Name())))
		if name == "MQIsdp" { // the name is known, with that level it isn't
			if got, want := c.ReceiveRaw(), []byte{0x20, 2, 0, 1}; !bytes.Equal(got, want) {
				t.Errorf("got % X, want % X", got, want)
			}
		}
		c.ExpectClosed()
	}
	c := dial(t)
	c.SendRaw(packet(0x10, str("MQIsdp"), []byte{3, 2, 0, 60}, str(brokertest.Name())))
	c.ExpectConnack(0)
	c.SendRaw(packet(0x8A, []byte{0, 1}, str("a"), []byte{0})) // with DUP, which 3.1.1 forbids
	c.ExpectSuback(1, 0)
}

// [MQTT-3.1.2-2] A Protocol Level that isn't served is refused with return code 1. What is no level of 3.x at all is answered in the form of
// 5.0, as other brokers of both versions do: a 3.1.1 client finds a return code there that isn't 0.
func TestMQTT_3_1_2_2_ProtocolLevel(t *testing.T) {
	t.Parallel()
	for _, level := range []byte{0, 1, 2, 3, 6, 7, 0x7F, 0x83, 0xFF} {
		c := dial(t)
		c.SendRaw(packet(0x10, str("MQTT"), []byte{level, 2, 0, 60}, str(brokertest.Name())))
		want := []byte{0x20, 3, 0, 0x84, 0}
		if level&^0x80 == 3 { // that of 3.1, whose name is another
			want = []byte{0x20, 2, 0, 1}
		}
		if got := c.ReceiveRaw(); !bytes.Equal(got, want) {
			t.Errorf("level %d: got % X, want % X", level, got, want)
		}
		c.ExpectClosed()
	}
}

// [MQTT-3.1.2-3] The reserved Connect Flag has to be 0.
func TestMQTT_3_1_2_3_ReservedConnectFlag(t *testing.T) {
	t.Parallel()
	refused(t, connectPacket(0x03, str(brokertest.Name())), connectPacket(0x01, str(brokertest.Name())))
}

// [MQTT-3.1.2-4] [MQTT-3.1.4-3] [MQTT-3.2.2-3] With Clean Session 0 the Session goes on, or a new one starts. It is stored when the
// connection is over, however it ended.
func TestMQTT_3_1_2_4_SessionIsResumed(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	c := dial(t)
	if p := c.Connect(brokertest.Durable(id)); p.SessionPresent {
		t.Error("session present though there was none")
	}
	c.Subscribe(topic, 2)
	for range 2 {
		c.Disconnect()
		c = resume(t, id)
		c.Close()
		c = resume(t, id)
		pub.Publish(topic, "payload", 2)
		c.Acknowledge(c.ExpectPublish(topic, "payload"))
	}
}

// [MQTT-3.1.2-5] [MQTT-4.5.0-1] QoS 1 and 2 messages that come while a stored Session has no connection are stored with it.
func TestMQTT_3_1_2_5_MessagesAreStored(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	sub := connect(t, brokertest.Durable(id))
	sub.Subscribe(topic+"/+", 2)
	sub.Disconnect()
	for i := range 10 {
		pub.Publish(topic+"/a", fmt.Sprint(i), byte(1+i%2))
	}
	pub.Publish(topic, "another topic", 1)
	sub = resume(t, id)
	for i := range 10 {
		p := sub.ExpectPublish(topic+"/a", fmt.Sprint(i))
		if p.QoS != byte(1+i%2) || p.Dup {
			t.Errorf("got %s", brokertest.Describe(p))
		}
		sub.Acknowledge(p)
	}
	sub.ExpectNothingFrom(pub, 2)
}

// [MQTT-3.1.2-6] [MQTT-3.1.4-3] [MQTT-3.2.2-1] With Clean Session 1 the Session there was is discarded: its subscriptions and messages are
// gone, for good.
func TestMQTT_3_1_2_6_CleanSessionDiscardsTheSession(t *testing.T) {
	t.Parallel()
	pub, id, topic := connect(t), brokertest.Name(), brokertest.Name()
	c := connect(t, brokertest.Durable(id))
	c.Subscribe(topic, 1)
	pub.Publish(topic, "under way", 1)
	c.ExpectPublish(topic, "under way")
	c.Disconnect()
	pub.Publish(topic, "queued", 1)

	c = dial(t)
	if p := c.Connect(brokertest.ClientID(id)); p.SessionPresent {
		t.Error("session present with clean session 1")
	}
	pub.Publish(topic, "live", 1)
	c.ExpectNothingFrom(pub, 1)
	c.Disconnect()
	c = dial(t)
	if p := c.Connect(brokertest.Durable(id)); p.SessionPresent {
		t.Error("session present after clean session 1")
	}
	c.ExpectNothingFrom(pub, 1)
}

// [MQTT-3.1.2-6] [MQTT-3.2.2-3] A Session with Clean Session 1 ends with its connection.
func TestMQTT_3_1_2_6_CleanSessionEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	for _, end := range []func(*brokertest.Client){(*brokertest.Client).Disconnect, (*brokertest.Client).Close} {
		pub, topic := connect(t), brokertest.Name()
		c := connect(t)
		c.Subscribe(topic, 1)
		end(c)
		again := dial(t)
		if p := again.Connect(brokertest.Durable(c.ClientID)); p.SessionPresent {
			t.Error("session present after clean session 1")
		}
		pub.Publish(topic, "payload", 1)
		again.ExpectNothingFrom(pub, 1)
	}
}

// [MQTT-3.1.2-7] Retained messages stay when the Session of their publisher ends.
func TestMQTT_3_1_2_7_RetainedMessagesOutliveTheSession(t *testing.T) {
	t.Parallel()
	topic, id := brokertest.Name(), brokertest.Name()
	pub := connect(t, brokertest.Durable(id))
	pub.Publish(topic, "retained", 1, brokertest.Retained)
	pub.Disconnect()
	connect(t, brokertest.ClientID(id)).Disconnect() // ends the stored Session, and then its own
	if got := payloads(retained(t, topic)); !slices.Equal(got, []string{"retained"}) {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.1.2-8] [MQTT-3.1.2-9] The Will Message is published when the connection breaks, with its QoS.
func TestMQTT_3_1_2_8_WillIsPublished(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		for _, payload := range []string{"will", ""} {
			sub, topic := connect(t), brokertest.Name()
			sub.Subscribe(topic, 2)
			connect(t, brokertest.Will(topic, payload, qos, false)).Close()
			p := sub.ExpectPublish(topic, payload)
			if sub.Acknowledge(p); p.QoS != qos {
				t.Errorf("got QoS %d, want %d", p.QoS, qos)
			}
		}
	}
}

// [MQTT-3.1.2-8] The Will Message is published however the connection ends but by DISCONNECT: on a protocol violation, when another Client
// takes the ClientID, and when the Keep Alive runs out.
func TestMQTT_3_1_2_8_WillIsPublishedOnErrors(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	expect := func(payload string) {
		t.Helper()
		sub.Acknowledge(sub.ExpectPublish(topic, payload))
	}
	silent := connect(t, brokertest.Will(topic, "silent", 1, false), brokertest.KeepAlive(1))

	wrong := connect(t, brokertest.Will(topic, "violation", 1, false))
	wrong.SendRaw([]byte{0x00, 0})
	wrong.ExpectClosed()
	expect("violation")

	old := connect(t, brokertest.Will(topic, "taken over", 1, false))
	connect(t, brokertest.ClientID(old.ClientID))
	expect("taken over")

	silent.ExpectClosed()
	expect("silent")
}

// [MQTT-3.1.2-8] The Will Message is stored only if the CONNECT is accepted.
func TestMQTT_3_1_2_8_NoWillOfARejectedConnect(t *testing.T) {
	t.Parallel()
	sub, topic := connectGuarded(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	c := dialGuarded(t)
	c.SendConnect(brokertest.Credentials("wrong", ""), brokertest.Will(topic, "will", 1, false))
	c.ExpectConnack(4)
	sub.ExpectNothingFrom(connectGuarded(t, brokertest.ClientID(c.ClientID)), 1)
}

// [MQTT-3.1.2-9] [MQTT-3.1.4-1] A CONNECT with the Will Flag needs a Will Topic and a Will Message.
func TestMQTT_3_1_2_9_WillFieldsArePresent(t *testing.T) {
	t.Parallel()
	id := str(brokertest.Name())
	refused(t, connectPacket(0x06, id), connectPacket(0x06, id, str("topic")), connectPacket(0x06, id, str("topic"), []byte{0, 9, 'x'}),
		connectPacket(0x06, id, str(""), str("payload")))
}

// [MQTT-3.1.2-10] Once published, or discarded by DISCONNECT, the Will Message is gone: a later end of the Session's connections brings
// none.
func TestMQTT_3_1_2_10_WillIsPublishedOnce(t *testing.T) {
	t.Parallel()
	for _, publishes := range []bool{true, false} {
		sub, topic, id := connect(t), brokertest.Name(), brokertest.Name()
		sub.Subscribe(topic, 1)
		c := connect(t, brokertest.Durable(id), brokertest.Will(topic, "will", 1, false))
		if publishes {
			c.Close()
			sub.Acknowledge(sub.ExpectPublish(topic, "will"))
		} else {
			c.Disconnect()
		}
		resume(t, id).Close()
		again := connect(t, brokertest.ClientID(id))
		sub.ExpectNothingFrom(again, 1)
		again.Close()
		sub.ExpectNothingFrom(connect(t, brokertest.ClientID(id)), 1)
	}
}

// [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-15] Without Will Flag, Will QoS and Will Retain have to be 0, and there is no Will Topic and
// no Will Message.
func TestMQTT_3_1_2_11_NoWillFieldsWithoutWillFlag(t *testing.T) {
	t.Parallel()
	id := str(brokertest.Name())
	refused(t, connectPacket(0x02, id, str("topic"), str("payload")),
		connectPacket(0x0A, id), connectPacket(0x12, id), connectPacket(0x1A, id), connectPacket(0x22, id))
}

// [MQTT-3.1.2-12] Without Will Flag nothing is published when the connection ends, though an earlier connection had a Will.
func TestMQTT_3_1_2_12_NoWillWithoutWillFlag(t *testing.T) {
	t.Parallel()
	if brokertest.Outside() {
		t.Skip("needs a broker on which nobody else publishes")
	}
	s := brokertest.Start(t)
	id := brokertest.ClientID(brokertest.Name())
	sub := brokertest.Connect(t, s.Addr, codec.V311)
	sub.Subscribe("#", 1)
	brokertest.Connect(t, s.Addr, codec.V311, id, brokertest.Will("topic", "will", 1, false))
	again := brokertest.Connect(t, s.Addr, codec.V311, id)
	sub.Acknowledge(sub.ExpectPublish("topic", "will"))
	again.Close()
	marker := brokertest.Connect(t, s.Addr, codec.V311, id)
	marker.Publish("marker", "payload", 1)
	sub.Acknowledge(sub.ExpectPublish("marker", "payload"))
}

// [MQTT-3.1.2-14] Will QoS 3 is refused.
func TestMQTT_3_1_2_14_WillQoS3(t *testing.T) {
	t.Parallel()
	refused(t, connectPacket(0x1E, str(brokertest.Name()), str("topic"), str("payload")))
}

// [MQTT-3.1.2-16] With Will Retain 0 the Will Message isn't retained.
func TestMQTT_3_1_2_16_WillIsNotRetained(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	connect(t, brokertest.Will(topic, "will", 1, false)).Close()
	if p := sub.ExpectPublish(topic, "will"); p.Retain {
		t.Error("RETAIN is set")
	}
	if got := payloads(retained(t, topic)); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.1.2-17] With Will Retain 1 the Will Message is retained, or removes the retained message if it is empty.
func TestMQTT_3_1_2_17_WillIsRetained(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	for qos := range byte(3) {
		connect(t, brokertest.Will(topic, "will", qos, true)).Close()
		sub.Acknowledge(sub.ExpectPublish(topic, "will"))
		if got := retained(t, topic); len(got) != 1 || string(got[0].Payload) != "will" || got[0].QoS != qos {
			t.Errorf("QoS %d: got retained messages %+v", qos, got)
		}
	}
	connect(t, brokertest.Will(topic, "", 1, true)).Close()
	sub.Acknowledge(sub.ExpectPublish(topic, ""))
	if got := payloads(retained(t, topic)); len(got) != 0 {
		t.Errorf("got retained messages %q", got)
	}
}

// [MQTT-3.1.2-18] [MQTT-3.1.2-20] A User Name or Password that the Connect Flags don't announce is refused.
func TestMQTT_3_1_2_18_CredentialsWithoutFlags(t *testing.T) {
	t.Parallel()
	id := str(brokertest.Name())
	refused(t, connectPacket(0x02, id, str("user")), connectPacket(0x82, id, str("user"), str("password")))
}

// [MQTT-3.1.2-19] [MQTT-3.1.2-21] A User Name or Password that the Connect Flags announce has to be there.
func TestMQTT_3_1_2_19_CredentialsMissing(t *testing.T) {
	t.Parallel()
	id := str(brokertest.Name())
	refused(t, connectPacket(0x82, id), connectPacket(0xC2, id), connectPacket(0xC2, id, str("user")), connectPacket(0x82, id, []byte{0}))
	for _, raw := range [][]byte{
		connectPacket(0x82, id, str("user")), connectPacket(0xC2, id, str("user"), str("\x00\xFF")), connectPacket(0xC2, id, str(""), str("")),
	} {
		c := dial(t)
		c.SendRaw(raw)
		c.ExpectConnack(0)
		c.Disconnect()
	}
}

// [MQTT-3.1.2-22] A Password without User Name is refused.
func TestMQTT_3_1_2_22_PasswordWithoutUserName(t *testing.T) {
	t.Parallel()
	refused(t, connectPacket(0x42, str(brokertest.Name()), str("password")))
}

// [MQTT-3.1.2-24] A Client that is silent for 1.5 times its Keep Alive is closed as if the network had failed: its Will is published. Any
// packet counts as a sign of life, and with Keep Alive 0 none is needed.
func TestMQTT_3_1_2_24_KeepAlive(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	pings, publishes, forever := connect(t, brokertest.KeepAlive(2)), connect(t, brokertest.KeepAlive(2)), connect(t, brokertest.KeepAlive(0))
	start := time.Now()
	silent := connect(t, brokertest.KeepAlive(2), brokertest.Will(topic, "will", 0, false))
	for range 7 {
		elapse(500 * time.Millisecond)
		pings.Ping()
		publishes.Publish("a", "payload", 1)
	}
	silent.ExpectClosed()
	if d := time.Since(start); d < 2900*time.Millisecond {
		t.Errorf("closed after %v, want 3 s", d)
	}
	sub.ExpectPublish(topic, "will")
	forever.Ping()
}

// [MQTT-3.1.3-1] The fields of the payload are read in their order.
func TestMQTT_3_1_3_1_OrderOfThePayload(t *testing.T) {
	t.Parallel()
	sub, topic := connectGuarded(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	c := dialGuarded(t)
	c.SendRaw(connectPacket(0xCE, str(brokertest.Name()), str(topic), str("wrong"), str("user"), str("password")))
	c.ExpectConnack(0)
	c.Close()
	sub.ExpectPublish(topic, "wrong")
	c = dialGuarded(t)
	c.SendRaw(connectPacket(0xCE, str(brokertest.Name()), str(topic), str("will"), str("wrong"), str("password")))
	c.ExpectConnack(4)
}

// [MQTT-3.1.3-2] A Session belongs to its ClientID, which is compared byte by byte.
func TestMQTT_3_1_3_2_ClientIDIdentifiesTheSession(t *testing.T) {
	t.Parallel()
	id := "Ab" + brokertest.Name()
	connect(t, brokertest.Durable(id)).Close()
	for _, other := range []string{strings.ToLower(id), id + " ", " " + id, id[1:], id[:len(id)-1]} {
		c := dial(t)
		if p := c.Connect(brokertest.Durable(other)); p.SessionPresent {
			t.Errorf("session of %q present for %q", id, other)
		}
	}
	resume(t, id)
}

// [MQTT-3.1.3-3] A CONNECT without ClientID is refused.
func TestMQTT_3_1_3_3_ClientIDIsPresent(t *testing.T) {
	t.Parallel()
	refused(t, connectPacket(0x02), connectPacket(0x02, []byte{0}), connectPacket(0x02, []byte{0, 5, 'a'}))
}

// [MQTT-3.1.3-4] [MQTT-3.1.3-10] [MQTT-3.1.3-11] [MQTT-1.5.3-1] [MQTT-1.5.3-2] ClientID, Will Topic and User Name are UTF-8 strings. The Will
// Message and the Password are not.
func TestMQTT_3_1_3_4_StringsAreUTF8(t *testing.T) {
	t.Parallel()
	id := str(brokertest.Name())
	for _, bad := range badStrings {
		refused(t, connectPacket(0x02, str(bad)), connectPacket(0x06, id, str(bad), str("payload")), connectPacket(0x82, id, str(bad)))
	}
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic, 0)
	c := dial(t)
	c.SendRaw(connectPacket(0xC6, id, str(topic), str("\x00\xFF"), str("user"), str("\x00\xFF")))
	c.ExpectConnack(0)
	c.Close()
	sub.ExpectPublish(topic, "\x00\xFF")
}

// [MQTT-3.1.3-5] ClientIDs of 1 to 23 letters and digits are accepted.
func TestMQTT_3_1_3_5_ClientIDsThatMustBeAllowed(t *testing.T) {
	t.Parallel()
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for i := range letters {
		connect(t, brokertest.ClientID(letters[i:min(i+23, len(letters))])).Disconnect()
		connect(t, brokertest.ClientID(letters[i:i+1])).Disconnect()
	}
}

// [MQTT-3.1.3-6] Clients with an empty ClientID get a unique one: none takes another's connection or Session, and each works as any other.
func TestMQTT_3_1_3_6_EmptyClientID(t *testing.T) {
	t.Parallel()
	sub, topic := connect(t), brokertest.Name()
	sub.Subscribe(topic+"/will", 0)
	var clients []*brokertest.Client
	for i := range 5 {
		c := connect(t, brokertest.ClientID(""), brokertest.Will(topic+"/will", fmt.Sprint(i), 0, false))
		c.Subscribe(fmt.Sprint(topic, "/", i), 1)
		clients = append(clients, c)
	}
	for i, c := range clients {
		c.Publish(fmt.Sprint(topic, "/", i), "payload", 2)
		c.Acknowledge(c.ExpectPublish(fmt.Sprint(topic, "/", i), "payload"))
		c.ExpectNothing()
	}
	for i, c := range clients {
		c.Close()
		sub.ExpectPublish(topic+"/will", fmt.Sprint(i))
	}
}

// [MQTT-3.1.3-8] [MQTT-3.1.3-7] [MQTT-3.2.2-5] An empty ClientID with Clean Session 0 is answered with return code 0x02.
func TestMQTT_3_1_3_8_EmptyClientIDWithoutCleanSession(t *testing.T) {
	t.Parallel()
	c := dial(t)
	c.SendConnect(brokertest.Durable(""))
	if got, want := c.ReceiveRaw(), []byte{0x20, 2, 0, 2}; !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
	c.ExpectClosed()
}

// [MQTT-3.1.3-9] A ClientID that is rejected is answered with return code 0x02.
func TestMQTT_3_1_3_9_ClientIDIsRejected(t *testing.T) {
	t.Parallel()
	c := dialGuarded(t)
	c.SendConnect(brokertest.ClientID("invalid" + brokertest.Name()))
	c.ExpectConnack(2)
}

// [MQTT-3.1.4-1] [MQTT-3.2.2-6] [MQTT-4.8.0-1] A CONNECT of another form is closed without CONNACK.
func TestMQTT_3_1_4_1_FormOfConnect(t *testing.T) {
	t.Parallel()
	id := str(brokertest.Name())
	refused(t, packet(0x10), packet(0x10, []byte{0}), packet(0x10, []byte{0, 9, 'M'}), packet(0x10, str("MQTT")),
		packet(0x10, str("MQTT"), []byte{4}), packet(0x10, str("MQTT"), []byte{4, 2}), packet(0x10, str("MQTT"), []byte{4, 2, 0}),
		connectPacket(2, id, []byte{0}), connectPacket(2, []byte{0, 200}, id), []byte{0x10, 0xFF, 0xFF, 0xFF, 0xFF, 1})
}

// [MQTT-3.1.4-2] A Client that connects under the ClientID of another ends that one's connection.
func TestMQTT_3_1_4_2_ExistingClientIsDisconnected(t *testing.T) {
	t.Parallel()
	for _, option := range []brokertest.ConnectOption{brokertest.Resume, func(*codec.Connect) {}} {
		id, topic := brokertest.ClientID(brokertest.Name()), brokertest.Name()
		first := connect(t, id, option)
		first.Subscribe(topic, 1)
		second := connect(t, id, option)
		first.ExpectClosed()
		second.Subscribe(topic, 1)
		second.Publish(topic, "payload", 1)
		second.Acknowledge(second.ExpectPublish(topic, "payload"))
		second.ExpectNothing()
	}
}

// [MQTT-3.1.4-4] An accepted CONNECT is answered with CONNACK, flags and return code 0, once.
func TestMQTT_3_1_4_4_ConnackAnswersConnect(t *testing.T) {
	t.Parallel()
	c := dial(t)
	c.SendRaw(connectPacket(2, str(brokertest.Name())))
	if got, want := c.ReceiveRaw(), []byte{0x20, 2, 0, 0}; !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
	c.ExpectNothing()
}

// [MQTT-3.1.4-5] What follows a CONNECT that is rejected isn't processed.
func TestMQTT_3_1_4_5_NothingIsProcessedAfterARejectedConnect(t *testing.T) {
	t.Parallel()
	topic := brokertest.Name()
	for _, test := range []struct {
		sub, c *brokertest.Client
		option brokertest.ConnectOption
	}{
		{connect(t), dial(t), brokertest.Durable("")},
		{connectGuarded(t), dialGuarded(t), brokertest.Credentials("wrong", "")},
	} {
		test.sub.Subscribe(topic, 1)
		p := &codec.Connect{Version: codec.V311, CleanStart: true, ClientID: []byte(brokertest.Name())}
		test.option(p)
		test.c.Send(p, publish(topic, "rejected", 0, 0), publish(topic, "rejected", 1, 1))
		if p := brokertest.Expect[*codec.Connack](test.c); p.ReasonCode == 0 {
			t.Fatalf("got %s", brokertest.Describe(p))
		}
		test.c.ExpectClosed()
		test.sub.ExpectNothingFrom(test.sub, 1)
	}
}
