package redistest

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// masterName is what the Sentinels call the master.
const masterName = "loopmq"

// Sentinel is a master with a replica, and three Sentinels that watch them.
type Sentinel struct {
	// Servers are the two redis-servers; the first one was the master at the start.
	Servers [2]*Server
	// Sentinels are the three redis-servers in Sentinel mode.
	Sentinels [3]*Server

	t TB
}

// StartSentinel starts a master, a replica and three Sentinels, and waits until they
// all know each other. Directives are added to the configuration of both servers.
// The Sentinels take a server for down after 500 ms, if two agree.
func StartSentinel(t TB, directives ...string) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t}
	s.Servers[0] = Start(t, append([]string{"repl-diskless-sync-delay 0"}, directives...)...)
	master := s.Servers[0].Port()
	s.Servers[1] = Start(t, append([]string{
		"repl-diskless-sync-delay 0",
		fmt.Sprintf("replicaof 127.0.0.1 %d", master),
	}, directives...)...)
	s.Servers[0].Replicated()
	for i := range s.Sentinels {
		s.Sentinels[i] = start(t, []string{
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", masterName, master),
			fmt.Sprintf("sentinel down-after-milliseconds %s 500", masterName),
			fmt.Sprintf("sentinel failover-timeout %s 3000", masterName),
		}, "--sentinel")
	}
	await(t, "Sentinels that know each other and the replica", func(ctx context.Context) bool {
		for _, sentinel := range s.Sentinels {
			m := s.master(ctx, sentinel)
			if m["num-other-sentinels"] != "2" || m["num-slaves"] != "1" || m["flags"] != "master" {
				return false
			}
		}
		return true
	})
	return s
}

// Addrs are the addresses of the Sentinels.
func (s *Sentinel) Addrs() []string {
	return []string{s.Sentinels[0].Addr, s.Sentinels[1].Addr, s.Sentinels[2].Addr}
}

// URL is where the Sentinels are, as a redis+sentinel:// URL.
func (s *Sentinel) URL() string {
	return "redis+sentinel://" + strings.Join(s.Addrs(), ",") + "/" + masterName
}

// Master returns the server that the Sentinels take for the master at the moment.
func (s *Sentinel) Master() *Server {
	s.t.Helper()
	var master *Server
	await(s.t, "master", func(ctx context.Context) bool {
		for _, sentinel := range s.Sentinels {
			for _, server := range s.Servers {
				if s.master(ctx, sentinel)["port"] == fmt.Sprint(server.Port()) {
					master = server
					return true
				}
			}
		}
		return false
	})
	return master
}

// Failover has the Sentinels make the replica the master, as they do when the master
// is lost, and returns the new master when all of them and the servers have seen it.
// The former master lives and becomes its replica. To lose the master, Kill it
// and call Promoted.
func (s *Sentinel) Failover() *Server {
	s.t.Helper()
	old := s.Master()
	await(s.t, "Sentinel that starts a failover", func(ctx context.Context) bool {
		return s.command(ctx, s.Sentinels[0], "failover").Err() == nil
	})
	return s.Promoted(old)
}

// Promoted returns the master that has followed old, when all Sentinels have seen it
// and it takes writes.
func (s *Sentinel) Promoted(old *Server) *Server {
	s.t.Helper()
	next := s.Servers[0]
	if old == next {
		next = s.Servers[1]
	}
	await(s.t, "new master", func(ctx context.Context) bool {
		for _, sentinel := range s.Sentinels {
			if s.master(ctx, sentinel)["port"] != fmt.Sprint(next.Port()) {
				return false
			}
		}
		return next.info(ctx, "replication")["role"] == "master"
	})
	return next
}

// master is what a Sentinel knows of the master, empty if it doesn't answer.
func (s *Sentinel) master(ctx context.Context, sentinel *Server) map[string]string {
	cmd := redis.NewMapStringStringCmd(ctx, "sentinel", "master", masterName)
	_ = sentinel.client.Process(ctx, cmd)
	return cmd.Val()
}

func (s *Sentinel) command(ctx context.Context, sentinel *Server, name string) *redis.Cmd {
	return sentinel.client.Do(ctx, "sentinel", name, masterName)
}
