package loopmq_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// retainedOf returns what a new subscriber gets for a topic, "" if that is nothing.
func retainedOf(t testing.TB, s *brokertest.Server, topic string) string {
	t.Helper()
	c := brokertest.Connect(t, s.Addr, codec.V5)
	defer c.Close()
	c.Subscribe(topic, 0)
	c.Send(brokertest.Pingreq{})
	if p, ok := c.Receive().(*codec.Publish); ok {
		return string(p.Payload)
	}
	return ""
}

// storedRetained returns the retained message of a topic in the store.
func storedRetained(t testing.TB, s store.Store, topic string) string {
	t.Helper()
	messages, err := s.Retained().Read(t.Context(), []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	if messages[0] == nil {
		return ""
	}
	return string(messages[0].Payload)
}

// watchedStore tells of each commit before it begins.
type watchedStore struct {
	store.Store
	commit func(writer string, b *store.Batch)
}

func (s *watchedStore) NewWriter(name string) store.Writer {
	return &watchedWriter{Writer: s.Store.NewWriter(name), name: name, s: s}
}

type watchedWriter struct {
	store.Writer
	name string
	s    *watchedStore
}

func (w *watchedWriter) Commit(ctx context.Context, b *store.Batch) error {
	w.s.commit(w.name, b)
	return w.Writer.Commit(ctx, b)
}

// A retained message that the store did not take is not there afterwards, neither is one cleared that the store did not clear.
func TestRetainedIsUndoneWhenTheCommitFails(t *testing.T) {
	t.Parallel()
	s, faults := startWithFaults(t)
	publish := func(topic, payload string) error {
		_, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: topic, Payload: []byte(payload), QoS: 1, Retain: true})
		return err
	}
	for _, topic := range []string{"kept", "cleared"} {
		if err := publish(topic, "old"); err != nil {
			t.Fatal(err)
		}
	}
	faults.failCommits(func(*store.Batch) bool { return true })
	for topic, payload := range map[string]string{"kept": "new", "cleared": "", "none": "new"} {
		if err := publish(topic, payload); err == nil {
			t.Errorf("%q was stored", topic)
		}
	}
	faults.failCommits(nil)
	for topic, want := range map[string]string{"kept": "old", "cleared": "old", "none": ""} {
		eventually(t, fmt.Sprintf("%q for %q", want, topic), func() bool { return retainedOf(t, s, topic) == want })
	}
	if err := publish("kept", "newest"); err != nil {
		t.Fatal(err)
	}
	if got := retainedOf(t, s, "kept"); got != "newest" {
		t.Errorf("got %q after the failure", got)
	}
	expectMetric(t, s.Broker, "loopmq_retained_bytes", float64(len("kept"+"newest"+"cleared"+"old")))
}

// Two loops change a topic, and the later change reaches the store first: it is the one that stays.
func TestRetainedOfTwoLoopsIsTheSameInTheStore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, first, second string }{
		{"replaced twice", "1", "2"},
		{"replaced, then cleared", "1", ""},
		{"cleared, then replaced", "", "2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			writers := make(map[string]string) // by PublisherID
			publisher := [2]string{"p0"}       // on different loops
			holds := ""
			began, release := make(chan struct{}), make(chan struct{})
			faults := &watchedStore{Store: newMemory(t), commit: func(writer string, b *store.Batch) {
				mu.Lock()
				for i := range b.Ops {
					if m := b.Ops[i].Message; m != nil {
						writers[m.PublisherID] = writer
					}
				}
				wait := holds == writer
				if wait {
					holds = ""
				}
				mu.Unlock()
				if wait {
					close(began)
					<-release
				}
			}}
			s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops, o.Store = 2, faults })
			publish := func(publisher, payload string) {
				m := loopmq.Message{TopicName: "t", Payload: []byte(payload), QoS: 1, Retain: true, PublisherID: publisher}
				if _, err := s.Broker.Publish(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
			for i := 0; publisher[1] == ""; i++ {
				id := fmt.Sprintf("p%d", i)
				publish(id, "0")
				mu.Lock()
				if writers[id] != writers["p0"] {
					publisher[1], holds = id, writers["p0"]
				}
				mu.Unlock()
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				publish(publisher[0], c.first)
			}()
			<-began
			publish(publisher[1], c.second)
			close(release)
			<-done
			eventually(t, "the second in the store", func() bool { return storedRetained(t, faults, "t") == c.second })
			if got := retainedOf(t, s, "t"); got != c.second {
				t.Errorf("a subscriber gets %q, want %q", got, c.second)
			}
		})
	}
}

