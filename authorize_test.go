package loopmq_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// rules is an Authorizer of all kinds, for tests. Its functions may be nil.
type rules struct {
	slow       func(c *loopmq.ClientInfo, a loopmq.Action, topic string) bool
	fast       func(c *loopmq.ClientInfo, a loopmq.Action, topic string) (allowed, known bool)
	deliveries bool
	ttl        atomic.Int64
	slowCalls  atomic.Int64
	fastCalls  atomic.Int64
}

func newRules(deliveries bool) *rules {
	r := &rules{deliveries: deliveries}
	r.ttl.Store(-1)
	return r
}

func (r *rules) Authorize(_ context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) bool {
	r.slowCalls.Add(1)
	return r.slow == nil || r.slow(c, a, topic)
}

func (r *rules) AuthorizeFast(c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) (allowed, known bool) {
	r.fastCalls.Add(1)
	if r.fast == nil {
		return false, false
	}
	return r.fast(c, a, topic)
}

func (r *rules) AuthorizesDeliveries() bool { return r.deliveries }

func (r *rules) DecisionTTL() time.Duration { return time.Duration(r.ttl.Load()) }

// A decision is asked for once for each connection, action, topic, QoS and RETAIN, until DropDecisions, or as long as it holds.
func TestDecisionsAreKept(t *testing.T) {
	t.Parallel()
	r := newRules(false)
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
	c := brokertest.Connect(t, s.Addr, codec.V5)
	expect := func(what string, want int64) {
		t.Helper()
		if got := r.slowCalls.Swap(0); got != want {
			t.Errorf("%s: asked %d times, want %d", what, got, want)
		}
	}
	for range 3 {
		c.Publish("a", "", 1)
	}
	expect("the same three times", 1)
	c.Publish("a", "", 0)
	c.Publish("a", "", 1, brokertest.Retained)
	c.Publish("b", "", 1)
	expect("other QoS, RETAIN and topic", 3)
	c.Subscribe("a", 1)
	c.Subscribe("a", 1)
	expect("a subscription, twice", 1)
	brokertest.Connect(t, s.Addr, codec.V311).Publish("a", "", 1)
	expect("another connection", 1)
	s.Broker.DropDecisions()
	c.Publish("a", "", 1)
	c.Publish("a", "", 1)
	expect("after DropDecisions", 1)
	c.Publish(strings.Repeat("x", 300), "", 1)
	c.Publish(strings.Repeat("x", 300), "", 1)
	expect("a long topic, twice", 2)
	for i := range 1000 {
		c.Publish(fmt.Sprint("many", i), "", 1)
	}
	expect("many topics", 1000)

	r.ttl.Store(0)
	s.Broker.DropDecisions()
	for range 3 {
		c.Publish("a", "", 1)
	}
	expect("decisions that aren't to be kept", 3)
	r.ttl.Store(1) // a nanosecond
	s.Broker.DropDecisions()
	for range 3 {
		c.Publish("a", "", 1)
		c.Ping()
	}
	if got := r.slowCalls.Swap(0); got < 2 {
		t.Errorf("asked %d times for what holds for a nanosecond", got)
	}
}

// An answer that was asked for under old rules is not kept under new ones.
func TestDecisionOfOldRulesIsNotKept(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan string, 8), make(chan bool)
	r := newRules(false)
	r.slow = func(_ *loopmq.ClientInfo, _ loopmq.Action, topic string) bool {
		asked <- topic
		return <-answer
	}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
	c := brokertest.Connect(t, s.Addr, codec.V5)
	send := func(id uint16) { c.Send(&codec.Publish{TopicName: []byte("a"), QoS: 1, PacketID: id}) }
	send(1)
	receive(t, "a question", asked)
	s.Broker.DropDecisions()
	answer <- true
	c.ExpectAck(codec.TypePuback, 1, codec.NoMatchingSubscribers)
	send(2)
	receive(t, "another question", asked)
	answer <- false
	c.ExpectAck(codec.TypePuback, 2, codec.NotAuthorized)
	send(3)
	c.ExpectAck(codec.TypePuback, 3, codec.NotAuthorized) // without a question
}

