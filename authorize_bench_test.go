package loopmq_test

import (
	"io"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// BenchmarkPublishQoS0 is one publisher and one subscriber at QoS 0, 500 messages under way, on one loop. An Authorizer answers off the
// loop, its answers are kept; asked each time; asked on the loop each time; and about deliveries too.
func BenchmarkPublishQoS0(b *testing.B) {
	yes := func(r *rules) *rules {
		r.fast = func(*loopmq.ClientInfo, loopmq.Action, string) (bool, bool) { return true, true }
		return r
	}
	each := func(r *rules) *rules {
		r.ttl.Store(0)
		return r
	}
	for _, bench := range []struct {
		name       string
		authorizer loopmq.Authorizer
	}{
		{"authorizer=none", nil},
		{"authorizer=kept", newRules(false)},
		{"authorizer=kept,deliveries", yes(newRules(true))},
		{"authorizer=fast,deliveries", each(yes(newRules(true)))},
		{"authorizer=slow", each(newRules(false))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := brokertest.Start(b, func(o *loopmq.Options) { o.Loops, o.Authorizer = 1, bench.authorizer })
			const inFlight = 500
			sub, pub := rawConnect(b, s.Addr, "sub"), rawConnect(b, s.Addr, "pub")
			subscribe := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("some/topic", 0)}}
			sub.write(subscribe.Append(nil, codec.V5))
			sub.read()
			p := codec.Publish{TopicName: []byte("some/topic"), Payload: make([]byte, 64)}
			var out []byte
			for range inFlight {
				out = p.Append(out, codec.V5)
			}
			in := make([]byte, len(out))
			b.ReportAllocs()
			for b.Loop() {
				pub.write(out)
				if _, err := io.ReadFull(sub.conn, in); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*inFlight), "ns/message")
		})
	}
}
