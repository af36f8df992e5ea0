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
//   - The library's own reconnecting isn't used: after a session was restored it no longer asks for notifications, and
//     when a connection is refused it gives up.
//
// The library (gopcua 0.8.0) decodes what a server sends in a goroutine of its own, and panics on some of what no server
// of good will sends. So an endpoint is trusted that far.
package opcuabridge
