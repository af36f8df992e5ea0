package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"loopmq/store"
)

// event returns an OpEnqueue without bounds.
func event(endpoint, data string) store.Op {
	return store.Op{Kind: store.OpEnqueue, Event: &store.Event{Endpoint: endpoint, Data: []byte(data)}}
}

// put enqueues events, which have to be Done.
func (h *harness) put(endpoint string, data ...string) {
	h.Helper()
	var ops []store.Op
	for _, d := range data {
		ops = append(ops, event(endpoint, d))
	}
	for _, op := range h.commit(ops...) {
		equal(h, "enqueue", op.Result, store.Done)
	}
}

// alive has consumers live for as long as a test.
func (h *harness) alive(consumers ...string) {
	h.Helper()
	for _, c := range consumers {
		h.noError(h.s.Outbox().Renew(h.Context(), c, time.Hour))
	}
}

func (h *harness) take(endpoint, consumer string, limit int) []store.Taken {
	h.Helper()
	taken, err := h.s.Outbox().Take(h.Context(), endpoint, consumer, limit, 0)
	h.noError(err)
	return taken
}

func (h *harness) resume(endpoint, consumer string, after store.EventID, limit int) []store.Taken {
	h.Helper()
	taken, err := h.s.Outbox().Resume(h.Context(), endpoint, consumer, after, limit, 0)
	h.noError(err)
	return taken
}

// taken checks what was taken, in its order; data of events that are Again end with !.
func (h *harness) taken(what string, got []store.Taken, want ...string) {
	h.Helper()
	data := []string{}
	for i, e := range got {
		d := string(e.Data)
		if e.Again {
			d += "!"
		}
		data = append(data, d)
		if i > 0 && !got[i-1].ID.Less(e.ID) {
			h.Errorf("%s: id %v after %v", what, e.ID, got[i-1].ID)
		}
		if e.Enqueued.Before(h.in(-60)) || e.Enqueued.After(h.in(60)) {
			h.Errorf("%s: enqueued %v, started %v", what, e.Enqueued, h.now)
		}
	}
	equal(h, what, data, append([]string{}, want...))
}

func idsOf(taken []store.Taken) []store.EventID {
	var ids []store.EventID
	for _, e := range taken {
		ids = append(ids, e.ID)
	}
	return ids
}

func (h *harness) done(endpoint string, taken ...store.Taken) {
	h.Helper()
	h.noError(h.s.Outbox().Done(h.Context(), endpoint, idsOf(taken)))
}

// bury gives events up and returns how many dead letters were dropped.
func (h *harness) bury(endpoint string, most int, taken ...store.Taken) int {
	h.Helper()
	var dead []store.Dead
	for i, e := range taken {
		dead = append(dead, store.Dead{ID: e.ID, Reason: "status 400, gone: " + string(e.Data), Status: 400, Attempts: 3 + i, At: h.in(5)})
	}
	dropped, err := h.s.Outbox().Bury(h.Context(), endpoint, dead, most)
	h.noError(err)
	return dropped
}

func (h *harness) letters(endpoint string, after store.EventID, limit int) []store.Dead {
	h.Helper()
	dead, err := h.s.Outbox().Dead(h.Context(), endpoint, after, limit)
	h.noError(err)
	return dead
}

// state returns what an outbox holds, and checks that it adds up.
func (h *harness) state(endpoint string) store.OutboxState {
	h.Helper()
	st, err := h.s.Outbox().State(h.Context(), endpoint)
	h.noError(err)
	if sum := st.Delivered + st.Queued + st.Taken + st.Dead + st.Dropped; st.Matched != sum {
		h.Errorf("%d events matched, but %d are somewhere: %+v", st.Matched, sum, st)
	}
	if st.Oldest.IsZero() != (st.Queued+st.Taken == 0) {
		h.Errorf("the oldest of %+v", st)
	}
	return st
}

func (h *harness) replay(endpoint string, ids ...store.EventID) int {
	h.Helper()
	n, err := h.s.Outbox().Replay(h.Context(), endpoint, ids)
	h.noError(err)
	return n
}

