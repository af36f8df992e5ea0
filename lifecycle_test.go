package loopmq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

func TestNewRefusesOptions(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*loopmq.Options){
		"Options.Store":                    func(o *loopmq.Options) { o.Store = nil },
		"Options.Loops":                    func(o *loopmq.Options) { o.Loops = -1 },
		"Options.Limits.PacketSize":        func(o *loopmq.Options) { o.Limits.PacketSize = 10 },
		"Options.Limits.ReceiveMaximum":    func(o *loopmq.Options) { o.Limits.ReceiveMaximum = 65536 },
		"Options.Limits.Inflight":          func(o *loopmq.Options) { o.Limits.Inflight = -1 },
		"Options.Limits.OutputBytes":       func(o *loopmq.Options) { o.Limits.OutputBytes = 1 },
		"Options.Limits.MailboxMessages":   func(o *loopmq.Options) { o.Limits.MailboxMessages = -5 },
		"Options.Limits.TopicAliasMaximum": func(o *loopmq.Options) { o.Limits.TopicAliasMaximum = 65536 },
	} {
		o := loopmq.Options{Store: newMemory(t)}
		change(&o)
		if _, err := loopmq.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one about %s", err, want)
		}
	}
}

// A broker that isn't running yet, or any more, says so.
func TestReadyAndHealth(t *testing.T) {
	t.Parallel()
	b, err := loopmq.New(loopmq.Options{Store: newMemory(t), Logger: slog.New(slog.DiscardHandler), SysInterval: -1, Version: "v1", NodeID: "node"})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(status, reason string) {
		t.Helper()
		h := b.Health()
		if h.Status != status || h.Reason != reason || h.Version != "v1" || h.Node != "node" || h.UptimeSeconds < 0 {
			t.Errorf("got %+v, want %s because %q", h, status, reason)
		}
		if err := b.Ready(); (err == nil) != (status == "ok") || err != nil && err.Error() != reason {
			t.Errorf("Ready: got %v, want %q", err, reason)
		}
	}
	expect("stopped", "not started")
	if _, err := b.Publish(t.Context(), loopmq.Message{TopicName: "t"}); !errors.Is(err, loopmq.ErrNotRunning) {
		t.Errorf("Publish: got %v", err)
	}
	if _, err := b.Subscribe("t", func(*loopmq.MessageView) {}); !errors.Is(err, loopmq.ErrNotRunning) {
		t.Errorf("Subscribe: got %v", err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	expect("ok", "")
	addr, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	c := brokertest.Connect(t, addr.String(), codec.V5)
	c.Subscribe("t", 1)
	c.Publish("r", "", 0, brokertest.Retained)
	c.Publish("r", "x", 1, brokertest.Retained)
	if h := b.Health(); h.Connections != 1 || h.Sessions != 1 || h.Subscriptions != 1 || h.Retained != 1 {
		t.Errorf("got %+v, want one of each", h)
	}
	ctx, cancel := context.WithTimeout(t.Context(), brokertest.Timeout)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	expect("stopped", "shutting down")
	if err := b.Shutdown(ctx); err == nil {
		t.Error("a second Shutdown returns no error")
	}
	if _, err := b.Publish(t.Context(), loopmq.Message{TopicName: "t"}); !errors.Is(err, loopmq.ErrNotRunning) {
		t.Errorf("Publish: got %v", err)
	}
	if _, err := b.Subscribe("t", func(*loopmq.MessageView) {}); !errors.Is(err, loopmq.ErrNotRunning) {
		t.Errorf("Subscribe: got %v", err)
	}
	if err := b.Kick(t.Context(), c.ClientID); err == nil {
		t.Error("Kick returns no error")
	}
}

// A broker that was never started can be shut down.
func TestShutdownWithoutStart(t *testing.T) {
	t.Parallel()
	b, err := loopmq.New(loopmq.Options{Store: newMemory(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// What the store holds when a broker starts is there as if it had never been away: sessions with their subscriptions, what waits in their
// queues, retained messages.
func TestStartRestoresWhatTheStoreHolds(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = m })
	const n = 1100 // more than one page
	for i := range n {
		if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: fmt.Sprintf("r/%d", i), Payload: []byte("r"), QoS: 1, Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable(fmt.Sprintf("c%d", i)))
		c.Subscribe("t", 2, withIdentifier(i+1))
		c.Disconnect()
	}
	brokertest.Connect(t, s.Addr, codec.V5).Publish("t", "before", 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = brokertest.Start(t, func(o *loopmq.Options) { o.Store = m })
	if h := s.Broker.Health(); h.Sessions != 3 || h.Subscriptions != 3 || h.Retained != n {
		t.Errorf("got %+v", h)
	}
	brokertest.Connect(t, s.Addr, codec.V5).Publish("t", "after", 1)
	for i := range 3 {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		if p := c.Connect(brokertest.Durable(fmt.Sprintf("c%d", i))); !p.SessionPresent {
			t.Errorf("got %s", brokertest.Describe(p))
		}
		for _, payload := range []string{"before", "after"} {
			p := c.ExpectPublish("t", payload)
			if fmt.Sprint(p.Properties.SubscriptionIdentifiers) != fmt.Sprintf("[%d]", i+1) {
				t.Errorf("got identifiers %v", p.Properties.SubscriptionIdentifiers)
			}
			c.Acknowledge(p)
		}
	}
	late := brokertest.Connect(t, s.Addr, codec.V5)
	late.Subscribe("r/+", 0)
	payloads(t, late, n)
}

// A store that can't be read at the start is an error, not an empty broker.
func TestStartFailsWithoutStore(t *testing.T) {
	t.Parallel()
	m := memory.New(memory.Options{})
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := loopmq.New(loopmq.Options{Store: m})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Start: got %v", err)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// 5.0 clients are told that the server stops, others are disconnected; those who want to connect meanwhile are refused; and nothing that
// was acknowledged is lost.
func TestShutdown(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = m })
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	sub.Subscribe("t", 1)
	sub.Disconnect()
	v5, v3 := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V311)
	silent := brokertest.Dial(t, s.Addr, codec.V5)

	const publishers = 4
	acked := make(chan int, 100_000)
	var wg sync.WaitGroup
	for i := range publishers {
		c := rawConnect(t, s.Addr, fmt.Sprintf("pub%d", i))
		wg.Go(func() {
			for n := i; ; n += publishers {
				p := codec.Publish{TopicName: []byte("t"), Payload: []byte(fmt.Sprint(n)), QoS: 1, PacketID: uint16(1 + n%60000)}
				c.write(p.Append(nil, codec.V5))
				if h, _ := c.read(); h.Type != codec.TypePuback {
					return
				}
				acked <- n
			}
		})
	}
	for range 100 {
		receive(t, "a PUBACK", acked)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	v5.ExpectDisconnect(codec.ServerShuttingDown)
	v3.ExpectClosed()
	silent.ExpectClosed()

	close(acked)
	total := 100
	for range acked {
		total++
	}
	s = brokertest.Start(t, func(o *loopmq.Options) { o.Store = m })
	sub = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	seen := make(map[string]bool)
	for {
		sub.Send(brokertest.Pingreq{})
		p, ok := sub.Receive().(*codec.Publish)
		if !ok {
			break
		}
		seen[string(p.Payload)] = true
		sub.Send(&codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID})
	}
	eventually(t, "the rest", func() bool {
		sub.Send(brokertest.Pingreq{})
		for {
			p, ok := sub.Receive().(*codec.Publish)
			if !ok {
				return len(seen) >= total
			}
			seen[string(p.Payload)] = true
		}
	})
}

// Shutdown keeps to its context when the store, an Authenticator or an Authorizer hangs.
func TestShutdownWithHangingParts(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]func(t *testing.T, s *brokertest.Server, f *faultyStore, g *gate){
		"commit": func(t *testing.T, s *brokertest.Server, f *faultyStore, _ *gate) {
			c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
			c.Subscribe("t", 1)
			t.Cleanup(f.hold())
			c.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1})
			c.Ping()
		},
		"Authenticator": func(t *testing.T, s *brokertest.Server, _ *faultyStore, g *gate) {
			brokertest.Dial(t, s.Addr, codec.V5).SendConnect(brokertest.ClientID("slow"))
			receive(t, "a call of Authenticate", g.waiting)
		},
		"Authorizer": func(t *testing.T, s *brokertest.Server, _ *faultyStore, g *gate) {
			brokertest.Connect(t, s.Addr, codec.V5).Publish("slow", "", 0)
			receive(t, "a call of Authorize", g.waiting)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(func(name string) bool { return name == "slow" })
			f := &faultyStore{Store: newMemory(t)}
			b, err := loopmq.New(loopmq.Options{Store: f, Logger: slog.New(slog.DiscardHandler), SysInterval: -1, Authenticator: g, Authorizer: g})
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Start(); err != nil {
				t.Fatal(err)
			}
			addr, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { close(g.open) })
			hang(t, &brokertest.Server{Broker: b, Addr: addr.String()}, f, g)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			begin := time.Now()
			if err := b.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown: got %v", err)
			}
			if took := time.Since(begin); took > patience {
				t.Errorf("Shutdown took %v", took)
			}
		})
	}
}

