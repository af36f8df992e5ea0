package redisstore

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
	"loopmq/store/local"
)

//go:embed lua/join.lua
var joinLua string

//go:embed lua/leave.lua
var leaveLua string

var (
	joinScript  = newScript(generationLua, joinLua)
	leaveScript = newScript(leaveLua)
)

// routesPage is how many routes are read at a time, feedPage how many records.
const (
	routesPage = 1000
	feedPage   = 1000
)

// member is an instance that has joined.
//
// From Join on one goroutine renews the lease. Start adds others: a reader for each
// of the four streams, on connections of their own, since one that waits for room
// must not stop the others; one that sends what Released was given; and one that
// reaps. All end when the instance leaves or is expelled.
type member struct {
	memberConfig
	node     store.Node
	instance string
	feed     *feed
	peers    peers
	others   []string // instances that were alive when this one joined

	ctx    context.Context // ends with the membership
	cancel context.CancelFunc
	wg     sync.WaitGroup

	left      func() // called by Leave
	releases  releases
	questions questions
	delivered progress    // of the inbox
	victims   chan toReap // the newest list

	mu struct {
		sync.Mutex
		started  bool
		expelled bool
		ended    bool // no goroutine may be started any more
		leaving  bool // a Leave has begun and not succeeded
	}
}

// memberConfig is what a member needs of its Store.
type memberConfig struct {
	client  redis.UniversalClient
	readers redis.UniversalClient // for commands that block; closed with the membership
	keys    keys
	log     *slog.Logger
	lease   time.Duration
	name    string // of the node, as configured; may be empty
	// committed is what Redis has to know after it has started anew.
	committed *committed
	bell      *local.Bell // for who waits for events
}

var _ store.Shared = (*Store)(nil)

// Join makes this process a new instance, named after the URL's parameter node. A
// Store has one Member at a time: a former one that hasn't left is given up, and is
// dead then. ErrUnavailable: Redis can't be reached. ErrNameTaken: the name belongs to
// a node that is alive; to find out may take a quarter of the lease.
func (s *Store) Join(ctx context.Context, n store.Node) (store.Member, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if former := s.joined.Load(); former != nil {
		former.giveUp(ctx)
	}
	options := s.config.redis
	options.PoolSize, options.ReadTimeout = 4, readBlock+s.config.lease // one for each stream
	m, err := join(ctx, memberConfig{
		client: s.redis, readers: s.newClient(options), keys: s.keys, log: s.log, lease: s.config.lease, name: s.config.node,
		committed: new(committed), bell: &s.bell,
	}, n)
	if err != nil {
		return nil, failed("join", err)
	}
	membership := &membership{
		instance: m.instance, feed: m.feed, committed: m.committed, died: func() { m.expel("commit refused") }, giveUp: m.giveUp,
	}
	s.joined.Store(membership)
	m.left = func() { s.joined.CompareAndSwap(membership, nil) }
	return m, nil
}

// join makes a new instance.
func join(ctx context.Context, config memberConfig, n store.Node) (*member, error) {
	m := &member{memberConfig: config, node: n, instance: newInstance(config.name), victims: make(chan toReap, 1)}
	if err := m.awaitName(ctx); err != nil {
		_ = m.readers.Close()
		return nil, err
	}
	began := time.Now()
	reply, err := joinScript.Run(ctx, m.client, m.keys.declared(), m.keys.prefix, m.instance, m.lease.Milliseconds(), m.name).Slice()
	if err != nil {
		_ = m.readers.Close()
		return nil, err
	}
	r := replyOf(reply)
	runID, from := r.text(), r.feedState()
	m.others = r.texts()
	m.peers.init(m.others)
	m.peers.died(r.texts()...)
	m.peers.renewed(began, m.lease)
	if r.err != nil {
		_ = m.readers.Close()
		return nil, r.err
	}
	m.feed = newFeed(m.log, n, from)
	m.feed.missed, m.feed.dead = m.expel, m.died
	m.releases.init()
	m.questions.init()
	m.left = func() {}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Go(func() { m.renewals(runID) })
	m.log.Info("join", "instance", m.instance, "others", len(m.others))
	return m, nil
}

// newInstance returns a name that no instance has had.
func newInstance(name string) string {
	var random [8]byte
	_, _ = rand.Read(random[:])
	if name == "" {
		name = "node"
	}
	return name + "-" + hex.EncodeToString(random[:])
}

// ErrNameTaken is what Join returns while another node that is alive has the name that
// the URL's parameter node gives: each node needs a name of its own.
var ErrNameTaken = errors.New("redisstore: another node is running under the same name (node=… in the URL): names of nodes have to be unique")

