// Package peers tests the broker with MQTT clients that others wrote: mosquitto_pub, mosquitto_sub and mosquitto_rr (MQTT 3.1, 3.1.1 and
// 5.0), Eclipse Paho's paho.mqtt.golang (3.1.1) and paho.golang (5.0), and MQTT.js (3.1, 3.1.1 and 5.0). Every test drives a real broker
// over TCP, most of them each client against each other.
//
// CoAP is spoken with by coap of npm. What webhooks send is read by the official Go libraries of CloudEvents and of Standard Webhooks.
//
// `make test` installs what is missing. A client that isn't there fails the tests: none is skipped. Like all tests that start their
// broker with brokertest, these can be run against another one: LOOPMQ_TEST_ADDR=127.0.0.1:1883 go test .
//
// The package is a module of its own, so that no client is a requirement of the broker.
package peers
