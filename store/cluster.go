package store

import (
	"context"
	"errors"
	"time"
)

// ErrDead means that this instance was declared dead. Nothing that it commits is
// taken any more; it ends its connections and joins again as a new instance.
var ErrDead = errors.New("this instance was declared dead")

// Shared is a Store that several nodes use at the same time. Nodes know each other
// through it only.
//
// A node is an instance: a name that is new each time it joins. Every instance
// keeps a lease. One whose lease has lapsed is declared dead by another; nothing it
// still tries to commit is applied then (ErrDead).
//
// What all instances have to know about each other's subscriptions is a feed of
// Changes in one order. A commit that changes something of it has written the
// Change in the same step. Each instance applies all Changes in that order, see
// Node.
//
// A message for a queue whose session is connected at another instance, and one
// with a Target that names an instance, travel in the commit as well: into that
// instance's inbox, from where its Node gets them.
type Shared interface {
	Store
	// Join makes the caller a new instance. From then on the feed is noted for it;
	// nothing of n is called before Start. Routes of the other instances are n's
	// first Changes after Start, sessions and retained topics are read from the
	// Store between Join and Start. ErrUnavailable if there is no store to be had.
	Join(ctx context.Context, n Node) (Member, error)
}

// Member is an instance that has joined. Its methods are safe for concurrent use.
type Member interface {
	// Instance is its name: Claim.Owner and Session.Owner of what it holds.
	Instance() string
	// Start returns when all Changes so far have been applied. Its goroutines call
	// the Node from then on.
	Start(ctx context.Context) error
	// Additions is how many of the Changes applied so far added a subscription or a
	// route, plus 1. See Op.Additions.
	Additions() uint64
	// Alone reports whether no other instance can have a subscriber: this is the only
	// live one, and one that joins doesn't get through Start before it has been told.
	Alone() bool
	// Valid reports whether the lease of this instance is valid as far as it knows.
	// While it isn't, others may declare it dead.
	Valid() bool
	// Alive reports whether an instance is a live one as far as is known.
	Alive(instance string) bool
	// CaughtUp returns when all that was in this instance's inbox when it was called has
	// been given to Node.Deliver, or when ctx ends.
	CaughtUp(ctx context.Context) error
	// Kick asks the instance that holds the connection of clientID to end it, as a
	// Broker's Kick does. ErrGone: nobody is connected with it.
	Kick(ctx context.Context, clientID string) error
	// Ask puts a question to an instance and returns the answer of its Node.Asked. Both
	// are at most AnswerMax long. ErrGone: it isn't alive. It waits until ctx ends: an
	// instance that lives may be too busy to answer.
	Ask(ctx context.Context, instance string, question []byte) (answer []byte, err error)
	// Instances returns all instances that aren't dead and done with, in the order of
	// their names.
	Instances(ctx context.Context) ([]Instance, error)
	// Released answers Node.Yield: the connection of the claim before epoch has
	// ended, and all that it committed is in the store. It doesn't block.
	Released(clientID string, epoch uint64, to string)
	// Leave ends the membership in good order, after the last commit: what the
	// instance still holds is taken offline as if it had died, at once.
	Leave(ctx context.Context) error
}

// AnswerMax bounds what Member.Ask asks and what is answered, in bytes.
const AnswerMax = 1 << 20

// Instance is what is known of one.
type Instance struct {
	Name string
	// Lapses is when its lease does; zero: it was declared dead, and what it held is
	// being taken offline.
	Lapses time.Time
	// Report is what its Node.Report last returned, nil if there was none yet.
	Report []byte
}

