// Package loadtest drives an MQTT broker with many clients and finds out what it can do: how many messages it carries, at which
// latency and cost, and whether it keeps what MQTT promises for each of them. It works against any broker.
//
// A [Scenario] says who connects, publishes and subscribes: a file of YAML or a preset. [Run] plays it and returns a [Result],
// which is what reports are made of, and what is written as JSON.
//
// # Clients
//
// Clients live on event loops: one goroutine on a thread of its own each, non-blocking sockets, one epoll, one read buffer that
// all connections of the loop share, and one write per connection and turn. What a broker is measured with should cost no more
// than the broker. The packets are written and read by hand: no code is shared with the broker's codec, so that an error there
// can't hide here.
//
// # Audit
//
// Each message carries its publisher, its number there, and the time at which it was due. The receiving end keeps for each
// publisher that it hears which numbers came, so every message that was lost, came twice or came out of order is found, exactly.
// Each finding is counted as a broken promise, or as what the broker was free to do: see [AuditQoS].
//
// # Latency
//
// With a rate, messages are due at times that are fixed beforehand, and a latency counts from then, whatever held the message up: a
// broker that stalls can't hide it by slowing the load (no coordinated omission). Without a rate, publishers send as fast as
// their windows allow, and a latency counts from the moment of sending.
package loadtest
