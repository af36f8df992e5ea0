package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/codec"
	"loopmq/internal/redistest"
	"loopmq/store"
)

// subscribe gives a durable session a subscription.
func (c *cluster) subscribe(clientID, topicFilter string) {
	c.t.Helper()
	s := store.Subscription{TopicFilter: topicFilter, Options: codec.SubscriptionOptions{QoS: 1}}
	c.client.HSet(context.Background(), c.keys.subscriptions(clientID), topicFilter, appendSubscription(nil, &s))
}

func TestLapsedInstanceIsReapedOnce(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a, x := c.startBehind(shortLease)
	b, d := c.start(shortLease), c.start(shortLease)

	var members []string
	for i := range 3*reapPage + 7 {
		clientID := fmt.Sprintf("c{%03d}%%", i)
		c.claim(a.Instance(), clientID, true, 100, nil)
		if i%2 == 0 {
			c.subscribe(clientID, "$share/g/a")
			members = append(members, clientID)
		} else {
			c.subscribe(clientID, "share/g/a")
		}
	}
	will := func(delay uint32) *store.Will {
		return &store.Will{Message: store.Message{TopicName: []byte("w")}, DelayInterval: delay}
	}
	epochs := map[string]uint64{
		"delay":    c.claim(a.Instance(), "delay", true, 100, will(30)),
		"interval": c.claim(a.Instance(), "interval", true, 100, will(500)),
		"forever":  c.claim(a.Instance(), "forever", true, 0xFFFFFFFF, will(500)),
		"not":      c.claim(a.Instance(), "not", false, 0, will(30)),
	}
	c.claim(a.Instance(), "moved", true, 100, will(0))
	moved := c.claim(b.Instance(), "moved", true, 100, nil)
	a.node.awaitSaid(t, "yield moved*")

	c.client.SAdd(ctx, c.keys.routes(a.Instance()), "a/b")
	c.client.HSet(ctx, c.keys.writers(a.Instance()), "w", "1")

	from := c.client.Time(ctx).Val()
	x.Cut()
	for _, p := range []*player{b, d} {
		p.node.awaitSaid(t, "dead "+a.Instance())
		if p.Alive(a.Instance()) {
			t.Error("the dead is alive")
		}
	}
	to := c.client.Time(ctx).Val()

	reapers := 0
	for _, p := range []*player{b, d} {
		p.node.mu.Lock()
		var got []string
		for _, s := range p.node.orphaned {
			if s.Owner != "" || !s.Durable || s.Due.IsZero() {
				t.Errorf("orphan %+v: want offline and due", s)
			}
			got = append(got, s.ID.ClientID)
		}
		p.node.mu.Unlock()
		if len(got) > 0 {
			reapers++
			if slices.Sort(got); !slices.Equal(got, members) {
				t.Errorf("%d orphans, want the %d members of the group, each once", len(got), len(members))
			}
		}
	}
	if reapers != 1 {
		t.Errorf("%d instances have reaped, want 1", reapers)
	}
	due := func(what string, got, seconds float64) {
		t.Helper()
		low, high := float64(from.UnixMilli())+1000*seconds, float64(to.UnixMilli())+1000*seconds
		if got < low || got > high {
			t.Errorf("%s is due %v s after the death, want %v", what, (got-low)/1000+seconds, seconds)
		}
	}
	for clientID, seconds := range map[string]float64{"delay": 30, "interval": 100, "forever": 500, "not": 0} {
		member := fmt.Sprintf("%d:%s", epochs[clientID], clientID)
		due("Will of "+clientID, c.client.ZScore(ctx, c.keys.wills(), member).Val(), seconds)
	}
	due("session", c.client.ZScore(ctx, c.keys.expiry(), "delay").Val(), 100)
	if s, err := c.session("forever"); err != nil || s.Owner != "" || !s.Due.IsZero() {
		t.Errorf("session that never expires: %+v, %v", s, err)
	}
	if _, err := c.session("not"); !errors.Is(err, store.ErrGone) {
		t.Errorf("session that isn't durable: %v, want ErrGone", err)
	}
	if s, err := c.session("moved"); err != nil || s.Owner != b.Instance() || s.Epoch != moved || !s.Due.IsZero() {
		t.Errorf("session that had moved: %+v, %v; want it as it was", s, err)
	}
	if got := c.client.HLen(ctx, c.keys.owners()).Val(); got != 1 {
		t.Errorf("%d clients have an owner, want the one that had moved", got)
	}
	for _, key := range []string{
		c.keys.own(a.Instance()), c.keys.ctl(a.Instance()), c.keys.inbox(a.Instance()), c.keys.routes(a.Instance()),
		c.keys.writers(a.Instance()), c.keys.dead(),
	} {
		if c.client.Exists(ctx, key).Val() != 0 {
			t.Errorf("%s is left behind", key)
		}
	}

	// When it comes back it learns that it is dead, and from nothing else.
	if got := a.node.count("expelled"); got != 0 {
		t.Error("expelled while it was cut off")
	}
	x.Heal()
	a.node.awaitSaid(t, "expelled")
	a.wg.Wait()
	if err := a.Leave(ctx); err != nil {
		t.Errorf("Leave of one that was expelled: %v", err)
	}
	if n := a.node.count("expelled"); n != 1 {
		t.Errorf("expelled %d times", n)
	}
}

