package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"loopmq/store"
)

// The client library writes to standard error whatever it can't connect to, besides
// returning it.
func init() { logging.Disable() }

const (
	// watchInterval is how often the clock, the memory and the replicas of Redis are
	// looked at.
	watchInterval = time.Second
)

// newName returns a name that no other process and no other call gets.
func newName(what string) string { return what + "-" + rand.Text()[:12] }

// connect makes the client. Each new connection sees to it that this Redis process
// has a generation of its own before anything is written through it.
func (s *Store) connect() {
	options := s.config.redis
	options.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		err := generationScript.Run(ctx, conn, s.declared).Err()
		if options.MasterName != "" && redis.HasErrorPrefix(err, "unknown command") {
			return nil // a Sentinel: the library asks it by the same options
		}
		if err != nil {
			return fmt.Errorf("see which Redis this is: %w", err)
		}
		return nil
	}
	s.redis = s.newClient(options)
}

// newClient makes a client of the Redis that the URL names.
func (s *Store) newClient(options redis.UniversalOptions) redis.UniversalClient {
	if s.slot != nil {
		return s.slot.client(options)
	}
	return redis.NewUniversalClient(&options)
}

// inspect looks at Redis once, warns of what may lose messages, and starts the
// clock.
func (s *Store) inspect(ctx context.Context) error {
	if err := s.look(ctx); err != nil {
		return s.opening(err)
	}
	text, err := s.redis.Info(ctx).Result()
	if err != nil {
		return s.opening(err)
	}
	info := parseInfo(text)
	if !atLeast(info["redis_version"], 7, 0) {
		return fmt.Errorf("redisstore: this is Redis %s; version 7.0 or newer is needed", info["redis_version"])
	}
	if info["cluster_enabled"] == "1" && s.slot == nil {
		return errors.New("redisstore: this is a node of a Redis Cluster: let the URL begin with redis+cluster")
	}
	s.hasWaitAOF = info["aof_enabled"] == "1" && atLeast(info["redis_version"], 7, 2)
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		s.log.Warn("redis_evicts", "maxmemory_policy", policy, "risk", "keys are deleted when memory is short", "advice", "set maxmemory-policy noeviction")
	}
	if info["aof_enabled"] == "0" {
		s.log.Warn("redis_forgets", "risk", "a restart of Redis loses what was acknowledged", "advice", "set appendonly yes")
	}
	if atoi(info["connected_slaves"]) > 0 && info["min_slaves_good_slaves"] == "" {
		s.log.Warn("redis_splits", "risk", "a master that is cut off takes writes that are lost later", "advice", "set min-replicas-to-write 1")
	}
	s.countReplicas(ctx)
	return nil
}

// atLeast compares a version of Redis.
func atLeast(version string, major, minor int64) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	return atoi(first) > major || atoi(first) == major && atoi(second) >= minor
}

// watch looks at Redis's clock and memory until ctx ends. While Redis is away the
// clock goes on by itself.
func (s *Store) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		look, cancel := context.WithTimeout(ctx, watchInterval)
		if err := failed("look at Redis", s.look(look)); err == nil {
			s.away.Store(nil)
			s.countReplicas(look)
			if err := s.sweep(look, s.Now()); err != nil && look.Err() == nil {
				s.log.Warn("sweep_messages", "error", err)
			}
		} else if ctx.Err() == nil {
			s.away.Store(&err)
		}
		cancel()
	}
}

func (s *Store) look(ctx context.Context) error {
	// In a Redis Cluster only what names a key shows whether this is its master and can
	// serve it.
	if err := s.redis.Exists(ctx, s.keys.meta()).Err(); err != nil {
		return err
	}
	before := time.Now()
	now, err := s.redis.Time(ctx).Result()
	if err != nil {
		return err
	}
	s.clock.set(now, before, time.Now())
	if err := s.room.look(ctx, s.redis); err != nil {
		return err
	}
	if full, changed := s.room.settle(); changed {
		used, limit := s.room.used.Load(), s.room.limit.Load()
		if full {
			s.log.Error("redis_full", "used_memory", used, "limit", limit, "effect", "messages that have to be stored are refused")
		} else {
			s.log.Info("redis_has_room", "used_memory", used, "limit", limit)
		}
	}
	return nil
}