// Node is the broker as its Member sees it. Apply and Deliver may take their time,
// but must not wait for the store.
type Node interface {
	// Apply applies Changes to what is known of other instances' sessions. Calls
	// come one at a time and in the order of the feed; those that a Commit's answer
	// brought come before that Commit returns. Changes of the instance itself are
	// among them. Applying a Change twice, or one that is older than what was read
	// from the store, does no harm as long as all that follow it are applied too.
	Apply(changes []Change)
	// Deliver takes what came into the inbox, in order. It returns when there is
	// room for more: until then it stays in the store.
	Deliver(news []News)
	// Reread is called when news may have been lost: each connected durable session
	// has to look at the end of its queue.
	Reread()
	// Yield: another instance has claimed the session of a ClientID with this epoch.
	// The connection of an earlier claim ends, and Member.Released is called; at
	// once if there is none.
	Yield(clientID string, epoch uint64, cleanStart bool, to string)
	// Kicked: the connection is to end (5.0: Administrative action, 0x98).
	Kicked(clientID string)
	// Released: the connection that was before the claim with this epoch has
	// ended. It may come before that Claim has returned.
	Released(clientID string, epoch uint64)
	// Asked answers a question of another instance, see Member.Ask. It may take its time.
	Asked(question []byte) (answer []byte)
	// Report returns what the others may want to know of this instance, some KiB at most.
	// It is asked for each time that the lease is renewed, and must not block.
	Report() []byte
	// Dead: an instance is dead, and all that it held has been taken offline; or
	// has left.
	Dead(instance string)
	// Orphaned hands over durable sessions that are offline because their instance
	// has died, for what only a broker can do: what they have of shared subscriptions
	// goes back to the groups. It returns when that is in the store, or false if it
	// could not be done: then the same sessions come again, to this instance or to
	// another. They may come again in any case.
	Orphaned(sessions []Session) (done bool)
	// Expelled: this instance was declared dead. Its Member is of no use any more.
	Expelled()
}

// ChangeKind says what a Change is about.
type ChangeKind uint8

const (
	// ChangeSubscribed: the durable session Session, held by Instance (empty:
	// offline), has added or replaced Subscriptions.
	ChangeSubscribed ChangeKind = iota + 1
	// ChangeUnsubscribed: Session has no longer the subscriptions TopicFilters.
	ChangeUnsubscribed
	// ChangeOwner: the durable session Session is held by Instance since the claim
	// with Epoch, or is offline if that is empty. Each claim that changes the
	// instance, and each end of a connection, writes one.
	ChangeOwner
	// ChangeEnded: Session is no more.
	ChangeEnded
	// ChangeRouted: Instance has sessions that are not durable with subscriptions
	// to TopicFilters. ChangeUnrouted: it has none any more.
	ChangeRouted
	ChangeUnrouted
	// ChangeDead: Instance is dead; its routes are gone.
	ChangeDead
	// ChangeRetained: TopicFilters, which are Topic Names here, have a retained
	// message and had none. ChangeNotRetained: they have none any more.
	ChangeRetained
	ChangeNotRetained
	// ChangeBanned: Ban was put. ChangeUnbanned: the one with its Kind and Value is no
	// more.
	ChangeBanned
	ChangeUnbanned
)

// Adds reports whether a message that was matched before the Change may miss a
// subscriber.
func (k ChangeKind) Adds() bool { return k == ChangeSubscribed || k == ChangeRouted }

// Change is one record of the feed.
type Change struct {
	Kind          ChangeKind
	Session       SessionID
	Instance      string
	Epoch         uint64 // ChangeOwner
	Subscriptions []Subscription
	TopicFilters  []string
	Ban           Ban // ChangeBanned, ChangeUnbanned
}

// News is one message from another instance, with what it is for. Queued says in
// which queues it is already, of sessions that the instance holds or held: it is a
// hint, the queue is the truth. Without a Message (an OpMove brought it there) the
// queue is to be read. With Routed it is for all sessions of the instance that match
// and don't get it through their queue, that is, those that are not durable and
// deliveries at QoS 0, but no shared subscriptions; each of Groups is one shared
// subscription that chose the instance for it.
type News struct {
	Message *Message
	Routed  bool
	Queued  []Hint
	Groups  []GroupID
}

// Hint says that a message is in a queue.
type Hint struct {
	Session                 SessionID
	Number                  Number
	QoS                     byte
	Retain                  bool
	SubscriptionIdentifiers []uint32
	ShareName, TopicFilter  string
}

// GroupID names a shared-subscription group.
type GroupID struct{ ShareName, TopicFilter string }
