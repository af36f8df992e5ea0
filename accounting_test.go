package loopmq_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// counters are what the metrics say of messages at one QoS.
type counters struct {
	matched, delivered, queued, queueDelivered float64
	dropped, queueDropped                      map[string]float64 // by reason, those that are not 0
}

// countersOf reads the counters of one QoS.
func countersOf(t testing.TB, b *loopmq.Broker, qos byte) counters {
	t.Helper()
	c := counters{dropped: map[string]float64{}, queueDropped: map[string]float64{}}
	label := fmt.Sprintf(`{qos="%d"`, qos)
	for name, v := range metricsOf(t, b) {
		family, labels, _ := strings.Cut(name, label)
		_, reason, _ := strings.Cut(labels, `reason="`)
		reason, _, _ = strings.Cut(reason, `"`)
		if labels == "" {
			continue
		}
		switch family {
		case "loopmq_messages_matched_total":
			c.matched = v
		case "loopmq_messages_delivered_total":
			c.delivered = v
		case "loopmq_messages_queued_total":
			c.queued = v
		case "loopmq_queue_messages_delivered_total":
			c.queueDelivered = v
		case "loopmq_messages_dropped_total":
			if v != 0 {
				c.dropped[reason] = v
			}
		case "loopmq_queue_messages_dropped_total":
			if v != 0 {
				c.queueDropped[reason] = v
			}
		}
	}
	return c
}

func sum(byReason map[string]float64) (total float64) {
	for _, v := range byReason {
		total += v
	}
	return total
}

// waiting is how many queued messages were neither sent nor dropped.
func (c counters) waiting() float64 { return c.queued - c.queueDelivered - sum(c.queueDropped) }

// String is for the messages of failures.
func (c counters) String() string {
	reasons := func(m map[string]float64) (s string) {
		for _, r := range slices.Sorted(maps.Keys(m)) {
			s += fmt.Sprintf(" %s %v", r, m[r])
		}
		return s
	}
	return fmt.Sprintf("matched %v = delivered %v + queued %v + dropped%s; queued = queue delivered %v + queue dropped%s + waiting %v",
		c.matched, c.delivered, c.queued, reasons(c.dropped), c.queueDelivered, reasons(c.queueDropped), c.waiting())
}

// expectCountersAddUp waits until the broker has come to rest with these many messages waiting, and checks that for each QoS every match
// has one outcome, and every queued message one end.
func expectCountersAddUp(t testing.TB, b *loopmq.Broker, waiting [3]float64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		ok, total := true, 0.0
		var seen [3]counters
		for qos := range seen {
			c := countersOf(t, b, byte(qos))
			seen[qos] = c
			total += c.waiting()
			ok = ok && c.matched == c.delivered+c.queued+sum(c.dropped) && c.waiting() == waiting[qos]
		}
		if ok && metricsOf(t, b)["loopmq_queued_messages"] == total {
			return
		}
		if time.Now().After(deadline) {
			for qos, c := range seen {
				t.Errorf("QoS %d: %v, want waiting %v", qos, c, waiting[qos])
			}
			return
		}
	}
}

