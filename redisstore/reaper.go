package redisstore

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

//go:embed lua/bury.lua
var buryLua string

//go:embed lua/reap.lua
var reapLua string

//go:embed lua/finish.lua
var finishLua string

var (
	buryScript   = newScript(generationLua, buryLua)
	reapScript   = newScript(generationLua, "generation(ARGV[1] .. 'meta')", changeLua, sessionLua, reapLua)
	finishScript = newScript(generationLua, changeLua, finishLua)
)

// reapPage is how many sessions a script takes offline. Redis does nothing else
// meanwhile.
const reapPage = 100

// toReap is a list of instances, and the Redis process at which they were found.
type toReap struct {
	instances []string
	runID     string
}

// reapSoon hands a list to the goroutine that reaps. The newest list is all that
// counts: what isn't reaped is in the next one.
func (m *member) reapSoon(instances []string, runID string) {
	select {
	case <-m.victims:
	default:
	}
	m.victims <- toReap{instances, runID}
}

// reapAll reaps what reapSoon was given until the membership ends.
func (m *member) reapAll() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case list := <-m.victims:
			for _, instance := range list.instances {
				if err := m.reap(m.ctx, instance, list.runID); err != nil && m.ctx.Err() == nil {
					m.log.Warn("reap", "instance", m.instance, "dead", instance, "error", err)
				}
			}
		}
	}
}

// reap declares an instance dead unless it lives, takes offline what it held, and
// tells all instances when that is done. If it fails, or this instance dies, what is
// left is done later, by whoever finds it.
func (m *member) reap(ctx context.Context, dead, runID string) error {
	mine, err := buryScript.Run(ctx, m.client, m.keys.declared(), m.keys.prefix, m.instance, dead, runID).Bool()
	if err != nil || !mine {
		return err
	}
	m.peers.died(dead)
	sessions := 0
	var told []string
	for last := false; !last; {
		page, err := m.reapOnePage(ctx, dead, 0, told)
		if err != nil {
			return err
		}
		told = told[:0]
		if len(page.orphans) > 0 {
			if !m.node.Orphaned(page.orphans) {
				return errors.New("not all that its sessions had of shared subscriptions went back to the groups")
			}
			for i := range page.orphans {
				told = append(told, page.orphans[i].ID.ClientID)
			}
		}
		sessions += page.sessions
		last = page.last && len(told) == 0
	}
	if err := m.finish(ctx, dead); err != nil {
		return err
	}
	m.log.Info("reap", "instance", m.instance, "dead", dead, "sessions", sessions)
	return nil
}

// takeOffline takes offline what this instance itself holds, and returns how many
// sessions it leaves to another's Broker.
func (m *member) takeOffline(ctx context.Context) (orphans int, err error) {
	for {
		page, err := m.reapOnePage(ctx, m.instance, orphans, nil)
		if err != nil {
			return orphans, err
		}
		if orphans += len(page.orphans); page.last {
			return orphans, nil
		}
	}
}

// reaped is what one run of reap.lua has done.
type reaped struct {
	last     bool
	sessions int
	orphans  []store.Session
}

// reapOnePage takes up to reapPage sessions offline, those behind the first skip ones.
// Those in told are done with.
func (m *member) reapOnePage(ctx context.Context, dead string, skip int, told []string) (reaped, error) {
	args := []any{m.keys.prefix, m.instance, 0, dead, reapPage, skip, store.NodeEnded}
	for _, clientID := range told {
		args = append(args, clientID)
	}
	values, err := reapScript.Run(ctx, m.client, m.keys.declared(), args...).Slice()
	if errors.Is(err, redis.Nil) {
		return reaped{}, errors.New("another instance has taken over")
	}
	if err != nil {
		return reaped{}, err
	}
	r := replyOf(values)
	page := reaped{last: r.number() == 1, sessions: int(r.number())}
	orphans := replyOf(r.list())
	for r.err == nil && orphans.err == nil && len(orphans.rest) > 0 {
		clientID, fields := orphans.text(), orphans.list()
		session, err := decodeSession(clientID, fields)
		if err != nil {
			return page, fmt.Errorf("session %q: %w", clientID, err)
		}
		page.orphans = append(page.orphans, session)
	}
	return page, errors.Join(r.err, orphans.err)
}

// finish deletes what is left of a dead instance and tells all that it is dead.
func (m *member) finish(ctx context.Context, dead string) error {
	return finishScript.Run(ctx, m.client, m.keys.declared(), m.keys.prefix, m.instance, dead).Err()
}
