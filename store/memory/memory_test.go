package memory_test

import (
	"testing"

	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memory.New(memory.Options{}) }, storetest.Capabilities{
		OpenBounded: func(_ *testing.T, maxBytes int) store.Store { return memory.New(memory.Options{MaxBytes: maxBytes}) },
	})
}
