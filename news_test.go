package loopmq_test

import (
	"context"
	"sync"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// slowReader is a view of a Hub that sees no queues of groups, and answers the first
// read of a session's queue, which was empty, only when news of that session has been
// delivered.
type slowReader struct {
	*memory.HubStore
	reading, told chan struct{}
	once          sync.Once
}

func (s *slowReader) Messages() store.Messages { return slowMessages{s.HubStore.Messages(), s} }

func (s *slowReader) Join(ctx context.Context, n store.Node) (store.Member, error) {
	return s.HubStore.Join(ctx, tellingNode{n, s})
}

type slowMessages struct {
	store.Messages
	s *slowReader
}

func (m slowMessages) Read(ctx context.Context, q store.QueueID, after store.Number, limit, maxBytes int) ([]store.Entry, error) {
	if q.ShareName != "" {
		return nil, nil
	}
	entries, err := m.Messages.Read(ctx, q, after, limit, maxBytes)
	m.s.once.Do(func() {
		close(m.s.reading)
		<-m.s.told
	})
	return entries, err
}

type tellingNode struct {
	store.Node
	s *slowReader
}

func (n tellingNode) Deliver(news []store.News) {
	n.Node.Deliver(news)
	for i := range news {
		if len(news[i].Queued) > 0 {
			close(n.s.told)
		}
	}
}

// What another node moves into the queue of a session, while this one reads that it is
// empty, is not left there.
func TestClusterNewsDuringARead(t *testing.T) {
	t.Parallel()
	h := memory.NewHub(memory.Options{})
	slow := &slowReader{HubStore: h.Open(), reading: make(chan struct{}), told: make(chan struct{})}
	there := brokertest.Start(t, func(o *loopmq.Options) { o.Store = h.Open() })
	here := brokertest.Start(t, func(o *loopmq.Options) { o.Store = slow })
	member := brokertest.Connect(t, there.Addr, codec.V5, brokertest.Durable("member"))
	member.Subscribe("$share/g/t", 1)
	member.Disconnect()
	brokertest.Connect(t, there.Addr, codec.V5).Publish("t", "x", 1)
	member = brokertest.Connect(t, here.Addr, codec.V5, brokertest.Durable("member"))
	<-slow.reading
	member.Acknowledge(member.ExpectPublish("t", "x"))
}
