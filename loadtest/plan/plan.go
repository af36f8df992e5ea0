// Package plan answers how many nodes a load needs: from what load tests have measured of one node, and where nothing was measured from
// assumptions, each of which the answer names. It is arithmetic: no clock, no I/O.
package plan

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrQuestion is wrapped by what is wrong with a Question.
var ErrQuestion = errors.New("plan")

// ErrTooSmall is returned if no number of the nodes that were asked for would do.
var ErrTooSmall = errors.New("plan: nodes too small")

// The most that is looked at before a Question is given up.
const (
	nodesMax    = 200 // of a cluster
	clustersMax = 10_000
)

// A Question is a load, and the nodes that are to carry it.
type Question struct {
	Devices   float64       `json:"devices"`           // connected at the same time
	Rate      float64       `json:"rate"`              // messages/s that all of them publish
	FanOut    float64       `json:"fan_out"`           // subscribers that each message is delivered to, on average
	Payload   int           `json:"payload_bytes"`     // of a message
	Topic     int           `json:"topic_bytes"`       // of its Topic Name
	QoS       byte          `json:"qos"`               // of messages and subscriptions
	Durable   float64       `json:"durable"`           // share of deliveries that are for durable sessions, 0 to 1
	Queued    float64       `json:"queued"`            // messages that wait for devices which are away, at the worst
	KeepAlive time.Duration `json:"keep_alive_ns"`     // of devices
	TLS       bool          `json:"tls"`               // whether devices connect over TLS
	Reconnect time.Duration `json:"reconnect_time_ns"` // in which the devices of a node that died are back elsewhere

	Cores   float64 `json:"cores"`                // of a node
	Memory  float64 `json:"memory_bytes"`         // of a node
	Network float64 `json:"network_bits"`         // bits/s of a node, in each direction
	Sockets float64 `json:"sockets"`              // connections that a node is allowed
	Redis   float64 `json:"redis_memory_bytes"`   // of a Redis
	Spare   int     `json:"spare"`                // nodes of a cluster that may be away at the same time
	Free    float64 `json:"free_share,omitempty"` // share of each node and each Redis that is to stay free, 0 to 0.9: the head-room
}

// Default returns a Question with what is common: each message for one subscriber, Keep Alive 300 s, nodes of 8 cores, 16 GiB and 10 Gbit/s, one
// of them spare, and half of each free.
func Default() Question {
	return Question{
		FanOut: 1, Payload: 128, Topic: 32, KeepAlive: 300 * time.Second, Reconnect: time.Minute,
		Cores: 8, Memory: 16 << 30, Network: 10e9, Sockets: 1e6, Redis: 32 << 30, Spare: 1, Free: 0.5,
	}
}

// Check says what is wrong with the question, all of it.
func (q Question) Check() error {
	var errs []error
	in := func(name string, v, low, high float64) {
		if !(v >= low && v <= high) {
			errs = append(errs, fmt.Errorf("%w: %s %v: allowed: %v to %v", ErrQuestion, name, v, low, high))
		}
	}
	in("devices", q.Devices, 1, 1e12)
	in("rate", q.Rate, 0, 1e12)
	in("fan-out", q.FanOut, 0, 1e9)
	in("payload", float64(q.Payload), 0, 256<<20)
	in("topic", float64(q.Topic), 1, 65535)
	in("qos", float64(q.QoS), 0, 2)
	in("durable", q.Durable, 0, 1)
	in("queued", q.Queued, 0, 1e15)
	in("keep alive in seconds", q.KeepAlive.Seconds(), 1, 65535)
	in("reconnect in seconds", q.Reconnect.Seconds(), 1, 86400)
	in("cores", q.Cores, 1, 4096)
	in("memory", q.Memory, 256<<20, 1<<50)
	in("network", q.Network, 1e6, 1e13)
	in("sockets", q.Sockets, 1, 1e9)
	in("redis memory", q.Redis, 64<<20, 1<<50)
	in("spare", float64(q.Spare), 0, 100)
	in("free", q.Free, 0, 0.9)
	return errors.Join(errs...)
}

// A Part is how much of something is used, and what for.
type Part struct {
	Name  string  `json:"name"`
	Unit  Unit    `json:"unit"`
	Used  float64 `json:"used"`
	Of    float64 `json:"of"` // what there is of it, before anything is kept free
	Parts []Share `json:"parts,omitempty"`
}

