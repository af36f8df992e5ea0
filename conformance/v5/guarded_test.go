package v5

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// What needs a broker with other options than the defaults: one that refuses things, says why, and knows an Authentication Method.

// guarded is that broker. See guard.
var guarded *brokertest.Server

func guard(o *loopmq.Options) {
	o.Authenticator, o.Authorizer = gate{}, gate{}
	o.ReasonStrings = true
	o.CheckPayloadFormat = true
	o.ResponseInformation = "response/"
}

// gate lets everybody in but for the User Name "wrong" and ClientIDs with "invalid" in them, and allows all topics without "denied" in them.
// Its Authentication Method "TEST" asks two questions, "1" and "2", to which the answers are "one" and "two".
type gate struct{}

const method = "TEST"

func (gate) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	identity := loopmq.Identity{Username: r.Username}
	switch {
	case r.Username == "wrong":
		return identity, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong password")
	case strings.Contains(r.ClientID, "invalid"):
		return identity, nil, codec.NewError(codec.ClientIdentifierNotValid, "not a name for a client")
	case r.AuthenticationMethod == method && string(r.AuthenticationData) != "start":
		return identity, nil, codec.NewError(codec.NotAuthorized, "wrong start")
	case r.AuthenticationMethod == method:
		return identity, &loopmq.Challenge{AuthenticationData: []byte("1"), State: "one"}, nil
	case r.AuthenticationMethod != "":
		return identity, nil, codec.NewError(codec.BadAuthenticationMethod, "no such method")
	}
	return identity, nil, nil
}

func (gate) Continue(_ context.Context, _ *loopmq.ConnectRequest, state any, data []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	switch {
	case state == any("one") && string(data) == "one":
		return loopmq.Identity{}, &loopmq.Challenge{AuthenticationData: []byte("2"), State: "two"}, nil
	case state == any("two") && string(data) == "two":
		return loopmq.Identity{AuthenticationData: []byte("welcome")}, nil, nil
	}
	return loopmq.Identity{}, nil, codec.NewError(codec.NotAuthorized, "wrong answer")
}

func (gate) Authorize(_ context.Context, _ *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	return !strings.Contains(topic, "denied")
}

func dialGuarded(t *testing.T) *brokertest.Client {
	t.Helper()
	if brokertest.Outside() {
		t.Skip("needs a broker with options of its own")
	}
	return brokertest.Dial(t, guarded.Addr, codec.V5)
}

func connectGuarded(t *testing.T, options ...brokertest.ConnectOption) *brokertest.Client {
	t.Helper()
	c := dialGuarded(t)
	c.Connect(options...)
	return c
}

// [MQTT-3.1.2-21] [MQTT-3.2.2-21] [MQTT-3.1.2-22] Where the broker limits the Keep Alive, CONNACK says so, and the limit counts.
func TestMQTT_3_1_2_21_ServerKeepAlive(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.KeepAlive = 1 })
	for _, keepAlive := range []uint16{60, 0} {
		c, start := brokertest.Dial(t, s.Addr, codec.V5), time.Now()
		if p := c.Connect(brokertest.KeepAlive(keepAlive)); p.Properties.ServerKeepAlive != 1 {
			t.Errorf("keep alive %d: got server keep alive %d, want 1", keepAlive, p.Properties.ServerKeepAlive)
		}
		ended(t, c, codec.KeepAliveTimeout)
		if d := time.Since(start); d < 1400*time.Millisecond {
			t.Errorf("closed after %v, want 1.5 s", d)
		}
	}
}

// [MQTT-3.1.2-27] [MQTT-3.2.2-18] Without Topic Alias Maximum in CONNACK, a Topic Alias is refused with 0x94.
func TestMQTT_3_2_2_18_NoTopicAliases(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.TopicAliasMaximum = -1 })
	c := brokertest.Dial(t, s.Addr, codec.V5)
	if p := c.Connect(); p.Properties.TopicAliasMaximum != 0 {
		t.Fatalf("got topic alias maximum %d, want none", p.Properties.TopicAliasMaximum)
	}
	c.Send(publish("a", "payload", 0, 0, codec.PropTopicAlias, 1))
	disconnected(t, c, codec.TopicAliasInvalid)
}

