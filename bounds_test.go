package loopmq_test

import (
	"bytes"
	"fmt"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

const mebibyte = 1 << 20

// sendLarge sends messages of 1 MiB at QoS 1 until the connection takes no more or n are sent. It returns at once.
func sendLarge(c *brokertest.Client, n int) (done chan struct{}) {
	done = make(chan struct{})
	payload := bytes.Repeat([]byte("x"), mebibyte)
	go func() {
		defer close(done)
		for i := range n {
			c.SendRaw((&codec.Publish{QoS: 1, TopicName: []byte("t"), PacketID: uint16(i + 1), Payload: payload}).Append(nil, codec.V311))
		}
	}()
	return done
}

// expectAtMost checks that the broker takes in at least some messages of a flood, and never more than these.
func expectAtMost(t *testing.T, s *brokertest.Server, other *brokertest.Client, least, most float64) {
	t.Helper()
	received := func() float64 { return metricsOf(t, s.Broker)[`loopmq_messages_received_total{qos="1"}`] }
	eventually(t, "messages", func() bool { return received() >= least })
	for range 500 {
		other.Ping() // the loop goes on
	}
	if n := received(); n > most {
		t.Errorf("%v messages of 1 MiB were taken in, want at most %v", n, most)
	}
}

// What waits for a slow store is bounded in bytes: publishers are not read beyond that.
func TestCommitIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t, func(o *loopmq.Options) { o.Loops = 1 })
	d := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("d"))
	d.Subscribe("t", 1)
	d.Disconnect()
	other := brokertest.Connect(t, s.Addr, codec.V5)
	pub := brokertest.Connect(t, s.Addr, codec.V311)
	release := f.hold()
	defer release()
	const total = 60
	done := sendLarge(pub, total)
	expectAtMost(t, s, other, 16, 20)
	release()
	<-done
	for i := range total {
		pub.ExpectAck(codec.TypePuback, uint16(i+1), 0)
	}
}

// So is what waits for another loop that is busy; all of it arrives when that goes on.
func TestMailboxIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops = 2 })
	// On the loops where they are: the first subscriber within the process is on loop 1.
	onLoop0 := func() *brokertest.Client {
		const gauge = `loopmq_loop_connections{loop="0"}`
		for {
			before := metricsOf(t, s.Broker)[gauge]
			if c := brokertest.Connect(t, s.Addr, codec.V311); metricsOf(t, s.Broker)[gauge] > before {
				return c
			}
		}
	}
	pub, other := onLoop0(), onLoop0()
	const total = 100
	goOn, got := make(chan struct{}), make(chan int, total)
	cancel, err := s.Broker.Subscribe("t", func(m *loopmq.MessageView) {
		<-goOn
		got <- len(m.Payload)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	done := sendLarge(pub, total)
	expectAtMost(t, s, other, 16, 40)
	close(goOn)
	<-done
	for i := range total {
		if n := receive(t, fmt.Sprint("message ", i), got); n != mebibyte {
			t.Errorf("message of %d bytes", n)
		}
		pub.ExpectAck(codec.TypePuback, uint16(i+1), 0)
	}
}
