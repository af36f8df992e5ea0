package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"loopmq/redisstore"
	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/pebble"
)

// storesAllowed is what --store may be.
const storesAllowed = "memory, or pebble:DIR, or redis://HOST:PORT/DB (rediss://, redis+sentinel://, redis+cluster://); " +
	"docs/cli.md and docs/cluster.md list the parameters behind a question mark"

// storeProblems returns all that is wrong with the name of a store, each with its value
// and what is allowed. None shows a password.
func storeProblems(v string) []string {
	location, embedded := strings.CutPrefix(v, "pebble:")
	switch {
	case v == "memory":
		return nil
	case embedded:
		_, err := pebble.ParseLocation(location)
		return linesOf("pebble: ", err)
	case isRedis(v):
		return linesOf("", redisstore.CheckURL(v))
	}
	return []string{fmt.Sprintf("%q: allowed: %s", withoutPassword(v), storesAllowed)}
}

// linesOf returns the lines of an error, none if it is nil.
func linesOf(prefix string, err error) []string {
	if err == nil {
		return nil
	}
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = prefix + lines[i]
	}
	return lines
}

// withoutPassword leaves out what a URL, though one that is written wrongly, has before
// its host.
func withoutPassword(v string) string {
	if i := strings.LastIndexByte(v, '@'); i >= 0 {
		return "…" + v[i:]
	}
	return v
}

// isRedis reports whether v is the URL of a Redis.
func isRedis(v string) bool {
	scheme, _, found := strings.Cut(v, "://")
	switch scheme {
	case "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster":
		return found
	}
	return false
}

// openStore opens the store that v, in which there are no storeProblems, names. A Redis
// that isn't there yet it waits for until ctx ends, and tells waiting each time why.
func openStore(ctx context.Context, v string, logger *slog.Logger, waiting func(why error)) (store.Store, error) {
	if isRedis(v) {
		return awaitRedis(ctx, v, logger, waiting)
	}
	location, embedded := strings.CutPrefix(v, "pebble:")
	if !embedded {
		return memory.New(memory.Options{}), nil
	}
	o, err := pebble.ParseLocation(location)
	if err != nil {
		return nil, err
	}
	o.Logger = logger
	return pebble.Open(o)
}

const (
	// redisRetry is the time from one attempt to reach Redis to the next. Nodes that were
	// started together don't come at the same time.
	redisRetry       = time.Second
	redisRetryJitter = 500 * time.Millisecond
	// redisNews is how often the log says that a node waits for Redis.
	redisNews = 5 * time.Second
)

// awaitRedis opens the store on a Redis. Who starts everything at once, such as systemd
// or Docker, starts Redis at the same time, or starts it again. What waiting can't
// cure is returned at once.
func awaitRedis(ctx context.Context, url string, logger *slog.Logger, waiting func(why error)) (store.Store, error) {
	var told time.Time
	for {
		st, err := redisstore.NewStore(ctx, url, redisstore.Options{Logger: logger})
		switch {
		case err == nil:
			return st, nil
		case !errors.Is(err, store.ErrUnavailable), errors.Is(err, redisstore.ErrUnusable):
			return nil, err
		}
		waiting(err)
		if time.Since(told) >= redisNews && ctx.Err() == nil {
			told = time.Now()
			logger.Warn("waiting_for_redis", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(redisRetry + rand.N(redisRetryJitter)):
		}
	}
}
