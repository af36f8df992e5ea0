// Package loopmq is an MQTT 3.1, 3.1.1 and 5.0 broker on event loops.
//
// A [Broker] is made with [New], started with [Broker.Start], and given at least
// one listener with [Broker.Listen]. Every message enters through one path,
// [Broker.Publish] and its twin for packets, whatever brought it: a PUBLISH
// packet, a bridge, a Will.
//
// Each connection lives on one event loop, and so does the state of its session
// while it is connected; what crosses loops travels in batches (see outbox.go).
// A QoS 1 or 2 PUBLISH is acknowledged only after every durable session that it
// matched holds it in the store, or has refused it by its own limit (see
// commit.go).
package loopmq
