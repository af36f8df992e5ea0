package loopmq_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// payloads takes n PUBLISH packets and returns their payloads. It leaves them unacknowledged.
func payloads(t testing.TB, c *brokertest.Client, n int) (got []string) {
	t.Helper()
	for range n {
		got = append(got, string(brokertest.Expect[*codec.Publish](c).Payload))
	}
	return got
}

// withIdentifier sets the Subscription Identifier of a SUBSCRIBE.
func withIdentifier(id int) func(*codec.Subscribe) {
	return func(p *codec.Subscribe) { p.Properties = brokertest.Properties(codec.PropSubscriptionIdentifier, id) }
}

func TestSharedSubscriptionStrategies(t *testing.T) {
	t.Parallel()
	const members = 3
	start := func(t *testing.T, strategy loopmq.SharedSubscriptionStrategy) (*brokertest.Server, []*brokertest.Client) {
		s := brokertest.Start(t, func(o *loopmq.Options) { o.SharedSubscriptionStrategy = strategy })
		clients := make([]*brokertest.Client, members)
		for i := range clients {
			clients[i] = brokertest.Connect(t, s.Addr, codec.V5)
			clients[i].Subscribe("$share/g/t/#", 1)
		}
		return s, clients
	}
	// take publishes, and returns how many each member got; the last message of all goes to everybody.
	take := func(t *testing.T, pub *brokertest.Client, clients []*brokertest.Client, topics ...string) (got []map[string]int) {
		t.Helper()
		end := brokertest.Name()
		for _, c := range clients {
			c.Subscribe(end, 1)
		}
		for _, topic := range topics {
			pub.Publish(topic, "", 1)
		}
		pub.Publish(end, "", 1)
		for _, c := range clients {
			byTopic := make(map[string]int)
			for {
				p := brokertest.Expect[*codec.Publish](c)
				c.Acknowledge(p)
				if string(p.TopicName) == end {
					break
				}
				byTopic[string(p.TopicName)]++
			}
			got = append(got, byTopic)
		}
		return got
	}
	repeat := func(topic string, n int) []string {
		return strings.Split(strings.TrimSuffix(strings.Repeat(topic+",", n), ","), ",")
	}

	t.Run("round robin", func(t *testing.T) {
		t.Parallel()
		s, clients := start(t, loopmq.SharedRoundRobin)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for i, got := range take(t, pub, clients, repeat("t", 30)...) {
			if got["t"] != 10 {
				t.Errorf("member %d got %d of 30", i, got["t"])
			}
		}
		clients[1].Disconnect()
		for i, got := range take(t, pub, append(clients[:1], clients[2:]...), repeat("t", 30)...) {
			if got["t"] != 15 {
				t.Errorf("member %d of 2 got %d of 30", i, got["t"])
			}
		}
	})
	t.Run("random", func(t *testing.T) {
		t.Parallel()
		s, clients := start(t, loopmq.SharedRandom)
		total := 0
		for i, got := range take(t, brokertest.Connect(t, s.Addr, codec.V5), clients, repeat("t", 300)...) {
			if total += got["t"]; got["t"] < 50 {
				t.Errorf("member %d got %d of 300", i, got["t"])
			}
		}
		if total != 300 {
			t.Errorf("%d of 300 came", total)
		}
	})
	t.Run("sticky", func(t *testing.T) {
		t.Parallel()
		s, clients := start(t, loopmq.SharedSticky)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for len(clients) > 0 {
			one := -1
			for i, got := range take(t, pub, clients, repeat("t", 20)...) {
				switch {
				case got["t"] == 20 && one < 0:
					one = i
				case got["t"] != 0:
					t.Errorf("member %d got %d of 20", i, got["t"])
				}
			}
			if one < 0 {
				t.Fatal("no member got all")
			}
			clients[one].Disconnect()
			clients = append(clients[:one], clients[one+1:]...)
		}
	})
	t.Run("hash of ClientID", func(t *testing.T) {
		t.Parallel()
		s, clients := start(t, loopmq.SharedHashClientID)
		reached := make(map[int]bool)
		for range 40 {
			for i, got := range take(t, brokertest.Connect(t, s.Addr, codec.V5), clients, "t", "t/1", "t/2", "t/3") {
				if n := len(got); n != 0 && n != 4 {
					t.Errorf("member %d got %d topics of 4 of one publisher", i, n)
				} else if n == 4 {
					reached[i] = true
				}
			}
		}
		if len(reached) != members {
			t.Errorf("40 publishers reached %d members", len(reached))
		}
	})
	t.Run("hash of topic", func(t *testing.T) {
		t.Parallel()
		s, clients := start(t, loopmq.SharedHashTopic)
		var topics []string
		for i := range 40 {
			topics = append(topics, fmt.Sprintf("t/%d", i))
		}
		pub, other := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V311)
		first := take(t, pub, clients, topics...)
		for i, got := range take(t, other, clients, topics...) {
			if len(got) != len(first[i]) || len(got) == 0 {
				t.Errorf("member %d got %d topics, then %d", i, len(first[i]), len(got))
			}
			for topic := range got {
				if first[i][topic] != 1 {
					t.Errorf("%s went to another member first", topic)
				}
			}
		}
	})
}