func TestReaperDiesHalfway(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	a, another := c.start(shortLease), c.start(longLease)
	x := newProxy(t, c.server.Addr)
	reaper := c.join(c.config(x.addr, shortLease))
	half, block := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(block) })
	reaper.node.orphans = func([]store.Session) bool {
		close(half)
		<-block // as a process does that was halted
		return true
	}
	if err := reaper.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	for i := range reapPage + 1 {
		clientID := fmt.Sprint("c", i)
		c.claim(a.Instance(), clientID, true, 100, nil)
		c.subscribe(clientID, "$share/g/a")
		want[clientID] = 0
	}
	a.end() // renews no more
	<-half
	// One of those that the reaper has taken offline connects again before anybody else knows.
	back := c.claim(another.Instance(), "c0", true, 100, nil)
	delete(want, "c0")
	c1, _ := c.session("c1")
	x.Cut()
	last := c.start(shortLease)
	if last.Alive(a.Instance()) {
		t.Error("who joins takes an instance for alive that is being reaped")
	}
	last.node.awaitSaid(t, "dead "+a.Instance())
	last.node.awaitSaid(t, "dead "+reaper.Instance())
	for _, p := range []*player{last, another} {
		p.node.mu.Lock()
		for _, s := range p.node.orphaned {
			want[s.ID.ClientID]++
		}
		p.node.mu.Unlock()
	}
	for clientID, n := range want {
		if clientID != "c0" && n != 1 {
			t.Errorf("%s was handed over %d times to who finished, want once", clientID, n)
		}
	}
	if s, err := c.session("c0"); err != nil || s.Owner != another.Instance() || s.Epoch != back || want["c0"] != 0 {
		t.Errorf("session that had connected again: %+v, %v, handed over %d times; want it left alone", s, err, want["c0"])
	}
	if s, err := c.session("c1"); err != nil || !s.Due.Equal(c1.Due) {
		t.Errorf("session that was offline already: %+v, %v; want it due at %v", s, err, c1.Due)
	}
}

// What a session that went offline was still to give back to its groups when its instance died is not forgotten, nor what whoever was
// told of it could not give back either.
func TestUnfinishedGivingIsInherited(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	a := c.start(shortLease)
	s, err := NewStore(t.Context(), c.server.URL()+"?prefix="+c.keys.prefix, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, s)
	f.joined.Store(&membership{instance: a.Instance(), feed: a.feed, committed: new(committed), died: func() {}})
	offline := func(clientID string, gives, gave bool) {
		t.Helper()
		se, err := c.session(clientID)
		if err != nil {
			t.Fatal(err)
		}
		op := f.commit(store.Op{Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch, Gives: gives, Gave: gave})[0]
		if op.Result != store.Done {
			t.Fatalf("offline: %v", op.Result)
		}
	}
	for _, clientID := range []string{"gives", "gave", "plain"} {
		c.claim(a.Instance(), clientID, true, 100, nil)
		c.subscribe(clientID, "$share/g/a")
		offline(clientID, clientID != "plain", false)
	}
	offline("gave", false, true)

	tries := 0
	b := c.join(c.config(c.server.Addr, shortLease))
	b.node.orphans = func([]store.Session) bool { tries++; return tries > 1 }
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.end() // renews no more
	b.node.awaitSaid(t, "dead "+a.Instance())
	b.node.mu.Lock()
	defer b.node.mu.Unlock()
	var got []string
	for _, s := range b.node.orphaned {
		got = append(got, s.ID.ClientID)
	}
	if !slices.Equal(got, []string{"gives", "gives"}) {
		t.Errorf("handed over %q, want the one that had not given, until it has", got)
	}
}

