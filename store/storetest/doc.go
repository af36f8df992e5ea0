// Package storetest is the compliance suite of package store. What the
// documentation of store promises has a test here, and each implementation is
// run through all of them:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store {
//			return memory.New(memory.Options{})
//		}, storetest.Capabilities{})
//	}
//
// The suite takes nothing for granted that the documentation leaves open:
// messages may be copies, Generations may be any, limits may be soft, a
// repeated Commit may leave out Numbers, and each call may take as long as a
// disk or a network does.
package storetest