// members are the kinds of subscribers that a group may have.
var members = map[string]brokertest.ConnectOption{
	"durable": func(p *codec.Connect) {
		p.CleanStart, p.Properties = false, brokertest.Properties(codec.PropSessionExpiryInterval, 60)
	},
	"in memory": func(*codec.Connect) {},
}

func eachPairOfMembers(t *testing.T, f func(t *testing.T, first, second brokertest.ConnectOption)) {
	for a, first := range members {
		for b, second := range members {
			t.Run(a+" to "+b, func(t *testing.T) {
				t.Parallel()
				f(t, first, second)
			})
		}
	}
}

// What a member leaves unacknowledged at QoS 1, sent or not, goes to another, as that one subscribed to it.
func TestSharedQoS1GoesToAnother_MQTT_4_8_2_4(t *testing.T) {
	t.Parallel()
	eachPairOfMembers(t, func(t *testing.T, first, second brokertest.ConnectOption) {
		s := brokertest.Start(t)
		a := brokertest.Connect(t, s.Addr, codec.V5, first, brokertest.With(codec.PropReceiveMaximum, 3))
		a.Subscribe("$share/g/t/#", 1, withIdentifier(1))
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for i := range 6 { // three are sent, three wait
			pub.Publish("t/x", fmt.Sprint(i), 1, brokertest.Retained)
		}
		a.Send(&codec.Ack{Type: codec.TypePuback, PacketID: a.ExpectPublish("t/x", "0").PacketID})
		for i := 1; i < 4; i++ {
			a.ExpectPublish("t/x", fmt.Sprint(i))
		}
		b := brokertest.Connect(t, s.Addr, codec.V5, second)
		b.Subscribe("$share/g/t/#", 2, withIdentifier(2), func(p *codec.Subscribe) {
			p.Subscriptions[0].Options.RetainAsPublished = true
		})
		a.Close()
		seen := make(map[string]bool)
		for range 5 {
			p := brokertest.Expect[*codec.Publish](b)
			if p.QoS != 1 || p.Dup || !p.Retain || fmt.Sprint(p.Properties.SubscriptionIdentifiers) != "[2]" {
				t.Errorf("got %s with identifiers %v", brokertest.Describe(p), p.Properties.SubscriptionIdentifiers)
			}
			seen[string(p.Payload)] = true
			b.Acknowledge(p)
		}
		if len(seen) != 5 || seen["0"] {
			t.Errorf("got %v, want 1 to 5", seen)
		}
		b.ExpectNothingFrom(pub, 1)
		expectCountersAddUp(t, s.Broker, [3]float64{})
		// They are the former member's no more.
		again := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable(a.ClientID))
		again.ExpectNothingFrom(pub, 1)
	})
}

