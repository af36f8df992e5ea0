package loopmq_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// passwords accepts each user whose password is the user name, and tells others by the reason code that is their name.
type passwords struct{}

func (passwords) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	switch {
	case r.Username == "banned":
		return loopmq.Identity{}, nil, fmt.Errorf("look-up: %w", codec.NewError(codec.Banned, "go away"))
	case r.Username == "broken":
		return loopmq.Identity{}, nil, errInjected
	case r.Username != string(r.Password):
		return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "no")
	}
	return loopmq.Identity{Username: "known-" + r.Username}, nil, nil
}

func (passwords) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errInjected
}

// The reason that an Authenticator gives is the one that the client gets, as far as its version knows it.
func TestAuthenticatorRefuses(t *testing.T) {
	t.Parallel()
	refused := make(chan codec.ReasonCode, 16)
	connected := make(chan string, 16)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = passwords{}
		o.Recorder = loopmq.Recorders(
			loopmq.OnEvent(func(e *loopmq.Event) { refused <- e.ReasonCode }, loopmq.EventClientAuthFailed),
			loopmq.OnEvent(func(e *loopmq.Event) { connected <- e.Client.Username }, loopmq.EventClientConnected))
	})
	for _, test := range []struct {
		username, password string
		version            codec.Version
		want, event        codec.ReasonCode
	}{
		{"banned", "banned", codec.V5, codec.Banned, codec.Banned},
		{"broken", "broken", codec.V5, codec.NotAuthorized, codec.NotAuthorized},
		{"user", "wrong", codec.V5, codec.BadUserNameOrPassword, codec.BadUserNameOrPassword},
		{"user", "wrong", codec.V311, 4, codec.BadUserNameOrPassword},
		{"user", "wrong", codec.V31, 4, codec.BadUserNameOrPassword},
		{"broken", "broken", codec.V311, 5, codec.NotAuthorized},
	} {
		c := brokertest.Dial(t, s.Addr, test.version)
		c.SendConnect(brokertest.Credentials(test.username, test.password))
		c.ExpectConnack(test.want)
		if got := receive(t, "OnAuthFailed", refused); got != test.event {
			t.Errorf("%+v: OnAuthFailed with %v", test, got)
		}
	}
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Credentials("user", "user"))
	if got := receive(t, "OnConnected", connected); got != "known-user" {
		t.Errorf("the client is %q, not whom the Authenticator said", got)
	}
	expectMetric(t, s.Broker, "loopmq_auth_failures_total", 6)
	expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="refused"}`, 6)
}

// gate is an Authenticator and Authorizer that holds on for some.
type gate struct {
	open    chan struct{}
	holds   func(name string) bool
	waiting chan string
}

func newGate(holds func(string) bool) *gate {
	return &gate{open: make(chan struct{}), holds: holds, waiting: make(chan string, 1000)}
}

func (g *gate) pass(name string) {
	if g.holds(name) {
		g.waiting <- name
		<-g.open
	}
}

func (g *gate) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	g.pass(r.ClientID)
	return loopmq.Identity{}, nil, nil
}

func (g *gate) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errInjected
}

func (g *gate) Authorize(_ context.Context, _ *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	g.pass(topic)
	return true
}

// An Authenticator that blocks holds up those it judges and those who wait for it, and loses nothing that they send. Clients that are
// connected don't notice, though their sessions are read from the store.
func TestBlockingAuthenticatorHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	g := newGate(func(name string) bool { return strings.HasPrefix(name, "slow") })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = g })
	open := sync.OnceFunc(func() { close(g.open) })
	defer open()
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"), brokertest.With(codec.PropReceiveMaximum, 1))
	sub.Subscribe("a", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5)

	clients := make([]*brokertest.Client, 200) // more than calls run at one time
	for i := range clients {
		clients[i] = brokertest.Dial(t, s.Addr, codec.V5)
		clients[i].SendConnect(brokertest.ClientID(fmt.Sprintf("slow%d", i)))
		clients[i].Send(brokertest.Pingreq{})
	}
	receive(t, "a call of Authenticate", g.waiting)
	for i := range 10 {
		pub.Publish("a", fmt.Sprint(i), 1)
	}
	for i := range 10 { // one in flight: each next one is read from the store
		sub.Acknowledge(sub.ExpectPublish("a", fmt.Sprint(i)))
	}
	if n := s.Broker.Health().Connections; n != 2 {
		t.Errorf("%d clients are connected, want 2", n)
	}
	open()
	for _, c := range clients {
		c.ExpectConnack(codec.Success)
		c.ExpectPingresp()
	}
}

// While the Authorizer thinks about a packet, what the client sent behind it waits, in order.
func TestBlockingAuthorizerKeepsTheOrder(t *testing.T) {
	t.Parallel()
	g := newGate(func(name string) bool { return name == "slow" })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = g })
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("#", 0)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	topics := []string{"a", "slow", "b", "slow", "c"}
	for _, topic := range topics {
		pub.Send(&codec.Publish{TopicName: []byte(topic)})
	}
	pub.Send(brokertest.Pingreq{})
	sub.ExpectPublish("a", "")
	receive(t, "a call of Authorize", g.waiting)
	sub.ExpectNothingFrom(brokertest.Connect(t, s.Addr, codec.V5), 0) // others aren't held up
	close(g.open)
	for _, topic := range topics[1:] {
		sub.ExpectPublish(topic, "")
	}
	pub.ExpectPingresp()
}

// A client that leaves while the Authorizer thinks about its packet takes that with it, and nothing else.
func TestClientLeavesBeforeTheAuthorizerAnswers(t *testing.T) {
	t.Parallel()
	g := newGate(func(name string) bool { return name == "slow" })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = g })
	sub, pub := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("#", 0)
	gone := brokertest.Connect(t, s.Addr, codec.V5)
	gone.Send(&codec.Publish{TopicName: []byte("slow")})
	receive(t, "a call of Authorize", g.waiting)
	gone.Close()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 2)
	close(g.open)
	sub.ExpectNothingFrom(pub, 0)
}

// Whom the Authorizer doesn't allow to publish gets 0x87 with 5.0 and an acknowledgement like others with 3.x; nobody gets the message.
func TestAuthorizerDenies(t *testing.T) {
	t.Parallel()
	type asked struct {
		action loopmq.Action
		topic  string
		qos    byte
		retain bool
	}
	calls := make(chan asked, 64)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authorizer = authorizerFunc(func(c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) bool {
			calls <- asked{a, topic, qos, retain}
			return !strings.HasPrefix(topic, "denied")
		})
	})
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{
		brokertest.Subscription("denied/#", 1), brokertest.Subscription("$share/name/denied/+", 1), brokertest.Subscription("#", 2),
	}})
	sub.ExpectSuback(1, codec.NotAuthorized, codec.NotAuthorized, 2)
	for _, want := range []asked{
		{loopmq.ActionSubscribe, "denied/#", 1, false},
		{loopmq.ActionSubscribe, "denied/+", 1, false}, // without $share/name/
		{loopmq.ActionSubscribe, "#", 2, false},
	} {
		if got := receive(t, "Authorize", calls); got != want {
			t.Errorf("asked for %+v, want %+v", got, want)
		}
	}
	v3 := brokertest.Connect(t, s.Addr, codec.V311)
	v3.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("denied", 1)}})
	v3.ExpectSuback(1, 0x80)
	receive(t, "Authorize", calls)

	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Send(
		&codec.Publish{TopicName: []byte("denied/0"), QoS: 0},
		&codec.Publish{TopicName: []byte("denied/1"), QoS: 1, PacketID: 11, Retain: true},
		&codec.Publish{TopicName: []byte("denied/2"), QoS: 2, PacketID: 12},
	)
	pub.ExpectAck(codec.TypePuback, 11, codec.NotAuthorized)
	pub.ExpectAck(codec.TypePubrec, 12, codec.NotAuthorized)
	for i := range byte(3) {
		want := asked{loopmq.ActionPublish, fmt.Sprintf("denied/%d", i), i, i == 1}
		if got := receive(t, "Authorize", calls); got != want {
			t.Errorf("asked for %+v, want %+v", got, want)
		}
	}
	pub.Publish("allowed", "after a refusal the Packet Identifier is free", 2, func(p *codec.Publish) { p.PacketID = 12 })
	v3.Send(&codec.Publish{TopicName: []byte("denied/2"), QoS: 2, PacketID: 7})
	v3.ExpectAck(codec.TypePubrec, 7, 0)
	v3.Send(&codec.Ack{Type: codec.TypePubrel, PacketID: 7})
	v3.ExpectAck(codec.TypePubcomp, 7, 0)
	sub.Acknowledge(sub.ExpectPublish("allowed", "after a refusal the Packet Identifier is free"))
	sub.ExpectNothingFrom(v3, 1)
}

type authorizerFunc func(c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) bool

func (f authorizerFunc) Authorize(_ context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) bool {
	return f(c, a, topic, qos, retain)
}

// A Will is judged at CONNECT, by the topic, QoS and RETAIN that it will be published with.
func TestAuthorizerDeniesWill(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authorizer = authorizerFunc(func(c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) bool {
			return !(a == loopmq.ActionPublish && c.ClientID == "lastword" && topic == "will" && qos == 1 && retain)
		})
	})
	for version, want := range map[codec.Version]codec.ReasonCode{codec.V5: codec.NotAuthorized, codec.V311: 5} {
		c := brokertest.Dial(t, s.Addr, version)
		c.SendConnect(brokertest.ClientID("lastword"), brokertest.Will("will", "w", 1, true))
		c.ExpectConnack(want)
		brokertest.Connect(t, s.Addr, version, brokertest.ClientID("lastword"), brokertest.Will("will", "w", 0, true)).Disconnect()
	}
}

// conversation is an enhanced authentication in three steps: the client says "hello", then what it is asked to say.
type conversation struct{ reauthenticated chan string }

func (a conversation) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	switch {
	case r.AuthenticationMethod != "say":
		return loopmq.Identity{}, nil, codec.NewError(codec.BadAuthenticationMethod, "say what?")
	case r.Reauthentication:
		a.reauthenticated <- r.Username
		return loopmq.Identity{}, &loopmq.Challenge{AuthenticationData: []byte("again"), State: "again"}, nil
	case string(r.AuthenticationData) == "hello":
		return loopmq.Identity{}, &loopmq.Challenge{AuthenticationData: []byte("please"), State: "please"}, nil
	}
	return loopmq.Identity{}, nil, codec.NewError(codec.NotAuthorized, "no hello")
}

func (a conversation) Continue(_ context.Context, r *loopmq.ConnectRequest, state any, data []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	if string(data) != state.(string) {
		return loopmq.Identity{}, nil, codec.NewError(codec.NotAuthorized, "wrong word")
	}
	if state == "please" {
		return loopmq.Identity{}, &loopmq.Challenge{AuthenticationData: []byte("thanks"), State: "thanks"}, nil
	}
	return loopmq.Identity{Username: "polite", AuthenticationData: []byte("welcome")}, nil, nil
}

func sendAuth(c *brokertest.Client, reason codec.ReasonCode, data string) {
	c.Send(&codec.Auth{ReasonCode: reason, Properties: brokertest.Properties(codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, data)})
}

func expectAuth(t *testing.T, c *brokertest.Client, reason codec.ReasonCode, data string) {
	t.Helper()
	p := c.ExpectAuth(reason)
	if string(p.Properties.AuthenticationMethod) != "say" || string(p.Properties.AuthenticationData) != data {
		t.Errorf("got AUTH with %q, %q, want %q", p.Properties.AuthenticationMethod, p.Properties.AuthenticationData, data)
	}
}

func TestEnhancedAuthentication(t *testing.T) {
	t.Parallel()
	a := conversation{make(chan string, 8)}
	connected := make(chan string, 8)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = a
		o.Recorder = loopmq.OnEvent(func(e *loopmq.Event) { connected <- e.Client.Username }, loopmq.EventClientConnected)
	})
	hello := func(data string) *brokertest.Client {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, data))
		return c
	}
	hello("what?").ExpectConnack(codec.NotAuthorized)
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "sing"))
	c.ExpectConnack(codec.BadAuthenticationMethod)

	c = hello("hello")
	expectAuth(t, c, codec.ContinueAuthentication, "please")
	sendAuth(c, codec.ContinueAuthentication, "sorry")
	c.ExpectConnack(codec.NotAuthorized)

	c = hello("hello")
	expectAuth(t, c, codec.ContinueAuthentication, "please")
	sendAuth(c, codec.ContinueAuthentication, "please")
	expectAuth(t, c, codec.ContinueAuthentication, "thanks")
	sendAuth(c, codec.ContinueAuthentication, "thanks")
	p := c.ExpectConnack(codec.Success)
	if string(p.Properties.AuthenticationMethod) != "say" || string(p.Properties.AuthenticationData) != "welcome" { // [MQTT-4.12.0-5]
		t.Errorf("CONNACK with %q, %q", p.Properties.AuthenticationMethod, p.Properties.AuthenticationData)
	}
	if got := receive(t, "OnConnected", connected); got != "polite" {
		t.Errorf("the client is %q", got)
	}

	// Once more, while it is connected [MQTT-4.12.1-1].
	sendAuth(c, codec.ReAuthenticate, "hello")
	if got := receive(t, "re-authentication", a.reauthenticated); got != "polite" {
		t.Errorf("the re-authentication is of %q", got)
	}
	expectAuth(t, c, codec.ContinueAuthentication, "again")
	c.Ping() // it goes on meanwhile
	sendAuth(c, codec.ContinueAuthentication, "again")
	expectAuth(t, c, codec.Success, "welcome")
	c.Ping()
	sendAuth(c, codec.ReAuthenticate, "hello")
	expectAuth(t, c, codec.ContinueAuthentication, "again")
	sendAuth(c, codec.ContinueAuthentication, "no")
	c.ExpectDisconnect(codec.NotAuthorized) // [MQTT-4.12.1-2]
	expectMetric(t, s.Broker, "loopmq_auth_failures_total", 4)
}

// Between CONNECT and CONNACK a client may send AUTH and DISCONNECT and nothing else [MQTT-3.1.2-30]: nothing that it sends takes effect.
func TestNothingBeforeTheEndOfEnhancedAuthentication_MQTT_3_1_2_30(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = conversation{} })
	b := s.Broker
	got := make(chan string, 8)
	cancel, err := b.Subscribe("#", func(m *loopmq.MessageView) { got <- string(m.TopicName) })
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	for name, p := range map[string]brokertest.Packet{
		"PUBLISH 0":   &codec.Publish{TopicName: []byte("early")},
		"PUBLISH 1":   &codec.Publish{TopicName: []byte("early"), QoS: 1, PacketID: 1},
		"PUBLISH 2":   &codec.Publish{TopicName: []byte("early"), QoS: 2, PacketID: 1},
		"PUBACK":      &codec.Ack{Type: codec.TypePuback, PacketID: 1},
		"PUBREC":      &codec.Ack{Type: codec.TypePubrec, PacketID: 1},
		"PUBREL":      &codec.Ack{Type: codec.TypePubrel, PacketID: 1},
		"PUBCOMP":     &codec.Ack{Type: codec.TypePubcomp, PacketID: 1},
		"SUBSCRIBE":   &codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("#", 1)}},
		"UNSUBSCRIBE": &codec.Unsubscribe{PacketID: 1, TopicFilters: [][]byte{[]byte("#")}},
		"PINGREQ":     brokertest.Pingreq{},
		"CONNECT":     &codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true},
	} {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, "hello"))
		expectAuth(t, c, codec.ContinueAuthentication, "please")
		c.Send(p)
		if p := brokertest.Expect[*codec.Connack](c); p.ReasonCode != codec.ProtocolError {
			t.Errorf("%s: got %s", name, brokertest.Describe(p))
		}
		c.ExpectClosed()
	}
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, "hello"))
	expectAuth(t, c, codec.ContinueAuthentication, "please")
	c.Send(&codec.Disconnect{})
	c.ExpectClosed()
	if _, err := b.Publish(t.Context(), loopmq.Message{TopicName: "late"}); err != nil {
		t.Fatal(err)
	}
	if topic := receive(t, "the broker's own message", got); topic != "late" {
		t.Errorf("a message of a client that isn't authenticated was published to %q", topic)
	}
}

// AUTH out of turn is a Protocol Error [MQTT-4.12.0-7], so is another method than that of the CONNECT [MQTT-4.12.1-1].
func TestAuthOutOfTurn(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = conversation{make(chan string, 8)} })
	connect := func() *brokertest.Client {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, "hello"))
		for _, word := range []string{"please", "thanks"} {
			expectAuth(t, c, codec.ContinueAuthentication, word)
			sendAuth(c, codec.ContinueAuthentication, word)
		}
		c.ExpectConnack(codec.Success)
		return c
	}
	c := connect()
	sendAuth(c, codec.ContinueAuthentication, "unasked")
	c.ExpectDisconnect(codec.ProtocolError)
	c = connect()
	c.Send(&codec.Auth{ReasonCode: codec.ReAuthenticate, Properties: brokertest.Properties(codec.PropAuthenticationMethod, "sing")})
	c.ExpectDisconnect(codec.ProtocolError)
	c = connect()
	sendAuth(c, codec.ReAuthenticate, "hello")
	expectAuth(t, c, codec.ContinueAuthentication, "again")
	sendAuth(c, codec.ReAuthenticate, "hello")
	c.ExpectDisconnect(codec.ProtocolError)

	s = brokertest.Start(t)
	c = brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "say"))
	c.ExpectConnack(codec.BadAuthenticationMethod) // nobody to ask
	c = brokertest.Connect(t, s.Addr, codec.V5)
	sendAuth(c, codec.ReAuthenticate, "hello")
	c.ExpectDisconnect(codec.ProtocolError)
}