// awaitName returns when the name of the node is free: no instance has it whose lease
// is being renewed. One that has just renewed it may have died since, so it is watched
// for as long as it may take to renew it again.
func (m *member) awaitName(ctx context.Context) error {
	before, err := m.namesakes(ctx)
	if err != nil || len(before) == 0 {
		return err
	}
	now, err := m.client.Time(ctx).Result()
	if err != nil {
		return err
	}
	interval := renewalMax(m.lease)
	recent := float64(now.Add(m.lease - interval).UnixMilli())
	maps.DeleteFunc(before, func(_ string, lapses float64) bool { return lapses < recent })
	if len(before) == 0 {
		return nil
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	after, err := m.namesakes(ctx)
	if err != nil {
		return err
	}
	for instance, lapses := range before {
		if after[instance] > lapses {
			return fmt.Errorf("%w: node=%s is %s", ErrNameTaken, m.name, instance)
		}
	}
	return nil
}

// namesakes returns the other instances that have the name of this node, and when their
// leases lapse, in ms.
func (m *member) namesakes(ctx context.Context) (map[string]float64, error) {
	if m.name == "" {
		return nil, nil
	}
	leases, err := m.client.ZRangeWithScores(ctx, m.keys.leases(), 0, -1).Result()
	if err != nil {
		return nil, err
	}
	found := make(map[string]float64)
	for _, l := range leases {
		instance, _ := l.Member.(string)
		if i := strings.LastIndexByte(instance, '-'); i >= 0 && instance[:i] == m.name && instance != m.instance {
			found[instance] = l.Score
		}
	}
	return found, nil
}

// Instance is the name of the instance.
func (m *member) Instance() string { return m.instance }

// Additions is how many of the Changes applied so far were additions, plus 1.
func (m *member) Additions() uint64 { return m.feed.additions() }

// Alone reports whether no other instance can have a subscriber: none has joined that
// isn't dead, and this one's lease is valid.
func (m *member) Alone() bool { return m.peers.alone.Load() && m.peers.valid() }

// Valid reports whether this instance's lease is valid as far as it knows.
func (m *member) Valid() bool { return m.peers.valid() }

// Alive reports whether an instance isn't known to be dead. One that isn't known at
// all has just joined.
func (m *member) Alive(instance string) bool { return !m.peers.dead(instance) }

// Start applies the routes of the other instances and all records of the feed so
// far, starts the goroutines that call the Node, and returns when all others know of
// this instance. That can take a lease where one of them has died. store.ErrDead:
// this instance was declared dead meanwhile.
func (m *member) Start(ctx context.Context) error {
	var routes []store.Change
	for _, instance := range m.others {
		filters, err := m.routesOf(ctx, instance)
		if err != nil {
			return failed("read the routes of "+instance, err)
		}
		if len(filters) > 0 {
			routes = append(routes, store.Change{Kind: store.ChangeRouted, Instance: instance, TopicFilters: filters})
		}
	}
	m.mu.Lock()
	m.mu.started = true
	expelled := m.mu.expelled
	m.mu.Unlock()
	if expelled {
		return store.ErrDead
	}
	m.feed.start(routes)
	for {
		reply, err := m.client.Do(ctx, "XRANGE", m.keys.feed(), "("+m.feed.position(), "+", "COUNT", feedPage).Slice()
		if err != nil {
			return failed("read the feed", err)
		}
		records, err := parseEntries(reply)
		if err != nil {
			return err
		}
		m.feed.advance(records)
		if len(records) < feedPage {
			break
		}
	}
	for _, f := range []func(){m.readFeed, m.readControl, m.readInbox, m.readBells, m.sendReleases, m.reapAll} {
		m.spawn(f)
	}
	if err := m.peers.await(ctx, m.ctx); m.ctx.Err() != nil {
		return store.ErrDead
	} else if err != nil {
		return failed("wait for the other instances", err)
	}
	return nil
}

// Leave ends the membership: what the instance still holds is taken offline, and
// then it is dead. Sessions with shared subscriptions are left for another instance
// to reap, since their queues have to be seen to.
func (m *member) Leave(ctx context.Context) error {
	ended := m.end()
	m.mu.Lock()
	again := m.mu.leaving // a Leave that failed
	m.mu.leaving = !ended || again
	m.mu.Unlock()
	if err := m.wait(ctx); err != nil {
		return failed("leave", err)
	}
	if ended && !again {
		return nil // was expelled, or has left
	}
	orphans, err := m.takeOffline(ctx)
	if err == nil {
		err = leaveScript.Run(ctx, m.client, m.keys.declared(), m.keys.prefix, m.instance).Err()
	}
	if err == nil && orphans == 0 {
		err = m.finish(ctx, m.instance)
	}
	if err != nil {
		return failed("leave", err)
	}
	m.mu.Lock()
	m.mu.leaving = false
	m.mu.Unlock()
	m.left()
	m.log.Info("leave", "instance", m.instance)
	return nil
}

// routesOf reads the routes of another instance.
func (m *member) routesOf(ctx context.Context, instance string) ([]string, error) {
	var (
		filters []string
		cursor  uint64
	)
	for {
		page, next, err := m.client.SScan(ctx, m.keys.routes(instance), cursor, "", routesPage).Result()
		if err != nil {
			return nil, err
		}
		filters = append(filters, page...)
		if cursor = next; cursor == 0 {
			return filters, nil
		}
	}
}

// expel ends the membership of an instance that was declared dead, or that can't know
// any more what the others know. In the latter case it declares itself dead, so
// that another reaps it at once.
func (m *member) expel(reason string) {
	m.mu.Lock()
	if m.mu.expelled || m.mu.ended {
		m.mu.Unlock()
		return
	}
	m.mu.expelled = true
	started := m.mu.started
	m.mu.Unlock()
	// Whoever has found out may hold a lock or be waited for by end.
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), m.lease)
		defer cancel()
		if others, err := m.namesakes(ctx); err == nil && len(others) > 0 {
			reason = "another node has joined under the same name node=" + m.name + "; names must be unique"
		}
		m.log.Error("expelled", "instance", m.instance, "reason", reason)
		m.giveUp(ctx)
	}()
	if started {
		go m.node.Expelled() // joins again, and so may wait for what called us
	}
}

