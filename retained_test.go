package loopmq_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// publishRetained makes n retained messages of size bytes under topic/.
func publishRetained(t testing.TB, b *loopmq.Broker, topic string, n, size int, qos byte) {
	t.Helper()
	payload := []byte(strings.Repeat("x", size))
	for i := range n {
		if _, err := b.Publish(t.Context(), loopmq.Message{TopicName: fmt.Sprintf("%s/%d", topic, i), Payload: payload, QoS: qos, Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// heapBytes returns what is alive in the heap.
func heapBytes() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// More retained messages than an output, a window or a queue holds: all of them arrive, however slowly the client reads, and each once.
func TestRetainedReplayLargerThanAllBounds(t *testing.T) {
	t.Parallel()
	const n, size = 20_000, 200
	s := brokertest.Start(t)
	publishRetained(t, s.Broker, "t", n, size, 2)
	for _, qos := range []byte{0, 1, 2} {
		for name, option := range members {
			t.Run(fmt.Sprintf("QoS %d, %s", qos, name), func(t *testing.T) {
				c := brokertest.Connect(t, s.Addr, codec.V5, option)
				before := metricsOf(t, s.Broker)[`loopmq_packets_sent_total{type="publish"}`]
				c.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("t/#", qos)}})
				// It reads nothing until the broker has sent what it can.
				last := -1.0
				eventually(t, "a full output", func() bool {
					sent := metricsOf(t, s.Broker)[`loopmq_packets_sent_total{type="publish"}`] - before
					still := sent == last && sent > 0
					last = sent
					return still
				})
				seen := make(map[string]bool)
				for len(seen) < n {
					switch p := c.Receive().(type) {
					case *codec.Publish:
						if seen[string(p.TopicName)] || !p.Retain || p.Dup || p.QoS != qos || len(p.Payload) != size {
							t.Fatalf("got %s, seen before: %t", brokertest.Describe(p), seen[string(p.TopicName)])
						}
						seen[string(p.TopicName)] = true
						switch qos {
						case 1:
							c.Send(&codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID})
						case 2:
							c.Send(&codec.Ack{Type: codec.TypePubrec, PacketID: p.PacketID})
						}
					case *codec.Ack:
						if p.Type != codec.TypePubrel {
							t.Fatalf("got %s", brokertest.Describe(p))
						}
						c.Send(&codec.Ack{Type: codec.TypePubcomp, PacketID: p.PacketID})
					case *codec.Suback:
					default:
						t.Fatalf("got %s", brokertest.Describe(p))
					}
				}
				c.Close()
				expectMetric(t, s.Broker, "loopmq_clients_connected", 0)
			})
		}
	}
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// A topic whose retained message changes while it waits to be sent comes once as it was published, and not with the old value after that.
func TestRetainedReplaySkipsWhatChanged(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.OutputBytes = 4096 })
	const n = 150 // more than the buffers of sockets take
	publishRetained(t, s.Broker, "t", n, 100_000, 0)
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Subscribe("t/+", 0) // the output is full after some
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	for i := range n {
		pub.Publish(fmt.Sprintf("t/%d", i), "", 1, brokertest.Retained) // and all are gone
	}
	c.Send(brokertest.Pingreq{})
	old := 0
	for {
		p, ok := c.Receive().(*codec.Publish)
		if !ok { // the PINGRESP: there is room again
			pub.Publish("t/end", "", 1)
			continue
		}
		if p.Retain {
			old++
		}
		if string(p.TopicName) == "t/end" {
			break
		}
	}
	if old == 0 || old == n {
		t.Errorf("%d of %d old values came", old, n)
	}
	c.ExpectNothing()
}

