package loopmq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// local is a LocalClient that keeps what it is given.
type local struct {
	*loopmq.LocalClient
	t      testing.TB
	given  chan given
	closed chan error
	room   func() bool // nil: there is always room
}

type given struct {
	topic, payload string
	qos            byte
	id             loopmq.DeliveryID
	dup, retain    bool
}

// caller authenticates somebody at a broker.
func caller(t testing.TB, s *brokertest.Server, username string) *loopmq.Caller {
	t.Helper()
	c, err := s.Broker.Authenticate(t.Context(), &loopmq.ConnectRequest{
		Username: username, HasUsername: username != "", ProtocolVersion: codec.V5,
		RemoteAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}, Listener: "test",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// tryLocal connects a LocalClient.
func tryLocal(t testing.TB, c *loopmq.Caller, o loopmq.LocalOptions, room func() bool) (*local, error) {
	t.Helper()
	l := &local{t: t, given: make(chan given, 1000), closed: make(chan error, 1), room: room}
	lc, err := c.Connect(t.Context(), o, loopmq.LocalHandler{
		OnMessage: func(m *loopmq.MessageView, id loopmq.DeliveryID, dup bool) bool {
			if l.room != nil && !l.room() {
				return false
			}
			l.given <- given{string(m.TopicName), string(m.Payload), m.QoS, id, dup, m.Retain}
			return true
		},
		OnClosed: func(err error) { l.closed <- err },
	})
	l.LocalClient = lc
	return l, err
}

func mustLocal(t testing.TB, s *brokertest.Server, o loopmq.LocalOptions) *local {
	t.Helper()
	l, err := tryLocal(t, caller(t, s, ""), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func (l *local) subscribe(topicFilter string, qos byte) {
	l.t.Helper()
	reasons, err := l.Subscribe(l.t.Context(), []store.Subscription{{TopicFilter: topicFilter, Options: codec.SubscriptionOptions{QoS: qos}}})
	if err != nil || !slices.Equal(reasons, []codec.ReasonCode{codec.ReasonCode(qos)}) {
		l.t.Fatalf("Subscribe(%q, %d): %v, %v", topicFilter, qos, reasons, err)
	}
}

func (l *local) expect(payload string) given {
	l.t.Helper()
	g := receive(l.t, payload, l.given)
	if g.payload != payload {
		l.t.Fatalf("got %+v, want %q", g, payload)
	}
	return g
}

func (l *local) expectClosed(reason codec.ReasonCode) {
	l.t.Helper()
	var e *codec.Error
	if err := receive(l.t, "OnClosed", l.closed); !errors.As(err, &e) || e.ReasonCode != reason {
		l.t.Fatalf("closed with %v, want %v", err, reason)
	}
}

// A LocalClient without a durable session is given what matches, within its window.
func TestLocalClient(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("a/retained", "r", 1, brokertest.Retained)
	l := mustLocal(t, s, loopmq.LocalOptions{ClientID: "l", ReceiveMaximum: 2})
	if l.SessionPresent() || l.ClientID() != "l" || l.ReceiveMaximum() != 2 {
		t.Errorf("got %v, %q, %d", l.SessionPresent(), l.ClientID(), l.ReceiveMaximum())
	}
	l.subscribe("a/+", 2)
	if g := l.expect("r"); !g.retain || g.qos != 1 {
		t.Errorf("retained: got %+v", g)
	} else {
		l.Acknowledge(g.id)
	}
	pub.Publish("a/b", "0", 0)
	if g := l.expect("0"); !g.id.IsZero() || g.retain || g.topic != "a/b" {
		t.Errorf("QoS 0: got %+v", g)
	}
	for i := 1; i <= 4; i++ {
		pub.Publish("a/b", fmt.Sprint(i), byte(1+i%2))
	}
	first, second := l.expect("1"), l.expect("2")
	pub.Publish("a/b", "QoS 0 isn't held up", 0)
	l.expect("QoS 0 isn't held up") // so 3 and 4 wait
	l.Acknowledge(second.id)
	l.expect("3")
	l.Acknowledge(first.id, first.id, loopmq.DeliveryID{})
	fourth := l.expect("4")
	l.AcknowledgeUpTo(fourth.id)
	pub.Publish("a/b", "5", 1)
	pub.Publish("a/b", "6", 1)
	l.expect("5")
	l.expect("6")
	if got := l.TopicFilters(); !slices.Equal(got, []string{"a/+"}) {
		t.Errorf("TopicFilters: got %q", got)
	}
	if reasons, err := l.Unsubscribe(t.Context(), "a/+", "b"); err != nil || !slices.Equal(reasons, []codec.ReasonCode{0, codec.NoSubscriptionExisted}) {
		t.Errorf("Unsubscribe: %v, %v", reasons, err)
	}
	if m := pub.Publish("a/b", "7", 1); m == 0 {
		t.Error("no Packet Identifier")
	}
	if n := s.Broker.Health(); n.Connections != 2 || n.Sessions != 2 {
		t.Errorf("Health: %+v", n)
	}
	l.Close()
	l.expectClosed(codec.NormalDisconnection)
	eventually(t, "its session has ended", func() bool { return s.Broker.Health().Sessions == 1 })
	if _, err := l.Subscribe(t.Context(), []store.Subscription{{TopicFilter: "a"}}); err == nil {
		t.Error("Subscribe after Close: no error")
	}
	if len(l.given) > 0 {
		t.Errorf("it was given %+v too", <-l.given)
	}
}

// What a durable LocalClient hasn't acknowledged comes again at its next connection, unless that says how far it got.
func TestLocalClientResumes(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			o := loopmq.LocalOptions{ClientID: "l", SessionExpiryInterval: 60}
			l := mustLocal(t, s, o)
			l.subscribe("t", qos)
			var ids []loopmq.DeliveryID
			for i := range 4 {
				pub.Publish("t", fmt.Sprint(i), qos)
				ids = append(ids, l.expect(fmt.Sprint(i)).id)
			}
			l.Acknowledge(ids[2]) // out of order
			pub.Publish("t", "4", qos)
			l.expect("4")
			l.Close()
			l.expectClosed(codec.NormalDisconnection)
			pub.Publish("t", "5", qos)

			l = mustLocal(t, s, o)
			if !l.SessionPresent() {
				t.Error("Session Present: got 0")
			}
			for _, i := range []int{0, 1, 3, 4, 5} {
				if g := l.expect(fmt.Sprint(i)); g.dup != (i < 5) || i < 4 && g.id != ids[i] {
					t.Errorf("%d: got %+v", i, g)
				}
			}
			l.Close()
			l.expectClosed(codec.NormalDisconnection)

			var err error
			if o.Acknowledged, err = loopmq.ParseDeliveryID(ids[3].String()); err != nil || o.Acknowledged != ids[3] {
				t.Fatalf("ParseDeliveryID: %v, %v", o.Acknowledged, err)
			}
			l = mustLocal(t, s, o)
			l.expect("4")
			last := l.expect("5")
			l.AcknowledgeUpTo(last.id)
			pub.Publish("t", "6", qos)
			l.expect("6")
			l.Close()
			l.expectClosed(codec.NormalDisconnection)

			o.CleanStart = true // another session: the ID means nothing there
			o.Acknowledged = last.id
			l = mustLocal(t, s, o)
			l.subscribe("t", qos)
			pub.Publish("t", "new", qos)
			l.expect("new")
			l.End()
			l.expectClosed(codec.NormalDisconnection)
			eventually(t, "its session has ended", func() bool { return s.Broker.Health().Sessions == 1 })
			expectMetric(t, s.Broker, "loopmq_queued_messages", 0)
		})
	}
}

// Who has no room is given QoS 1 again after Ready, and QoS 0 not at all.
func TestLocalClientWithoutRoom(t *testing.T) {
	t.Parallel()
	for _, expiry := range []uint32{0, 60} {
		t.Run(fmt.Sprint("expiry ", expiry), func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			var mu sync.Mutex
			room := true
			setRoom := func(b bool) { mu.Lock(); room = b; mu.Unlock() }
			l, err := tryLocal(t, caller(t, s, ""), loopmq.LocalOptions{ClientID: "l", SessionExpiryInterval: expiry}, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return room
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			l.subscribe("t", 1)
			setRoom(false)
			pub.Publish("t", "0", 0)
			pub.Publish("t", "1", 1)
			pub.Publish("t", "2", 1)
			pub.Ping()
			expectMetric(t, s.Broker, `loopmq_messages_dropped_total{qos="0",reason="output_full"}`, 1)
			setRoom(true)
			l.Ready()
			l.expect("1")
			l.expect("2")
		})
	}
}

// A ClientID has one connection, whatever it is made of.
func TestLocalClientTakeover(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		o := loopmq.LocalOptions{ClientID: "c", SessionExpiryInterval: 60}
		first := mustLocal(n.T, n.servers[0], o)
		first.subscribe("t", 1)
		pub.Publish("t", "1", 1)
		acked := first.expect("1")
		pub.Publish("t", "2", 1)
		first.expect("2")

		o.Acknowledged = acked.id
		second := mustLocal(n.T, n.servers[1], o)
		first.expectClosed(codec.SessionTakenOver)
		if !second.SessionPresent() || !second.expect("2").dup {
			n.Error("the session doesn't go on")
		}
		third := brokertest.Dial(n.T, n.addr(0), codec.V5)
		if !third.Connect(brokertest.Durable("c")).SessionPresent {
			n.Error("Session Present: got 0")
		}
		second.expectClosed(codec.SessionTakenOver)
		third.Acknowledge(third.ExpectPublish("t", "2"))
		fourth := mustLocal(n.T, n.servers[0], o)
		third.ExpectDisconnect(codec.SessionTakenOver)
		pub.Publish("t", "3", 1)
		fourth.expect("3")
		if err := n.servers[1].Broker.Kick(n.Context(), "c"); err != nil {
			n.Error(err)
		}
		fourth.expectClosed(codec.AdministrativeAction)
	})
}

