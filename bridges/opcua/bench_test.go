package opcuabridge_test

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"loopmq"
	opcuabridge "loopmq/bridges/opcua"
	"loopmq/internal/opcuatest"
)

// BenchmarkUpdates is what 10,000 monitored items cost on the broker's side: memory of an item that is idle, and CPU time of
// the whole process for a value that becomes a message. The server is a process of its own.
func BenchmarkUpdates(b *testing.B) {
	const items = 10_000
	server := opcuatest.Start(b, map[string]any{"many": items})
	for _, format := range []opcuabridge.Format{opcuabridge.FormatValue, opcuabridge.FormatJSON} {
		for _, qos := range []byte{0, 1} {
			b.Run(fmt.Sprintf("items=%d/format=%s/qos=%d", items, format, qos), func(b *testing.B) {
				n := mustBroker(b)
				before := heap()
				e := endpoint(server.Addr())
				e.PublishingInterval = 100 * time.Millisecond
				e.Mappings = []opcuabridge.Mapping{{Tree: "nsu=urn:plant;s=Plant", Topic: "plant/{browse_path}", QoS: qos, Format: format}}
				e.Calls = nil
				var published atomic.Int64
				cancel, err := n.Broker.Subscribe("plant/#", func(*loopmq.MessageView) { published.Add(1) })
				if err != nil {
					b.Fatal(err)
				}
				defer cancel()
				bridge := mustServe(b, n, e)
				eventually(b, "all items have their values", func() bool { return published.Load() >= items })
				bytes := heap() - before
				value, cpu, updates := 0, cpuTime(b), -published.Load()
				for b.Loop() {
					value++
					from := published.Load()
					server.Do("all", "value", -value)
					eventually(b, "all values are published", func() bool { return published.Load() >= from+items })
				}
				b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(updates+published.Load()), "cpu-ns/update")
				b.ReportMetric(float64(bytes)/items, "B/item")
				closeBridge(bridge)
			})
		}
	}
}

// heap is the memory in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
