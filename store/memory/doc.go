// Package memory is a [store.Store] in the memory of one process. It serves
// tests, and brokers whose sessions need not outlive them.
//
// One mutex guards everything. A commit holds it for some hundred nanoseconds
// per operation, and never across anything that waits; shards would make a
// batch take several locks in order to stay atomic, and gain nothing while
// the writers are as few as the loops.
//
// A message is held once however many queues it is in, counted by reference.
// Nothing here is copied but Subscription Identifiers: what was committed is
// what readers get.
package memory
