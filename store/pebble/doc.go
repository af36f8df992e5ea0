// Package pebble is a [store.Store] on one directory, embedded in the broker's
// process: what is stored outlives it. One process has the directory at a time.
//
// # How a commit goes
//
// One mutex orders everything that changes. Under it a commit reads its guards,
// works out its results, and hands one Pebble batch to the log and the memtable;
// then it lets the mutex go and waits until the log is on the disk. So the next
// commit is built while the former is being synced, and Pebble's log syncs as
// many as wait with one call: the disk's sync is the cost, and all loops share
// it.
//
// What is not on the disk yet can be seen by others, but nobody acts on it
// before it is: the log has one order, so a commit that built on another one
// returns after that is durable, one that changes nothing waits for what it saw,
// and a read of a queue waits until the last entry appended to it is durable
// (a QoS 2 message that a subscriber has seen must not come again under another
// number, as it would if a crash took it from the queue). With sync=interval or
// off nothing waits: see docs/durability.md for what that can lose.
//
// # What is in memory
//
// Sessions that are connected, and as many others as were used lately: identity,
// limits, and of the queue its length, its bytes and its last number; the Packet
// Identifiers that are held; and, of connected ones, the newest entries' sizes,
// so that a message is appended and finished without a read. All that is a
// cache: it is read from the directory when it is missed, so opening costs the
// same whatever is stored. A session that was never durable is in memory only:
// no later process could do anything with it.
//
// Length and bytes of a queue are written when it leaves the cache. Until then
// its record says that it is to be counted, which whoever needs them does after a
// crash.
//
// # Removal
//
// Clients acknowledge in order, so what is removed is nearly always the front of a
// queue. A commit then writes where the front is, once for each queue that it
// moved in: half of the keys, and of what the log gets, would be deletions
// otherwise. The entries behind the front are deleted when there are some hundred
// of them, with one tombstone for all, or when the session goes offline. What is
// removed out of order is deleted at once.
//
// # Numbers
//
// Epochs, incarnations, generations and the names of shared messages are one
// sequence, whose upper bits are a count of openings: it goes up durably before
// anything is given out, so none is given out twice, even if the log's tail is
// lost.
//
// # Crashes
//
// Whoever opens the directory is the only process that has it, so sessions
// that have an owner then lost it with their process: Open takes them offline,
// finding them by an index.
package pebble