// [MQTT-3.1.2-28] Response Information comes only to a Client that asks for it.
func TestMQTT_3_1_2_28_ResponseInformation(t *testing.T) {
	t.Parallel()
	for request, want := range map[int]bool{-1: false, 0: false, 1: true} {
		c := dialGuarded(t)
		var options []brokertest.ConnectOption
		if request >= 0 {
			options = append(options, brokertest.With(codec.PropRequestResponseInformation, request))
		}
		if p := c.Connect(options...); p.Properties.Has(codec.PropResponseInformation) != want {
			t.Errorf("request %d: got response information %q", request, p.Properties.ResponseInformation)
		}
	}
}

// failures makes the broker send each packet that can say what went wrong, on a new connection with these options: PUBACK, PUBREC, PUBREL,
// PUBCOMP, SUBACK, UNSUBACK.
func failures(t *testing.T, options ...brokertest.ConnectOption) map[codec.PacketType]brokertest.Packet {
	t.Helper()
	c, denied := connectGuarded(t, options...), brokertest.Name()+"/denied"
	packets := map[codec.PacketType]brokertest.Packet{}
	c.Send(publish(denied, "payload", 1, 1))
	packets[codec.TypePuback] = c.ExpectAck(codec.TypePuback, 1, codec.NotAuthorized)
	c.Send(publish(denied, "payload", 2, 2))
	packets[codec.TypePubrec] = c.ExpectAck(codec.TypePubrec, 2, codec.NotAuthorized)
	c.Send(ack(codec.TypePubrec, 3, 0))
	packets[codec.TypePubrel] = c.ExpectAck(codec.TypePubrel, 3, codec.PacketIdentifierNotFound)
	c.Send(ack(codec.TypePubrel, 4, 0))
	packets[codec.TypePubcomp] = c.ExpectAck(codec.TypePubcomp, 4, codec.PacketIdentifierNotFound)
	c.Send(subscribe(5, brokertest.Subscription(denied, 0)))
	packets[codec.TypeSuback] = c.ExpectSuback(5, codec.NotAuthorized)
	c.Send(&codec.Unsubscribe{PacketID: 6, TopicFilters: [][]byte{[]byte(denied)}})
	packets[codec.TypeUnsuback] = c.ExpectUnsuback(6, codec.NoSubscriptionExisted)
	return packets
}

func propertiesOf(p brokertest.Packet) *codec.Properties {
	switch p := p.(type) {
	case *codec.Ack:
		return &p.Properties
	case *codec.Suback:
		return &p.Properties
	case *codec.Unsuback:
		return &p.Properties
	}
	return nil
}

// [MQTT-3.1.2-29] With Request Problem Information 0 only PUBLISH, CONNACK and DISCONNECT have Reason Strings or User Properties. Without it
// others have them too, or this would show nothing.
func TestMQTT_3_1_2_29_RequestProblemInformation(t *testing.T) {
	t.Parallel()
	var n int
	for _, p := range failures(t) {
		if hasProblemInformation(propertiesOf(p)) {
			n++
		}
	}
	if n < 4 {
		t.Errorf("%d of the packets that report a failure say why, want PUBACK, PUBREC, PUBREL and PUBCOMP at least", n)
	}
	for packetType, p := range failures(t, brokertest.With(codec.PropRequestProblemInformation, 0)) {
		if hasProblemInformation(propertiesOf(p)) {
			t.Errorf("got %v with %+v", packetType, propertiesOf(p))
		}
	}
	c, topic := connectGuarded(t, brokertest.With(codec.PropRequestProblemInformation, 0)), brokertest.Name()
	c.Subscribe(topic, 0)
	c.Publish(topic, "payload", 0, properties(codec.PropUserProperty, [2]string{"k", "v"}))
	expectUserProperties(t, c.ExpectPublish(topic, "payload"), [][2]string{{"k", "v"}})
}

