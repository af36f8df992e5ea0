package loopmq_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// A session that is resumed sends QoS 1 that was not acknowledged again, with DUP and the same Packet Identifiers, in order, and then what
// came meanwhile [MQTT-4.4.0-1].
func TestResumeSendsQoS1Again(t *testing.T) {
	t.Parallel()
	for _, version := range []codec.Version{codec.V31, codec.V311, codec.V5} {
		s := brokertest.Start(t)
		c := brokertest.Connect(t, s.Addr, version, brokertest.Durable("c"))
		c.Subscribe("t", 1)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		ids := make([]uint16, 6)
		for i := range 4 {
			pub.Publish("t", fmt.Sprint(i), 1)
			ids[i] = c.ExpectPublish("t", fmt.Sprint(i)).PacketID
		}
		c.Send(&codec.Ack{Type: codec.TypePuback, PacketID: ids[1]})
		c.Ping()
		c.Close()
		expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
		pub.Publish("t", "4", 1)
		pub.Publish("t", "5", 2)
		c = brokertest.Connect(t, s.Addr, version, brokertest.Durable("c"))
		for _, i := range []int{0, 2, 3, 4, 5} {
			p := c.ExpectPublish("t", fmt.Sprint(i))
			if p.QoS != 1 || p.Dup != (i < 4) || i < 4 && p.PacketID != ids[i] {
				t.Errorf("got %s, sent before with id %d", brokertest.Describe(p), ids[i])
			}
			c.Acknowledge(p)
		}
		c.ExpectNothingFrom(pub, 1)
		c.Disconnect()
		c = brokertest.Connect(t, s.Addr, version, brokertest.Durable("c"))
		c.ExpectNothingFrom(pub, 1)
		expectCountersAddUp(t, s.Broker, [3]float64{})
	}
}

