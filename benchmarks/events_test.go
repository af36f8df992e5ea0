package benchmarks_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"loopmq"
	"loopmq/codec"
	"loopmq/store"
	"loopmq/store/pebble"
	"loopmq/webhooks"
)

// BenchmarkEvents measures what events cost an event loop: the CPU time of its thread per message, while its Recorder wants nothing, has an
// endpoint for messages that aren't there, and for one in a hundred. One broker takes turns, round by round, so that what the machine does
// meanwhile hits all of them, and where memory and sockets happen to be makes no difference; two brokers, though alike, differ by more than
// what is measured. The store is Pebble on disk; nothing is delivered to the endpoint.
func BenchmarkEvents(b *testing.B) {
	for _, test := range []struct {
		qos      byte
		inFlight int
	}{{0, 32}, {1, 32}, {0, 1}, {1, 1}} {
		b.Run(fmt.Sprintf("qos=%d/inflight=%d", test.qos, test.inFlight), func(b *testing.B) {
			const rounds = 15
			modes := []struct {
				name     string
				recorder *loopmq.Recorder
				took     []float64
				more     []float64 // than without, in the same turn
			}{
				{name: "without", recorder: loopmq.OnEvent(nil, loopmq.EventNodeDown)},
				{name: "nobody", recorder: recorderFor(b, "other/+/up")},
				{name: "one%", recorder: recorderFor(b, "devices/42/+")},
			}
			var current atomic.Pointer[loopmq.Recorder]
			current.Store(modes[0].recorder)
			p := startPairs(b, &loopmq.Recorder{
				Wants: func(k loopmq.EventKind) bool { return current.Load().Wants(k) },
				Topics: func(k loopmq.EventKind) *loopmq.TopicSet {
					if r := current.Load(); r.Topics != nil {
						return r.Topics(k)
					}
					return nil
				},
				Record: func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) { return current.Load().Record(e, to) },
			}, test.qos, test.inFlight)
			p.round() // the first is slower
			turn := 0
			for b.Loop() {
				for range rounds {
					var took [3]float64
					for i := range modes {
						m := (i + turn) % len(modes) // each is first as often
						current.Store(modes[m].recorder)
						took[m] = p.round()
					}
					turn++
					for m := range modes {
						modes[m].took = append(modes[m].took, took[m])
						modes[m].more = append(modes[m].more, 100*(took[m]/took[0]-1))
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for m := range modes {
				b.ReportMetric(median(modes[m].took), "loop-ns/msg:"+modes[m].name)
				if m > 0 {
					b.ReportMetric(median(modes[m].more), "%more:"+modes[m].name)
				}
			}
		})
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
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
