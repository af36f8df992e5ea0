package redisstore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/redistest"
	"loopmq/store"
)

func TestURLsThatAreWrong(t *testing.T) {
	for url, want := range map[string][]string{
		"http://h":           {`"http"`, "redis+sentinel"},
		"redis://h/x":        {`"x"`, "number of a database"},
		"redis://":           {"no host"},
		"redis://h?a=%z":     {"parameters"},
		"redis://h:p:1\x7f":  {"can't be read"},
		"redis+sentinel://h": {"name of the master"},
		"redis://h?bogus=1&pool=0&ack=none&away=no&lease=1&timeout=x&max_bytes=-1&prefix=&node=": {
			`"bogus"`, "ack, away, ca, cert, key, lease, max_bytes, node, pool, prefix",
			`pool is "0"; allowed: 1 to 10000`, `ack is "none"; allowed: memory, store, or store+replicas:N`,
			`away is "no"; allowed: closed or degraded`, `lease is "1"; allowed: 50ms to 1h0m0s, with a unit, as in 1s`,
			`timeout is "x"; allowed: 10ms to 1h0m0s`, `max_bytes is "-1"`,
			`prefix is ""`, `node is ""`,
		},
		"redis://h?ack=store+replicas:0": {"N > 0"},
		"redis://user:secret@h?prefix={": {"without braces"},
		"redis://h?prefix={}:":           {"with a hash tag"},
		"redis://h?max_bytes=1MB":        {"as in 100MiB"},
		"redis://h?max_bytes=9999999TiB": {"as in 100MiB"},
		"redis://user:se#cret@h":         {"# is written as %23"},
		"redis://user:12#secret@h":       {"# is written as %23"},
		"redis://user:12/secret@h":       {"/ as %2F"},
		"redis://user:12?secret@h":       {"? as %3F"},
		"redis://user:12?lease=secret@h": {"? as %3F"},
		"redis://user:12%secret@h":       {"% as %25"},
		"redis+cluster://h/1":            {"one database"},
		"redis+cluster://h?prefix=lmq:":  {"with a hash tag, as in {lmq}:"},
		"redis://h?ca=f":                 {"begins with rediss"},
		"rediss://h?cert=f":              {"cert and key; allowed: both or none"},
		"rediss://h?key=f&ca=":           {"both or none", `ca is ""; allowed: the name of a file`},
		"redis://h?node=a&node=a":        {"parameter node comes 2 times; allowed: once"},
	} {
		if err := CheckURL(url); err == nil {
			t.Errorf("%s: passes for right", url)
		}
		s, err := NewStore(t.Context(), url, Options{})
		if err == nil {
			_ = s.Close()
			t.Errorf("%s: no error", url)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %q, want %q in it", url, err, part)
			}
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password", url)
		}
	}
}

