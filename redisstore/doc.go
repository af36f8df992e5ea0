// Package redisstore is a [store.Shared] on one Redis, single or behind Sentinels:
// several nodes use it at the same time, and know each other through it only.
//
// # How a commit goes
//
// A batch is one script (lua/commit.lua), and Redis runs one script at a time: so
// it is atomic, and in one order with all others. It checks its writer first (is
// the instance dead, was this batch done before), reads what is new in the feed,
// looks up who holds the sessions that are appended to, does the operations, tells
// the holders, and remembers its results for a repetition. All that is done once
// for a batch; what is left for a message are an XADD and an XDEL.
//
// Scripts carry no flag that lets Redis start one it can't finish: a Redis that is
// read only or can't write to its disk refuses it as a whole. Only memory is let
// be exceeded, since what frees memory has to run too; the store watches it by
// itself, see connect.go.
//
// # What is kept how
//
// A queue is a stream, whose ids are the Numbers of its entries, see keys.go. An entry
// holds the message, or, if a large one goes to many queues, names it: then it is
// stored once, until a sweep finds that no queue has it any more (lua/sweep.lua).
//
// An outbox is a stream with a consumer group, where what a consumer has taken is
// pending; its totals are in a hash, its dead letters in a sorted set in the order of
// their ids, see lua/outbox.lua. Consumers that live are in a sorted set, with the
// time until which they do. A node that waits for events isn't asking: the script that
// adds one where nobody had left any to take writes a record to a stream of bells,
// which each instance reads on a connection of its own.
//
// Limits of a queue are looked at when every 64th number is given out, and after
// each large message. A queue that has reached them is noted in a hash, and looked
// at for each message until it has room again. Its bytes are the number of its
// entries times the mean size of those that were looked at. Likewise, what is dropped
// with a session is counted exactly up to 10,000 entries, and beyond that by the
// QoS of those.
package redisstore
