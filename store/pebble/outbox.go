package pebble

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"loopmq/store"
	"loopmq/store/local"
)

type outboxView struct{ *Store }

// outbox is what is known of one endpoint's events. Which of them are taken ends with
// the process; the rest is in its record, which each step that changes it writes.
type outbox struct {
	endpoint string
	number   uint64 // names its keys
	book     local.Book
	// front is not behind the first event: what was deleted before it needn't be
	// passed by each read.
	front store.EventID
	// former is the last event that the process before may have had: whoever gets one
	// up to here gets it again.
	former store.EventID
	commit uint64 // that brought the last event
	saving bool   // in tx.boxes
	behind bool   // the record is not as it is here, and nobody writes it

	// The record.
	live, bytes                 uint64
	dead, deadBytes             uint64
	matched, delivered, dropped uint64
	disabled                    string // why; empty: it isn't
}

// readOutboxes reads all outboxes when the store is opened.
func (s *Store) readOutboxes() error {
	former := s.eventID(s.ids.last)
	return each(s.db, []byte{keyOutbox}, []byte{keyOutbox + 1}, func(key, value []byte) (bool, error) {
		o := &outbox{endpoint: string(key[1:]), former: former}
		r := readRecord(value)
		o.number = r.fixed()
		for _, n := range o.counts() {
			*n = r.uint()
		}
		o.disabled = r.string()
		s.outboxes[o.endpoint] = o
		return true, r.err()
	})
}

// counts are the numbers of the record in their order.
func (o *outbox) counts() [7]*uint64 {
	return [...]*uint64{&o.live, &o.bytes, &o.dead, &o.deadBytes, &o.matched, &o.delivered, &o.dropped}
}

// changed has the record written with this step.
func (t *tx) changed(o *outbox) {
	if !o.saving {
		o.saving = true
		t.boxes = append(t.boxes, o)
	}
}

// finishBoxes writes the records that have changed: once a step, however many events it
// has brought.
func (t *tx) finishBoxes() {
	for _, o := range t.boxes {
		o.saving, o.behind = false, false
		if t.s.outboxes[o.endpoint] != o { // removed
			continue
		}
		t.value = newRecord(t.value)
		t.value.fixed(o.number)
		for _, n := range o.counts() {
			t.value.uint(*n)
		}
		t.value.string(o.disabled)
		t.set(keyString(t.key, keyOutbox, o.endpoint), t.value)
	}
	clear(t.boxes)
	t.boxes = t.boxes[:0]
}

// eventID makes an id an event's.
func (s *Store) eventID(id uint64) store.EventID {
	return store.EventID{Generation: id >> idBits, Seq: id & (1<<idBits - 1)}
}

// enqueue does OpEnqueue. Below the reserve nothing is written: that events were
// dropped is then known in memory, until the record is written for something else.
func (t *tx) enqueue(e *store.Event) store.Result {
	o := t.outbox(e.Endpoint)
	o.matched++
	size := len(e.Data)
	if !t.fits(size, 0) {
		o.dropped++
		if t.full {
			o.behind = true
		} else {
			t.changed(o)
		}
		return store.Full
	}
	t.changed(o)
	if e.MaxEntries > 0 && o.live >= uint64(e.MaxEntries) || e.MaxBytes > 0 && o.bytes+uint64(size) > uint64(e.MaxBytes) {
		o.dropped++
		return store.Refused
	}
	t.addEvent(o, e.Data)
	return store.Done
}

// outbox returns that of an endpoint, which may come into being here.
func (t *tx) outbox(endpoint string) *outbox {
	o := t.s.outboxes[endpoint]
	if o == nil {
		o = &outbox{endpoint: endpoint, number: t.nextID()}
		t.s.outboxes[endpoint] = o
	}
	return o
}

// addEvent appends an event.
func (t *tx) addEvent(o *outbox, data []byte) {
	t.key = eventKey(t.key, keyEvent, o.number, t.s.eventID(t.nextID()))
	t.value = newRecord(t.value)
	t.value.time(t.s.now())
	t.value = append(t.value, data...)
	t.set(t.key, t.value)
	o.live++
	o.bytes += uint64(len(data))
	t.s.used += len(data)
	o.commit = t.s.commit + 1
	t.changed(o)
	t.s.bell.Ring(o.endpoint)
}

// readEvent returns an event. It shares nothing with value.
func readEvent(id store.EventID, value []byte) (store.Taken, error) {
	r := readRecord(value)
	e := store.Taken{ID: id, Enqueued: r.time()}
	e.Data = bytes.Clone(r.b)
	return e, r.err()
}

// event returns an event that is in the outbox.
func (t *tx) event(o *outbox, id store.EventID) (e store.Taken, ok bool) {
	t.key = eventKey(t.key, keyEvent, o.number, id)
	ok = t.get(t.key, func(value []byte) (err error) {
		e, err = readEvent(id, value)
		return err
	})
	return e, ok
}

