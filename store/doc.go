// Package store says what durable state must do. A broker keeps in it what
// outlives a connection: queued messages of durable sessions, the state of
// their QoS 2 handshakes, subscriptions, retained messages and Wills, and the
// events that are on their way to other systems.
//
// Everything that changes goes through a [Writer], in a [Batch]: an ordered
// list of operations that becomes durable in one step. That step is what an
// acknowledgement waits for. Reads are separate and go through [Messages],
// [Sessions], [Subscriptions], [Retained] and [Wills]. An [Outbox] has its own
// consumers, which take and finish what batches have put into it.
//
// All methods may block on a disk or a network: none is ever called on an
// event loop. All are safe for concurrent use, except that a Writer has one
// Commit under way at a time.
//
// The compliance suite that each implementation passes is store/storetest.
package store
