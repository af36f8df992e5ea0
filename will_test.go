package loopmq_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// When a Will is published, cancelled and put off, in all combinations of its delay, the session's expiry, and how the connection ends
// [MQTT-3.1.2-8, MQTT-3.1.3-9, MQTT-3.14.4-3]. After the delay or expiry of 100 seconds have passed nothing more comes.
func TestWhenWillIsPublished(t *testing.T) {
	t.Parallel()
	const never, soon = -1, 0
	lost := func(t *testing.T, s *brokertest.Server, c *brokertest.Client) {
		c.Close()
		expectMetric(t, s.Broker, "loopmq_clients_connected", 1) // before the clock is set
	}
	disconnect := func(reason codec.ReasonCode, properties ...any) func(*testing.T, *brokertest.Server, *brokertest.Client) {
		return func(_ *testing.T, _ *brokertest.Server, c *brokertest.Client) {
			c.Send(&codec.Disconnect{ReasonCode: reason, Properties: brokertest.Properties(properties...)})
			c.ExpectClosed()
		}
	}
	reconnect := func(resume bool) func(*testing.T, *brokertest.Server, *brokertest.Client) {
		return func(t *testing.T, s *brokertest.Server, c *brokertest.Client) {
			option := func(p *codec.Connect) { p.CleanStart = !resume }
			brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(c.ClientID), option, brokertest.With(codec.PropSessionExpiryInterval, 1000))
		}
	}
	then := func(first, second func(*testing.T, *brokertest.Server, *brokertest.Client)) func(*testing.T, *brokertest.Server, *brokertest.Client) {
		return func(t *testing.T, s *brokertest.Server, c *brokertest.Client) {
			first(t, s, c)
			second(t, s, c)
		}
	}
	for name, test := range map[string]struct {
		delay, expiry int
		end           func(*testing.T, *brokertest.Server, *brokertest.Client)
		want          int // seconds
	}{
		"lost":                              {0, 100, lost, soon},
		"lost, no session":                  {0, 0, lost, soon},
		"lost, delayed":                     {10, 100, lost, 10},
		"lost, delayed, no session":         {10, 0, lost, soon},
		"lost, delayed beyond the session":  {100, 10, lost, 10},
		"lost, delayed as the session":      {10, 10, lost, 10},
		"DISCONNECT":                        {0, 100, disconnect(codec.NormalDisconnection), never},
		"DISCONNECT, delayed":               {10, 100, disconnect(codec.NormalDisconnection), never},
		"DISCONNECT with Will":              {0, 100, disconnect(codec.DisconnectWithWill), soon},
		"DISCONNECT with Will, delayed":     {10, 100, disconnect(codec.DisconnectWithWill), 10},
		"DISCONNECT with error":             {0, 0, disconnect(codec.UnspecifiedError), soon},
		"DISCONNECT with Will, now expires": {10, 100, disconnect(codec.DisconnectWithWill, codec.PropSessionExpiryInterval, 0), soon},
		"DISCONNECT with Will, session shortened": {
			50, 100,
			disconnect(codec.DisconnectWithWill, codec.PropSessionExpiryInterval, 10), 10,
		},
		"lost, delayed, resumed":     {10, 100, then(lost, reconnect(true)), never},
		"lost, delayed, clean start": {10, 100, then(lost, reconnect(false)), soon},
		"taken over":                 {0, 100, reconnect(true), soon},
		"taken over, delayed":        {10, 100, reconnect(true), never},
		"taken over, no session":     {10, 0, reconnect(true), soon},
		"taken over, clean start":    {0, 100, reconnect(false), soon},
		"taken over, delayed, clean": {10, 100, reconnect(false), soon},
		"kicked": {0, 100, func(t *testing.T, s *brokertest.Server, c *brokertest.Client) {
			_ = s.Broker.Kick(t.Context(), c.ClientID)
		}, soon},
		"a protocol error of its own": {0, 100, func(_ *testing.T, _ *brokertest.Server, c *brokertest.Client) { c.SendRaw([]byte{0, 0}) }, soon},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clock := startWithClock(t)
			watch := brokertest.Connect(t, s.Addr, codec.V5)
			watch.Subscribe("will", 1)
			c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Resume, brokertest.With(codec.PropSessionExpiryInterval, test.expiry),
				brokertest.Will("will", "w", 1, false, codec.PropWillDelayInterval, test.delay))
			test.end(t, s, c)
			wake := func() { // the scheduler looks at the clock, twice, since the first may have begun before
				for range 2 {
					brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("wake")).Disconnect()
				}
			}
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			if test.want > 0 {
				clock.advance(time.Duration(test.want-1) * time.Second)
				wake()
				watch.ExpectNothingFrom(pub, 1)
				clock.advance(time.Second)
				wake()
			}
			if test.want >= 0 {
				watch.Acknowledge(watch.ExpectPublish("will", "w"))
			}
			clock.advance(101 * time.Second)
			wake()
			watch.ExpectNothingFrom(pub, 1)
			want := 0.0
			if test.want >= 0 {
				want = 1
			}
			expectMetric(t, s.Broker, "loopmq_wills_published_total", want)
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
}