// A LocalClient is refused what another client would be.
func TestLocalClientRefused(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer = localRules{} })
	c := caller(t, s, "u")
	if _, err := tryLocal(t, c, loopmq.LocalOptions{}, nil); err == nil {
		t.Error("without a ClientID: no error")
	}
	l, err := tryLocal(t, c, loopmq.LocalOptions{ClientID: "l"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := l.Subscribe(t.Context(), []store.Subscription{{TopicFilter: "secret"}, {TopicFilter: "t"}})
	if err != nil || !slices.Equal(reasons, []codec.ReasonCode{codec.NotAuthorized, 0}) {
		t.Errorf("Subscribe: %v, %v", reasons, err)
	}
	if _, err := l.Subscribe(t.Context(), []store.Subscription{{TopicFilter: "a#"}}); !errors.Is(err, loopmq.ErrTopicFilter) {
		t.Errorf("Subscribe: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Subscribe(ctx, []store.Subscription{{TopicFilter: "b"}}); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("Subscribe: %v", err)
	}
	l2, err := tryLocal(t, c, loopmq.LocalOptions{ClientID: "l2"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Broker.DisconnectWhere(func(c *loopmq.ClientInfo) bool {
		return c.ClientID == "l2" && c.Username == "u" && c.Listener == "test" && c.RemoteAddr().String() == "127.0.0.1:4711"
	}, codec.Banned); n != 1 {
		t.Errorf("DisconnectWhere: %d", n)
	}
	l2.expectClosed(codec.Banned)
	l3, err := tryLocal(t, c, loopmq.LocalOptions{ClientID: "l3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Broker.Drain(ctx, loopmq.DrainOptions{}); err != nil {
		t.Error(err)
	}
	l3.expectClosed(codec.ServerShuttingDown)
	if _, err := tryLocal(t, c, loopmq.LocalOptions{ClientID: "l"}, nil); err == nil {
		t.Error("after Drain: no error")
	}
}

// localRules allow everything but the topic "secret".
type localRules struct{}

func (localRules) Authorize(_ context.Context, _ *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	return topic != "secret"
}

func FuzzParseDeliveryID(f *testing.F) {
	for _, s := range []string{"", "1-2-3", "0-0-0", "ffffffffffffffff-1-a", "1-2", "1-2-3-4", "+1-2-3", "g-1-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := loopmq.ParseDeliveryID(s)
		if err != nil {
			return
		}
		again, err := loopmq.ParseDeliveryID(id.String())
		if err != nil || again != id || string(id.Append(nil)) != id.String() {
			t.Errorf("%q: %v, then %v, %v", s, id, again, err)
		}
	})
}

// Nobody has the ClientID of a LocalClient by a Network Connection.
func TestLocalClientIDsAreReserved(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	mustLocal(t, s, loopmq.LocalOptions{ClientID: loopmq.LocalClientIDs + "l"})
	for _, v := range []codec.Version{codec.V311, codec.V5} {
		c := brokertest.Dial(t, s.Addr, v)
		c.SendConnect(brokertest.ClientID(loopmq.LocalClientIDs + "l"))
		if v == codec.V5 {
			c.ExpectConnack(codec.ClientIdentifierNotValid)
		} else {
			c.ExpectConnack(2)
		}
		c.ExpectClosed()
	}
}

// Who doesn't acknowledge is told when that holds up what follows: its window, or retained messages for its session.
func TestLocalClientWindowFull(t *testing.T) {
	t.Parallel()
	for _, expiry := range []uint32{0, 60} {
		t.Run(fmt.Sprint("expiry ", expiry), func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.QueueMessages = 40 }) // ten retained messages are ahead
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			const retained = 30
			for i := range retained {
				pub.Publish(fmt.Sprint("r/", i), "r", 1, brokertest.Retained)
			}
			var last loopmq.DeliveryID
			full, ids := make(chan struct{}, 1), make(chan loopmq.DeliveryID, 100)
			l, err := caller(t, s, "").Connect(t.Context(), loopmq.LocalOptions{ClientID: "l", SessionExpiryInterval: expiry, ReceiveMaximum: 15}, loopmq.LocalHandler{
				OnMessage: func(_ *loopmq.MessageView, id loopmq.DeliveryID, _ bool) bool { ids <- id; return true },
				OnWindowFull: func() {
					select {
					case full <- struct{}{}:
					default:
					}
				},
				OnClosed: func(error) {},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if _, err := l.Subscribe(t.Context(), []store.Subscription{{TopicFilter: "r/+", Options: codec.SubscriptionOptions{QoS: 1}}, {TopicFilter: "t", Options: codec.SubscriptionOptions{QoS: 1}}}); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				pub.Publish("t", fmt.Sprint(i), 1)
			}
			for got := 0; got < retained+20; { // acknowledged only when it is told
				select {
				case id := <-ids:
					got++
					last = id
					continue
				default:
				}
				select {
				case id := <-ids:
					got++
					last = id
				case <-full:
					l.AcknowledgeUpTo(last)
				case <-time.After(patience):
					t.Fatalf("it stops after %d messages", got)
				}
			}
		})
	}
}
