package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"loopmq/store"
)

// outboxModel is an outbox as one would write it down. Random operations are applied to
// it and to the store, and after each both have to agree; in particular Matched =
// Delivered + Queued + Taken + Dead + Dropped.
type outboxModel struct {
	*harness
	rng      *rand.Rand
	endpoint string

	events  []modelEvent // in the order of their ids
	letters []modelEvent
	alive   map[string]bool
	count   int // of all events ever

	matched, delivered, dropped uint64
}

// modelEvent is an event, known by its data. Its id is known once it was taken.
type modelEvent struct {
	id     store.EventID
	data   string
	holder string // empty: nobody has taken it
	again  bool   // it may have been taken before the store was opened
}

var modelConsumers = []string{"a", "b", "c"}

// runOutboxModel runs the model for some steps. reopen, if the store can be, closes and opens it
// again; it leaves consumers what they have taken, unless embedded is set.
func runOutboxModel(h *harness, steps int, embedded bool, reopen func()) {
	seed := rand.Uint64()
	h.Logf("seed %d", seed)
	m := &outboxModel{harness: h, rng: rand.New(rand.NewPCG(seed, 0)), endpoint: "model", alive: map[string]bool{}}
	for step := range steps {
		if reopen != nil && m.rng.IntN(40) == 0 {
			reopen()
			if embedded {
				m.forgetTakers()
			}
		} else {
			m.step()
		}
		m.compare()
		if m.Failed() {
			m.Fatalf("the store and the model differ after step %d", step)
		}
	}
}

func (m *outboxModel) forgetTakers() {
	clear(m.alive)
	for i := range m.events {
		m.events[i].holder, m.events[i].again = "", true
	}
}

func (m *outboxModel) step() {
	consumer := modelConsumers[m.rng.IntN(len(modelConsumers))]
	switch m.rng.IntN(16) {
	case 0, 1, 2, 3:
		m.enqueue()
	case 4, 5, 6:
		m.takeSome(consumer)
	case 7, 8:
		m.finish()
	case 9:
		m.give()
	case 10:
		m.resumeSome(consumer)
	case 11:
		ids := m.someLetters()
		want := 0
		for _, id := range ids {
			if d, ok := remove(&m.letters, id); ok {
				want++
				m.add(d.data)
			}
		}
		equal(m.harness, "replayed", m.replay(m.endpoint, ids...), want)
	case 12:
		ids := m.someLetters()
		want := 0
		for _, id := range ids {
			if _, ok := remove(&m.letters, id); ok {
				want++
				m.dropped++
			}
		}
		equal(m.harness, "dropped", m.drop(m.endpoint, ids...), want)
	case 13, 14:
		m.alive[consumer] = m.rng.IntN(3) > 0
		ttl := time.Hour
		if !m.alive[consumer] {
			ttl = 0
		}
		m.noError(m.s.Outbox().Renew(m.Context(), consumer, ttl))
	case 15:
		if m.rng.IntN(10) == 0 {
			m.noError(m.s.Outbox().Remove(m.Context(), m.endpoint))
			m.events, m.letters, m.matched, m.delivered, m.dropped = nil, nil, 0, 0, 0
		}
	}
}

func (m *outboxModel) add(data string) { m.events = append(m.events, modelEvent{data: data}) }

func (m *outboxModel) enqueue() {
	var (
		ops  []store.Op
		want []store.Result
	)
	for range 1 + m.rng.IntN(5) {
		m.count++
		op := event(m.endpoint, fmt.Sprint("event ", m.count))
		if m.rng.IntN(2) == 0 {
			op.Event.MaxEntries = 1 + m.rng.IntN(20)
		}
		if m.rng.IntN(4) == 0 {
			op.Event.MaxBytes = int64(1 + m.rng.IntN(200))
		}
		m.matched++
		e := op.Event
		if e.MaxEntries > 0 && len(m.events) >= e.MaxEntries || e.MaxBytes > 0 && size(m.events)+int64(len(e.Data)) > e.MaxBytes {
			m.dropped++
			want = append(want, store.Refused)
		} else {
			m.add(string(e.Data))
			want = append(want, store.Done)
		}
		ops = append(ops, op)
	}
	for i, op := range m.commit(ops...) {
		equal(m.harness, "enqueue", op.Result, want[i])
	}
}

func size(events []modelEvent) (n int64) {
	for i := range events {
		n += int64(len(events[i].data))
	}
	return n
}

// same compares what the store gave out with what it should, and learns ids.
func (m *outboxModel) same(what string, got []store.Taken, want []*modelEvent, again func(e *modelEvent) bool) {
	m.Helper()
	var data []string
	for _, e := range want {
		d := e.data
		if again(e) {
			d += "!"
		}
		data = append(data, d)
	}
	m.taken(what, got, data...)
	for i, e := range want {
		if i < len(got) {
			e.id = got[i].ID
		}
	}
}

