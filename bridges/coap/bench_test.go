package coapbridge

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/internal/brokertest"
)

// BenchmarkObservers tells observers of one message for each turn, by confirmable (QoS 1)
// or non-confirmable notifications: what one of them costs in time, of the clock and of the
// processor, and an idle observer in memory.
func BenchmarkObservers(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		for qos := range 2 {
			b.Run(fmt.Sprintf("observers=%d/qos=%d", n, qos), func(b *testing.B) { benchmarkObservers(b, n, qos) })
		}
	}
}

func benchmarkObservers(b *testing.B, n, qos int) {
	s := brokertest.Start(b)
	bridge := New(Options{Broker: s.Broker})
	addr, err := bridge.Start("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = bridge.Shutdown(b.Context()) }()
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	// Each observer has an address of its own. What the clients take is there before.
	got, answered := make(chan struct{}, n), make(chan struct{}, n)
	devices := make([]*device, n)
	for i := range devices {
		conn, err := net.Dial("udp", addr.String())
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		go observe(conn, got, answered)
		devices[i] = &device{conn: conn}
		_, _ = conn.Write(empty(coap.Confirmable, 0)) // a ping, which is forgotten
		<-answered
	}
	before := memory()
	for _, d := range devices {
		_, _ = d.conn.Write(encode(d.message(coap.Confirmable, codes.GET, "t", fmt.Sprintf("/ps/t/bench?qos=%d", qos), nil, num(coap.Observe, 0))))
		<-answered
	}
	for _, d := range devices { // so that each address is known to be one
		for !d.known(bridge) {
			runtime.Gosched()
		}
	}
	held := float64(memory()-before) / float64(n)
	b.ResetTimer() // which forgets metrics
	cpu := processorTime(b)
	for turn := range b.N {
		if _, err := s.Broker.Publish(b.Context(), loopmq.Message{TopicName: "t/bench", Payload: []byte("21.5"), QoS: byte(qos)}); err != nil {
			b.Fatal(err)
		}
		for range n {
			<-got
		}
		if lost := bridge.metrics.CoAPDropped.Get(); lost > 0 {
			b.Fatalf("turn %d: %d were dropped", turn, lost)
		}
	}
	b.StopTimer()
	each := float64(b.N) * float64(n)
	b.ReportMetric(held, "B/observer")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/each, "ns/notification")
	b.ReportMetric(float64((processorTime(b)-cpu).Nanoseconds())/each, "cpu-ns/notification")
}

// observe is a client that acknowledges all there is.
func observe(conn net.Conn, got, answered chan<- struct{}) {
	buf := make([]byte, 256)
	for {
		length, err := conn.Read(buf)
		if err != nil {
			return
		}
		switch m, _ := decode(buf[:length]); {
		case m.Type == coap.Confirmable && m.Code == codes.Empty:
			_, _ = conn.Write(empty(coap.Reset, uint16(m.MessageID)))
		case m.Type == coap.Confirmable:
			_, _ = conn.Write(empty(coap.Acknowledgement, uint16(m.MessageID)))
			got <- struct{}{}
		case m.Type == coap.NonConfirmable:
			got <- struct{}{}
		default:
			answered <- struct{}{}
		}
	}
}

// known reports whether the address of the device is verified.
func (d *device) known(b *Bridge) bool {
	p := b.mu.endpoints[0].find(netip.MustParseAddrPort(d.conn.LocalAddr().String()))
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.verified
}

// processorTime is what this process has used: the clients too, which do little more than
// read.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
