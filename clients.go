package loopmq

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"loopmq/codec"
	"loopmq/store"
)

// What the lists of a Broker have in common: they are of all nodes that share the
// store, whichever node is asked; they are in the order of names, and come in pages.
// One call returns no more than ListMax elements and looks at no more than some
// thousand, so that a filter which matches little costs many calls rather than a long
// one: a page may be empty, and there is more as long as it has a Next.

// ListMax is how many elements one page of a list has at most.
const ListMax = 1000

// lookMax is how many elements one call looks at at most.
const lookMax = 5000

// pageLimit is the number of elements that a page may have.
func pageLimit(limit int) int {
	if limit <= 0 || limit > ListMax {
		return ListMax
	}
	return limit
}

// ErrNoSession means that no session has that Client Identifier.
var ErrNoSession = errors.New("loopmq: there is no such session")

// ClientStatus is one client, as anybody knows it who shares the store: it is
// connected, or has a session that outlives its connection.
type ClientStatus struct {
	ClientID  string `json:"client_id"`
	Connected bool   `json:"connected"`
	// Node is the instance that has the connection, see NodeStatus.Node; empty if it isn't
	// connected.
	Node string `json:"node,omitempty"`

	// What follows is of the connection, or of the last one. Username is who the
	// Authenticator said it is.
	Username        string        `json:"username,omitempty"`
	Address         string        `json:"address,omitempty"` // host:port
	Listener        string        `json:"listener,omitempty"`
	ProtocolVersion codec.Version `json:"-"`
	Protocol        string        `json:"protocol,omitempty"` // 3.1, 3.1.1, 5.0
	KeepAlive       uint16        `json:"keep_alive"`         // seconds
	CleanStart      bool          `json:"clean_start"`
	ConnectedAt     time.Time     `json:"connected_at,omitzero"`

	// Durable: its session outlives the connection, for SessionExpiryInterval seconds
	// (0xFFFFFFFF: for ever), and ends at ExpiresAt if it isn't connected.
	Durable               bool      `json:"durable"`
	SessionExpiryInterval uint32    `json:"session_expiry_interval"`
	ExpiresAt             time.Time `json:"expires_at,omitzero"`

	// DisconnectedAt is when a connection of the session ended last, and LastError why;
	// a client that has disconnected as it should has none.
	DisconnectedAt time.Time `json:"disconnected_at,omitzero"`
	LastError      string    `json:"last_error,omitempty"`

	// Queue is what waits for a durable session; nil in a list.
	Queue *QueueStatus `json:"queue,omitempty"`
}

// QueueStatus is the queue of a durable session: what is under way to the client too.
type QueueStatus struct {
	Messages int `json:"messages"`
	Bytes    int `json:"bytes"`
}

// ClientFilter says which clients a list is to have: those that all of its fields that
// are set hold for.
type ClientFilter struct {
	ClientIDPrefix   string
	ClientIDContains string
	Username         string
	// Address is a network that the client's address is in.
	Address netip.Prefix
	// Node is the instance that has the connection.
	Node string
	// Connected and Offline leave out the others; Durable those whose sessions end with
	// their connections.
	Connected, Offline, Durable bool
}

// ClientPage is one page of a list. Next is what to ask for to get the one behind it;
// empty: that was the last one.
type ClientPage struct {
	Clients []ClientStatus `json:"clients"`
	Next    string         `json:"next,omitempty"`
}

// Clients lists clients that are connected and sessions that are offline, behind a
// ClientID (the Next of the page before, empty at first) and in the order of their
// ClientIDs: up to limit, or ListMax if that is 0. store.ErrUnavailable: the store
// can't be reached.
func (b *Broker) Clients(ctx context.Context, f ClientFilter, after string, limit int) (ClientPage, error) {
	limit = pageLimit(limit)
	page := ClientPage{Clients: []ClientStatus{}}
	err := b.eachSession(ctx, &f, after, func(se *store.Session) bool {
		page.Clients = append(page.Clients, b.clientStatus(se))
		return len(page.Clients) < limit
	}, &page.Next)
	return page, err
}

// eachSession calls visit for the sessions that match, until it returns false, there
// are no more, or enough were looked at. next is set to where to go on.
func (b *Broker) eachSession(ctx context.Context, f *ClientFilter, after string, visit func(*store.Session) bool, next *string) error {
	if f.Connected && f.Offline || f.Offline && f.Node != "" {
		return nil
	}
	q := store.SessionQuery{Prefix: f.ClientIDPrefix, After: after, Connected: f.Connected || f.Node != ""}
	for looked := 0; ; {
		q.Limit = min(500, lookMax-looked)
		page, err := b.store.Sessions().List(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Sessions {
			se := &page.Sessions[i]
			if f.matches(se) && !visit(se) {
				*next = se.ID.ClientID
				return nil
			}
		}
		if page.Next == "" {
			return nil
		}
		q.After = page.Next
		if looked += q.Limit; looked >= lookMax {
			*next = page.Next
			return nil
		}
	}
}

func (f *ClientFilter) matches(se *store.Session) bool {
	connected := se.Owner != ""
	switch {
	case f.Connected && !connected, f.Offline && connected, f.Durable && !se.Durable,
		f.Node != "" && se.Owner != f.Node,
		f.Username != "" && se.Connection.Username != f.Username,
		!strings.HasPrefix(se.ID.ClientID, f.ClientIDPrefix),
		!strings.Contains(se.ID.ClientID, f.ClientIDContains):
		return false
	case f.Address.IsValid():
		a, err := netip.ParseAddrPort(se.Connection.Address)
		return err == nil && f.Address.Contains(a.Addr().Unmap().WithZone(""))
	}
	return true
}

func (b *Broker) clientStatus(se *store.Session) ClientStatus {
	c := &se.Connection
	st := ClientStatus{
		ClientID: se.ID.ClientID, Connected: se.Owner != "", Node: se.Owner,
		Username: c.Username, Address: c.Address, Listener: c.Listener, ProtocolVersion: c.ProtocolVersion,
		KeepAlive: c.KeepAlive, CleanStart: c.CleanStart, ConnectedAt: c.Since,
		Durable: se.Durable, SessionExpiryInterval: se.SessionExpiryInterval, ExpiresAt: se.Due,
	}
	if d := se.Disconnected; d != nil {
		st.DisconnectedAt, st.LastError = d.At, d.Reason
	}
	if c.ProtocolVersion != 0 {
		st.Protocol = c.ProtocolVersion.String()
	}
	return st
}

// Client returns one client, with its queue. ErrNoSession: it isn't connected, and has
// no session.
func (b *Broker) Client(ctx context.Context, clientID string) (ClientStatus, error) {
	se, err := b.store.Sessions().Lookup(ctx, clientID)
	if errors.Is(err, store.ErrGone) {
		return ClientStatus{}, ErrNoSession
	}
	if err != nil {
		return ClientStatus{}, err
	}
	st := b.clientStatus(&se)
	messages, bytes, _, err := b.store.Messages().Len(ctx, store.QueueOf(se.ID))
	switch {
	case err == nil:
		st.Queue = &QueueStatus{messages, bytes}
	case !errors.Is(err, store.ErrGone):
		return ClientStatus{}, err
	}
	return st, nil
}
