package redisstore

import (
	"fmt"
	"sync/atomic"
	"testing"

	"loopmq/internal/redistest"
	"loopmq/store"
	"loopmq/store/storetest"
)

var prefixes atomic.Int64

// open opens a Store with keys of its own on a server. More parameters may follow.
func open(t testing.TB, r *redistest.Server, parameters string) *Store {
	t.Helper()
	s, err := NewStore(t.Context(), fmt.Sprintf("%s?prefix=t%d:%s", r.URL(), prefixes.Add(1), parameters), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, r, "") }, storetest.Capabilities{
		Reopen: func(t *testing.T, s store.Store) store.Store {
			old := s.(*Store)
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := NewStore(t.Context(), r.URL()+"?prefix="+old.config.prefix, Options{})
			if err != nil {
				t.Fatal(err)
			}
			return again
		},
	})
}