// Clients connect, publish and leave while the broker stops, at random moments. It stops cleanly each time.
func TestShutdownInTheMiddle(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		s := brokertest.Start(t)
		b := s.Broker
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var lives atomic.Int32
		for i := range 6 {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					shortLife(s.Addr, fmt.Sprintf("c%d", i%3), n%3) // two share a ClientID
					lives.Add(1)
				}
			})
		}
		wg.Go(func() {
			for {
				if _, err := b.Publish(context.Background(), loopmq.Message{TopicName: "t", QoS: 1}); err != nil {
					return
				}
			}
		})
		eventually(t, "some traffic", func() bool { return lives.Load() > int32(5*round) })
		err := s.Close()
		close(stop)
		wg.Wait()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// shortLife connects, does something, and leaves without waiting.
func shortLife(addr, clientID string, kind int) {
	c := &rawClient{}
	if c.conn, c.err = dial(addr); c.err != nil {
		return
	}
	defer func() { _ = c.conn.Close() }()
	p := &codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, ClientID: []byte(clientID)}
	if kind > 0 {
		brokertest.Durable(clientID)(p)
	}
	sub := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("t", 1), brokertest.Subscription("$share/g/t", 1)}}
	pub := codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1}
	c.write(pub.Append(sub.Append(p.Append(nil, codec.V5), codec.V5), codec.V5))
	for range kind {
		c.read()
	}
}

