package loopmq_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// startWith starts a broker whose second listener has settings of its own.
func startWith(t *testing.T, settings loopmq.Settings, options ...func(*loopmq.Options)) (s *brokertest.Server, addr string) {
	t.Helper()
	s = brokertest.Start(t, append(options, func(*loopmq.Options) {})...)
	return s, listen(t, s.Broker, settings)
}

// listen gives a broker a listener with settings.
func listen(t *testing.T, b *loopmq.Broker, settings loopmq.Settings) (addr string) {
	t.Helper()
	a, err := b.Listen(loopmq.Listener{Name: "special", Address: "127.0.0.1:0", Settings: &settings})
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// versions are those of which each behaviour is tested.
var versions = []codec.Version{codec.V311, codec.V5}

// refused connects and expects the reason with 5.0, the return code with 3.1.1; 0: the connection is closed without one.
func refused(t *testing.T, addr string, v codec.Version, reason, code codec.ReasonCode, options ...brokertest.ConnectOption) {
	t.Helper()
	c := brokertest.Dial(t, addr, v)
	c.SendConnect(options...)
	switch {
	case v == codec.V5:
		c.ExpectConnack(reason)
	case code == 0:
		c.ExpectClosed()
	default:
		c.ExpectConnack(code)
	}
}

// disconnected expects the end of the connection, with the reason if the version has one.
func disconnected(c *brokertest.Client, v codec.Version, reason codec.ReasonCode) {
	if v == codec.V5 {
		c.ExpectDisconnect(reason)
	} else {
		c.ExpectClosed()
	}
}

func TestSettingsAreChecked(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	for want, settings := range map[string]loopmq.Settings{
		"MaximumQoS is 3":    {MaximumQoS: 3},
		"PayloadSize is -1":  {PayloadSize: -1},
		"InflightBytes":      {InflightBytes: -1},
		"Anonymous is 9":     {Anonymous: 9},
		"AutoIDPrefix":       {AutoIDPrefix: "\xff"},
		`MountPoint is "a"`:  {MountPoint: "a"},
		`MountPoint is "$a/`: {MountPoint: "$a/"},
		`MountPoint is "+/"`: {MountPoint: "+/"},
		"PacketSize":         {Limits: loopmq.Limits{PacketSize: 1}},
	} {
		_, err := s.Broker.Listen(loopmq.Listener{Name: "special", Address: "127.0.0.1:0", Settings: &settings})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "special") {
			t.Errorf("%s: got %v", want, err)
		}
		if _, err := loopmq.New(loopmq.Options{Store: memory.New(memory.Options{}), Settings: settings}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: New returned %v", want, err)
		}
	}
}

// A listener has its own Authenticator and Authorizer, and its name is known to them.
func TestListenerHasItsAuthenticatorAndAuthorizer(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 8)
	r := newRules(false)
	r.fast = func(c *loopmq.ClientInfo, _ loopmq.Action, topic string) (bool, bool) {
		asked <- c.Listener
		return topic != "no", true
	}
	s, addr := startWith(t, loopmq.Settings{
		Authenticator: byName{func(r *loopmq.ConnectRequest) (loopmq.Identity, error) {
			asked <- r.Listener
			if r.Username == "" {
				return loopmq.Identity{}, codec.NewError(codec.BadUserNameOrPassword, "who?")
			}
			return loopmq.Identity{Username: r.Username}, nil
		}},
		Authorizer: r,
	})
	for _, v := range versions {
		brokertest.Connect(t, s.Addr, v).Publish("no", "", 1)
		refused(t, addr, v, codec.BadUserNameOrPassword, 4)
		receive(t, "Authenticate", asked)
		c := brokertest.Connect(t, addr, v, brokertest.Credentials("user", ""))
		c.Publish("yes", "", 1)
		for range 2 {
			if got := receive(t, "a question", asked); got != "special" {
				t.Errorf("the listener is %q", got)
			}
		}
	}
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	known := byName{func(r *loopmq.ConnectRequest) (loopmq.Identity, error) {
		if string(r.Password) != "secret" && r.ClientID != "known" {
			return loopmq.Identity{}, codec.NewError(codec.BadUserNameOrPassword, "no")
		}
		return loopmq.Identity{Username: r.ClientID}, nil
	}}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = known })
	allowed := listen(t, s.Broker, loopmq.Settings{Anonymous: loopmq.AnonymousAllowed})
	refuses := listen(t, s.Broker, loopmq.Settings{Anonymous: loopmq.AnonymousRefused})
	for _, v := range versions {
		refused(t, s.Addr, v, codec.BadUserNameOrPassword, 4)
		brokertest.Connect(t, allowed, v)
		refused(t, allowed, v, codec.BadUserNameOrPassword, 4, brokertest.Credentials("user", "wrong"))
		brokertest.Connect(t, allowed, v, brokertest.Credentials("user", "secret"))
		brokertest.Connect(t, refuses, v, brokertest.ClientID("known"))
	}
	s = brokertest.Start(t, func(o *loopmq.Options) { o.Settings.Anonymous = loopmq.AnonymousRefused })
	for _, v := range versions {
		refused(t, s.Addr, v, codec.NotAuthorized, 5)
		brokertest.Connect(t, s.Addr, v, brokertest.Credentials("user", ""))
	}
}