// What a FastAuthorizer knows is not asked for off the loop.
func TestFastAuthorizer(t *testing.T) {
	t.Parallel()
	r := newRules(false)
	r.fast = func(c *loopmq.ClientInfo, a loopmq.Action, topic string) (allowed, known bool) {
		return strings.HasPrefix(topic, "yes"), !strings.HasPrefix(topic, "perhaps")
	}
	r.slow = func(*loopmq.ClientInfo, loopmq.Action, string) bool { return true }
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
	for _, v := range []codec.Version{codec.V311, codec.V5} {
		c := brokertest.Connect(t, s.Addr, v, brokertest.Will("yes/will", "", 0, false))
		no := codec.NotAuthorized
		if v == codec.V311 {
			no = 0x80
		}
		c.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{
			brokertest.Subscription("yes/#", 0), brokertest.Subscription("no/#", 0), brokertest.Subscription("perhaps/#", 0),
		}})
		c.ExpectSuback(1, 0, no, 0)
		for _, topic := range []string{"no/1", "yes/1", "perhaps/1", "no/2", "yes/2"} {
			c.Send(&codec.Publish{TopicName: []byte(topic)})
		}
		for _, topic := range []string{"yes/1", "perhaps/1", "yes/2"} {
			c.ExpectPublish(topic, "")
		}
		c.ExpectNothing()
	}
	if got := r.slowCalls.Load(); got != 4 {
		t.Errorf("asked %d times off the loop, want 4", got)
	}
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.Will("no", "", 0, false))
	c.ExpectConnack(codec.NotAuthorized)
}

// each calls f with a name for each way that deliveries are decided on.
func eachWayOfDeciding(t *testing.T, allowed func(c *loopmq.ClientInfo, topic string) bool, f func(t *testing.T, r *rules)) {
	judge := func(c *loopmq.ClientInfo, a loopmq.Action, topic string) bool {
		return a != loopmq.ActionDeliver || allowed(c, topic)
	}
	for name, r := range map[string]func(r *rules){
		"slow":           func(r *rules) { r.slow = judge },
		"slow, not kept": func(r *rules) { r.slow = judge; r.ttl.Store(0) },
		"fast": func(r *rules) {
			r.fast = func(c *loopmq.ClientInfo, a loopmq.Action, topic string) (bool, bool) {
				return judge(c, a, topic), true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rs := newRules(true)
			r(rs)
			f(t, rs)
		})
	}
}

// What a client may not get is dropped and counted, at each QoS and with each kind of session; what it may get comes in order.
func TestDeliveriesAreAuthorized(t *testing.T) {
	t.Parallel()
	eachWayOfDeciding(t, func(_ *loopmq.ClientInfo, topic string) bool { return !strings.HasPrefix(topic, "secret") }, func(t *testing.T, r *rules) {
		for _, v := range []codec.Version{codec.V311, codec.V5} {
			for _, durable := range []bool{false, true} {
				for qos := range byte(3) {
					t.Run(fmt.Sprintf("version %d, durable %t, QoS %d", v, durable, qos), func(t *testing.T) {
						s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
						var options []brokertest.ConnectOption
						if durable {
							options = append(options, brokertest.Durable("sub"))
						}
						sub := brokertest.Connect(t, s.Addr, v, options...)
						sub.Subscribe("#", qos)
						pub := brokertest.Connect(t, s.Addr, v)
						const each = 20
						for i := range each {
							pub.Publish("secret/"+fmt.Sprint(i%3), fmt.Sprint(i), qos)
							pub.Publish("open/"+fmt.Sprint(i%3), fmt.Sprint(i), qos)
						}
						for i := range each {
							sub.Acknowledge(sub.ExpectPublish("open/"+fmt.Sprint(i%3), fmt.Sprint(i)))
						}
						sub.ExpectNothing()
						eventually(t, "all are dropped", func() bool {
							c := countersOf(t, s.Broker, qos)
							return c.dropped["not_authorized"]+c.queueDropped["not_authorized"] == each
						})
						expectCountersAddUp(t, s.Broker, [3]float64{})
						if durable && qos > 0 { // nothing stays in the queue
							sub.Close()
							sub = brokertest.Dial(t, s.Addr, v)
							sub.Connect(brokertest.Durable("sub"), brokertest.Resume)
							sub.ExpectNothing()
						}
					})
				}
			}
		}
	})
}

