//go:build linux

package main

import (
	"os"
	"time"

	"loopmq/benchmarks/process"
)

// A meter notes the clocks of the broker, with what works beside it, and of the generator at one moment, to subtract them from a later one.
type meter struct {
	target         process.Process
	g              *generator
	broker, own    time.Duration
	nanos, callsAt int64
}

func startMeter(target process.Process, g *generator) (meter, error) {
	m := meter{target: target, g: g, callsAt: g.calls, nanos: g.now()}
	var err error
	if m.broker, err = target.CPU(); err != nil {
		return m, err
	}
	if g.beside != 0 {
		beside, err := g.beside.CPU()
		if err != nil {
			return m, err
		}
		m.broker += beside
	}
	m.own, err = process.Process(os.Getpid()).CPU()
	return m, err
}

// stop returns the rates and costs per unit for the units, at least one, that were done since startMeter.
func (m meter) stop(units uint64) (sample, error) {
	now, err := startMeter(m.target, m.g)
	if err != nil {
		return sample{}, err
	}
	n := float64(units)
	return sample{
		Rate:         n * 1e9 / float64(now.nanos-m.nanos),
		BrokerMicros: float64((now.broker - m.broker).Nanoseconds()) / 1e3 / n,
		GenMicros:    float64((now.own - m.own).Nanoseconds()) / 1e3 / n,
		GenCalls:     float64(now.callsAt-m.callsAt) / n,
	}, nil
}
