package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"loopmq/loadtest"
	"loopmq/loadtest/capacity"
)

// A Cost is a figure, and where it is from.
type Cost struct {
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Measured bool    `json:"measured"`
	Source   string  `json:"source"`

	durable bool // it was measured with durable sessions
}

// Costs are what the parts of a load cost.
type Costs struct {
	Message Cost `json:"message"` // broker's CPU, µs per delivery
	Forward Cost `json:"forward"` // CPU of both nodes beyond that if the subscriber is at another one, µs
	Ping    Cost `json:"ping"`    // CPU, µs
	Connect Cost `json:"connect"` // CPU, µs

	Connection Cost `json:"connection"` // memory of the process, bytes
	Socket     Cost `json:"socket"`     // memory of the kernel, bytes per connection
	Route      Cost `json:"route"`      // memory for a device of another node, bytes
	Process    Cost `json:"process"`    // memory that doesn't grow, bytes

	RedisStored    Cost `json:"redis_stored"`    // CPU of Redis for a message that is stored for a durable session, µs
	RedisForwarded Cost `json:"redis_forwarded"` // and for one that only passes to another node, µs
	RedisSession   Cost `json:"redis_session"`   // memory of Redis for a device, bytes
	RedisEntry     Cost `json:"redis_entry"`     // and for a queued message besides the message, bytes
}

// list is all costs, in the order in which they are shown.
func (c *Costs) list() []*Cost {
	return []*Cost{
		&c.Message, &c.Forward, &c.Ping, &c.Connect, &c.Connection, &c.Socket, &c.Route, &c.Process,
		&c.RedisStored, &c.RedisForwarded, &c.RedisSession, &c.RedisEntry,
	}
}

// assumed are the costs that nobody has measured where the nodes will be. Those from benchmarks/RESULTS.md were measured on two cores of an AMD
// EPYC that the load generator shared.
func assumed(q Question) Costs {
	const results = "assumed, as in benchmarks/RESULTS.md"
	connect, connection := 100.0, 1300.0
	if q.TLS {
		connect, connection = 1000, 8200
	}
	return Costs{
		Message: Cost{Name: "CPU of a delivered message", Value: lone[q.QoS], Unit: "µs", Source: "assumed for messages that travel alone, as those of slow devices do"},
		Forward: Cost{Name: "CPU of a message to another node, at both", Value: 6, Unit: "µs", Source: "assumed: about a commit on Redis and a message"},
		Ping:    Cost{Name: "CPU of a PINGREQ", Value: 8, Unit: "µs", Source: "assumed: a read and a write"},
		Connect: Cost{Name: "CPU of a connect", Value: connect, Unit: "µs", Source: results},

		Connection: Cost{Name: "memory of a connection with a subscription", Value: connection, Unit: "bytes", Source: results},
		Socket:     Cost{Name: "memory of its socket in the kernel", Value: 4096, Unit: "bytes", Source: "assumed: an idle socket has empty buffers"},
		Route:      Cost{Name: "memory for a device of another node", Value: 280, Unit: "bytes", Source: "assumed, from 6 nodes with 100,000 devices in benchmarks/RESULTS.md"},
		Process:    Cost{Name: "memory of the process without devices", Value: 256 << 20, Unit: "bytes", Source: "assumed, with room for output and batches"},

		RedisStored:    Cost{Name: "CPU of Redis for a stored message", Value: 5, Unit: "µs", Source: results},
		RedisForwarded: Cost{Name: "CPU of Redis for a message to another node", Value: 3, Unit: "µs", Source: "assumed: one entry of a batch, written and read"},
		RedisSession:   Cost{Name: "memory of Redis for a device", Value: 820, Unit: "bytes", Source: results},
		RedisEntry:     Cost{Name: "memory of Redis for a queued message besides it", Value: 120, Unit: "bytes", Source: "assumed"},
	}
}

// lone is the CPU in µs of a message that has a read, a write and a turn of the loop to itself, by QoS: the acknowledgements have theirs, too.
var lone = [3]float64{12, 22, 40}

// alone is how many times fewer messages per connection a plan may have than a measurement, before its messages count as ones that travel alone.
const alone = 10

