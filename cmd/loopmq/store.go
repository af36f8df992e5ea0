package main

import (
	"context"
	"log/slog"
	"strings"

	"loopmq/redisstore"
	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/pebble"
)

// storesAllowed is what --store may be.
const storesAllowed = "memory, or pebble:DIR with sync=always, interval or off, interval=1s, cache=32MiB, memtable=64MiB, " +
	"reserve=256MiB or max=SIZE behind a question mark, or redis://HOST:PORT/DB (rediss://, redis+sentinel://, redis+cluster://)"

// isStore reports whether v names a store.
func isStore(v string) bool {
	location, embedded := strings.CutPrefix(v, "pebble:")
	if !embedded {
		return v == "memory" || isRedis(v)
	}
	_, err := pebble.ParseLocation(location)
	return err == nil
}

// isRedis reports whether v is the URL of a Redis. What else is wrong with it its
// error says, when it is opened.
func isRedis(v string) bool {
	scheme, _, found := strings.Cut(v, "://")
	switch scheme {
	case "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster":
		return found
	}
	return false
}

// openStore opens the store that v, for which isStore is true, names.
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
