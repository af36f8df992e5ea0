//go:build linux

package loadtest

import (
	"context"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// second takes what the loops have counted since the last one.
func (r *run) second(phase string) {
	at := now()
	d := seconds(at - r.lastTick)
	if d < 0.001 {
		return
	}
	r.lastTick = at
	open := 0
	r.each(func(l *loop) {
		l.counts, l.spare = l.spare, l.counts
		open += l.open
	})
	c := r.interval
	for _, l := range r.loops {
		c.add(l.spare)
	}
	cpu := processCPU()
	s := Second{
		At: seconds(at - r.start), Seconds: d, Phase: phase,
		Sent: float64(c.sent) / d, Acknowledged: float64(c.acknowledged) / d, Delivered: float64(c.delivered) / d,
		Connects: float64(c.connects) / d, Errors: float64(c.errors) / d, Connections: open,
		PublishAckP50: quantile(c.publishAck, 50), PublishAckP99: quantile(c.publishAck, 99),
		DeliverP50: quantile(c.deliver, 50), DeliverP99: quantile(c.deliver, 99), ConnectP99: quantile(c.connect, 99),
		GeneratorCPU: (cpu - r.lastCPU).Seconds() / d,
	}
	r.lastCPU = cpu
	r.broker(&s)
	r.result.Timeline = append(r.result.Timeline, s)
	if r.options.Progress != nil {
		r.options.Progress(s)
	}
	r.total.connect.Merge(c.connect)
	r.total.connects += c.connects
	r.total.reconnects += c.reconnects
	switch {
	case r.measuring:
		r.measured.add(c)
	case r.late:
		r.measured.addLatencies(c)
	}
	c.clear()
}

func quantile(h *hdrhistogram.Histogram, q float64) float64 {
	if h.TotalCount() == 0 {
		return 0
	}
	return micros(h.ValueAtQuantile(q))
}

// processCPU is the time that this process has had on a CPU.
func processCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// look asks what the broker has used until now.
func (r *run) look() (BrokerSample, bool) {
	if r.options.Broker == nil {
		return BrokerSample{}, false
	}
	r.asking.Lock()
	defer r.asking.Unlock()
	ctx, cancel := context.WithTimeout(r.ctx, sampleMax)
	defer cancel()
	sample, err := r.options.Broker(ctx)
	r.looking.Lock()
	defer r.looking.Unlock()
	if err != nil {
		if r.ctx.Err() == nil {
			r.fault("a look at the broker failed", err.Error())
		}
		return r.sample, false
	}
	if sample.At.IsZero() {
		sample.At = time.Now()
	}
	r.sample, r.sampled = sample, true
	r.memory = max(r.memory, sample.ResidentBytes)
	return sample, true
}

// broker fills in what the broker has used, as far as it is known, and starts the next look.
func (r *run) broker(s *Second) {
	if r.options.Broker == nil {
		return
	}
	r.looking.Lock()
	defer r.looking.Unlock()
	if r.sampled {
		r.sampled = false
		if d := r.sample.At.Sub(r.lastSample.At).Seconds(); d > 0 {
			s.BrokerCPU = max(0, r.sample.CPUSeconds-r.lastSample.CPUSeconds) / d
		}
		r.lastSample = r.sample
	}
	s.BrokerMemory = r.sample.ResidentBytes
	if r.looks {
		return
	}
	r.looks = true
	r.handshakes.Go(func() {
		_, _ = r.look()
		r.looking.Lock()
		r.looks = false
		r.looking.Unlock()
	})
}
