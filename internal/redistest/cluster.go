package redistest

import (
	"context"
	"strings"
)

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// Cluster is a Redis Cluster of three masters, and of replicas that were added.
type Cluster struct {
	// Servers are the masters at the start.
	Servers [3]*Server

	t          TB
	directives []string
	replicas   []*Server
}

// StartCluster starts three masters, gives each a third of the slots, and waits until
// each of them serves all.
func StartCluster(t TB, directives ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, directives: append([]string{"cluster-enabled yes", "cluster-node-timeout 1000", "repl-diskless-sync-delay 0"}, directives...)}
	ctx := context.Background()
	for i := range c.Servers {
		s := Start(t, c.directives...)
		first, last := slots*i/len(c.Servers), slots*(i+1)/len(c.Servers)-1
		if err := s.client.ClusterAddSlotsRange(ctx, first, last).Err(); err != nil {
			t.Fatalf("redistest: slots of %s: %v", s.Addr, err)
		}
		if i > 0 {
			if err := s.client.ClusterMeet(ctx, "127.0.0.1", portOf(c.Servers[0])).Err(); err != nil {
				t.Fatalf("redistest: %s meets %s: %v", s.Addr, c.Servers[0].Addr, err)
			}
		}
		c.Servers[i] = s
	}
	await(t, "Redis Cluster in which each master knows all", func(ctx context.Context) bool {
		for _, s := range c.Servers {
			info, _ := s.client.ClusterInfo(ctx).Result()
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") ||
				!strings.Contains(info, "cluster_size:3") {
				return false
			}
		}
		return true
	})
	return c
}

// Addrs are the addresses of the masters.
func (c *Cluster) Addrs() []string {
	return []string{c.Servers[0].Addr, c.Servers[1].Addr, c.Servers[2].Addr}
}

// URL is where the masters are, as a redis+cluster:// URL.
func (c *Cluster) URL() string { return "redis+cluster://" + strings.Join(c.Addrs(), ",") + "/" }

// Master returns the server that has the hash slot of a key at the moment, when all
// that run agree on it.
func (c *Cluster) Master(key string) *Server {
	c.t.Helper()
	var master *Server
	await(c.t, "master of "+key, func(ctx context.Context) bool {
		addr, agreed := "", true
		for _, s := range c.running() {
			at := s.masterOf(ctx, key)
			agreed = agreed && at != "" && (addr == "" || addr == at)
			addr = at
		}
		master = c.at(addr)
		return agreed && master != nil
	})
	return master
}

// AddReplica starts a replica of a master, which takes its place about two seconds
// after it has died, and waits until it has all that the master has.
func (c *Cluster) AddReplica(master *Server) *Server {
	c.t.Helper()
	s := Start(c.t, c.directives...)
	c.replicas = append(c.replicas, s)
	ctx := context.Background()
	id, err := master.client.Do(ctx, "CLUSTER", "MYID").Text()
	if err == nil {
		err = s.client.ClusterMeet(ctx, "127.0.0.1", portOf(master)).Err()
	}
	if err != nil {
		c.t.Fatalf("redistest: %s meets %s: %v", s.Addr, master.Addr, err)
	}
	await(c.t, "replica that knows its master", func(ctx context.Context) bool {
		return s.client.ClusterReplicate(ctx, id).Err() == nil
	})
	self, err := s.client.Do(ctx, "CLUSTER", "MYID").Text()
	if err != nil {
		c.t.Fatalf("redistest: the name of %s: %v", s.Addr, err)
	}
	// One that only its master knows is left behind when that dies: with another
	// replica there, nobody would tell it of the new master.
	await(c.t, "replica that all know, and that knows all", func(ctx context.Context) bool {
		running := c.running()
		for _, other := range running {
			nodes, _ := other.client.ClusterNodes(ctx).Result()
			if !knowsReplica(nodes, self, id) || strings.Count(nodes, "\n") < len(running) || strings.Contains(nodes, "handshake") {
				return false
			}
		}
		return true
	})
	master.Replicated()
	return s
}

// knowsReplica reports whether an answer to CLUSTER NODES has a node as the replica of
// a master.
func knowsReplica(nodes, id, master string) bool {
	for line := range strings.Lines(nodes) {
		if strings.HasPrefix(line, id) && strings.Contains(line, "slave "+master) {
			return true
		}
	}
	return false
}

// Move gives the hash slot of a key to another master, as redis-cli does, with all
// its keys. Amid that, when the slot is on its way and all keys are still at the
// former master, it calls during.
func (c *Cluster) Move(key string, to *Server, during func()) {
	c.t.Helper()
	ctx := context.Background()
	from := c.Master(key)
	slot := from.client.ClusterKeySlot(ctx, key).Val()
	do := func(s *Server, args ...any) any {
		reply, err := s.client.Do(ctx, args...).Result()
		if err != nil {
			c.t.Fatalf("redistest: %v at %s: %v", args, s.Addr, err)
		}
		return reply
	}
	fromID, toID := do(from, "CLUSTER", "MYID"), do(to, "CLUSTER", "MYID")
	do(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	do(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	during()
	for {
		keys, _ := do(from, "CLUSTER", "GETKEYSINSLOT", slot, 100).([]any)
		if len(keys) == 0 {
			break
		}
		do(from, append([]any{"MIGRATE", "127.0.0.1", portOf(to), "", 0, 5000, "KEYS"}, keys...)...)
	}
	for _, s := range []*Server{to, from} {
		do(s, "CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
}

// running are the servers that were not killed.
func (c *Cluster) running() []*Server {
	var running []*Server
	for _, s := range append(c.Servers[:], c.replicas...) {
		if s.process != nil {
			running = append(running, s)
		}
	}
	return running
}

// at returns the server with an address, or nil.
func (c *Cluster) at(addr string) *Server {
	for _, s := range c.running() {
		if s.Addr == addr {
			return s
		}
	}
	return nil
}

// masterOf is the address of the master that has the hash slot of a key, as this server
// sees it, or empty.
func (s *Server) masterOf(ctx context.Context, key string) string {
	slot := int(s.client.ClusterKeySlot(ctx, key).Val())
	ranges, _ := s.client.ClusterSlots(ctx).Result() //nolint:staticcheck // CLUSTER SHARDS says more than is needed
	for _, r := range ranges {
		if r.Start <= slot && slot <= r.End && len(r.Nodes) > 0 {
			return r.Nodes[0].Addr
		}
	}
	return ""
}

func portOf(s *Server) string {
	return s.Addr[strings.LastIndexByte(s.Addr, ':')+1:]
}
