package main

import (
	"log/slog"
	"strings"

	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/pebble"
)

// storesAllowed is what --store may be.
const storesAllowed = "memory, or pebble:DIR with sync=always, interval or off, interval=1s, cache=32MiB, memtable=16MiB, " +
	"reserve=256MiB or max=SIZE behind a question mark"

// isStore reports whether v names a store.
func isStore(v string) bool {
	location, embedded := strings.CutPrefix(v, "pebble:")
	if !embedded {
		return v == "memory"
	}
	_, err := pebble.ParseLocation(location)
	return err == nil
}

// openStore opens the store that v, for which isStore is true, names.
func openStore(v string, logger *slog.Logger) (store.Store, error) {
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
