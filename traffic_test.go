package loopmq_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/rate"
)

// withLimits starts a broker with some limits.
func withLimits(t *testing.T, change func(*loopmq.Limits)) *brokertest.Server {
	t.Helper()
	return brokertest.Start(t, func(o *loopmq.Options) { change(&o.Limits) })
}

const refusedMetric = `loopmq_connections_refused_total{reason=%q}`

// publishMany sends n PUBLISH packets of about size bytes at once, and a PINGREQ, and returns how long it takes until that is answered.
func publishMany(t *testing.T, c *brokertest.Client, n, size int) time.Duration {
	t.Helper()
	var b []byte
	for range n {
		b = (&codec.Publish{TopicName: []byte("t"), Payload: make([]byte, size)}).Append(b, codec.V5)
	}
	begin := time.Now()
	c.SendRaw(b)
	c.Ping()
	c.Ping() // what was read with the messages is answered with them
	return time.Since(begin)
}

// Whoever sends too much is read no faster than the rate allows, whosever limit it is, and loses nothing; others aren't held up by the
// limits of one.
func TestTrafficSlowsDown(t *testing.T) {
	t.Parallel()
	messages := loopmq.Traffic{MessageRate: rate.Limit{PerSecond: 100, Burst: 10}}
	bytes := loopmq.Traffic{ByteRate: rate.Limit{PerSecond: 100_000, Burst: 10_000}}
	for _, tt := range []struct {
		name, scope string
		limits      loopmq.Limits
		listener    loopmq.Quota
		size        int
	}{
		{"messages of a client", "client", loopmq.Limits{Client: messages}, loopmq.Quota{}, 0},
		{"bytes of a client", "client", loopmq.Limits{Client: bytes}, loopmq.Quota{}, 1000},
		{"messages of an address", "address", loopmq.Limits{Address: loopmq.Quota{Traffic: messages}}, loopmq.Quota{}, 0},
		{"bytes of an address", "address", loopmq.Limits{Address: loopmq.Quota{Traffic: bytes}}, loopmq.Quota{}, 1000},
		{"messages of a listener", "listener", loopmq.Limits{}, loopmq.Quota{Traffic: messages}, 0},
		{"bytes of a listener", "listener", loopmq.Limits{}, loopmq.Quota{Traffic: bytes}, 1000},
		{"messages of the node", "node", loopmq.Limits{Node: messages}, loopmq.Quota{}, 0},
		{"bytes of the node", "node", loopmq.Limits{Node: bytes}, loopmq.Quota{}, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := withLimits(t, func(l *loopmq.Limits) { *l = tt.limits })
			addr, err := s.Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", Limits: tt.listener})
			if err != nil {
				t.Fatal(err)
			}
			c := brokertest.Connect(t, addr.String(), codec.V5)
			const n = 60 // 10 at once, and 100 a second
			if took := publishMany(t, c, n, tt.size); took < 400*time.Millisecond {
				t.Errorf("%d messages took %v", n, took)
			}
			expectMetric(t, s.Broker, `loopmq_messages_received_total{qos="0"}`, n)
			if v := metricsOf(t, s.Broker)[fmt.Sprintf("loopmq_traffic_exceeded_total{scope=%q}", tt.scope)]; v == 0 {
				t.Error("it isn't counted")
			}
			if tt.scope == "client" || tt.scope == "listener" {
				flood := rawConnect(t, addr.String(), "flood")
				var b []byte
				for range 100 * n { // for a minute
					b = (&codec.Publish{TopicName: []byte("t"), Payload: make([]byte, tt.size)}).Append(b, codec.V5)
				}
				go flood.write(b)
				other := brokertest.Connect(t, s.Addr, codec.V5)
				for range 10 {
					other.Ping()
				}
				if got := metricsOf(t, s.Broker)[`loopmq_messages_received_total{qos="0"}`]; got >= 100*n {
					t.Error("another client has to wait until the flood is over")
				}
			}
		})
	}
}

