package loopmq_test

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
)

// mallocs returns how many objects the process has allocated so far.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// publishAllocs lets a publisher send messages to subscribers, some in flight at a time, and returns how many objects were allocated for
// each. The test's own side allocates nothing. So many are in flight that what a turn of a loop costs doesn't count.
func publishAllocs(t *testing.T, s *brokertest.Server, p *codec.Publish, subscribers int) float64 {
	t.Helper()
	const inFlight, rounds = 500, 20
	subs := make([]*rawClient, subscribers)
	for i := range subs {
		subs[i] = rawConnect(t, s.Addr, fmt.Sprintf("sub%d", i))
		subscribe := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("some/topic", 0)}}
		subs[i].write(subscribe.Append(nil, codec.V5))
		if h, _ := subs[i].read(); h.Type != codec.TypeSuback {
			t.Fatalf("got %v, want SUBACK", h.Type)
		}
	}
	pub := rawConnect(t, s.Addr, "pub")
	if len(p.TopicName) == 0 {
		first := codec.Publish{TopicName: []byte("some/topic"), Properties: p.Properties, Payload: p.Payload}
		pub.write(first.Append(nil, codec.V5))
		for _, c := range subs {
			if h, _ := c.read(); h.Type != codec.TypePublish {
				t.Fatalf("got %v, want PUBLISH", h.Type)
			}
		}
	}
	var out []byte
	for range inFlight {
		out = p.Append(out, codec.V5)
	}
	received := codec.Publish{TopicName: []byte("some/topic"), Payload: p.Payload}
	in := make([]byte, inFlight*len(received.Append(nil, codec.V5)))
	round := func() {
		if _, err := pub.conn.Write(out); err != nil {
			t.Fatal(err)
		}
		for _, c := range subs {
			if _, err := io.ReadFull(c.conn, in); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range rounds {
		round() // everything gets the size that it needs
	}
	best := 1e9 // of a few: other parts of the process do something now and then
	for range 5 {
		before := mallocs()
		for range rounds {
			round()
		}
		best = min(best, float64(mallocs()-before)/(inFlight*rounds))
	}
	return best
}

// A QoS 0 publish to subscribers that are online allocates nothing, whether they are on the publisher's loop or on another, with metrics
// on.
func TestPublishQoS0DoesNotAlloc(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	others := loopmq.NewTopicSet("other/+")
	for name, test := range map[string]struct {
		loops, subscribers int
		publish            codec.Publish
		authorizer         loopmq.Authorizer
		recorder           *loopmq.Recorder
	}{
		"same loop":    {1, 1, codec.Publish{TopicName: []byte("some/topic"), Payload: make([]byte, 64)}, nil, nil},
		"across loops": {2, 2, codec.Publish{TopicName: []byte("some/topic"), Payload: make([]byte, 64)}, nil, nil},
		"fan-out":      {2, 50, codec.Publish{TopicName: []byte("some/topic"), Payload: make([]byte, 64)}, nil, nil},
		// Nor do events that nobody has stored.
		"told": {2, 2, codec.Publish{TopicName: []byte("some/topic"), Payload: make([]byte, 64)}, nil, loopmq.OnEvent(func(*loopmq.Event) {})},
		"other topic": {2, 2, codec.Publish{TopicName: []byte("some/topic"), Payload: make([]byte, 64)}, nil, &loopmq.Recorder{
			Wants:  func(loopmq.EventKind) bool { return true },
			Topics: func(loopmq.EventKind) *loopmq.TopicSet { return others },
			Record: func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) {
				if e.Message != nil && e.Kind != loopmq.EventMessageAcked {
					t.Errorf("%v of %s is told", e.Kind, e.Message.TopicName)
				}
				return to, false
			},
		}},
		"alias set": {1, 1, codec.Publish{
			Payload: make([]byte, 64), TopicName: []byte("some/topic"),
			Properties: brokertest.Properties(codec.PropTopicAlias, 1),
		}, nil, nil},
		"alias used": {1, 1, codec.Publish{Payload: make([]byte, 64), Properties: brokertest.Properties(codec.PropTopicAlias, 1)}, nil, nil},
		// Decisions that are kept cost nothing.
		"authorized": {1, 1, codec.Publish{TopicName: []byte("some/topic"), Payload: make([]byte, 64)}, newRules(true), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := brokertest.Start(t, func(o *loopmq.Options) {
				o.Engine = "gnet" // netpoll allocates for each read
				o.Loops, o.Authorizer, o.Recorder = test.loops, test.authorizer, test.recorder
			})
			p := test.publish
			if got := publishAllocs(t, s, &p, test.subscribers); got > 0.01 {
				t.Errorf("%.3f allocations for each message", got)
			}
		})
	}
}
