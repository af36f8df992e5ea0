package coapbridge

import (
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/internal/brokertest"
)

// BenchmarkObservers tells observers of one message for each turn, by non-confirmable
// notifications: what one of them costs in time and, idle, in memory.
func BenchmarkObservers(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("observers=%d", n), func(b *testing.B) { benchmarkObservers(b, n) })
	}
}

func benchmarkObservers(b *testing.B, n int) {
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
	before := memory()
	// A few sockets have all observers, so that their own memory doesn't count.
	var got atomic.Int64
	const sockets = 100
	registered := make(chan struct{}, n)
	for range sockets {
		conn, err := net.Dial("udp", addr.String())
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		go func() {
			buf := make([]byte, 2048)
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
					got.Add(1)
				case m.Type == coap.Acknowledgement:
					registered <- struct{}{}
				default:
					got.Add(1)
				}
			}
		}()
		d := &device{conn: conn}
		for k := range n / sockets {
			_, _ = conn.Write(encode(d.message(coap.Confirmable, codes.GET, fmt.Sprint(k), "/ps/t/bench?qos=0", nil, num(coap.Observe, 0))))
			<-registered
		}
	}
	b.ReportMetric(float64(memory()-before)/float64(n), "B/observer")
	b.ResetTimer()
	for turn := range b.N {
		if _, err := s.Broker.Publish(b.Context(), loopmq.Message{TopicName: "t/bench", Payload: []byte("21.5")}); err != nil {
			b.Fatal(err)
		}
		for got.Load() < int64(turn+1)*int64(n) && bridge.metrics.CoAPDropped.Get() == 0 {
			runtime.Gosched()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/notification")
	b.ReportMetric(float64(bridge.metrics.CoAPDropped.Get()), "dropped")
}