// Both halves of QoS 2 survive: a PUBLISH without PUBREC is sent again, a PUBREL without PUBCOMP too, in the order of the messages; and of
// what the client sent, a PUBLISH with the same Packet Identifier is a duplicate until PUBREL [MQTT-4.3.3-10].
func TestResumeGoesOnWithQoS2(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.Subscribe("to", 2)
	other := brokertest.Connect(t, s.Addr, codec.V5)
	other.Subscribe("from", 2)
	ids := make([]uint16, 3)
	for i := range ids {
		other.Publish("to", fmt.Sprint(i), 2)
		ids[i] = c.ExpectPublish("to", fmt.Sprint(i)).PacketID
	}
	for _, i := range []int{1, 2} {
		c.Send(&codec.Ack{Type: codec.TypePubrec, PacketID: ids[i]})
		c.ExpectAck(codec.TypePubrel, ids[i], 0)
	}
	c.Send(&codec.Publish{TopicName: []byte("from"), Payload: []byte("once"), QoS: 2, PacketID: 77})
	c.ExpectAck(codec.TypePubrec, 77, 0)
	other.Acknowledge(other.ExpectPublish("from", "once"))
	for range 2 { // neither time is anything acknowledged
		c.Close()
		c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
		if p := c.ExpectPublish("to", "0"); !p.Dup || p.PacketID != ids[0] {
			t.Errorf("got %s, want id %d and DUP", brokertest.Describe(p), ids[0])
		}
		c.ExpectAck(codec.TypePubrel, ids[1], 0)
		c.ExpectAck(codec.TypePubrel, ids[2], 0)
	}
	c.Send(&codec.Publish{TopicName: []byte("from"), Payload: []byte("once"), QoS: 2, PacketID: 77, Dup: true})
	c.ExpectAck(codec.TypePubrec, 77, 0)
	c.Send(&codec.Ack{Type: codec.TypePubrel, PacketID: 77})
	c.ExpectAck(codec.TypePubcomp, 77, 0)
	other.ExpectNothingFrom(c, 2)
	for _, id := range ids[1:] {
		c.Send(&codec.Ack{Type: codec.TypePubcomp, PacketID: id})
	}
	c.Send(&codec.Ack{Type: codec.TypePubrec, PacketID: ids[0]})
	c.ExpectAck(codec.TypePubrel, ids[0], 0)
	c.Send(&codec.Ack{Type: codec.TypePubcomp, PacketID: ids[0]})
	c.Ping()
	c.Disconnect()
	c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.ExpectNothingFrom(other, 2)
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// The offline queue is bounded in messages and in bytes; the policy says which go, and they are counted.
func TestOfflineQueueLimits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limit func(*loopmq.Limits)
		want  string
	}{
		"messages, drop newest": {func(l *loopmq.Limits) { l.QueueMessages = 5 }, "[0 1 2 3 4]"},
		"bytes, drop newest":    {func(l *loopmq.Limits) { l.QueueBytes = 5 * len("t0") }, "[0 1 2 3 4]"},
		"messages, drop oldest": {func(l *loopmq.Limits) { l.QueueMessages, l.QueuePolicy, l.Inflight = 5, store.DropOldest, 1 }, "[0 6 7 8 9]"},
		"bytes, drop oldest": {func(l *loopmq.Limits) {
			l.QueueBytes, l.QueuePolicy, l.Inflight = 5*len("t0"), store.DropOldest, 1
		}, "[0 6 7 8 9]"},
		"drop oldest with a large window": {func(l *loopmq.Limits) { l.QueueMessages, l.QueuePolicy = 6, store.DropOldest }, "[0 1 2 7 8 9]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t, func(o *loopmq.Options) { test.limit(&o.Limits) })
			c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
			c.Subscribe("t", 1)
			c.Disconnect()
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			for i := range 10 {
				pub.Publish("t", fmt.Sprint(i), 1)
			}
			n := len(strings.Fields(test.want))
			expectCountersAddUp(t, s.Broker, [3]float64{0, float64(n), 0})
			counted := countersOf(t, s.Broker, 1)
			if counted.dropped["queue_full"]+counted.queueDropped["queue_full"] != float64(10-n) {
				t.Errorf("got %v, want %d dropped for queue_full", counted, 10-n)
			}
			c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
			var got []string
			for range n {
				p := brokertest.Expect[*codec.Publish](c)
				got = append(got, string(p.Payload))
				c.Acknowledge(p)
			}
			if fmt.Sprint(got) != test.want {
				t.Errorf("got %v, want %s", got, test.want)
			}
			c.ExpectNothing()
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
}

// A session ends its Session Expiry Interval after its connection [MQTT-3.1.2-23], counted from the last one; with 0xFFFFFFFF never; and a
// DISCONNECT may change the interval.
func TestSessionExpiry(t *testing.T) {
	t.Parallel()
	ended := make(chan string, 8)
	s, clock := startWithClock(t, func(o *loopmq.Options) {
		o.Recorder = loopmq.OnEvent(func(e *loopmq.Event) { ended <- e.Client.ClientID }, loopmq.EventSessionTerminated)
	})
	expiring := func(id string, seconds int) *brokertest.Client {
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(id), brokertest.Resume, brokertest.With(codec.PropSessionExpiryInterval, seconds))
		c.Subscribe("t/"+id, 1)
		return c
	}
	expiring("short", 10).Close()
	expiring("long", 100).Close()
	expiring("never", 0xFFFFFFFF).Close()
	expiring("lengthened", 10).Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 100)})
	expiring("shortened", 100).Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 10)})
	stays := expiring("connected", 10)
	v3 := brokertest.Connect(t, s.Addr, codec.V311, brokertest.ClientID("v3"), brokertest.Resume)
	v3.Disconnect()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 1)

	wake := func() { brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("wake")).Disconnect() } // the scheduler looks at the clock
	expect := func(want ...string) {
		t.Helper()
		wake()
		missing := make(map[string]bool)
		for _, id := range want {
			missing[id] = true
		}
		for len(missing) > 0 {
			id := receive(t, "the end of a session", ended)
			if !missing[id] {
				t.Errorf("the session of %q ended", id)
			}
			delete(missing, id)
		}
	}
	clock.advance(11 * time.Second)
	expect("short", "shortened")
	stays.Ping()
	clock.advance(50 * time.Second)
	wake()
	clock.advance(50 * time.Second)
	expect("long", "lengthened")
	expectMetric(t, s.Broker, "loopmq_sessions_expired_total", 4)
	clock.advance(1000 * 24 * time.Hour)
	stays.Ping()
	for id, want := range map[string]bool{"short": false, "never": true, "v3": true} {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		if p := c.Connect(brokertest.ClientID(id), brokertest.Resume); p.SessionPresent != want {
			t.Errorf("%s: session present %t", id, p.SessionPresent)
		}
	}
}

