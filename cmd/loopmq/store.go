package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

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

// openStore opens the store that v, in which there are no storeProblems, names.
func openStore(ctx context.Context, v string, logger *slog.Logger) (store.Store, error) {
	if isRedis(v) {
		st, err := redisstore.NewStore(ctx, v, redisstore.Options{Logger: logger})
		if err != nil {
			return nil, err
		}
		return st, nil
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