// countReplicas looks whether there are as many replicas as have to have what is
// acknowledged, and says so when that changes.
func (s *Store) countReplicas(ctx context.Context) {
	if s.config.ack != ackReplicas {
		return
	}
	text, err := s.redis.Info(ctx, "replication").Result()
	if err != nil {
		return // the next look finds out
	}
	n, asked := strings.Count(text, ",state=online,"), s.config.replicas
	few := s.fewReplicas.Load()
	switch {
	case n >= asked:
		if s.fewReplicas.Swap(nil) != nil {
			s.log.Info("redis_has_replicas", "replicas", n, "needed", asked)
		}
	case few == nil || few.replicas != n:
		s.fewReplicas.Store(&errFewReplicas{n, asked})
		if few == nil {
			s.log.Warn("redis_lacks_replicas", "replicas", n, "needed", asked, "effect", "connections and messages that have to be stored are refused",
				"advice", "look whether the replicas run, or ask for fewer (ack=store+replicas:N in the URL)")
		}
	}
}

// parseInfo reads what INFO answers.
func parseInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			info[name] = value
		}
	}
	return info
}

func atoi(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// clock is Redis's clock. It never goes back.
type clock struct {
	offset atomic.Int64 // Redis's clock less this one's, in ns
	last   atomic.Int64 // what now returned last, in µs
}

// set takes what Redis's clock said between two moments here.
func (c *clock) set(redis, before, after time.Time) {
	c.offset.Store(int64(redis.Sub(before.Add(after.Sub(before) / 2))))
}

func (c *clock) now() time.Time {
	now := time.Now().Add(time.Duration(c.offset.Load())).UnixMicro()
	for {
		last := c.last.Load()
		if now <= last {
			return time.UnixMicro(last)
		}
		if c.last.CompareAndSwap(last, now) {
			return time.UnixMicro(now)
		}
	}
}

// run runs a script that changes something, and waits until that is as safe as the
// URL asks for.
func (s *Store) run(ctx context.Context, script *redis.Script, args []any) ([]any, error) {
	if s.config.ack != ackReplicas {
		return script.Run(ctx, s.redis, s.declared, args...).Slice()
	}
	reply, n, err := s.runAndWait(ctx, script.EvalSha, args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		reply, n, err = s.runAndWait(ctx, script.Eval, args)
	}
	if err == nil && n < int64(s.config.replicas) {
		err = fmt.Errorf("%w: %d of %d replicas have it", store.ErrUnavailable, n, s.config.replicas)
		if few := s.fewReplicas.Load(); few != nil {
			err = fmt.Errorf("%w: %w", err, few)
		}
	}
	return reply, err
}

// runAndWait sends a script and, on the same connection, a WAIT. A batch that is
// repeated has written nothing that WAIT could wait for, so the script writes its
// results again.
func (s *Store) runAndWait(ctx context.Context, eval func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd, args []any) (reply []any, n int64, err error) {
	pipe := s.redis.Pipeline()
	cmd := eval(ctx, pipe, s.declared, args...)
	wait := pipe.Do(ctx, s.wait()...)
	_, _ = pipe.Exec(ctx)
	if reply, err = cmd.Slice(); err != nil {
		return nil, 0, err
	}
	answer, err := wait.Result()
	return reply, acknowledged(answer), err
}

// wait is the command that waits for replicas, and, where Redis has that, for the disks
// of all.
func (s *Store) wait() []any {
	timeout := s.config.redis.ReadTimeout.Milliseconds() / 2 // so that its answer comes in time
	if s.hasWaitAOF {
		return []any{"WAITAOF", 1, s.config.replicas, timeout}
	}
	return []any{"WAIT", s.config.replicas, timeout}
}

// acknowledged is how many replicas have what was written, by the answer of WAIT, or of
// WAITAOF: then the master has to have it too.
func acknowledged(answer any) int64 {
	if both, ok := answer.([]any); ok {
		if len(both) != 2 || both[0] == int64(0) {
			return 0
		}
		answer = both[1]
	}
	n, _ := answer.(int64)
	return n
}
