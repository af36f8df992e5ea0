package loopmq

import (
	"fmt"
	"time"

	"loopmq/metrics"
)

// registerGauges makes what the broker knows at a moment, and what the event
// loops count, part of its metrics.
func (b *Broker) registerGauges() {
	gauge := func(name string, f func() int) {
		b.metrics.Gauge(name, func() float64 { return float64(f()) })
	}
	gauge("loopmq_clients_connected", b.connected)
	gauge("loopmq_sessions", b.registry.len)
	gauge("loopmq_subscriptions", b.subscriptions.Len)
	gauge("loopmq_retained_messages", b.retainedLen)
	gauge("loopmq_retained_bytes", func() int { return int(b.retainedBytes.Load()) })
	gauge("loopmq_queued_messages", b.queued)
	gauge("loopmq_connections", func() int { return int(b.engine.Stats().Connections) })
	for r := range metrics.RefuseReason(metrics.NumRefuseReasons) {
		gauge(fmt.Sprintf("loopmq_connections_refused_total{reason=%q}", r), func() int { return int(b.engine.Stats().Refused[r]) + int(b.refusedConnects[r].Load()) })
	}
	gauge("loopmq_tls_handshakes_total", func() int { return int(b.engine.Stats().TLSHandshakes) })
	gauge("loopmq_tls_handshakes_under_way", func() int { return b.engine.Stats().TLSHandshakesUnderWay })
	for r := range metrics.FrameReason(metrics.NumFrameReasons) {
		gauge(fmt.Sprintf("loopmq_websocket_bad_frames_total{reason=%q}", r), func() int { return int(b.engine.Stats().BadFrames[r]) })
	}
	gauge("loopmq_accept_delays_total", func() int { return int(b.engine.Stats().AcceptDelays) })
	gauge("loopmq_connects_pending", func() int { return int(b.connecting.Load()) })
	gauge("loopmq_accept_pauses_total", func() int { return int(b.engine.Stats().AcceptPauses) })
	gauge("loopmq_received_bytes_total", func() int { return int(b.engine.Stats().BytesIn) })
	gauge("loopmq_sent_bytes_total", func() int { return int(b.engine.Stats().BytesOut) })
	for i, l := range b.loops {
		label := fmt.Sprintf("{loop=\"%d\"}", i)
		gauge("loopmq_mailbox_messages"+label, l.inbox.Len)
		gauge("loopmq_loop_connections"+label, func() int { return int(b.engine.Stats().Loops[i].Connections) })
		b.metrics.Gauge("loopmq_loop_lag_seconds"+label, func() float64 { return b.engine.Stats().Loops[i].Lag.Seconds() })
	}
}

// queued returns how many messages wait in queues, as far as this process knows:
// what another instance put there and this one sent is missing.
func (b *Broker) queued() int {
	return max(0, int(b.queuedBefore.Load())+int(int64(b.metrics.Sum(func(l *metrics.Loop) (n uint64) {
		for q := range l.MessagesQueued {
			n += l.MessagesQueued[q].Load() - l.QueueDelivered[q].Load()
			for r := range l.QueueDropped[q] {
				n -= l.QueueDropped[q][r].Load()
			}
		}
		return n
	}))))
}

// observe notes how long a delivery took since its PUBLISH came in. Loops have
// one clock, so it holds for messages from other loops too.
func (l *loop) observe(received int64) {
	l.m.PublishToDeliver.Observe(time.Duration(l.el.Nanotime() - received))
}
