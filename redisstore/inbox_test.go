package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"loopmq/store"
)

// news is the value of an inbox's entry with one message.
func news(payload string) string {
	m := appendMessage(nil, &store.Message{TopicName: []byte("t"), Payload: []byte(payload)})
	return string(append(appendField([]byte{newsMessage}, m), newsRouted))
}

func TestInboxInOrderAndWithBackPressure(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	p := c.join(c.config(c.server.Addr, longLease))
	p.node.deliver = make(chan struct{})
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	inbox := c.keys.inbox(p.Instance())
	const n = 2*readEntries + 100
	c.add(inbox, "n", news("0")) // the Node is busy with this one
	for i := 1; i < n; i++ {
		c.add(inbox, "n", news(fmt.Sprint(i)))
	}
	// All that a busy Node hasn't taken stays in Redis, and other streams go on.
	c.add(c.keys.ctl(p.Instance()), ctlKick, "c")
	p.node.awaitSaid(t, "kicked c")
	if got := c.client.XLen(ctx, inbox).Val(); got != n {
		t.Errorf("%d entries in the inbox, want all %d", got, n)
	}
	close(p.node.deliver)
	p.node.await(t, "all news", func() bool { return len(p.node.news) == n })
	for i, news := range p.node.news {
		if string(news.Message.Payload) != fmt.Sprint(i) || !news.Routed {
			t.Fatalf("news %d: %s", i, news.Message.Payload)
		}
	}
	c.awaitRedis("empty inbox", func(ctx context.Context) bool { return c.client.XLen(ctx, inbox).Val() == 0 })
	if c.client.Exists(ctx, inbox).Val() != 1 {
		t.Error("the inbox has gone with its last entry")
	}
}

func TestCaughtUp(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	p := c.join(c.config(c.server.Addr, longLease))
	p.node.deliver = make(chan struct{})
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.CaughtUp(t.Context()); err != nil {
		t.Errorf("empty inbox: %v", err)
	}
	const n = 3
	for i := range n {
		c.add(c.keys.inbox(p.Instance()), "n", news(fmt.Sprint(i)))
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := p.CaughtUp(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing was delivered yet: got %v, want the context's error", err)
	}
	go close(p.node.deliver)
	if err := p.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.node.mu.Lock()
	defer p.node.mu.Unlock()
	if len(p.node.news) != n {
		t.Errorf("caught up with %d news, want %d", len(p.node.news), n)
	}
}

func TestLostNewsAreReadAgain(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	p := c.start(longLease)
	inbox := c.keys.inbox(p.Instance())
	c.add(inbox, "n", string(rune(newsOverflow)))
	p.node.awaitSaid(t, "reread")
	c.add(inbox, "n", news("first"))
	c.add(inbox, "n", "not news")
	p.node.await(t, "second reread", func() bool { return p.node.countLocked("reread") == 2 && len(p.node.news) == 1 })
}

func TestReadsShrinkWithLargeEntries(t *testing.T) {
	large := []streamEntry{{fields: []string{"n", strings.Repeat("x", readBytes)}}}
	small := []streamEntry{{fields: []string{"n", "x"}}}
	count := readEntries
	for range 20 {
		count = nextCount(count, large)
	}
	if count != 1 {
		t.Errorf("reads %d large entries, want 1", count)
	}
	for range 20 {
		count = nextCount(count, small)
	}
	if count != readEntries {
		t.Errorf("reads %d small entries, want %d", count, readEntries)
	}
}

func TestReaderComesBack(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	p, x := c.startBehind(longLease)
	inbox := c.keys.inbox(p.Instance())
	for i := range 3 {
		c.add(inbox, "n", news("before"))
		x.Cut()
		c.add(inbox, "n", news("while it is away"))
		c.change(routed(i))
		x.Heal()
		p.node.await(t, "news", func() bool { return len(p.node.news) == 2*(i+1) && len(p.node.changes) == i+1 })
	}
	if p.node.count("expelled") != 0 {
		t.Error("expelled")
	}
}