// [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] Acknowledgements
// keep within the Maximum Packet Size of the Client by leaving out what says why they fail.
func TestMQTT_3_4_2_2_AcknowledgementsWithinMaximumPacketSize(t *testing.T) {
	t.Parallel()
	free, c := failures(t), dialGuarded(t)
	limit := c.Connect().Size(codec.V5)
	limited := failures(t, brokertest.With(codec.PropMaximumPacketSize, limit))
	for _, packetType := range []codec.PacketType{codec.TypePuback, codec.TypePubrec, codec.TypePubrel, codec.TypePubcomp} {
		if n := free[packetType].(*codec.Ack).Size(codec.V5); n <= limit {
			t.Errorf("got %v of %d bytes without a limit: this shows nothing", packetType, n)
		}
		if n := limited[packetType].(*codec.Ack).Size(codec.V5); n > limit {
			t.Errorf("got %v of %d bytes, limit %d", packetType, n, limit)
		}
	}
}

// [MQTT-3.1.3-8] A ClientID that is rejected is answered with 0x85, and the connection ends.
func TestMQTT_3_1_3_8_ClientIDIsRejected(t *testing.T) {
	t.Parallel()
	c := dialGuarded(t)
	c.SendConnect(brokertest.ClientID("invalid" + brokertest.Name()))
	c.ExpectConnack(codec.ClientIdentifierNotValid)
}

// [MQTT-3.1.4-2] [MQTT-3.1.4-6] [MQTT-4.12.0-4] A CONNECT that fails authentication is refused, and nothing after it is processed.
func TestMQTT_3_1_4_2_AuthenticationFails(t *testing.T) {
	t.Parallel()
	sub, topic := connectGuarded(t), brokertest.Name()
	sub.Subscribe(topic, 1)
	c := dialGuarded(t)
	connect := &codec.Connect{Version: codec.V5, CleanStart: true, ClientID: []byte(brokertest.Name())}
	brokertest.Credentials("wrong", "password")(connect)
	brokertest.Will(topic, "will", 1, false)(connect)
	c.Send(connect, publish(topic, "payload", 1, 1))
	c.ExpectConnack(codec.BadUserNameOrPassword)
	sub.ExpectNothingFrom(sub, 1)
}

// [MQTT-3.1.4-6] What comes while authentication is going on is processed only once it has succeeded.
func TestMQTT_3_1_4_6_PacketsBeforeAuthenticationSucceeds(t *testing.T) {
	t.Parallel()
	c, topic := dialGuarded(t), brokertest.Name()
	connect := &codec.Connect{Version: codec.V5, CleanStart: true, ClientID: []byte(brokertest.Name())}
	brokertest.Credentials("right", "password")(connect)
	c.Send(connect, subscribe(1, brokertest.Subscription(topic, 1)), publish(topic, "payload", 1, 2))
	c.ExpectConnack(codec.Success)
	c.ExpectSuback(1, 1)
	if p := receiveBoth(t, c, codec.TypePuback, 2); string(p.Payload) != "payload" {
		t.Errorf("got %s", brokertest.Describe(p))
	}
}

// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.3.2-4] A payload that isn't of the format which its PUBLISH says is refused with 0x99.
func TestMQTT_3_4_2_1_PayloadFormatInvalid(t *testing.T) {
	t.Parallel()
	c, topic := connectGuarded(t), brokertest.Name()
	c.Subscribe(topic, 0)
	c.Send(publish(topic, "\xFF", 1, 1, codec.PropPayloadFormatIndicator, 1))
	c.ExpectAck(codec.TypePuback, 1, codec.PayloadFormatInvalid)
	c.Send(publish(topic, "\xFF", 2, 2, codec.PropPayloadFormatIndicator, 1))
	c.ExpectAck(codec.TypePubrec, 2, codec.PayloadFormatInvalid)
	behind := []byte{0x03, 0, 1, 't', 0x01, 1} // the Payload Format Indicator behind a Content Type
	c.SendRaw(packet(0x32, str(topic), []byte{0, 3, byte(len(behind))}, behind, []byte{0xFF}))
	c.ExpectAck(codec.TypePuback, 3, codec.PayloadFormatInvalid)
	c.ExpectNothing()
	c.Publish(topic, "\xFF", 1, properties(codec.PropPayloadFormatIndicator, 0))
	c.ExpectPublish(topic, "\xFF")
}