// A PUBLISH above the Maximum QoS ends the connection, so does a Will above it; subscriptions are granted at most it.
func TestMaximumQoS_MQTT_3_2_2_11(t *testing.T) {
	t.Parallel()
	for limit, settings := range []loopmq.Settings{{MaximumQoS: -1}, {MaximumQoS: 1}} {
		s, addr := startWith(t, settings)
		limit := byte(limit)
		for _, v := range versions {
			c := brokertest.Dial(t, addr, v)
			p := c.Connect()
			if v == codec.V5 && (!p.Properties.Has(codec.PropMaximumQoS) || p.Properties.MaximumQoS != limit) { // [MQTT-3.2.2-9]
				t.Errorf("Maximum QoS %d", p.Properties.MaximumQoS)
			}
			c.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{ // [MQTT-3.2.2-10]
				brokertest.Subscription("a", 0), brokertest.Subscription("b", 1), brokertest.Subscription("c", 2),
			}})
			c.ExpectSuback(1, 0, codec.ReasonCode(min(1, limit)), codec.ReasonCode(limit))
			c.Publish("x", "", limit)
			brokertest.Connect(t, s.Addr, v).Publish("c", "from elsewhere", 2)
			got := c.ExpectPublish("c", "from elsewhere")
			if got.QoS != limit {
				t.Errorf("got QoS %d", got.QoS)
			}
			c.Acknowledge(got)
			c.Send(&codec.Publish{TopicName: []byte("x"), QoS: limit + 1, PacketID: 9})
			disconnected(c, v, codec.QoSNotSupported)
			refused(t, addr, v, codec.QoSNotSupported, 0, brokertest.Will("x", "", limit+1, false)) // [MQTT-3.2.2-12]
			brokertest.Connect(t, addr, v, brokertest.Will("x", "", limit, false)).Disconnect()
		}
	}
}

// A session with subscriptions and queued messages above a listener's Maximum QoS gets them at that QoS.
func TestMaximumQoSHoldsForSessionsOfOtherListeners(t *testing.T) {
	t.Parallel()
	for limit, settings := range []loopmq.Settings{{MaximumQoS: -1}, {MaximumQoS: 1}} {
		s, addr := startWith(t, settings)
		for _, v := range versions {
			c := brokertest.Connect(t, s.Addr, v, brokertest.Durable("sub"))
			c.Subscribe("a", 2)
			c.Disconnect()
			pub := brokertest.Connect(t, s.Addr, v)
			for i := range 5 {
				pub.Publish("a", fmt.Sprint(i), 2)
			}
			c = brokertest.Dial(t, addr, v)
			c.Connect(brokertest.Durable("sub"), brokertest.Resume)
			for i := range 5 {
				pub.Publish("a", fmt.Sprint(5+i), 2)
			}
			for i := range 10 {
				p := c.ExpectPublish("a", fmt.Sprint(i))
				if int(p.QoS) != limit {
					t.Errorf("got QoS %d", p.QoS)
				}
				c.Acknowledge(p)
			}
			c.Disconnect()
			c = brokertest.Dial(t, s.Addr, v) // nothing is left
			c.Connect(brokertest.Durable("sub"), brokertest.Resume)
			c.ExpectNothing()
			brokertest.Connect(t, s.Addr, v, brokertest.ClientID("sub")).Disconnect()
		}
		expectCountersAddUp(t, s.Broker, [3]float64{})
	}
}

