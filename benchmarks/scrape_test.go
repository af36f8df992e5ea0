package benchmarks_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/benchmarks/process"
	"loopmq/codec"
	"loopmq/internal/child"
	"loopmq/store/memory"
)

// What this test binary is when it runs itself: the broker that is scraped, or a holder of connections to the address that follows.
const (
	scrapeRole   = "LOOPMQ_SCRAPE_ROLE"
	scrapeBroker = "broker"
	scrapeHolder = "holder"
)

func TestMain(m *testing.M) {
	var err error
	switch role, addr, _ := strings.Cut(os.Getenv(scrapeRole), " "); role {
	case scrapeBroker:
		err = serveScrapes()
	case scrapeHolder:
		err = holdConnections(addr)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv(scrapeRole), err)
		os.Exit(1)
	}
}

// BenchmarkScrape measures what a scrape of the metrics costs a broker with many connections, and whether its event loops are slower
// meanwhile: the time from a PUBLISH to its arrival at another connection, while somebody scrapes ten times a second (Prometheus does each
// 15 seconds), and while nobody does. Both take turns. Broker and holders of the connections are processes of their own, since each may
// open so many files only.
func BenchmarkScrape(b *testing.B) {
	for _, connections := range []int{100, 18_900} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			addrs := strings.Fields(startSelf(b, scrapeBroker))
			mqtt, metrics, broker := addrs[0], addrs[1], process.Process(0)
			if _, err := fmt.Sscan(addrs[2], &broker); err != nil {
				b.Fatal(err)
			}
			const holders = 2
			var setUp sync.WaitGroup
			for range holders {
				setUp.Go(func() { startSelf(b, fmt.Sprintf("%s %s %d", scrapeHolder, mqtt, connections/holders)) })
			}
			setUp.Wait()
			probe := newProbe(b, mqtt)
			var calm, scraped []time.Duration
			var cpu, took time.Duration
			var scrapes, size int
			for b.Loop() {
				for range 3 {
					calm = append(calm, probe.roundTrips(b, time.Second)...)
					stop, done := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(done)
						tick := time.NewTicker(100 * time.Millisecond)
						defer tick.Stop()
						for {
							select {
							case <-stop:
								return
							case <-tick.C:
							}
							began := time.Now()
							size = scrapeOnce(b, metrics)
							took += time.Since(began)
							scrapes++
						}
					}()
					scraped = append(scraped, probe.roundTrips(b, time.Second)...)
					close(stop)
					<-done
				}
				// The processor's time for a scrape, with nothing else to do.
				const alone = 50
				before := cpuOf(b, broker)
				for range alone {
					scrapeOnce(b, metrics)
				}
				cpu = (cpuOf(b, broker) - before) / alone
			}
			slices.Sort(calm)
			slices.Sort(scraped)
			at := func(sorted []time.Duration, q float64) float64 {
				return float64(sorted[int(q*float64(len(sorted)-1))].Nanoseconds()) / 1e3
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(cpu.Microseconds()), "cpu-µs/scrape")
			b.ReportMetric(float64(took.Microseconds())/float64(scrapes), "µs/scrape")
			b.ReportMetric(float64(size), "bytes")
			for _, q := range []float64{0.5, 0.99} {
				b.ReportMetric(at(calm, q), fmt.Sprintf("p%g-µs", q*100))
				b.ReportMetric(at(scraped, q), fmt.Sprintf("p%g-µs-scraped", q*100))
			}
		})
	}
}

// startSelf runs this test binary in a role until the benchmark ends, and returns the first line that it prints.
func startSelf(b *testing.B, role string) string {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), scrapeRole+"="+role)
	cmd.Stderr = os.Stderr
	out, in, err := os.Pipe()
	if err != nil {
		b.Error(err)
		return ""
	}
	cmd.Stdout = in
	p, err := child.Start(cmd)
	_ = in.Close()
	if err != nil {
		b.Error(err)
		return ""
	}
	b.Cleanup(func() {
		p.Kill()
		_ = out.Close()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Errorf("%s: %v", role, err)
	}
	return line
}

// serveScrapes is the broker. It prints the addresses of MQTT and of the metrics, and its process id.
func serveScrapes() error {
	b, err := loopmq.New(loopmq.Options{Store: memory.New(memory.Options{}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := b.Start(); err != nil {
		return err
	}
	addr, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, addr, l.Addr(), os.Getpid())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { b.Metrics().WritePrometheus(w) }))
}

// holdConnections opens connections with a subscription each, says so, and stays.
func holdConnections(order string) error {
	var addr string
	var n int
	if _, err := fmt.Sscan(order, &addr, &n); err != nil {
		return err
	}
	const workers = 50
	var all sync.WaitGroup
	errs := make([]error, workers)
	conns := make([]net.Conn, n)
	for w := range workers {
		all.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				conns[i], errs[w] = hold(addr, fmt.Sprintf("hold/%d/%d", os.Getpid(), i))
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, "ready")
	select {} // the parent's end ends it
}

func hold(addr, topic string) (net.Conn, error) {
	// Eight source addresses: one has no more than 28,000 ports.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+len(topic)%8))}, Timeout: time.Minute}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	connect := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V311, CleanStart: true}
	subscribe := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{{TopicFilter: []byte(topic)}}}
	if _, err := conn.Write(subscribe.Append(connect.Append(nil, codec.V311), codec.V311)); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(conn, make([]byte, 4+5)) // CONNACK, SUBACK
	return conn, err
}

// probe is two connections, of which one publishes to the other.
type probe struct {
	publisher, subscriber net.Conn
	packet, in            []byte
}

func newProbe(b *testing.B, addr string) *probe {
	const topic = "probe/topic"
	publisher, err := hold(addr, "probe/none")
	if err != nil {
		b.Fatal(err)
	}
	subscriber, err := hold(addr, topic)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = publisher.Close(), subscriber.Close() })
	m := codec.Publish{TopicName: []byte(topic), Payload: make([]byte, 64)}
	packet := m.Append(nil, codec.V311)
	return &probe{publisher, subscriber, packet, make([]byte, len(packet))}
}

// roundTrips publishes a message each millisecond for so long, and returns how long each took.
func (p *probe) roundTrips(b *testing.B, d time.Duration) (took []time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		began := time.Now()
		writeAll(b, p.publisher, p.packet)
		readAll(b, p.subscriber, p.in)
		took = append(took, time.Since(began))
	}
	return took
}

func scrapeOnce(b *testing.B, addr string) (size int) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr, nil)
	if err != nil {
		b.Error(err)
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Error(err)
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		b.Error(err)
	}
	return int(n)
}

func cpuOf(b *testing.B, p process.Process) time.Duration {
	cpu, err := p.CPU()
	if err != nil {
		b.Fatal(err)
	}
	return cpu
}
