package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/internal/redistest"
	"loopmq/store"
)

// Leases in tests: one for members that are to die soon, one for those that must not,
// however busy the machine is.
const (
	shortLease = 400 * time.Millisecond
	longLease  = 10 * time.Second
)

var quiet = slog.New(slog.DiscardHandler)

// node is a Broker that notes what its Member says.
type node struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and made anew at each call
	changes  []store.Change
	news     []store.News
	said     []string // calls of the other methods
	orphaned []store.Session

	deliver  chan struct{} // if not nil, Deliver takes one from it first
	orphans  func([]store.Session) bool
	applying func()
	kick     func()
	asked    func(question []byte) []byte
	reports  string
}

func newNode() *node { return &node{changed: make(chan struct{})} }

func (n *node) note(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) say(format string, args ...any) {
	n.note(func() { n.said = append(n.said, fmt.Sprintf(format, args...)) })
}

func (n *node) Apply(changes []store.Change) {
	if n.applying != nil {
		n.applying()
	}
	n.note(func() { n.changes = append(n.changes, changes...) })
}

func (n *node) Deliver(news []store.News) {
	if n.deliver != nil {
		<-n.deliver
	}
	n.note(func() { n.news = append(n.news, news...) })
}

func (n *node) Orphaned(sessions []store.Session) bool {
	n.note(func() { n.orphaned = append(n.orphaned, sessions...) })
	return n.orphans == nil || n.orphans(sessions)
}

func (n *node) Reread()                            { n.say("reread") }
func (n *node) Released(clientID string, e uint64) { n.say("released %s %d", clientID, e) }
func (n *node) Dead(instance string)               { n.say("dead %s", instance) }
func (n *node) Expelled()                          { n.say("expelled") }

func (n *node) Report() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return []byte(n.reports)
}

func (n *node) Asked(question []byte) []byte {
	n.mu.Lock()
	asked := n.asked
	n.mu.Unlock()
	if asked == nil {
		return question
	}
	return asked(question)
}

func (n *node) Kicked(clientID string) {
	if n.kick != nil {
		n.kick()
	}
	n.say("kicked %s", clientID)
}

func (n *node) Yield(clientID string, epoch uint64, cleanStart bool, to string) {
	n.say("yield %s %d %v %s", clientID, epoch, cleanStart, to)
}

// await returns when cond holds; it is called with the lock held, whenever the node
// was told something.
func (n *node) await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		n.mu.Lock()
		ok, changed := cond(), n.changed
		n.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			n.mu.Lock()
			defer n.mu.Unlock()
			t.Fatalf("no %s; said %q, %d changes, %d news", what, n.said, len(n.changes), len(n.news))
		}
	}
}

// count is how often the node was told this. Of a pattern with * at its end, what
// begins like that counts.
func (n *node) count(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.countLocked(what)
}

func (n *node) countLocked(what string) int {
	c := 0
	for _, s := range n.said {
		if prefix, ok := strings.CutSuffix(what, "*"); s == what || ok && strings.HasPrefix(s, prefix) {
			c++
		}
	}
	return c
}

func (n *node) awaitSaid(t testing.TB, what string) {
	t.Helper()
	n.await(t, what, func() bool { return n.countLocked(what) > 0 })
}

// cluster is a Redis and what the members of a test share.
type cluster struct {
	t      testing.TB
	server *redistest.Server
	client *redis.Client
	keys   keys
}

func newCluster(t testing.TB, directives ...string) *cluster {
	t.Helper()
	s := redistest.Start(t, directives...)
	return &cluster{t: t, server: s, client: s.Client(), keys: keys{"test:"}}
}

// player is a member and its node.
type player struct {
	*member
	node *node
}

