package storetest

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"loopmq/store"
)

// Capabilities say what else than the common contract is to be tested.
type Capabilities struct {
	// Reopen closes s and returns a store with the same data. Nil: the store
	// does not outlive its process.
	Reopen func(t *testing.T, s store.Store) store.Store
	// Embedded: one process has the store at a time, so that sessions which were
	// connected when it was opened are offline then.
	Embedded bool
	// OpenBounded opens an empty store that refuses what goes beyond maxBytes in
	// the sizes of its messages. Nil: the store has no such bound.
	OpenBounded func(t *testing.T, maxBytes int) store.Store
}

// Run runs the suite. open returns an empty store each time, which the suite
// closes.
func Run(t *testing.T, open func(t *testing.T) store.Store, c Capabilities) {
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"Commit", commitTests},
		{"Queue", queueTests},
		{"Group", groupTests},
		{"Limits", limitTests},
		{"Move", moveTests},
		{"Claim", claimTests},
		{"Session", sessionTests},
		{"Fence", fenceTests},
		{"QoS2", handshakeTests},
		{"Subscriptions", subscriptionTests},
		{"Retained", retainedTests},
		{"Will", willTests},
		{"Outbox", outboxTests},
		{"Once", onceTests},
		{"Leases", leaseTests},
		{"Bans", banTests},
		{"Concurrent", concurrentTests},
		{"Model", modelTests},
	} {
		t.Run(group.name, func(t *testing.T) { runAll(t, open, group.tests) })
	}
	if c.Reopen != nil {
		t.Run("Reopen", func(t *testing.T) {
			for _, rt := range reopenTests {
				t.Run(rt.name, func(t *testing.T) {
					h := newHarness(t, open(t))
					rt.run(h, c.Embedded, func() { h.use(c.Reopen(t, h.s)) })
				})
			}
		})
	}
	if c.OpenBounded != nil {
		t.Run("Full", func(t *testing.T) {
			runAll(t, func(t *testing.T) store.Store { return c.OpenBounded(t, boundedBytes) }, fullTests)
		})
	}
}

// test is one test, named after what it shows.
type test struct {
	name string
	run  func(h *harness)
}

func runAll(t *testing.T, open func(t *testing.T) store.Store, tests []test) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(newHarness(t, open(t))) })
	}
}

// harness is a store under test, with a writer. Its methods end the test when
// the store returns an error.
type harness struct {
	*testing.T
	s   store.Store
	w   store.Writer
	now time.Time // the store's clock at the start, in whole seconds
}

func newHarness(t *testing.T, s store.Store) *harness {
	h := &harness{T: t}
	h.use(s)
	h.now = s.Now().Truncate(time.Second)
	t.Cleanup(func() {
		if err := h.s.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("Close: %v", err)
		}
	})
	return h
}

func (h *harness) use(s store.Store) { h.s, h.w = s, s.NewWriter("storetest") }

// in returns the time that is seconds away from the start of the test. Tests
// take it for granted that they don't run for 100 s.
func (h *harness) in(seconds int) time.Time { return h.now.Add(time.Duration(seconds) * time.Second) }

