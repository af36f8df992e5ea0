package loopmq_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// A client that acknowledges nothing gets all that its Receive Maximum lets
// through, though its output was full in between.
func TestFullOutputDoesNotCloseTheWindow(t *testing.T) {
	t.Parallel()
	const messages = 100
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.OutputBytes = 64 << 10 })
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("late"))
	sub.Subscribe("late", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	payload := strings.Repeat("x", 100_000)
	for i := range messages {
		pub.Publish("late", fmt.Sprint(i, " ", payload), 1)
	}
	for i := range messages {
		p := brokertest.Expect[*codec.Publish](sub)
		if got, _, _ := strings.Cut(string(p.Payload), " "); got != fmt.Sprint(i) {
			t.Fatalf("got message %s, want %d", got, i)
		}
	}
}

// The messages that one goroutine publishes arrive in their order, whichever
// loops it and the subscriber meet.
func TestPublishKeepsOrder(t *testing.T) {
	t.Parallel()
	const messages = 5000
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops = 2 })
	for _, publisher := range []string{"", "bridge"} {
		topic := "order/" + publisher
		var next, wrong atomic.Int64
		all := make(chan struct{})
		cancel, err := s.Broker.Subscribe(topic, func(m *loopmq.MessageView) {
			if string(m.Payload) != fmt.Sprint(next.Load()) {
				wrong.Add(1)
			}
			if next.Add(1) == messages {
				close(all)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range messages {
			m := loopmq.Message{TopicName: topic, Payload: fmt.Append(nil, i), PublisherID: publisher}
			if _, err := s.Broker.Publish(context.Background(), m); err != nil {
				t.Fatal(err)
			}
		}
		<-all
		cancel()
		if wrong.Load() != 0 {
			t.Errorf("publisher %q: %d of %d messages out of order", publisher, wrong.Load(), messages)
		}
	}
}
