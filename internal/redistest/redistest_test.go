package redistest

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestServerKeepsItsDataWhenKilled(t *testing.T) {
	s := Start(t)
	ctx := context.Background()
	if err := s.Client().Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if err := s.Client().Ping(ctx).Err(); err == nil {
		t.Fatal("the server answers after Kill")
	}
	s.Kill() // does nothing
	s.Restart()
	if got, err := s.Client().Get(ctx, "k").Result(); got != "v" {
		t.Fatalf("k = %q, %v after a restart, want v", got, err)
	}
	if want := "redis://" + s.Addr + "/0"; s.URL() != want {
		t.Errorf("URL = %q, want %q", s.URL(), want)
	}
}

func TestServerStopsAndGoesOn(t *testing.T) {
	s := Start(t, "maxmemory 64mb")
	s.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Client().Ping(ctx).Err(); err == nil {
		t.Fatal("the server answers after Stop")
	}
	s.Cont()
	if err := s.Client().Ping(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	if got := s.Client().ConfigGet(context.Background(), "maxmemory").Val()["maxmemory"]; got != "67108864" {
		t.Errorf("maxmemory = %q, want that of the directive", got)
	}
}

func TestSentinelFailover(t *testing.T) {
	s := StartSentinel(t)
	ctx := context.Background()
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: masterName, SentinelAddrs: s.Addrs()})
	defer client.Close()
	if err := client.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	old := s.Master()
	old.Replicated()
	next := s.Failover()
	if next == old || s.Master() != next {
		t.Fatal("the master is the former one")
	}
	if got := next.Client().Get(ctx, "k").Val(); got != "v" {
		t.Fatalf("k = %q at the new master, want v", got)
	}
	if err := next.Client().Set(ctx, "k", "w", 0).Err(); err != nil {
		t.Fatalf("the new master takes no writes: %v", err)
	}
	if want := "redis+sentinel://" + strings.Join(s.Addrs(), ",") + "/loopmq"; s.URL() != want {
		t.Errorf("URL = %q, want %q", s.URL(), want)
	}
}

func TestCluster(t *testing.T) {
	c := StartCluster(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	defer client.Close()
	for i := range 100 {
		if err := client.Set(context.Background(), fmt.Sprint(i), "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range c.Servers {
		if n := s.Client().DBSize(context.Background()).Val(); n == 0 {
			t.Errorf("%s has no key of 100", s.Addr)
		}
	}
}

func TestClusterReplicaTakesOver(t *testing.T) {
	c := StartCluster(t)
	ctx := context.Background()
	old := c.Master("k")
	if err := old.Client().Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	replica := c.AddReplica(old)
	old.Kill()
	await(t, "the replica as the master", func(context.Context) bool { return c.Master("k") == replica })
	await(t, "what the master had", func(ctx context.Context) bool { return replica.Client().Get(ctx, "k").Val() == "v" })
	if want := "redis+cluster://" + strings.Join(c.Addrs(), ",") + "/"; c.URL() != want {
		t.Errorf("URL = %q, want %q", c.URL(), want)
	}
}

func TestClusterSlotMoves(t *testing.T) {
	c := StartCluster(t)
	ctx := context.Background()
	from, to := c.Master("k"), c.Servers[0]
	if from == to {
		to = c.Servers[1]
	}
	if err := from.Client().Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	c.Move("k", to, func() {
		if got := from.Client().Get(ctx, "k").Val(); got != "v" {
			t.Errorf("amid the move: k = %q, want v", got)
		}
		if err := from.Client().Get(ctx, "{k}2").Err(); err == nil || !strings.HasPrefix(err.Error(), "ASK ") {
			t.Errorf("amid the move: %v, want ASK", err)
		}
	})
	if got := to.Client().Get(ctx, "k").Val(); got != "v" || c.Master("k") != to {
		t.Errorf("k = %q at the new master, want v", got)
	}
}

// failing is a test that notes why it fails instead of failing.
type failing struct {
	*testing.T
	message string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failure runs f and returns what it failed with.
func failure(t *testing.T, f func(TB)) string {
	t.Helper()
	tb := &failing{T: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(tb)
	}()
	<-done
	return tb.message
}

func TestFailuresSayWhatToDo(t *testing.T) {
	if got := failure(t, func(tb TB) { Start(tb, "no-such-directive yes") }); !strings.Contains(got, "redis.conf") {
		t.Errorf("a bad directive: %q, want what to run to see it", got)
	}
	if got := failure(t, func(tb TB) { Start(tb, "dbfilename a/b", "appenddirname a/b") }); got == "" {
		t.Error("a bad directive passed")
	}
	t.Setenv("PATH", "")
	if got := failure(t, func(tb TB) { Start(tb) }); !strings.Contains(got, "apt-get install redis-server") {
		t.Errorf("without a redis-server: %q, want how to install it", got)
	}
}

func TestPortOfAnother(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := Start(t)
	s.Kill()
	if err := s.configure(l.Addr().(*net.TCPAddr).Port, nil, nil); err != nil {
		t.Fatal(err)
	}
	// The listener takes connections and says nothing; the server ends.
	s.client = redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, ReadTimeout: 100 * time.Millisecond})
	if got := failure(t, func(tb TB) { s.t = tb; s.Restart() }); !strings.Contains(got, "address in use") {
		t.Errorf("%q, want address in use", got)
	}
	other := Start(t)
	s.Addr, s.client = other.Addr, other.client
	if err := s.run(); err == nil {
		t.Error("the answer of another server passed for its own")
	}
}