// 3.1 and 3.1.1 know no delay: every end but a DISCONNECT publishes the Will [MQTT-3.1.2-8 of 3.1.1].
func TestWillOf311(t *testing.T) {
	t.Parallel()
	for _, version := range []codec.Version{codec.V31, codec.V311} {
		s := brokertest.Start(t)
		watch := brokertest.Connect(t, s.Addr, codec.V5)
		watch.Subscribe("will/#", 2)
		connect := func(topic string) *brokertest.Client {
			return brokertest.Connect(t, s.Addr, version, brokertest.Durable("c"), brokertest.Will("will/"+topic, "w", 2, false))
		}
		connect("taken over")
		connect("lost").Close()
		for range 2 {
			p := brokertest.Expect[*codec.Publish](watch)
			if topic := string(p.TopicName); topic != "will/taken over" && topic != "will/lost" {
				t.Errorf("got %s", brokertest.Describe(p))
			}
			watch.Acknowledge(p)
		}
		connect("disconnected").Disconnect()
		watch.ExpectNothingFrom(brokertest.Connect(t, s.Addr, codec.V5), 2)
	}
}

// A Will is published with all that was said of it: QoS, RETAIN, properties; its Message Expiry Interval begins then.
func TestWillProperties(t *testing.T) {
	t.Parallel()
	s, clock := startWithClock(t)
	watch := brokertest.Connect(t, s.Addr, codec.V5)
	watch.Subscribe("will", 2, func(p *codec.Subscribe) { p.Subscriptions[0].Options.RetainAsPublished = true })
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.Will("will", "w", 2, true,
		codec.PropWillDelayInterval, 50, codec.PropMessageExpiryInterval, 20, codec.PropContentType, "text/plain", codec.PropResponseTopic, "r",
		codec.PropCorrelationData, "d", codec.PropPayloadFormatIndicator, 1, codec.PropUserProperty, [2]string{"k", "v"}))
	c.Close()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
	clock.advance(50 * time.Second)
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("wake")).Disconnect()
	p := watch.ExpectPublish("will", "w")
	watch.Acknowledge(p)
	props := &p.Properties
	if p.QoS != 2 || !p.Retain || props.MessageExpiryInterval != 20 || string(props.ContentType) != "text/plain" || string(props.ResponseTopic) != "r" ||
		string(props.CorrelationData) != "d" || props.PayloadFormatIndicator != 1 || len(props.UserProperties) != 1 {
		t.Errorf("got %s with %+v", brokertest.Describe(p), *props)
	}
	clock.advance(5 * time.Second)
	late := brokertest.Connect(t, s.Addr, codec.V5)
	late.Subscribe("will", 1)
	if p := late.ExpectPublish("will", "w"); p.QoS != 1 || !p.Retain || p.Properties.MessageExpiryInterval != 15 {
		t.Errorf("got %s, %d s left of 20 after 5", brokertest.Describe(p), p.Properties.MessageExpiryInterval)
	}
	clock.advance(15 * time.Second)
	brokertest.Connect(t, s.Addr, codec.V5).Subscribe("will", 1)
	late.ExpectNothingFrom(late, 0)
}

// While the store takes nothing, a Will that is due is tried again and again, and nobody gets it. It is published once
// when the store is back.
func TestWillIsPublishedOnceThoughTheStoreFails(t *testing.T) {
	t.Parallel()
	j := &journal{}
	s, f := startWithFaults(t, func(o *loopmq.Options) {
		o.Recorder = j.recorder(loopmq.EventWillPublished, loopmq.EventMessagePublished)
	})
	watch := brokertest.Connect(t, s.Addr, codec.V5)
	watch.Subscribe("will/#", 0)
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	sub.Subscribe("will/#", 1)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.Will("will/1", "w", 1, false, codec.PropWillDelayInterval, 1))
	c.Close()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 2)
	var tries atomic.Int32
	f.failCommits(func(b *store.Batch) bool {
		for i := range b.Ops {
			if b.Ops[i].WillOf != nil {
				tries.Add(1)
				return true
			}
		}
		return false
	})
	eventually(t, "some tries", func() bool { return tries.Load() > 10 })
	watch.ExpectNothingFrom(brokertest.Connect(t, s.Addr, codec.V5), 0)
	f.failCommits(nil)
	watch.ExpectPublish("will/1", "w")
	sub.Acknowledge(sub.ExpectPublish("will/1", "w"))
	watch.ExpectNothingFrom(sub, 0)
	outboxOf(t, f, 4) // the Will is two, and so many messages ExpectNothingFrom has sent
	expectMetric(t, s.Broker, "loopmq_wills_published_total", 1)
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// When the broker stops it publishes the Wills of all whom it disconnects, as it would for any lost connection: those who are durable find
// them when they return.
func TestWillsAtShutdown(t *testing.T) {
	t.Parallel()
	f := &faultyStore{Store: newMemory(t)}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = f })
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	sub.Subscribe("will/#", 1)
	sub.Disconnect()
	for i := range 20 {
		brokertest.Connect(t, s.Addr, codec.V5, brokertest.Will(fmt.Sprintf("will/%d", i), "w", 1, false))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = brokertest.Start(t, func(o *loopmq.Options) { o.Store = f })
	sub = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	seen := make(map[string]bool)
	for range 20 {
		seen[string(brokertest.Expect[*codec.Publish](sub).TopicName)] = true
	}
	if len(seen) != 20 {
		t.Errorf("got %d Wills of 20", len(seen))
	}
}
