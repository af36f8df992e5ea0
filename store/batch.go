package store

import (
	"time"
)

// OpKind says what an Op does.
//
// Guarded by Epoch means: the result is Gone if there is no session of that
// ClientID, and Fenced if Epoch is not that of the ClientID's last claim, and
// nothing has changed then. An operation on state that the session does not
// have, because it was never durable, is Gone as well.
type OpKind uint8

const (
	// OpPublish appends Message to the queue of each of Targets. With PacketID
	// set it first holds that Packet Identifier for Session under Epoch (QoS 2
	// from a durable session): if it is held already the result is Duplicate,
	// and nothing is appended. With WillOf set it removes that Will: if it is
	// not there any more the result is Gone, and nothing is appended. With
	// Retain set it stores Message as the retained message of its topic, or
	// deletes that if the payload is empty. Unless the result is Done nothing
	// has changed, and each Target has the same result.
	OpPublish OpKind = iota + 1
	// OpFinish removes the entries Numbers from the queue of Session: they were
	// acknowledged, have expired, or were discarded. Those that are not there
	// are passed over. A store may remove all entries before Unfinished at once,
	// instead of those one by one. It needs no Epoch.
	OpFinish
	// OpRelease removes the entries Numbers from the queue and adds them to the
	// released set (PUBREC was received), whether they were in the queue or not.
	// Guarded by Epoch.
	OpRelease
	// OpComplete removes Numbers from the released set (PUBCOMP was received).
	// Guarded by Epoch.
	OpComplete
	// OpUnhold removes PacketID from the held set (PUBREL was received).
	// Guarded by Epoch.
	OpUnhold
	// OpSubscribe adds or replaces Subscriptions; OpUnsubscribe removes those
	// with the same TopicFilters. Guarded by Epoch.
	OpSubscribe
	OpUnsubscribe
	// OpRetain stores Message as the retained message of its topic, or deletes
	// that if the payload is empty.
	OpRetain
	// OpDropExpiredRetained deletes the retained message of Message.TopicName if
	// it had expired at Due. Gone: there is none that had.
	OpDropExpiredRetained
	// OpMove takes the entries Numbers out of the queue From (all of the first
	// Limit entries if Numbers is empty and Limit is not 0) and appends them to
	// the queue of the one Target, in that order. The Target's Moved lists what
	// was moved with the new Numbers. A target queue that is gone leaves From as
	// it is, and entries that the target's Limits don't let in stay in From
	// whatever the Policy is; Refused is the Target's result if none got in.
	// With the Target's QoS set the entries become deliveries to the Target: the
	// smaller of Message.QoS and that, RETAIN only if the Target and the message
	// have it, the Target's SubscriptionIdentifiers; with QoS 0 they stay as
	// they are. They keep ShareName and TopicFilter. Without a Target the entries
	// are removed: this is how those of a group finish, and the result is Gone if
	// there was none of them. Guarded by Epoch of Session if Epoch is not 0.
	OpMove
	// OpOffline marks the session offline: no owner, SessionExpiryInterval, due
	// to expire at Due (zero: never), Disconnected. With WillRemoved it drops the Will of that
	// Epoch (DISCONNECT with reason 0 [MQTT-3.14.4-3]), else the Will's due time
	// becomes WillDue (zero: now). A session that is not durable is deleted, its
	// Will stays until published; Dropped tells what went with it. Guarded by Epoch.
	OpOffline
	// OpEndSession deletes a session with all its state except its Will, which
	// becomes due [MQTT-3.1.2-8]. Dropped tells what went with it. Guarded by Epoch
	// if Epoch is not 0.
	OpEndSession
	// OpRoute tells the other instances of a Shared store that this one has sessions
	// that are not durable with subscriptions to TopicFilters; OpUnroute that it has
	// none any more. Other stores do nothing.
	OpRoute
	OpUnroute
	// OpEnqueue appends Event to the outbox of its endpoint. Refused: that is full; Full:
	// the store is. The event counts as dropped then. With IfPublished set it is about
	// the OpPublish before it in the batch: unless that is Done, nothing happens and the
	// result is that of the OpPublish.
	OpEnqueue
)

// Result is the outcome of an Op or of a Target.
type Result uint8

const (
	// Pending: not committed yet.
	Pending Result = iota
	// Done: applied.
	Done
	// Duplicate: the Packet Identifier was held, or the key of Once noted, already.
	Duplicate
	// Fenced: the Epoch is not the last one; another connection has the session.
	Fenced
	// Gone: the session, queue or Will is not there.
	Gone
	// Refused: the limit of the queue or the outbox did not let it in.
	Refused
	// Full: the store as a whole has no room.
	Full
	// Stale: subscriptions were added that the message was not matched with, see
	// Op.Additions; nothing has changed. Match it again.
	Stale
)

