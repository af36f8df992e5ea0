package loopmq_test

import (
	"context"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// A message that is just as large as the client takes comes, without a Topic Alias if there is no room for it [MQTT-3.1.2-24].
func TestTopicAliasYieldsToMaximumPacketSize(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	want := codec.Publish{TopicName: []byte("topic"), Payload: []byte("payload")}
	size := want.Size(codec.V5)
	for extra := range 5 {
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.With(codec.PropMaximumPacketSize, size+extra, codec.PropTopicAliasMaximum, 1))
		c.Subscribe("topic", 0)
		c.Subscribe("x", 0)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for i := range 2 {
			pub.Publish("topic", "payload", 1)
			name := "topic"
			if extra >= 3 && i == 1 {
				name = ""
			}
			if p := c.ExpectPublish(name, "payload"); p.Properties.Has(codec.PropTopicAlias) != (extra >= 3) {
				t.Errorf("%d bytes more, message %d: got %s with Topic Alias %d", extra, i, brokertest.Describe(p), p.Properties.TopicAlias)
			}
		}
		pub.Publish("topic", "payload is too large", 1)
		pub.Publish("x", "next", 1)
		c.ExpectPublish("x", "next")
		c.Disconnect()
	}
}

// CONNACK leaves out what the client need not know to fit its Maximum Packet Size; a client that can't be told what it must know is
// refused [MQTT-3.1.2-24, MQTT-3.2.2-16, MQTT-3.2.2-21].
func TestConnackOfMaximumPacketSize(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.KeepAlive = 60
		o.Limits.SessionExpiryInterval = 100
		o.ResponseInformation = "response/"
	})
	connect := func(size int) *codec.Connack {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(brokertest.ClientID(""), brokertest.KeepAlive(120), brokertest.With(
			codec.PropMaximumPacketSize, size, codec.PropSessionExpiryInterval, 1000, codec.PropRequestResponseInformation, 1))
		p := brokertest.Expect[*codec.Connack](c)
		if n := p.Size(codec.V5); n > size {
			t.Errorf("Maximum Packet Size %d: got a CONNACK of %d bytes", size, n)
		}
		if p.ReasonCode.IsError() {
			c.ExpectClosed()
		}
		return p
	}
	must := []codec.PropertyID{codec.PropAssignedClientIdentifier, codec.PropServerKeepAlive, codec.PropSessionExpiryInterval}
	full := connect(1000)
	if !full.Properties.Has(codec.PropResponseInformation) || !full.Properties.Has(codec.PropReceiveMaximum) {
		t.Errorf("got %s", brokertest.Describe(full))
	}
	least := codec.Connack{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 100)}
	least.Properties.AssignedClientIdentifier = full.Properties.AssignedClientIdentifier
	least.Properties.Set(codec.PropAssignedClientIdentifier)
	least.Properties.Set(codec.PropServerKeepAlive)
	for size := 5; size <= full.Size(codec.V5)+1; size++ {
		p := connect(size)
		if fits := size >= least.Size(codec.V5); fits != (p.ReasonCode == codec.Success) || !fits && p.ReasonCode != codec.PacketTooLarge {
			t.Errorf("Maximum Packet Size %d: got %s", size, brokertest.Describe(p))
		}
		for _, id := range must {
			if p.ReasonCode == codec.Success && !p.Properties.Has(id) {
				t.Errorf("Maximum Packet Size %d: property 0x%02X is missing", size, byte(id))
			}
		}
	}
}

// verbose is an Authenticator that asks much of a client that says "ask".
type verbose struct{}

func (verbose) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if string(r.AuthenticationData) == "ask" {
		return loopmq.Identity{}, &loopmq.Challenge{AuthenticationData: make([]byte, 200)}, nil
	}
	return loopmq.Identity{}, nil, nil
}

func (verbose) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, nil
}

// An AUTH that the client doesn't take ends the connection, since without it the client would wait for ever [MQTT-3.1.2-24].
func TestAuthAboveMaximumPacketSize(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = verbose{} })
	connect := func(size int, data string) *brokertest.Client {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(brokertest.With(
			codec.PropMaximumPacketSize, size, codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, data))
		return c
	}
	connect(300, "ask").ExpectAuth(codec.ContinueAuthentication)
	connect(100, "ask").ExpectConnack(codec.PacketTooLarge)
	c := connect(100, "don't")
	c.ExpectConnack(codec.Success)
	sendAuth(c, codec.ReAuthenticate, "ask")
	c.ExpectDisconnect(codec.PacketTooLarge)
}
