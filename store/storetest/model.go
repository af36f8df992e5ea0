package storetest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"loopmq/store"
)

var modelTests = []test{
	{"a store and a naive model agree", func(h *harness) {
		seed := rand.Uint64()
		h.Logf("seed %d", seed)
		newModel(h, seed).run(1500)
	}},
	{"an outbox and a naive model agree", func(h *harness) {
		runOutboxModel(h, 1500, false, nil)
	}},
}

// model is a store as one would write it down: maps, and no thought of speed.
// Random operations are applied to it and to the store, and after each batch
// both have to agree in all that can be read.
//
// Times are either long past or far in the future, so that it doesn't matter
// when the store looks at its clock; what becomes due 'now' counts as past.
type model struct {
	*harness
	rng *rand.Rand

	sessions map[string]*modelSession
	queues   map[store.QueueID][]modelEntry
	last     map[store.QueueID]store.Number
	appended map[store.QueueID]uint64 // entries since last was read
	retained map[string]modelRetained
	wills    map[modelWillID]*modelWill

	known  []store.Session // all that ever were, to be used when they are over too
	willID []modelWillID   // the same
	count  int             // of messages
}

type modelSession struct {
	store.Session
	stored        bool
	subscriptions map[string]store.Subscription
	released      map[store.Number]bool
	held          map[uint16]bool
	will          *modelWill
}

// modelEntry is an entry in a form that can be compared.
type modelEntry struct {
	number                 store.Number // zero: not known yet
	publisherID            string       // names the message
	messageQoS, qos        byte
	messageRetain, retain  bool
	identifiers            string
	shareName, topicFilter string
}

type modelRetained struct {
	publisherID string
	expiry      time.Time
}

type modelWillID struct {
	clientID string
	epoch    uint64
}

type modelWill struct {
	modelWillID
	delay  uint32
	online bool
	past   bool // else due in the future, or not due yet
}

func newModel(h *harness, seed uint64) *model {
	return &model{
		harness:  h,
		rng:      rand.New(rand.NewPCG(seed, 0)),
		sessions: map[string]*modelSession{},
		queues:   map[store.QueueID][]modelEntry{},
		last:     map[store.QueueID]store.Number{},
		appended: map[store.QueueID]uint64{},
		retained: map[string]modelRetained{},
		wills:    map[modelWillID]*modelWill{},
	}
}

const (
	modelPast   = -1000
	modelNow    = 100
	modelFuture = 5000
)

func (m *model) run(steps int) {
	for step := range steps {
		if m.chance(4) {
			m.stepClaim()
		} else {
			m.stepCommit()
		}
		m.compareQueues()
		if step%10 == 0 {
			m.compare()
		}
		if m.Failed() {
			m.Fatalf("the store and the model differ after step %d", step)
		}
	}
}

// chance is true once in n times.
func (m *model) chance(n int) bool { return m.rng.IntN(n) == 0 }

func pick[T any](m *model, of []T) T { return of[m.rng.IntN(len(of))] }

func (m *model) clientID() string { return pick(m, []string{"a", "b", "c", "d"}) }

func (m *model) topicName() string { return pick(m, []string{"t/1", "t/2", "t/3"}) }

// session returns a session to work on: mostly one that is there.
func (m *model) session() store.Session {
	if len(m.known) == 0 || m.chance(50) {
		return store.Session{ID: store.SessionID{ClientID: m.clientID(), Incarnation: 1 << 40}, Epoch: 1 << 60}
	}
	if se := m.sessions[m.clientID()]; se != nil && !m.chance(6) {
		return se.Session
	}
	return pick(m, m.known)
}

func (m *model) queue() store.QueueID {
	if m.chance(4) {
		return store.GroupQueue("share", pick(m, []string{"g/1", "g/2"}))
	}
	return store.QueueOf(m.session().ID)
}

// numbers returns some of those in q, or any.
func (m *model) numbers(q store.QueueID) []store.Number {
	var numbers []store.Number
	for _, e := range m.queues[q] {
		if m.chance(3) {
			numbers = append(numbers, e.number)
		}
	}
	if m.chance(10) {
		numbers = append(numbers, store.Number{Generation: 1, Seq: uint64(m.rng.IntN(50))})
	}
	return numbers
}

// due returns a time that is past, far, or none.
func (m *model) due() time.Time {
	switch m.rng.IntN(3) {
	case 0:
		return m.in(modelPast - m.rng.IntN(1000))
	case 1:
		return m.in(modelFuture + m.rng.IntN(1000))
	}
	return time.Time{}
}

func (m *model) past(due time.Time) bool { return !due.IsZero() && due.Before(m.in(0)) }