func (h *harness) drop(endpoint string, ids ...store.EventID) int {
	h.Helper()
	n, err := h.s.Outbox().Drop(h.Context(), endpoint, ids)
	h.noError(err)
	return n
}

// counts is a state without times, in the order of the sum.
func counts(st store.OutboxState) string {
	return fmt.Sprintf("matched %d delivered %d queued %d taken %d dead %d dropped %d, bytes %d dead %d",
		st.Matched, st.Delivered, st.Queued, st.Taken, st.Dead, st.Dropped, st.Bytes, st.DeadBytes)
}

var outboxTests = []test{
	{"events are taken once, in their order", func(h *harness) {
		h.alive("a", "b")
		h.put("e", "1", "2", "3", "4", "5")
		h.taken("a", h.take("e", "a", 2), "1", "2")
		h.taken("b", h.take("e", "b", 2), "3", "4")
		h.taken("a again", h.take("e", "a", 10), "5")
		h.taken("nothing is left", h.take("e", "b", 10))
		h.put("e", "6")
		h.taken("a new one", h.take("e", "b", 10), "6")
		h.taken("no place", h.take("e", "b", 0))
	}},
	{"an outbox nobody knows is empty", func(h *harness) {
		h.taken("take", h.take("none", "a", 10))
		h.taken("resume", h.resume("none", "a", store.EventID{}, 10))
		id := store.Taken{ID: store.EventID{Generation: 1, Seq: 1}}
		h.done("none", id)
		equal(h, "dropped", h.bury("none", 10, id), 0)
		equal(h, "dead", len(h.letters("none", store.EventID{}, 10)), 0)
		equal(h, "replayed", h.replay("none", id.ID), 0)
		equal(h, "dropped", h.drop("none", id.ID), 0)
		equal(h, "state", h.state("none"), store.OutboxState{})
		h.noError(h.s.Outbox().Remove(h.Context(), "none"))
		h.endpoints()
	}},
	{"outboxes have names of any kind", func(h *harness) {
		names := []string{"a", "a b", "{c}", "d:e/f", "é%7B", strings.Repeat("long", 50)}
		for _, name := range names {
			h.put(name, "of "+name)
		}
		h.endpoints(slices.Sorted(slices.Values(names))...)
		for _, name := range names {
			h.taken(name, h.take(name, "consumer {1}", 10), "of "+name)
		}
	}},
	{"data may be anything", func(h *harness) {
		data := []string{"", "\x00\xff\r\n", "12:34 5", strings.Repeat("x", 70_000)}
		h.put("e", data...)
		h.alive("a")
		taken := h.take("e", "a", 10)
		h.taken("taken", taken, data...)
		h.bury("e", 10, taken...)
		for i, d := range h.letters("e", store.EventID{}, 10) {
			equal(h, "data of a dead letter", string(d.Data), data[i])
		}
		h.replay("e", idsOf(taken)...)
		h.taken("replayed", h.take("e", "a", 10), data...)
	}},
	{"Take stops at a size", func(h *harness) {
		h.alive("a", "b")
		h.put("e", strings.Repeat("1", 100), strings.Repeat("2", 100), strings.Repeat("3", 100), strings.Repeat("4", 1000), "5")
		of := func(consumer string, maxBytes, want int) {
			h.Helper()
			taken, err := h.s.Outbox().Take(h.Context(), "e", consumer, 10, maxBytes)
			h.noError(err)
			equal(h, "events", len(taken), want)
		}
		of("a", 200, 2)
		of("a", 1050, 1)
		of("a", 10, 1) // larger than allowed
		h.noError(h.s.Outbox().Renew(h.Context(), "a", 0))
		of("b", 250, 2) // of what a dead consumer holds
		of("b", 250, 1)
		of("b", 10_000, 2) // both kinds
	}},
	{"Resume stops at a size", func(h *harness) {
		h.alive("a")
		h.put("e", strings.Repeat("1", 100), strings.Repeat("2", 100), strings.Repeat("3", 1000))
		all := h.take("e", "a", 10)
		for i, tt := range []struct{ maxBytes, want int }{{10, 1}, {200, 2}, {1199, 2}, {1200, 3}, {0, 3}} {
			got, err := h.s.Outbox().Resume(h.Context(), "e", "a", store.EventID{}, 10, tt.maxBytes)
			h.noError(err)
			equal(h, fmt.Sprint("events of case ", i), idsOf(got), idsOf(all[:tt.want]))
		}
	}},
	{"an endpoint that is disabled is noted", func(h *harness) {
		h.noError(h.s.Outbox().Disable(h.Context(), "e", "410 Gone"))
		equal(h, "state", h.state("e"), store.OutboxState{Disabled: "410 Gone"})
		h.endpoints("e")
		h.put("e", "1")
		h.taken("taken", h.take("e", "a", 1), "1")
		equal(h, "disabled", h.state("e").Disabled, "410 Gone")
		h.noError(h.s.Outbox().Disable(h.Context(), "e", ""))
		equal(h, "disabled", h.state("e").Disabled, "")
	}},
	{"a consumer goes on with what it had taken", func(h *harness) {
		h.alive("a", "b")
		h.put("e", "1", "2", "3", "4", "5")
		h.take("e", "a", 1)
		h.take("e", "b", 1)
		h.take("e", "a", 3)
		first := h.resume("e", "a", store.EventID{}, 2)
		h.taken("first", first, "1!", "3!")
		h.taken("rest", h.resume("e", "a", first[1].ID, 10), "4!", "5!")
		h.done("e", first[1])
		all := h.resume("e", "a", store.EventID{}, 10)
		h.taken("all", all, "1!", "4!", "5!")
		h.taken("another", h.resume("e", "b", store.EventID{}, 10), "2!")
		h.taken("behind the last", h.resume("e", "a", all[2].ID, 10))
		h.taken("a stranger", h.resume("e", "c", store.EventID{}, 10))
	}},
	{"what a dead consumer held goes to others, oldest first", func(h *harness) {
		h.alive("a", "b", "c")
		h.put("e", "1", "2", "3", "4", "5", "6", "7")
		h.take("e", "a", 1)
		h.take("e", "b", 2)
		h.take("e", "c", 1)
		h.take("e", "a", 1)
		h.taken("they live", h.take("e", "d", 0))
		h.noError(h.s.Outbox().Renew(h.Context(), "a", 0))
		h.noError(h.s.Outbox().Renew(h.Context(), "b", -time.Second))
		h.alive("d", "e")
		equal(h, "before", counts(h.state("e")), "matched 7 delivered 0 queued 2 taken 5 dead 0 dropped 0, bytes 7 dead 0")
		h.taken("first", h.take("e", "d", 2), "1!", "2!")
		h.taken("both kinds", h.take("e", "e", 3), "3!", "5!", "6")
		h.taken("rest", h.take("e", "d", 3), "7")
		equal(h, "after", counts(h.state("e")), "matched 7 delivered 0 queued 0 taken 7 dead 0 dropped 0, bytes 7 dead 0")
		h.taken("it has nothing any more", h.resume("e", "a", store.EventID{}, 10))
		h.taken("they have", h.resume("e", "d", store.EventID{}, 10), "1!", "2!", "7!")
	}},
	{"a consumer is dead when it doesn't renew", func(h *harness) {
		h.put("e", "1")
		h.noError(h.s.Outbox().Renew(h.Context(), "a", 50*time.Millisecond))
		h.taken("first", h.take("e", "a", 1), "1")
		h.alive("b")
		var taken []store.Taken
		h.eventually("the consumer dies", func() bool {
			taken = h.take("e", "b", 1)
			return len(taken) > 0
		})
		h.taken("second", taken, "1!")
	}},
	{"a consumer that renews again lives", func(h *harness) {
		h.alive("a", "b")
		h.put("e", "1")
		h.take("e", "a", 1)
		h.noError(h.s.Outbox().Renew(h.Context(), "a", 0))
		h.alive("a")
		h.taken("it lives", h.take("e", "b", 1))
		h.taken("and has it", h.resume("e", "a", store.EventID{}, 1), "1!")
	}},
	{"its own events are nothing new for a consumer that is dead", func(h *harness) {
		h.put("e", "1", "2")
		h.taken("first", h.take("e", "a", 1), "1")
		h.taken("second", h.take("e", "a", 10), "2")
		h.taken("nothing", h.take("e", "a", 10))
	}},
	{"Done counts once, whoever had it", func(h *harness) {
		h.alive("a", "b")
		h.put("e", "1", "2", "3")
		taken := h.take("e", "a", 2)
		h.done("e", taken...)
		h.done("e", taken...)
		equal(h, "state", counts(h.state("e")), "matched 3 delivered 2 queued 1 taken 0 dead 0 dropped 0, bytes 1 dead 0")
		// Another has taken it over, and both deliver it.
		late := h.take("e", "a", 1)
		h.noError(h.s.Outbox().Renew(h.Context(), "a", 0))
		h.taken("over", h.take("e", "b", 1), "3!")
		h.done("e", late[0], late[0])
		h.done("e", late...)
		equal(h, "state", counts(h.state("e")), "matched 3 delivered 3 queued 0 taken 0 dead 0 dropped 0, bytes 0 dead 0")
		h.taken("none is left", h.resume("e", "b", store.EventID{}, 10))
	}},
	{"an outbox has bounds", func(h *harness) {
		op := event("e", "12345")
		op.Event.MaxEntries = 2
		got := []store.Result{}
		for _, op := range h.commit(op, op, op) {
			got = append(got, op.Result)
		}
		equal(h, "by number", got, []store.Result{store.Done, store.Done, store.Refused})
		equal(h, "by number", h.result(op), store.Refused)
		op.Event = &store.Event{Endpoint: "e", Data: []byte("123"), MaxBytes: 12}
		equal(h, "by bytes", h.result(op), store.Refused)
		op.Event.Data = []byte("12")
		equal(h, "by bytes", h.result(op), store.Done)
		op.Event = &store.Event{Endpoint: "e", MaxBytes: 12}
		equal(h, "no bytes", h.result(op), store.Done)
		equal(h, "state", counts(h.state("e")), "matched 7 delivered 0 queued 4 taken 0 dead 0 dropped 3, bytes 12 dead 0")
		// What is taken is in the outbox still; dead letters are not.
		h.alive("a")
		taken := h.take("e", "a", 10)
		op.Event = &store.Event{Endpoint: "e", MaxEntries: 4}
		equal(h, "all taken", h.result(op), store.Refused)
		h.bury("e", 10, taken[0])
		equal(h, "one buried", h.result(op), store.Done)
		h.done("e", taken[1])
		equal(h, "one done", h.result(op), store.Done)
		h.replay("e", taken[0].ID)
		equal(h, "state", counts(h.state("e")), "matched 10 delivered 1 queued 3 taken 2 dead 0 dropped 4, bytes 7 dead 0")
	}},
	{"dead letters", func(h *harness) {
		h.alive("a")
		h.put("e", "1", "22", "333", "4444")
		taken := h.take("e", "a", 10)
		equal(h, "dropped", h.bury("e", 10, taken[2]), 0)
		equal(h, "dropped", h.bury("e", 10, taken[0], taken[2]), 0) // the second is one already
		dead := h.letters("e", store.EventID{}, 10)
		equal(h, "letters", len(dead), 2)
		d := dead[0]
		if !d.At.Equal(h.in(5)) {
			h.Errorf("At: got %v, want %v", d.At, h.in(5))
		}
		d.At = time.Time{}
		equal(h, "the first", d, store.Dead{ID: taken[0].ID, Data: []byte("1"), Reason: "status 400, gone: 1", Status: 400, Attempts: 3})
		equal(h, "the second", string(dead[1].Data), "333")
		equal(h, "page", len(h.letters("e", taken[0].ID, 10)), 1)
		equal(h, "page", len(h.letters("e", taken[2].ID, 10)), 0)
		equal(h, "page", string(h.letters("e", store.EventID{}, 1)[0].Data), "1")
		equal(h, "state", counts(h.state("e")), "matched 4 delivered 0 queued 0 taken 2 dead 2 dropped 0, bytes 6 dead 4")
		h.done("e", taken[0])
		equal(h, "replayed", h.replay("e", taken[0].ID, taken[0].ID, taken[1].ID), 1)
		again := h.take("e", "a", 10)
		h.taken("replayed", again, "1")
		if !taken[3].ID.Less(again[0].ID) {
			h.Errorf("replayed as %v, not behind %v", again[0].ID, taken[3].ID)
		}
		equal(h, "dropped", h.drop("e", taken[2].ID, taken[2].ID, taken[1].ID), 1)
		equal(h, "state", counts(h.state("e")), "matched 4 delivered 0 queued 0 taken 3 dead 0 dropped 1, bytes 7 dead 0")
	}},
	{"the oldest dead letters make room", func(h *harness) {
		h.alive("a")
		h.put("e", "1", "2", "3", "4", "5")
		taken := h.take("e", "a", 10)
		equal(h, "dropped", h.bury("e", 2, taken[1], taken[2], taken[3]), 1)
		equal(h, "dropped", h.bury("e", 2, taken[0]), 1) // the oldest of all
		dead := h.letters("e", store.EventID{}, 10)
		equal(h, "left", []store.EventID{dead[0].ID, dead[1].ID}, idsOf(taken[2:4]))
		equal(h, "dropped", h.bury("e", 0, taken[4]), 3)
		equal(h, "state", counts(h.state("e")), "matched 5 delivered 0 queued 0 taken 0 dead 0 dropped 5, bytes 0 dead 0")
	}},
	{"an outbox that was removed begins anew", func(h *harness) {
		h.alive("a")
		h.put("e", "1", "2", "3")
		h.put("f", "4")
		taken := h.take("e", "a", 3)
		h.bury("e", 10, taken[0])
		h.noError(h.s.Outbox().Remove(h.Context(), "e"))
		h.endpoints("f")
		equal(h, "state", h.state("e"), store.OutboxState{})
		equal(h, "dead", len(h.letters("e", store.EventID{}, 10)), 0)
		h.put("e", "5")
		h.done("e", taken...) // too late, and of another outbox
		equal(h, "state", counts(h.state("e")), "matched 1 delivered 0 queued 1 taken 0 dead 0 dropped 0, bytes 1 dead 0")
		fresh := h.take("e", "a", 10)
		h.taken("new", fresh, "5")
		if !taken[2].ID.Less(fresh[0].ID) {
			h.Errorf("id %v after %v", fresh[0].ID, taken[2].ID)
		}
		h.taken("the other", h.take("f", "a", 10), "4")
	}},
	{"an event goes with its publication", func(h *harness) {
		se := h.session("c")
		hold := publish("held", store.QueueOf(se.ID))
		hold.Session, hold.Epoch, hold.PacketID = se.ID, se.Epoch, 1
		with := event("e", "of the publication")
		with.IfPublished = true
		ops := h.commit(hold, with)
		equal(h, "publish", ops[0].Result, store.Done)
		equal(h, "event", ops[1].Result, store.Done)
		// The client sends it again: it is not published again.
		ops = h.commit(hold, with, event("e", "of nothing"), with)
		equal(h, "publish again", ops[0].Result, store.Duplicate)
		equal(h, "event again", ops[1].Result, store.Duplicate)
		equal(h, "another event", ops[2].Result, store.Done)
		equal(h, "event again", ops[3].Result, store.Duplicate)
		ops = h.commit(hold, publish("of no one"), with)
		equal(h, "event of another", ops[2].Result, store.Done)
		ops = h.commit(with)
		equal(h, "event alone", ops[0].Result, store.Done)
		equal(h, "state", counts(h.state("e")), "matched 4 delivered 0 queued 4 taken 0 dead 0 dropped 0, bytes 64 dead 0")
	}},
	{"a batch that is committed again enqueues once", func(h *harness) {
		b := &store.Batch{Ops: []store.Op{event("e", "1"), event("e", "2")}}
		refused := event("e", "3")
		refused.Event.MaxEntries = 1
		b.Add(refused)
		for range 3 {
			h.noError(h.w.Commit(h.Context(), b))
			equal(h, "result", b.Ops[1].Result, store.Done)
			equal(h, "result of the refused", b.Ops[2].Result, store.Refused)
		}
		equal(h, "state", counts(h.state("e")), "matched 3 delivered 0 queued 2 taken 0 dead 0 dropped 1, bytes 2 dead 0")
	}},
	{"who waits for events is told", func(h *harness) {
		h.alive("a")
		news := h.s.Outbox().Notify("e")
		equal(h, "channel", h.s.Outbox().Notify("e"), news)
		h.told("to begin with", news)
		h.told("of another", h.s.Outbox().Notify("f"))
		h.put("e", "1", "2", "3")
		h.told("of events", news)
		taken := h.take("e", "a", 10)
		h.bury("e", 10, taken[0])
		h.drain(news)
		h.replay("e", taken[0].ID)
		h.told("of a replay", news)
		select {
		case <-h.s.Outbox().Notify("f"):
			h.Errorf("told of events in another outbox")
		default:
		}
	}},
	{"consumers share an outbox", func(h *harness) {
		const consumers, events = 4, 400
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex
			seen = map[string]int{}
		)
		for i := range consumers {
			name := fmt.Sprint("consumer", i)
			h.alive(name)
			wg.Go(func() {
				for {
					taken, err := h.s.Outbox().Take(h.Context(), "e", name, 7, 0)
					if err != nil {
						h.Error(err)
						return
					}
					if err := h.s.Outbox().Done(h.Context(), "e", idsOf(taken)); err != nil {
						h.Error(err)
						return
					}
					mu.Lock()
					for _, e := range taken {
						seen[string(e.Data)]++
					}
					all := len(seen) == events
					mu.Unlock()
					if all {
						return
					}
				}
			})
		}
		for i := range events / 4 {
			h.put("e", fmt.Sprint(4*i), fmt.Sprint(4*i+1), fmt.Sprint(4*i+2), fmt.Sprint(4*i+3))
		}
		wg.Wait()
		for data, n := range seen {
			equal(h, "times that "+data+" was taken", n, 1)
		}
		st := h.state("e")
		equal(h, "delivered", st.Delivered, uint64(events))
	}},
	{"the oldest event is known", func(h *harness) {
		h.alive("a")
		h.put("e", "1", "2")
		first := h.take("e", "a", 1)
		st := h.state("e")
		if !st.Oldest.Equal(first[0].Enqueued) {
			h.Errorf("oldest: got %v, want %v", st.Oldest, first[0].Enqueued)
		}
		h.done("e", first...)
		second := h.take("e", "a", 1)
		if st := h.state("e"); !st.Oldest.Equal(second[0].Enqueued) {
			h.Errorf("oldest: got %v, want %v", st.Oldest, second[0].Enqueued)
		}
	}},
}

// told waits until a channel has a value.
func (h *harness) told(what string, c <-chan struct{}) {
	h.Helper()
	select {
	case <-c:
	case <-time.After(5 * time.Second):
		h.Errorf("not told %s", what)
	}
}

// drain takes a value from a channel if it has one.
func (h *harness) drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// eventually waits until something is so.
func (h *harness) eventually(what string, f func() bool) {
	h.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !f() {
		select {
		case <-deadline.C:
			h.Fatalf("not in time: %s", what)
		case <-ticker.C:
		}
	}
}

// endpoints checks which outboxes there are.
func (h *harness) endpoints(want ...string) {
	h.Helper()
	got, err := h.s.Outbox().Endpoints(h.Context())
	h.noError(err)
	equal(h, "endpoints", append([]string{}, got...), append([]string{}, want...))
}
