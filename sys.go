package loopmq

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"loopmq/metrics"
	"loopmq/store"
)

// sys publishes the $SYS topics, with the names that mosquitto uses; those of its
// that have no like here are left out. They are retained, but not stored, and count
// as no retained messages: they are about this process.
type sys struct {
	b          *Broker
	quit       chan struct{}
	running    sync.WaitGroup
	last       map[string]string
	maxClients int
	loads      []*load
}

func newSys(b *Broker) *sys {
	return &sys{b: b, quit: make(chan struct{}), last: make(map[string]string)}
}

func (s *sys) start() { s.running.Go(s.run) }

// stop ends the publishing and waits for it. It need not have started.
func (s *sys) stop() {
	close(s.quit)
	s.running.Wait()
}

func (s *sys) run() {
	if s.b.opts.SysInterval < 0 {
		return
	}
	ticker := time.NewTicker(s.b.opts.SysInterval)
	defer ticker.Stop()
	for {
		s.publish()
		select {
		case <-s.quit:
			return
		case <-ticker.C:
		}
	}
}

// publish publishes each value that has changed.
func (s *sys) publish() {
	values := s.values()
	l := s.b.loops[0]
	l.el.Post(func() {
		for _, v := range values {
			l.publishSys(v.topic, v.value)
		}
	})
}

type sysValue struct{ topic, value string }

// publishSys publishes one value: QoS 0, retained in the index only.
func (l *loop) publishSys(topic, value string) {
	m := &store.Message{TopicName: []byte("$SYS/broker/" + topic), Payload: []byte(value), Retain: true}
	l.b.indexRetained(string(m.TopicName), m, nil)
	var p publication
	p.set(m)
	p.retain, p.sys = false, true
	l.route(&p, false)
}

// load is a moving average per minute, as mosquitto's load topics are.
type load struct {
	topic   string
	last    uint64
	average [3]float64
}

var loadMinutes = [3]int{1, 5, 15}

// values returns what has changed since the last call.
func (s *sys) values() (changed []sysValue) {
	set := func(topic, value string) {
		if s.last[topic] != value {
			s.last[topic] = value
			changed = append(changed, sysValue{topic, value})
		}
	}
	number := func(topic string, n uint64) { set(topic, strconv.FormatUint(n, 10)) }
	b := s.b
	t := b.totals()
	set("version", "loopmq version "+b.opts.Version)
	set("uptime", fmt.Sprintf("%d seconds", int(time.Since(b.started).Seconds())))
	connected, sessions := b.connected(), b.registry.len()
	s.maxClients = max(s.maxClients, sessions)
	number("clients/connected", uint64(connected))
	number("clients/active", uint64(connected))
	number("clients/disconnected", uint64(max(0, sessions-connected)))
	number("clients/inactive", uint64(max(0, sessions-connected)))
	number("clients/total", uint64(sessions))
	number("clients/maximum", uint64(s.maxClients))
	number("clients/expired", b.metrics.SessionsExpired.Get())
	number("messages/received", t.packetsReceived)
	number("messages/sent", t.packetsSent)
	number("retained messages/count", uint64(b.retainedLen()))
	number("subscriptions/count", uint64(b.subscriptions.Len()))
	number("shared_subscriptions/count", uint64(b.subscriptions.SharedLen()))
	number("bytes/received", t.bytesReceived)
	number("bytes/sent", t.bytesSent)
	number("publish/messages/received", t.published)
	number("publish/messages/sent", t.publishSent)
	number("publish/messages/dropped", t.dropped)
	s.addLoads(t, set)
	return changed
}

func (s *sys) addLoads(t totals, set func(topic, value string)) {
	if s.loads == nil {
		for _, topic := range []string{
			"messages/received", "messages/sent", "publish/received", "publish/sent", "publish/dropped",
			"bytes/received", "bytes/sent", "connections", "sockets",
		} {
			s.loads = append(s.loads, &load{topic: topic})
		}
	}
	interval := s.b.opts.SysInterval.Minutes()
	for i, now := range []uint64{
		t.packetsReceived, t.packetsSent, t.published, t.publishSent, t.dropped,
		t.bytesReceived, t.bytesSent, t.connects, t.sockets,
	} {
		l := s.loads[i]
		rate := float64(now-l.last) / interval
		l.last = now
		for j, minutes := range loadMinutes {
			weight := min(1, interval/float64(minutes))
			l.average[j] += (rate - l.average[j]) * weight
			set(fmt.Sprintf("load/%s/%dmin", l.topic, minutes), strconv.FormatFloat(l.average[j], 'f', 2, 64))
		}
	}
}

// totals are sums over all loops.
type totals struct {
	packetsReceived, packetsSent, bytesReceived, bytesSent, published, publishSent, dropped, connects, sockets uint64
}

func (b *Broker) totals() (t totals) {
	for _, l := range b.loops {
		for i := range l.m.PacketsReceived {
			t.packetsReceived += l.m.PacketsReceived[i].Load()
			t.packetsSent += l.m.PacketsSent[i].Load()
		}
		t.connects += l.m.PacketsReceived[1].Load()
		t.publishSent += l.m.PacketsSent[3].Load()
		for q := range l.m.MessagesReceived {
			t.published += l.m.MessagesReceived[q].Load()
			for r := range metrics.NumDropReasons {
				t.dropped += l.m.MessagesDropped[q][r].Load() + l.m.QueueDropped[q][r].Load()
			}
		}
	}
	stats := b.engine.Stats()
	t.bytesReceived, t.bytesSent = stats.BytesIn, stats.BytesOut
	t.sockets = b.metrics.ConnectionsOpened.Get()
	return t
}