// Retained messages are deliveries too. So are those that waited for a durable session.
func TestRetainedAndQueuedDeliveriesAreAuthorized(t *testing.T) {
	t.Parallel()
	eachWayOfDeciding(t, func(c *loopmq.ClientInfo, topic string) bool {
		return c.Username != "guest" || !strings.HasPrefix(topic, "secret")
	}, func(t *testing.T, r *rules) {
		s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for qos := range byte(3) {
			pub.Publish(fmt.Sprint("secret/", qos), "s", qos, brokertest.Retained)
			pub.Publish(fmt.Sprint("open/", qos), "o", qos, brokertest.Retained)
		}
		retained := func(c *brokertest.Client, n int) (topics []string) {
			for range n {
				p := brokertest.Expect[*codec.Publish](c)
				c.Acknowledge(p)
				topics = append(topics, string(p.TopicName))
			}
			slices.Sort(topics)
			c.ExpectNothing()
			return topics
		}
		for _, durable := range []bool{false, true} {
			options := []brokertest.ConnectOption{brokertest.Credentials("guest", "")}
			if durable {
				options = append(options, brokertest.Durable("guest"))
			}
			c := brokertest.Connect(t, s.Addr, codec.V5, options...)
			c.Subscribe("#", 2)
			if got, want := retained(c, 3), []string{"open/0", "open/1", "open/2"}; !slices.Equal(got, want) {
				t.Errorf("durable %t: got %q, want %q", durable, got, want)
			}
			c.Close()
		}
		expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
		pub.Publish("secret/queued", "s", 2)
		pub.Publish("open/queued", "o", 2)
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.Connect(brokertest.Durable("guest"), brokertest.Resume, brokertest.Credentials("guest", ""))
		if got := retained(c, 1); got[0] != "open/queued" {
			t.Errorf("got %q from the queue", got)
		}
		expectCountersAddUp(t, s.Broker, [3]float64{})
	})
}

// A message of a shared subscription that one member may not get goes to another; if none may get it it is dropped.
func TestSharedDeliveriesAreAuthorized(t *testing.T) {
	t.Parallel()
	eachWayOfDeciding(t, func(c *loopmq.ClientInfo, topic string) bool {
		return !strings.HasPrefix(topic, "none") && (c.ClientID == "may" || !strings.HasPrefix(topic, "secret"))
	}, func(t *testing.T, r *rules) {
		for _, durable := range []bool{false, true} {
			for qos := range byte(3) {
				t.Run(fmt.Sprintf("durable %t, QoS %d", durable, qos), func(t *testing.T) {
					s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
					connect := func(id string) *brokertest.Client {
						o := brokertest.ClientID(id)
						if durable {
							o = brokertest.Durable(id)
						}
						c := brokertest.Connect(t, s.Addr, codec.V5, o)
						c.Subscribe("$share/name/#", qos)
						return c
					}
					may, mayNot, neither := connect("may"), connect("may not"), connect("neither")
					pub := brokertest.Connect(t, s.Addr, codec.V5)
					const n = 30
					for i := range n {
						pub.Publish("secret", fmt.Sprint(i), qos)
						pub.Publish("none", fmt.Sprint(i), qos)
					}
					seen := map[string]bool{}
					for range n {
						p := brokertest.Expect[*codec.Publish](may)
						may.Acknowledge(p)
						seen[string(p.Payload)] = true
					}
					if len(seen) != n {
						t.Errorf("%d different messages of %d", len(seen), n)
					}
					may.ExpectNothing()
					mayNot.ExpectNothing()
					neither.ExpectNothing()
					expectCountersAddUp(t, s.Broker, [3]float64{})
				})
			}
		}
	})
}