// Each reason for which a message is dropped, driven by what brings it about: it is counted once, under that reason, and the counters add
// up.
func TestCountersOfEachDropReason(t *testing.T) {
	t.Parallel()
	type situation struct {
		t     *testing.T
		s     *brokertest.Server
		store *faultyStore
		clock *clock
		pub   *brokertest.Client
	}
	publish := func(x situation, topic string, n int, qos byte) {
		for i := range n {
			x.pub.Publish(topic, fmt.Sprint(i), qos)
		}
	}
	offline := func(x situation, filter string, qos byte) {
		c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.Durable("offline"))
		c.Subscribe(filter, qos)
		c.Disconnect()
	}
	type want struct {
		dropped, queueDropped map[string]float64
		waiting               float64
	}
	for name, test := range map[string]struct {
		options func(*loopmq.Options)
		qos     byte
		act     func(x situation)
		want    want
	}{
		"offline at QoS 0": {nil, 0, func(x situation) {
			offline(x, "t", 0)
			publish(x, "t", 3, 0)
			x.pub.Ping()
		}, want{dropped: map[string]float64{"offline_qos0": 3}}},

		"offline queue full": {func(o *loopmq.Options) { o.Limits.QueueMessages = 2 }, 1, func(x situation) {
			offline(x, "t", 1)
			publish(x, "t", 5, 2)
		}, want{dropped: map[string]float64{"queue_full": 3}, waiting: 2}},

		"offline queue full, drop oldest": {func(o *loopmq.Options) {
			o.Limits.QueueMessages, o.Limits.QueuePolicy = 2, store.DropOldest
		}, 1, func(x situation) {
			offline(x, "t", 1)
			publish(x, "t", 5, 2)
		}, want{queueDropped: map[string]float64{"queue_full": 3}, waiting: 2}},

		"queue in memory full": {func(o *loopmq.Options) { o.Limits.QueueMessages = 2 }, 2, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.With(codec.PropReceiveMaximum, 1))
			c.Subscribe("t", 2)
			publish(x, "t", 5, 2)
			c.ExpectPublish("t", "0")
		}, want{dropped: map[string]float64{"queue_full": 2}, waiting: 2}},

		"queue in memory full, drop oldest": {func(o *loopmq.Options) {
			o.Limits.QueueMessages, o.Limits.QueuePolicy = 2, store.DropOldest
		}, 1, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.With(codec.PropReceiveMaximum, 1))
			c.Subscribe("t", 1)
			publish(x, "t", 5, 1)
			c.ExpectPublish("t", "0")
		}, want{queueDropped: map[string]float64{"queue_full": 2}, waiting: 2}},

		"session with a queue in memory ends": {nil, 1, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.With(codec.PropReceiveMaximum, 1))
			c.Subscribe("t", 1)
			publish(x, "t", 5, 1)
			c.ExpectPublish("t", "0")
			c.Close()
		}, want{queueDropped: map[string]float64{"session_gone": 4}}},

		"session with a queue in the store ends": {nil, 1, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.Durable("ends"), brokertest.With(codec.PropReceiveMaximum, 1))
			c.Subscribe("t", 1)
			publish(x, "t", 5, 1)
			c.ExpectPublish("t", "0")
			brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.ClientID("ends"))
		}, want{queueDropped: map[string]float64{"session_gone": 4}}},

		"session ends during the commit": {nil, 2, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.ClientID("leaves"))
			c.Subscribe("t", 2)
			release := x.store.hold()
			defer release()
			x.pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("x"), QoS: 2, PacketID: 1, Retain: true})
			x.pub.Ping()
			c.Close()
			expectMetric(x.t, x.s.Broker, "loopmq_clients_connected", 1)
			release()
			x.pub.ExpectAck(codec.TypePubrec, 1, 0)
		}, want{dropped: map[string]float64{"session_gone": 1}}},

		"expired in the queue": {nil, 1, func(x situation) {
			offline(x, "t", 1)
			for i := range 3 {
				x.pub.Publish("t", fmt.Sprint(i), 1, func(p *codec.Publish) {
					p.Properties = brokertest.Properties(codec.PropMessageExpiryInterval, 10+i*100)
				})
			}
			x.clock.advance(50 * time.Second)
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.Durable("offline"))
			c.Acknowledge(c.ExpectPublish("t", "1"))
			c.Acknowledge(c.ExpectPublish("t", "2"))
		}, want{queueDropped: map[string]float64{"expired": 1}}},

		"expired before it could go out": {nil, 1, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5)
			c.Subscribe("t", 1)
			x.pub.Publish("t", "", 1, func(p *codec.Publish) { p.Properties = brokertest.Properties(codec.PropMessageExpiryInterval, 0) })
		}, want{dropped: map[string]float64{"expired": 1}}},

		"too large": {nil, 0, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.With(codec.PropMaximumPacketSize, 30))
			c.Subscribe("t", 2)
			x.pub.Publish("t", strings.Repeat("x", 30), 0)
			x.pub.Publish("t", "small", 0)
			c.ExpectPublish("t", "small")
		}, want{dropped: map[string]float64{"packet_too_large": 1}}},

		"too large for a durable session": {nil, 2, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5, brokertest.Durable("small"), brokertest.With(codec.PropMaximumPacketSize, 30))
			c.Subscribe("t", 2)
			x.pub.Publish("t", strings.Repeat("x", 30), 2)
			x.pub.Publish("t", "small", 2)
			c.Acknowledge(c.ExpectPublish("t", "small"))
		}, want{dropped: map[string]float64{"packet_too_large": 1}}},

		"output full": {func(o *loopmq.Options) { o.Limits.OutputBytes = 1024 }, 0, func(x situation) {
			c := brokertest.Connect(x.t, x.s.Addr, codec.V5)
			c.Subscribe("t", 0)
			large := strings.Repeat("x", 1<<20)
			for countersOf(x.t, x.s.Broker, 0).dropped["output_full"] == 0 {
				x.pub.Publish("t", large, 0)
				x.pub.Ping()
				expectCountersAddUp(x.t, x.s.Broker, [3]float64{})
			}
		}, want{dropped: map[string]float64{"output_full": 1}}},

		"store full": {nil, 1, func(x situation) {
			offline(x, "t", 1)
			for range 3 {
				p := &codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: x.pub.PacketID(), Payload: make([]byte, storeBytes/2)}
				x.pub.Send(p)
				ack := brokertest.Expect[*codec.Ack](x.pub)
				if ack.ReasonCode.IsError() && ack.ReasonCode != codec.QuotaExceeded {
					x.t.Errorf("got %s", brokertest.Describe(ack))
				}
			}
		}, want{dropped: map[string]float64{"store_full": 2}, waiting: 1}},

		"store unavailable": {nil, 1, func(x situation) {
			offline(x, "t", 1)
			x.store.failCommits(func(*store.Batch) bool { return true })
			x.pub.Send(&codec.Publish{TopicName: []byte("t"), QoS: 1, PacketID: 1})
			if ack := brokertest.Expect[*codec.Ack](x.pub); !ack.ReasonCode.IsError() {
				x.t.Errorf("got %s though nothing is stored", brokertest.Describe(ack))
			}
			x.store.failCommits(nil)
			x.pub.Publish("t", "", 1)
		}, want{dropped: map[string]float64{"store_unavailable": 1}, waiting: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := situation{t: t, clock: &clock{}}
			x.store = &faultyStore{Store: memory.New(memory.Options{Now: x.clock.Now, MaxBytes: storeBytes})}
			t.Cleanup(func() { _ = x.store.Close() })
			x.s = brokertest.Start(t, func(o *loopmq.Options) {
				o.Store = x.store
				if test.options != nil {
					test.options(o)
				}
			})
			x.pub = brokertest.Connect(t, x.s.Addr, codec.V5)
			test.act(x)
			var waiting [3]float64
			waiting[test.qos] = test.want.waiting
			expectCountersAddUp(t, x.s.Broker, waiting)
			for qos := range byte(3) {
				c := countersOf(t, x.s.Broker, qos)
				var wanted want
				if qos == test.qos {
					wanted = test.want
				}
				if !maps.Equal(c.dropped, wanted.dropped) || !maps.Equal(c.queueDropped, wanted.queueDropped) {
					t.Errorf("QoS %d: %v, want dropped %v and queue dropped %v", qos, c, wanted.dropped, wanted.queueDropped)
				}
			}
		})
	}
}