// Whoever subscribes to everything many times over and reads nothing doesn't make the broker collect everything as many times.
func TestRetainedReplayOfManyFiltersIsBounded(t *testing.T) {
	const topics, filters = 5_000, 5_000
	s := brokertest.Start(t)
	publishRetained(t, s.Broker, "t", topics, 500, 0)
	honest := make([]*brokertest.Client, 4) // on all loops
	for i := range honest {
		honest[i] = brokertest.Connect(t, s.Addr, codec.V5)
	}
	before := heapBytes()
	p := codec.Subscribe{PacketID: 1}
	for i := range filters {
		p.Subscriptions = append(p.Subscriptions, brokertest.Subscription([]string{"t/#", "+/#", "#", "+/+", "t/+", "t/+/#", "+/+/#"}[i%7], 0))
	}
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Send(&p, &codec.Ack{Type: codec.TypePuback, PacketID: 1}) // that has come when the SUBSCRIBE is dealt with
	eventually(t, "the end of the SUBSCRIBE", func() bool {
		for _, h := range honest {
			h.Ping()
		}
		return metricsOf(t, s.Broker)[`loopmq_packets_received_total{type="puback"}`] == 1
	})
	if grown := heapBytes() - before; grown > 32<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	c.Close()
	expectMetric(t, s.Broker, "loopmq_clients_connected", float64(len(honest)))
}

// Beyond the limits a message is passed on but not retained; replacing one of the same size or clearing one always works.
func TestRetainedLimits(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*loopmq.Limits){
		"messages": func(l *loopmq.Limits) { l.RetainedMessages = 3 },
		"bytes":    func(l *loopmq.Limits) { l.RetainedBytes = 3 * len("t/0"+"x") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t, func(o *loopmq.Options) { limit(&o.Limits) })
			sub, pub := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
			sub.Subscribe("#", 0)
			for i := range 5 {
				topic := fmt.Sprintf("t/%d", i)
				pub.Publish(topic, "x", byte(i%3), brokertest.Retained)
				sub.ExpectPublish(topic, "x")
			}
			expectMetric(t, s.Broker, "loopmq_retained_refused_total", 2)
			expectMetric(t, s.Broker, "loopmq_retained_messages", 3)
			expectMetric(t, s.Broker, "loopmq_retained_bytes", 12)
			pub.Publish("t/1", "y", 1, brokertest.Retained)
			pub.Publish("t/0", "", 1, brokertest.Retained)
			pub.Publish("t/4", "z", 1, brokertest.Retained)
			for _, want := range [][2]string{{"t/1", "y"}, {"t/0", ""}, {"t/4", "z"}} {
				sub.ExpectPublish(want[0], want[1])
			}
			late := brokertest.Connect(t, s.Addr, codec.V5)
			late.Subscribe("#", 0)
			got := make(map[string]string)
			for range 3 {
				p := brokertest.Expect[*codec.Publish](late)
				got[string(p.TopicName)] = string(p.Payload)
			}
			if got["t/1"] != "y" || got["t/2"] != "x" || got["t/4"] != "z" {
				t.Errorf("got %v", got)
			}
			late.ExpectNothing()
		})
	}
}

// A retained message that has expired isn't sent to new subscribers, and is cleared away with all that it counted for.
func TestRetainedExpires(t *testing.T) {
	t.Parallel()
	s, clock := startWithClock(t)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("short", "s", 1, brokertest.Retained, func(p *codec.Publish) { p.Properties = brokertest.Properties(codec.PropMessageExpiryInterval, 10) })
	pub.Publish("long", "l", 1, brokertest.Retained, func(p *codec.Publish) { p.Properties = brokertest.Properties(codec.PropMessageExpiryInterval, 100) })
	clock.advance(40 * time.Second)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("#", 1)
	if p := sub.ExpectPublish("long", "l"); p.Properties.MessageExpiryInterval != 60 {
		t.Errorf("%d s are left of 100 after 40", p.Properties.MessageExpiryInterval)
	}
	sub.ExpectNothing()
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("wake")).Disconnect() // the scheduler looks at the clock
	expectMetric(t, s.Broker, "loopmq_retained_messages", 1)
	expectMetric(t, s.Broker, "loopmq_retained_bytes", float64(len("long"+"l")))
}