// A member that subscribed with QoS 0 gets what comes back to its group too.
func TestSharedQoS1GoesToMemberWithQoS0(t *testing.T) {
	t.Parallel()
	eachPairOfMembers(t, func(t *testing.T, first, second brokertest.ConnectOption) {
		s := brokertest.Start(t)
		a := brokertest.Connect(t, s.Addr, codec.V5, first)
		a.Subscribe("$share/g/t", 1)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for i := range 3 {
			pub.Publish("t", fmt.Sprint(i), 1)
			a.ExpectPublish("t", fmt.Sprint(i))
		}
		b := brokertest.Connect(t, s.Addr, codec.V5, second)
		b.Subscribe("$share/g/t", 0)
		a.Close()
		for i := range 3 {
			if p := b.ExpectPublish("t", fmt.Sprint(i)); p.QoS != 0 {
				t.Errorf("got %s", brokertest.Describe(p))
			}
		}
		expectCountersAddUp(t, s.Broker, [3]float64{})
		b.Close()
		again := brokertest.Connect(t, s.Addr, codec.V5, second, brokertest.ClientID(b.ClientID))
		again.ExpectNothingFrom(pub, 1) // nothing was left in its queue
	})
}

// QoS 2 that was not sent goes to another member. What was sent stays with its client, and ends with its session.
func TestSharedQoS2_MQTT_4_8_2_5(t *testing.T) {
	t.Parallel()
	eachPairOfMembers(t, func(t *testing.T, first, second brokertest.ConnectOption) {
		s := brokertest.Start(t)
		a := brokertest.Connect(t, s.Addr, codec.V5, first, brokertest.ClientID("a"), brokertest.With(codec.PropReceiveMaximum, 2))
		a.Subscribe("$share/g/t", 2)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for i := range 5 {
			pub.Publish("t", fmt.Sprint(i), 2)
		}
		released, sent := a.ExpectPublish("t", "0"), a.ExpectPublish("t", "1")
		a.Send(&codec.Ack{Type: codec.TypePubrec, PacketID: released.PacketID})
		a.ExpectAck(codec.TypePubrel, released.PacketID, 0)
		b := brokertest.Connect(t, s.Addr, codec.V5, second)
		b.Subscribe("$share/g/t", 2)
		a.Close()
		seen := make(map[string]bool)
		for range 3 {
			p := brokertest.Expect[*codec.Publish](b)
			seen[string(p.Payload)] = true
			b.Acknowledge(p)
		}
		if len(seen) != 3 || seen["0"] || seen["1"] {
			t.Errorf("got %v, want 2, 3 and 4", seen)
		}
		b.ExpectNothingFrom(pub, 2)
		expectCountersAddUp(t, s.Broker, [3]float64{})

		again := brokertest.Dial(t, s.Addr, codec.V5)
		if !again.Connect(first, brokertest.ClientID("a")).SessionPresent {
			again.ExpectNothingFrom(pub, 2)
			return
		}
		again.ExpectAck(codec.TypePubrel, released.PacketID, 0)
		if p := again.ExpectPublish("t", "1"); p.PacketID != sent.PacketID || !p.Dup {
			t.Errorf("got %s, want the same Packet Identifier and DUP", brokertest.Describe(p))
		}
	})
}

// A PUBACK or PUBREC with an error ends the delivery: no other member gets the message.
func TestSharedRefusedIsDiscarded_MQTT_4_8_2_6(t *testing.T) {
	t.Parallel()
	eachPairOfMembers(t, func(t *testing.T, first, second brokertest.ConnectOption) {
		s := brokertest.Start(t)
		a := brokertest.Connect(t, s.Addr, codec.V5, first)
		a.Subscribe("$share/g/t", 2)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for qos, ack := range map[byte]codec.PacketType{1: codec.TypePuback, 2: codec.TypePubrec} {
			pub.Publish("t", "", qos)
			a.Send(&codec.Ack{Type: ack, PacketID: a.ExpectPublish("t", "").PacketID, ReasonCode: codec.ImplementationSpecificError})
		}
		a.Ping()
		b := brokertest.Connect(t, s.Addr, codec.V5, second)
		b.Subscribe("$share/g/t", 2)
		a.Close()
		expectMetric(t, s.Broker, "loopmq_clients_connected", 2)
		b.ExpectNothingFrom(pub, 2)
		expectCountersAddUp(t, s.Broker, [3]float64{})
	})
}

