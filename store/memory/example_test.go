package memory_test

import (
	"context"
	"fmt"
	"log"

	"loopmq/store"
	"loopmq/store/memory"
)

func ExampleNew() {
	s := memory.New(memory.Options{MaxBytes: 10})
	defer s.Close()

	b := store.Batch{Ops: []store.Op{
		{Kind: store.OpRetain, Message: &store.Message{TopicName: []byte("t"), Payload: []byte("small")}},
		{Kind: store.OpRetain, Message: &store.Message{TopicName: []byte("u"), Payload: []byte("large")}},
	}}
	if err := s.NewWriter("loop 0").Commit(context.Background(), &b); err != nil {
		log.Fatal(err)
	}
	fmt.Println(b.Ops[0].Result == store.Done, b.Ops[1].Result == store.Full)
	// Output: true true
}
