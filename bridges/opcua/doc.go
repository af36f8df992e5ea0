// Package opcuabridge is a client of OPC UA servers: their values become messages, and messages write their variables and
// call their methods. [Bridge] has all endpoints; each is served by one node at a time, by a lease of the store.
//
// What holds for an endpoint:
//
//   - One goroutine asks the server for notifications, publishes what is in one, and only then acknowledges it. So while
//     the broker is slow the server waits, and its queues are what is bounded; nothing is kept here.
//   - After a cut the session is activated again on a new connection, and notifications that were missed are asked for
//     (Republish). If the session is gone, or the server is another process, there is a new session with all
//     subscriptions and monitored items; each begins with its current value.
//   - The client is this package's own, on the library's algorithms and encodings (gopcua 0.8.0). The library's decodes what
//     comes in a goroutine of its own, where a server can make it panic or allocate without end; after a session was
//     restored it no longer asks for notifications; and when a connection is refused it gives up.
//   - What a server sends is looked at before it is decoded: lengths, depths, and the memory that it will take.
package opcuabridge