// A session whose time is over is over, though the broker has not cleared it away yet.
func TestExpiredSessionIsNotResumed(t *testing.T) {
	t.Parallel()
	s, clock := startWithClock(t)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.Subscribe("t", 1)
	c.Close()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 0)
	clock.advance(61 * time.Second)
	c = brokertest.Dial(t, s.Addr, codec.V5)
	if p := c.Connect(brokertest.Durable("c")); p.SessionPresent {
		t.Error("the session is present")
	}
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("t", "", 1)
	c.ExpectNothingFrom(pub, 1)
}

// A message that waits loses its time, and is dropped when that is over [MQTT-3.3.2-5, MQTT-3.3.2-6]. One at QoS 2 that was sent isn't.
func TestMessageExpiry(t *testing.T) {
	t.Parallel()
	s, clock := startWithClock(t)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.Subscribe("t", 2)
	v3 := brokertest.Connect(t, s.Addr, codec.V311, brokertest.Durable("v3"))
	v3.Subscribe("t", 2)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	expiring := func(seconds int) func(*codec.Publish) {
		return func(p *codec.Publish) { p.Properties = brokertest.Properties(codec.PropMessageExpiryInterval, seconds) }
	}
	pub.Publish("t", "sent", 2, expiring(10))
	if p := c.ExpectPublish("t", "sent"); p.Properties.MessageExpiryInterval != 10 {
		t.Errorf("Message Expiry Interval %d at once, want 10", p.Properties.MessageExpiryInterval)
	}
	v3.ExpectPublish("t", "sent")
	c.Close()
	v3.Close()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
	pub.Publish("t", "short", 1, expiring(10))
	pub.Publish("t", "long", 1, expiring(100))
	pub.Publish("t", "for ever", 1)
	clock.advance(30 * time.Second)
	c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	sent := c.ExpectPublish("t", "sent")
	if !sent.Dup || sent.Properties.Has(codec.PropMessageExpiryInterval) {
		t.Errorf("got %s with Message Expiry Interval %d", brokertest.Describe(sent), sent.Properties.MessageExpiryInterval)
	}
	long := c.ExpectPublish("t", "long")
	if left := long.Properties.MessageExpiryInterval; left != 70 && left != 69 {
		t.Errorf("Message Expiry Interval %d after 30 of 100 seconds", left)
	}
	if p := c.ExpectPublish("t", "for ever"); p.Properties.Has(codec.PropMessageExpiryInterval) {
		t.Errorf("Message Expiry Interval %d of a message that has none", p.Properties.MessageExpiryInterval)
	}
	v3 = brokertest.Connect(t, s.Addr, codec.V311, brokertest.Durable("v3"))
	if got := fmt.Sprint(payloads(t, v3, 3)); got != "[sent long for ever]" {
		t.Errorf("3.1.1 got %s", got)
	}
	expectCountersAddUp(t, s.Broker, [3]float64{})
	if c := countersOf(t, s.Broker, 1); c.queueDropped["expired"] != 2 {
		t.Errorf("QoS 1: %v, want 2 dropped for expired", c)
	}
}

