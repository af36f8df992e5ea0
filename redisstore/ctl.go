package redisstore

import (
	"context"
	_ "embed"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

//go:embed lua/kick.lua
var kickLua string

//go:embed lua/release.lua
var releaseLua string

//go:embed lua/welcome.lua
var welcomeLua string

var (
	kickScript    = newScript(generationLua, kickLua)
	releaseScript = newScript(generationLua, releaseLua)
	welcomeScript = newScript(generationLua, welcomeLua)
)

// An entry of a ctl stream is one of
//
//	kick ClientID
//	released ClientID epoch E
//	yield ClientID epoch E clean 0|1 to instance    (lua/claim.lua)
//	joined instance                                 (lua/join.lua)
//	welcome instance
//	ask ID from instance data D                     (ask.go)
//	answer ID data D
const (
	ctlKick     = "kick"
	ctlReleased = "released"
	ctlYield    = "yield"
	ctlJoined   = "joined"
	ctlWelcome  = "welcome"
	ctlAsk      = "ask"
	ctlAnswer   = "answer"
)

const (
	// maxReleases bounds what waits to be sent, as while Redis is away.
	maxReleases = 1 << 18
	// releasesPage is how many are sent at a time.
	releasesPage = 500
)

// releases are what Released was given and what hasn't been sent yet: for each
// ClientID and instance the epoch.
type releases struct {
	wake chan struct{}

	mu struct {
		sync.Mutex
		pending map[release]uint64
	}
}

type release struct{ clientID, to string }

func (r *releases) init() {
	r.wake = make(chan struct{}, 1)
	r.mu.pending = map[release]uint64{}
}

// put notes a release. It reports false if there are too many.
func (r *releases) put(what release, epoch uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.mu.pending[what]; !there && len(r.mu.pending) >= maxReleases {
		return false
	}
	r.mu.pending[what] = max(epoch, r.mu.pending[what])
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// take returns up to releasesPage of them as arguments of release.lua.
func (r *releases) take() (args []any, taken map[release]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken = map[release]uint64{}
	for what, epoch := range r.mu.pending {
		if len(taken) == releasesPage {
			break
		}
		args = append(args, what.to, what.clientID, epoch)
		taken[what] = epoch
		delete(r.mu.pending, what)
	}
	return args, taken
}

// Released tells the instance that claimed a session that the connection before has
// ended. It is sent soon, even if Redis is away for a while.
func (m *member) Released(clientID string, epoch uint64, to string) {
	if !m.Alive(to) {
		return
	}
	if !m.releases.put(release{clientID, to}, epoch) {
		m.log.Error("release", "instance", m.instance, "client_id", clientID, "error", "too many wait to be sent")
	}
}

// sendReleases sends what Released was given until the membership ends.
func (m *member) sendReleases() {
	failures := 0
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.releases.wake:
		}
		for {
			args, taken := m.releases.take()
			if len(taken) == 0 {
				break
			}
			err := releaseScript.Run(m.ctx, m.client, m.keys.declared(), append([]any{m.keys.prefix}, args...)...).Err()
			if err == nil || errors.Is(err, redis.Nil) {
				failures = 0
				continue
			}
			for what, epoch := range taken {
				m.releases.put(what, epoch)
			}
			if failures++; !m.pause(failures) {
				return
			}
		}
	}
}

// Kick asks the instance that holds the connection of a ClientID to end it.
// store.ErrGone: nobody does.
func (m *member) Kick(ctx context.Context, clientID string) error {
	found, err := kickScript.Run(ctx, m.client, m.keys.declared(), m.keys.prefix, clientID).Bool()
	switch {
	case err != nil:
		return failed("kick", err)
	case !found:
		return store.ErrGone
	}
	return nil
}

// readControl hands what comes into the ctl stream to the Node.
func (m *member) readControl() {
	m.followOwn(m.keys.ctl(m.instance), func(entries []streamEntry) {
		for i := range entries {
			m.control(entries[i].fields)
		}
	})
}

// control does what one entry of the ctl stream says. What is of no known form was
// written by a version that says more: it is passed over.
func (m *member) control(fields []string) {
	said := pairs(fields)
	whom, epoch := fields[min(1, len(fields)-1)], parseDecimal(said["epoch"])
	switch fields[0] {
	case ctlKick:
		m.node.Kicked(whom)
	case ctlReleased:
		m.node.Released(whom, epoch)
	case ctlYield:
		m.node.Yield(whom, epoch, said["clean"] == "1", said["to"])
	case ctlJoined:
		m.peers.joined(whom)
		m.spawn(func() { m.welcome(whom) })
	case ctlWelcome:
		m.peers.welcomed(whom)
	case ctlAsk:
		m.answer(whom, said["from"], said["data"])
	case ctlAnswer:
		m.questions.answered(whom, said["data"])
	default:
		m.log.Warn("read_control", "instance", m.instance, "what", fields[0])
	}
}

// welcome tells an instance that this one knows it. It goes on until that has worked,
// since the other waits for it.
func (m *member) welcome(instance string) {
	for failures := 1; ; failures++ {
		err := welcomeScript.Run(m.ctx, m.client, m.keys.declared(), m.keys.prefix, m.instance, instance).Err()
		if err == nil || errors.Is(err, redis.Nil) || !m.pause(failures) {
			return
		}
	}
}
