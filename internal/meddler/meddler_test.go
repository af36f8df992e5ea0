package meddler_test

import (
	"fmt"
	"slices"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/meddler"
)

// start puts a Proxy before a broker.
func start(t *testing.T, addr string, plan meddler.Plan) *meddler.Proxy {
	t.Helper()
	p, err := meddler.New(addr, plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// TestFaults has a window of 7: a fault that left a message unacknowledged at the broker would use it up.
func TestFaults(t *testing.T) {
	for _, version := range []codec.Version{codec.V311, codec.V5} {
		for qos := range byte(3) {
			t.Run(fmt.Sprintf("version=%d/qos=%d", version, qos), func(t *testing.T) {
				t.Parallel()
				server := brokertest.Start(t)
				p := start(t, server.Addr, meddler.Plan{Every: 10, Faults: []meddler.Fault{meddler.Drop, meddler.Double, meddler.Swap}})
				sub := brokertest.Dial(t, p.Addr(), version)
				if version == codec.V5 {
					sub.Connect(brokertest.With(codec.PropReceiveMaximum, 7))
				} else {
					sub.Connect()
				}
				sub.Subscribe("a", qos)
				pub := brokertest.Connect(t, server.Addr, version)
				// Each tenth is spoiled: 10 dropped, 20 doubled, 30 swapped, 40 dropped, and so on.
				var want []string
				for i := 1; i <= 205; i++ {
					text := fmt.Sprint(i)
					pub.Publish("a", text, qos)
					switch {
					case i%10 != 0 || i/10%3 == 0:
						want = append(want, text)
					case i/10%3 == 2:
						want = append(want, text, text)
					}
				}
				for i := 30; i < 205; i += 30 {
					at := slices.Index(want, fmt.Sprint(i))
					want[at], want[at+1] = want[at+1], want[at]
				}
				for _, text := range want {
					m := sub.ExpectPublish("a", text)
					if m.QoS != qos || m.Dup {
						t.Errorf("%s came with QoS %d, DUP %v", text, m.QoS, m.Dup)
					}
					sub.Acknowledge(m)
				}
				for fault, want := range []int{7, 7, 6} {
					if got := p.Count(meddler.Fault(fault)); got != want {
						t.Errorf("fault %d: %d times, want %d", fault, got, want)
					}
				}
				if p.Seen() != 205 {
					t.Errorf("%d messages seen, want 205", p.Seen())
				}
				sub.Disconnect()
			})
		}
	}
}

// TestStreams: a message is swapped with one of its own stream, not with one of another.
func TestStreams(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	p := start(t, server.Addr, meddler.Plan{Every: 3, Faults: []meddler.Fault{meddler.Swap}, Stream: func(_, payload []byte) string {
		return string(payload[:1])
	}})
	sub := brokertest.Connect(t, p.Addr(), codec.V5)
	sub.Subscribe("#", 1)
	pub := brokertest.Connect(t, server.Addr, codec.V5)
	for _, text := range []string{"a1", "b1", "a2", "b2", "a3"} {
		pub.Publish("t", text, 1)
	}
	for _, text := range []string{"a1", "b1", "b2", "a3", "a2"} {
		sub.Acknowledge(sub.ExpectPublish("t", text))
	}
}

// TestHeldTooLong: a message that waits to be swapped comes by itself if no other follows, and then nothing was spoiled.
func TestHeldTooLong(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	p := start(t, server.Addr, meddler.Plan{Every: 1, Faults: []meddler.Fault{meddler.Swap}})
	sub := brokertest.Connect(t, p.Addr(), codec.V311)
	sub.Subscribe("a", 2)
	sub.Publish("a", "alone", 2)
	sub.Acknowledge(sub.ExpectPublish("a", "alone"))
	if n := p.Count(meddler.Swap); n != 0 {
		t.Errorf("%d swapped", n)
	}
}

func TestBadPlan(t *testing.T) {
	t.Parallel()
	for _, plan := range []meddler.Plan{{}, {Every: 1}, {Faults: []meddler.Fault{meddler.Drop}}} {
		if p, err := meddler.New("127.0.0.1:1", plan); err == nil {
			p.Close()
			t.Errorf("%+v was taken", plan)
		}
	}
}

// TestBrokerGone: a client learns at once that there is no broker.
func TestBrokerGone(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	addr := server.Addr
	p := start(t, addr, meddler.Plan{Every: 1, Faults: []meddler.Fault{meddler.Drop}})
	first := brokertest.Connect(t, p.Addr(), codec.V5)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	first.ExpectDisconnect(codec.ServerShuttingDown)
	first.ExpectClosed()
	brokertest.Dial(t, p.Addr(), codec.V5).ExpectClosed()
}