func TestRetainUnavailable_MQTT_3_2_2_14(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{RetainUnavailable: true})
	brokertest.Connect(t, s.Addr, codec.V5).Publish("r", "retained", 1, brokertest.Retained)
	for _, v := range versions {
		c := brokertest.Dial(t, addr, v)
		p := c.Connect()
		if v == codec.V5 && (!p.Properties.Has(codec.PropRetainAvailable) || p.Properties.RetainAvailable != 0) {
			t.Error("no Retain Available 0")
		}
		c.Subscribe("r", 1)
		c.ExpectNothing()
		c.Send(&codec.Publish{TopicName: []byte("x"), Retain: true})
		disconnected(c, v, codec.RetainNotSupported)
		refused(t, addr, v, codec.RetainNotSupported, 0, brokertest.Will("x", "", 0, true)) // [MQTT-3.2.2-13]
	}
}

// Sizes that a listener bounds.
func TestSettingsBoundSizes(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{PayloadSize: 10, Limits: loopmq.Limits{PacketSize: 200}})
	large := strings.Repeat("x", 11)
	watch := brokertest.Connect(t, s.Addr, codec.V5)
	watch.Subscribe("#", 0)
	for _, v := range versions {
		c := brokertest.Connect(t, addr, v)
		c.Send(&codec.Publish{TopicName: []byte("a"), Payload: []byte(large)},
			&codec.Publish{TopicName: []byte("a"), Payload: []byte(large), QoS: 1, PacketID: 1},
			&codec.Publish{TopicName: []byte("a"), Payload: []byte(large), QoS: 2, PacketID: 2})
		var reason codec.ReasonCode
		if v == codec.V5 {
			reason = codec.QuotaExceeded
		}
		c.ExpectAck(codec.TypePuback, 1, reason)
		c.ExpectAck(codec.TypePubrec, 2, reason)
		c.Publish("a", large[1:], 1)
		watch.ExpectPublish("a", large[1:])
		refused(t, addr, v, codec.PacketTooLarge, 0, brokertest.Will("a", large, 0, false))
		c.Send(&codec.Publish{TopicName: []byte("a"), Payload: bytes.Repeat([]byte("x"), 200)})
		disconnected(c, v, codec.PacketTooLarge)
		brokertest.Connect(t, s.Addr, v).Publish("a", strings.Repeat("y", 300), 1)
		watch.ExpectPublish("a", strings.Repeat("y", 300))
	}
	watch.ExpectNothing()
	p := brokertest.Dial(t, addr, codec.V5).Connect()
	if p.Properties.MaximumPacketSize != 200 {
		t.Errorf("Maximum Packet Size %d", p.Properties.MaximumPacketSize)
	}
}

// That a broker allows no Topic Alias holds for its listeners.
func TestNoTopicAliases(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{}, func(o *loopmq.Options) { o.Limits.TopicAliasMaximum = -1 })
	for _, addr := range []string{addr, s.Addr} {
		if p := brokertest.Dial(t, addr, codec.V5).Connect(); p.Properties.Has(codec.PropTopicAliasMaximum) {
			t.Errorf("Topic Alias Maximum %d", p.Properties.TopicAliasMaximum)
		}
	}
}

