package loopmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"loopmq/store"
)

// NodeState says what a node does for clients.
type NodeState string

// The states of nodes.
const (
	// NodeServing: it takes connections.
	NodeServing NodeState = "serving"
	// NodeDegraded: it does, but something is wrong, see NodeStatus.Reason.
	NodeDegraded NodeState = "degraded"
	// NodeDraining: it takes no connections, or soon won't, and sends its clients away.
	NodeDraining NodeState = "draining"
	// NodeDrained: it has no clients and takes none, until it is undrained or restarted.
	NodeDrained NodeState = "drained"
	// NodeStopped: it takes no connections, see NodeStatus.Reason.
	NodeStopped NodeState = "stopped"
	// NodeJoining: it has not said anything of itself yet.
	NodeJoining NodeState = "joining"
	// NodeLapsed: it doesn't renew its lease, and is declared dead unless it soon does.
	NodeLapsed NodeState = "lapsed"
	// NodeDead: it was declared dead, and what it held is being taken offline.
	NodeDead NodeState = "dead"
)

// NodeStatus is one node, as it said of itself when it renewed its lease last.
type NodeStatus struct {
	// Node is the instance: a name that is new each time the process starts or joins. It
	// is what other methods take. NodeID is Options.NodeID.
	Node    string    `json:"node"`
	NodeID  string    `json:"node_id,omitempty"`
	State   NodeState `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Version string    `json:"version,omitempty"`
	// AdminAddress is Options.AdminAddress.
	AdminAddress string    `json:"admin_address,omitempty"`
	Since        time.Time `json:"since,omitzero"` // when the process started
	// ReportedAt is when it said this, on the store's clock. LeaseLapses is when its lease
	// does; zero: there are no leases, or it is dead.
	ReportedAt    time.Time `json:"reported_at,omitzero"`
	LeaseLapses   time.Time `json:"lease_lapses,omitzero"`
	Connections   int       `json:"connections"`
	Sessions      int       `json:"sessions"`
	Subscriptions int       `json:"subscriptions"`
	Retained      int       `json:"retained"`
	// Self: it is the node that was asked.
	Self bool `json:"self"`
}

// report is what a node says of itself to the others.
type report struct {
	NodeStatus
	Counters map[string]uint64 `json:"counters"`
}

// report returns what is true of this node now.
func (b *Broker) report() report {
	h := b.Health()
	r := report{
		NodeStatus: NodeStatus{
			Node: h.Node, NodeID: b.opts.NodeID, State: NodeServing, Reason: h.Reason, Version: h.Version, AdminAddress: b.opts.AdminAddress,
			Since: b.started, ReportedAt: b.store.Now(), Connections: h.Connections, Sessions: h.Sessions, Subscriptions: h.Subscriptions,
			Retained: h.Retained,
		},
		Counters: b.metrics.Totals(),
	}
	switch {
	case b.parking.drains() && h.Connections == 0 && b.parking.refuses():
		r.State = NodeDrained
	case b.parking.drains() || b.draining.Load() && b.running.Load():
		r.State = NodeDraining
	case h.Status == "stopped":
		r.State = NodeStopped
	case h.Status == "degraded":
		r.State = NodeDegraded
	}
	return r
}

// Report implements [store.Node].
func (n node) Report() []byte {
	r := n.b.report()
	data, err := json.Marshal(&r)
	if err != nil { // times and texts
		n.b.log.Error("report", "error", err)
	}
	return data
}

// reports returns what all nodes say of themselves, by their names; this one as it is
// now, others as it was when they renewed their leases last.
func (b *Broker) reports(ctx context.Context) ([]report, error) {
	own := b.report()
	own.Self = true
	if b.cluster == nil || b.cluster.joined.Load() == nil {
		return []report{own}, nil
	}
	instances, err := b.cluster.member().Instances(ctx)
	if err != nil {
		return nil, err
	}
	now := b.store.Now()
	list := make([]report, 0, len(instances))
	for i := range instances {
		in := &instances[i]
		r := own
		if in.Name != own.Node {
			r = report{NodeStatus: NodeStatus{State: NodeJoining}}
			if len(in.Report) > 0 {
				if err := json.Unmarshal(in.Report, &r); err != nil { // by a version that says other things
					r.Reason = "its report can't be read"
				}
			}
			r.Node, r.Self = in.Name, false
		}
		switch r.LeaseLapses = in.Lapses; {
		case in.Lapses.IsZero():
			r.State = NodeDead
		case in.Lapses.Before(now):
			r.State = NodeLapsed
		}
		list = append(list, r)
	}
	return list, nil
}

// Nodes lists the nodes that share the store, in the order of their names. A node that
// shares none lists itself.
func (b *Broker) Nodes(ctx context.Context) ([]NodeStatus, error) {
	reports, err := b.reports(ctx)
	if err != nil {
		return nil, err
	}
	nodes := make([]NodeStatus, len(reports))
	for i := range reports {
		nodes[i] = reports[i].NodeStatus
	}
	return nodes, nil
}

// NodeCounters are the counters of one node since its start, by the names that
// docs/metrics.md has, all labels of a name together.
type NodeCounters struct {
	Node       string            `json:"node"`
	ReportedAt time.Time         `json:"reported_at"`
	Counters   map[string]uint64 `json:"counters"`
}

// Counters are those of each node, and of all together. What nodes counted that are no
// more is in none.
type Counters struct {
	Nodes []NodeCounters    `json:"nodes"`
	Sum   map[string]uint64 `json:"sum"`
}

// Counters returns the counters of all nodes: of this one as they are, of others as
// they were when they renewed their leases last, some seconds ago at most.
func (b *Broker) Counters(ctx context.Context) (Counters, error) {
	all := Counters{Nodes: []NodeCounters{}, Sum: map[string]uint64{}}
	reports, err := b.reports(ctx)
	for i := range reports {
		r := &reports[i]
		all.Nodes = append(all.Nodes, NodeCounters{r.Node, r.ReportedAt, r.Counters})
		for name, n := range r.Counters {
			all.Sum[name] += n
		}
	}
	return all, err
}

// inquiry is what one node asks another: one of its fields is set.
type inquiry struct {
	Subscriptions *subscriptionQuestion `json:"subscriptions,omitempty"`
	Drain         *DrainOptions         `json:"drain,omitempty"`
	DrainByOwn    bool                  `json:"drain_by_own,omitempty"` // as Options.Drain says
	Undrain       bool                  `json:"undrain,omitempty"`
	Acknowledge   *acknowledgeQuestion  `json:"acknowledge,omitempty"`
}

// done is the answer to a question that asks for something to be done.
type done struct {
	Error string `json:"error,omitempty"`
}

// askTimeout is how long a node may take to answer.
const askTimeout = 5 * time.Second

// ask puts a question to another node. store.ErrGone: it isn't alive.
func (b *Broker) ask(ctx context.Context, instance string, q inquiry, answer any) error {
	data, err := json.Marshal(&q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	data, err = b.cluster.member().Ask(ctx, instance, data)
	switch {
	case errors.Is(err, store.ErrGone), errors.Is(err, store.ErrUnavailable):
		return err
	case err != nil:
		return fmt.Errorf("%w: node %s: %w", store.ErrUnavailable, instance, err)
	}
	if err := decodeAnswer(data, answer); err != nil {
		return fmt.Errorf("%w: node %s: %w", store.ErrUnavailable, instance, err)
	}
	return nil
}

// Asked implements [store.Node].
func (n node) Asked(data []byte) []byte {
	var q inquiry
	var answer any
	err := json.Unmarshal(data, &q)
	switch {
	case err != nil:
		answer = done{"the question can't be read: " + err.Error()}
	case q.Subscriptions != nil:
		answer = n.b.answerSubscriptions(q.Subscriptions)
	case q.Drain != nil:
		answer = doneOr(n.b.park(*q.Drain))
	case q.DrainByOwn:
		answer = doneOr(n.b.park(*n.b.drainDefaults.Load()))
	case q.Acknowledge != nil:
		answer = acknowledgeAnswer{n.b.acknowledgeHere(q.Acknowledge)}
	case q.Undrain:
		answer = doneOr(n.b.unpark())
	default:
		answer = done{"this version doesn't know the question"}
	}
	data, err = json.Marshal(answer)
	if err != nil {
		n.b.log.Error("answer", "error", err)
	}
	return data
}

func doneOr(err error) done {
	if err != nil {
		return done{err.Error()}
	}
	return done{}
}

// ErrNoNode means that no node that is alive has that name.
var ErrNoNode = errors.New("loopmq: there is no such node")

// DrainNode drains a node (NodeStatus.Node) from any other, or this one: it fails its
// Ready, after DrainOptions.Wait refuses CONNECTs (5.0: Use another server, 0x9C) and
// disconnects its clients at DrainOptions.Rate, as Drain does. nil options are that
// node's own, Options.Drain. It stays drained until UndrainNode, or until it is started
// anew; its listeners stay open, so a balancer has to look at /readyz. DrainNode returns
// when the node has begun. ErrNoNode: there is none.
func (b *Broker) DrainNode(ctx context.Context, name string, o *DrainOptions) error {
	return b.command(ctx, name, inquiry{Drain: o, DrainByOwn: o == nil})
}

// UndrainNode ends what DrainNode began: the node takes connections again. It is no error
// if the node isn't drained. ErrNoNode: there is none.
func (b *Broker) UndrainNode(ctx context.Context, name string) error {
	return b.command(ctx, name, inquiry{Undrain: true})
}

// command has a node do something.
func (b *Broker) command(ctx context.Context, name string, q inquiry) error {
	var answer done
	switch {
	case name == b.node():
		data, err := json.Marshal(&q)
		if err != nil {
			return err
		}
		if err := decodeAnswer(node{&cluster{b: b}}.Asked(data), &answer); err != nil {
			return err
		}
	case b.cluster == nil || b.cluster.joined.Load() == nil:
		return ErrNoNode
	default:
		err := b.ask(ctx, name, q, &answer)
		if errors.Is(err, store.ErrGone) {
			return ErrNoNode
		}
		if err != nil {
			return err
		}
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}
