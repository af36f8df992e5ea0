package redisstore

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/internal/redistest"
	"loopmq/store"
	"loopmq/store/storetest"
)

// openCluster opens a Store on a Redis Cluster.
func openCluster(t testing.TB, c *redistest.Cluster, parameters string) *Store {
	t.Helper()
	s, err := NewStore(t.Context(), c.URL()+"?"+parameters, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreOnARedisCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, "appendfsync no")
	open := func(t *testing.T, prefix string) store.Store { return openCluster(t, c, "prefix="+prefix) }
	storetest.Run(t, func(t *testing.T) store.Store {
		return open(t, fmt.Sprintf("{t%d}:", prefixes.Add(1)))
	}, storetest.Capabilities{
		Reopen: func(t *testing.T, s store.Store) store.Store {
			old := s.(*Store)
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, old.config.prefix)
		},
	})
	for _, s := range c.Servers {
		if n := s.Client().DBSize(t.Context()).Val(); n == 0 {
			t.Errorf("%s was not used: the stores had about 100 prefixes", s.Addr)
		}
	}
}

// Two instances of one prefix see each other, and nothing of those with another.
func TestMembersOnARedisCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, "appendfsync no")
	join := func(parameters string) (*fixture, store.Member, *node) {
		f := newFixture(t, openCluster(t, c, parameters))
		n := newNode()
		m, err := f.Join(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return f, m, n
	}
	here, hereMember, hereNode := join("")
	there, thereMember, thereNode := join("")
	_, otherMember, otherNode := join("prefix={other}:")
	if hereMember.Alone() || !otherMember.Alone() {
		t.Errorf("alone: got %t with another, %t without", hereMember.Alone(), otherMember.Alone())
	}

	se := there.session("c")
	there.commit(store.Op{
		Kind: store.OpSubscribe, Session: se.ID, Epoch: se.Epoch, Subscriptions: []store.Subscription{{TopicFilter: "t"}},
	})
	hereNode.await(t, "subscription", func() bool {
		for _, c := range hereNode.changes {
			if c.Kind == store.ChangeSubscribed && c.Session == se.ID {
				return true
			}
		}
		return false
	})
	here.commit(publish("m", se))
	thereNode.await(t, "hint", func() bool { return len(thereNode.news) == 1 && string(thereNode.news[0].Message.Payload) == "m" })
	if err := hereMember.Kick(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	thereNode.awaitSaid(t, "kicked c")
	if clients, err := here.Sessions().List(t.Context(), store.SessionQuery{Limit: 10}); err != nil || len(clients.Sessions) != 1 || clients.Sessions[0].Owner != thereMember.Instance() {
		t.Errorf("clients: got %+v, %v", clients, err)
	}
	if err := otherMember.Kick(t.Context(), "c"); !errors.Is(err, store.ErrGone) {
		t.Errorf("kick with another prefix: got %v", err)
	}
	if err := thereMember.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	hereNode.awaitSaid(t, "dead "+thereMember.Instance())
	if len(otherNode.changes) != 0 || otherNode.count("*") != 0 {
		t.Errorf("with another prefix: got %v, %v", otherNode.changes, otherNode.said)
	}
}

// repeater publishes and commits again what failed.
type repeater struct {
	*fixture
	se   store.Session
	want []string
	seen map[store.Number]bool
}

func (r *repeater) publish() {
	r.t.Helper()
	payload := fmt.Sprint(len(r.want))
	r.want = append(r.want, payload)
	batch := &store.Batch{Ops: []store.Op{publish(payload, r.se)}}
	await(r.t, "a commit", func() bool {
		err := r.w.Commit(r.t.Context(), batch)
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			r.t.Fatalf("got %v", err)
		}
		return err == nil
	})
	n := batch.Ops[0].Targets[0].Number
	if r.seen[n] {
		r.t.Errorf("number %v names a second message", n)
	}
	r.seen[n] = true
}

// check compares the queue with what was committed. It returns how many generations
// there were.
func (r *repeater) check() int {
	r.t.Helper()
	var got []string
	generations := map[uint64]bool{}
	for _, e := range r.entries(store.QueueOf(r.se.ID)) {
		got = append(got, string(e.Message.Payload))
		generations[e.Number.Generation] = true
	}
	if fmt.Sprint(got) != fmt.Sprint(r.want) {
		r.t.Errorf("queue: got %v, want %v", got, r.want)
	}
	return len(generations)
}

