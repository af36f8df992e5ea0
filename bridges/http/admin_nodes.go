package httpbridge

import (
	"context"
	"errors"
	"net/http"
	"time"

	"loopmq"
)

func (a *Admin) listNodes(w *answer, r *http.Request) {
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		nodes, err := b.Nodes(ctx)
		if err == nil {
			writeJSON(w, http.StatusOK, page[loopmq.NodeStatus]{Items: nodes})
		}
		return err
	})
}

// drain is how a node is drained; nil: as its own configuration says.
type drain struct {
	Wait            string `json:"wait"` // such as 5s
	Rate            int    `json:"rate"`
	ServerReference string `json:"server_reference"`
}

func (a *Admin) drainNode(w *answer, r *http.Request) {
	var options *loopmq.DrainOptions
	if r.ContentLength != 0 {
		var d drain
		if !readJSON(w, r, "how to drain", &d) {
			return
		}
		options = &loopmq.DrainOptions{Rate: d.Rate, ServerReference: d.ServerReference}
		if d.Wait != "" {
			var err error
			if options.Wait, err = time.ParseDuration(d.Wait); err != nil || options.Wait < 0 || options.Wait > time.Hour {
				writeProblem(w, http.StatusBadRequest, "wait: allowed: a duration such as 10s, up to 1h")
				return
			}
		}
		if d.Rate < 0 {
			writeProblem(w, http.StatusBadRequest, "rate: allowed: 0 (all at once) or more")
			return
		}
	}
	a.node(w, r, func(ctx context.Context, b *loopmq.Broker, node string) error { return b.DrainNode(ctx, node, options) })
}

func (a *Admin) undrainNode(w *answer, r *http.Request) {
	a.node(w, r, func(ctx context.Context, b *loopmq.Broker, node string) error { return b.UndrainNode(ctx, node) })
}

func (a *Admin) node(w *answer, r *http.Request, do func(ctx context.Context, b *loopmq.Broker, node string) error) {
	node := r.PathValue("node")
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		err := do(ctx, b, node)
		if errors.Is(err, loopmq.ErrNoNode) {
			if instance := instanceOf(ctx, b, node); instance != "" {
				w.note("node", instance)
				err = do(ctx, b, instance)
			}
		}
		if errors.Is(err, loopmq.ErrNoNode) {
			return refused(http.StatusNotFound, "no node that is alive is called %q: allowed: node, or node_id if one node has it, of /api/v1/nodes", node)
		}
		return noContent(w, err)
	})
}

// instanceOf returns the instance of the node with a node_id, which is what people know;
// empty: none has it, or several.
func instanceOf(ctx context.Context, b *loopmq.Broker, nodeID string) (instance string) {
	nodes, err := b.Nodes(ctx)
	for i := range nodes {
		if n := &nodes[i]; err == nil && n.NodeID == nodeID && n.State != loopmq.NodeDead {
			if instance != "" {
				return ""
			}
			instance = n.Node
		}
	}
	return instance
}

func (a *Admin) showCounters(w *answer, r *http.Request) {
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		c, err := b.Counters(ctx)
		if err == nil {
			writeJSON(w, http.StatusOK, struct {
				Items []loopmq.NodeCounters `json:"items"`
				Sum   map[string]uint64     `json:"sum"`
			}{c.Nodes, c.Sum})
		}
		return err
	})
}