// When no member is connected, QoS 1 and 2 wait for a durable one, QoS 0 doesn't. The first to return gets what waits.
func TestSharedWaitsForTheFirstToReturn(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	a, b := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a")), brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("b"))
	a.Subscribe("$share/g/t", 2, withIdentifier(1))
	b.Subscribe("$share/g/t", 1, withIdentifier(2))
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("t", "left", 1)
	pub.Publish("t", "left", 1)
	a.ExpectPublish("t", "left")
	b.ExpectPublish("t", "left")
	a.Disconnect()
	b.ExpectPublish("t", "left")
	b.Disconnect()
	for qos := range byte(3) {
		pub.Publish("t", fmt.Sprint(qos), qos)
	}
	expectCountersAddUp(t, s.Broker, [3]float64{0, 3, 1})
	if c := countersOf(t, s.Broker, 0); c.dropped["offline_qos0"] != 1 {
		t.Errorf("QoS 0: %v", c)
	}
	b = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("b"))
	seen := make(map[string]int)
	for range 4 {
		p := brokertest.Expect[*codec.Publish](b)
		if seen[string(p.Payload)]++; p.QoS != 1 || fmt.Sprint(p.Properties.SubscriptionIdentifiers) != "[2]" {
			t.Errorf("got %s with identifiers %v", brokertest.Describe(p), p.Properties.SubscriptionIdentifiers)
		}
		b.Acknowledge(p)
	}
	if seen["left"] != 2 || seen["1"] != 1 || seen["2"] != 1 {
		t.Errorf("got %v", seen)
	}
	a = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
	a.ExpectNothingFrom(pub, 2)
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// A new member, durable or not, gets what waits for its group as well.
func TestSharedWaitsForNewMember(t *testing.T) {
	t.Parallel()
	for name, kind := range members {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
			a.Subscribe("$share/g/t", 2)
			a.Disconnect()
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			const n = 500 // more than one page
			for i := range n {
				pub.Publish("t", fmt.Sprint(i), byte(1+i%2))
			}
			expectCountersAddUp(t, s.Broker, [3]float64{0, n / 2, n / 2})
			b := brokertest.Connect(t, s.Addr, codec.V5, kind)
			b.Subscribe("$share/g/t", 2)
			for i := range n {
				p := b.ExpectPublish("t", fmt.Sprint(i))
				b.Acknowledge(p)
			}
			b.ExpectNothingFrom(pub, 2)
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
	t.Run("of the process", func(t *testing.T) {
		t.Parallel()
		s := brokertest.Start(t)
		a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
		a.Subscribe("$share/g/t", 2)
		a.Disconnect()
		brokertest.Connect(t, s.Addr, codec.V5).Publish("t", "1", 2)
		got := make(chan string, 1)
		cancel, err := s.Broker.Subscribe("$share/g/t", func(m *loopmq.MessageView) { got <- string(m.Payload) })
		if err != nil {
			t.Fatal(err)
		}
		defer cancel()
		if p := receive(t, "what waits", got); p != "1" {
			t.Errorf("got %q", p)
		}
	})
}

// A member whose session ends while others wait for nothing leaves what it has not acknowledged to them.
func TestSharedMemberWhoseSessionEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, s *brokertest.Server, a *brokertest.Client){
		"by DISCONNECT": func(_ *testing.T, _ *brokertest.Server, a *brokertest.Client) {
			a.Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 0)})
			a.ExpectClosed()
		},
		"by Clean Start": func(t *testing.T, s *brokertest.Server, a *brokertest.Client) {
			brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(a.ClientID))
		},
		"with its connection": func(t *testing.T, s *brokertest.Server, a *brokertest.Client) {
			// resumed for as long as this connection lasts
			c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(a.ClientID), brokertest.Resume)
			payloads(t, c, 2)
			c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
			a.Subscribe("$share/g/t", 1)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			pub.Publish("t", "1", 1)
			pub.Publish("t", "2", 1)
			payloads(t, a, 2)
			b := brokertest.Connect(t, s.Addr, codec.V5)
			b.Subscribe("$share/g/t", 1)
			end(t, s, a)
			if got := fmt.Sprint(payloads(t, b, 2)); got != "[1 2]" {
				t.Errorf("got %s", got)
			}
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
}