func TestURLsThatAreRight(t *testing.T) {
	c, err := parseURL("rediss://me:secret@host/3?prefix=p:&ack=store+replicas:2&away=degraded&lease=500ms&pool=7&max_bytes=1000&node=n&timeout=1s")
	if err != nil {
		t.Fatal(err)
	}
	if c.redis.Addrs[0] != "host:6379" || c.redis.DB != 3 || c.redis.Username != "me" || c.redis.Password != "secret" || c.redis.PoolSize != 7 ||
		c.redis.TLSConfig == nil || c.redis.TLSConfig.ServerName != "host" || c.redis.ReadTimeout != time.Second || c.redis.MaxRetries != -1 {
		t.Errorf("client: got %+v", c.redis)
	}
	if c.prefix != "p:" || c.ack != ackReplicas || c.replicas != 2 || !c.degraded || c.lease != 500*time.Millisecond || c.maxBytes != 1000 || c.node != "n" {
		t.Errorf("got %+v", c)
	}
	c, err = parseURL("redis+sentinel://a,b:1,[::1]:2,[::2]/main?sentinel_username=u&sentinel_password=p&ack=memory&away=closed")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.redis.Addrs, " "); got != "a:26379 b:1 [::1]:2 [::2]:26379" || c.redis.MasterName != "main" ||
		c.redis.SentinelUsername != "u" || c.redis.SentinelPassword != "p" || c.ack != ackMemory {
		t.Errorf("sentinel: got %q, %+v", got, c)
	}
	c, err = parseURL("rediss+cluster://u:p@a,b:1/?timeout=2s")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.redis.Addrs, " "); got != "a:6379 b:1" || !c.cluster || c.prefix != "{lmq}:" || c.redis.Username != "u" ||
		c.redis.TLSConfig == nil || c.redis.TLSConfig.ServerName != "" {
		t.Errorf("cluster: got %q, %+v", got, c)
	}
	if c, err := parseURL("redis+cluster://h?prefix=a{b}c:"); err != nil || c.prefix != "a{b}c:" {
		t.Errorf("cluster: got %+v, %v", c, err)
	}
	for v, want := range map[string]int64{"1": 1, "5KiB": 5 << 10, "100MiB": 100 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		if c, err := parseURL("redis://h?max_bytes=" + v); err != nil || c.maxBytes != want {
			t.Errorf("max_bytes=%s: got %d, %v", v, c.maxBytes, err)
		}
	}
	if c, err := parseURL("redis://u:p@s%23s@h"); err != nil || c.redis.Password != "p@s#s" || c.redis.Addrs[0] != "h:6379" {
		t.Errorf("password: got %q, %v", c.redis.Password, err)
	}
	if c, err := parseURL("redis+sentinel://h/main?sentinel_password=a@b"); err != nil || c.redis.SentinelPassword != "a@b" {
		t.Errorf("password of the Sentinels: got %q, %v", c.redis.SentinelPassword, err)
	}
	if c, err := parseURL("redis://h?ack=store"); err != nil || c.ack != ackStore || c.prefix != "lmq:" || c.lease != 5*time.Second {
		t.Errorf("defaults: got %+v, %v", c, err)
	}
}

// A number never names two messages, even if Redis loses what it had given out.
func TestNumbersAreNotGivenOutAgainAfterALoss(t *testing.T) {
	r := redistest.Start(t, "appendonly no")
	f := newFixture(t, open(t, r, ""))
	se := f.session("c")
	q := store.QueueOf(se.ID)
	kept := f.commit(publish("kept", se))[0].Targets[0].Number
	group := publish("group")
	group.Targets = []store.Target{{Queue: store.GroupQueue("s", "f"), QoS: 1}}
	f.commit(group)
	if err := r.Client().Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	seen := map[store.Number]bool{kept: true}
	for round := range 3 {
		for range 3 {
			n := f.commit(publish(fmt.Sprint("lost", round), se))[0].Targets[0].Number
			if seen[n] {
				t.Errorf("number %v names a second message", n)
			}
			seen[n] = true
		}
		r.Kill()
		r.Restart() // as it was saved
		if got := f.payloads(q); got != "kept" {
			t.Fatalf("after the loss: got %q", got)
		}
	}
	n := f.commit(publish("last", se))[0].Targets[0].Number
	if seen[n] || n.Seq != 1 || n.Generation <= kept.Generation {
		t.Errorf("got number %v after %v", n, kept)
	}
	_, _, last, err := f.Messages().Len(t.Context(), q)
	if err != nil || last != n {
		t.Errorf("last number %v, want %v (%v)", last, n, err)
	}
}

// A commit fails while Redis is away, nothing piles up, and it works again after.
func TestRedisGoesAwayAndComesBack(t *testing.T) {
	r := redistest.Start(t)
	f := newFixture(t, open(t, r, "&timeout=500ms"))
	se := f.session("c")
	batch := &store.Batch{Ops: []store.Op{publish("m", se)}}
	r.Kill()
	if err := f.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "can be reached") {
		t.Errorf("Commit: got %v", err)
	}
	if _, err := f.Sessions().Claim(t.Context(), store.Claim{ClientID: "d"}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Claim: got %v", err)
	}
	for what, err := range map[string]error{
		"Read":       second(f.Messages().Read(t.Context(), store.QueueOf(se.ID), store.Number{}, 1, 0)),
		"List":       second(f.Sessions().List(t.Context(), store.SessionQuery{Limit: 1})),
		"Lookup":     second(f.Sessions().Lookup(t.Context(), "c")),
		"Expired":    second(f.Sessions().Expired(t.Context(), f.Now(), 1)),
		"Of":         second(f.Subscriptions().Of(t.Context(), se.ID)),
		"Subscribed": second(f.Subscriptions().List(t.Context(), "", 1)),
		"Retained":   second(f.Retained().Read(t.Context(), []string{"t"})),
		"Topics":     second(f.Retained().List(t.Context(), "", 1)),
		"Wills":      second(f.Wills().Due(t.Context(), f.Now(), 1)),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	await(t, "health to be bad", func() bool { return errors.Is(f.Health(), store.ErrUnavailable) })
	r.Restart()
	if err := f.w.Commit(t.Context(), batch); err != nil {
		t.Errorf("Commit: %v", err)
	}
	if got := f.payloads(store.QueueOf(se.ID)); got != "m" {
		t.Errorf("queue: got %q", got)
	}
	await(t, "health to be good", func() bool { return f.Health() == nil })
	r.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.w.Commit(ctx, batch); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a Redis that doesn't answer: got %v", err)
	}
	r.Cont()
}

