// Package coapbridge has CoAP clients (RFC 7252) publish, read and observe topics. Whoever
// sends a request is an MQTT identity: what holds for MQTT clients holds for it.
//
// Messages are encoded by go-coap, and DTLS is pion's. What goes on between them is the
// package's own, so that each part of it has a bound: peers, datagrams that are known
// again, uploads, observations and what waits for them.
package coapbridge