func TestTrafficDisconnects(t *testing.T) {
	t.Parallel()
	for name, traffic := range map[string]loopmq.Traffic{
		"messages": {MessageRate: rate.Limit{PerSecond: 1, Burst: 5}, Policy: loopmq.DisconnectSender},
		"bytes":    {ByteRate: rate.Limit{PerSecond: 1, Burst: 500}, Policy: loopmq.DisconnectSender},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := withLimits(t, func(l *loopmq.Limits) { l.Client = traffic })
			v5, v3 := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V311)
			for version, c := range map[codec.Version]*brokertest.Client{codec.V5: v5, codec.V311: v3} {
				var b []byte
				for range 20 {
					b = (&codec.Publish{TopicName: []byte("t"), Payload: make([]byte, 100)}).Append(b, version)
				}
				c.SendRaw(b)
			}
			v5.ExpectDisconnect(codec.MessageRateTooHigh)
			v3.ExpectClosed()
			expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="rate_exceeded"}`, 2)
			expectMetric(t, s.Broker, `loopmq_traffic_exceeded_total{scope="client"}`, 2)
			if name == "messages" { // what is too much isn't passed on
				expectMetric(t, s.Broker, `loopmq_messages_received_total{qos="0"}`, 10)
			}
		})
	}
}

// Of one address only so many may connect: the others are told, and what doesn't ask is closed soon.
func TestAddressConnections(t *testing.T) {
	t.Parallel()
	s := withLimits(t, func(l *loopmq.Limits) { l.Address.Connections = 2 })
	first := brokertest.Connect(t, s.Addr, codec.V5)
	brokertest.Connect(t, s.Addr, codec.V311)
	for version, code := range map[codec.Version]codec.ReasonCode{codec.V5: codec.QuotaExceeded, codec.V311: 3} {
		c := brokertest.Dial(t, s.Addr, version)
		c.SendConnect()
		c.ExpectConnack(code)
		c.ExpectClosed()
	}
	expectMetric(t, s.Broker, fmt.Sprintf(refusedMetric, "address_limit"), 2)
	expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="refused"}`, 2)
	for range 16 { // that wait for their answer
		brokertest.Dial(t, s.Addr, codec.V5)
	}
	expectMetric(t, s.Broker, fmt.Sprintf(refusedMetric, "address_limit"), 18)
	brokertest.Dial(t, s.Addr, codec.V5).ExpectClosed() // at once
	expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="connect_timeout"}`, 16)

	first.Disconnect()
	eventually(t, "a place is free", func() bool {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect()
		p, ok := c.ReceiveOrClosed().(*codec.Connack)
		return ok && p.ReasonCode == codec.Success
	})
}

func TestAddressConnectionRate(t *testing.T) {
	t.Parallel()
	s := withLimits(t, func(l *loopmq.Limits) { l.Address.ConnectionRate = rate.Limit{PerSecond: 1, Burst: 3} })
	for range 3 {
		brokertest.Connect(t, s.Addr, codec.V5)
	}
	for version, code := range map[codec.Version]codec.ReasonCode{codec.V5: codec.ConnectionRateExceeded, codec.V311: 3} {
		eventually(t, "one is refused", func() bool { // it takes more where the machine is slow
			c := brokertest.Dial(t, s.Addr, version)
			c.SendConnect()
			p := brokertest.Expect[*codec.Connack](c)
			if p.ReasonCode == codec.Success {
				return false
			}
			if p.ReasonCode != code {
				t.Errorf("refused with 0x%02X, want 0x%02X", byte(p.ReasonCode), byte(code))
			}
			c.ExpectClosed()
			return true
		})
	}
	expectMetric(t, s.Broker, fmt.Sprintf(refusedMetric, "address_rate"), 2)
	eventually(t, "one more may", func() bool {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect()
		p, ok := c.ReceiveOrClosed().(*codec.Connack)
		return ok && p.ReasonCode == codec.Success
	})
}

// No more CONNECTs are decided on at one time than may be.
func TestConnects(t *testing.T) {
	t.Parallel()
	g := newGate(func(name string) bool { return strings.HasPrefix(name, "slow") })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator, o.Limits.Connects = g, 2 })
	var slow []*brokertest.Client
	for i := range 2 {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(brokertest.ClientID(fmt.Sprint("slow", i)))
		receive(t, "a call of Authenticate", g.waiting)
		slow = append(slow, c)
	}
	expectMetric(t, s.Broker, "loopmq_connects_pending", 2)
	for version, code := range map[codec.Version]codec.ReasonCode{codec.V5: codec.ServerBusy, codec.V311: 3} {
		c := brokertest.Dial(t, s.Addr, version)
		c.SendConnect()
		c.ExpectConnack(code)
		c.ExpectClosed()
	}
	expectMetric(t, s.Broker, fmt.Sprintf(refusedMetric, "too_many_connects"), 2)
	slow[0].Close() // one that gives up makes room
	expectMetric(t, s.Broker, "loopmq_connects_pending", 1)
	brokertest.Connect(t, s.Addr, codec.V5)
	close(g.open)
	slow[1].ExpectConnack(codec.Success)
	expectMetric(t, s.Broker, "loopmq_connects_pending", 0)
}

func TestListenerLimits(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	addr, err := s.Broker.Listen(loopmq.Listener{Name: "small", Address: "127.0.0.1:0", Limits: loopmq.Quota{Connections: 1}})
	if err != nil {
		t.Fatal(err)
	}
	brokertest.Connect(t, addr.String(), codec.V5)
	brokertest.Dial(t, addr.String(), codec.V5).ExpectClosed()
	brokertest.Connect(t, s.Addr, codec.V5)
	expectMetric(t, s.Broker, fmt.Sprintf(refusedMetric, "listener_limit"), 1)

	if err := s.Broker.SetListenerLimits("small", loopmq.Quota{Connections: 2, Traffic: loopmq.Traffic{
		MessageRate: rate.Limit{PerSecond: 1, Burst: 1}, Policy: loopmq.DisconnectSender,
	}}); err != nil {
		t.Fatal(err)
	}
	c := brokertest.Connect(t, addr.String(), codec.V5)
	c.Send(&codec.Publish{TopicName: []byte("t")}, &codec.Publish{TopicName: []byte("t")})
	c.ExpectDisconnect(codec.MessageRateTooHigh)
	expectMetric(t, s.Broker, `loopmq_traffic_exceeded_total{scope="listener"}`, 1)
}

// Limits change while the broker runs, for those who are connected too; what can't be changed is refused as a whole.
func TestSetLimits(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c := brokertest.Connect(t, s.Addr, codec.V5)
	if err := s.Broker.SetLimits(loopmq.Limits{
		Client:             loopmq.Traffic{MessageRate: rate.Limit{PerSecond: 1, Burst: 2}, Policy: loopmq.DisconnectSender},
		Connections:        2,
		TotalSubscriptions: 1, RetainedMessages: 1,
	}); err != nil {
		t.Fatal(err)
	}
	c.Publish("a", "r", 1, brokertest.Retained)
	c.Publish("b", "r", 1, brokertest.Retained)
	expectMetric(t, s.Broker, "loopmq_retained_messages", 1)
	expectMetric(t, s.Broker, "loopmq_retained_refused_total", 1)
	p := &codec.Publish{TopicName: []byte("t")}
	c.Send(p, p, p, p)
	c.ExpectDisconnect(codec.MessageRateTooHigh)
	eventually(t, "it has gone", func() bool { return metricsOf(t, s.Broker)["loopmq_connections"] == 0 })
	brokertest.Connect(t, s.Addr, codec.V5)
	brokertest.Connect(t, s.Addr, codec.V5)
	brokertest.Dial(t, s.Addr, codec.V5).ExpectClosed()
	expectMetric(t, s.Broker, fmt.Sprintf(refusedMetric, "limit"), 1)

	if err := s.Broker.SetLimits(loopmq.Limits{PacketSize: 1000}); err == nil || !strings.Contains(err.Error(), "can't be changed") {
		t.Errorf("another PacketSize: got %v", err)
	}
	for _, l := range []loopmq.Limits{
		{Client: loopmq.Traffic{MessageRate: rate.Limit{PerSecond: -1}}},
		{Address: loopmq.Quota{Connections: -1}},
		{Node: loopmq.Traffic{Policy: 9}},
		{PacketSize: 1},
	} {
		if err := s.Broker.SetLimits(l); err == nil || !strings.Contains(err.Error(), "allowed") {
			t.Errorf("%+v: got %v", l, err)
		}
	}
	wrong := loopmq.Quota{Connections: -1}
	if err := s.Broker.SetListenerLimits("x", wrong); err == nil {
		t.Error("SetListenerLimits took a negative limit")
	}
	if _, err := s.Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", Limits: wrong}); err == nil {
		t.Error("Listen took a negative limit")
	}
}

func TestSubscriptionLimits(t *testing.T) {
	t.Parallel()
	s := withLimits(t, func(l *loopmq.Limits) { l.Subscriptions, l.TotalSubscriptions = 2, 3 })
	for version, refused := range map[codec.Version]codec.ReasonCode{codec.V5: codec.QuotaExceeded, codec.V311: 0x80} {
		a, b := brokertest.Connect(t, s.Addr, version), brokertest.Connect(t, s.Addr, version)
		expect := func(c *brokertest.Client, filter string, code codec.ReasonCode) {
			t.Helper()
			id := c.PacketID()
			c.Send(&codec.Subscribe{PacketID: id, Subscriptions: []codec.Subscription{brokertest.Subscription(filter, 0)}})
			c.ExpectSuback(id, code)
		}
		expect(a, "1", 0)
		expect(a, "2", 0)
		expect(a, "3", refused) // of the session
		expect(b, "1", 0)
		expect(b, "2", refused) // of all
		expect(b, "1", 0)       // there already
		a.Disconnect()
		b.Disconnect()
		expectMetric(t, s.Broker, "loopmq_subscriptions", 0)
	}
	expectMetric(t, s.Broker, `loopmq_subscriptions_refused_total{scope="client"}`, 2)
	expectMetric(t, s.Broker, `loopmq_subscriptions_refused_total{scope="node"}`, 2)
}

// A Keep Alive doesn't run out while the broker doesn't read.
func TestSlowedDownIsAlive(t *testing.T) {
	t.Parallel()
	s := withLimits(t, func(l *loopmq.Limits) { l.Client.MessageRate = rate.Limit{PerSecond: 2, Burst: 1} })
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.KeepAlive(2))
	if took := publishMany(t, c, 10, 0); took < 4*time.Second { // and 3 s of silence are the end
		t.Errorf("it took %v", took)
	}
}
