package loopmq

import (
	"sync/atomic"
	"time"

	"loopmq/codec"
	"loopmq/eventloop"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// loop is the broker's part of one event loop. All of it belongs to that loop,
// except inbox with inboxBytes and waiting, which other loops use too, and
// connected.
type loop struct {
	b     *Broker
	el    *eventloop.Loop
	m     *metrics.Loop
	index int

	strategy                      trie.Strategy
	commits                       *committer
	outboxes                      []*outbox // what goes to each other loop at the end of this turn
	outboxesScheduled, outboxFull bool
	roomWaits                     []func() // see whenRoom
	outboxesDue                   func()   // pushOutboxes; made once, so that a turn doesn't allocate it
	inbox                         *eventloop.Mailbox[*outbox]
	blocked                       []*Client // not read until the outboxes could be pushed
	clients                       map[*Client]struct{}
	retries                       []*Client                      // whose read of the store failed
	drainRetries                  []drainRetry                   // the shared subscriptions whose queue could not be drained
	repeats                       []func()                       // what the store failed to do
	leaving                       map[*Session][]func(done bool) // what waits until they have given up what others are to get
	doubted                       map[string]uint64              // retained topics to be read from the store again, see doubtRetained
	rereading                     bool                           // some of them are being read
	replaying                     []*Client                      // who wait for their turn to get retained messages
	replayStepsLeft               int                            // of this turn
	replayScheduled               bool                           // those who wait get their turn at the end of this one
	drained                       []func()                       // called when the last client has gone and all is committed

	retryTimer eventloop.Timer
	eventDone  doneFunc // eventCommitted; made once, so that an event doesn't allocate it

	// Scratch, so that a packet costs no allocation.
	packets    packets
	matches    trie.Matches[*Session]
	deliveries []delivery
	merged     map[*Session]int
	targets    []store.Target
	routed     []delivery  // the durable deliveries behind targets
	committing publication // whose commit has returned
	message    publication
	forward    []byte // the properties of message
	mounted    []byte // its topic behind a mount point
	serial     uint64
	stashes    []*[]byte // free small buffers for partial packets
	recording  recording

	scratchDue  func() // clearScratch
	scratchHigh int    // how much of it was used in this turn, 0: little

	inboxBytes atomic.Int64  // of the messages in inbox
	waiting    []atomic.Bool // by loop: its outbox had no room in inbox
	connected  atomic.Int64
}

// packets are decoded into these and valid until the next packet of the loop.
type packets struct {
	connect     codec.Connect
	publish     codec.Publish
	ack         codec.Ack
	subscribe   codec.Subscribe
	unsubscribe codec.Unsubscribe
	disconnect  codec.Disconnect
	auth        codec.Auth
}

func newLoop(b *Broker, el *eventloop.Loop, m *metrics.Loop) *loop {
	l := &loop{
		b:       b,
		el:      el,
		m:       m,
		index:   el.Index(),
		clients: make(map[*Client]struct{}),
		merged:  make(map[*Session]int),
	}
	l.outboxesDue, l.scratchDue = l.pushOutboxes, l.clearScratch
	l.eventDone = l.eventCommitted
	l.commits = newCommitter(l)
	l.retryTimer.Init(l)
	l.strategy = b.opts.SharedSubscriptionStrategy.trie()
	l.inbox = eventloop.NewMailbox(el, mailboxOutboxes, l.receive)
	return l
}

const (
	// scratchQuiet is how much of the scratch may keep alive what it pointed to.
	scratchQuiet = 64
	// scratchKept is the largest that is kept for later.
	scratchKept = 64 << 10
)

// scratchUsed has the scratch cleared at the end of the turn if it points to much:
// sessions and messages must not live on because there was a large fan-out once.
func (l *loop) scratchUsed() {
	used := max(len(l.matches.Subscribers), len(l.deliveries), len(l.targets), len(l.routed))
	if used <= scratchQuiet {
		return
	}
	if l.scratchHigh == 0 {
		l.el.AtTurnEnd(l.scratchDue)
	}
	l.scratchHigh = max(l.scratchHigh, used)
}

func (l *loop) clearScratch() {
	high := l.scratchHigh
	l.scratchHigh = 0
	l.matches.Subscribers = cleared(l.matches.Subscribers, high)
	l.deliveries, l.targets, l.routed = cleared(l.deliveries, high), cleared(l.targets, high), cleared(l.routed, high)
	if len(l.merged) > scratchQuiet { // clearing would go through all it ever held, each time
		l.merged = make(map[*Session]int)
	}
}

// cleared returns s empty, with nothing left of the first used elements.
func cleared[T any](s []T, used int) []T {
	if cap(s) > scratchKept {
		return nil
	}
	clear(s[:min(used, cap(s))])
	return s[:0]
}

// now is the store's clock.
func (l *loop) now() time.Time { return l.b.store.Now() }

// whenDrained calls f once no client is left and everything is committed.
func (l *loop) whenDrained(f func()) {
	l.drained = append(l.drained, f)
	l.checkDrained()
}

func (l *loop) checkDrained() {
	if len(l.drained) == 0 || len(l.clients) > 0 || len(l.leaving) > 0 || l.commits.busy() {
		return
	}
	drained := l.drained
	l.drained = nil
	for _, f := range drained {
		f()
	}
}
