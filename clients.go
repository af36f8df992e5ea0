package loopmq

import (
	"cmp"
	"context"
	"slices"

	"loopmq/store"
)

// ConnectedClient is one connected client, of any node.
type ConnectedClient struct {
	ClientID string `json:"client_id"`
	// Node is the instance that has the connection, see Health.Node.
	Node string `json:"node"`
	// Durable: its session outlives the connection.
	Durable bool `json:"durable"`
}

// Clients returns up to limit connected clients whose ClientIDs are behind the given
// one, in the order of their ClientIDs: those of all nodes, if several share the
// store.
func (b *Broker) Clients(ctx context.Context, afterClientID string, limit int) ([]ConnectedClient, error) {
	var sessions []store.Session
	if b.cluster != nil && b.cluster.joined.Load() != nil {
		var err error
		if sessions, err = b.cluster.member().Clients(ctx, afterClientID, limit); err != nil {
			return nil, err
		}
	} else {
		sessions = b.connectedSessions(afterClientID, limit)
	}
	clients := make([]ConnectedClient, len(sessions))
	for i := range sessions {
		clients[i] = ConnectedClient{ClientID: sessions[i].ID.ClientID, Node: sessions[i].Owner, Durable: sessions[i].Durable}
	}
	return clients, nil
}

// connectedSessions is Clients for this process. It looks at all of them, but keeps
// no more than twice the limit.
func (b *Broker) connectedSessions(after string, limit int) (list []store.Session) {
	limit = max(0, limit)
	byClientID := func(a, b store.Session) int { return cmp.Compare(a.ID.ClientID, b.ID.ClientID) }
	trim := func() {
		slices.SortFunc(list, byClientID)
		list = list[:min(limit, len(list))]
	}
	b.registry.each(func(s *Session) {
		if s.client.Load() == nil || s.id.ClientID <= after {
			return
		}
		list = append(list, store.Session{ID: s.id, Owner: b.opts.NodeID, Durable: s.durable})
		if len(list) > 2*limit {
			trim()
		}
	})
	trim()
	return list
}