// [MQTT-4.3.3-9] After a PUBREC with an error the Packet Identifier is free: a PUBLISH with it is a new message.
func TestMQTT_4_3_3_9_PacketIdentifierAfterAnError(t *testing.T) {
	t.Parallel()
	c, topic := connectGuarded(t), brokertest.Name()
	c.Subscribe(topic, 0)
	for range 2 {
		c.Send(publish(topic+"/denied", "refused", 2, 1))
		c.ExpectAck(codec.TypePubrec, 1, codec.NotAuthorized)
	}
	c.Publish(topic, "accepted", 2, func(p *codec.Publish) { p.PacketID = 1 })
	c.ExpectPublish(topic, "accepted")
}

// authenticate goes through the enhanced authentication and returns the Client, connected.
func authenticate(t *testing.T, options ...brokertest.ConnectOption) *brokertest.Client {
	t.Helper()
	c := dialGuarded(t)
	c.SendConnect(append(options, brokertest.With(codec.PropAuthenticationMethod, method, codec.PropAuthenticationData, "start"))...)
	challenged(t, c, "1")
	c.Send(answer("one"))
	challenged(t, c, "2")
	c.Send(answer("two"))
	p := c.ExpectConnack(codec.Success)
	if string(p.Properties.AuthenticationMethod) != method || string(p.Properties.AuthenticationData) != "welcome" {
		t.Errorf("got CONNACK with method %q and data %q", p.Properties.AuthenticationMethod, p.Properties.AuthenticationData)
	}
	return c
}

func challenged(t *testing.T, c *brokertest.Client, data string) {
	t.Helper()
	p := c.ExpectAuth(codec.ContinueAuthentication)
	if string(p.Properties.AuthenticationMethod) != method || string(p.Properties.AuthenticationData) != data {
		t.Errorf("got AUTH with method %q and data %q", p.Properties.AuthenticationMethod, p.Properties.AuthenticationData)
	}
}

func answer(data string) *codec.Auth {
	return auth(codec.ContinueAuthentication, method, data)
}

func auth(code codec.ReasonCode, method, data string) *codec.Auth {
	return &codec.Auth{ReasonCode: code, Properties: brokertest.Properties(
		codec.PropAuthenticationMethod, method, codec.PropAuthenticationData, data)}
}

// [MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5] [MQTT-3.15.2-1] Enhanced authentication: the broker asks with AUTH 0x18 and the
// Authentication Method of the CONNECT, which the CONNACK has as well.
func TestMQTT_4_12_0_2_EnhancedAuthentication(t *testing.T) {
	t.Parallel()
	c, topic := authenticate(t), brokertest.Name()
	c.Subscribe(topic, 0)
	c.Publish(topic, "payload", 0)
	c.ExpectPublish(topic, "payload")
}

// [MQTT-4.12.0-1] An Authentication Method that isn't supported is refused with 0x8C, by a broker without any as by one with another.
func TestMQTT_4_12_0_1_UnsupportedMethod(t *testing.T) {
	t.Parallel()
	for _, c := range []*brokertest.Client{dial(t), dialGuarded(t)} {
		c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "unknown"))
		refused(t, c, codec.BadAuthenticationMethod, codec.NotAuthorized)
	}
}

// [MQTT-4.12.0-3] [MQTT-3.15.2-1] During authentication an AUTH of the Client has 0x18.
func TestMQTT_4_12_0_3_ReasonCodeOfAnswer(t *testing.T) {
	t.Parallel()
	for _, code := range []codec.ReasonCode{codec.Success, codec.ReAuthenticate} {
		c := dialGuarded(t)
		c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, method, codec.PropAuthenticationData, "start"))
		challenged(t, c, "1")
		c.Send(auth(code, method, "one"))
		refusedOrClosed(t, c, codec.ProtocolError, codec.MalformedPacket)
	}
}

