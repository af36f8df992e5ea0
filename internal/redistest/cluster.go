package redistest

import (
	"context"
	"strings"
)

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// Cluster is a Redis Cluster of three masters without replicas.
type Cluster struct {
	Servers [3]*Server
}

// StartCluster starts three masters, gives each a third of the slots, and waits until
// each of them serves all.
func StartCluster(t TB, directives ...string) *Cluster {
	t.Helper()
	c := &Cluster{}
	ctx := context.Background()
	for i := range c.Servers {
		s := Start(t, append([]string{"cluster-enabled yes", "cluster-node-timeout 1000"}, directives...)...)
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

func portOf(s *Server) string {
	return s.Addr[strings.LastIndexByte(s.Addr, ':')+1:]
}
