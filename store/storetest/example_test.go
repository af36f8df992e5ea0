package storetest_test

import (
	"testing"

	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/storetest"
)

// A store's test calls Run with a function that opens an empty one.
func ExampleRun() {
	_ = func(t *testing.T) {
		storetest.Run(t, func(*testing.T) store.Store {
			return memory.New(memory.Options{})
		}, storetest.Capabilities{})
	}
	// Output:
}
