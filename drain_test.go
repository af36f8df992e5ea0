package loopmq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// drain drains the server in the background, and returns once Ready fails.
func drain(t *testing.T, s *brokertest.Server, o loopmq.DrainOptions) (done chan error) {
	t.Helper()
	done = make(chan error, 1)
	go func() { done <- s.Broker.Drain(t.Context(), o) }()
	eventually(t, "it says that it isn't ready", func() bool { return s.Broker.Ready() != nil })
	return done
}

// While it waits, a broker that drains goes on with everything; then each client learns where to go, and nobody can connect.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	v3 := brokertest.Connect(t, s.Addr, codec.V311)
	v5 := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("d"), brokertest.Will("will", "now", 1, false))
	delayed := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("e"), brokertest.Will("will", "later", 1, false, codec.PropWillDelayInterval, 30))
	v5.Subscribe("t", 1)
	wills := make(chan string, 10)
	if _, err := s.Broker.Subscribe("will", func(m *loopmq.MessageView) { wills <- string(m.Payload) }); err != nil {
		t.Fatal(err)
	}

	done := drain(t, s, loopmq.DrainOptions{Wait: 3 * time.Second, ServerReference: "other.example:1883"})
	late := brokertest.Connect(t, s.Addr, codec.V5)
	late.Publish("t", "m", 1)
	v5.ExpectPublish("t", "m")
	if err := receive(t, "the end of the drain", done); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*brokertest.Client{v5, delayed, late} {
		if p := c.ExpectDisconnect(codec.UseAnotherServer); string(p.Properties.ServerReference) != "other.example:1883" {
			t.Errorf("Server Reference %q", p.Properties.ServerReference)
		}
	}
	v3.ExpectClosed()
	if conn, err := net.Dial("tcp", s.Addr); err == nil {
		_ = conn.Close()
		t.Error("it still listens")
	}
	if got := receive(t, "the Will", wills); got != "now" {
		t.Errorf("the Will %q, want the one without a delay", got)
	}
	if n := len(wills); n > 0 {
		t.Errorf("%d more Wills", n)
	}
	expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="server_shutdown"}`, 4)
}

// Clients leave no faster than they are to, and those who ask in between are told where to go.
func TestDrainRate(t *testing.T) {
	t.Parallel()
	const clients, rate = 30, 60
	s := brokertest.Start(t)
	var connected []*brokertest.Client
	for range clients {
		connected = append(connected, brokertest.Connect(t, s.Addr, codec.V5))
	}
	begin := time.Now()
	done := drain(t, s, loopmq.DrainOptions{Rate: rate})
	var mu sync.Mutex
	var ended []time.Duration
	var reading sync.WaitGroup
	for _, c := range connected {
		reading.Go(func() {
			c.ReceiveOrClosed()
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, time.Since(begin))
		})
	}
	reading.Wait()
	if err := receive(t, "the end of the drain", done); err != nil {
		t.Fatal(err)
	}
	for i, after := range ended { // in the order in which they ended
		if least := time.Duration(i-1) * time.Second / rate; after < least {
			t.Errorf("client %d is disconnected after %v, want %v at least", i+1, after, least)
		}
	}
}

// A CONNECT that comes while others are being disconnected is refused, with a reference.
func TestDrainRefusesConnect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		version   codec.Version
		reference string
		want      string
	}{
		{codec.V5, "other", "0x9C other"}, {codec.V5, "", "0x88 "}, {codec.V311, "other", "0x03 "},
	} {
		t.Run(fmt.Sprint(tt.version, tt.reference), func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			var silent []*brokertest.Client
			for range 30 {
				silent = append(silent, brokertest.Dial(t, s.Addr, tt.version))
			}
			expectMetric(t, s.Broker, "loopmq_connections", 30)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Broker.Drain(ctx, loopmq.DrainOptions{Rate: 1, ServerReference: tt.reference}) }()
			expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="server_shutdown"}`, 1)
			refused := 0
			for _, c := range silent {
				c.SendConnect()
			}
			for _, c := range silent {
				p, ok := c.ReceiveOrClosed().(*codec.Connack)
				if !ok {
					continue
				}
				refused++
				if got := fmt.Sprintf("0x%02X %s", byte(p.ReasonCode), p.Properties.ServerReference); got != tt.want {
					t.Errorf("CONNACK %s, want %s", got, tt.want)
				}
			}
			if refused < 5 {
				t.Errorf("%d of 30 got a CONNACK", refused)
			}
			cancel()
			if err := receive(t, "the end of the drain", done); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// A drain that is given up leaves the rest to Shutdown.
func TestDrainGivenUp(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]loopmq.DrainOptions{
		"while it waits":      {Wait: time.Hour, ServerReference: "other"},
		"while clients leave": {Rate: 1, ServerReference: "other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t)
			var clients []*brokertest.Client
			for range 20 {
				clients = append(clients, brokertest.Connect(t, s.Addr, codec.V5))
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Broker.Drain(ctx, o) }()
			eventually(t, "it says that it isn't ready", func() bool { return s.Broker.Ready() != nil })
			cancel()
			if err := receive(t, "the end of the drain", done); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if n := s.Broker.Health().Connections; n == 0 {
				t.Error("nobody is left")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, c := range clients {
				c.ExpectDisconnect(codec.UseAnotherServer)
			}
		})
	}
}

func TestDrainOptions(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	for _, tt := range []struct {
		options loopmq.DrainOptions
		want    string
	}{
		{loopmq.DrainOptions{Wait: -1}, "DrainOptions.Wait is -1ns; allowed: 0 or more"},
		{loopmq.DrainOptions{Rate: -1}, "DrainOptions.Rate is -1; allowed: 0"},
		{loopmq.DrainOptions{ServerReference: "a\x00"}, "DrainOptions.ServerReference: allowed"},
		{loopmq.DrainOptions{ServerReference: strings.Repeat("a", 65536)}, "DrainOptions.ServerReference: allowed"},
	} {
		if err := s.Broker.Drain(t.Context(), tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.options, err, tt.want)
		}
	}
	if err := s.Broker.Ready(); err != nil {
		t.Errorf("after options that aren't allowed: %v", err)
	}
	if err := s.Broker.Drain(t.Context(), loopmq.DrainOptions{}); err != nil {
		t.Error(err)
	}
	if err := s.Broker.Drain(t.Context(), loopmq.DrainOptions{}); err == nil || !strings.Contains(err.Error(), "before") {
		t.Errorf("a second time: got %v", err)
	}
	b, err := loopmq.New(loopmq.Options{Store: newMemory(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Drain(t.Context(), loopmq.DrainOptions{}); !errors.Is(err, loopmq.ErrNotRunning) {
		t.Errorf("before Start: got %v", err)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