// [MQTT-4.12.0-4] [MQTT-3.14.0-1] The broker can reject the authentication at any point: CONNACK with an error, and the end.
func TestMQTT_4_12_0_4_AuthenticationIsRejected(t *testing.T) {
	t.Parallel()
	c := dialGuarded(t)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, method, codec.PropAuthenticationData, "wrong"))
	c.ExpectConnack(codec.NotAuthorized)

	c = dialGuarded(t)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, method, codec.PropAuthenticationData, "start"))
	challenged(t, c, "1")
	c.Send(answer("wrong"))
	c.ExpectConnack(codec.NotAuthorized)
}

// [MQTT-4.12.0-5] An AUTH of the Client with another Authentication Method than its CONNECT is refused.
func TestMQTT_4_12_0_5_MethodStaysTheSame(t *testing.T) {
	t.Parallel()
	c := dialGuarded(t)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, method, codec.PropAuthenticationData, "start"))
	challenged(t, c, "1")
	c.Send(auth(codec.ContinueAuthentication, "OTHER", "one"))
	refusedOrClosed(t, c, codec.ProtocolError, codec.BadAuthenticationMethod)
}

// [MQTT-4.12.0-6] Without Authentication Method in CONNECT there is no AUTH, and none in CONNACK.
func TestMQTT_4_12_0_6_NoMethodNoAuth(t *testing.T) {
	t.Parallel()
	c := dialGuarded(t)
	p := c.Connect(brokertest.Credentials("right", "password"))
	if p.Properties.Has(codec.PropAuthenticationMethod) || p.Properties.Has(codec.PropAuthenticationData) {
		t.Errorf("got authentication method %q", p.Properties.AuthenticationMethod)
	}
	c.ExpectNothing()
}

// [MQTT-4.12.0-7] An AUTH from a Client whose CONNECT had no Authentication Method is a Protocol Error.
func TestMQTT_4_12_0_7_AuthWithoutMethod(t *testing.T) {
	t.Parallel()
	for _, c := range []*brokertest.Client{connect(t), connectGuarded(t)} {
		c.Send(auth(codec.ReAuthenticate, method, "start"))
		disconnected(t, c, codec.ProtocolError)
	}
}

// [MQTT-4.12.1-1] [MQTT-3.15.2-1] A re-authentication with the same method succeeds, and the connection works on meanwhile; with another
// method it is refused.
func TestMQTT_4_12_1_1_Reauthentication(t *testing.T) {
	t.Parallel()
	c, topic := authenticate(t), brokertest.Name()
	c.Subscribe(topic, 0)
	c.Send(auth(codec.ReAuthenticate, method, "start"))
	challenged(t, c, "1")
	c.Publish(topic, "meanwhile", 0)
	c.ExpectPublish(topic, "meanwhile")
	c.Send(answer("one"))
	challenged(t, c, "2")
	c.Send(answer("two"))
	p := c.ExpectAuth(codec.Success)
	if string(p.Properties.AuthenticationMethod) != method || string(p.Properties.AuthenticationData) != "welcome" {
		t.Errorf("got AUTH with method %q and data %q", p.Properties.AuthenticationMethod, p.Properties.AuthenticationData)
	}
	c.Publish(topic, "after", 0)
	c.ExpectPublish(topic, "after")

	c.Send(auth(codec.ReAuthenticate, "OTHER", "start"))
	disconnected(t, c, codec.ProtocolError, codec.BadAuthenticationMethod)
}

// [MQTT-4.12.1-2] A re-authentication that fails ends the connection.
func TestMQTT_4_12_1_2_ReauthenticationFails(t *testing.T) {
	t.Parallel()
	c := authenticate(t)
	c.Send(auth(codec.ReAuthenticate, method, "wrong"))
	disconnected(t, c, codec.NotAuthorized)

	c = authenticate(t)
	c.Send(auth(codec.ReAuthenticate, method, "start"))
	challenged(t, c, "1")
	c.Send(answer("wrong"))
	disconnected(t, c, codec.NotAuthorized)
}