// A session that is taken over goes on: what its client has not acknowledged is sent to it again, and to nobody else [MQTT-4.4.0-1].
func TestSharedMemberTakenOverKeepsItsMessages(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
	a.Subscribe("$share/g/t", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("t", "1", 1)
	id := a.ExpectPublish("t", "1").PacketID
	b := brokertest.Connect(t, s.Addr, codec.V5)
	b.Subscribe("$share/g/t", 1)
	again := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
	if p := again.ExpectPublish("t", "1"); !p.Dup || p.PacketID != id {
		t.Errorf("got %s, want id %d with DUP", brokertest.Describe(p), id)
	}
	b.ExpectNothingFrom(pub, 1)
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// A connection that takes over and is ended before it has the session leaves to others what the one before it had not acknowledged.
func TestSharedMemberTakenOverByOneThatLeaves(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]brokertest.ConnectOption{
		"resumes":     brokertest.Durable("a"),
		"Clean Start": brokertest.ClientID("a"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, f := startWithFaults(t, func(o *loopmq.Options) { o.ConnectTimeout = time.Second })
			a, b := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a")), brokertest.Connect(t, s.Addr, codec.V5)
			a.Subscribe("$share/g/t", 1)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			pub.Publish("t", "1", 1)
			a.ExpectPublish("t", "1")
			b.Subscribe("$share/g/t", 1)
			release := f.hold()
			defer release()
			again := brokertest.Dial(t, s.Addr, codec.V5)
			again.SendConnect(connect)
			a.ExpectDisconnect(codec.SessionTakenOver)
			eventually(t, "its end", func() bool {
				return metricsOf(t, s.Broker)[`loopmq_connections_closed_total{reason="connect_timeout"}`] == 1
			})
			release()
			b.Acknowledge(b.ExpectPublish("t", "1"))
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
}

// What waits for a group is bounded as a session's queue is, and goes with the group.
func TestSharedQueueIsBounded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limit func(*loopmq.Limits)
		leave func(t *testing.T, s *brokertest.Server, c *clock)
	}{
		"messages, Clean Start": {
			func(l *loopmq.Limits) { l.QueueMessages = 10 },
			func(t *testing.T, s *brokertest.Server, _ *clock) {
				brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("a"))
			},
		},
		"bytes, expired": {
			func(l *loopmq.Limits) { l.QueueBytes = 10 * len("t00") },
			func(t *testing.T, s *brokertest.Server, c *clock) {
				c.advance(2 * 60e9)
				brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("x")).Disconnect() // wakes the scheduler
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clock := startWithClock(t, func(o *loopmq.Options) { test.limit(&o.Limits) })
			a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
			a.Subscribe("$share/g/t", 1)
			a.Disconnect()
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			for i := range 25 {
				pub.Publish("t", fmt.Sprintf("%02d", i), 1)
			}
			expectCountersAddUp(t, s.Broker, [3]float64{0, 10, 0})
			if c := countersOf(t, s.Broker, 1); c.dropped["queue_full"] != 15 {
				t.Errorf("got %v, want 15 dropped for queue_full", c)
			}
			test.leave(t, s, clock)
			eventually(t, "the end of the group", func() bool {
				pub.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: pub.PacketID()})
				return brokertest.Expect[*codec.Ack](pub).ReasonCode == codec.NoMatchingSubscribers
			})
			eventually(t, "the end of what waits", func() bool { return metricsOf(t, s.Broker)["loopmq_queued_messages"] == 0 })
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
}

