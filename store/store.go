package store

import (
	"context"
	"time"
)

// Store is the durable state of a broker. Each part is a view of the same
// data; an implementation may be one type that returns itself each time.
type Store interface {
	Messages() Messages
	Sessions() Sessions
	Subscriptions() Subscriptions
	Retained() Retained
	Wills() Wills
	// Bans keeps who is kept out.
	Bans() Bans
	Outbox() Outbox
	Leases() Leases
	// NewWriter returns a writer with a name that is unique among the writers
	// of this process. A broker has one for each event loop.
	NewWriter(name string) Writer
	// Now is the store's clock. All times in the store are read from it, so
	// that nodes with different clocks agree on what has expired.
	Now() time.Time
	// Health returns nil, or why the store takes no messages at the moment. It does
	// not block.
	Health() error
	// Close releases what the store holds. Commits under way end first, later
	// calls return ErrClosed.
	Close() error
}

// Writer commits batches. It is used by one goroutine at a time.
type Writer interface {
	// Commit applies the operations of b in their order, in one durable step:
	// after a crash either all of b is there or nothing of it. It fills in the
	// result of each operation. An error means that it is not known whether b
	// was applied; committing the same Batch value again with the same Writer is
	// safe and applies it at most once. The results are then those of the first
	// time, except that the Number of a Target may be zero: read the queue.
	Commit(ctx context.Context, b *Batch) error
}

// Messages reads the queues of durable sessions and of shared-subscription
// groups.
type Messages interface {
	// Read returns up to limit entries of q whose Number is after the given
	// one, oldest first, and stops early once the sizes of their messages exceed
	// maxBytes (0: no bound), but returns at least one when there is one. Expired
	// messages are returned like others. The entries are the caller's; their
	// messages are shared and must not be changed.
	// ErrGone: there is no such queue.
	Read(ctx context.Context, q QueueID, after Number, limit, maxBytes int) ([]Entry, error)
	// Len returns how many entries q holds, the sum of the sizes of their
	// messages, and the Number that was given out last (the zero Number if none
	// was). ErrGone: there is no such queue.
	Len(ctx context.Context, q QueueID) (entries, bytes int, last Number, err error)
}

// Sessions is the registry of sessions.
type Sessions interface {
	// Claim makes the caller the owner of the session of c.ClientID and says
	// what was there before. It is the one step of a CONNECT that touches the
	// store, and of two concurrent claims the later Epoch wins. Epochs never
	// restart for a ClientID, Incarnations are never used again for one.
	//
	// A session goes on if it is durable, CleanStart is not set and it is not
	// overdue [MQTT-3.1.2-5]; Durable of the claim then says whether it outlives
	// this connection: if not, it keeps its queue and state until OpOffline
	// deletes it. Any other session of the ClientID ends here.
	Claim(ctx context.Context, c Claim) (Claimed, error)
	// Lookup returns the stored session of a ClientID, durable or not. ErrGone:
	// there is none.
	Lookup(ctx context.Context, clientID string) (Session, error)
	// List returns a page of the sessions, durable ones and those of connected clients,
	// in the order of their ClientIDs.
	List(ctx context.Context, q SessionQuery) (SessionPage, error)
	// Expired returns up to limit offline sessions whose expiry was due at now,
	// the longest overdue first. It deletes nothing: OpEndSession does.
	Expired(ctx context.Context, now time.Time, limit int) ([]Session, error)
	// NextExpiry returns when the next offline session is due, and false if
	// none is.
	NextExpiry(ctx context.Context) (time.Time, bool, error)
}

// Subscriptions reads the subscriptions of durable sessions.
type Subscriptions interface {
	// Of returns the subscriptions of one session, ordered by TopicFilter.
	// ErrGone: there is no such session, or it has no stored state.
	Of(ctx context.Context, s SessionID) ([]Subscription, error)
	// List returns up to limit durable sessions with their subscriptions, whose
	// ClientIDs are after the given one, in the order of their ClientIDs. It serves
	// to fill the trie when a broker starts.
	List(ctx context.Context, afterClientID string, limit int) ([]Subscribed, error)
}

// Retained reads retained messages.
type Retained interface {
	// Read returns the retained messages of the given topics, in the same order
	// and with nil for a topic that has none (or one that has expired). The
	// messages are shared and must not be changed.
	Read(ctx context.Context, topicNames []string) ([]*Message, error)
	// List returns up to limit retained topics that are after the given one, in
	// order; topics whose message has expired may be among them. It serves to
	// fill the index when a broker starts.
	List(ctx context.Context, afterTopicName string, limit int) ([]string, error)
	// Expired returns up to limit topics whose message had expired at now. It
	// deletes nothing: OpDropExpiredRetained does.
	Expired(ctx context.Context, now time.Time, limit int) ([]string, error)
}

// Wills reads stored Wills.
type Wills interface {
	// Due returns up to limit Wills whose due time has come at now, the longest
	// overdue first. It removes nothing: the OpPublish that publishes a Will
	// names it, and removes it in the same step.
	Due(ctx context.Context, now time.Time, limit int) ([]Will, error)
	// NextDue returns when the next Will is due, and false if none is.
	NextDue(ctx context.Context) (time.Time, bool, error)
}