// What 5.0 clients are told is what the listener's limits are.
func TestListenerLimitsAreTold(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{Limits: loopmq.Limits{
		ReceiveMaximum: 3, TopicAliasMaximum: -1, KeepAlive: 60, SessionExpiryInterval: 100, Subscriptions: 1,
	}})
	p := brokertest.Dial(t, addr, codec.V5).Connect(brokertest.KeepAlive(100), brokertest.With(codec.PropSessionExpiryInterval, 1000))
	if q := &p.Properties; q.ReceiveMaximum != 3 || q.Has(codec.PropTopicAliasMaximum) || q.ServerKeepAlive != 60 || q.SessionExpiryInterval != 100 {
		t.Errorf("got %+v", q)
	}
	c := brokertest.Connect(t, addr, codec.V5)
	c.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("a", 0), brokertest.Subscription("b", 0)}})
	c.ExpectSuback(1, 0, codec.QuotaExceeded)
	c.Send(&codec.Publish{TopicName: []byte("a"), Properties: brokertest.Properties(codec.PropTopicAlias, 1)})
	c.ExpectDisconnect(codec.TopicAliasInvalid)
	c = brokertest.Connect(t, addr, codec.V5)
	for i := range uint16(4) {
		c.Send(&codec.Publish{TopicName: []byte("a"), QoS: 2, PacketID: i + 1})
	}
	for i := range uint16(3) {
		c.ExpectAck(codec.TypePubrec, i+1, codec.Success)
	}
	c.ExpectDisconnect(codec.ReceiveMaximumExceeded)
	// A 3.x client can't be told of a shorter Keep Alive.
	for seconds, ok := range map[uint16]bool{0: false, 60: true, 61: false} {
		c := brokertest.Dial(t, addr, codec.V311)
		c.SendConnect(brokertest.KeepAlive(seconds))
		if ok {
			brokertest.Expect[*codec.Connack](c)
			c.Ping()
		} else {
			c.ExpectConnack(2)
		}
	}
	brokertest.Connect(t, s.Addr, codec.V311, brokertest.KeepAlive(0)).Ping()
}

// Inflight messages and bytes bound what goes out unacknowledged, from the queues of both kinds of sessions.
func TestListenerBoundsInflight(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]loopmq.Settings{
		"messages": {Limits: loopmq.Limits{Inflight: 3}},
		"bytes":    {InflightBytes: 3*10 - 5},
	} {
		for _, durable := range []bool{false, true} {
			for qos := byte(1); qos <= 2; qos++ {
				t.Run(fmt.Sprintf("%s, durable %t, QoS %d", name, durable, qos), func(t *testing.T) {
					s, addr := startWith(t, settings)
					option := brokertest.ClientID("sub")
					if durable {
						option = brokertest.Durable("sub")
					}
					c := brokertest.Connect(t, addr, codec.V5, option)
					c.Subscribe("a", qos)
					pub := brokertest.Connect(t, s.Addr, codec.V5)
					for i := range 10 {
						pub.Publish("a", fmt.Sprintf("%010d", i), qos)
					}
					var got []*codec.Publish
					for i := range 3 {
						got = append(got, c.ExpectPublish("a", fmt.Sprintf("%010d", i)))
					}
					c.ExpectNothing()
					for i := range 10 {
						c.Acknowledge(got[i])
						if i+3 < 10 {
							got = append(got, c.ExpectPublish("a", fmt.Sprintf("%010d", i+3)))
						}
						c.ExpectNothing()
					}
				})
			}
		}
	}
}

// The limits of a queue are those of the listener that the session last connected by.
func TestListenerBoundsQueue(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{Limits: loopmq.Limits{QueueMessages: 3}})
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	for _, test := range []struct {
		addr string
		want int
	}{{addr, 3}, {s.Addr, 10}, {addr, 3}} {
		c := brokertest.Dial(t, test.addr, codec.V5)
		c.Connect(brokertest.Durable("sub"), brokertest.Resume)
		c.Subscribe("a", 1)
		c.Disconnect()
		for i := range 10 {
			pub.Publish("a", fmt.Sprint(i), 1)
		}
		c = brokertest.Dial(t, test.addr, codec.V5)
		c.Connect(brokertest.Durable("sub"), brokertest.Resume)
		for i := range test.want {
			c.Acknowledge(c.ExpectPublish("a", fmt.Sprint(i)))
		}
		c.ExpectNothing()
		c.Disconnect()
	}
}