// A durable member whose queue is full leaves the rest in the group's queue, and gets it as it acknowledges.
func TestSharedMemberWithFullQueue(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.QueueMessages = 20 })
	a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
	a.Subscribe("$share/g/t", 1)
	a.Subscribe("own", 1)
	a.Disconnect()
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	for range 15 {
		pub.Publish("own", "", 1)
	}
	for range 15 {
		pub.Publish("t", "", 1)
	}
	a = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
	count := make(map[string]int)
	for range 30 {
		p := brokertest.Expect[*codec.Publish](a)
		count[string(p.TopicName)]++
		a.Acknowledge(p)
	}
	if count["own"] != 15 || count["t"] != 15 {
		t.Errorf("got %v", count)
	}
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// A message is under way to the store for a member, or for a group without members, when the member leaves or the first one comes: it
// reaches who is there.
func TestSharedMembersChangeDuringTheCommit(t *testing.T) {
	t.Parallel()
	t.Run("the member leaves", func(t *testing.T) {
		t.Parallel()
		s, f := startWithFaults(t)
		a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
		a.Subscribe("$share/g/t", 1)
		pub, b := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
		release := f.hold()
		defer release()
		pub.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1})
		pub.Ping()
		b.Subscribe("$share/g/t", 1)
		a.Close()
		expectMetric(t, s.Broker, "loopmq_clients_connected", 2)
		release()
		pub.ExpectAck(codec.TypePuback, 1, 0)
		b.Acknowledge(b.ExpectPublish("t", ""))
		expectCountersAddUp(t, s.Broker, [3]float64{})
	})
	for name, end := range map[string]func(t *testing.T, s *brokertest.Server, a *brokertest.Client){
		"its session ends": func(_ *testing.T, _ *brokertest.Server, a *brokertest.Client) {
			a.Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 0)})
		},
		"Clean Start takes over": func(t *testing.T, s *brokertest.Server, a *brokertest.Client) {
			brokertest.Dial(t, s.Addr, codec.V5).SendConnect(brokertest.ClientID(a.ClientID))
			a.ExpectDisconnect(codec.SessionTakenOver)
		},
		"Clean Start follows": func(t *testing.T, s *brokertest.Server, a *brokertest.Client) {
			a.Close()
			expectMetric(t, s.Broker, "loopmq_clients_connected", 2)
			brokertest.Dial(t, s.Addr, codec.V5).SendConnect(brokertest.ClientID(a.ClientID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, f := startWithFaults(t)
			a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
			a.Subscribe("$share/g/t", 1)
			pub, b := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
			release := f.hold()
			defer release()
			pub.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1})
			pub.Ping()
			b.Subscribe("$share/g/t", 1)
			end(t, s, a)
			expectMetric(t, s.Broker, "loopmq_clients_connected", 2)
			release()
			pub.ExpectAck(codec.TypePuback, 1, 0)
			b.Acknowledge(b.ExpectPublish("t", ""))
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
	t.Run("the first member comes", func(t *testing.T) {
		t.Parallel()
		s, f := startWithFaults(t)
		a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
		a.Subscribe("$share/g/t", 1)
		a.Disconnect()
		pub, b := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
		release := f.hold()
		defer release()
		pub.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1})
		pub.Ping()
		b.Subscribe("$share/g/t", 1)
		release()
		pub.ExpectAck(codec.TypePuback, 1, 0)
		b.Acknowledge(b.ExpectPublish("t", ""))
		expectCountersAddUp(t, s.Broker, [3]float64{})
	})
}

// Members come and go at random while messages are published: each reaches some member.
func TestSharedMembersComeAndGo(t *testing.T) {
	t.Parallel()
	for name, kind := range members {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			keeper := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("keeper")) // so that the group always has a durable member
			keeper.Subscribe("$share/g/t", 1)
			const total = 600
			var (
				mu   sync.Mutex
				seen = make(map[string]int)
				note = func(p *codec.Publish) {
					mu.Lock()
					defer mu.Unlock()
					seen[string(p.Payload)]++
				}
				wg   sync.WaitGroup
				stop = make(chan struct{})
			)
			for m := range 4 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, uint64(m)))
					for {
						select {
						case <-stop:
							return
						default:
						}
						churn(s.Addr, fmt.Sprintf("m%d", m), kind, r, note)
					}
				})
			}
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			for i := range total {
				if i%100 == 50 {
					keeper.Disconnect()
				}
				if i%100 == 99 {
					keeper = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("keeper"))
				}
				pub.Publish("t", fmt.Sprint(i), 1)
			}
			close(stop)
			wg.Wait()
			// What is left goes to the keeper, or already has.
			eventually(t, "all messages", func() bool {
				keeper.Send(brokertest.Pingreq{})
				for {
					p, ok := keeper.Receive().(*codec.Publish)
					if !ok {
						break
					}
					note(p)
					keeper.Send(&codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID})
				}
				mu.Lock()
				defer mu.Unlock()
				return len(seen) == total
			})
			expectCountersAddUp(t, s.Broker, [3]float64{})
		})
	}
}
