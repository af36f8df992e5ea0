// Package gateway lets MQTT clients load what isn't MQTT: a broker's HTTP interface, and its webhooks.
//
// A [Gateway] is an MQTT server on a loopback address, in the process of the clients. What they publish becomes HTTP requests
// to the broker, and what the broker tells of by webhooks comes to those who have subscribed to it. So the engine of package loadtest
// needs to know of neither: its clients, windows, rates and audit are those of MQTT. What that costs, a hop over loopback and net/http, is
// part of the generator's CPU and of latencies.
//
// Each connection has a goroutine, and publishes one message after the other: requests have no order otherwise. This is for
// thousands of clients, not for a million.
package gateway