// QoS 0 messages wait for durable sessions that are offline if their listener says so, in order with the others, and only then.
func TestQueueQoS0(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{QueueQoS0: true, Limits: loopmq.Limits{QueueMessages: 8}})
	for _, v := range versions {
		pub := brokertest.Connect(t, s.Addr, v)
		for _, test := range []struct {
			addr string
			want []string
		}{
			{addr, []string{"0", "1", "2", "3", "4", "5", "6", "7"}}, // 8 and 9 exceed the limit
			{s.Addr, []string{"1", "3", "5", "7", "9"}},
			{addr, []string{"0", "1", "2", "3", "4", "5", "6", "7"}},
		} {
			c := brokertest.Dial(t, test.addr, v)
			c.Connect(brokertest.Durable("sub"), brokertest.Resume)
			c.Subscribe("a", 1)
			c.Disconnect()
			for i := range 10 {
				pub.Publish("a", fmt.Sprint(i), byte(i%2))
			}
			c = brokertest.Dial(t, test.addr, v)
			c.Connect(brokertest.Durable("sub"), brokertest.Resume)
			for _, want := range test.want {
				p := c.ExpectPublish("a", want)
				if p.Dup {
					t.Error("DUP is 1")
				}
				c.Acknowledge(p)
			}
			c.ExpectNothing()
			pub.Publish("a", "live", 0)
			c.ExpectPublish("a", "live")
			c.Close()
			c = brokertest.Dial(t, test.addr, v) // nothing comes twice
			c.Connect(brokertest.Durable("sub"), brokertest.Resume)
			c.ExpectNothing()
			c.Disconnect()
		}
		expectCountersAddUp(t, s.Broker, [3]float64{})
	}
}

// A QoS 0 message that was sent, and that the store could not be told of, isn't sent again.
func TestQueuedQoS0IsSentOnce(t *testing.T) {
	t.Parallel()
	s, faulty := startWithFaults(t, func(o *loopmq.Options) { o.Settings.QueueQoS0 = true })
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	c.Subscribe("a", 1)
	c.Disconnect()
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("a", "0", 0)
	pub.Publish("a", "1", 1)
	var failed atomic.Int64
	faulty.failCommits(func(*store.Batch) bool {
		failed.Add(1)
		return true
	})
	c = brokertest.Dial(t, s.Addr, codec.V5)
	c.Connect(brokertest.Durable("sub"), brokertest.Resume)
	c.ExpectPublish("a", "0")
	c.ExpectPublish("a", "1")
	c.Close()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
	eventually(t, "the commit is given up", func() bool { return failed.Load() > 8 }) // a commit has 4 tries
	faulty.failCommits(nil)
	c = brokertest.Dial(t, s.Addr, codec.V5)
	c.Connect(brokertest.Durable("sub"), brokertest.Resume)
	c.Acknowledge(c.ExpectPublish("a", "1"))
	c.ExpectNothing()
}

func TestClientIDsOfAListener(t *testing.T) {
	t.Parallel()
	s, refuses := startWith(t, loopmq.Settings{RefuseEmptyClientID: true})
	prefixed := listen(t, s.Broker, loopmq.Settings{AutoIDPrefix: "mine-"})
	byUser := listen(t, s.Broker, loopmq.Settings{UsernameAsClientID: true})
	for _, v := range versions {
		refused(t, refuses, v, codec.ClientIdentifierNotValid, 2, brokertest.ClientID(""))
		brokertest.Connect(t, refuses, v, brokertest.ClientID("own"))
		refused(t, byUser, v, codec.BadUserNameOrPassword, 4)
		first := brokertest.Connect(t, byUser, v, brokertest.ClientID("x"), brokertest.Credentials("user", ""))
		brokertest.Connect(t, byUser, v, brokertest.ClientID("y"), brokertest.Credentials("user", ""))
		disconnected(first, v, codec.SessionTakenOver)
	}
	for addr, want := range map[string]string{prefixed: "mine-", s.Addr: "auto-"} {
		c := brokertest.Connect(t, addr, codec.V5, brokertest.ClientID(""))
		if !strings.HasPrefix(c.ClientID, want) {
			t.Errorf("the ClientID %q doesn't begin with %q", c.ClientID, want)
		}
	}
}

