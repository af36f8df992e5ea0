package httpbridge

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"

	"loopmq"
)

// clientFilters are the parameters of clientFilter.
var clientFilters = []string{"client_id_prefix", "client_id_contains", "username", "address", "node"}

// clientFilter returns which clients or sessions a request asks for.
func clientFilter(r *http.Request) (f loopmq.ClientFilter, err error) {
	q := r.URL.Query()
	f = loopmq.ClientFilter{
		ClientIDPrefix: q.Get("client_id_prefix"), ClientIDContains: q.Get("client_id_contains"), Username: q.Get("username"), Node: q.Get("node"),
	}
	if text := q.Get("address"); text != "" {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			f.Address = netip.PrefixFrom(a, a.BitLen())
		} else if f.Address, err = netip.ParsePrefix(text); err != nil {
			return f, refused(http.StatusBadRequest, "address is %q: allowed: an address, or a network such as 10.0.0.0/8", text)
		}
	}
	return f, nil
}

// flagOf returns a parameter that is true or false, and whether there is one.
func flagOf(r *http.Request, name string) (value, given bool, err error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, false, nil
	}
	if value, err = strconv.ParseBool(text); err != nil {
		return false, false, refused(http.StatusBadRequest, "%s is %q: allowed: true, false", name, text)
	}
	return value, true, nil
}

// listClients lists connected clients of all nodes.
func (a *Admin) listClients(w *answer, r *http.Request) {
	list(a, w, r, clientFilters, func(ctx context.Context, b *loopmq.Broker, q listQuery) ([]loopmq.ClientStatus, string, error) {
		f, err := clientFilter(r)
		if err != nil {
			return nil, "", err
		}
		f.Connected = true
		page, err := b.Clients(ctx, f, q.cursor, q.limit)
		return page.Clients, page.Next, err
	})
}

// showClient shows a client that is connected, or has a session.
func (a *Admin) showClient(w *answer, r *http.Request) {
	clientID := r.PathValue("client_id")
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		c, err := b.Client(ctx, clientID)
		switch {
		case errors.Is(err, loopmq.ErrNoSession):
			return noSession(clientID)
		case err == nil:
			writeJSON(w, http.StatusOK, c)
		}
		return err
	})
}

// kickClient ends a client's connection, wherever it is.
func (a *Admin) kickClient(w *answer, r *http.Request) {
	clientID := r.PathValue("client_id")
	a.call(w, r, func(ctx context.Context, b *loopmq.Broker) error {
		err := b.Kick(ctx, clientID)
		if errors.Is(err, loopmq.ErrNoClient) {
			return refused(http.StatusNotFound, "%q is not connected", clientID)
		}
		return noContent(w, err)
	})
}