// Use is the share that is used.
func (p Part) Use() float64 { return p.Used / p.Of }

// A Share is a part of what is used.
type Share struct {
	Name string  `json:"name"`
	Used float64 `json:"used"`
}

// A Unit is what a Part is measured in.
type Unit string

// The units.
const (
	CoresUsed   Unit = "cores"
	Bytes       Unit = "bytes"
	Bits        Unit = "bit/s"
	Connections Unit = "connections"
)

// An Answer is how many nodes it takes.
type Answer struct {
	Question Question `json:"question"`
	Costs    Costs    `json:"costs"`
	// Clusters is how many there are, with a Redis each if they have several nodes; Nodes how many each has, spare ones included.
	Clusters int `json:"clusters"`
	Nodes    int `json:"nodes_per_cluster"`
	// Node is what a node uses while the spare ones are away and their devices are coming back, Redis what a Redis does.
	Node  []Part `json:"node"`
	Redis []Part `json:"redis,omitempty"`
	// Decides is what there would be too little of with a node, or with a cluster, less.
	Decides     string   `json:"decides"`
	Assumptions []string `json:"assumptions"`
	Warnings    []string `json:"warnings,omitempty"`
}

// NodesInAll is the number of nodes of all clusters.
func (a Answer) NodesInAll() int { return a.Clusters * a.Nodes }

// Ask answers a question from costs. It looks for the fewest clusters whose Redis is up to it, and for the fewest nodes of each.
func Ask(q Question, c Costs) (Answer, error) {
	if err := q.Check(); err != nil {
		return Answer{}, err
	}
	a := Answer{Question: q, Costs: c}
	decides := "" // what there is too little of with fewer clusters
	// Steps that grow with the number find the same answer sooner, within some percent.
	for a.Clusters = 1; a.Clusters <= clustersMax; a.Clusters += max(1, a.Clusters/20) {
		l := newLoad(q, c, a.Clusters)
		n, tight := l.fewest()
		if n == 0 {
			decides = tight + " of nodes"
			continue
		}
		a.Nodes, a.Node, a.Redis = n+q.Spare, l.node(n), nil
		if a.Nodes > 1 {
			a.Redis = l.redis(a.Nodes)
			if tight := over(a.Redis, 1-q.Free); tight != "" {
				decides = tight + " of Redis"
				continue
			}
		}
		switch {
		case decides != "":
			a.Decides = decides
		case tight != "":
			a.Decides = tight + " of nodes"
		default:
			a.Decides = "nothing: one node is enough"
		}
		a.assume()
		return a, nil
	}
	return Answer{}, fmt.Errorf("%w: not even %d clusters are enough: there is too little %s", ErrTooSmall, clustersMax, decides)
}

// fewest is how many nodes can carry the load, 0 if no number of them can, and what one less would have too little of, "" if one is enough.
func (l load) fewest() (n int, tight string) {
	for n = 1; n <= nodesMax; n++ {
		short := over(l.node(n), 1-l.Free)
		if short == "" {
			return n, tight
		}
		tight = short
	}
	return 0, tight
}

// over names the first part of which more is used than share of what there is, "" if none. Connections have no peaks: they may use all.
func over(parts []Part, share float64) string {
	for _, p := range parts {
		limit := share
		if p.Unit == Connections {
			limit = 1
		}
		if p.Use() > limit {
			return p.Name
		}
	}
	return ""
}

// A load is what one cluster has to carry.
type load struct {
	Question
	Costs
	devices, published, delivered float64 // devices; messages/s
}

func newLoad(q Question, c Costs, clusters int) load {
	k := float64(clusters)
	return load{Question: q, Costs: c, devices: q.Devices / k, published: q.Rate / k, delivered: q.Rate * q.FanOut / k}
}

// handled is how many messages a second cost what a delivery was measured to cost: one that nobody gets still has to be read.
func (l load) handled() float64 { return max(l.published, l.delivered) }

// forwarded is how many messages a second pass from one of n nodes to another: each once to a node, however many subscribers it has there.
func (l load) forwarded(n int) float64 {
	others := float64(n - 1)
	return min(l.delivered*others/float64(n), l.published*others)
}

