package httpbridge

import (
	"context"
	"errors"
	"net/http"

	"loopmq"
)

// listClients lists connected clients of all nodes.
func (a *Admin) listClients(w *answer, r *http.Request) {
	list(a, w, r, func(ctx context.Context, b *loopmq.Broker, cursor string, limit int) ([]loopmq.ConnectedClient, string, error) {
		clients, err := b.Clients(ctx, cursor, limit)
		next := ""
		if len(clients) == limit {
			next = clients[limit-1].ClientID
		}
		return clients, next, err
	})
}

// kickClient ends a client's connection, wherever it is.
func (a *Admin) kickClient(w *answer, r *http.Request) {
	clientID := r.PathValue("client_id")
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		err := b.Kick(ctx, clientID)
		switch {
		case errors.Is(err, loopmq.ErrNoClient):
			return refused(http.StatusNotFound, "%q is not connected", clientID)
		case err == nil:
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	})
}
