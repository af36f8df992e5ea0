package store_test

import (
	"context"
	"fmt"
	"log"

	"loopmq/store"
	"loopmq/store/memory"
)

// A message is acknowledged to its publisher once the batch that appends it to
// the queues of its subscribers is committed.
func Example() {
	var (
		ctx = context.Background()
		s   = memory.New(memory.Options{})
		w   = s.NewWriter("loop 0")
	)
	claimed, err := s.Sessions().Claim(ctx, store.Claim{ClientID: "subscriber", Owner: "node", Durable: true})
	if err != nil {
		log.Fatal(err)
	}
	queue := store.QueueOf(claimed.Session.ID)

	var b store.Batch
	i := b.Add(store.Op{
		Kind:    store.OpPublish,
		Message: &store.Message{TopicName: []byte("a/b"), Payload: []byte("hello"), QoS: 1},
		Targets: []store.Target{{Queue: queue, QoS: 1}},
	})
	if err := w.Commit(ctx, &b); err != nil {
		log.Fatal(err)
	}
	fmt.Println("PUBACK, number", b.Ops[i].Targets[0].Number.Seq)

	entries, err := s.Messages().Read(ctx, queue, store.Number{}, 100, 0)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range entries {
		fmt.Printf("%s: %s\n", e.Message.TopicName, e.Message.Payload)
	}
	// Output:
	// PUBACK, number 1
	// a/b: hello
}

// A QoS 2 message is held by its Packet Identifier until PUBREL, so that a
// PUBLISH that is sent again appends nothing.
func ExampleOp_qoS2() {
	var (
		ctx = context.Background()
		s   = memory.New(memory.Options{})
		w   = s.NewWriter("loop 0")
	)
	claimed, err := s.Sessions().Claim(ctx, store.Claim{ClientID: "publisher", Owner: "node", Durable: true})
	if err != nil {
		log.Fatal(err)
	}
	se := claimed.Session
	publish := store.Op{
		Kind: store.OpPublish, Session: se.ID, Epoch: se.Epoch, PacketID: 7,
		Message: &store.Message{TopicName: []byte("a/b"), QoS: 2},
	}
	b := store.Batch{Ops: []store.Op{
		publish,
		publish,
		{Kind: store.OpUnhold, Session: se.ID, Epoch: se.Epoch, PacketID: 7},
		publish,
	}}
	if err := w.Commit(ctx, &b); err != nil {
		log.Fatal(err)
	}
	for _, op := range b.Ops {
		fmt.Println(op.Result == store.Done, op.Result == store.Duplicate)
	}
	// Output:
	// true false
	// false true
	// true false
	// true false
}

func ExampleBatch() {
	var b store.Batch
	i := b.Add(store.Op{Kind: store.OpRetain, Message: &store.Message{TopicName: []byte("t"), Payload: []byte("1")}})

	w := memory.New(memory.Options{}).NewWriter("loop 0")
	if err := w.Commit(context.Background(), &b); err != nil {
		log.Fatal(err)
	}
	fmt.Println(b.Ops[i].Result == store.Done)

	b.Reset()
	fmt.Println(len(b.Ops))
	// Output:
	// true
	// 0
}