// events calls f with the events from an id on, until f returns false.
func (t *tx) events(o *outbox, from store.EventID, f func(e store.Taken) bool) {
	t.each(eventKey(nil, keyEvent, o.number, from), after(key1(nil, keyEvent, o.number)), func(key, value []byte) (bool, error) {
		e, err := readEvent(store.EventID(numberOf(key)), value)
		return err == nil && f(e), err
	})
}

// removeEvent takes an event out.
func (t *tx) removeEvent(o *outbox, e *store.Taken) {
	o.book.Finish(e.ID)
	o.live--
	o.bytes -= uint64(len(e.Data))
	t.s.used -= len(e.Data)
	t.key = eventKey(t.key, keyEvent, o.number, e.ID)
	t.deleteOnce(t.key)
	t.changed(o)
}

// takenBytes bounds how much data is read at a time.
const takenBytes = 1 << 20

func boundBytes(maxBytes int) int {
	if maxBytes <= 0 {
		return takenBytes
	}
	return min(maxBytes, takenBytes)
}

// Take reads under the lock, so that no two consumers get the same. What is not durable
// yet is not given out.
func (v outboxView) Take(_ context.Context, endpoint, consumer string, limit, maxBytes int) (taken []store.Taken, err error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	var commit uint64
	maxBytes = boundBytes(maxBytes)
	err = v.look(func(t *tx) {
		o := v.outboxes[endpoint]
		if o == nil || limit <= 0 {
			return
		}
		commit = o.commit
		size := 0
		take := func(e store.Taken) bool {
			if size += len(e.Data); len(taken) > 0 && size > maxBytes {
				return false
			}
			o.book.Take(e.ID, consumer)
			taken = append(taken, e)
			return len(taken) < limit
		}
		for _, id := range o.book.Orphans(v.consumers, consumer, v.now(), limit) {
			e, ok := t.event(o, id)
			if !ok {
				return
			}
			e.Again = true
			if !take(e) {
				return
			}
		}
		from := o.book.Last()
		from.Seq++
		if from.Less(o.front) {
			from = o.front
		}
		t.events(o, from, func(e store.Taken) bool {
			e.Again = !o.former.Less(e.ID)
			return take(e)
		})
	})
	if err == nil {
		err = v.waitSynced(commit)
	}
	return taken, err
}

func (v outboxView) Resume(_ context.Context, endpoint, consumer string, after store.EventID, limit, maxBytes int) (taken []store.Taken, err error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	maxBytes = boundBytes(maxBytes)
	err = v.look(func(t *tx) {
		o := v.outboxes[endpoint]
		if o == nil {
			return
		}
		size := 0
		for _, id := range o.book.Held(consumer, after, limit) {
			e, ok := t.event(o, id)
			if !ok {
				return
			}
			if size += len(e.Data); len(taken) > 0 && size > maxBytes {
				return
			}
			e.Again = true
			taken = append(taken, e)
		}
	})
	return taken, err
}

func (v outboxView) Renew(_ context.Context, consumer string, ttl time.Duration) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.consumers.Renew(consumer, v.now(), ttl)
	return nil
}

// change runs f on an outbox as one step, if there is the outbox and the room.
func (v outboxView) change(endpoint string, needed space, f func(t *tx, o *outbox)) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	if err := v.room().check(needed); err != nil {
		return err
	}
	return v.step(func(t *tx) {
		if o := v.outboxes[endpoint]; o != nil {
			f(t, o)
		}
	})
}

func (v outboxView) Done(_ context.Context, endpoint string, ids []store.EventID) error {
	return v.change(endpoint, roomToDelete, func(t *tx, o *outbox) {
		for _, id := range ids {
			if e, ok := t.event(o, id); ok {
				t.removeEvent(o, &e)
				o.delivered++
			}
		}
	})
}

func (v outboxView) Bury(_ context.Context, endpoint string, dead []store.Dead, limit int) (dropped int, err error) {
	err = v.change(endpoint, roomForSmall, func(t *tx, o *outbox) {
		for i := range dead {
			d := dead[i]
			e, ok := t.event(o, d.ID)
			if !ok {
				continue
			}
			d.Data = e.Data
			t.removeEvent(o, &e)
			t.key = eventKey(t.key, keyLetter, o.number, d.ID)
			t.value = newRecord(t.value)
			t.value.letter(&d)
			t.set(t.key, t.value)
			o.dead++
			o.deadBytes += uint64(len(d.Data))
			t.s.used += len(d.Data)
		}
		if more := int(o.dead) - max(limit, 0); more > 0 {
			for _, d := range t.letters(o, store.EventID{}, more) {
				t.removeLetter(o, &d)
				o.dropped++
				dropped++
			}
		}
	})
	return dropped, err
}

