// Package brokertest gives tests a real broker on a loopback port and a client that speaks raw MQTT to it.
//
// [Start] runs a Broker in this process. [Dial] and [Connect] open a [Client] over TCP: it sends whatever it is told to, well-formed or
// not, and its Expect methods take the next packet from the broker and fail the test if that isn't the one expected. Nothing in here
// sleeps: every wait is a read with a deadline, and the absence of a packet is shown by something that comes after it.
//
//	b := brokertest.Start(t)
//	sub := brokertest.Connect(t, b.Addr, codec.V5)
//	pub := brokertest.Connect(t, b.Addr, codec.V5)
//	sub.Subscribe("a/+", 1)
//	pub.Publish("a/b", "payload", 1)
//	sub.Acknowledge(sub.ExpectPublish("a/b", "payload"))
//	sub.ExpectNothingFrom(pub, 1)
//
// If the environment variable LOOPMQ_TEST_ADDR holds an address, Start gives out that broker instead of starting one, and skips the tests
// that need options of their own. That shows whether a test asks of loopmq what other brokers do as well.
package brokertest