// What a member may not get waits for a durable one that may, and is offline.
func TestSharedDeliveryWaitsForMemberThatMay(t *testing.T) {
	t.Parallel()
	eachWayOfDeciding(t, func(c *loopmq.ClientInfo, topic string) bool { return c.ClientID == "may" }, func(t *testing.T, r *rules) {
		s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
		may := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("may"))
		may.Subscribe("$share/name/a", 1)
		may.Close()
		for _, option := range []brokertest.ConnectOption{brokertest.Durable("durable"), brokertest.ClientID("brief")} {
			brokertest.Connect(t, s.Addr, codec.V5, option).Subscribe("$share/name/a", 1)
		}
		expectMetric(t, s.Broker, "loopmq_clients_connected", 2)
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for i := range 10 {
			pub.Publish("a", fmt.Sprint(i), 1)
		}
		expectCountersAddUp(t, s.Broker, [3]float64{0, 10, 0})
		may = brokertest.Dial(t, s.Addr, codec.V5)
		may.Connect(brokertest.Durable("may"), brokertest.Resume)
		for range 10 {
			may.Acknowledge(brokertest.Expect[*codec.Publish](may))
		}
		may.ExpectNothing()
		expectCountersAddUp(t, s.Broker, [3]float64{})
	})
}

// While a decision about a delivery is awaited, what comes for the client waits behind it, and the client goes on with the rest.
func TestDeliveryWaitsForItsDecision(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{false, true} {
		for qos := range byte(3) {
			t.Run(fmt.Sprintf("durable %t, QoS %d", durable, qos), func(t *testing.T) {
				t.Parallel()
				asked, open := make(chan string, 100), make(chan struct{})
				r := newRules(true)
				r.slow = func(c *loopmq.ClientInfo, a loopmq.Action, topic string) bool {
					if a == loopmq.ActionDeliver && c.ClientID == "sub" {
						asked <- topic
						<-open
					}
					return true
				}
				s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
				option := brokertest.ClientID("sub")
				if durable {
					option = brokertest.Durable("sub")
				}
				sub := brokertest.Connect(t, s.Addr, codec.V5, option)
				sub.Subscribe("#", qos)
				other, pub := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
				other.Subscribe("#", 0)
				for i := range 20 {
					pub.Publish(fmt.Sprint(i), "", qos)
				}
				for i := range 20 { // others aren't held up
					other.ExpectPublish(fmt.Sprint(i), "")
				}
				receive(t, "a question", asked)
				sub.Ping() // nor is what it sends
				sub.ExpectNothing()
				close(open)
				for i := range 20 {
					sub.Acknowledge(sub.ExpectPublish(fmt.Sprint(i), ""))
				}
				expectCountersAddUp(t, s.Broker, [3]float64{})
			})
		}
	}
}

// What waits for decisions is bounded, and counted when its client leaves.
func TestWaitingForDecisionsIsBounded(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	r := newRules(true)
	r.slow = func(_ *loopmq.ClientInfo, a loopmq.Action, topic string) bool {
		if a == loopmq.ActionDeliver {
			<-open
		}
		return true
	}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = r })
	sub, pub := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("#", 0)
	for i := range 3000 {
		pub.Publish(fmt.Sprint(i%100), "", 0)
	}
	pub.Ping()
	eventually(t, "the rest is dropped", func() bool { return countersOf(t, s.Broker, 0).dropped["output_full"] == 3000-1024 })
	if got := r.slowCalls.Load(); got > 100+1+8 { // publishing, subscribing, delivering
		t.Errorf("asked %d times", got)
	}
	sub.Close()
	eventually(t, "what waited is dropped", func() bool { return countersOf(t, s.Broker, 0).dropped["session_gone"] == 1024 })
	expectCountersAddUp(t, s.Broker, [3]float64{})
	close(open)
}

// byName authenticates everybody as what the test says.
type byName struct {
	identity func(r *loopmq.ConnectRequest) (loopmq.Identity, error)
}

func (a byName) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	id, err := a.identity(r)
	return id, nil, err
}

func (a byName) Continue(ctx context.Context, r *loopmq.ConnectRequest, _ any, _ []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return a.Authenticate(ctx, r)
}

