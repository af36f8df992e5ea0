//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"

	"loopmq/benchmarks/process"
)

// A shape says whose messages go to whom.
type shape int

const (
	p2p      shape = iota // publisher i -> subscriber i
	fanIn                 // all publishers, a topic each -> one subscriber with a wildcard
	fanOut                // one publisher -> all subscribers
	shared                // all publishers, a topic each -> one shared subscription
	connects              // no messages: connect, disconnect
	idle                  // no messages: stay connected
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
	name        string
	figure      figure
	shape       shape
	publishers  int
	subscribers int // connections in all for the shapes without messages
	qos         byte
	window      int  // messages under way per publisher
	rate        int  // messages/s of an open loop, 0 for a closed one
	lengths     int  // how many times --seconds it is measured
	durable     bool // the subscribers' sessions outlive their connections
}

// scenarios are the rows in the order in which they are printed.
//
// Fan-in and shared have few messages under way per publisher, because they meet at few subscribers: 2,000 at one, and 80 at each
// of ten. That still fits the socket buffers and the output limits that brokers ship with (FlashMQ's is 1 MiB).
var scenarios = []scenario{
	{"p2p-qos0", cpuPerMessage, p2p, 500, 500, 0, 32, 0, 1, false},
	{"p2p-qos1", cpuPerMessage, p2p, 500, 500, 1, 32, 0, 1, false},
	{"p2p-qos1-durable", cpuPerMessage, p2p, 500, 500, 1, 32, 0, 1, true},
	{"p2p-qos2", cpuPerMessage, p2p, 100, 100, 2, 32, 0, 1, false},
	{"p2p-qos0-single", cpuPerMessage, p2p, 500, 500, 0, 1, 0, 1, false},
	{"fan-in-qos0", cpuPerMessage, fanIn, 500, 1, 0, 4, 0, 1, false},
	{"fan-in-qos1", cpuPerMessage, fanIn, 500, 1, 1, 4, 0, 1, false},
	{"fan-out-qos0", cpuPerMessage, fanOut, 1, 1000, 0, 64, 0, 1, false},
	{"fan-out-qos1", cpuPerMessage, fanOut, 1, 1000, 1, 64, 0, 1, false},
	{"shared-qos1", cpuPerMessage, shared, 100, 10, 1, 8, 0, 1, false},
	{"connect", cpuPerConnection, connects, 0, 5000, 0, 0, 0, 0, false},
	{"latency-10k", latency99, p2p, 500, 500, 0, 0, 10_000, 1, false},
	{"sustained", messageRate, p2p, 5000, 5000, 1, 32, 0, 5, false},
	{"idle", bytesPerIdle, idle, 0, 15_000, 0, 0, 0, 0, false},
}

// topic is what publisher i publishes to.
func (s scenario) topic(i int) string {
	switch s.shape {
	case fanIn:
		return fmt.Sprintf("compare/in/%05d", i)
	case fanOut:
		return "compare/out"
	case shared:
		return fmt.Sprintf("compare/shared/%05d", i)
	}
	return fmt.Sprintf("compare/p2p/%05d", i)
}

// filter is what subscriber i subscribes to.
func (s scenario) filter(i int) string {
	switch s.shape {
	case fanIn:
		return "compare/in/+"
	case fanOut:
		return "compare/out"
	case shared:
		return "$share/members/compare/shared/+"
	}
	return fmt.Sprintf("compare/p2p/%05d", i)
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

// latencies fills in the percentiles, exact ones, from all of nanos.
func (s *sample) latencies(nanos []int64) {
	if len(nanos) == 0 {
		return
	}
	slices.Sort(nanos)
	at := func(q float64) float64 {
		return float64(nanos[min(int(q*float64(len(nanos))), len(nanos)-1)]) / 1000
	}
	s.P50Micros, s.P99Micros, s.P999Micros = at(0.50), at(0.99), at(0.999)
}

// timing is how long the parts of a round take.
type timing struct {
	warmUp  time.Duration
	length  time.Duration
	settled time.Duration // idle: after the last SUBACK
}

// run does one round of s against the broker behind g, whose process is target.
func (s scenario) run(g *generator, target process.Process, t timing) (sample, error) {
	var result sample
	var err error
	switch s.shape {
	case connects:
		result, err = s.runConnects(g, target)
	case idle:
		result, err = s.runIdle(g, target, t.settled)
	default:
		var f *flow
		if f, err = newFlow(g, s); err == nil {
			result, err = f.run(target, t.warmUp, t.length*time.Duration(s.lengths))
		}
	}
	switch s.figure {
	case cpuPerMessage, cpuPerConnection:
		result.Value = result.BrokerMicros
	case latency99:
		result.Value = result.P99Micros
	case messageRate:
		result.Value = result.Rate
	case bytesPerIdle:
		result.Value = result.BytesPerClient
	}
	return result, err
}

// runConnects measures CONNECT, CONNACK, DISCONNECT and close, at most connectsMax at a time, until the broker has closed too.
func (s scenario) runConnects(g *generator, target process.Process) (sample, error) {
	visitors := make([]client, s.subscribers)
	for i := range visitors {
		visitors[i] = client{clientID: fmt.Sprintf("compare-visit-%05d", i), leave: true}
	}
	if err := g.establish(visitors[:min(len(visitors), 2*connectsMax)]); err != nil { // warm-up
		return sample{}, err
	}
	m, err := startMeter(target, g)
	if err != nil {
		return sample{}, err
	}
	if err := g.establish(visitors); err != nil {
		return sample{}, err
	}
	result, err := m.stop(uint64(len(visitors)))
	result.Expected, result.Delivered = uint64(len(visitors)), uint64(len(visitors))
	return result, err
}

// runIdle measures by how much connections that do nothing, with a subscription each, make the broker's resident memory grow.
func (s scenario) runIdle(g *generator, target process.Process, settled time.Duration) (sample, error) {
	const warmUps = 10
	clients := make([]client, warmUps+s.subscribers)
	for i := range clients {
		clients[i] = client{clientID: fmt.Sprintf("compare-idle-%05d", i), filter: fmt.Sprintf("compare/idle/%05d", i)}
	}
	if err := g.establish(clients[:warmUps]); err != nil {
		return sample{}, err
	}
	before, err := target.ResidentBytes()
	if err != nil {
		return sample{}, err
	}
	m, err := startMeter(target, g)
	if err != nil {
		return sample{}, err
	}
	if err := g.establish(clients[warmUps:]); err != nil {
		return sample{}, err
	}
	n := uint64(s.subscribers)
	result, err := m.stop(n)
	if err != nil {
		return sample{}, err
	}
	for end := g.now() + int64(settled); g.now() < end; {
		if err := g.turn(turnMax); err != nil {
			return sample{}, err
		}
	}
	after, err := target.ResidentBytes()
	result.BytesPerClient = float64(after-before) / float64(n)
	result.Expected, result.Delivered = n, n
	return result, err
}
