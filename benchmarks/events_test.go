package benchmarks_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"loopmq"
	"loopmq/codec"
	"loopmq/store/pebble"
	"loopmq/webhooks"
)

// BenchmarkEvents measures what events cost an event loop: the CPU time of its thread per message, of a broker whose Recorder finds an
// endpoint for one message in a hundred, beside one that has none. Both run in turn, so that what the machine does meanwhile hits both.
// The store is Pebble on disk; nothing is delivered to the endpoint.
func BenchmarkEvents(b *testing.B) {
	for _, test := range []struct {
		qos      byte
		inFlight int
	}{{0, 32}, {1, 32}, {0, 1}, {1, 1}} {
		b.Run(fmt.Sprintf("qos=%d/inflight=%d", test.qos, test.inFlight), func(b *testing.B) {
			const rounds = 15
			brokers := []struct {
				name string
				*pairs
				took []float64
			}{
				{name: "without", pairs: startPairs(b, nil, test.qos, test.inFlight)},
				{name: "nobody", pairs: startPairs(b, recorderFor(b, "other/+/up"), test.qos, test.inFlight)},
				{name: "one%", pairs: startPairs(b, recorderFor(b, "devices/42/+"), test.qos, test.inFlight)},
			}
			for b.Loop() {
				for range rounds {
					for i := range brokers {
						brokers[i].took = append(brokers[i].took, brokers[i].round())
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for i := range brokers {
				slices.Sort(brokers[i].took)
				median := func(i int) float64 { return brokers[i].took[len(brokers[i].took)/2] }
				b.ReportMetric(median(i), "loop-ns/msg:"+brokers[i].name)
				if i > 0 {
					b.ReportMetric(100*(median(i)/median(0)-1), "%more:"+brokers[i].name)
					b.ReportMetric(100*(brokers[i].took[0]/brokers[0].took[0]-1), "%more-at-best:"+brokers[i].name)
				}
			}
		})
	}
}

// recorderFor is that of an endpoint for messages whose topics match a filter.
func recorderFor(b *testing.B, filter string) *loopmq.Recorder {
	e := &webhooks.Endpoint{Name: "e", URL: "https://example.com/", Events: []string{"message.published"}, TopicFilters: []string{filter}}
	if err := e.SetDefaults(); err != nil {
		b.Fatal(err)
	}
	return webhooks.NewMatcher([]*webhooks.Endpoint{e}).Recorder()
}

// pairs are a hundred publishers with a subscriber each, at a broker with one event loop.
type pairs struct {
	b        *testing.B
	broker   *loopmq.Broker
	pub, sub []net.Conn
	out      [][]byte // by publisher: all that is in flight
	in       []int    // by subscriber: how many bytes that is
	acks     int      // bytes
	inFlight int
	repeat   int
}

const pairCount = 100

func startPairs(b *testing.B, r *loopmq.Recorder, qos byte, inFlight int) *pairs {
	quiet := slog.New(slog.DiscardHandler)
	st, err := pebble.Open(pebble.Options{Dir: b.TempDir(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	broker, err := loopmq.New(loopmq.Options{Store: st, Logger: quiet, SysInterval: -1, Loops: 1, Recorder: r})
	if err != nil {
		b.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		b.Fatal(err)
	}
	addr, err := broker.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	p := &pairs{b: b, broker: broker, acks: 4 * int(qos) * inFlight, inFlight: inFlight, repeat: 40_000 / pairCount / inFlight}
	b.Cleanup(func() {
		_ = broker.Shutdown(b.Context())
		_ = st.Close()
		for _, c := range slices.Concat(p.pub, p.sub) {
			_ = c.Close()
		}
	})
	for i := range pairCount {
		topic := fmt.Sprintf("devices/%d/up", i)
		pub, sub := connectRaw(b, addr.String()), connectRaw(b, addr.String())
		s := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{{TopicFilter: []byte(topic)}}}
		writeAll(b, sub, s.Append(nil, codec.V5))
		readAll(b, sub, make([]byte, 6))
		m := codec.Publish{TopicName: []byte(topic), Payload: make([]byte, 64)}
		p.in = append(p.in, inFlight*len(m.Append(nil, codec.V5)))
		var out []byte
		for n := range inFlight {
			m.QoS, m.PacketID = qos, uint16(n+1)
			out = m.Append(out, codec.V5)
		}
		p.out, p.pub, p.sub = append(p.out, out), append(p.pub, pub), append(p.sub, sub)
	}
	onLoop(broker, runtime.LockOSThread) // so that its thread's time is its own
	return p
}

// round has messages published, and returns the loop's CPU time for each in nanoseconds.
func (p *pairs) round() float64 {
	before := loopTime(p.b, p.broker)
	var wg sync.WaitGroup
	for i := range p.pub {
		wg.Go(func() {
			in := make([]byte, max(p.in[i], p.acks))
			for range p.repeat {
				writeAll(p.b, p.pub[i], p.out[i])
				readAll(p.b, p.sub[i], in[:p.in[i]])
				readAll(p.b, p.pub[i], in[:p.acks])
			}
		})
	}
	wg.Wait()
	return float64(loopTime(p.b, p.broker)-before) / float64(pairCount*p.repeat*p.inFlight)
}

// onLoop calls f on the broker's one loop.
func onLoop(broker *loopmq.Broker, f func()) {
	var once sync.Once
	broker.DisconnectWhere(func(*loopmq.ClientInfo) bool {
		once.Do(f)
		return false
	}, codec.AdministrativeAction)
}

// loopTime returns the CPU time of the loop's thread so far.
func loopTime(b *testing.B, broker *loopmq.Broker) time.Duration {
	var t unix.Timespec
	onLoop(broker, func() {
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
			b.Error(err)
		}
	})
	return time.Duration(t.Nano())
}

func connectRaw(b *testing.B, addr string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	p := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true}
	p.Properties.Set(codec.PropReceiveMaximum)
	p.Properties.ReceiveMaximum = 100
	writeAll(b, conn, p.Append(nil, codec.V5))
	header := make([]byte, 2)
	readAll(b, conn, header)
	readAll(b, conn, make([]byte, header[1]))
	return conn
}

func writeAll(b *testing.B, c net.Conn, out []byte) {
	if _, err := c.Write(out); err != nil {
		b.Error(err)
	}
}

func readAll(b *testing.B, c net.Conn, in []byte) {
	if _, err := io.ReadFull(c, in); err != nil {
		b.Error(err)
	}
}
