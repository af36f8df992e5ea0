package opcuaserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
	"golang.org/x/sys/unix"

	"loopmq"
	"loopmq/internal/brokertest"
	"loopmq/internal/child"
)

// manyItems is how many monitored items benchmarks have, each of a topic of its own.
const manyItems = 10_000

// watcherArgument has the test binary be a client that watches them all, at the URL that follows.
const watcherArgument = "watch-at"

// BenchmarkItems is what 10,000 monitored items cost. Memory is that of topics with a value, in the broker's process and the
// server's together, and of items beside it. CPU time is that of each of the two processes for a value that is published,
// from the publication to the bytes for one client, which is a third process.
func BenchmarkItems(b *testing.B) {
	b.Run(fmt.Sprintf("items=%d/memory", manyItems), func(b *testing.B) {
		var perTopic, perItem int64
		for b.Loop() {
			f := mustServe(b, open("plant/#"))
			c := f.mustSubscribe()
			before := heap()
			publishAll(b, f.broker, 0)
			f.await(c, topic(plantTopic(manyItems-1)), int64(0))
			published := heap()
			if err := watchAll(c.Send); err != nil {
				b.Fatal(err)
			}
			for told := 0; told < manyItems; {
				n, err := nextValues(c.Send)
				if err != nil {
					b.Fatal(err)
				}
				told += n
			}
			if _, _, items, queued, _ := f.here.Left(); items != manyItems || queued != 0 {
				b.Fatalf("%d items, %d bytes are queued", items, queued)
			}
			perTopic, perItem = perTopic+published-before, perItem+heap()-published
		}
		all := int64(b.N) * manyItems
		b.ReportMetric(float64(perTopic/all), "B/topic")
		b.ReportMetric(float64(perItem/all), "B/item")
		b.ReportMetric(0, "ns/op") // it says nothing
	})
	b.Run(fmt.Sprintf("items=%d/updates", manyItems), func(b *testing.B) {
		f := mustStart(b, open("plant/#"))
		f.mustSubscribe()
		publishAll(b, f.broker, 0)
		told := mustWatchAll(b, f)
		broker, server, value := cpuTime(b, os.Getpid()), cpuTime(b, f.server.PID()), 0
		for b.Loop() {
			value++
			publishAll(b, f.broker, value)
			told()
		}
		updates := float64(value * manyItems)
		b.ReportMetric(float64(cpuTime(b, os.Getpid())-broker)/updates, "broker-cpu-ns/update")
		b.ReportMetric(float64(cpuTime(b, f.server.PID())-server)/updates, "server-cpu-ns/update")
	})
}

func plantTopic(i int) string { return fmt.Sprint("plant/", i) }

// publishAll publishes a value in all topics.
func publishAll(b *testing.B, s *brokertest.Server, value int) {
	b.Helper()
	payload := strconv.AppendInt(nil, int64(value), 10)
	for i := range manyItems {
		if _, err := s.Broker.Publish(context.Background(), loopmq.Message{TopicName: plantTopic(i), Payload: payload, QoS: 1}); err != nil {
			b.Fatal(err)
		}
	}
}

// mustSubscribe returns a client when the server has subscribed to the topics.
func (f *fixture) mustSubscribe() *opcua.Client {
	f.t.Helper()
	if _, err := f.broker.Broker.Publish(context.Background(), loopmq.Message{TopicName: plantTopic(0), Payload: []byte("-1"), QoS: 1, Retain: true}); err != nil {
		f.t.Fatal(err)
	}
	c := f.mustDial()
	f.await(c, topic(plantTopic(0)), int64(-1))
	return c
}

// heap is the memory in use, once what was under way is done.
func heap() int64 {
	var m runtime.MemStats
	for before := uint64(0); ; before = m.HeapAlloc {
		runtime.GC()
		runtime.ReadMemStats(&m)
		if m.HeapAlloc < before+before/1000 && m.HeapAlloc > before-before/1000 {
			return int64(m.HeapAlloc)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// cpuTime is what a process has used.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(^int32(pid)<<3|2, &t); err != nil { // that of a process: clock_getcpuclockid(3)
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// sender is the Send of a client.
type sender func(context.Context, ua.Request, func(ua.Response) error) error

// watchAll makes a subscription with an item for each topic.
func watchAll(send sender) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var sub uint32
	err := send(ctx, &ua.CreateSubscriptionRequest{RequestedPublishingInterval: 100, PublishingEnabled: true}, func(r ua.Response) error {
		sub = r.(*ua.CreateSubscriptionResponse).SubscriptionID
		return nil
	})
	for first := 0; first < manyItems && err == nil; first += 1000 {
		q := &ua.CreateMonitoredItemsRequest{SubscriptionID: sub, TimestampsToReturn: ua.TimestampsToReturnBoth}
		for i := first; i < first+1000; i++ {
			q.ItemsToCreate = append(q.ItemsToCreate, monitored(topic(plantTopic(i)), uint32(i)))
		}
		err = send(ctx, q, func(r ua.Response) error {
			for _, result := range r.(*ua.CreateMonitoredItemsResponse).Results {
				if result.StatusCode != ua.StatusOK {
					return result.StatusCode
				}
			}
			return nil
		})
	}
	return err
}

// nextValues waits for the next notification, and returns how many values it has.
func nextValues(send sender) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = send(ctx, &ua.PublishRequest{}, func(r ua.Response) error {
		for _, d := range r.(*ua.PublishResponse).NotificationMessage.NotificationData {
			n += len(d.Value.(*ua.DataChangeNotification).MonitoredItems)
		}
		return nil
	})
	return n, err
}

// mustWatchAll starts a process that watches all topics. told returns when each has one more value.
func mustWatchAll(b *testing.B, f *fixture) (told func()) {
	b.Helper()
	own, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	r, w := io.Pipe()
	cmd := exec.Command(own, watcherArgument, f.url)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	process, err := child.Start(cmd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(process.Kill)
	go func() {
		<-process.Ended
		_ = w.Close()
	}()
	lines := bufio.NewScanner(r)
	told = func() {
		b.Helper()
		if !lines.Scan() {
			b.Fatal("the watcher has ended")
		}
	}
	told()
	return told
}

// watch is that process. It prints a line whenever each topic has had one more value.
func watch(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := opcua.NewClient(url, opcua.SecurityMode(ua.MessageSecurityModeNone), opcua.AutoReconnect(false), opcua.RequestTimeout(patience))
	if err != nil {
		return err
	}
	if err := c.Connect(ctx); err != nil {
		return err
	}
	for { // until the last topic is there, all are
		v, err := c.Node(topic(plantTopic(manyItems - 1))).Value(ctx)
		if err == nil && v.Value() == int64(0) {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := watchAll(c.Send); err != nil {
		return err
	}
	for told := 0; ; {
		n, err := nextValues(c.Send)
		if err != nil {
			return err
		}
		if told += n; told >= manyItems {
			told -= manyItems
			fmt.Fprintln(os.Stdout, "told")
		}
	}
}
