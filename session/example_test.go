package session_test

import (
	"fmt"
	"time"

	"loopmq/session"
	"loopmq/store"
)

// A window of two: a third message has to wait until one of the others is finished.
func ExampleOutbound() {
	out := session.NewOutbound(2, 0)
	first := out.Send(1, nil)
	second := out.Send(2, nil)
	fmt.Println(first, second, out.CanSend())

	out.Finish(first) // its PUBACK came
	fmt.Println(out.CanSend(), out.State(first) == session.Unknown)

	out.SetState(second, session.AwaitingPubcomp) // its PUBREC came, and PUBREL went out
	out.Finish(second)                            // its PUBCOMP came
	fmt.Println(out.Len())
	// Output:
	// 1 2 false
	// true true
	// 0
}

// A durable session's Packet Identifiers follow from the numbers of its queue.
func ExampleOutbound_SendNumber() {
	out := session.NewOutbound(10, 0)
	number := store.Number{Generation: 1, Seq: 70_000}
	if out.CanSendNumber(number) {
		packetID := out.SendNumber(number, 1, nil)
		finished, _ := out.Finish(packetID)
		fmt.Println(packetID, finished == number)
	}
	// Output: 4465 true
}

// A Packet Identifier that is held already means a message that was received before.
func ExampleInbound() {
	var in session.Inbound
	fmt.Println(in.Hold(7), in.Hold(7))
	fmt.Println(in.Release(7), in.Release(7)) // PUBREL, and another one
	fmt.Println(in.Hold(7))
	// Output:
	// true false
	// true false
	// true
}

// A full queue takes nothing more, or drops what is oldest, as its policy says.
func ExampleQueue() {
	entry := func(topic string) *store.Entry {
		return &store.Entry{Message: &store.Message{TopicName: []byte(topic)}, QoS: 1}
	}
	var q session.Queue
	dropped := func(e *store.Entry) { fmt.Printf("dropped: %s\n", e.Message.TopicName) }
	limits := store.Limits{Messages: 2, Policy: store.DropOldest}
	for _, topic := range []string{"one", "two", "three"} {
		q.Push(entry(topic), limits, dropped)
	}
	limits.Policy = store.DropNewest
	fmt.Println("fits:", q.Push(entry("four"), limits, dropped))
	for e := q.Pop(); e != nil; e = q.Pop() {
		fmt.Printf("%s\n", e.Message.TopicName)
	}
	// Output:
	// dropped: one
	// fits: false
	// two
	// three
}

// What is left of a Message Expiry Interval is rounded up, so that a message never loses its last second.
func ExampleRemainingExpiry() {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	fmt.Println(session.RemainingExpiry(now, now.Add(1500*time.Millisecond)))
	fmt.Println(session.RemainingExpiry(now, now))
	// Output:
	// 2 true
	// 0 false
}

// A session that never expires has no due time.
func ExampleExpiryDue() {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	fmt.Println(session.ExpiryDue(now, 60).Sub(now))
	fmt.Println(session.ExpiryDue(now, session.NeverExpires).IsZero())
	// Output:
	// 1m0s
	// true
}