// CostsFrom takes from results what they measured and assumes the rest. names are what the results are called in sources. Of several results that
// measured the same, that counts which is the nearest to the question. What the results can't say is in the warnings.
func CostsFrom(q Question, names []string, results []*loadtest.Result) (c Costs, warnings []string) {
	q.QoS = min(q.QoS, 2)
	c = assumed(q)
	if i := best(results, func(r *loadtest.Result) (float64, bool) {
		ok := r.Totals.Expected > 0 && r.Cost.BrokerMicrosPerMessage > 0
		distance := math.Abs(math.Log(ratio(perConnection(r), q.perDevice())))
		if scenarioQoS(r) != q.QoS {
			distance += 1000
		}
		return distance, ok
	}); i >= 0 {
		warnings = append(warnings, c.message(q, names[i], results[i])...)
	} else {
		warnings = append(warnings, "no result has the CPU of the broker for messages: measure it, with --metrics")
	}
	c.Message.store(q.Durable)
	if i := best(results, func(r *loadtest.Result) (float64, bool) {
		return -float64(r.Totals.Connects), r.Totals.Expected == 0 && r.Totals.Connects > 0 && r.Cost.BrokerMicrosPerMessage > 0
	}); i >= 0 {
		c.Connect.measure(results[i].Cost.BrokerMicrosPerMessage, names[i])
	}
	if i := best(results, func(r *loadtest.Result) (float64, bool) {
		n := float64(connections(r))
		distance := -n
		if r.Scenario == nil || r.Scenario.Shape != loadtest.Idle {
			distance += 1e9 // with messages under way memory has them, too
		}
		// The growth of a process by few connections says more of its heap than of them.
		return distance, r.Broker != nil && r.Broker.BytesPerConnection > 0 && n >= 1000
	}); i >= 0 {
		c.Connection.measure(results[i].Broker.BytesPerConnection, names[i])
	} else if len(results) > 0 {
		warnings = append(warnings, "no result has the memory of 1,000 connections or more: measure it with `loadtest run idle --metrics`")
	}
	for i, r := range results {
		if r.Broken() {
			warnings = append(warnings, names[i]+": the broker broke a promise in it")
		}
		if asked := capacity.Asked(r.Scenario); asked > 0 && r.Rates.Sent < 0.99*asked {
			warnings = append(warnings, fmt.Sprintf("%s: only %s of its rate was sent: something was at its end", names[i], percent(r.Rates.Sent/asked)))
		}
		if r.Interrupted {
			warnings = append(warnings, names[i]+" was interrupted")
		}
	}
	return c, warnings
}

// message takes the cost of a message from a result, unless its messages were so dense that they shared reads and writes.
func (c *Costs) message(q Question, name string, r *loadtest.Result) (warnings []string) {
	c.Message.measure(r.Cost.BrokerMicrosPerMessage, name)
	c.Message.durable = r.Scenario != nil && r.Scenario.Durable
	if got := scenarioQoS(r); got != q.QoS {
		warnings = append(warnings, fmt.Sprintf("%s has messages of QoS %d, not %d", name, got, q.QoS))
	}
	if r.Scenario != nil && len(r.Scenario.Targets) > 1 {
		c.Forward.measure(0, name+" ran on several nodes, so it is in the cost of a message")
	}
	if dense := ratio(perConnection(r), q.perDevice()); dense > alone && c.Message.Value < lone[q.QoS] {
		c.Message = assumed(q).Message
		warnings = append(warnings, fmt.Sprintf("%s has %s times as many messages per connection, which share reads and writes, at %s µs each. "+
			"Those of the plan travel alone: measure with more connections and a rate", name, short(dense), short(r.Cost.BrokerMicrosPerMessage)))
	}
	return warnings
}

// stored is the CPU in µs that a message costs more if it is for a durable session.
const stored = 2

// store adds what a share of durable sessions costs, unless it was measured with them.
func (c *Cost) store(share float64) {
	if share > 0 && !c.durable {
		c.Value += stored * share
		c.Source += fmt.Sprintf("; and %s µs for durable sessions, assumed as in benchmarks/RESULTS.md", short(stored*share))
	}
}

func (c *Cost) measure(value float64, source string) {
	c.Value, c.Measured, c.Source = value, true, "measured: "+source
}

// best returns the index of the result with the smallest distance, -1 if none counts.
func best(results []*loadtest.Result, distance func(*loadtest.Result) (float64, bool)) int {
	type candidate struct {
		i        int
		distance float64
	}
	var found []candidate
	for i, r := range results {
		if d, ok := distance(r); ok {
			found = append(found, candidate{i, d})
		}
	}
	if len(found) == 0 {
		return -1
	}
	return slices.MinFunc(found, func(a, b candidate) int { return cmp.Compare(a.distance, b.distance) }).i
}

// scenarioQoS is that of a result's messages; of a mixed scenario the highest.
func scenarioQoS(r *loadtest.Result) (qos byte) {
	if r.Scenario == nil {
		return 0
	}
	qos = r.Scenario.QoS
	for _, part := range r.Scenario.Parts {
		qos = max(qos, part.QoS)
	}
	return qos
}

// connections is how many clients a result had at the same time.
func connections(r *loadtest.Result) (n int) {
	for _, s := range r.Timeline {
		n = max(n, s.Connections)
	}
	return n
}

// perConnection is how many messages a second a client of a result sent and got.
func perConnection(r *loadtest.Result) float64 {
	return ratio(r.Rates.Sent+r.Rates.Delivered, float64(connections(r)))
}