// config returns what a member at an address needs.
func (c *cluster) config(addr string, lease time.Duration) memberConfig {
	options := &redis.Options{
		Addr: addr, Protocol: 2, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, ReadTimeout: 3 * time.Second,
	}
	client := redis.NewClient(options)
	c.t.Cleanup(func() { _ = client.Close() })
	return memberConfig{
		client: client, readers: redis.NewClient(options), keys: c.keys, log: quiet,
		lease: lease, committed: new(committed),
	}
}

// join makes a member that isn't started; it ends with the test.
func (c *cluster) join(config memberConfig) *player {
	c.t.Helper()
	p := &player{node: newNode()}
	m, err := join(context.Background(), config, p.node)
	if err != nil {
		c.t.Fatal(err)
	}
	p.member = m
	c.t.Cleanup(func() {
		m.end()
		m.wg.Wait()
	})
	return p
}

// start makes a member with this lease and starts it.
func (c *cluster) start(lease time.Duration) *player {
	c.t.Helper()
	p := c.join(c.config(c.server.Addr, lease))
	if err := p.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// startBehind makes a member behind a proxy.
func (c *cluster) startBehind(lease time.Duration) (*player, *proxy) {
	c.t.Helper()
	x := newProxy(c.t, c.server.Addr)
	p := c.join(c.config(x.addr, lease))
	if err := p.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	return p, x
}

var addScript = newScript(generationLua, `return redis.call('XADD', KEYS[1], 'NOMKSTREAM', generation(KEYS[2]) .. '-*', unpack(ARGV))`)

// add adds an entry to a stream as the scripts do.
func (c *cluster) add(key string, fields ...any) {
	c.t.Helper()
	if err := addScript.Run(context.Background(), c.client, []string{key, c.keys.meta()}, fields...).Err(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) change(change store.Change) {
	c.add(c.keys.feed(), changeField, encodeChange(&change))
}

// claim makes an instance the owner of a session and returns its epoch.
func (c *cluster) claim(instance, clientID string, durable bool, interval uint32, will *store.Will) uint64 {
	c.t.Helper()
	bit := 0
	if durable {
		bit = 1
	}
	var encoded []byte
	if will != nil {
		encoded = encodeWill(will)
	}
	reply, err := claimScript.Run(context.Background(), c.client, nil, c.keys.prefix, instance, time.Now().UnixMilli(), clientID,
		tag(clientID), instance, 0, bit, interval, "", "", encoded, "", "").Slice()
	if err != nil {
		c.t.Fatal(err)
	}
	return parseDecimal(reply[0].(string))
}

// session reads a stored session.
func (c *cluster) session(clientID string) (store.Session, error) {
	c.t.Helper()
	values, err := c.client.HMGet(context.Background(), c.keys.session(clientID), sessionFields...).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	return decodeSession(clientID, values)
}

// awaitRedis returns when cond holds for what Redis says.
func (c *cluster) awaitRedis(what string, cond func(context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for !cond(ctx) {
		select {
		case <-ctx.Done():
			c.t.Fatalf("no %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// allKeys lists the keys in Redis without the prefix.
func (c *cluster) allKeys() []string {
	all := c.client.Keys(context.Background(), "*").Val()
	for i := range all {
		all[i] = strings.TrimPrefix(all[i], c.keys.prefix)
	}
	slices.Sort(all)
	return all
}

// proxy is a way to Redis that can be cut.
type proxy struct {
	addr string
	to   string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newProxy(t testing.TB, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{addr: l.Addr().String(), to: to, conns: map[net.Conn]bool{}}
	t.Cleanup(func() {
		_ = l.Close()
		x.Cut()
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			x.serve(conn)
		}
	}()
	return x
}

func (x *proxy) serve(conn net.Conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cut {
		_ = conn.Close()
		return
	}
	server, err := net.Dial("tcp", x.to)
	if err != nil {
		_ = conn.Close()
		return
	}
	x.conns[conn], x.conns[server] = true, true
	for _, pair := range [][2]net.Conn{{conn, server}, {server, conn}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].Close()
			_ = pair[1].Close()
		}()
	}
}

// Cut ends all connections and refuses new ones until Heal.
func (x *proxy) Cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cut = true
	for conn := range x.conns {
		_ = conn.Close()
	}
	clear(x.conns)
}

func (x *proxy) Heal() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cut = false
}

func TestJoinAndLeave(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a := c.start(longLease)
	c.client.SAdd(ctx, c.keys.routes(a.Instance()), "a/#", "b")
	b := c.join(c.config(c.server.Addr, longLease))
	if a.Instance() == b.Instance() {
		t.Fatalf("both are %s", a.Instance())
	}
	// Nothing is said before Start, and what the feed gets meanwhile is not missed.
	c.change(store.Change{Kind: store.ChangeRouted, Instance: a.Instance(), TopicFilters: []string{"c"}})
	if got := b.Additions(); got != 1 {
		t.Errorf("%d additions before Start, want 1", got)
	}
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if len(b.node.changes) != 2 || b.Additions() != 3 {
		t.Fatalf("changes of Start: %+v, additions %d; want the routes and the record, and 3", b.node.changes, b.Additions())
	}
	routes := b.node.changes[0]
	slices.Sort(routes.TopicFilters)
	if routes.Kind != store.ChangeRouted || routes.Instance != a.Instance() || !slices.Equal(routes.TopicFilters, []string{"a/#", "b"}) {
		t.Errorf("routes: %+v", routes)
	}
	if !b.Alive(a.Instance()) || !a.Alive(b.Instance()) {
		t.Error("they don't take each other for alive")
	}

	epoch := c.claim(a.Instance(), "durable", true, 0xFFFFFFFF, nil)
	c.claim(a.Instance(), "not", false, 0, &store.Will{Message: store.Message{TopicName: []byte("w")}, DelayInterval: 7})
	if err := a.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	b.node.awaitSaid(t, "dead "+a.Instance())
	if b.Alive(a.Instance()) {
		t.Error("who has left is alive")
	}
	if s, err := c.session("durable"); err != nil || s.Owner != "" || !s.Due.IsZero() || s.Epoch != epoch {
		t.Errorf("durable session after Leave: %+v, %v; want offline for good", s, err)
	}
	if _, err := c.session("not"); !errors.Is(err, store.ErrGone) {
		t.Errorf("session that isn't durable after Leave: %v, want ErrGone", err)
	}
	if got := a.node.count("expelled"); got != 0 {
		t.Error("who has left was expelled")
	}
	if err := a.Leave(ctx); err != nil {
		t.Errorf("the second Leave: %v", err)
	}
	if err := b.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{"feed", "meta", "q:{durable}:" + fmt.Sprint(epoch), "s:{durable}", "sessions", "w:{not}", "wills"}
	if got := c.allKeys(); !slices.Equal(got, want) {
		t.Errorf("left behind: %q, want %q", got, want)
	}
}

func TestKickYieldReleased(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a, b := c.start(longLease), c.start(longLease)
	c.claim(a.Instance(), "c", true, 10, nil)
	if err := b.Kick(ctx, "nobody"); !errors.Is(err, store.ErrGone) {
		t.Errorf("Kick of nobody: %v, want ErrGone", err)
	}
	if err := b.Kick(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	a.node.awaitSaid(t, "kicked c")

	epoch := c.claim(b.Instance(), "c", true, 10, nil)
	yield := fmt.Sprintf("yield c %d false %s", epoch, b.Instance())
	a.node.awaitSaid(t, yield)
	a.Released("c", epoch, b.Instance())
	b.node.awaitSaid(t, fmt.Sprintf("released c %d", epoch))
	a.Released("c", epoch, "gone") // to nobody

	c.add(c.keys.ctl(a.Instance()), "of", "a later version")
	c.client.HDel(ctx, c.keys.leases())
	c.client.HSet(ctx, c.keys.owners(), "d", "gone")
	if err := b.Kick(ctx, "d"); !errors.Is(err, store.ErrGone) {
		t.Errorf("Kick at an instance that is gone: %v, want ErrGone", err)
	}
	c.awaitRedis("empty ctl stream", func(ctx context.Context) bool {
		return c.client.XLen(ctx, c.keys.ctl(a.Instance())).Val() == 0
	})
	if a.node.count("kicked c") != 1 || a.node.count(yield) != 1 {
		t.Errorf("said %q, want each once", a.node.said)
	}
}

func TestReleasesWait(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	a, x := c.startBehind(longLease)
	b := c.start(longLease)
	x.Cut()
	const n = 3 * releasesPage
	for i := range n {
		a.Released(fmt.Sprint("c", i), 1, b.Instance())
		a.Released(fmt.Sprint("c", i), uint64(i+2), b.Instance()) // the later epoch is the one that counts
	}
	x.Heal()
	b.node.await(t, "all releases", func() bool { return b.node.countLocked("released*") >= n })
	for i := range n {
		if b.node.count(fmt.Sprintf("released c%d %d", i, i+2)) != 1 {
			t.Fatalf("c%d was not released once", i)
		}
	}
	var r releases
	r.init()
	for i := range maxReleases {
		r.put(release{fmt.Sprint(i), "x"}, 1)
	}
	if r.put(release{"one more", "x"}, 1) || !r.put(release{"0", "x"}, 2) {
		t.Error("the bound on releases doesn't hold")
	}
}

func TestClients(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a, b := c.start(longLease), c.start(longLease)
	for i := range 25 {
		c.claim([]*player{a, b}[i%2].Instance(), fmt.Sprintf("c%02d", i), i%3 == 0, 10, nil)
	}
	c.client.HSet(ctx, c.keys.session("c03"), "own", "") // is going offline just now
	c.client.Del(ctx, c.keys.session("c04"))
	var got []string
	sessions := sessionsView{&Store{redis: c.client, keys: c.keys}}
	for q := (store.SessionQuery{Connected: true, Limit: 4}); ; {
		page, err := sessions.List(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Sessions {
			got = append(got, s.ID.ClientID)
			if want := []*player{a, b}[(len(got)+1)%2].Instance(); len(got) > 3 && s.Owner != want {
				t.Errorf("%s is held by %s, want %s", s.ID.ClientID, s.Owner, want)
			}
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if len(got) != 23 || !slices.IsSorted(got) || slices.Contains(got, "c03") || slices.Contains(got, "c04") {
		t.Errorf("clients: %q", got)
	}
}

// A Leave that has failed may be repeated, and then does what it had left; one that has
// succeeded does nothing more.
func TestLeaveAgain(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	m, x := c.startBehind(longLease)
	c.claim(m.Instance(), "c", true, 100, nil)
	left := 0
	m.left = func() { left++ }
	x.Cut()
	for range 2 {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		if err := m.Leave(short); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("while it is cut off: got %v", err)
		}
		cancel()
	}
	if s, err := c.session("c"); err != nil || s.Owner != m.Instance() || left != 0 {
		t.Errorf("a Leave that failed: session %+v, %v, left %d times", s, err, left)
	}
	x.Heal()
	for range 2 {
		if err := m.Leave(ctx); err != nil {
			t.Errorf("got %v", err)
		}
	}
	if s, err := c.session("c"); err != nil || s.Owner != "" || s.Due.IsZero() {
		t.Errorf("session: %+v, %v; want it offline", s, err)
	}
	if left != 1 {
		t.Errorf("left %d times", left)
	}
	for _, key := range []string{c.keys.ctl(m.Instance()), c.keys.inbox(m.Instance()), c.keys.own(m.Instance()), c.keys.dead()} {
		if c.client.Exists(ctx, key).Val() != 0 {
			t.Errorf("%s is left behind", key)
		}
	}
	if err := c.client.ZScore(ctx, c.keys.leases(), m.Instance()).Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("its lease: %v", err)
	}
}