// node is what each of n nodes uses, of a cluster that had Spare more.
func (l load) node(n int) []Part {
	nodes := float64(n)
	mega := 1e6
	cpu := Part{Name: "CPU", Unit: CoresUsed, Of: l.Cores, Parts: []Share{
		{"messages", l.handled() * l.Message.Value / mega / nodes},
		{"to other nodes and from them", l.forwarded(n) * l.Forward.Value / mega / nodes},
		{"Keep Alive", l.devices / l.KeepAlive.Seconds() * l.Ping.Value / mega / nodes},
		{"devices of dead nodes that come back", l.returning(n) * l.Connect.Value / mega / nodes},
	}}
	memory := Part{Name: "memory", Unit: Bytes, Of: l.Memory, Parts: []Share{
		{"connections", l.devices / nodes * l.Connection.Value},
		{"sockets in the kernel", l.devices / nodes * l.Socket.Value},
		{"what other nodes' devices subscribe to", l.devices * (nodes - 1) / nodes * l.Route.Value},
		{"the process itself", l.Process.Value},
	}}
	in, out := l.wire()
	between := l.forwarded(n)*l.message() + l.delivered*l.Durable*l.message()
	if n+l.Spare == 1 {
		between = 0
	}
	traffic := func(name string, clients float64) Part {
		return Part{Name: name, Unit: Bits, Of: l.Network, Parts: []Share{
			{"devices", 8 * clients / nodes},
			{"Redis", 8 * between / nodes},
		}}
	}
	sockets := Part{Name: "connections", Unit: Connections, Of: l.Sockets, Parts: []Share{{"devices", l.devices / nodes}}}
	return sum(cpu, memory, traffic("network in", in), traffic("network out", out), sockets)
}

// redis is what the Redis of a cluster of n nodes uses.
func (l load) redis(n int) []Part {
	cpu := Part{Name: "CPU", Unit: CoresUsed, Of: 1, Parts: []Share{
		{"stored for durable sessions", l.delivered * l.Durable * l.RedisStored.Value / 1e6},
		{"to other nodes", l.forwarded(n) * (1 - l.Durable) * l.RedisForwarded.Value / 1e6},
	}}
	memory := Part{Name: "memory", Unit: Bytes, Of: l.Redis, Parts: []Share{
		{"sessions and routes", l.devices * l.RedisSession.Value},
		{"queued messages", l.Queued / l.Devices * l.devices * (l.message() + l.RedisEntry.Value)},
	}}
	return sum(cpu, memory)
}

func sum(parts ...Part) []Part {
	for i, p := range parts {
		for _, s := range p.Parts {
			parts[i].Used += s.Used
		}
	}
	return parts
}

// returning is how many devices a second connect again, after Spare nodes at once have died and n are left.
func (l load) returning(n int) float64 {
	return l.devices * float64(l.Spare) / float64(n+l.Spare) / l.Reconnect.Seconds()
}

// The bytes of a packet on the wire besides its own: Ethernet, IP and TCP with timestamps, and a TLS record. Each packet counts as one that
// travels alone, as those of many slow devices do.
const (
	segmentBytes = 66
	recordBytes  = 22
	ackBytes     = 4 // PUBACK, PUBREC, PUBREL, PUBCOMP
	pingBytes    = 2
)

func (l load) packet(bytes float64) float64 {
	if l.TLS {
		bytes += recordBytes
	}
	return bytes + segmentBytes
}

// message is the size of a PUBLISH packet.
func (l load) message() float64 {
	n := float64(2 + l.Topic + l.Payload)
	if l.QoS > 0 {
		n += 2
	}
	header := 2.0
	for limit := 128.0; n >= limit && header < 5; limit *= 128 {
		header++
	}
	return n + header
}

// wire is how many bytes a second come from devices and go to them.
func (l load) wire() (in, out float64) {
	publish, ack := l.packet(l.message()), l.packet(ackBytes)
	// Packets besides PUBLISH: from the sender to the receiver, and back.
	forth, back := 0.0, 0.0
	switch l.QoS {
	case 1:
		back = 1
	case 2:
		forth, back = 1, 2
	}
	pings := l.devices / l.KeepAlive.Seconds() * l.packet(pingBytes)
	in = l.published*(publish+forth*ack) + l.delivered*back*ack + pings
	out = l.delivered*(publish+forth*ack) + l.published*back*ack + pings
	return in, out
}

// perDevice is how many messages a second a device sends and gets.
func (q Question) perDevice() float64 { return q.Rate * (1 + q.FanOut) / q.Devices }

func ratio(a, b float64) float64 {
	if b == 0 {
		return math.Inf(1)
	}
	return a / b
}
