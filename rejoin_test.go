package loopmq_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// unluckyStore is a view of a Hub whose second member is declared dead while Start
// returns.
type unluckyStore struct {
	*memory.HubStore
	expel func(instance string)
	joins atomic.Int64
}

func (s *unluckyStore) Join(ctx context.Context, n store.Node) (store.Member, error) {
	m, err := s.HubStore.Join(ctx, n)
	if err == nil && s.joins.Add(1) == 2 {
		m = &unluckyMember{m, s.expel}
	}
	return m, err
}

type unluckyMember struct {
	store.Member
	expel func(instance string)
}

func (m *unluckyMember) Start(ctx context.Context) error {
	err := m.Member.Start(ctx)
	m.expel(m.Instance())
	for range 1000 { // so that the broker hears of it
		runtime.Gosched()
	}
	return err
}

// A node that is declared dead while it comes back comes back again.
func TestExpelledWhileRejoining(t *testing.T) {
	t.Parallel()
	h := memory.NewHub(memory.Options{})
	unlucky := &unluckyStore{HubStore: h.Open(), expel: h.Expel}
	server := brokertest.Start(t, func(o *loopmq.Options) { o.Store = unlucky })
	h.Expel(server.Broker.Health().Node)
	eventually(t, "the node has joined three times", func() bool { return unlucky.joins.Load() == 3 && server.Broker.Ready() == nil })
	sub := brokertest.Connect(t, server.Addr, codec.V5, brokertest.Durable("s"))
	sub.Subscribe("t", 2)
	sub.Publish("t", "x", 2)
	sub.Acknowledge(sub.ExpectPublish("t", "x"))
}