// giveUp ends the membership and, if Redis can be reached, declares the instance dead
// for another one to reap it.
func (m *member) giveUp(ctx context.Context) {
	m.end()
	_ = leaveScript.Run(ctx, m.client, m.keys.declared(), m.keys.prefix, m.instance).Err() // else its lease lapses
}

// end stops the goroutines without waiting for them. It reports whether it was called
// before.
func (m *member) end() (ended bool) {
	m.mu.Lock()
	ended, m.mu.ended = m.mu.ended, true
	m.mu.Unlock()
	if !ended {
		m.feed.stop()
		m.cancel()
		_ = m.readers.Close() // ends reads that block
	}
	return ended
}

// wait returns when all goroutines have ended.
func (m *member) wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		m.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spawn starts a goroutine of the membership, unless it has ended.
func (m *member) spawn(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.mu.ended {
		m.wg.Go(f)
	}
}

// started reports whether the Node may be called.
func (m *member) started() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.started && !m.mu.ended
}

// died is called by the feed when all that an instance held is offline.
func (m *member) died(instance string) {
	if instance == m.instance {
		m.expel("reaped")
		return
	}
	m.peers.died(instance)
	m.node.Dead(instance)
}

// pause waits before something is tried again: longer each time, and not at the same
// time as others do. It reports false when the membership has ended.
func (m *member) pause(failures int) bool {
	d := min(time.Second, 20*time.Millisecond<<min(failures, 6))
	return m.sleep(d/2 + mathrand.N(d/2))
}

func (m *member) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-m.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// errReply: a script has answered something that it never answers.
var errReply = errors.New("redisstore: unexpected answer of a script")

// reply reads the elements of a script's answer in turn. After one that isn't what
// was asked for, err is set.
type reply struct {
	rest []any
	err  error
}

func replyOf(values []any) *reply { return &reply{rest: values} }

func (r *reply) next() any {
	if len(r.rest) == 0 {
		r.err = errReply
		return nil
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *reply) text() string {
	s, ok := r.next().(string)
	if !ok {
		r.err = errReply
	}
	return s
}

func (r *reply) number() int64 {
	n, ok := r.next().(int64)
	if !ok {
		r.err = errReply
	}
	return n
}

func (r *reply) list() []any {
	list, ok := r.next().([]any)
	if !ok {
		r.err = errReply
	}
	return list
}

func (r *reply) texts() []string {
	list := r.list()
	texts := make([]string, len(list))
	for i := range list {
		texts[i], _ = list[i].(string)
	}
	return texts
}

func (r *reply) feedState() feedState {
	id, err := parseStreamID(r.text())
	if err != nil {
		r.err = err
	}
	return feedState{last: id, added: uint64(r.number())}
}