// All topics of a listener with a MountPoint are below it; its clients see neither it nor what is outside.
func TestMountPoint(t *testing.T) {
	t.Parallel()
	events := make(chan string, 64)
	s, addr := startWith(t, loopmq.Settings{MountPoint: "in/side/"}, func(o *loopmq.Options) {
		o.Recorder = loopmq.OnEvent(func(e *loopmq.Event) { events <- string(e.Message.TopicName) }, loopmq.EventMessagePublished)
	})
	for _, v := range versions {
		outside := brokertest.Connect(t, s.Addr, v)
		outside.Subscribe("#", 2)
		inside := brokertest.Connect(t, addr, v)
		inside.Subscribe("#", 2)
		inside.Subscribe("$share/name/shared/+", 2)
		for qos := range byte(3) {
			inside.Publish("a", "1", qos)
			if got := receive(t, "OnPublished", events); got != "in/side/a" {
				t.Errorf("the event is about %q", got)
			}
			outside.Acknowledge(outside.ExpectPublish("in/side/a", "1"))
			inside.Acknowledge(inside.ExpectPublish("a", "1"))
			outside.Publish("a", "2", qos)
			outside.Acknowledge(outside.ExpectPublish("a", "2"))
			outside.Publish("in/side", "2", qos) // which in/side/# matches
			outside.Acknowledge(outside.ExpectPublish("in/side", "2"))
			inside.ExpectNothing()
			outside.Publish("in/side/b/c", "3", qos)
			outside.Acknowledge(outside.ExpectPublish("in/side/b/c", "3"))
			inside.Acknowledge(inside.ExpectPublish("b/c", "3"))
			receive(t, "OnPublished", events)
			receive(t, "OnPublished", events)
			receive(t, "OnPublished", events)
		}
		inside.Unsubscribe("#")
		inside.Publish("shared/a", "4", 1)
		outside.Acknowledge(outside.ExpectPublish("in/side/shared/a", "4"))
		inside.Acknowledge(inside.ExpectPublish("shared/a", "4"))
		inside.Unsubscribe("$share/name/shared/+")
		inside.Publish("shared/a", "5", 1)
		outside.Acknowledge(outside.ExpectPublish("in/side/shared/a", "5"))
		inside.ExpectNothing()

		inside.Publish("kept", "6", 1, brokertest.Retained)
		outside.Acknowledge(outside.ExpectPublish("in/side/kept", "6"))
		again := brokertest.Connect(t, addr, v, brokertest.Will("will", "7", 1, false))
		again.Subscribe("kept", 1)
		again.Acknowledge(again.ExpectPublish("kept", "6"))
		again.Close()
		outside.Acknowledge(outside.ExpectPublish("in/side/will", "7"))
		inside.Publish("kept", "", 0, brokertest.Retained)
		outside.ExpectPublish("in/side/kept", "")

		long := strings.Repeat("x", 65_530)
		inside.Send(&codec.Subscribe{PacketID: 9, Subscriptions: []codec.Subscription{brokertest.Subscription(long, 0)}})
		if v == codec.V5 {
			inside.ExpectSuback(9, codec.TopicFilterInvalid)
		} else {
			inside.ExpectSuback(9, 0x80)
		}
		refused(t, addr, v, codec.TopicNameInvalid, 0, brokertest.Will(long, "", 0, false))
		inside.Send(&codec.Publish{TopicName: []byte(long)})
		disconnected(inside, v, codec.TopicNameInvalid)
		outside.ExpectNothing()
		for len(events) > 0 {
			<-events
		}
	}
}

// $SYS is the same for all, and a Topic Alias works behind a MountPoint.
func TestMountPointWithSysAndAliases(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{MountPoint: "in/"}, func(o *loopmq.Options) { o.SysInterval = 10 * time.Millisecond })
	c := brokertest.Connect(t, addr, codec.V5)
	c.Subscribe("$SYS/broker/version", 0)
	if p := brokertest.Expect[*codec.Publish](c); string(p.TopicName) != "$SYS/broker/version" {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	c.Unsubscribe("$SYS/broker/version")
	watch := brokertest.Connect(t, s.Addr, codec.V5)
	watch.Subscribe("in/+", 0)
	alias := brokertest.Properties(codec.PropTopicAlias, 1)
	c.Send(&codec.Publish{TopicName: []byte("a"), Properties: alias}, &codec.Publish{Properties: alias})
	watch.ExpectPublish("in/a", "")
	watch.ExpectPublish("in/a", "")
	c.Send(&codec.Publish{TopicName: []byte("$SYS/broker/version"), QoS: 1, PacketID: 1})
	c.ExpectAck(codec.TypePuback, 1, codec.NotAuthorized)
}