// [MQTT-3.15.1-1] An AUTH with flags that aren't 0 ends the connection.
func TestMQTT_3_15_1_1_FlagsOfAuth(t *testing.T) {
	t.Parallel()
	for flags := byte(1); flags < 16; flags++ {
		c := authenticate(t)
		raw := auth(codec.ReAuthenticate, method, "start").Append(nil, codec.V5)
		raw[0] |= flags
		c.SendRaw(raw)
		disconnected(t, c, codec.MalformedPacket, codec.ProtocolError)
	}
}

// [MQTT-3.15.2-1] An AUTH with a Reason Code that isn't one of its own ends the connection.
func TestMQTT_3_15_2_1_ReasonCodesOfAuth(t *testing.T) {
	t.Parallel()
	for _, code := range []codec.ReasonCode{0x01, 0x04, 0x80, 0xFF} {
		c := authenticate(t)
		c.Send(auth(code, method, "start"))
		disconnected(t, c, codec.ProtocolError, codec.MalformedPacket)
	}
}

// [MQTT-3.15.2-2] [MQTT-3.15.2-3] An AUTH of the broker keeps within the Maximum Packet Size.
func TestMQTT_3_15_2_2_AuthWithinMaximumPacketSize(t *testing.T) {
	t.Parallel()
	least := len(answer("1").Append(nil, codec.V5))
	c := dialGuarded(t)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, method, codec.PropAuthenticationData, "start",
		codec.PropMaximumPacketSize, least))
	if raw := c.ReceiveRaw(); len(raw) > least || raw[0] != 0xF0 {
		t.Errorf("got % X with %d bytes, limit %d", raw, len(raw), least)
	}
}

// [MQTT-4.13.2-1] [MQTT-3.14.2-2] [MQTT-3.14.4-2] A broker that shuts down tells its Clients with 0x8B and closes.
func TestMQTT_4_13_2_1_ServerShuttingDown(t *testing.T) {
	t.Parallel()
	if brokertest.Outside() {
		t.Skip("needs a broker that it can shut down")
	}
	s, err := brokertest.Run(guard)
	if err != nil {
		t.Fatal(err)
	}
	var clients []*brokertest.Client
	for range 5 {
		clients = append(clients, brokertest.Connect(t, s.Addr, codec.V5))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range clients {
		if p := c.ExpectDisconnect(codec.ServerShuttingDown); p.Properties.Has(codec.PropSessionExpiryInterval) {
			t.Error("got a session expiry interval")
		}
	}
}

// [MQTT-3.9.2-1] [MQTT-3.11.2-1] SUBACK and UNSUBACK that report a failure keep within the Maximum Packet Size.
func TestMQTT_3_9_2_1_FailuresWithinMaximumPacketSize(t *testing.T) {
	t.Parallel()
	c := dialGuarded(t)
	limit := c.Connect().Size(codec.V5)
	limited := failures(t, brokertest.With(codec.PropMaximumPacketSize, limit))
	if n := limited[codec.TypeSuback].(*codec.Suback).Size(codec.V5); n > limit {
		t.Errorf("got SUBACK of %d bytes, limit %d", n, limit)
	}
	if n := limited[codec.TypeUnsuback].(*codec.Unsuback).Size(codec.V5); n > limit {
		t.Errorf("got UNSUBACK of %d bytes, limit %d", n, limit)
	}
}

// [MQTT-3.2.2-8] CONNACK refuses with the Reason Code for the case: here with those that an Authenticator gives.
func TestMQTT_3_2_2_8_ConnectReasonCodes(t *testing.T) {
	t.Parallel()
	var got []codec.ReasonCode
	for _, o := range []brokertest.ConnectOption{
		brokertest.Credentials("right", ""), brokertest.Credentials("wrong", ""), brokertest.ClientID("invalid"),
		brokertest.Will("denied", "will", 0, false),
	} {
		c := dialGuarded(t)
		c.SendConnect(o)
		got = append(got, brokertest.Expect[*codec.Connack](c).ReasonCode)
	}
	want := []codec.ReasonCode{codec.Success, codec.BadUserNameOrPassword, codec.ClientIdentifierNotValid, codec.NotAuthorized}
	if !slices.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
}