func second[T any](_ T, err error) error { return err }

// await returns when cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestMemoryIsRefusedInTime(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	f := newFixture(t, open(t, r, ""))
	se := f.session("c")
	numbers := []store.Number{f.commit(publish("m", se))[0].Targets[0].Number}
	// So little that Redis itself refuses all that needs memory.
	if err := r.Client().ConfigSet(t.Context(), "maxmemory", "100kb").Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "memory to be short", func() bool { return errors.Is(f.Health(), errFull) })
	retain := store.Op{Kind: store.OpRetain, Message: message("x")}
	held := publish("held")
	held.Session, held.Epoch, held.PacketID = se.ID, se.Epoch, 1
	ops := f.commit(publish("m", se), retain, held, publish("nobody"),
		store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: numbers}, store.Op{Kind: store.OpRetain, Message: message("")})
	for i, want := range []store.Result{store.Full, store.Full, store.Done, store.Done, store.Done, store.Done} {
		if ops[i].Result != want {
			t.Errorf("operation %d: got %v, want %v", i, ops[i].Result, want)
		}
	}
	if ops[0].Targets[0].Result != store.Full {
		t.Errorf("target: got %v", ops[0].Targets[0].Result)
	}
	if got := f.payloads(store.QueueOf(se.ID)); got != "" {
		t.Errorf("queue: got %q", got)
	}
	r.Client().ConfigSet(t.Context(), "maxmemory", "0")
	await(t, "memory", func() bool { return f.Health() == nil })
	if got := f.commit(publish("m", se))[0].Result; got != store.Done {
		t.Errorf("with room again: got %v", got)
	}
	small := newFixture(t, open(t, r, "&max_bytes=1&away=degraded&ack=memory"))
	if !small.Degraded() || !small.AcknowledgesEarly() || f.Degraded() || f.AcknowledgesEarly() {
		t.Error("away or ack of the URL is lost")
	}
	if got := small.commit(retain)[0].Result; got != store.Full {
		t.Errorf("max_bytes: got %v", got)
	}
}

