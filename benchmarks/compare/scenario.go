//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"loopmq/benchmarks/process"
	"loopmq/loadtest"
)

// A figure is what a scenario is about; the others are printed beside it.
type figure string

const (
	cpuPerMessage    figure = "CPU µs/message"
	cpuPerConnection figure = "CPU µs/connection"
	latency99        figure = "p99 µs"
	messageRate      figure = "messages/s"
	bytesPerIdle     figure = "bytes/connection"
)

// A scenario is one row of the comparison. Everything in it is the same for every broker.
type scenario struct {
	name    string
	figure  figure
	lengths int // how many times --seconds it is measured
	load    loadtest.Scenario
}

// scenarios are the rows in the order in which they are printed. A payload has 64 bytes.
//
// Fan-in and shared have few messages under way per publisher, because they meet at few subscribers: 2,000 at one, and 80 at each
// of ten. That still fits the socket buffers and the output limits that brokers ship with (FlashMQ's is 1 MiB).
var scenarios = []scenario{
	{"p2p-qos0", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 500, Window: 32}},
	{"p2p-qos1", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 500, QoS: 1, Window: 32}},
	{"p2p-qos1-durable", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 500, QoS: 1, Window: 32, Durable: true}},
	{"p2p-qos2", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 100, QoS: 2, Window: 32}},
	{"p2p-qos0-single", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 500, Window: 1}},
	{"fan-in-qos0", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.FanIn, Publishers: 500, Subscribers: 1, Window: 4}},
	{"fan-in-qos1", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.FanIn, Publishers: 500, Subscribers: 1, QoS: 1, Window: 4}},
	{"fan-out-qos0", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.FanOut, Publishers: 1, Subscribers: 1000, Window: 64}},
	{"fan-out-qos1", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.FanOut, Publishers: 1, Subscribers: 1000, QoS: 1, Window: 64}},
	{"shared-qos1", cpuPerMessage, 1, loadtest.Scenario{Shape: loadtest.Shared, Publishers: 100, Subscribers: 10, QoS: 1, Window: 8}},
	{"connect", cpuPerConnection, 1, loadtest.Scenario{Shape: loadtest.Connects, Connections: 5000}},
	{"latency-10k", latency99, 1, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 500, Rate: 10_000}},
	{"sustained", messageRate, 5, loadtest.Scenario{Shape: loadtest.P2P, Pairs: 5000, QoS: 1, Window: 32}},
	{"idle", bytesPerIdle, 1, loadtest.Scenario{Shape: loadtest.Idle, Connections: 15_000, Filters: 1}},
}

// A sample is what one round found out about one broker. Per-message figures are per delivered message; per connection in the
// scenarios without messages.
type sample struct {
	Value          float64 `json:"value"` // the scenario's figure
	Rate           float64 `json:"per_second"`
	BrokerMicros   float64 `json:"broker_cpu_micros"`
	GenMicros      float64 `json:"generator_cpu_micros"`
	GenCalls       float64 `json:"generator_system_calls"`
	P50Micros      float64 `json:"p50_micros,omitempty"`
	P99Micros      float64 `json:"p99_micros,omitempty"`
	P999Micros     float64 `json:"p999_micros,omitempty"`
	BytesPerClient float64 `json:"bytes_per_connection,omitempty"`
	Expected       uint64  `json:"expected"`
	Delivered      uint64  `json:"delivered"`
}

// timing is how long the parts of a round take.
type timing struct {
	warmUp  time.Duration
	length  time.Duration
	settled time.Duration // idle: after the last SUBACK
}

// patience is how long a round waits without any progress before it calls what is missing lost.
const patience = 5 * time.Second

// run does one round of s against the broker at address, whose processes are those given: what works beside it counts as the broker's.
func (s scenario) run(ctx context.Context, address string, version byte, t timing, broker ...process.Process) (sample, error) {
	load := s.load.Clone()
	load.Name, load.Version, load.Targets = s.name, version, []string{"tcp://" + address}
	load.WarmUp, load.Duration, load.Drain = t.warmUp, t.length*time.Duration(s.lengths), patience
	if load.Shape == loadtest.Idle {
		load.WarmUp, load.Duration = 0, t.settled
	}
	result, err := loadtest.Run(ctx, load, loadtest.Options{
		Logger: slog.New(slog.DiscardHandler),
		Broker: func(context.Context) (loadtest.BrokerSample, error) { return use(broker) },
	})
	if err != nil {
		return sample{}, err
	}
	if err := verify(result); err != nil {
		return sample{}, err
	}
	return s.sampleOf(result), nil
}

// use is what a broker and what works beside it have used so far; the memory is the broker's.
func use(broker []process.Process) (u loadtest.BrokerSample, err error) {
	for i, p := range broker {
		cpu, err := p.CPU()
		if err != nil {
			return u, err
		}
		u.CPUSeconds += cpu.Seconds()
		if i > 0 {
			continue
		}
		resident, err := p.ResidentBytes()
		if err != nil {
			return u, err
		}
		u.ResidentBytes = uint64(resident)
	}
	return u, nil
}

// verify says what is wrong with a round. That a broker may drop a message is no excuse here: a figure without it would say nothing.
func verify(r *loadtest.Result) error {
	var wrong []string
	for qos, a := range r.Audit.QoS {
		for _, t := range []loadtest.Tally{a.Promised, a.MayDrop} {
			if !t.Clean() {
				wrong = append(wrong, fmt.Sprintf("QoS %d: of %d deliveries %d lost, %d doubled, %d out of order, %d corrupted", qos, t.Expected, t.Lost, t.Duplicated, t.Reordered, t.Corrupted))
			}
		}
	}
	for _, e := range r.Errors {
		wrong = append(wrong, fmt.Sprintf("%s ×%d: %s", e.What, e.Count, e.Example))
	}
	if len(wrong) == 0 && r.Totals.Delivered+r.Totals.Connects == 0 {
		wrong = append(wrong, "nothing happened")
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(wrong, "; "))
}

// sampleOf is what a round is for the table.
func (s scenario) sampleOf(r *loadtest.Result) sample {
	m := sample{
		Rate: r.Rates.Delivered, BrokerMicros: r.Cost.BrokerMicrosPerMessage, GenMicros: r.Cost.MicrosPerMessage, GenCalls: r.Cost.CallsPerMessage,
		Expected: r.Totals.Expected, Delivered: r.Totals.Delivered,
	}
	if l := r.Latencies[loadtest.Deliver]; l != nil {
		m.P50Micros, m.P99Micros, m.P999Micros = l.P50, l.P99, l.P999
	}
	if s.load.Shape == loadtest.Idle || s.load.Shape == loadtest.Connects {
		m.Rate, m.Expected, m.Delivered = r.Rates.Connects, r.Totals.Connects, r.Totals.Connects
		m.BytesPerClient = r.Broker.BytesPerConnection
	}
	switch s.figure {
	case cpuPerMessage, cpuPerConnection:
		m.Value = m.BrokerMicros
	case latency99:
		m.Value = m.P99Micros
	case messageRate:
		m.Value = m.Rate
	case bytesPerIdle:
		m.Value = m.BytesPerClient
	}
	return m
}