// Of many CONNECTs with one ClientID at once exactly one survives, and no trace is left of the others.
func TestTakeoverStorm(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]brokertest.ConnectOption{
		"durable": brokertest.Durable("c"), "in memory": brokertest.ClientID("c"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			const n = 50
			clients := make([]*brokertest.Client, n)
			for i := range clients {
				clients[i] = brokertest.Dial(t, s.Addr, codec.V5)
			}
			var wg sync.WaitGroup
			for _, c := range clients {
				wg.Go(func() { c.SendConnect(option) })
			}
			wg.Wait()
			eventually(t, "one that is left", func() bool {
				m := metricsOf(t, s.Broker)
				return m[`loopmq_packets_received_total{type="connect"}`] == n && m["loopmq_connections"] == 1 && m["loopmq_clients_connected"] == 1
			})
			expectMetric(t, s.Broker, "loopmq_sessions", 1)
			if err := s.Broker.Kick(t.Context(), "c"); err != nil {
				t.Fatal(err)
			}
			survivors := 0
			for _, c := range clients {
				p := brokertest.Expect[*codec.Connack](c)
				if p.ReasonCode == codec.ServerBusy {
					c.ExpectClosed()
					continue
				}
				switch d := brokertest.Expect[*codec.Disconnect](c); d.ReasonCode {
				case codec.AdministrativeAction:
					survivors++
				case codec.SessionTakenOver:
				default:
					t.Errorf("got %s", brokertest.Describe(d))
				}
				c.ExpectClosed()
			}
			if survivors != 1 {
				t.Errorf("%d of %d survived", survivors, n)
			}
			c := brokertest.Dial(t, s.Addr, codec.V5)
			if p := c.Connect(option, brokertest.Resume); p.SessionPresent != (name == "durable") {
				t.Errorf("got %s", brokertest.Describe(p))
			}
		})
	}
}

// The first CONNECT is under way when two more come with its ClientID, of which one leaves again. The broker must not end anybody for the
// sake of one that has left.
func TestConnectThatLeftEndsNobody(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	sub.Subscribe("t", 1)
	release := f.hold()
	defer release()
	sub.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1}) // keeps the takeover waiting
	sub.Ping()
	first := brokertest.Dial(t, s.Addr, codec.V5)
	first.SendConnect(brokertest.Durable("c"))
	sub.ExpectDisconnect(codec.SessionTakenOver)
	second := brokertest.Dial(t, s.Addr, codec.V5)
	second.SendConnect(brokertest.Durable("c"))
	expectMetric(t, s.Broker, `loopmq_packets_received_total{type="connect"}`, 3)
	second.Close()
	expectMetric(t, s.Broker, "loopmq_connections", 1)
	release()
	first.ExpectConnack(codec.Success)
	first.ExpectPublish("t", "")
	first.Ping()
}

// A CONNECT that waits for its turn gives way to a later one with the same ClientID.
func TestLaterConnectReplacesWaiting(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	sub.Subscribe("t", 1)
	release := f.hold()
	defer release()
	sub.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1})
	sub.Ping()
	clients := make([]*brokertest.Client, 4)
	for i := range clients {
		clients[i] = brokertest.Dial(t, s.Addr, codec.V5)
		clients[i].SendConnect(brokertest.Durable("c"))
		expectMetric(t, s.Broker, `loopmq_packets_received_total{type="connect"}`, float64(2+i))
	}
	clients[1].ExpectConnack(codec.ServerBusy)
	clients[2].ExpectConnack(codec.ServerBusy)
	release()
	clients[0].ExpectConnack(codec.Success)
	for {
		if d, ok := clients[0].Receive().(*codec.Disconnect); ok {
			if d.ReasonCode != codec.SessionTakenOver {
				t.Errorf("got %s", brokertest.Describe(d))
			}
			break
		}
	}
	clients[3].ExpectConnack(codec.Success)
	clients[3].ExpectPublish("t", "")
	clients[3].Ping()
}