// What changes while a client waits for its retained messages comes once, and never the old value after the new one.
func TestRetainedReplayWhileAllChange(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.OutputBytes = 4096 })
	const n = 50
	publishRetained(t, s.Broker, "t", n, 100_000, 0)
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Subscribe("t/+", 1) // the output is full after some
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	for i := range n {
		pub.Publish(fmt.Sprintf("t/%d", i), "new", 1, brokertest.Retained)
	}
	seen := make(map[string]int)
	for got := 0; got < n; {
		p := brokertest.Expect[*codec.Publish](c)
		switch topic := string(p.TopicName); {
		case len(p.Payload) > 3 && seen[topic] > 0:
			t.Fatalf("%s: the old value came after the new one", topic)
		case len(p.Payload) == 3:
			if seen[topic]++; seen[topic] > 1 || p.Retain {
				t.Fatalf("%s: the new value came %d times, RETAIN %t", topic, seen[topic], p.Retain)
			}
			got++
		}
		if p.QoS == 1 {
			c.Acknowledge(p)
		}
	}
	c.ExpectNothing()
}

// A client that subscribes to everything again and again makes the broker begin anew, not collect everything each time; others don't
// notice, and it gets everything in the end.
func TestRetainedReplayBeginsAnew(t *testing.T) {
	const topics, times = 10_000, 1000
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops = 1 })
	publishRetained(t, s.Broker, "r", topics, 200, 0)
	other, c := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V5)
	for _, filter := range []string{"#", "+/none"} {
		one := (&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription(filter, 0)}}).Append(nil, codec.V5)
		before, waited := heapBytes(), startWait()
		c.SendRaw([]byte(strings.Repeat(string(one), times)))
		other.Ping()
		if took := waited(); took > 3*time.Second {
			t.Errorf("%q: another client had to wait %v", filter, took)
		}
		if grown := heapBytes() - before; grown > 16<<20 {
			t.Errorf("%q: the heap has grown by %d MiB", filter, grown>>20)
		}
		last := make(map[string]bool) // since the last SUBACK
		for acks := 0; acks < times || filter == "#" && len(last) < topics; {
			switch p := c.Receive().(type) {
			case *codec.Suback:
				acks++
			case *codec.Publish:
				last[string(p.TopicName)] = true
			}
		}
	}
}

// A client that has unsubscribed gets no more retained messages [MQTT-3.10.4-2], others of its subscriptions go on.
func TestRetainedReplayEndsWithTheSubscription(t *testing.T) {
	t.Parallel()
	for _, version := range []codec.Version{codec.V311, codec.V5} {
		s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops = 1 })
		const n, others = 300, 30
		publishRetained(t, s.Broker, "a", n, 100_000, 0) // more than output and sockets hold
		publishRetained(t, s.Broker, "b", others, 100_000, 0)
		c := brokertest.Connect(t, s.Addr, version)
		c.Send(
			&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("a/#", 0), brokertest.Subscription("b/#", 0)}},
			&codec.Unsubscribe{PacketID: 2, TopicFilters: [][]byte{[]byte("a/#")}},
		)
		expectMetric(t, s.Broker, `loopmq_packets_received_total{type="unsubscribe"}`, 1)
		before, ended := 0, false
		for b := 0; b < others; {
			switch p := c.Receive().(type) {
			case *codec.Unsuback:
				ended = true
			case *codec.Publish:
				switch {
				case p.TopicName[0] == 'b':
					b++
				case ended:
					t.Fatalf("%s came after the UNSUBACK", p.TopicName)
				default:
					before++
				}
			}
		}
		if before == n {
			t.Error("all of them came before the UNSUBACK")
		}
	}
}

// Several clients that get much share the loop.
func TestRetainedReplayTakesTurns(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Loops = 1 })
	const n = 3000
	publishRetained(t, s.Broker, "t", n, 10, 1)
	var clients []*brokertest.Client
	for i := range 4 {
		c := brokertest.Connect(t, s.Addr, codec.V5)
		c.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("t/+", byte(i%2))}})
		clients = append(clients, c)
	}
	left := brokertest.Connect(t, s.Addr, codec.V5)
	left.Send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("t/+", 0)}})
	left.Close() // while it waits for its turn
	for _, c := range clients {
		seen := make(map[string]bool)
		for len(seen) < n {
			if p, ok := c.Receive().(*codec.Publish); ok {
				if seen[string(p.TopicName)] {
					t.Fatalf("%s came twice", p.TopicName)
				}
				seen[string(p.TopicName)] = true
				if p.QoS == 1 {
					c.Send(&codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID})
				}
			}
		}
	}
}
