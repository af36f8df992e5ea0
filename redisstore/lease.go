package redisstore

import (
	"context"
	_ "embed"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/renew.lua
var renewLua string

var renewScript = newScript(generationLua, renewLua)

// lease is what the goroutine that renews the lease knows.
type lease struct {
	runID string // of the Redis process
	// since is when the lease began to be held without a break, at one Redis process.
	// Who hasn't held it for as long as it lasts doesn't know whether another that
	// has lapsed could have renewed its own, so that an outage of Redis kills nobody.
	since    time.Time
	failures int
}

// renewalMax is how long it takes at most from one renewal of a lease to the next, on a
// machine that isn't overloaded.
func renewalMax(lease time.Duration) time.Duration { return lease / 4 }

// renewals renews the lease until the membership ends, five times while it lasts.
func (m *member) renewals(runID string) {
	l := &lease{runID: runID, since: time.Now()}
	interval := m.lease / 5
	for m.sleep(interval - interval/10 + mathrand.N(interval/5)) {
		m.renew(l)
	}
}

// renew renews the lease once, and does what follows from the answer.
func (m *member) renew(l *lease) {
	ctx, cancel := context.WithTimeout(m.ctx, m.lease)
	defer cancel()
	began := time.Now()
	before := m.committed.all() // what is answered after this the script needn't have seen
	values, err := renewScript.Run(ctx, m.client, m.keys.declared(), m.keys.prefix, m.instance, m.lease.Milliseconds(), l.runID, m.report()).Slice()
	switch {
	case m.ctx.Err() != nil:
		return
	case errors.Is(err, redis.Nil):
		m.expel("lease lost")
		return
	case err != nil:
		if l.failures++; l.failures == 1 {
			m.log.Warn("renew_lease", "instance", m.instance, "error", err)
		}
		return
	}
	if l.failures > 0 {
		m.log.Info("renew_lease", "instance", m.instance, "failures", l.failures)
		l.failures = 0
	}
	r := replyOf(values)
	held, runID, state := r.number() == 1, r.text(), r.feedState()
	lapsed, inherited, dead := r.texts(), r.texts(), r.texts()
	state.generation = parseDecimal(r.text())
	writers := r.texts()
	if r.err != nil {
		m.log.Error("renew_lease", "instance", m.instance, "error", r.err)
		return
	}
	if runID != l.runID && !before.in(pairs(writers)) {
		m.expel("commits lost")
		return
	}
	m.peers.renewed(began, m.lease)
	m.peers.died(dead...)
	m.feed.verify(state)
	if !held || runID != l.runID {
		l.runID, l.since = runID, time.Now()
		if m.started() {
			m.node.Reread()
		}
	}
	victims := inherited
	if time.Since(l.since) >= m.lease {
		victims = append(victims, lapsed...)
	}
	if len(victims) > 0 {
		m.reapSoon(victims, runID)
	}
}

// report is what the Node says of itself, nothing before it was started.
func (m *member) report() []byte {
	if !m.started() {
		return nil
	}
	return m.node.Report()
}

// committed is the number of the last batch of each writer that Redis has answered.
type committed struct {
	mu struct {
		sync.Mutex
		last batches
	}
}

// note remembers that a batch of a writer was answered.
func (c *committed) note(writer string, batch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.last == nil {
		c.mu.last = batches{}
	}
	c.mu.last[writer] = batch
}

// all returns the last batch of each writer so far.
func (c *committed) all() batches {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.mu.last)
}

// batches are numbers of batches, by writer.
type batches map[string]uint64

// in reports whether the writers' hash of an instance shows that all of it is still
// there, after Redis has started anew.
func (b batches) in(writers map[string]string) bool {
	for writer, batch := range b {
		if n, _, _ := strings.Cut(writers[writer], " "); parseDecimal(n) < batch {
			return false
		}
	}
	return true
}

// pairs makes a map of fields and values in turn.
func pairs(list []string) map[string]string {
	fields := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		fields[list[i]] = list[i+1]
	}
	return fields
}
