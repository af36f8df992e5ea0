package httpbridge

import (
	"context"
	"errors"
	"net/http"

	"loopmq"
)

// listSessions lists sessions that outlive their connections, of all nodes.
func (a *Admin) listSessions(w *answer, r *http.Request) {
	list(a, w, r, append([]string{"connected"}, clientFilters...), func(ctx context.Context, b *loopmq.Broker, q listQuery) ([]loopmq.ClientStatus, string, error) {
		f, err := clientFilter(r)
		if err != nil {
			return nil, "", err
		}
		connected, given, err := flagOf(r, "connected")
		if err != nil {
			return nil, "", err
		}
		f.Durable, f.Connected, f.Offline = true, given && connected, given && !connected
		page, err := b.Clients(ctx, f, q.cursor, q.limit)
		return page.Clients, page.Next, err
	})
}

// deleteSession ends a session, and the connection that has it.
func (a *Admin) deleteSession(w *answer, r *http.Request) {
	clientID := r.PathValue("client_id")
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		err := b.DeleteSession(ctx, clientID)
		if errors.Is(err, loopmq.ErrNoSession) {
			return noSession(clientID)
		}
		return noContent(w, err)
	})
}

func noSession(clientID string) error {
	return refused(http.StatusNotFound, "%q is not connected, and has no session", clientID)
}

// listSubscriptions lists subscriptions of all clients.
func (a *Admin) listSubscriptions(w *answer, r *http.Request) {
	filters := []string{"client_id", "client_id_prefix", "topic_filter", "topic"}
	list(a, w, r, filters, func(ctx context.Context, b *loopmq.Broker, q listQuery) ([]loopmq.SubscriptionStatus, string, error) {
		v := r.URL.Query()
		return subscriptions(ctx, b, q, loopmq.SubscriptionFilter{
			ClientID: v.Get("client_id"), ClientIDPrefix: v.Get("client_id_prefix"), TopicFilter: v.Get("topic_filter"), TopicName: v.Get("topic"),
		})
	})
}

// listSubscriptionsOf lists those of one client.
func (a *Admin) listSubscriptionsOf(w *answer, r *http.Request) {
	list(a, w, r, nil, func(ctx context.Context, b *loopmq.Broker, q listQuery) ([]loopmq.SubscriptionStatus, string, error) {
		return subscriptions(ctx, b, q, loopmq.SubscriptionFilter{ClientID: r.PathValue("client_id")})
	})
}

func subscriptions(ctx context.Context, b *loopmq.Broker, q listQuery, f loopmq.SubscriptionFilter) ([]loopmq.SubscriptionStatus, string, error) {
	page, err := b.Subscriptions(ctx, f, q.cursor, q.limit)
	switch {
	case errors.Is(err, loopmq.ErrNoSession):
		err = noSession(f.ClientID)
	case errors.Is(err, loopmq.ErrCursor):
		err = refused(http.StatusBadRequest, "cursor: allowed: next of the page before")
	}
	return page.Subscriptions, page.Next, err
}