// A session that comes from elsewhere gets nothing from outside the MountPoint.
func TestMountPointHoldsForSessionsOfOtherListeners(t *testing.T) {
	t.Parallel()
	s, addr := startWith(t, loopmq.Settings{MountPoint: "in/"})
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	c.Subscribe("#", 1)
	c.Disconnect()
	pub.Publish("secret", "", 1)
	pub.Publish("in/a", "", 1)
	c = brokertest.Dial(t, addr, codec.V5)
	c.Connect(brokertest.Durable("sub"), brokertest.Resume)
	pub.Publish("secret", "", 1)
	pub.Publish("in/b", "", 1)
	c.Acknowledge(c.ExpectPublish("a", ""))
	c.Acknowledge(c.ExpectPublish("b", ""))
	c.ExpectNothing()
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

func TestUpgradeOutgoingQoS(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.UpgradeOutgoingQoS = true })
	for _, v := range versions {
		pub := brokertest.Connect(t, s.Addr, v)
		pub.Publish("r", "retained", 0, brokertest.Retained)
		for granted := range byte(3) {
			for _, durable := range []bool{false, true} {
				for _, filter := range []string{"a", "$share/name/a"} {
					option := brokertest.ClientID("sub")
					if durable {
						option = brokertest.Durable("sub")
					}
					sub := brokertest.Connect(t, s.Addr, v, option)
					sub.Subscribe(filter, granted)
					sub.Subscribe("r", granted)
					p := sub.ExpectPublish("r", "retained")
					if p.QoS != granted {
						t.Errorf("retained at QoS %d, want %d", p.QoS, granted)
					}
					sub.Acknowledge(p)
					for qos := range byte(3) {
						pub.Publish("a", "x", qos)
						p := sub.ExpectPublish("a", "x")
						if p.QoS != granted {
							t.Errorf("QoS %d became %d, want %d", qos, p.QoS, granted)
						}
						sub.Acknowledge(p)
					}
					sub.Disconnect()
					if durable && granted > 0 && filter == "a" {
						pub.Publish("a", "queued", 0)
						sub = brokertest.Dial(t, s.Addr, v)
						sub.Connect(brokertest.Durable("sub"), brokertest.Resume)
						sub.Acknowledge(sub.ExpectPublish("a", "queued"))
						sub.Disconnect()
					}
					brokertest.Connect(t, s.Addr, v, brokertest.ClientID("sub")).Disconnect() // ends the session
				}
			}
		}
	}
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// A retained message is sent as long as its publisher may publish it.
func TestCheckRetainSource(t *testing.T) {
	t.Parallel()
	var banned atomic.Value
	judge := func(c *loopmq.ClientInfo, a loopmq.Action, topic string) bool {
		return a != loopmq.ActionPublish || c.RemoteAddr() != nil || c.Username != banned.Load() && c.ClientID != banned.Load()
	}
	for name, set := range map[string]func(*rules){
		"slow": func(r *rules) { r.slow = judge },
		"fast": func(r *rules) {
			r.fast = func(c *loopmq.ClientInfo, a loopmq.Action, topic string) (bool, bool) {
				return judge(c, a, topic), true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRules(false)
			set(r)
			banned.Store("nobody")
			s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer, o.CheckRetainSource = r, true })
			for _, user := range []string{"good", "bad"} {
				c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(user+"ID"), brokertest.Credentials(user, ""),
					brokertest.Will("will/"+user, "x", 1, true))
				c.Publish("retained/"+user, "x", 1, brokertest.Retained)
				c.Close()
			}
			if _, err := s.Broker.Publish(context.Background(), loopmq.Message{TopicName: "retained/own", Payload: []byte("x"), Retain: true}); err != nil {
				t.Fatal(err)
			}
			expectMetric(t, s.Broker, "loopmq_clients_connected", 0)
			expectMetric(t, s.Broker, "loopmq_wills_published_total", 2)
			for _, who := range []string{"nobody", "bad", "badID", "good"} {
				banned.Store(who)
				for _, v := range versions {
					for qos := range byte(2) {
						c := brokertest.Connect(t, s.Addr, v)
						c.Subscribe("+/+", qos)
						want := map[string]bool{"retained/own": true}
						for _, user := range []string{"good", "bad"} {
							if who != user && who != user+"ID" {
								want["retained/"+user], want["will/"+user] = true, true
							}
						}
						for range len(want) {
							p := brokertest.Expect[*codec.Publish](c)
							if !want[string(p.TopicName)] {
								t.Errorf("%q is banned: got %q", who, p.TopicName)
							}
							c.Acknowledge(p)
						}
						c.ExpectNothing()
					}
				}
			}
		})
	}
}
