package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// askTimeout is how long a node of a Redis Cluster may take to say where a slot is,
// before another one is asked.
const askTimeout = time.Second

// slotMaster leads clients to the master of one hash slot of a Redis Cluster, as a
// Sentinel leads them to its master. All keys of a Store are in that slot: so a
// script is as atomic as on a single Redis, and what names no key (TIME, INFO, WAIT)
// asks the server that has them.
//
// The library's own client of a Redis Cluster doesn't do: it repeats a command not
// only where it was redirected but also where it has failed, and it opens connections
// to servers that become the master later, which then has not been given a
// generation.
//
// Here a connection is opened to the server that is the master at that moment. Once a
// command was redirected, those opened before are not used again, and the next one
// is preceded by the question who the master is. It is safe for concurrent use.
type slotMaster struct {
	key     string        // a key of the slot
	options redis.Options // for asking a node

	// redirections is how often commands were redirected. Connections that were opened
	// when there were fewer are outdated.
	redirections atomic.Uint64

	mu struct {
		sync.Mutex
		nodes  []string // some of the Redis Cluster, in the order in which they are asked
		master string   // empty: isn't known
	}
}

var _ redis.Hook = (*slotMaster)(nil)

// newSlotMaster returns a slotMaster that asks the nodes of the options.
func newSlotMaster(key string, options redis.UniversalOptions) *slotMaster {
	s := &slotMaster{key: key, options: *options.Simple()}
	s.options.PoolSize = 1
	s.options.DialTimeout = min(options.DialTimeout, askTimeout)
	s.options.ReadTimeout = min(options.ReadTimeout, askTimeout)
	s.mu.nodes = slices.Clone(options.Addrs)
	return s
}

// client returns a client of whatever server is the master.
func (s *slotMaster) client(options redis.UniversalOptions) redis.UniversalClient {
	client := redis.NewClient(options.Simple())
	client.AddHook(s)
	return client
}

// DialHook opens connections to the master, whatever the address.
func (s *slotMaster) DialHook(dial redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		redirections := s.redirections.Load() // first: what comes amid the rest outdates it
		master, err := s.find(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := dial(ctx, network, master)
		if err != nil {
			s.forget()
			return nil, err
		}
		return &slotConn{Conn: conn, of: s, redirections: redirections}, nil
	}
}

// ProcessHook notes redirections.
func (s *slotMaster) ProcessHook(process redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := process(ctx, cmd)
		s.note(err)
		return err
	}
}

// ProcessPipelineHook notes redirections.
func (s *slotMaster) ProcessPipelineHook(process redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := process(ctx, cmds)
		for _, cmd := range cmds {
			s.note(cmd.Err())
		}
		return err
	}
}

// note takes what a command failed with. While the slot is on its way to another
// server (ASK, TRYAGAIN) its master is still the same.
func (s *slotMaster) note(err error) {
	if err == nil {
		return
	}
	if _, moved := redis.IsMovedError(err); moved {
		s.redirections.Add(1)
		s.forget()
	}
}

// forget has the next one who opens a connection ask, and another node first.
func (s *slotMaster) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.master != "" {
		s.mu.master = ""
		s.mu.nodes = append(s.mu.nodes[1:], s.mu.nodes[0])
	}
}

// find returns the address of the master.
func (s *slotMaster) find(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // the others want to know the same
	if s.mu.master != "" {
		return s.mu.master, nil
	}
	var wrong []error
	for range s.mu.nodes {
		master, err := s.ask(ctx, s.mu.nodes[0])
		if err == nil {
			s.mu.master = master
			return master, nil
		}
		wrong = append(wrong, err)
		s.mu.nodes = append(s.mu.nodes[1:], s.mu.nodes[0])
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("find the master of a hash slot: %w", errors.Join(wrong...))
}

// ask asks a node for the address of the master.
func (s *slotMaster) ask(ctx context.Context, node string) (string, error) {
	options := s.options
	options.Addr = node
	client := redis.NewClient(&options)
	defer client.Close()
	slot, err := client.ClusterKeySlot(ctx, s.key).Result()
	if err != nil {
		return "", fmt.Errorf("%s: %w", node, err)
	}
	ranges, err := client.ClusterSlots(ctx).Result() //nolint:staticcheck // CLUSTER SHARDS says more than is needed, and where the master is less plainly
	if err != nil {
		return "", fmt.Errorf("%s: %w", node, err)
	}
	for _, r := range ranges {
		if int(slot) < r.Start || int(slot) > r.End || len(r.Nodes) == 0 {
			continue
		}
		host, port, err := net.SplitHostPort(r.Nodes[0].Addr) // the master is the first
		if err != nil {
			return "", fmt.Errorf("%s: address of a master: %w", node, err)
		}
		if host == "" { // the same as was asked
			host, _, _ = net.SplitHostPort(node)
		}
		return net.JoinHostPort(host, port), nil
	}
	return "", fmt.Errorf("%s: hash slot %d has no master", node, slot)
}

// slotConn is a connection to what was the master when it was opened. It says that it
// is broken when it may not be any more: the library asks when it takes one from the
// pool.
type slotConn struct {
	net.Conn
	of           *slotMaster
	redirections uint64
}

var errOutdated = errors.New("redisstore: the hash slot may have another master now")

// SyscallConn is what the library looks at. The error makes it close the connection.
func (c *slotConn) SyscallConn() (syscall.RawConn, error) {
	if c.redirections != c.of.redirections.Load() {
		return nil, errOutdated
	}
	if conn, ok := c.Conn.(syscall.Conn); ok {
		return conn.SyscallConn()
	}
	return unseen{}, nil
}

// unseen stands for the socket under TLS, whose bytes say nothing by themselves.
type unseen struct{}

func (unseen) Control(func(uintptr)) error    { return nil }
func (unseen) Read(func(uintptr) bool) error  { return nil }
func (unseen) Write(func(uintptr) bool) error { return nil }