func (m *model) stepClaim() {
	c := store.Claim{
		ClientID: m.clientID(), Owner: pick(m, []string{"n1", "n2"}), CleanStart: m.chance(4), Durable: !m.chance(4),
		SessionExpiryInterval: m.rng.Uint32(),
	}
	if m.chance(2) {
		c.Will = &store.Will{Message: *message("will of " + c.ClientID), DelayInterval: uint32(m.rng.IntN(2) * 1000), ExpirySeconds: -1}
	}
	se := m.sessions[c.ClientID]
	if se != nil {
		c.Sent = m.sent(store.QueueOf(se.ID))
	}
	got := m.claim(c)
	var want store.Claimed
	if se != nil {
		want.OldOwner, want.OldEpoch = se.Owner, se.Epoch
		want.Present = se.Durable && !c.CleanStart && !m.past(se.Due)
		if w := se.will; w != nil {
			m.isOldWill(got, se.Session, m.succeedWill(w, want.Present))
			se.will = nil
		} else {
			equal(m.harness, "OldWill", got.OldWill, nil)
		}
		if !want.Present {
			if got.Ended == nil {
				m.Fatal("Ended: got none")
			}
			m.sameSession("Ended", *got.Ended, se.Session)
			want.Dropped = m.end(se, c.Sent)
			se = nil
		}
	}
	if se == nil {
		se = &modelSession{
			stored: c.Durable, subscriptions: map[string]store.Subscription{},
			released: map[store.Number]bool{}, held: map[uint16]bool{},
		}
		se.ID = got.Session.ID // any will do that is new
		for _, k := range m.known {
			if k.ID == se.ID {
				m.Fatalf("incarnation %v was used again", se.ID)
			}
		}
		m.sessions[c.ClientID] = se
	}
	for _, k := range m.known {
		if k.ID.ClientID == c.ClientID && k.Epoch >= got.Session.Epoch {
			m.Fatalf("epoch %d after %d", got.Session.Epoch, k.Epoch)
		}
	}
	se.Session = store.Session{
		ID: se.ID, Epoch: got.Session.Epoch, Owner: c.Owner, Durable: c.Durable,
		SessionExpiryInterval: c.SessionExpiryInterval,
	}
	m.known = append(m.known, se.Session)
	if c.Will != nil {
		id := modelWillID{c.ClientID, se.Epoch}
		se.will = &modelWill{modelWillID: id, delay: c.Will.DelayInterval, online: true}
		m.wills[id] = se.will
		m.willID = append(m.willID, id)
	}
	m.sameSession("session", got.Session, se.Session)
	if want.Present {
		want.Subscriptions = se.sorted()
		want.Released = slices.SortedFunc(maps.Keys(se.released), compareNumbers)
		want.Held = slices.Sorted(maps.Keys(se.held))
		want.Last = m.last[store.QueueOf(se.ID)]
	}
	equal(m.harness, "OldOwner", got.OldOwner, want.OldOwner)
	equal(m.harness, "OldEpoch", got.OldEpoch, want.OldEpoch)
	equal(m.harness, "Dropped", got.Dropped, want.Dropped)
	m.sameState(got, want)
}

func compareNumbers(a, b store.Number) int {
	if a == b {
		return 0
	}
	if a.Less(b) {
		return -1
	}
	return 1
}

func (se *modelSession) sorted() []store.Subscription {
	return slices.SortedFunc(maps.Values(se.subscriptions), func(a, b store.Subscription) int {
		return strings.Compare(a.TopicFilter, b.TopicFilter)
	})
}

// succeedWill returns whether w is to be published when the next connection
// comes.
func (m *model) succeedWill(w *modelWill, goesOn bool) bool {
	if goesOn && w.delay > 0 && !w.past {
		delete(m.wills, w.modelWillID)
		return false
	}
	w.online, w.past = false, true
	return true
}

// end deletes se, and returns what was behind an entry of its queue, by QoS.
func (m *model) end(se *modelSession, sent store.Number) (dropped [3]int) {
	q := store.QueueOf(se.ID)
	for _, e := range m.queues[q] {
		if e.number.IsZero() || sent.Less(e.number) { // a number that isn't known is of this batch
			dropped[e.qos]++
		}
	}
	delete(m.sessions, se.ID.ClientID)
	delete(m.queues, q)
	return dropped
}

// sent returns the number of some entry of a queue, or none.
func (m *model) sent(q store.QueueID) store.Number {
	if entries := m.queues[q]; len(entries) > 0 && !m.chance(3) {
		return pick(m, entries).number
	}
	return store.Number{}
}