func (m *outboxModel) takeSome(consumer string) {
	limit := m.rng.IntN(6)
	var orphans, fresh []*modelEvent
	for i := range m.events {
		switch e := &m.events[i]; {
		case e.holder == "":
			fresh = append(fresh, e)
		case e.holder != consumer && !m.alive[e.holder]:
			orphans = append(orphans, e)
		}
	}
	want := append(orphans, fresh...)
	want = want[:min(limit, len(want))]
	got := m.take(m.endpoint, consumer, limit)
	// Orphans come first, so what was taken may be in two parts.
	n := min(len(orphans), len(want), len(got))
	again := func(e *modelEvent) bool { return e.holder != "" || e.again }
	m.same("orphans", got[:n], want[:n], again)
	m.same("taken", got[n:], want[n:], again)
	for _, e := range want {
		e.holder = consumer
	}
}

func (m *outboxModel) resumeSome(consumer string) {
	limit := m.rng.IntN(6)
	var after store.EventID
	var want []*modelEvent
	for i := range m.events {
		if e := &m.events[i]; e.holder == consumer {
			if after.IsZero() && m.rng.IntN(4) == 0 {
				after, want = e.id, nil
			} else {
				want = append(want, e)
			}
		}
	}
	got := m.resume(m.endpoint, consumer, after, limit)
	m.same("resumed", got, want[:min(limit, len(want))], func(*modelEvent) bool { return true })
}

// someEvents returns ids of events that were taken, and of one that never was there.
func (m *outboxModel) someEvents() (ids []store.EventID) {
	for _, e := range m.events {
		if !e.id.IsZero() && m.rng.IntN(3) == 0 {
			ids = append(ids, e.id)
		}
	}
	m.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return append(ids, store.EventID{Generation: 1, Seq: 1 << 30})
}

func (m *outboxModel) someLetters() (ids []store.EventID) {
	for _, e := range m.letters {
		if m.rng.IntN(3) == 0 {
			ids = append(ids, e.id)
		}
	}
	return append(ids, store.EventID{Generation: 1, Seq: 1 << 30})
}

// remove takes an event out of a list.
func remove(events *[]modelEvent, id store.EventID) (modelEvent, bool) {
	i := slices.IndexFunc(*events, func(e modelEvent) bool { return e.id == id })
	if i < 0 {
		return modelEvent{}, false
	}
	e := (*events)[i]
	*events = slices.Delete(*events, i, i+1)
	return e, true
}

func (m *outboxModel) finish() {
	ids := m.someEvents()
	m.noError(m.s.Outbox().Done(m.Context(), m.endpoint, append(ids, ids[0])))
	for _, id := range ids {
		if _, ok := remove(&m.events, id); ok {
			m.delivered++
		}
	}
}

// give gives some events up.
func (m *outboxModel) give() {
	var dead []store.Dead
	for _, id := range m.someEvents() {
		dead = append(dead, store.Dead{ID: id, Reason: "model", At: m.now})
		if e, ok := remove(&m.events, id); ok {
			m.letters = append(m.letters, e)
		}
	}
	slices.SortFunc(m.letters, func(a, b modelEvent) int {
		if a.id.Less(b.id) {
			return -1
		}
		return 1
	})
	most := m.rng.IntN(10)
	want := max(0, len(m.letters)-most)
	m.letters = slices.Delete(m.letters, 0, want)
	m.dropped += uint64(want)
	dropped, err := m.s.Outbox().Bury(m.Context(), m.endpoint, dead, most)
	m.noError(err)
	equal(m.harness, "dropped for others", dropped, want)
}

func (m *outboxModel) compare() {
	want := store.OutboxState{
		Dead: uint64(len(m.letters)), Bytes: uint64(size(m.events)), DeadBytes: uint64(size(m.letters)),
		Matched: m.matched, Delivered: m.delivered, Dropped: m.dropped,
	}
	for _, e := range m.events {
		if e.holder == "" {
			want.Queued++
		} else {
			want.Taken++
		}
	}
	equal(m.harness, "state", counts(m.state(m.endpoint)), counts(want))
	letters := m.harness.letters(m.endpoint, store.EventID{}, noLimit)
	equal(m.harness, "number of letters", len(letters), len(m.letters))
	for i := range min(len(letters), len(m.letters)) {
		equal(m.harness, "letter", string(letters[i].Data), m.letters[i].data)
		equal(m.harness, "id of a letter", letters[i].ID, m.letters[i].id)
	}
}