func (w *recordWriter) letter(d *store.Dead) {
	w.string(d.Reason)
	w.uint(uint64(d.Status))
	w.uint(uint64(d.Attempts))
	w.time(d.At)
	*w = append(*w, d.Data...)
}

func readLetter(id store.EventID, value []byte) (store.Dead, error) {
	r := readRecord(value)
	d := store.Dead{ID: id, Reason: r.string(), Status: int(r.uint()), Attempts: int(r.uint()), At: r.time()}
	d.Data = bytes.Clone(r.b)
	return d, r.err()
}

// letters returns up to limit dead letters behind an id.
func (t *tx) letters(o *outbox, behind store.EventID, limit int) (dead []store.Dead) {
	if limit <= 0 {
		return nil
	}
	behind.Seq++
	t.each(eventKey(nil, keyLetter, o.number, behind), after(key1(nil, keyLetter, o.number)), func(key, value []byte) (bool, error) {
		d, err := readLetter(store.EventID(numberOf(key)), value)
		dead = append(dead, d)
		return len(dead) < limit, err
	})
	return dead
}

func (t *tx) removeLetter(o *outbox, d *store.Dead) {
	o.dead--
	o.deadBytes -= uint64(len(d.Data))
	t.s.used -= len(d.Data)
	t.key = eventKey(t.key, keyLetter, o.number, d.ID)
	t.deleteOnce(t.key)
	t.changed(o)
}

func (v outboxView) Dead(_ context.Context, endpoint string, after store.EventID, limit int) (dead []store.Dead, err error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	err = v.look(func(t *tx) {
		if o := v.outboxes[endpoint]; o != nil {
			dead = t.letters(o, after, limit)
		}
	})
	return dead, err
}

func (v outboxView) Replay(_ context.Context, endpoint string, ids []store.EventID) (n int, err error) {
	err = v.change(endpoint, roomForSmall, func(t *tx, o *outbox) {
		n = t.takeLetters(o, ids, func(d *store.Dead) { t.addEvent(o, d.Data) })
	})
	return n, err
}

func (v outboxView) Drop(_ context.Context, endpoint string, ids []store.EventID) (n int, err error) {
	err = v.change(endpoint, roomToDelete, func(t *tx, o *outbox) {
		n = t.takeLetters(o, ids, func(*store.Dead) { o.dropped++ })
	})
	return n, err
}

// takeLetters takes dead letters away and calls f with each.
func (t *tx) takeLetters(o *outbox, ids []store.EventID, f func(d *store.Dead)) (n int) {
	for _, id := range ids {
		var d store.Dead
		t.key = eventKey(t.key, keyLetter, o.number, id)
		if !t.get(t.key, func(value []byte) (err error) {
			d, err = readLetter(id, value)
			return err
		}) {
			continue
		}
		t.removeLetter(o, &d)
		f(&d)
		n++
	}
	return n
}

func (v outboxView) Disable(_ context.Context, endpoint, reason string) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	if err := v.room().check(roomForSmall); err != nil {
		return err
	}
	return v.step(func(t *tx) {
		o := t.outbox(endpoint)
		o.disabled = reason
		t.changed(o)
	})
}

func (v outboxView) State(_ context.Context, endpoint string) (st store.OutboxState, err error) {
	if err := v.enter(); err != nil {
		return st, err
	}
	defer v.leave()
	err = v.look(func(t *tx) {
		o := v.outboxes[endpoint]
		if o == nil {
			return
		}
		taken := uint64(o.book.Len())
		st = store.OutboxState{
			Queued: o.live - taken, Taken: taken, Dead: o.dead, Bytes: o.bytes, DeadBytes: o.deadBytes,
			Matched: o.matched, Delivered: o.delivered, Dropped: o.dropped, Disabled: o.disabled,
		}
		if o.live > 0 {
			t.events(o, o.front, func(e store.Taken) bool {
				o.front, st.Oldest = e.ID, e.Enqueued
				return false
			})
		}
	})
	return st, err
}

func (v outboxView) Endpoints(context.Context) ([]string, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.outboxes)), nil
}

func (v outboxView) Remove(_ context.Context, endpoint string) error {
	return v.change(endpoint, roomToDelete, func(t *tx, o *outbox) {
		t.deletePrefix(key1(nil, keyEvent, o.number))
		t.deletePrefix(key1(nil, keyLetter, o.number))
		t.delete(keyString(t.key, keyOutbox, endpoint))
		t.s.used -= int(o.bytes + o.deadBytes)
		delete(t.s.outboxes, endpoint)
	})
}

func (v outboxView) Notify(endpoint string) <-chan struct{} { return v.bell.Channel(endpoint) }
