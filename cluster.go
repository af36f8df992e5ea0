package loopmq

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"loopmq/store"
)

// cluster is what a broker knows of the other instances that share its store. It
// is nil if the store isn't a shared one.
//
// The trie holds every durable session, whoever has its connection, and for each
// other instance one Session that stands for all of its sessions that are not
// durable (a peer). What matches a durable session goes into its queue, wherever it
// is connected; what matches a peer is handed to that instance, see forward.go.
type cluster struct {
	b      *Broker
	shared store.Shared
	joined atomic.Pointer[membership]

	mu struct {
		sync.Mutex
		peers   map[string]*Session // by instance
		routes  map[string]int      // how many of our sessions that are not durable have a filter
		waiting map[string]*releaseWait
	}
}

type membership struct{ store.Member }

// remote says where the connection of a session is that isn't here, or, of a peer,
// which instance it stands for.
type remote struct {
	instance string
	peer     bool
}

// instance returns the instance that d is handed to, empty if it goes to a client
// of this one or by way of a queue.
func (d *delivery) instance() string {
	if d.client != nil || d.session == nil {
		return ""
	}
	if r := d.session.remote.Load(); r != nil && (r.peer || d.qos == 0) {
		return r.instance
	}
	return ""
}

func newCluster(b *Broker, shared store.Shared) *cluster {
	c := &cluster{b: b, shared: shared}
	c.mu.peers = make(map[string]*Session)
	c.mu.routes = make(map[string]int)
	c.mu.waiting = make(map[string]*releaseWait)
	return c
}

// join makes this process an instance. The store is read next, and then start is
// called.
func (c *cluster) join(ctx context.Context) error {
	m, err := c.shared.Join(ctx, node{c})
	if err != nil {
		return err
	}
	c.joined.Store(&membership{m})
	return nil
}

func (c *cluster) member() store.Member { return c.joined.Load().Member }

// leave ends the membership. A store that is just coming back gets another chance:
// otherwise the others would have to wait until the lease has lapsed.
func (c *cluster) leave(ctx context.Context) error {
	for try := 1; ; try++ {
		err := c.member().Leave(ctx)
		if !errors.Is(err, store.ErrUnavailable) || try == leaveTries {
			return err
		}
		select {
		case <-time.After(leavePause):
		case <-ctx.Done():
			return err
		}
	}
}

const (
	leaveTries = 4
	leavePause = 500 * time.Millisecond
)

// owner is what this process is called as the owner of sessions.
func (b *Broker) owner() string {
	if b.cluster != nil {
		return b.cluster.member().Instance()
	}
	return b.opts.NodeID
}

// additions is the position in the feed of subscriptions, see store.Op; 0 if there
// is none.
func (b *Broker) additions() uint64 {
	if b.cluster == nil {
		return 0
	}
	return b.cluster.member().Additions()
}

// routed counts a filter of a session of ours that is not durable. The first one is
// told to the other instances by confirmRoutes, which comes next.
func (c *cluster) routed(topicFilter string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.routes[topicFilter]++
}

// unrouted is the end of routed.
func (c *cluster) unrouted(topicFilter string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.routes[topicFilter]--; c.mu.routes[topicFilter] > 0 {
		return
	}
	delete(c.mu.routes, topicFilter)
	// Under the lock: what loop 0 commits has the order in which filters came and went.
	l := c.b.loops[0]
	l.el.Post(func() { l.unroute(topicFilter) })
}

func (l *loop) unroute(topicFilter string) {
	l.commits.add(store.Op{Kind: store.OpUnroute, TopicFilters: []string{topicFilter}}, func(_ *store.Op, err error) {
		if err == nil {
			return
		}
		l.repeat(func() { // a route too many costs messages for nobody
			c := l.b.cluster
			c.mu.Lock()
			again := c.mu.routes[topicFilter] == 0
			c.mu.Unlock()
			if again {
				l.unroute(topicFilter)
			}
		})
	})
}

// confirmRoutes calls done on l when the other instances know, or will know before
// they acknowledge a message, that this one has subscriptions to the filters.
func (c *cluster) confirmRoutes(l *loop, topicFilters []string, done func(err error)) {
	first := c.b.loops[0]
	first.el.Post(func() {
		first.commits.add(store.Op{Kind: store.OpRoute, TopicFilters: topicFilters}, func(_ *store.Op, err error) {
			if l == first {
				done(err)
				return
			}
			l.el.Post(func() { done(err) })
		})
	})
}

// peer returns the Session that stands for an instance.
func (c *cluster) peer(instance string) *Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.mu.peers[instance]
	if p == nil {
		p = &Session{}
		p.remote.Store(&remote{instance: instance, peer: true})
		c.mu.peers[instance] = p
	}
	return p
}

// releaseWait is a CONNECT that waits until another instance has ended the
// connection which had the session before.
type releaseWait struct {
	epoch    uint64
	instance string
	released func()
}

// awaitRelease calls f, on any goroutine, when the connection before the claim with
// this epoch has ended at an instance.
func (c *cluster) awaitRelease(clientID, instance string, epoch uint64, f func()) {
	c.mu.Lock()
	w := c.mu.waiting[clientID]
	early := w != nil && w.released == nil && w.epoch >= epoch || c.b.rejoining.Load()
	if early {
		delete(c.mu.waiting, clientID)
	} else {
		c.mu.waiting[clientID] = &releaseWait{epoch, instance, f}
	}
	c.mu.Unlock()
	if early || !c.member().Alive(instance) && c.forgetWait(clientID, epoch) {
		f()
	}
}

// forgetWait ends a wait, and reports whether there was one.
func (c *cluster) forgetWait(clientID string, epoch uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.mu.waiting[clientID]; w == nil || w.epoch != epoch {
		return false
	}
	delete(c.mu.waiting, clientID)
	return true
}

// releasedBy ends the waits that are over.
func (c *cluster) releasedBy(over func(clientID string, w *releaseWait) bool) {
	var released []func()
	c.mu.Lock()
	for clientID, w := range c.mu.waiting {
		if w.released != nil && over(clientID, w) {
			released = append(released, w.released)
			delete(c.mu.waiting, clientID)
		}
	}
	c.mu.Unlock()
	for _, f := range released {
		f()
	}
}

// reclaimed brings a session that was known before up to its claim.
func (c *cluster) reclaimed(s *Session, res *store.Claimed) {
	s.claimedHere(res.Session.Epoch)
	s.mu.Lock()
	changes := s.mu.changes
	s.mu.Unlock()
	if s.held.Load() == res.Session.Epoch {
		s.become(c.b, res.Subscriptions, changes)
	}
}

// turnEnded forgets a release that came before its claim had returned, and for which
// nobody waits.
func (c *cluster) turnEnded(clientID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.mu.waiting[clientID]; w != nil && w.released == nil {
		delete(c.mu.waiting, clientID)
	}
}

// node names this process in what people read.
func (b *Broker) node() string {
	if b.cluster != nil && b.cluster.joined.Load() != nil {
		return b.owner()
	}
	return b.opts.NodeID
}
