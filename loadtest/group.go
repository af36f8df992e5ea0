//go:build linux

package loadtest

import (
	"sync"
	"sync/atomic"
	"time"
)

// lapse is how long a broker may go on sending messages to a member of a shared subscription whose connection has ended: another
// node of a cluster learns only when a lease has lapsed that this member's node is dead.
const lapse = 6 * time.Second

// A group is a shared subscription. What one member got no other may get, so they have streams in common.
//
// A member that is lost, and has no durable session, takes with it what was in flight to it, and nothing else. Which messages that
// were nobody outside the broker knows, so those are excused that haven't come when it is lost, or that were sent before lapse had
// passed, or before anybody was there again. A broker that has taken a member's next connection has ended its old session
// [MQTT-3.1.2-4]: once all are back, no lapse is waited for.
type group struct {
	streams []stream        // by publisher
	locks   *[64]sync.Mutex // by publisher, modulo; nil if one loop has all members
	lost    atomic.Bool     // a member was: what it had may come twice
	twice   atomic.Uint64   // duplicates at QoS 1

	until     atomic.Int64 // what is due before is excused
	members   int          // guarded by membership.mu, as what follows
	missing   int          // members that were lost and aren't back
	lapsed    int64        // when the last loss explains nothing any more
	abandoned bool         // a member with a durable session stays away: anything may wait for it
}

// A membership is what all groups of a flow have in common.
type membership struct {
	mu    sync.Mutex
	until atomic.Int64 // the latest of the groups
}

// newGroup returns a group that nobody has joined.
func newGroup(publishers, loops int) *group {
	g := &group{streams: newStreams(publishers)}
	if loops > 1 {
		g.locks = new([64]sync.Mutex)
	}
	g.until.Store(never)
	return g
}

// lock locks stream i, for the caller to unlock.
func (g *group) lock(i int) (unlock func()) {
	if g.locks == nil {
		return func() {}
	}
	lock := &g.locks[i%len(g.locks)]
	lock.Lock()
	return lock.Unlock
}

// join says that the broker has sub's subscription. running says that there may be messages already that it needn't get.
func (f *flow) join(sub *subscriber, now int64, running bool) {
	f.membership.mu.Lock()
	defer f.membership.mu.Unlock()
	if sub.member {
		return
	}
	g := sub.group
	sub.member = true
	g.members++
	if sub.missing {
		sub.missing = false
		if g.missing--; g.missing == 0 {
			g.lapsed = min(g.lapsed, now)
		}
	}
	if now < g.until.Load() {
		f.excuse(g, max(now, g.lapsed))
	}
	if g.members > 1 || running {
		return
	}
	for i := range g.streams {
		unlock := g.lock(i)
		g.streams[i].away = false
		unlock()
	}
}

// lose says that the connection of sub has ended, and its session with it.
func (f *flow) lose(sub *subscriber, now int64) {
	f.membership.mu.Lock()
	defer f.membership.mu.Unlock()
	g := sub.group
	if sub.member {
		sub.member = false
		g.members--
	}
	if !sub.missing {
		sub.missing = true
		g.missing++
	}
	g.lapsed = now + int64(lapse)
	until := g.lapsed
	if g.members == 0 {
		until = never
	}
	f.excuse(g, until)
	g.leave()
}

// abandon says that a member with a durable session stays away.
func (f *flow) abandon(g *group) {
	f.membership.mu.Lock()
	defer f.membership.mu.Unlock()
	g.abandoned = true
	f.excuse(g, never)
	g.leave()
}

// leave has all streams excuse what is missing, until something comes that was due later.
func (g *group) leave() {
	for i := range g.streams {
		unlock := g.lock(i)
		g.streams[i].leave()
		unlock()
	}
}

// excuse sets until when messages are excused.
//
// REQUIRES: f.membership.mu
func (f *flow) excuse(g *group, until int64) {
	if g.abandoned {
		until = never
	}
	g.until.Store(until)
	for _, o := range f.groups {
		if o != nil {
			until = max(until, o.until.Load())
		}
	}
	f.membership.until.Store(until)
}