func TestOutageReapsNobody(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	const lease = time.Second
	a := c.start(lease)
	b, x := c.startBehind(lease)
	c.claim(b.Instance(), "b", true, 100, nil)
	x.Cut()
	c.server.Stop()
	<-time.After(lease + lease/2) // both leases lapse: the outage is what takes time here
	c.server.Cont()
	// The first to be back finds that the other one's lease has lapsed.
	a.node.awaitSaid(t, "reread")
	x.Heal()
	b.node.awaitSaid(t, "reread")
	// By now one that thought it may reap would have done so: both renew for longer than a lease.
	until := time.Now().Add(lease + lease/2)
	c.awaitRedis("renewals", func(ctx context.Context) bool {
		if leases := c.client.ZCard(ctx, c.keys.leases()).Val(); leases != 2 {
			t.Fatalf("%d leases, want 2", leases)
		}
		return time.Now().After(until)
	})
	for _, p := range []*player{a, b} {
		if p.node.count("dead*")+p.node.count("expelled") != 0 {
			t.Errorf("%s was told %q", p.Instance(), p.node.said)
		}
	}
	if s, err := c.session("b"); err != nil || s.Owner != b.Instance() {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestLeaveLeavesOrphansToAnother(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a := c.start(longLease)
	for i := range reapPage + 5 {
		clientID := fmt.Sprintf("c%03d", i)
		c.claim(a.Instance(), clientID, true, 100, nil)
		if i == 3 || i == reapPage+2 {
			c.subscribe(clientID, "$share/g/a")
		}
	}
	if err := a.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if n := c.client.HLen(ctx, c.keys.owners()).Val(); n != 0 {
		t.Errorf("%d clients have an owner after Leave, want none", n)
	}
	if n := c.client.ZCard(ctx, c.keys.own(a.Instance())).Val(); n != 2 {
		t.Errorf("%d sessions are left to another, want 2", n)
	}
	// A lease of its own is enough to reap one that is dead already.
	b := c.start(longLease)
	b.node.awaitSaid(t, "dead "+a.Instance())
	if len(b.node.orphaned) != 2 || b.node.orphaned[0].ID.ClientID != "c003" {
		t.Errorf("orphans: %+v", b.node.orphaned)
	}
}

func TestRestartedNodeReplacesItsFormerSelf(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	named := func(name string) *player {
		config := c.config(c.server.Addr, longLease)
		config.name = name
		p := c.join(config)
		if err := p.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	former, other, unnamed := named("n1"), named("n1-a"), c.start(longLease)
	c.claim(former.Instance(), "c", true, 100, nil)
	former.end() // killed
	now := named("n1")
	if now.Alive(former.Instance()) || !now.Alive(other.Instance()) || !now.Alive(unnamed.Instance()) {
		t.Error("Alive is wrong")
	}
	other.node.awaitSaid(t, "dead "+former.Instance())
	if s, err := c.session("c"); err != nil || s.Owner != "" {
		t.Errorf("%+v, %v", s, err)
	}
}

// Of two live nodes with the same name the second one doesn't get in. If it does, as both
// join at the same moment, the first is told why it is expelled.
func TestNodesWithTheSameName(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	url := server.URL() + "?lease=2s&node=n1"
	var log lockedBuilder
	open := func() *Store {
		s, err := NewStore(t.Context(), url, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	first := joinAt(t, url)
	second := open()
	for range 2 {
		if _, err := second.Join(t.Context(), newNode()); !errors.Is(err, ErrNameTaken) || errors.Is(err, store.ErrUnavailable) ||
			!strings.Contains(err.Error(), first.Instance()) {
			t.Fatalf("got %v, want ErrNameTaken", err)
		}
	}
	if n := first.node.count("expelled"); n != 0 {
		t.Error("the first one was expelled")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := second.Join(cancelled, newNode()); err == nil || errors.Is(err, ErrNameTaken) {
		t.Errorf("cancelled: got %v", err)
	}
	// The first one leaves, and comes back unnoticed.
	if err := first.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := second.Join(t.Context(), newNode())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Client().ZAdd(t.Context(), second.keys.leases(), redis.Z{Score: 1e15, Member: "n1-0123"}).Err(); err != nil {
		t.Fatal(err)
	}
	m.(*member).expel("reaped")
	await(t, "the reason", func() bool { return strings.Contains(log.String(), "the same name node=n1; names must be unique") })
}

// lockedBuilder is a strings.Builder for several goroutines.
type lockedBuilder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestWhoMayBeDeclaredDead(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a, b := c.start(longLease), c.start(longLease)
	a.end() // neither renews nor reaps by itself
	b.end()
	runID := c.client.HGet(ctx, c.keys.meta(), "run_id").Val()
	lapse := func(instance string) { c.client.ZAdd(ctx, c.keys.leases(), redis.Z{Score: 1, Member: instance}) }
	for _, test := range []struct {
		what  string
		given func(victim string)
		runID string
		want  bool
	}{
		{"one that lives", func(v string) { c.client.ZAdd(ctx, c.keys.leases(), redis.Z{Score: 1e15, Member: v}) }, runID, false},
		{"one that lapsed", lapse, runID, true},
		{"one that lapsed at another Redis process", lapse, "other", false},
		{"one that nobody knows", func(string) {}, runID, false},
		{"a dead one whose reaper lives", func(v string) { c.client.HSet(ctx, c.keys.dead(), v, b.Instance()) }, runID, false},
		{"a dead one whose reaper is dead", func(v string) { c.client.HSet(ctx, c.keys.dead(), v, "gone") }, runID, true},
		{"its own", func(v string) { c.client.HSet(ctx, c.keys.dead(), v, a.Instance()) }, runID, true},
		{"one that lapsed as the reaper has", func(v string) { lapse(v); lapse(a.Instance()) }, runID, false},
	} {
		victim := strings.ReplaceAll(test.what, " ", "-")
		test.given(victim)
		got, err := buryScript.Run(ctx, c.client, nil, c.keys.prefix, a.Instance(), victim, test.runID).Bool()
		if err != nil || got != test.want {
			t.Errorf("%s: declared dead %v, %v; want %v", test.what, got, err, test.want)
		}
		reaper := c.client.HGet(ctx, c.keys.dead(), victim).Val()
		if test.want && reaper != a.Instance() {
			t.Errorf("%s: its reaper is %q", test.what, reaper)
		}
		c.client.ZRem(ctx, c.keys.leases(), victim)
		c.client.HDel(ctx, c.keys.dead(), victim)
	}
}

func TestFormerReaperStops(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	ctx := context.Background()
	a, b := c.start(longLease), c.start(longLease)
	a.end() // neither renews nor reaps by itself
	b.end()
	c.client.ZAdd(ctx, c.keys.leases(), redis.Z{Score: 1, Member: "dead"})
	c.claim("dead", "c", true, 100, nil)
	c.client.ZRem(ctx, c.keys.leases(), "dead")
	c.client.HSet(ctx, c.keys.dead(), "dead", b.Instance())
	if page, err := a.reapOnePage(ctx, "dead", 0, nil); err == nil {
		t.Errorf("one that isn't the reaper any more got a page: %+v", page)
	}
	if s, err := c.session("c"); err != nil || s.Owner != "dead" {
		t.Errorf("%+v, %v; want it untouched", s, err)
	}
	for _, p := range []*player{a, b} { // b has not taken the session offline yet
		if err := p.finish(ctx, "dead"); err != nil || !c.client.HExists(ctx, c.keys.dead(), "dead").Val() {
			t.Errorf("finish: %v, or the tombstone is gone", err)
		}
	}
	if _, err := b.reapOnePage(ctx, "dead", 0, nil); err != nil {
		t.Fatal(err)
	}
	_ = a.finish(ctx, "dead")
	if !c.client.HExists(ctx, c.keys.dead(), "dead").Val() {
		t.Error("the tombstone went without its reaper")
	}
	if err := b.finish(ctx, "dead"); err != nil || c.client.HExists(ctx, c.keys.dead(), "dead").Val() {
		t.Errorf("finish: %v, or the tombstone is still there", err)
	}
}
