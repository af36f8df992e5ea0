package loopmq_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// publishTo publishes numbered messages at QoS 1.
func publishTo(t testing.TB, s *brokertest.Server, topic string, n int) {
	t.Helper()
	for i := range n {
		if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: topic, Payload: fmt.Append(nil, i), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

// expectEach takes messages until each of n has come once. It acknowledges them.
func expectEach(t testing.TB, c *brokertest.Client, n int) {
	t.Helper()
	seen := make(map[string]bool)
	for len(seen) < n {
		p := brokertest.Expect[*codec.Publish](c)
		if seen[string(p.Payload)] {
			t.Errorf("%s came twice", p.Payload)
		}
		seen[string(p.Payload)] = true
		c.Acknowledge(p)
	}
}

// What waits for a group when the broker starts goes to its members as they have room, all of it.
func TestRestoredGroupQueue(t *testing.T) {
	t.Parallel()
	st := newMemory(t)
	first, err := brokertest.Run(func(o *loopmq.Options) { o.Store = st })
	if err != nil {
		t.Fatal(err)
	}
	c := brokertest.Connect(t, first.Addr, codec.V5, brokertest.Durable("c"))
	c.Subscribe("$share/g/t", 1)
	c.Disconnect()
	expectMetric(t, first.Broker, "loopmq_clients_connected", 0)
	publishTo(t, first, "t", 25)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store, o.Limits.QueueMessages = st, 10 })
	expectEach(t, brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c")), 25)
}

// Of what waits in a group's queue nothing is lost and nothing comes twice when the answers of the store are, and none of it counts against
// the queue any more.
func TestGroupQueueWhenAnswersAreLost(t *testing.T) {
	t.Parallel()
	for name, kind := range members {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, f := startWithFaults(t, func(o *loopmq.Options) { o.Limits.QueueMessages = 5 })
			keeper := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("keeper"))
			keeper.Subscribe("$share/g/t", 1)
			keeper.Disconnect()
			expectMetric(t, s.Broker, "loopmq_clients_connected", 0)
			publishTo(t, s, "t", 5)
			lost := make(chan struct{}, 1000)
			moves := hasOp(store.OpMove)
			f.loseAnswers(func(b *store.Batch) bool {
				if moves(b) {
					lost <- struct{}{}
					return true
				}
				return false
			})
			member := brokertest.Connect(t, s.Addr, codec.V5, kind)
			member.Subscribe("$share/g/t", 1)
			for range 4 {
				<-lost
			}
			f.loseAnswers(nil)
			expectEach(t, member, 5)
			expectCountersAddUp(t, s.Broker, [3]float64{})
			member.Disconnect()
			expectMetric(t, s.Broker, "loopmq_clients_connected", 0)
			publishTo(t, s, "t", 5)
			expectCountersAddUp(t, s.Broker, [3]float64{1: 5})
			if c := countersOf(t, s.Broker, 1); sum(c.dropped)+sum(c.queueDropped) != 0 {
				t.Errorf("something was dropped: %v", c)
			}
		})
	}
}

// What a member that leaves gives back to its group is neither lost nor stuck when the answers of the store are.
func TestLeavingMemberWhenAnswersAreLost(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]any{"goes": {}, "ends": {codec.PropSessionExpiryInterval, 0}} {
		for _, applied := range []bool{false, true} {
			t.Run(fmt.Sprintf("session %s, applied %t", name, applied), func(t *testing.T) {
				t.Parallel()
				s, f := startWithFaults(t)
				a := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("a"))
				a.Subscribe("$share/g/t", 1)
				publishTo(t, s, "t", 5)
				payloads(t, a, 5)
				b := brokertest.Connect(t, s.Addr, codec.V5)
				b.Subscribe("$share/g/t", 1)
				lost := make(chan struct{}, 1000)
				moves := hasOp(store.OpMove)
				lose := func(b *store.Batch) bool {
					if moves(b) {
						lost <- struct{}{}
						return true
					}
					return false
				}
				if applied {
					f.loseAnswers(lose)
				} else {
					f.failCommits(lose)
				}
				a.Send(&codec.Disconnect{Properties: brokertest.Properties(options...)})
				for range 4 {
					<-lost
				}
				f.loseAnswers(nil)
				f.failCommits(nil)
				expectEach(t, b, 5)
			})
		}
	}
}

// A group whose only member has no room costs little, however much waits; and all of it goes out once there is room.
func TestGroupWhoseMemberIsFull(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t, func(o *loopmq.Options) { o.Limits.QueueMessages = 50 })
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.Subscribe("$share/g/t", 1)
	c.Subscribe("own", 1)
	c.Disconnect()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 0)
	publishTo(t, s, "own", 50)
	publishTo(t, s, "t", 50)
	var moves atomic.Int64
	drains := make(chan struct{}, 1000)
	f.failCommits(func(b *store.Batch) bool {
		n := 0
		for i := range b.Ops {
			if b.Ops[i].Kind == store.OpMove {
				n++
			}
		}
		if n > 0 {
			moves.Add(int64(n))
			drains <- struct{}{}
		}
		return false
	})
	c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.With(codec.PropReceiveMaximum, 10))
	for range 4 {
		<-drains
	}
	if n := moves.Load(); n > 60 {
		t.Errorf("%d operations to move 50 messages that have to stay", n)
	}
	for range 50 {
		p := brokertest.Expect[*codec.Publish](c)
		if string(p.TopicName) != "own" {
			t.Fatalf("got %s first", brokertest.Describe(p))
		}
		c.Acknowledge(p)
	}
	expectEach(t, c, 50)
}