// What was acknowledged with a replica is there after the master of the hash slot was
// killed, and the new one gives no number twice. The instance goes on.
func TestRedisClusterFailover(t *testing.T) {
	c := redistest.StartCluster(t)
	old := c.Master("{lmq}:")
	replica := c.AddReplica(old)
	f := newFixture(t, openCluster(t, c, "ack=store+replicas:1&timeout=2s&lease=1m"))
	n := newNode()
	m, err := f.Join(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &repeater{fixture: f, se: f.session("c"), seen: map[store.Number]bool{}}
	for range 5 {
		r.publish()
	}
	// The replica that is to be waited for is the new master: it has none itself.
	second := c.AddReplica(old)
	began := time.Now()
	old.Kill()
	for range 5 {
		r.publish()
	}
	t.Logf("%v until commits went on", time.Since(began))
	if master := c.Master("{lmq}:"); master != replica && master != second {
		t.Errorf("the master is %s", master.Addr)
	}
	if got := r.check(); got < 2 { // where computing time is short, the new master may be replaced too
		t.Errorf("%d generations, want 2", got)
	}
	if n.count("expelled") != 0 {
		t.Error("the instance was expelled")
	}
	// Its readers have found the new master as well.
	if err := m.Kick(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	n.awaitSaid(t, "kicked c")
}

// While the hash slot is on its way to another server scripts are refused as a whole;
// then commits go on there, with a new generation, on connections of before too.
func TestRedisClusterSlotMoves(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	f := newFixture(t, openCluster(t, c, ""))
	r := &repeater{fixture: f, se: f.session("c"), seen: map[store.Number]bool{}}
	r.publish()
	from := c.Master("{lmq}:")
	to := otherThan(from, c)
	length := func() int64 { return from.Client().XLen(t.Context(), f.keys.queue(store.QueueOf(r.se.ID))).Val() }
	batch := &store.Batch{Ops: []store.Op{publish("1", r.se), {Kind: store.OpRetain, Message: message("new topic")}}}
	c.Move("{lmq}:", to, func() {
		before := length()
		if err := f.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "is being moved") {
			t.Errorf("amid a move: got %v", err)
		}
		if got := length(); got != before {
			t.Errorf("amid a move: a refused commit has added %d entries", got-before)
		}
	})
	r.want = append(r.want, "1")
	await(t, "the commit", func() bool { return f.w.Commit(t.Context(), batch) == nil })
	r.publish()
	if got := r.check(); got != 2 {
		t.Errorf("%d generations, want 2", got)
	}
	await(t, "health", func() bool { return f.Health() == nil })
	if master, err := f.slot.find(t.Context()); err != nil || master != to.Addr {
		t.Errorf("the master is %s (%v), want %s", master, err, to.Addr)
	}
}

// otherThan returns a master other than one. It isn't the first either: the library by
// itself gives up connections that are redirected to the address of its options.
func otherThan(s *redistest.Server, c *redistest.Cluster) *redistest.Server {
	if s == c.Servers[1] {
		return c.Servers[2]
	}
	return c.Servers[1]
}

// Who was led to a wrong server finds the right one after the first command that was
// redirected, alone or in a pipeline.
func TestRedirectionOutdatesConnections(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, "appendfsync no")
	const key = "{lmq}:k"
	config, err := parseURL(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func(redis.UniversalClient) error{
		"command": func(client redis.UniversalClient) error { return client.Exists(t.Context(), key).Err() },
		"pipeline": func(client redis.UniversalClient) error {
			pipe := client.Pipeline()
			pipe.Exists(t.Context(), key)
			_, err := pipe.Exec(t.Context())
			return err
		},
	} {
		master := newSlotMaster(key, config.redis)
		master.mu.master = otherThan(c.Master(key), c).Addr
		client := master.client(config.redis)
		defer client.Close()
		if _, moved := redis.IsMovedError(ask(client)); !moved {
			t.Fatalf("%s: the test is wrong: it went to the right server", name)
		}
		if err := ask(client); err != nil {
			t.Errorf("%s: after a redirection: got %v", name, err)
		}
	}
}

// A connection whose bytes are under TLS is usable until it is outdated.
func TestConnectionUnderTLSIsOutdated(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	master := newSlotMaster("k", redis.UniversalOptions{})
	conn := &slotConn{Conn: near, of: master}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(raw.Read(nil), raw.Write(nil), raw.Control(nil)); err != nil {
		t.Error(err)
	}
	master.redirections.Add(1)
	if _, err := conn.SyscallConn(); !errors.Is(err, errOutdated) {
		t.Errorf("got %v", err)
	}
}

// One node that doesn't answer, and one that answers and isn't in a cluster, don't hide
// the others.
func TestNodesOfARedisClusterAreAskedInTurn(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, "appendfsync no")
	single := redistest.Start(t, "appendfsync no")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	url := func(addrs ...string) string { return "redis+cluster://" + strings.Join(addrs, ",") + "/?timeout=500ms" }
	s, err := NewStore(t.Context(), url(closed.Addr().String(), silent.Addr().String(), single.Addr, c.Servers[1].Addr), Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	newFixture(t, s).session("c")

	_, err = NewStore(t.Context(), url(closed.Addr().String(), single.Addr), Options{Logger: quiet})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), closed.Addr().String()) || !strings.Contains(err.Error(), "cluster support disabled") {
		t.Errorf("no node of a cluster: got %v", err)
	}
	for _, server := range c.Servers {
		for _, prefix := range []string{"lmq:", "{lmq}:"} {
			_, err = NewStore(t.Context(), server.URL()+"?prefix="+prefix, Options{Logger: quiet})
			if err == nil || !strings.Contains(err.Error(), "redis+cluster") {
				t.Errorf("a node without its cluster: got %v", err)
			}
		}
	}
}

// Without another master the Redis Cluster serves nothing, unless it is told to.
func TestRedisClusterWithoutAnotherMaster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	f := newFixture(t, openCluster(t, c, "timeout=1s"))
	se := f.session("c")
	master := c.Master("{lmq}:")
	otherThan(master, c).Kill()
	var err error
	await(t, "a refusal", func() bool {
		err = f.w.Commit(t.Context(), &store.Batch{Ops: []store.Op{publish("m", se)}})
		return err != nil
	})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "CLUSTER INFO") {
		t.Errorf("got %v", err)
	}
	await(t, "health to be bad", func() bool { return errors.Is(f.Health(), store.ErrUnavailable) })
	if err := master.Client().ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "health to be good", func() bool { return f.Health() == nil })
	f.commit(publish("m", se))
}
