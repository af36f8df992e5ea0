package benchmarks_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/child"
	"loopmq/store"
	"loopmq/store/pebble"
	"loopmq/webhooks"
)

// eventModes are what BenchmarkEvents compares: a Recorder that wants nothing, one of an endpoint for messages that aren't there, and one for
// one message in a hundred.
var eventModes = [...]struct{ name, filter string }{{name: "without"}, {"nobody", "other/+/up"}, {"one%", "devices/42/+"}}

// BenchmarkEvents measures what events cost an event loop: the CPU time of its thread per message, by eventModes. One broker takes turns, round
// by round, so that what the machine does meanwhile hits all of them, and where memory and sockets happen to be makes no difference; two
// brokers, though alike, differ by more than what is measured. It is a process of its own: beside its publishers in one, Go's scheduler would
// let these wait for the writer of the store, and an event loop that is given less at a time needs more for each. The store is Pebble on disk;
// nothing is delivered to the endpoint.
func BenchmarkEvents(b *testing.B) {
	for _, test := range []struct {
		qos      byte
		inFlight int
	}{{0, 32}, {1, 32}, {0, 1}, {1, 1}} {
		b.Run(fmt.Sprintf("qos=%d/inflight=%d", test.qos, test.inFlight), func(b *testing.B) {
			const rounds = 15
			var took, more [len(eventModes)][]float64 // more: than without, in the same turn
			p := startPairs(b, test.qos, test.inFlight)
			p.round(0) // the first is slower
			turn := 0
			for b.Loop() {
				for range rounds {
					var now [len(eventModes)]float64
					for i := range eventModes {
						m := (i + turn) % len(eventModes) // each is first as often
						now[m] = p.round(m)
					}
					turn++
					for m := range eventModes {
						took[m] = append(took[m], now[m])
						more[m] = append(more[m], 100*(now[m]/now[0]-1))
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for m, mode := range eventModes {
				b.ReportMetric(median(took[m]), "loop-ns/msg:"+mode.name)
				if m > 0 {
					b.ReportMetric(median(more[m]), "%more:"+mode.name)
				}
			}
		})
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// recorderFor is that of an endpoint for messages whose topics match a filter; nobody's if there is none.
func recorderFor(t *testing.T, filter string) *loopmq.Recorder {
	if filter == "" {
		return loopmq.OnEvent(nil, loopmq.EventNodeDown)
	}
	e := &webhooks.Endpoint{Name: "e", URL: "https://example.com/", Events: []string{"message.published"}, TopicFilters: []string{filter}}
	if err := e.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	return webhooks.NewMatcher([]*webhooks.Endpoint{e}).Recorder()
}

// eventsDir is the variable that makes a process of this test binary the broker of BenchmarkEvents.
const eventsDir = "LOOPMQ_BENCHMARK_EVENTS_DIR"

// TestEventsBroker is that broker. It has one event loop and says where it listens. For each number of one of eventModes that it reads it goes
// over to that, and says how much CPU time its loop has had in nanoseconds.
func TestEventsBroker(t *testing.T) {
	dir := os.Getenv(eventsDir)
	if dir == "" {
		t.Skip("runs as a child of BenchmarkEvents")
	}
	var modes [len(eventModes)]*loopmq.Recorder
	for m := range modes {
		modes[m] = recorderFor(t, eventModes[m].filter)
	}
	var current atomic.Pointer[loopmq.Recorder]
	current.Store(modes[0])
	quiet := slog.New(slog.DiscardHandler)
	st, err := pebble.Open(pebble.Options{Dir: dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	broker, err := loopmq.New(loopmq.Options{Store: st, Logger: quiet, SysInterval: -1, Loops: 1, Recorder: &loopmq.Recorder{
		Wants: func(k loopmq.EventKind) bool { return current.Load().Wants(k) },
		Topics: func(k loopmq.EventKind) *loopmq.TopicSet {
			if r := current.Load(); r.Topics != nil {
				return r.Topics(k)
			}
			return nil
		},
		Record: func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) { return current.Load().Record(e, to) },
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := broker.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintln(os.Stdout, addr)
	var once sync.Once
	for m := 0; ; {
		if _, err := fmt.Scan(&m); err != nil {
			return // whoever asked has ended
		}
		current.Store(modes[m])
		var used time.Duration
		onLoop(broker, func() {
			once.Do(runtime.LockOSThread) // so that its thread's time is its own
			used = threadTime(t)
		})
		_, _ = fmt.Fprintln(os.Stdout, used.Nanoseconds())
	}
}

// onLoop calls f on the broker's one loop, which has clients.
func onLoop(broker *loopmq.Broker, f func()) {
	var once sync.Once
	broker.DisconnectWhere(func(*loopmq.ClientInfo) bool {
		once.Do(f)
		return false
	}, codec.AdministrativeAction)
}

// threadTime returns the CPU time of the thread so far.
func threadTime(t *testing.T) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		t.Error(err)
	}
	return time.Duration(now.Nano())
}

// pairs are a hundred publishers with a subscriber each, at a broker with one event loop.
type pairs struct {
	b      *testing.B
	broker struct { // its standard input and output
		io.Writer
		io.Reader
	}
	pub, sub []net.Conn
	out      [][]byte // by publisher: all that is in flight
	in       []int    // by subscriber: how many bytes that is
	acks     int      // bytes
	inFlight int
	repeat   int
}

const pairCount = 100

func startPairs(b *testing.B, qos byte, inFlight int) *pairs {
	p := &pairs{b: b, acks: 4 * int(qos) * inFlight, inFlight: inFlight, repeat: 40_000 / pairCount / inFlight}
	cmd := exec.Command(os.Args[0], "-test.run=^TestEventsBroker$")
	cmd.Env = append(os.Environ(), eventsDir+"="+b.TempDir())
	var err, errOut error
	p.broker.Writer, err = cmd.StdinPipe()
	p.broker.Reader, errOut = cmd.StdoutPipe()
	if err := errors.Join(err, errOut); err != nil {
		b.Fatal(err)
	}
	process, err := child.Start(cmd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		process.Kill()
		for _, c := range slices.Concat(p.pub, p.sub) {
			_ = c.Close()
		}
	})
	var addr string
	if _, err := fmt.Fscan(p.broker, &addr); err != nil {
		b.Fatal(err)
	}
	for i := range pairCount {
		topic := fmt.Sprintf("devices/%d/up", i)
		pub, sub := connectRaw(b, addr), connectRaw(b, addr)
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
	return p
}

// round has messages published in a mode, and returns the loop's CPU time for each in nanoseconds.
func (p *pairs) round(mode int) float64 {
	before := p.loopTime(mode)
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
	return float64(p.loopTime(mode)-before) / float64(pairCount*p.repeat*p.inFlight)
}

// loopTime returns the CPU time of the loop's thread so far in nanoseconds, and has the broker go over to a mode.
func (p *pairs) loopTime(mode int) (n int64) {
	if _, err := fmt.Fprintln(p.broker, mode); err != nil {
		p.b.Fatal(err)
	}
	if _, err := fmt.Fscan(p.broker, &n); err != nil {
		p.b.Fatal(err)
	}
	return n
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
