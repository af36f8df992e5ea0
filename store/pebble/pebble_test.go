package pebble_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"loopmq/store"
	"loopmq/store/pebble"
	"loopmq/store/storetest"
)

// mustOpen opens a store that the test closes.
func mustOpen(t testing.TB, o pebble.Options) *pebble.Store {
	t.Helper()
	s, err := pebble.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // most tests have closed it
	return s
}

func inMemory() pebble.Options {
	return pebble.Options{Dir: "data", FS: vfs.NewMem()}
}

func TestStore(t *testing.T) {
	options := map[store.Store]pebble.Options{}
	open := func(t *testing.T, o pebble.Options) store.Store {
		s := mustOpen(t, o)
		options[s] = o
		return s
	}
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, inMemory()) }, storetest.Capabilities{
		Embedded: true,
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, options[s])
		},
		OpenBounded: func(t *testing.T, maxBytes int) store.Store {
			o := inMemory()
			o.MaxBytes = maxBytes
			return open(t, o)
		},
	})
}
