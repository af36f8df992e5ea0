package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"loopmq/store"
)

func TestMembersOutliveRedis(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	a, b := c.start(longLease), c.start(longLease)
	a.committed.note("w", 7)
	c.client.HSet(ctx, c.keys.writers(a.Instance()), "w", "7 1 D")
	inbox := c.keys.inbox(a.Instance())
	c.add(inbox, "n", news("before"))
	a.node.await(t, "news", func() bool { return len(a.node.news) == 1 })
	c.server.Kill()
	c.server.Restart()
	for _, p := range []*player{a, b} {
		p.node.awaitSaid(t, "reread") // the tail may have been lost
	}
	c.add(inbox, "n", news("after"))
	c.change(routed(1))
	a.node.await(t, "news and change", func() bool { return len(a.node.news) == 2 && len(a.node.changes) == 1 })
	b.node.await(t, "change", func() bool { return len(b.node.changes) == 1 })
	if a.node.count("expelled")+b.node.count("expelled") != 0 {
		t.Error("expelled though nothing was lost")
	}

	// Now Redis has lost a commit of one.
	a.committed.note("w", 8)
	c.server.Kill()
	c.server.Restart()
	a.node.awaitSaid(t, "expelled")
	b.node.awaitSaid(t, "dead "+a.Instance())
}

// What is committed while the lease is renewed at a Redis that has started anew is not lost.
func TestCommitsWhileRenewing(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	p := c.start(longLease)
	const writers = 8
	stop := make(chan struct{})
	var committing sync.WaitGroup
	for i := range writers {
		committing.Go(func() {
			name := "w" + strconv.Itoa(i)
			for batch := uint64(1); ; batch++ {
				select {
				case <-stop:
					return
				default:
					c.client.HSet(ctx, c.keys.writers(p.Instance()), name, fmt.Sprint(batch, " 1 D"))
					p.committed.note(name, batch)
				}
			}
		})
	}
	for range 300 {
		p.renew(&lease{runID: "of the process before"})
	}
	close(stop)
	committing.Wait()
	if p.node.count("expelled") != 0 {
		t.Error("expelled though nothing was lost")
	}
}

func TestRedisWithoutItsData(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	p := c.start(longLease)
	c.client.FlushAll(ctx)
	p.node.awaitSaid(t, "expelled")
	late := c.join(c.config(c.server.Addr, longLease))
	c.client.FlushAll(ctx)
	late.wg.Wait()
	if err := late.Start(ctx); !errors.Is(err, store.ErrDead) {
		t.Errorf("Start of a member that is dead: %v, want ErrDead", err)
	}
	if late.node.count("*") != 0 {
		t.Errorf("before Start its Node was told %q", late.node.said)
	}
}

func TestWithoutRedis(t *testing.T) {
	c := newCluster(t)
	p, x := c.startBehind(longLease)
	q := c.join(c.config(x.addr, longLease))
	x.Cut()
	ctx := context.Background()
	_, joinErr := join(ctx, c.config(x.addr, longLease), newNode())
	for what, err := range map[string]error{
		"Start": q.Start(ctx), "Kick": p.Kick(ctx, "c"), "Leave": p.Leave(ctx), "join": failed("join", joinErr),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", what, err)
		}
	}
}