// Who authenticates again is judged by the new identity.
func TestDecisionsGoWithTheIdentity(t *testing.T) {
	t.Parallel()
	r := newRules(true)
	r.fast = func(c *loopmq.ClientInfo, a loopmq.Action, topic string) (allowed, known bool) {
		return c.ACL == topic, true
	}
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authorizer = r
		o.Authenticator = byName{func(r *loopmq.ConnectRequest) (loopmq.Identity, error) {
			return loopmq.Identity{ACL: string(r.AuthenticationData)}, nil
		}}
	})
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.With(codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, "a"))
	c.Subscribe("a", 0)
	c.Publish("a", "1", 1)
	c.ExpectPublish("a", "1")
	c.Send(&codec.Publish{TopicName: []byte("b"), QoS: 1, PacketID: 100})
	c.ExpectAck(codec.TypePuback, 100, codec.NotAuthorized)
	sendAuth(c, codec.ReAuthenticate, "b")
	c.ExpectAuth(codec.Success)
	c.Publish("b", "", 1)
	c.Send(&codec.Publish{TopicName: []byte("a"), QoS: 1, PacketID: 101})
	c.ExpectAck(codec.TypePuback, 101, codec.NotAuthorized)
	if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "a"}); err != nil {
		t.Fatal(err)
	}
	c.ExpectNothing()
	if got := countersOf(t, s.Broker, 0).dropped["not_authorized"]; got != 1 {
		t.Errorf("%v messages were dropped", got)
	}
}

// An answer about the former identity of a client that has authenticated again doesn't count.
func TestDecisionOfFormerIdentityIsNotKept(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan any, 8), make(chan bool)
	r := newRules(true)
	r.slow = func(c *loopmq.ClientInfo, a loopmq.Action, _ string) bool {
		if a != loopmq.ActionDeliver {
			return true
		}
		asked <- c.ACL
		return <-answer
	}
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authorizer = r
		o.Authenticator = byName{func(r *loopmq.ConnectRequest) (loopmq.Identity, error) {
			return loopmq.Identity{ACL: string(r.AuthenticationData)}, nil
		}}
	})
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.With(codec.PropAuthenticationMethod, "say", codec.PropAuthenticationData, "old"))
	c.Subscribe("a", 1)
	if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "a", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if acl := receive(t, "a question", asked); acl != "old" {
		t.Errorf("asked about %v", acl)
	}
	sendAuth(c, codec.ReAuthenticate, "new")
	c.ExpectAuth(codec.Success)
	answer <- true
	if acl := receive(t, "another question", asked); acl != "new" {
		t.Errorf("asked about %v", acl)
	}
	answer <- false
	c.ExpectNothing()
	eventually(t, "the message is dropped", func() bool { return countersOf(t, s.Broker, 1).queueDropped["not_authorized"] == 1 })
}