// The limit holds between two looks too, whoever writes: what was written is counted.
func TestMemoryStaysBelowItsLimit(t *testing.T) {
	const room, size, allowed = 16 << 20, 200_000, 3 << 20
	r := redistest.Start(t, "appendonly no")
	used := func() int64 { return atoi(parseInfo(r.Client().Info(t.Context(), "memory").Val())["used_memory"]) }
	for _, targets := range []int{1, 12} { // one copy each, and one for all
		limit := used() + room
		var nodes []*fixture
		for range 3 {
			nodes = append(nodes, newFixture(t, open(t, r, fmt.Sprint("&max_bytes=", limit))))
		}
		var writing sync.WaitGroup
		for i, f := range nodes {
			var sessions []store.Session
			for j := range targets {
				sessions = append(sessions, f.session(fmt.Sprint("c", i, j)))
			}
			writing.Go(func() {
				done, refused := 0, 0
				for range 3 * room / size {
					b := &store.Batch{Ops: []store.Op{publish(strings.Repeat("x", size), sessions...)}}
					if err := f.w.Commit(t.Context(), b); err != nil {
						t.Error(err)
						return
					}
					if b.Ops[0].Result == store.Full {
						refused++
						continue
					}
					done++
				}
				if done == 0 || refused == 0 {
					t.Errorf("%d targets: %d done, %d refused, want some of both", targets, done, refused)
				}
			})
		}
		writing.Wait()
		if n := used(); n > limit+allowed || n < limit-room/2 {
			t.Errorf("%d targets: %d bytes are used, the limit is %d", targets, n, limit)
		}
		for _, f := range nodes {
			await(t, "health to be bad", func() bool { return errors.Is(f.Health(), errFull) })
			_ = f.Close()
		}
		if err := r.Client().FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRedisThatMayLoseMessagesIsWarnedOf(t *testing.T) {
	risky := redistest.Start(t, "appendonly no", "maxmemory-policy allkeys-lru")
	safe := redistest.Start(t)
	for _, tt := range []struct {
		r    *redistest.Server
		want []string
	}{{risky, []string{"redis_evicts", "redis_forgets"}}, {safe, nil}} {
		var log strings.Builder
		s, err := NewStore(t.Context(), tt.r.URL(), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		if got := strings.Count(log.String(), "level=WARN"); got != len(tt.want) {
			t.Errorf("%d warnings, want %d: %s", got, len(tt.want), log.String())
		}
		for _, event := range tt.want {
			if !strings.Contains(log.String(), event) {
				t.Errorf("no %s in %s", event, log.String())
			}
		}
	}
}

func TestAdvice(t *testing.T) {
	r := redistest.Start(t)
	if err := r.Client().ConfigSet(t.Context(), "requirepass", "secret").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := NewStore(t.Context(), r.URL(), Options{})
	if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "put user and password into the URL") {
		t.Errorf("without a password: got %v", err)
	}
	_, err = NewStore(t.Context(), strings.Replace(r.URL(), "://", "://:wrong@", 1), Options{})
	if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "look at user and password") {
		t.Errorf("wrong password: got %v", err)
	}
	// One that is not a master, and one that can't write.
	f := newFixture(t, func() *Store {
		s, err := NewStore(t.Context(), strings.Replace(r.URL(), "://", "://:secret@", 1), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}())
	se := f.session("c")
	if err := f.redis.Do(t.Context(), "CONFIG", "SET", "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := f.w.Commit(t.Context(), &store.Batch{Ops: []store.Op{publish("m", se)}}); !errors.Is(err, store.ErrUnavailable) ||
		!strings.Contains(err.Error(), "fewer replicas") {
		t.Errorf("without replicas: got %v", err)
	}
	f.redis.Do(t.Context(), "CONFIG", "SET", "min-replicas-to-write", "0")
	if got := f.payloads(store.QueueOf(se.ID)); got != "" {
		t.Errorf("a refused script has left %q", got)
	}
	if err := failed("x", errors.New("ERR other")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// The rights that docs/cluster.md names are enough for what nodes do with each other,
// waiting for a replica included; TestStore has the rest.
func TestRightsOfTheUser(t *testing.T) {
	r, replica := redistest.Start(t, "repl-diskless-sync-delay 0"), redistest.Start(t)
	if err := replica.Client().ReplicaOf(t.Context(), "127.0.0.1", fmt.Sprint(r.Port())).Err(); err != nil {
		t.Fatal(err)
	}
	r.Replicated()
	url := withRights(t, r, "lmq:", "+wait")
	stays, dies := joinAt(t, url+"?ack=store+replicas:1"), joinAt(t, url+"?lease=400ms")
	session := stays.claim(t, "c").Session
	dies.claim(t, "d")
	w := stays.NewWriter("w")
	commit(t, w, store.Op{Kind: store.OpRoute, TopicFilters: []string{"r"}})
	commit(t, w, store.Op{
		Kind: store.OpSubscribe, Session: session.ID, Epoch: session.Epoch,
		Subscriptions: []store.Subscription{{TopicFilter: "$share/g/t", Options: codec.SubscriptionOptions{QoS: 1}}},
	})
	if got := commit(t, w, publish("m", session)).Result; got != store.Done {
		t.Errorf("publish: got %v", got)
	}
	if err := stays.sweep(t.Context(), stays.Now()); err != nil {
		t.Error(err)
	}
	if err := dies.Kick(t.Context(), "c"); err != nil {
		t.Error(err)
	}
	stays.node.awaitSaid(t, "kicked c")
	if clients, err := dies.Sessions().List(t.Context(), store.SessionQuery{Connected: true, Limit: 10}); err != nil || len(clients.Sessions) != 2 {
		t.Errorf("clients: got %v, %v", clients, err)
	}
	if _, err := dies.Ask(t.Context(), stays.Instance(), []byte("?")); err != nil {
		t.Error(err)
	}
	if list, err := dies.Instances(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("instances: got %v, %v", list, err)
	}
	ban := store.Ban{Kind: "k", Value: "v"}
	if err := stays.Bans().Put(t.Context(), ban, 1); err != nil {
		t.Error(err)
	}
	if bans, err := stays.Bans().List(t.Context(), "", 10); err != nil || len(bans) != 1 {
		t.Errorf("bans: got %v, %v", bans, err)
	}
	if removed, err := stays.Bans().Remove(t.Context(), ban.Name(), time.Time{}); err != nil || !removed {
		t.Errorf("ban: removed %t, %v", removed, err)
	}
	stays.claim(t, "d")
	dies.node.awaitSaid(t, "yield d *")
	dies.Released("d", 1, stays.Instance())
	// It stops renewing its lease, and the other takes offline what it had.
	dies.claim(t, "e")
	dies.Member.(*member).end()
	stays.node.awaitSaid(t, "dead "+dies.Instance())
	if err := stays.Leave(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is missing of the rights is named.
func TestMissingRights(t *testing.T) {
	r := redistest.Start(t)
	rights := []any{"ACL", "SETUSER", "loopmq", "on", ">secret", "~lmq:*", "+@all", "-@admin", "-@dangerous", "+info"}
	if err := r.Client().Do(t.Context(), rights...).Err(); err != nil {
		t.Fatal(err)
	}
	j := joinAt(t, strings.Replace(r.URL(), "://", "://loopmq:secret@", 1))
	session := j.claim(t, "c").Session
	w := j.NewWriter("w")
	if got := commit(t, w, publish("m", session)).Result; got != store.Done {
		t.Errorf("publish: got %v", got)
	}
	for _, missing := range []string{"-xadd", "-evalsha"} {
		if err := r.Client().Do(t.Context(), "ACL", "SETUSER", "loopmq", missing).Err(); err != nil {
			t.Fatal(err)
		}
		err := w.Commit(t.Context(), &store.Batch{Ops: []store.Op{publish("m", session)}})
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "docs/cluster.md") {
			t.Errorf("with %s: got %v", missing, err)
		}
	}
	if _, err := NewStore(t.Context(), strings.Replace(r.URL(), "://", "://loopmq:secret@", 1), Options{}); !errors.Is(err, ErrUnusable) {
		t.Errorf("opened: got %v, want ErrUnusable", err)
	}
	r.Client().Do(t.Context(), rights...)
}

func TestAdviceOnCertificates(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	_, err := NewStore(t.Context(), "rediss://"+server.Listener.Addr().String(), Options{})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "ca=FILE") {
		t.Errorf("unknown CA: got %v", err)
	}
	if got := advice(fmt.Errorf("dial: %w", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"})); !strings.Contains(got, "as its certificate does") {
		t.Errorf("another name: got %s", got)
	}
}

func TestReplicasAreWaitedFor(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	f := newFixture(t, open(t, master, "&ack=store+replicas:1&timeout=1s"))
	clean := func(c store.Claim) (store.Claimed, error) { return f.Sessions().Claim(t.Context(), c) }
	if _, err := clean(store.Claim{ClientID: "c", Durable: true}); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "0 of 1 replicas") {
		t.Errorf("claim without a replica: got %v", err)
	}
	claimed, err := clean(store.Claim{ClientID: "c", Durable: true})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("claim without a replica: got %v", err)
	}
	if err := replica.Client().ReplicaOf(t.Context(), "127.0.0.1", fmt.Sprint(master.Port())).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "the replica", func() bool {
		claimed, err = clean(store.Claim{ClientID: "c", Durable: true})
		return err == nil
	})
	se := claimed.Session
	replica.Stop()
	batch := &store.Batch{Ops: []store.Op{publish("m", se)}}
	if err := f.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a replica that stands still: got %v", err)
	}
	// The batch is at the master, but a repetition has to wait for the replica too,
	// though it comes on a connection that has written nothing.
	if err := master.Client().ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "a new connection", func() bool { return f.redis.Ping(t.Context()).Err() == nil })
	if err := f.w.Commit(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "0 of 1 replicas") {
		t.Errorf("repeated: got %v", err)
	}
	replica.Cont()
	if err := f.w.Commit(t.Context(), batch); err != nil {
		t.Errorf("repeated: got %v", err)
	}
	if got := replica.Client().XLen(t.Context(), f.keys.queue(store.QueueOf(se.ID))).Val(); got != 1 {
		t.Errorf("%d entries at the replica, want 1", got)
	}
}

func TestMissingReplicasAreToldOf(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	var log lockedBuilder
	s, err := NewStore(t.Context(), master.URL()+"?ack=store+replicas:1&timeout=1s", Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, s)
	if got := strings.Count(log.String(), "level=WARN msg=redis_lacks_replicas replicas=0 needed=1"); got != 1 {
		t.Errorf("%d warnings at start, want 1: %s", got, log.String())
	}
	const reason = "ack=store+replicas:1, but 0 replicas are connected"
	if err := f.Health(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), reason) {
		t.Errorf("health: got %v", err)
	}
	if _, err := f.Sessions().Claim(t.Context(), store.Claim{ClientID: "c"}); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), reason) {
		t.Errorf("claim: got %v", err)
	}
	if err := replica.Client().ReplicaOf(t.Context(), "127.0.0.1", fmt.Sprint(master.Port())).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "health to be good", func() bool { return f.Health() == nil })
	replica.Kill()
	await(t, "health to be bad", func() bool { return f.Health() != nil })
	if got := strings.Count(log.String(), "redis_lacks_replicas"); got != 2 || !strings.Contains(log.String(), "redis_has_replicas") {
		t.Errorf("%d warnings, want 2, and one event between: %s", got, log.String())
	}
}