// Kick ends a connection and leaves the session.
func TestKick(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	v5, v3 := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("v5")), brokertest.Connect(t, s.Addr, codec.V311, brokertest.ClientID("v3"))
	for _, id := range []string{"v5", "v3"} {
		if err := s.Broker.Kick(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	v5.ExpectDisconnect(codec.AdministrativeAction)
	v3.ExpectClosed()
	for _, id := range []string{"v5", "v3", "nobody"} {
		if err := s.Broker.Kick(t.Context(), id); !errors.Is(err, loopmq.ErrNoClient) {
			t.Errorf("%s: got %v", id, err)
		}
	}
	again := brokertest.Dial(t, s.Addr, codec.V5)
	if !again.Connect(brokertest.Durable("v5")).SessionPresent {
		t.Error("the session has gone")
	}
	expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="administrative"}`, 2)
}

// Broker.Publish is what a client's PUBLISH is: it reaches everybody, with all properties, and returns when it is stored.
func TestBrokerPublish(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t)
	durable, live := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("d")), brokertest.Connect(t, s.Addr, codec.V5)
	durable.Subscribe("t", 2)
	live.Subscribe("t", 1)
	m := loopmq.Message{
		TopicName: "t", Payload: []byte("p"), QoS: 2, Retain: true, MessageExpiryInterval: 60, PayloadFormatIndicator: 1,
		ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte("d"),
		UserProperties: []loopmq.UserProperty{{Key: "k", Value: "v"}, {Key: "k", Value: "w"}},
	}
	if n, err := s.Broker.Publish(t.Context(), m); n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	for qos, c := range map[byte]*brokertest.Client{2: durable, 1: live} {
		p := c.ExpectPublish("t", "p")
		c.Acknowledge(p)
		props := &p.Properties
		if p.QoS != qos || props.MessageExpiryInterval != 60 || props.PayloadFormatIndicator != 1 || string(props.ContentType) != "text/plain" ||
			string(props.ResponseTopic) != "r" || string(props.CorrelationData) != "d" || len(props.UserProperties) != 2 ||
			string(props.UserProperties[1].Value) != "w" {
			t.Errorf("got %s with %+v", brokertest.Describe(p), *props)
		}
	}
	expectMetric(t, s.Broker, "loopmq_retained_messages", 1)
	if n, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "nobody"}); n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}

	for want, m := range map[error]loopmq.Message{
		loopmq.ErrTopicName: {TopicName: "a/+"},
		loopmq.ErrQoS:       {TopicName: "a", QoS: 3},
		loopmq.ErrTooLarge:  {TopicName: "a", Payload: make([]byte, 4<<20)},
	} {
		if _, err := s.Broker.Publish(t.Context(), m); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	release := f.hold()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Broker.Publish(ctx, loopmq.Message{TopicName: "t", QoS: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	release()
	durable.ExpectPublish("t", "")
	f.failCommits(func(*store.Batch) bool { return true })
	if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "t", QoS: 1}); !errors.Is(err, loopmq.ErrNotStored) {
		t.Errorf("got %v", err)
	}
	if h := s.Broker.Health(); h.Status != "degraded" || !strings.Contains(h.Reason, errInjected.Error()) {
		t.Errorf("got %+v", h)
	}
	if err := s.Broker.Ready(); err != nil { // it serves what needs no store
		t.Error(err)
	}
	f.failCommits(nil)
	if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "t", QoS: 1}); err != nil {
		t.Error(err)
	}
	if h := s.Broker.Health(); h.Status != "ok" {
		t.Errorf("got %+v", h)
	}
}

// Broker.Subscribe gets what clients would, the retained messages first, until it is cancelled.
func TestBrokerSubscribe(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("t/r", "retained", 1, brokertest.Retained)
	for _, filter := range []string{"", "a/#/b", "$share//x", "$share/n"} {
		if _, err := s.Broker.Subscribe(filter, func(*loopmq.MessageView) {}); !errors.Is(err, loopmq.ErrTopicFilter) {
			t.Errorf("%q: got %v", filter, err)
		}
	}
	got := make(chan string, 100)
	cancel, err := s.Broker.Subscribe("t/#", func(m *loopmq.MessageView) { got <- message(m) })
	if err != nil {
		t.Fatal(err)
	}
	for qos := range byte(3) {
		pub.Publish("t/live", fmt.Sprint(qos), qos, func(p *codec.Publish) { p.Properties = brokertest.Properties(codec.PropContentType, "c") })
	}
	for _, want := range []string{"t/r retained qos1 retain", "t/live 0 qos0 type c", "t/live 1 qos1 type c", "t/live 2 qos2 type c"} {
		if m := receive(t, want, got); m != want {
			t.Errorf("got %q, want %q", m, want)
		}
	}
	cancel()
	cancel() // does nothing more
	pub.Publish("t/live", "", 1)
	expectMetric(t, s.Broker, "loopmq_subscriptions", 0)
	expectCountersAddUp(t, s.Broker, [3]float64{})
	if len(got) > 0 {
		t.Errorf("got %q after cancel", <-got)
	}
}

func TestClients(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.NodeID = "node" })
	for _, id := range []string{"b", "d", "a", "c"} {
		brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(id))
	}
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("offline")).Disconnect()
	eventually(t, "the fifth is offline", func() bool {
		c, err := s.Broker.Client(t.Context(), "offline")
		return err == nil && !c.Connected
	})
	for _, tt := range []struct {
		after string
		limit int
		want  string
	}{{"", 10, "abcd"}, {"", 1, "a"}, {"a", 2, "bc"}, {"d", 5, ""}, {"", 0, "abcd"}} {
		page, err := s.Broker.Clients(t.Context(), loopmq.ClientFilter{Connected: true}, tt.after, tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, c := range page.Clients {
			got += c.ClientID
			if c.Node != "node" || c.Durable {
				t.Errorf("got %+v", c)
			}
		}
		if got != tt.want {
			t.Errorf("%d after %q: got %q, want %q", tt.limit, tt.after, got, tt.want)
		}
	}
}
