package store

import (
	"context"
	"fmt"
	"time"
)

// Bounds of what an Once may hold. What goes beyond them is Refused.
const (
	MaxOnceKey    = 512
	MaxOnceAnswer = 4 << 10
	MaxOnceWindow = 7 * 24 * time.Hour // a later Once.Expires counts as this
)

// Once makes an OpPublish happen once under its Key, on any node and across a crash.
// In the step of the publication the Key is noted with the Answer until Expires. If it
// is there already nothing of the operation happens: the result is Duplicate, and
// Answer is set to what was noted. Where what was noted can't be read any more, in a
// batch that was repeated, the result is that of the first time and Answer stays.
type Once struct {
	Key     string
	Answer  []byte    // the caller's on the way in; on the way out it must not be changed
	Expires time.Time // on the store's clock
}

// Event is what an OpEnqueue appends to the outbox of an Endpoint. An outbox comes
// into being with its first event.
type Event struct {
	Endpoint string
	// Data is opaque, and must not change any more.
	Data []byte
	// MaxEntries and MaxBytes bound the outbox, without its dead letters: an event that
	// doesn't fit is Refused and counts as dropped. Zero: no bound.
	MaxEntries int
	MaxBytes   int64
}

// EventID names an event. Those of one outbox grow in the order of their coming, and
// none is given out twice, not even after a Remove.
type EventID struct {
	Generation uint64
	Seq        uint64
}

// Less orders the events of an outbox.
func (id EventID) Less(o EventID) bool {
	return id.Generation < o.Generation || id.Generation == o.Generation && id.Seq < o.Seq
}

// IsZero reports whether id is before the first event.
func (id EventID) IsZero() bool { return id == EventID{} }

// String returns id as ParseEventID reads it.
func (id EventID) String() string { return fmt.Sprintf("%d-%d", id.Generation, id.Seq) }

// ParseEventID reads what EventID.String has written.
func ParseEventID(s string) (EventID, error) {
	var id EventID
	if n, err := fmt.Sscanf(s, "%d-%d", &id.Generation, &id.Seq); n != 2 || err != nil || id.String() != s {
		return EventID{}, fmt.Errorf("%q is not the id of an event, such as 17-4", s)
	}
	return id, nil
}

// Taken is an event that a consumer has taken.
type Taken struct {
	ID   EventID
	Data []byte // must not be changed
	// Enqueued is when it came into the outbox, or came back by Replay.
	Enqueued time.Time
	// Again is set if it may have been taken before, so that it may have been
	// delivered: by a consumer that is dead, or by this one before a Resume.
	Again bool
}

// Dead is an event that was given up: a dead letter.
type Dead struct {
	ID EventID
	// Data is what the event had. For Bury it need not be set.
	Data []byte
	// Reason, Status (of HTTP, 0: there was no response) and Attempts say how it ended.
	Reason   string
	Status   int
	Attempts int
	// At is when it was given up.
	At time.Time
}

// OutboxState is what an outbox holds, and what has become of all that ever came:
// Matched = Delivered + Queued + Taken + Dead + Dropped at any moment.
type OutboxState struct {
	// Queued is how many events wait, Taken how many consumers have, dead ones
	// included, and Bytes the size of both. Dead and DeadBytes are the dead letters.
	Queued, Taken, Dead uint64
	Bytes, DeadBytes    uint64
	// Oldest is when the oldest event that waits or was taken came; zero: none.
	Oldest time.Time
	// Disabled is why the endpoint gets nothing, as Disable was told; empty: it does.
	Disabled string
	// Totals since the outbox came into being. Dropped are events that were refused,
	// and dead letters that were dropped or had to make room.
	Matched, Delivered, Dropped uint64
}

// Outbox holds events on their way to endpoints. Each event is in the outbox until it
// is Done or given up (Bury): a consumer takes it, delivers it and says so. What a
// consumer has taken no other gets while it lives; so each event is delivered at
// least once, by one consumer at a time unless one is taken for dead by mistake.
//
// A consumer is a name: an instance, or one name for an endpoint that is delivered in
// order, by whoever has a lease on that. It lives as long as it renews. In a store of one process all
// events are as not taken after it was opened again.
//
// An endpoint without an outbox is one whose outbox is empty: that is no error.
type Outbox interface {
	// Take gives the consumer up to limit events that no living one has, oldest first:
	// those that dead consumers hold, then those that nobody had. It stops early once
	// their Data exceeds maxBytes (0: no bound), or a bound of the store's, but returns
	// at least one if there is one. What the consumer itself has taken before is not among them: Resume has that,
	// and what was taken where Take has failed nevertheless. It doesn't wait: see Notify.
	Take(ctx context.Context, endpoint, consumer string, limit, maxBytes int) ([]Taken, error)
	// Resume returns up to limit events behind after that the consumer has taken
	// already, in their order. It stops early as Take does. All of them are Again.
	Resume(ctx context.Context, endpoint, consumer string, after EventID, limit, maxBytes int) ([]Taken, error)
	// Renew says that a consumer lives for ttl from now, at all endpoints. One that has
	// never renewed, or not in time, is dead: others take over what it holds, and it
	// lives again once it renews. A ttl of 0 or less ends it at once.
	Renew(ctx context.Context, consumer string, ttl time.Duration) error
	// Done removes events that were delivered, whoever has taken them. Those that are
	// not there any more are passed over, and count once.
	Done(ctx context.Context, endpoint string, ids []EventID) error
	// Bury gives events up: they become dead letters. Of those the oldest are dropped
	// until no more than max are left; dropped is how many. Events that are not there
	// any more are passed over.
	Bury(ctx context.Context, endpoint string, dead []Dead, max int) (dropped int, err error)
	// Dead returns up to limit dead letters behind after, in the order of their IDs.
	Dead(ctx context.Context, endpoint string, after EventID, limit int) ([]Dead, error)
	// Replay puts dead letters at the end of the outbox, under new IDs and whatever its
	// bounds are, and returns how many.
	Replay(ctx context.Context, endpoint string, ids []EventID) (int, error)
	// Drop deletes dead letters, and returns how many.
	Drop(ctx context.Context, endpoint string, ids []EventID) (int, error)
	// Disable notes for all nodes why an endpoint gets nothing until somebody says
	// otherwise; an empty reason says otherwise. It is no more than a note: events are
	// enqueued and taken as before.
	Disable(ctx context.Context, endpoint, reason string) error
	// State returns what an outbox holds.
	State(ctx context.Context, endpoint string) (OutboxState, error)
	// Endpoints returns all endpoints that have an outbox, an empty one too, in order.
	Endpoints(ctx context.Context) ([]string, error)
	// Remove deletes an outbox with its events, dead letters and totals.
	Remove(ctx context.Context, endpoint string) error
	// Notify returns the channel that gets a value when an endpoint has events again,
	// from whatever node: who waits for it has taken until nothing was left. It is the
	// same for each call, for one receiver, and holds one value, to begin with too. A
	// value may come without a reason; none comes when a consumer dies, so a receiver
	// looks now and then as well.
	Notify(endpoint string) <-chan struct{}
}

// Leases are names that one holder at a time has.
type Leases interface {
	// Acquire takes or renews the lease on a name for ttl from now. ok: holder has it.
	// The fence is another, larger one each time that the lease is taken, and the same
	// while it is renewed in time.
	Acquire(ctx context.Context, name, holder string, ttl time.Duration) (fence uint64, ok bool, err error)
	// Release gives up a lease that holder has.
	Release(ctx context.Context, name, holder string) error
}