// Op is one operation of a Batch. Which fields count depends on Kind.
type Op struct {
	Kind     OpKind
	Result   Result // set by Commit
	Session  SessionID
	Epoch    uint64
	PacketID uint16
	Retain   bool
	WillOf   *Will // OpPublish: the Will that Message is, named by ClientID and Epoch
	Message  *Message
	Targets  []Target
	From     QueueID
	Numbers  []Number
	Limit    int

	// Unfinished, for an OpFinish, is what an owner knows that sends a queue in order:
	// all entries with smaller Numbers are finished. The zero Number says nothing.
	Unfinished Number

	// IfRetained, for an OpPublish to a Shared store: only if Message, as it was read,
	// is still the retained message of its topic; else the result is Gone, and nothing
	// has changed. So an old one doesn't come behind a new one.
	IfRetained bool

	// Additions is, for an OpPublish that an acknowledgement waits for, what
	// Member.Additions was before its message was matched; 0: it makes no
	// difference. A subscription may have been added since that the message has to
	// reach. At QoS 2, with WillOf and with Once, where all has to be in one step, the
	// result is Stale then. Otherwise the operation is done. In any case, and after every
	// OpSubscribe and OpRoute, all Changes up to the commit have been applied when
	// Commit returns.
	Additions uint64

	// Once, for an OpPublish: only if its key is not noted; else the result is
	// Duplicate, and nothing has changed.
	Once *Once

	// Event is what an OpEnqueue appends; IfPublished: only if the last OpPublish before
	// it in the batch is Done.
	Event       *Event
	IfPublished bool

	Subscriptions []Subscription
	TopicFilters  []string // OpRoute, OpUnroute

	SessionExpiryInterval uint32
	Due                   time.Time
	Disconnected          Disconnected
	WillRemoved           bool
	WillDue               time.Time

	// Gives, for an OpOffline of a Shared store: the session has messages that are to
	// go back to their groups, which the committer sees to. Should it die before it
	// has committed the same with Gave instead, the session is an orphan.
	Gives, Gave bool

	// Sent is the last entry of the session's queue that was sent. Dropped is set by
	// Commit: how many entries behind it were deleted with the session, by their QoS.
	Sent    Number
	Dropped [3]int
}

// Target is one queue that OpPublish or OpMove appends to, or, with Instance set,
// an instance of a Shared store that OpPublish hands the message to: for those of
// its own sessions that get it without a queue, or, with ShareName set, for one
// member of that group. The Result is Gone if the instance is, and Refused if its
// inbox is full.
type Target struct {
	Queue                   QueueID
	Instance                string
	QoS                     byte
	Retain                  bool
	SubscriptionIdentifiers []uint32
	ShareName               string // set for a message of a shared subscription
	TopicFilter             string

	// Set by Commit: the outcome, the Number of the new entry, how many of the
	// oldest entries had to go, by their QoS, for OpMove the entries with their new
	// Numbers, and for OpPublish who had the session's connection at that moment
	// (empty: nobody). An owner other than the committing instance has been told; of
	// a batch that was repeated it is whoever has the connection by then.
	//
	// Left is set if nobody had the connection when the entry was appended and it is
	// of a shared subscription: the epoch of the session's last claim. The entry
	// came behind what was handed back to the group, so whoever appended it moves it
	// there, unless the session is claimed first.
	Result  Result
	Owner   string
	Left    uint64
	Number  Number
	Dropped [3]int
	Moved   []Entry
}

// Batch is a list of operations for one Commit. The zero value is empty.
// Messages that Ops point to must not change until Commit has returned, nor
// afterwards if they were stored. All else is the caller's again then. It is
// used by one goroutine at a time.
type Batch struct {
	// Seq is set by the Writer at the first Commit: it is how a repeated Commit
	// of the same Batch is told from a new one. Reset clears it.
	Seq uint64
	Ops []Op
}

// Add appends an operation and returns its index.
func (b *Batch) Add(op Op) int {
	*b.Next() = op
	return len(b.Ops) - 1
}

// Next appends an empty operation and returns it, for the caller to fill in: an Op
// is large, and is not copied this way. The pointer is valid until the next one is
// appended.
func (b *Batch) Next() *Op {
	if n := len(b.Ops); n < cap(b.Ops) {
		b.Ops = b.Ops[:n+1] // Reset has left it empty
	} else {
		b.Ops = append(b.Ops, Op{})
	}
	return &b.Ops[len(b.Ops)-1]
}

// Reset empties b for another use.
func (b *Batch) Reset() {
	clear(b.Ops)
	b.Seq, b.Ops = 0, b.Ops[:0]
}