func TestAcknowledgedCountsWhatHasAll(t *testing.T) {
	for _, tt := range []struct {
		reply any
		want  int64
	}{{int64(2), 2}, {[]any{int64(1), int64(2)}, 2}, {[]any{int64(0), int64(2)}, 0}, {[]any{}, 0}, {nil, 0}} {
		if got := acknowledged(tt.reply); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.reply, got, tt.want)
		}
	}
	s := &Store{config: config{replicas: 2}}
	s.config.redis.ReadTimeout = time.Second
	if got := fmt.Sprint(s.wait()); got != "[WAIT 2 500]" {
		t.Errorf("got %s", got)
	}
	s.hasWaitAOF = true
	if got := fmt.Sprint(s.wait()); got != "[WAITAOF 1 2 500]" {
		t.Errorf("got %s", got)
	}
}

func TestVersions(t *testing.T) {
	for _, tt := range []struct {
		version string
		want    bool
	}{{"7.0.15", false}, {"7.2.0", true}, {"8.0", true}, {"10.1.1", true}, {"6.2.1", false}, {"", false}} {
		if got := atLeast(tt.version, 7, 2); got != tt.want {
			t.Errorf("%s: got %t", tt.version, got)
		}
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	var c clock
	now := time.Now()
	c.set(now.Add(time.Hour), now, now)
	// The wall clock, by which it is set, may differ from the monotonic one by a little.
	if got := c.now().Sub(now); got < time.Hour-time.Second || got > time.Hour+time.Minute {
		t.Errorf("an hour ahead: got %v", got)
	}
	ahead := c.now()
	c.set(now, now, now)
	if got := c.now(); got.Before(ahead) {
		t.Errorf("went back from %v to %v", ahead, got)
	}
}

func TestScriptsSayWhatTheyTake(t *testing.T) {
	files, err := filepath.Glob("lua/*.lua")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(text), "\n\n")
		if !strings.HasPrefix(head, "-- ") || strings.Contains(string(text), "\nlocal "+"KEYS") {
			t.Errorf("%s doesn't open with a comment", name)
		}
		if strings.Contains(string(text), "ARGV[1]") && !strings.Contains(head, "ARGV[1]") && !strings.Contains(string(text[:2000]), "-- ARGV[1]") {
			t.Errorf("%s doesn't say what ARGV[1] is", name)
		}
	}
}
