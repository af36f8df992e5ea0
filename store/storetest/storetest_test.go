package storetest_test

import (
	"testing"

	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/storetest"
)

// The suite runs against the store in memory, which stands in for one with a
// bound and for one that can be opened again.
func TestRun(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memory.New(memory.Options{}) }, storetest.Capabilities{
		Reopen:      func(_ *testing.T, s store.Store) store.Store { return s },
		OpenBounded: func(_ *testing.T, maxBytes int) store.Store { return memory.New(memory.Options{MaxBytes: maxBytes}) },
	})
}
