package loopmq

import "time"

// registerGauges makes what the broker knows at a moment part of its metrics.
func (b *Broker) registerGauges() {
	gauge := func(name string, f func() int) {
		b.metrics.Gauge(name, func() float64 { return float64(f()) })
	}
	gauge("loopmq_clients_connected", b.connected)
	gauge("loopmq_sessions", b.registry.len)
	gauge("loopmq_subscriptions", b.subscriptions.Len)
	gauge("loopmq_retained_messages", b.retained.Len)
	gauge("loopmq_retained_bytes", func() int { return int(b.retainedBytes.Load()) })
}

// observe notes how long a delivery took since its PUBLISH came in. Loops have
// one clock, so it holds for messages from other loops too.
func (l *loop) observe(received int64) {
	l.m.PublishToDeliver.Observe(time.Duration(l.el.Nanotime() - received))
}