// storeBytes is the room of the store in TestCountersOfEachDropReason.
const storeBytes = 1 << 20

// A loop that doesn't keep up makes others drop QoS 0 for it once its mailbox is full; QoS 1 is held up, and arrives.
func TestCountersOfFullMailbox(t *testing.T) {
	t.Parallel()
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Loops, o.Limits.MailboxMessages = 2, 1
		o.Recorder = loopmq.OnEvent(func(e *loopmq.Event) {
			if string(e.Message.TopicName) == "block" {
				once.Do(func() { close(blocked) })
				<-release // a Recorder must not: here it is what keeps the loop busy
			}
		}, loopmq.EventMessageDelivered)
	})
	open := sync.OnceFunc(func() { close(release) })
	defer open()
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("sub"))
	sub.Subscribe("#", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5) // on the other loop, which has fewer
	pub.Publish("block", "", 0)
	receive(t, "the block", blocked)
	dropped := func() float64 { return countersOf(t, s.Broker, 0).dropped["mailbox_full"] }
	sent := 0
	for dropped() == 0 {
		for range 50 { // a turn of the loop each
			pub.Publish("t", fmt.Sprint(sent), 0)
			pub.Ping()
			sent++
		}
	}
	const qos1 = 20
	for i := range qos1 {
		pub.Send(&codec.Publish{TopicName: []byte("u"), Payload: []byte(fmt.Sprint(i)), QoS: 1, PacketID: uint16(i + 1)})
	}
	open()
	for i := range qos1 {
		pub.ExpectAck(codec.TypePuback, uint16(i+1), 0)
	}
	sub.ExpectPublish("block", "")
	for want, at := 0, 0; want < qos1; {
		p := brokertest.Expect[*codec.Publish](sub)
		n, err := strconv.Atoi(string(p.Payload))
		switch {
		case err != nil || string(p.TopicName) == "t" && n < at || string(p.TopicName) == "u" && n != want:
			t.Fatalf("got %s after %d at QoS 0 and %d at QoS 1", brokertest.Describe(p), at, want)
		case p.QoS == 1:
			sub.Acknowledge(p)
			want++
		default:
			at = n
		}
	}
	sub.Ping()
	expectCountersAddUp(t, s.Broker, [3]float64{})
}

// All kinds of sessions, at all QoS, with clients that come and go: when all is at rest, the counters add up, and when the last session has
// ended, nothing waits.
func TestCountersAddUpAfterRandomTraffic(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.QueueMessages, o.Limits.OutputBytes = 50, 16<<10
	})
	const clients = 8
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 25 {
				randomLife(s.Addr, fmt.Sprintf("c%d", i), r)
			}
		})
	}
	wg.Wait()
	expectMetric(t, s.Broker, "loopmq_clients_connected", 0)
	expectMetric(t, s.Broker, "loopmq_inflight_messages", 0)
	for i := range clients { // whatever waits goes with its session
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(fmt.Sprintf("c%d", i)))
		c.Disconnect()
	}
	expectCountersAddUp(t, s.Broker, [3]float64{})
	for qos := range byte(3) {
		t.Logf("QoS %d: %v", qos, countersOf(t, s.Broker, qos))
	}
}