// A client whose identity ends is disconnected, with its Will, unless it has authenticated again.
func TestIdentityExpires(t *testing.T) {
	t.Parallel()
	const soon = time.Second
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = byName{func(r *loopmq.ConnectRequest) (loopmq.Identity, error) {
			switch {
			case r.Reauthentication:
				return loopmq.Identity{Username: r.Username}, nil
			case r.Username == "past":
				return loopmq.Identity{ExpiresAt: time.Now().Add(-time.Second)}, nil
			case r.Username == "watch":
				return loopmq.Identity{}, nil
			}
			if r.AuthenticationMethod != "" { // it has to be here again by then, however slow the machine is
				return loopmq.Identity{Username: r.Username, ExpiresAt: time.Now().Add(3 * soon)}, nil
			}
			return loopmq.Identity{Username: r.Username, ExpiresAt: time.Now().Add(soon)}, nil
		}}
	})
	watch := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Credentials("watch", ""))
	watch.Subscribe("will", 0)
	for version, want := range map[codec.Version]codec.ReasonCode{codec.V5: codec.NotAuthorized, codec.V311: 5} {
		c := brokertest.Dial(t, s.Addr, version)
		c.SendConnect(brokertest.Credentials("past", ""))
		c.ExpectConnack(want)
		begin := time.Now()
		c = brokertest.Connect(t, s.Addr, version, brokertest.Will("will", "expired", 0, false))
		if version == codec.V5 {
			c.ExpectDisconnect(codec.NotAuthorized)
		} else {
			c.ExpectClosed()
		}
		if d := time.Since(begin); d < soon {
			t.Errorf("it was disconnected after %v", d)
		}
		watch.ExpectPublish("will", "expired")
	}
	expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="not_authorized"}`, 2)

	// The one that goes on is looked at after it would have expired.
	again := brokertest.Connect(t, s.Addr, codec.V5, brokertest.With(codec.PropAuthenticationMethod, "say"))
	would := time.After(3 * soon)
	sendAuth(again, codec.ReAuthenticate, "")
	again.ExpectAuth(codec.Success)
	<-would
	brokertest.Connect(t, s.Addr, codec.V5).ExpectDisconnect(codec.NotAuthorized)
	again.Ping()
}

// A ClientID that the Authenticator gives is the client's in all that follows: session, takeover, Will, events.
func TestAuthenticatorGivesTheClientID(t *testing.T) {
	t.Parallel()
	connected, wills := make(chan string, 8), make(chan string, 8)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = byName{func(r *loopmq.ConnectRequest) (loopmq.Identity, error) {
			return loopmq.Identity{Username: r.Username, ClientID: r.Username}, nil
		}}
		o.Recorder = loopmq.Recorders(
			loopmq.OnEvent(func(e *loopmq.Event) { wills <- e.Client.ClientID }, loopmq.EventWillPublished),
			loopmq.OnEvent(func(e *loopmq.Event) { connected <- e.Client.ClientID }, loopmq.EventClientConnected))
	})
	watch := brokertest.Connect(t, s.Addr, codec.V5)
	watch.Subscribe("will", 0)
	receive(t, "OnConnected", connected)
	for _, version := range []codec.Version{codec.V311, codec.V5} {
		first := brokertest.Connect(t, s.Addr, version, brokertest.Durable("x"), brokertest.Credentials("device", ""),
			brokertest.Will("will", "w", 0, false))
		if got := receive(t, "OnConnected", connected); got != "device" {
			t.Errorf("the ClientID is %q", got)
		}
		first.Subscribe("a", 1)
		second := brokertest.Dial(t, s.Addr, version)
		if p := second.Connect(brokertest.Durable("y"), brokertest.Resume, brokertest.Credentials("device", "")); !p.SessionPresent {
			t.Error("the session is not that of the ClientID that was given")
		}
		receive(t, "OnConnected", connected)
		if version == codec.V5 {
			first.ExpectDisconnect(codec.SessionTakenOver)
		} else {
			first.ExpectClosed()
		}
		watch.ExpectPublish("will", "w")
		if got := receive(t, "OnWillPublished", wills); got != "device" {
			t.Errorf("the Will is that of %q", got)
		}
		second.Disconnect()
	}
	if p := brokertest.Dial(t, s.Addr, codec.V5).Connect(brokertest.ClientID(""), brokertest.Credentials("given", "")); string(p.Properties.AssignedClientIdentifier) != "given" {
		t.Errorf("Assigned Client Identifier %q", p.Properties.AssignedClientIdentifier)
	}
	for _, bad := range []string{"a\x00b", "\xff", strings.Repeat("x", 70_000)} {
		s := brokertest.Start(t, func(o *loopmq.Options) {
			o.Authenticator = byName{func(*loopmq.ConnectRequest) (loopmq.Identity, error) { return loopmq.Identity{ClientID: bad}, nil }}
		})
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect()
		c.ExpectConnack(codec.ClientIdentifierNotValid)
	}
}

func TestDisconnectWhere(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops = 3 })
	banned := func(c *loopmq.ClientInfo) bool { return strings.HasPrefix(c.ClientID, "bad") && c.RemoteAddr() != nil }
	var bad []*brokertest.Client
	for i := range 6 {
		v := codec.V5
		if i%2 == 1 {
			v = codec.V311
		}
		bad = append(bad, brokertest.Connect(t, s.Addr, v, brokertest.ClientID(fmt.Sprint("bad", i))))
	}
	good := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("good"))
	dialled := brokertest.Dial(t, s.Addr, codec.V5)
	if n := s.Broker.DisconnectWhere(banned, codec.NotAuthorized); n != 6 {
		t.Errorf("%d clients were disconnected, want 6", n)
	}
	for i, c := range bad {
		if i%2 == 0 {
			c.ExpectDisconnect(codec.NotAuthorized)
		} else {
			c.ExpectClosed()
		}
	}
	good.Ping()
	dialled.Connect()
	if n := s.Broker.DisconnectWhere(banned, codec.NotAuthorized); n != 0 {
		t.Errorf("%d more", n)
	}
	b := s.Broker
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := b.DisconnectWhere(banned, codec.NotAuthorized); n != 0 {
		t.Errorf("%d after Shutdown", n)
	}
}