// equal reports a difference between what a store answered and what it should.
func equal[T any](h *harness, what string, got, want T) {
	h.Helper()
	if !reflect.DeepEqual(got, want) {
		h.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func (h *harness) noError(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *harness) isError(what string, err, want error) {
	h.Helper()
	if !errors.Is(err, want) {
		h.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// commit commits ops in one batch and returns them with their results.
func (h *harness) commit(ops ...store.Op) []store.Op {
	h.Helper()
	b := &store.Batch{Ops: ops}
	h.noError(h.w.Commit(h.Context(), b))
	return b.Ops
}

// result commits one operation and returns its result.
func (h *harness) result(op store.Op) store.Result {
	h.Helper()
	return h.commit(op)[0].Result
}

// do commits one operation, which has to be Done.
func (h *harness) do(op store.Op) store.Op {
	h.Helper()
	done := h.commit(op)[0]
	equal(h, "result", done.Result, store.Done)
	return done
}

func (h *harness) claim(c store.Claim) store.Claimed {
	h.Helper()
	claimed, err := h.s.Sessions().Claim(h.Context(), c)
	h.noError(err)
	return claimed
}

// durable returns a claim as most tests need it.
func durable(clientID string) store.Claim {
	return store.Claim{ClientID: clientID, Owner: "node", Durable: true, SessionExpiryInterval: 3600}
}

// session claims a durable session.
func (h *harness) session(clientID string) store.Session {
	h.Helper()
	return h.claim(durable(clientID)).Session
}

// queue claims a durable session and returns its queue.
func (h *harness) queue(clientID string) store.QueueID {
	h.Helper()
	return store.QueueOf(h.session(clientID).ID)
}

// message returns a message that is known by its payload.
func message(payload string) *store.Message {
	return &store.Message{TopicName: []byte("topic"), Payload: []byte(payload), QoS: 2}
}

func publish(payload string, queues ...store.QueueID) store.Op {
	op := store.Op{Kind: store.OpPublish, Message: message(payload)}
	for _, q := range queues {
		op.Targets = append(op.Targets, store.Target{Queue: q, QoS: 1})
	}
	return op
}

// enqueue publishes each payload to q, all in one batch, and returns the
// numbers that they got.
func (h *harness) enqueue(q store.QueueID, payloads ...string) []store.Number {
	h.Helper()
	var ops []store.Op
	for _, payload := range payloads {
		ops = append(ops, publish(payload, q))
	}
	var numbers []store.Number
	for _, op := range h.commit(ops...) {
		equal(h, "publish", op.Targets[0].Result, store.Done)
		numbers = append(numbers, op.Targets[0].Number)
	}
	return numbers
}

const noLimit = 1 << 30

// entries returns all that is in q.
func (h *harness) entries(q store.QueueID) []store.Entry {
	h.Helper()
	entries, err := h.s.Messages().Read(h.Context(), q, store.Number{}, noLimit, 0)
	h.noError(err)
	return entries
}

// payloads returns the payloads of all that is in q. A queue that is not there
// has none.
func (h *harness) payloads(q store.QueueID) []string {
	h.Helper()
	entries, err := h.s.Messages().Read(h.Context(), q, store.Number{}, noLimit, 0)
	if err != nil && !errors.Is(err, store.ErrGone) {
		h.Fatal(err)
	}
	return payloadsOf(entries)
}

func payloadsOf(entries []store.Entry) []string {
	payloads := []string{}
	for _, e := range entries {
		payloads = append(payloads, string(e.Message.Payload))
	}
	return payloads
}

func numbersOf(entries []store.Entry) []store.Number {
	var numbers []store.Number
	for _, e := range entries {
		numbers = append(numbers, e.Number)
	}
	return numbers
}

// gone checks that there is no queue q.
func (h *harness) gone(q store.QueueID) {
	h.Helper()
	_, err := h.s.Messages().Read(h.Context(), q, store.Number{}, 1, 0)
	h.isError("Read of a queue that is gone", err, store.ErrGone)
	_, _, _, err = h.s.Messages().Len(h.Context(), q)
	h.isError("Len of a queue that is gone", err, store.ErrGone)
}

func (h *harness) len(q store.QueueID) (entries, bytes int, last store.Number) {
	h.Helper()
	entries, bytes, last, err := h.s.Messages().Len(h.Context(), q)
	h.noError(err)
	return entries, bytes, last
}

func (h *harness) lookup(clientID string) store.Session {
	h.Helper()
	se, err := h.s.Sessions().Lookup(h.Context(), clientID)
	h.noError(err)
	return se
}

func (h *harness) lookupGone(clientID string) {
	h.Helper()
	_, err := h.s.Sessions().Lookup(h.Context(), clientID)
	h.isError("Lookup of a session that is gone", err, store.ErrGone)
}

// offline returns the operation that ends the connection of se.
func offline(se store.Session) store.Op {
	return store.Op{
		Kind: store.OpOffline, Session: se.ID, Epoch: se.Epoch,
		SessionExpiryInterval: se.SessionExpiryInterval, WillRemoved: true,
	}
}

func endSession(se store.Session) store.Op {
	return store.Op{Kind: store.OpEndSession, Session: se.ID, Epoch: se.Epoch}
}

// sameSession compares two sessions whose times may be in different places.
func (h *harness) sameSession(what string, got, want store.Session) {
	h.Helper()
	if !got.Due.Equal(want.Due) {
		h.Errorf("%s: got due %v, want %v", what, got.Due, want.Due)
	}
	got.Due = want.Due
	equal(h, what, got, want)
}

// sameMessage compares all fields of two messages.
func (h *harness) sameMessage(what string, got, want *store.Message) {
	h.Helper()
	if got == nil || want == nil {
		equal(h, what, got, want)
		return
	}
	equal(h, what+": TopicName", string(got.TopicName), string(want.TopicName))
	equal(h, what+": Payload", string(got.Payload), string(want.Payload))
	equal(h, what+": Properties", string(got.Properties), string(want.Properties))
	equal(h, what+": QoS", got.QoS, want.QoS)
	equal(h, what+": Retain", got.Retain, want.Retain)
	equal(h, what+": PublisherID", got.PublisherID, want.PublisherID)
	if !got.Expiry.Equal(want.Expiry) {
		h.Errorf("%s: got Expiry %v, want %v", what, got.Expiry, want.Expiry)
	}
}
